//! Guests that stay though their caller heard of no success: Create that is killed, late or cannot start, and
//! CreateGuest that is late. What stays is whole: the marks of its disks name its domain.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::cost::slow;
use crate::harness::fault_libraries::calls;
use crate::harness::fault_libraries::faults;
use crate::harness::skip::require;
use crate::harness::stack::{Stack, wait_for_libvirt};
use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs to complete something.
const SOON: Duration = Duration::from_secs(60);
/// More calls of libvirt than a Create makes.
const CALLS_MAX: u32 = 60;

/// A libvirtd, a store and a state directory of agents that follow each other.
struct Bed {
    stack: &'static Stack,
    directory: Scratch,
    id: &'static str,
}

impl Bed {
    fn new(stack: &'static Stack, id: &'static str) -> Self {
        let directory = Scratch::new();
        fs::create_dir(directory.path().join("store")).expect("a directory can be made");
        Self { stack, directory, id }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An agent whose calls of libvirt fail as a file says, and whose journal hangs as long as another exists.
    fn agent(&self) -> Agent {
        let storage = format!("directory:{}", self.file("store").display());
        let state = self.file("state").display().to_string();
        let uri = self.stack.uri();
        let flags = ["--libvirt-uri", &uri, "--storage", &storage, "--state-dir", &state];
        let more = ["--image-store", "--image-store-port", "0", "--vnc", "tcp"];
        let both = format!("{}:{}", calls().display(), faults().display());
        let mut command = Command::new(PROGRAM);
        command.env("LD_PRELOAD", both).env("FAULTS", self.file("fault"));
        let journal = self.file("state/intents").display().to_string();
        command.env("FAULT", format!("fsync:5:*:{journal}"));
        command.env("FAULT_WHILE", self.file("hangs"));
        Agent::run(command, &[&flags[..], &more].concat())
    }

    /// From now on such a call of libvirt fails.
    fn arm(&self, fault: &str) {
        let new = self.file("new");
        fs::write(&new, format!("{fault}\n")).expect("a file");
        fs::rename(&new, self.file("fault")).expect("in one directory");
    }

    fn is_armed(&self) -> bool {
        self.file("fault").exists()
    }

    /// A guest on a disk that the image store has made for it.
    fn guest(&self, agent: &Agent) -> Value {
        let disks = json!([{ "size": 1 }]);
        let made = json!({ "guest": { "id": self.id, "disks": disks } });
        assert_eq!(agent.store_error("CreateGuestDisks", &made), None);
        let source = self.file(&format!("store/guests/{}/disk-0", self.id));
        let disk = json!({ "source": source, "device": "vda", "bus": "virtio" });
        json!({ "id": self.id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [disk] })
    }

    /// Whether the domain is defined.
    fn is_defined(&self) -> bool {
        let names = self.stack.virsh_ok(&["list", "--all", "--name"]);
        names.lines().any(|name| name == self.id)
    }

    /// Waits until the mark of the guest's disk names its domain.
    fn is_claimed(&self, context: &str) {
        let uuid = self.stack.virsh_ok(&["domuuid", self.id]);
        let beside = self.file(&format!("store/guests/{}/disk-0#", self.id));
        wait_until(&format!("{context}: the mark has the domain's uuid"), SOON, || {
            let text = fs::read(&beside).expect("the disk has properties");
            let found: Value = serde_json::from_slice(&text).expect("JSON");
            found["maker"] == uuid.trim()
        });
    }

    /// How often the guest's creation is an event.
    fn created(&self, agent: &Agent) -> usize {
        let asked = json!({ "guest": self.id, "after": 0, "timeout": 0 });
        let page = agent.call_with("WaitEvents", &asked)["result"].take();
        let events = page["events"].as_array().cloned().unwrap_or_default();
        events.iter().filter(|event| event["event"] == "created").count()
    }

    fn remove(&self, agent: &Agent) {
        let id = json!({ "id": self.id });
        agent.call("Delete", &id);
        assert_eq!(agent.store_error("DeleteGuestsDisks", &json!({ "guest": id })), None);
        assert!(!self.is_defined());
    }
}

fn with_timeout(guest: &Value, seconds: &str) -> Value {
    json!({ "guest": guest, "args": { "mistify.timeout": seconds } })
}

/// Also where the port of its display is taken, so that it is started with another.
#[test]
fn a_killed_create_is_completed_by_the_next() {
    slow("kills an agent at each call of libvirt");
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    let bed = Bed::new(stack, "creates-killed");
    let agent = bed.agent();
    let with_port =
        |id: &str| json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "vnc": 5981 });
    let holder = with_port("creates-holder");
    agent.ok("Create", &holder);
    agent.end();
    let (mut kills, mut defined) = (0, 0);
    for way in ["killed", "died"] {
        for number in 1.. {
            assert!(number < CALLS_MAX, "Create makes calls without end");
            let agent = bed.agent();
            let mut guest = bed.guest(&agent);
            guest["vnc"] = json!(5981);
            bed.arm(&format!("{way} {number}"));
            let answer = agent.try_call("Create", &guest);
            let context = format!("{way} {number}");
            if bed.is_armed() {
                fs::remove_file(bed.file("fault")).expect("it is there");
                assert_eq!(answer.map(|mut answer| answer["error"].take()), Some(Value::Null));
                bed.remove(&agent);
                agent.end();
                break;
            }
            agent.wait();
            kills += 1;
            wait_for_libvirt(&stack.uri());
            let agent = bed.agent();
            if bed.is_defined() {
                defined += 1;
                bed.is_claimed(&context);
                let info = stack.virsh_ok(&["dominfo", bed.id]);
                let is_persistent = |line: &str| line.split_whitespace().eq(["Persistent:", "yes"]);
                assert!(info.lines().any(is_persistent), "{context}: {info}");
            }
            assert_eq!(agent.ok("Create", &guest)["guest"]["state"], "running", "{context}");
            bed.is_claimed(&context);
            agent.ok("Poweroff", &guest);
            let definition = stack.virsh_ok(&["dumpxml", bed.id, "--inactive"]);
            assert!(definition.contains("port='5981'"), "{context}: {definition}");
            bed.remove(&agent);
            agent.end();
        }
    }
    assert!(kills > 10 && defined > 5, "{kills} kills, {defined} with a domain");
    let agent = bed.agent();
    agent.ok("Delete", &holder);
    agent.end();
}

