//! What libvirt refuses, as it does not on demand: of a verb one call of libvirt after the other fails,
//! until it makes no more, on a real libvirtd with real guests. Its error is the call's; what it had
//! started is undone, finished, or what the same verb goes on from, which then succeeds.
//! `libvirt_fails.c` is what lets calls fail.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::cost::slow;
use crate::harness::fault_libraries::calls;
use crate::harness::skip::require;
use crate::harness::stack::{Stack, in_libvirt};
use crate::harness::support::{Scratch, files_below, wait_until, without_domain};

/// Longer than a loaded machine needs to recover something.
const SOON: Duration = Duration::from_secs(60);
/// More calls of libvirt than a verb makes.
const CALLS_MAX: u32 = 100;
/// A way to fail, and libvirt's message for it.
const WAYS: [[&str; 2]; 3] = [
    ["refused", "Invalid secret: virSecretFree"],
    ["lost", "invalid connection pointer in virConnectClose"],
    ["unheard", "invalid connection pointer in virConnectClose"],
];

/// An agent with a directory of disks on the stack that tests share, and a guest of its own.
struct Bed {
    stack: &'static Stack,
    agent: Agent,
    store: Scratch,
    /// The file that says which call fails.
    fault: PathBuf,
    id: &'static str,
    net: u8,
}

impl Bed {
    fn new(id: &'static str, net: u8) -> Option<Self> {
        slow("fails each call of libvirt in turn");
        let stack = require("qemu", Stack::shared())?;
        let store = Scratch::new();
        let fault = store.path().join("fault");
        let storage = format!("directory:{}", store.path().display());
        let uri = stack.uri();
        let flags = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--storage", &storage];
        let mut command = Command::new(PROGRAM);
        command.env("LD_PRELOAD", calls()).env("FAULTS", &fault);
        Some(Self { stack, agent: Agent::run(command, &flags), store, fault, id, net })
    }

    fn mac(&self, number: u8) -> String {
        format!("02:00:00:92:{:02x}:{number:02x}", self.net)
    }

    fn nic(&self, number: u8) -> Value {
        json!({ "network": "mistify0", "mac": self.mac(number) })
    }

    fn guest(&self) -> Value {
        json!({
            "id": self.id, "type": "qemu", "memory": 32, "cpu": 1,
            "nics": [self.nic(1)], "disks": [{ "size": 1 }],
        })
    }

    fn by_id(&self) -> Value {
        json!({ "guest": { "id": self.id } })
    }

    /// The guest is anew, and off.
    fn remake(&self) {
        self.agent.call("Delete", &self.guest());
        self.agent.ok("CreateGuest", &self.guest());
    }

    /// The guest is anew, and runs.
    fn remake_running(&self) {
        self.remake();
        self.agent.ok("Run", &self.guest());
    }

    /// The guest's state and definition, its networks and its volumes; nothing that is another's where
    /// the guest is made anew.
    fn everything(&self) -> Vec<String> {
        let macs = format!("02:00:00:92:{:02x}:", self.net);
        let ours = |line: &str| line == self.id || line.contains(&macs);
        let mut found = in_libvirt(|words| self.stack.virsh_ok(words), ours);
        if found.iter().any(|line| line == self.id) {
            let words = format!("domstate {0}; dumpxml {0} --inactive", self.id);
            let guest = self.stack.virsh_ok(&[&words]);
            // Metadata that was taken back has a prefix of libvirt's for its name space.
            let guest = guest.replace("device:", "").replace(":device", "");
            // Lines that differ in each new domain.
            let is_own =
                |it: &&str| ["uuid", "<genid>", "<serial>"].iter().any(|own| it.contains(own));
            found.extend(guest.lines().filter(|it| !is_own(it)).map(without_domain));
        }
        let mut stored = Vec::new();
        files_below(&self.store.path().join("guests"), &mut stored);
        stored.sort();
        found.extend(stored);
        found
    }

    /// From now on the call of that number fails.
    fn arm(&self, way: &str, number: u32) {
        // Renamed, so that the agent's own calls of libvirt never read half a file.
        let new = self.fault.with_extension("new");
        fs::write(&new, format!("{way} {number}\n")).expect("a file");
        fs::rename(&new, &self.fault).expect("in one directory");
    }

    /// Calls a verb while each of its libvirt calls fails in turn, in each way, and calls the verb again after an
    /// error; `holds` after that, and `then` receives the objects before and after a failure. Returns the number of
    /// failed calls.
    fn each_call_fails(
        &self,
        method: &str,
        params: &Value,
        prepare: impl Fn(),
        then: impl Fn(&[String], &[String]) -> bool,
        holds: impl Fn() -> bool,
    ) -> u32 {
        let mut failed = 0;
        for [way, sentence] in WAYS {
            for number in 1.. {
                assert!(number < CALLS_MAX, "{method} makes calls without end");
                prepare();
                let before = self.everything();
                self.arm(way, number);
                let answer = self.agent.call_with(method, params);
                let has_failed = fs::remove_file(&self.fault).is_err();
                let context = format!("{method}, call {number} {way}: {answer}");
                if let Some(error) = answer["error"].as_str() {
                    assert!(has_failed && error.contains(sentence), "{context}");
                    wait_until("it is recovered", SOON, || self.agent.is_recovered());
                    let now = self.everything();
                    let lost: Vec<_> = before.iter().filter(|it| !now.contains(it)).collect();
                    let new: Vec<_> = now.iter().filter(|it| !before.contains(it)).collect();
                    assert!(then(&before, &now), "{context}: gone {lost:#?}, new {new:#?}");
                    let again = self.agent.call_with(method, params);
                    // What is gone by now cannot go once more.
                    let removes = ["Delete", "DetachDisk", "DetachNic"].contains(&method);
                    let is_done = again["error"].is_null() || removes && holds();
                    assert!(is_done, "{context}, then {again}");
                }
                assert!(holds(), "{context}: {:#?}", self.everything());
                if !has_failed {
                    break;
                }
                failed += 1;
            }
        }
        failed
    }

