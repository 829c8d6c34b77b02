//! The environment of the soak: a private libvirtd, a store in a directory, and one process of the
//! agent after the other.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::agent::PROGRAM;
use crate::boot_sector;
use crate::pid_namespace::Inside;
use crate::skip::Skip;
use crate::stack::{Stack, in_libvirt};
use crate::support::{Scratch, files_below, wait_until};
use crate::totals::Totals;

/// The maximum number of guests; each caller has its own.
pub(crate) const GUESTS: usize = 8;
/// The image of guests' first disks.
pub(crate) const IMAGE: &str = "boot";
/// Longer than a loaded machine needs for work of some seconds.
pub(crate) const SOON: Duration = Duration::from_secs(240);
/// The limit for the deletion of one guest, and the pause between two remedies for a lock that libvirt keeps: libvirt
/// itself looks half a minute for an emulator that is gone.
const DELETED: Duration = Duration::from_secs(600);
const FREED: Duration = Duration::from_secs(150);
/// The limit for the wait for rest: an idle sampler takes a minute to end.
const REST: Duration = Duration::from_secs(180);
/// The time for which figures must not change until they count.
const STILL: Duration = Duration::from_secs(5);
/// The interval of checks during a wait.
const LOOK: Duration = Duration::from_millis(500);
/// Parallel calls that make every worker open its connection.
const BURST: usize = 16;
/// libvirt's error for a guest whose state change lock it keeps forever, as it may after a kill during a start.
const LOCKED: &str = "[Code-68]";

/// The environment of a run.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) stats: Totals,
    life: RwLock<Arc<Inside>>,
    store: Scratch,
    state: Scratch,
    /// The objects that existed before the first call.
    before: Vec<String>,
}

/// The figures of the agent's process that must not grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vitals {
    pub(crate) anonymous_kib: u64,
    pub(crate) resident_kib: u64,
    pub(crate) threads: usize,
    /// The target of each descriptor, sorted, without the numbers of sockets.
    pub(crate) descriptors: Vec<String>,
    /// To libvirtd.
    pub(crate) connections: usize,
}

impl World {
    /// # Errors
    /// Why there is no such libvirtd here.
    pub(crate) fn new() -> Result<Self, Skip> {
        let (stack, store, state) = (Stack::start()?, Scratch::new(), Scratch::new());
        import(store.path());
        let life = RwLock::new(Arc::new(start(&stack, store.path(), state.path())));
        let stats = Totals::default();
        let mut world = Self { stack, stats, life, store, state, before: Vec::new() };
        // The store creates its own directories with the first guest.
        world.insist("CreateGuest", &json!({ "guest": guest(0) }));
        world.delete_all();
        world.before = world.everything();
        Ok(world)
    }

    /// Returns the present agent.
    pub(crate) fn agent(&self) -> Arc<Inside> {
        Arc::clone(&self.life.read())
    }

    /// Kills the agent and starts it again; callers wait meanwhile.
    pub(crate) fn kill_agent(&self) {
        let mut life = self.life.write();
        send("KILL", life.pid());
        self.examine_log(&life);
        *life = Arc::new(start(&self.stack, self.store.path(), self.state.path()));
    }

    /// Ends the agent in order.
    pub(crate) fn end(&self) {
        let life = self.agent();
        send("TERM", life.pid());
        wait_until("the agent ends", SOON, || !is_alive(life.pid()));
        self.examine_log(&life);
    }

    /// Starts the agent again if it has ended by itself, which is a violation.
    pub(crate) fn see_that_it_lives(&self) {
        // No thread kills the agent while this lock is held.
        let life = self.life.read();
        if is_alive(life.pid()) {
            return;
        }
        let log = life.agent.log();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        self.stats.violation(&format!("the agent ended by itself: {}", last.join(" / ")));
        drop(life);
        self.kill_agent();
    }

    fn examine_log(&self, life: &Inside) {
        for line in life.agent.log().lines().filter(|line| line.contains("panicked")) {
            self.stats.violation(&format!("a panic: {line}"));
        }
    }

