//! The private libvirtd, the agent on it, and the guests that the agent runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::process;
use crate::common::server::Server;
use crate::linux::{Console, SMALL_MIB, small_disk};
use crate::skip::Skip;
use crate::stack::Stack;
use crate::support::Scratch;

/// Longer than a loaded machine needs to boot a Linux guest without KVM.
const BOOT: Duration = Duration::from_secs(1800);
/// Boots of a guest until one succeeds.
const ATTEMPTS: usize = 5;
/// Options of the agent. Deadlines are long, so that a slow machine can be measured too.
const FLAGS: [&str; 6] =
    ["--bridge-type", "linux", "--deadline-read", "60", "--deadline-change", "240"];

/// The agent with its libvirtd and a directory for disks.
pub(crate) struct World {
    pub(crate) agent: Server,
    pub(crate) stack: Stack,
    pub(crate) files: Scratch,
}

/// A guest that has just booted.
pub(crate) struct Booted {
    /// At the login prompt.
    pub(crate) console: Console,
    /// From the start to the login prompt.
    pub(crate) time: Duration,
    /// The processor time of the emulator until then.
    pub(crate) cpu: Duration,
}

impl World {
    /// # Errors
    /// Why a private libvirtd cannot run here.
    pub(crate) fn new() -> Result<Self, Skip> {
        let (stack, files) = (Stack::start()?, Scratch::new());
        let directory = text(files.path());
        let flags = [&FLAGS[..], &["--allow-disk-path", &directory]].concat();
        Ok(Self { agent: Server::agent_inside(&stack, &flags), stack, files })
    }

    /// Returns the disk of the small Linux: a copy of the image. The guest writes nothing to the disk.
    ///
    /// # Errors
    /// Why the image cannot be made here.
    pub(crate) fn small_disk(&self) -> Result<PathBuf, Skip> {
        small_disk(&self.files)
    }

    /// Calls a method for a guest; returns the duration and the result.
    pub(crate) fn time(&self, method: &str, guest: &Value) -> (Duration, Value) {
        let begin = Instant::now();
        let result = self.agent.ask(method, guest);
        (begin.elapsed(), result)
    }

    /// Creates and runs a guest, and waits for its login prompt.
    pub(crate) fn boot(&self, guest: &Value) -> Booted {
        self.agent.ask("CreateGuest", guest);
        self.time_boot(guest["id"].as_str().expect("an id"), || drop(self.agent.ask("Run", guest)))
    }

    /// Starts a guest by `start`, and waits for its login prompt.
    pub(crate) fn time_boot(&self, id: &str, start: impl Fn()) -> Booted {
        for _ in 0..ATTEMPTS {
            eprintln!("booting {id}");
            let begin = Instant::now();
            start();
            let mut console = Console::open(&self.stack, id);
            if console.sees_prompt(BOOT) {
                let time = begin.elapsed();
                let emulator = self.stack.qemu_pid(id).expect("it runs");
                return Booted { console, time, cpu: process::cpu(emulator) };
            }
            eprintln!("the kernel of {id} panics");
            self.stack.virsh_ok(&["destroy", id]);
        }
        panic!("{id} does not boot");
    }

    /// Stops and deletes a guest.
    pub(crate) fn delete(&self, guest: &Value) {
        self.agent.ask("Poweroff", guest);
        self.agent.ask("Delete", guest);
    }
}

/// A guest on this disk with the small Linux.
pub(crate) fn small_guest(id: &str, profile: &str, disk: &Path) -> Value {
    json!({
        "id": id, "type": "qemu", "memory": SMALL_MIB, "cpu": 1, "profile": profile,
        "disks": [{ "source": disk }],
    })
}

/// A path as text.
pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("scratch paths are UTF-8").to_owned()
}

/// Runs a program, which must succeed; returns its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