    /// Does the same for a verb that changes the guest of `prepare`: the guest must be unchanged or completely changed.
    fn changes(&self, method: &str, params: &Value, prepare: impl Fn()) -> u32 {
        prepare();
        let before = self.everything();
        let answer = self.agent.call_with(method, params);
        assert_eq!(answer["error"], Value::Null, "{method}");
        let after = self.everything();
        assert_ne!(before, after, "{method}");
        let between = |before: &[String], now: &[String]| now == before || now == after;
        self.each_call_fails(method, params, prepare, between, || self.everything() == after)
    }

    fn end(self) {
        self.agent.call("Delete", &self.guest());
        assert_eq!(self.everything(), [""; 0]);
        let log = self.agent.end();
        assert!(!log.contains("panic"), "{log}");
    }
}

#[test]
fn of_a_create_nothing_is_left_whichever_call_fails() {
    let Some(bed) = Bed::new("fails-new", 1) else { return };
    let failed = bed.each_call_fails(
        "CreateGuest",
        &json!({ "guest": bed.guest() }),
        || drop(bed.agent.call("Delete", &bed.guest())),
        |before, now| before.is_empty() && now.is_empty(),
        || bed.agent.state(bed.id) == "shutoff",
    );
    assert!(failed > 15, "{failed}");
    bed.end();
}

#[test]
fn delete_continues_whichever_call_failed() {
    let Some(bed) = Bed::new("fails-gone", 2) else { return };
    let failed = bed.each_call_fails(
        "Delete",
        &json!({ "guest": bed.guest() }),
        || bed.remake_running(),
        |_, _| true,
        || bed.everything().is_empty(),
    );
    assert!(failed > 30, "{failed}");
    bed.end();
}

#[test]
fn guest_is_in_old_or_new_state_whichever_call_fails() {
    let Some(bed) = Bed::new("fails-runs", 3) else { return };
    bed.remake();
    let verb = |method: &str| drop(bed.agent.call_with(method, &bed.by_id()));
    let mut failed = 0;
    for (method, inverse) in [("Run", "Poweroff"), ("Suspend", "Resume"), ("Resume", "Suspend")] {
        failed += bed.changes(method, &bed.by_id(), || verb(inverse));
    }
    let runs = || bed.agent.state(bed.id) == "running";
    for method in ["Restart", "Reset"] {
        failed += bed.each_call_fails(method, &bed.by_id(), || (), |_, _| runs(), runs);
    }
    for method in ["Status", "Describe", "DiskMetrics", "NicMetrics", "AllMetrics", "List"] {
        let same = |before: &[String], now: &[String]| before == now;
        failed += bed.each_call_fails(method, &bed.by_id(), || (), same, runs);
    }
    failed += bed.changes("Poweroff", &bed.by_id(), || verb("Run"));
    assert!(failed > 60, "{failed}");
    bed.end();
}

#[test]
fn attach_and_detach_are_atomic_whichever_call_fails() {
    let Some(bed) = Bed::new("fails-part", 4) else { return };
    let mut failed = 0;
    for (method, member, device) in [
        ("AttachDisk", "disk", json!({ "device": "vdb", "size": 2 })),
        ("DetachDisk", "disk", json!({ "device": "vda" })),
        ("DetachNic", "nic", bed.nic(1)),
    ] {
        let params = json!({ "guest": { "id": bed.id }, member: device });
        failed += bed.changes(method, &params, || bed.remake());
    }
    let params = json!({ "guest": { "id": bed.id }, "nic": bed.nic(2) });
    failed += bed.changes("AttachNic", &params, || bed.remake_running());
    let larger = json!({ "guest": { "id": bed.id, "disks": [{ "device": "vda", "size": 2 }] } });
    failed += bed.changes("ResizeDisk", &larger, || bed.remake_running());
    assert!(failed > 120, "{failed}");
    bed.end();
}

#[test]
fn repeated_call_completes_a_half_applied_setting() {
    let Some(bed) = Bed::new("fails-set", 5) else { return };
    bed.remake_running();
    let mut failed = 0;
    for (method, member, [from, to]) in [
        ("SetMetadata", "metadata", [json!({ "owner": "a" }), json!({ "owner": "b", "role": "" })]),
        ("SetMemory", "memory", [json!(32), json!(64)]),
        ("SetCPU", "cpu", [json!(1), json!(2)]),
        ("SetAutostart", "autostart", [json!(false), json!(true)]),
    ] {
        let [from, to] = [from, to].map(|value| {
            let guest = json!({ "id": bed.id, member: value });
            json!({ "guest": guest, member: value })
        });
        bed.agent.call_with(method, &to);
        let after = bed.everything();
        let back = || drop(bed.agent.call_with(method, &from));
        failed += bed.each_call_fails(method, &to, back, |_, _| true, || bed.everything() == after);
    }
    assert!(failed > 40, "{failed}");
    bed.end();
}