    /// Returns the figures of the agent's process now, without its connections.
    pub(crate) fn vitals(&self) -> Option<Vitals> {
        let pid = self.agent().pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Vitals {
            anonymous_kib: number("RssAnon:")?,
            resident_kib: number("VmRSS:")?,
            threads: usize::try_from(number("Threads:")?).ok()?,
            descriptors: descriptors(pid)?,
            connections: 0,
        })
    }

    /// Waits until no work is under way, and the figures stay the same. Then every worker has its
    /// connection, and the sampler has none.
    pub(crate) fn at_rest(&self) -> Vitals {
        eprintln!("waiting for rest");
        let life = self.agent();
        self.has_to_be("what was begun is settled", || life.agent.is_recovered());
        self.has_to_be("jobs have ended", || {
            let jobs = life.agent.health().1["jobs"].take();
            jobs["queued"] == 0 && jobs["running"] == 0
        });
        // With its next sample, the sampler closes the files of guests that no longer exist.
        self.has_to_be("the metrics know no guest any more", || {
            let metrics = life.agent.request("GET", "/metrics", &[], b"").text();
            !metrics.contains("domain=\"")
        });
        let begin = Instant::now();
        let (mut last, mut since) = (Vitals::default(), Instant::now());
        while begin.elapsed() < REST {
            self.burst();
            thread::sleep(LOOK);
            let now =
                Vitals { connections: self.connections(), ..self.vitals().expect("it lives") };
            let counts = |it: &Vitals| (it.threads, it.descriptors.len(), it.connections);
            if counts(&now) != counts(&last) || self.has_thread("metrics-ask") {
                since = Instant::now();
            }
            last = now;
            if since.elapsed() >= STILL {
                break;
            }
        }
        last
    }

    /// Waits for a condition, and records a violation if it does not become true in time.
    fn has_to_be(&self, what: &str, is_so: impl Fn() -> bool) {
        let end = Instant::now() + SOON;
        while !is_so() {
            if Instant::now() > end {
                return self.stats.violation(&format!("not so in {} s: {what}", SOON.as_secs()));
            }
            thread::sleep(LOOK);
        }
    }

    /// Makes as many parallel calls as there are workers, on each lane that calls libvirt.
    fn burst(&self) {
        let life = self.agent();
        for method in ["Status", "Reboot", "Poweroff"] {
            thread::scope(|scope| {
                for number in 0..BURST {
                    let guest = json!({ "id": format!("nobody-{number}") });
                    let life = &life;
                    scope.spawn(move || life.agent.call(method, &guest));
                }
            });
        }
    }

    fn has_thread(&self, name: &str) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.agent().pid()));
        tasks.is_ok_and(|tasks| {
            tasks.flatten().any(|task| {
                fs::read_to_string(task.path().join("comm"))
                    .is_ok_and(|comm| comm.starts_with(name))
            })
        })
    }

    /// Returns the number of libvirtd's clients; only the agent is one for long.
    fn connections(&self) -> usize {
        let mut admin = self.stack.command("virt-admin");
        let output = admin.args(["client-list", "libvirtd"]).output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_client = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
        text.lines().filter(is_client).count()
    }

    /// Repeats a call until it succeeds: a slow machine's libvirtd may count as silent for a while.
    pub(crate) fn insist(&self, method: &str, params: &Value) {
        let life = self.agent();
        wait_until(method, SOON, || life.agent.call_with(method, params)["error"].is_null());
    }

    /// Deletes every guest, and retries as an orchestrator must.
    pub(crate) fn delete_all(&self) {
        for number in 0..GUESTS {
            let guest = guest(number);
            let (end, mut freed) = (Instant::now() + DELETED, None);
            while let Some(error) = self.cannot_delete(&guest) {
                if Instant::now() > end {
                    self.stats.violation(&format!("{} cannot be deleted: {error}", guest["id"]));
                    break;
                }
                let is_due = freed.is_none_or(|at: Instant| at.elapsed() > FREED);
                if error.starts_with(LOCKED) && is_due {
                    freed = Some(Instant::now());
                    self.free(guest["id"].as_str().expect("a text"));
                }
                thread::sleep(LOOK);
            }
        }
    }

    /// Tries a Delete once; returns the error. No thread kills the agent meanwhile.
    fn cannot_delete(&self, guest: &Value) -> Option<String> {
        let answer = self.agent().agent.call("Delete", guest);
        let error = answer["error"].as_str().filter(|error| !error.starts_with("[Code-42]"))?;
        Some(error.to_owned())
    }

    /// Applies the remedy in docs/recovery.md for a lock that libvirt keeps forever, and removes libvirt's own files
    /// about the emulator.
    fn free(&self, id: &str) {
        self.stats.fault("a guest whose lock libvirt kept was freed");
        self.stack.signal_libvirtd("TERM");
        // libvirt may have lost its pid file.
        let emulator = format!("guest={id},");
        let emulators = self.processes_with(&emulator);
        eprintln!("freeing {id}, emulators {emulators:?}");
        for pid in emulators {
            send("KILL", pid);
        }
        for kind in ["xml", "pid"] {
            // The file may be missing.
            let _ = fs::remove_file(self.stack.path(&format!("/run/libvirt/qemu/{id}.{kind}")));
        }
        self.stack.start_libvirtd();
    }

    /// Returns the processes of this stack whose command line contains a word.
    fn processes_with(&self, word: &str) -> Vec<u32> {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(self.agent().pid());
        let all = fs::read_dir("/proc").expect("it is mounted").flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let has_word = |pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains(word) && namespace(*pid) == ours
        };
        numbers.filter(has_word).collect()
    }

    /// Returns the objects that did not exist before the first call: domains, networks, files of the store and journal
    /// entries.
    pub(crate) fn left_over(&self) -> Vec<String> {
        self.everything().into_iter().filter(|it| !self.before.contains(it)).collect()
    }

    fn everything(&self) -> Vec<String> {
        let mut found = in_libvirt(|words| self.stack.virsh_ok(words), |_| true);
        files_below(self.store.path(), &mut found);
        for directory in ["intents", "set-aside"] {
            let path = self.state.path().join(directory);
            if path.exists() {
                files_below(&path, &mut found);
            }
        }
        found
    }
}

