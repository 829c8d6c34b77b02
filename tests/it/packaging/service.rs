//! The agent as a service of systemd: the test is systemd's end of `$NOTIFY_SOCKET`.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for what takes milliseconds.
const SOON: Duration = Duration::from_secs(60);
const WATCHDOG: Duration = Duration::from_millis(400);

/// A service manager's socket for notifications.
struct Manager {
    socket: UnixDatagram,
    directory: Scratch,
}

impl Manager {
    fn new() -> Self {
        let directory = Scratch::new();
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
        Self { socket, directory }
    }

    /// An agent that it starts, with a watchdog.
    fn start(&self, flags: &[&str]) -> Agent {
        let mut command = Command::new(PROGRAM);
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Agent::run(command, flags)
    }

    /// Returns the next message within this time, if any.
    fn receive(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).expect("a time above zero");
        let mut text = [0; 4096];
        let length = self.socket.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// Waits for a message that ends with these lines.
    fn waits_for(&self, lines: &str) {
        let ends_with_lines =
            |message: String| message == lines || message.ends_with(&format!("\n{lines}"));
        wait_until(lines, SOON, || self.receive(SOON).is_some_and(ends_with_lines));
    }

    /// Whether nothing feeds the watchdog for three times its time.
    fn is_not_fed(&self) -> bool {
        let end = Instant::now() + 3 * WATCHDOG;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if self.receive(left.max(Duration::from_millis(1))).as_deref() == Some("WATCHDOG=1") {
                return false;
            }
        }
        true
    }
}

#[test]
fn systemd_is_notified_of_ready_watchdog_and_stopping() {
    let manager = Manager::new();
    let agent = manager.start(&["--libvirt-uri", "test:///default"]);
    let first = manager.receive(SOON).expect("it receives a message");
    assert!(first.starts_with("READY=1\nSTATUS=libvirt "), "{first}");
    // On a loaded machine the agent is ready before its first look at libvirt is over.
    if first != "READY=1\nSTATUS=libvirt answers" {
        manager.waits_for("STATUS=libvirt answers");
    }
    for _ in 0..3 {
        manager.waits_for("WATCHDOG=1");
    }
    agent.signal("TERM");
    manager.waits_for("STOPPING=1\nSTATUS=finishing requests in flight");
    assert!(agent.wait().success());
}

#[test]
fn the_watchdog_is_fed_while_libvirt_is_silent() {
    let manager = Manager::new();
    // It takes connections and says nothing.
    let path = manager.directory.path().join("libvirt");
    let _libvirt = UnixListener::bind(&path).expect("a socket");
    let uri = format!("qemu:///system?socket={}", path.display());
    let agent = manager.start(&["--libvirt-uri", &uri]);
    manager.waits_for("STATUS=libvirt: libvirt does not answer");
    for _ in 0..3 {
        manager.waits_for("WATCHDOG=1");
    }
    drop(agent);
}

#[test]
fn watchdog_starves_while_no_connection_is_accepted() {
    let manager = Manager::new();
    let agent = manager.start(&["--libvirt-uri", "test:///default"]);
    manager.waits_for("WATCHDOG=1");
    let files = |limit: &str| {
        let (pid, limit) = (agent.pid().to_string(), format!("--nofile={limit}"));
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(status.is_ok_and(|status| status.success()));
    };
    // No file more: neither an accept nor a connection of its own.
    files("3:1024");
    wait_until("it is not fed", SOON, || manager.is_not_fed());
    files("1024:1024");
    manager.waits_for("WATCHDOG=1");
    agent.end();
}

#[test]
fn the_unit_allows_the_calls_of_landlock_by_name() {
    let unit = std::fs::read_to_string("dist/mistify-libvirt.service").expect("it is there");
    let lines = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let added: Vec<&str> = lines.skip(1).filter(|it| !it.starts_with('~')).collect();
    for call in ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] {
        assert!(added.iter().any(|line| line.split(' ').any(|word| word == call)), "{call}");
    }
}

#[test]
fn the_units_bound_memory_and_hide_other_processes() {
    let read = |name: &str| fs::read_to_string(format!("dist/{name}")).expect("it is there");
    let bound = |unit: &str, key: &str| {
        let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.is_some_and(|value| value.ends_with('M'))
    };
    let (agent, fetch) = (read("mistify-libvirt.service"), read("mistify-libvirt-fetch@.service"));
    assert!(bound(&agent, "MemoryHigh") && bound(&fetch, "MemoryMax"));
    // A line without ~ would allow them again.
    let calls = ["process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"];
    for unit in [agent, fetch] {
        let lines = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
        let (removed, added): (Vec<&str>, Vec<&str>) = lines.partition(|it| it.starts_with('~'));
        let has = |lines: &[&str], call: &str| {
            let mut words = lines.iter().flat_map(|line| line.trim_start_matches('~').split(' '));
            words.any(|word| word == call)
        };
        for call in calls {
            assert!(has(&removed, call) && !has(&added, call), "{call}");
        }
    }
}

#[test]
fn a_purge_and_the_documents_know_all_state_files() {
    let state = Scratch::new();
    let directory = state.path().to_str().expect("UTF-8");
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--state-dir", directory]);
    let guest = json!({
        "id": "g", "type": "test", "memory": 32, "cpu": 1, "credentials": { "a": "b" },
    });
    agent.ok("CreateGuest", &guest);
    let names: Vec<String> = fs::read_dir(state.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    agent.end();
    assert!(["lock", "seeds", "seed.key"].iter().all(|it| names.iter().any(|name| name == it)));
    let purge = include_str!("../../../dist/debian/postrm");
    let files = include_str!("../../../docs/operations.md");
    for name in names {
        assert!(purge.contains(&format!("\"$state/{name}\"")), "{name}: it stays after a purge");
        let mut rows =
            files.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        let is_its = |cell: &str| cell.split(", ").any(|it| it.starts_with(&format!("`{name}")));
        assert!(rows.any(is_its), "{name} is not in the table of files");
    }
}