#[test]
fn a_create_that_cannot_start_claims_its_disk() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(stack, "creates-off");
    let agent = bed.agent();
    let mut guest = bed.guest(&agent);
    let absent = bed.file("store/guests/creates-off/disk-1");
    let disks = guest["disks"].as_array_mut().expect("disks");
    disks.push(json!({ "source": absent, "device": "vdb", "bus": "virtio" }));
    for _ in 0..2 {
        let error = agent.error("Create", &guest);
        assert!(error.contains("disk-1"), "{error}");
    }
    bed.is_claimed("it is off");
    assert_eq!(bed.created(&agent), 1);
    bed.remove(&agent);
    agent.end();
}

#[test]
fn a_late_create_claims_its_disk() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(stack, "creates-late");
    let agent = bed.agent();
    let guest = bed.guest(&agent);
    bed.arm("slow 1 virDomainCreate");
    let answer = agent.call_with("Create", &with_timeout(&guest, "2")).to_string();
    assert!(answer.contains("still running since"), "{answer}");
    bed.is_claimed("it was late");
    assert_eq!(bed.created(&agent), 1);
    bed.remove(&agent);
    agent.end();
}

#[test]
fn a_late_create_guest_that_runs_claims_its_disk() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(stack, "creates-kept");
    let agent = bed.agent();
    let guest = bed.guest(&agent);
    bed.arm("slow 1 virDomainDefineXML");
    let answer = agent.call_with("CreateGuest", &with_timeout(&guest, "2")).to_string();
    assert!(answer.contains("still running since"), "{answer}");
    // Before it is undone somebody starts it.
    bed.arm("slow 1 virDomainIsActive");
    wait_until("it is defined", SOON, || bed.is_defined());
    stack.virsh_ok(&["start", bed.id]);
    bed.is_claimed("it runs");
    assert_eq!(agent.state(bed.id), "running");
    assert_eq!(bed.created(&agent), 1);
    bed.remove(&agent);
    agent.end();
}

#[test]
fn a_late_commit_claims_the_disk() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(stack, "creates-commit");
    let agent = bed.agent();
    let guest = bed.guest(&agent);
    bed.arm("slow 1 virDomainDefineXML");
    let answer = std::thread::scope(|scope| {
        let call = scope.spawn(|| agent.call_with("CreateGuest", &with_timeout(&guest, "8")));
        wait_until("it is being defined", SOON, || !bed.is_armed());
        fs::write(bed.file("hangs"), "").expect("a file");
        call.join().expect("it answers").to_string()
    });
    assert!(answer.contains("still running since"), "{answer}");
    fs::remove_file(bed.file("hangs")).expect("it is there");
    bed.is_claimed("its journal hung");
    assert!(bed.is_defined());
    assert_eq!(bed.created(&agent), 1);
    bed.remove(&agent);
    agent.end();
}