fn descriptors(pid: u32) -> Option<Vec<String>> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let target = |link: fs::DirEntry| {
        let target = fs::read_link(link.path()).unwrap_or_default().display().to_string();
        target.split(":[").next().unwrap_or_default().to_owned()
    };
    let mut all: Vec<String> = links.map(target).collect();
    all.sort_unstable();
    Some(all)
}

/// Starts an agent with this store and state.
fn start(stack: &Stack, store: &Path, state: &Path) -> Inside {
    let storage = format!("directory:{}", store.display());
    let state = state.to_str().expect("scratch paths are UTF-8");
    Inside::start(stack, &["--bridge-type", "linux", "--storage", &storage, "--state-dir", state])
}

/// Brings a bootable image into the store.
fn import(store: &Path) {
    let scratch = Scratch::new();
    let image = scratch.path().join("boot.raw");
    boot_sector::write_image(&image, 1 << 20).expect("scratch is writable");
    let storage = format!("directory:{}", store.display());
    let output = Command::new(PROGRAM)
        .args(["--config", "/dev/null", "--storage", &storage, "image", "import"])
        .arg(&image)
        .arg(IMAGE)
        .env("STATE_DIRECTORY", scratch.path())
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
}

/// A guest that boots and obeys its power button, with two volumes, a NIC and a screen.
pub(crate) fn guest(number: usize) -> Value {
    json!({
        "id": id(number), "type": "qemu", "memory": 32, "cpu": 1, "vnc": -1,
        "nics": [{ "name": "eth0", "network": "mistify0", "model": "rtl8139",
                   "mac": format!("02:00:00:00:77:{number:02x}") }],
        "disks": [{ "image": IMAGE }, { "size": 1 }],
    })
}

pub(crate) fn id(number: usize) -> String {
    format!("soak-{number}")
}

/// Sends a signal to a process that may be gone.
pub(crate) fn send(name: &str, pid: u32) {
    let kill = format!("kill -s {name} {pid} 2>/dev/null");
    // An error does not matter then.
    let _ = Command::new("/bin/sh").args(["-c", &kill]).status();
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}
