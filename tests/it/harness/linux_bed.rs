//! An agent with the disk of a real Linux guest.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::Agent;
use super::linux::{Console, SMALL_MIB, small_disk};
use super::skip::require;
use super::stack::Stack;
use super::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for what takes a second.
const SOON: Duration = Duration::from_secs(90);

/// An agent on a stack, with the disk of a real Linux guest.
pub(crate) struct Bed {
    pub(crate) stack: &'static Stack,
    pub(crate) agent: Agent,
    pub(crate) files: Scratch,
    pub(crate) disk: String,
}

impl Bed {
    /// Starts a bed; `None` if it cannot run here.
    pub(crate) fn new(flags: &[&str]) -> Option<Self> {
        Self::on(require("qemu", Stack::shared())?, flags)
    }

    /// Starts a bed with a libvirtd for this test alone: agents of other tests also ask the guest agents that they see,
    /// and libvirt asks a guest agent one thing at a time.
    pub(crate) fn alone(flags: &[&str]) -> Option<Self> {
        // The stack ends with the test process, like the shared one.
        Self::on(Box::leak(Box::new(require("qemu", Stack::start())?)), flags)
    }

    fn on(stack: &'static Stack, flags: &[&str]) -> Option<Self> {
        let files = Scratch::new();
        let disk = require("qemu", small_disk(&files))?;
        let (uri, directory) = (stack.uri(), text(files.path()));
        let mut all = vec!["--libvirt-uri", &uri, "--bridge-type", "linux"];
        all.extend(["--allow-disk-path", &directory]);
        all.extend(flags);
        Some(Self { stack, agent: Agent::start(&all), disk: text(&disk), files })
    }

    /// Returns a guest on the bed's disk, with these further members.
    pub(crate) fn guest(&self, id: &str, members: &Value) -> Value {
        let mut guest = json!({
            "id": id, "type": "qemu", "memory": SMALL_MIB, "cpu": 1,
            "disks": [{ "source": self.disk }],
        });
        for (name, value) in members.as_object().expect("members") {
            guest[name] = value.clone();
        }
        guest
    }

    /// Creates and runs a guest, and logs in.
    pub(crate) fn running(&self, guest: &Value) -> Console {
        self.agent.ok("CreateGuest", guest);
        self.agent.ok("Run", guest);
        Console::log_in(self.stack, guest["id"].as_str().expect("an id"))
    }
}

/// Has the guest agent of a guest trim. A guest agent that was late for another question, as on a loaded machine, is
/// asked again after the agent's pause.
pub(crate) fn trim(agent: &Agent, id: &str) {
    let params = json!({ "guest": { "id": id } });
    wait_until("the guest agent trims", SOON, || {
        let error = agent.call_with("Trim", &params)["error"].take();
        let is_paused = error.as_str().is_some_and(|why| why.contains("it is asked again in "));
        assert!(error.is_null() || is_paused, "{error}");
        error.is_null()
    });
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
