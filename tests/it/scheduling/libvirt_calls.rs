//! What a change asks of libvirt about other guests: no more on a full host than on an empty one.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::call_counter::Counting;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for a few dozen changes.
const SOON: Duration = Duration::from_secs(120);
/// Guests that are there besides.
const OTHERS: usize = 12;

/// One agent on a libvirtd that counts, and a store.
struct Bed {
    stack: Stack,
    counting: Counting,
    agent: Agent,
    store: Scratch,
}

impl Bed {
    fn new() -> Option<Self> {
        // Its own: guests of other tests are changes, too.
        let stack = require("qemu", Stack::start())?;
        let (counting, store) = (Counting::start(&stack), Scratch::new());
        let storage = format!("directory:{}", store.path().display());
        // One worker of each kind: a call may not find another connection than the one before.
        let workers = ["--workers", "control=1", "--workers", "read=1", "--workers", "urgent=1"];
        let flags = [
            "--libvirt-uri",
            &counting.uri(),
            "--storage",
            &storage,
            "--image-store",
            "--image-store-port",
            "0",
        ];
        let agent = Agent::start(&[&flags[..], &workers].concat());
        agent.receives_events();
        Some(Self { stack, counting, agent, store })
    }

    /// Defines guests with a disk each, by another tool.
    fn define(&self, name: &str, disk: &str) {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64'>hvm</type></os><devices><disk type='file'>\
             <source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
        );
        let made = self.stack.with_xml("define", &xml);
        assert!(made.status.success(), "{made:?}");
    }

    fn undefine(&self, name: &str) {
        self.stack.virsh_ok(&["undefine", name]);
    }

    /// How many calls of libvirt an answer to a request takes.
    fn trips(&self, method: &str, params: &Value) -> usize {
        let before = self.counting.calls();
        let answer = self.agent.call_with(method, params);
        assert_eq!(answer["error"], Value::Null, "{method}: {answer}");
        self.counting.calls() - before
    }

    /// Returns the fewest calls of libvirt that each change without destruction takes in three tries: events may add
    /// calls.
    fn least(&self) -> [usize; 4] {
        let guest = json!({
            "id": "uses-own", "type": "qemu", "memory": 16, "cpu": 1, "disks": [{ "size": 1 }],
            "nics": [{ "network": "mistify0", "mac": "02:00:00:00:97:01" }],
        });
        let create = json!({ "guest": guest });
        let dry = json!({ "guest": guest, "args": { "mistify.dry_run": "true" } });
        let id = json!({ "id": "uses-own" });
        let disk = json!({ "guest": id, "disk": { "size": 1 } });
        let nic = json!({
            "guest": id, "nic": { "network": "mistify0", "mac": "02:00:00:00:97:02" },
        });
        let mut least = [usize::MAX; 4];
        for _ in 0..3 {
            let found = [
                self.trips("CreateGuest", &dry),
                self.trips("CreateGuest", &create),
                self.trips("AttachDisk", &disk),
                self.trips("AttachNic", &nic),
            ];
            for (least, found) in least.iter_mut().zip(found) {
                *least = found.min(*least);
            }
            self.agent.ok("Delete", &guest);
        }
        least
    }
}

#[test]
fn a_change_asks_no_more_beside_more_guests() {
    let Some(bed) = Bed::new() else { return };
    let alone = bed.least();
    let names: Vec<_> = (0..OTHERS).map(|number| format!("uses-other-{number}")).collect();
    names.iter().for_each(|name| bed.define(name, "/srv/other"));
    let mut beside = [0; 4];
    wait_until(&format!("as few calls as alone, {alone:?}"), SOON, || {
        beside = bed.least();
        beside.iter().zip(alone).all(|(beside, alone)| *beside <= alone)
    });
    bed.agent.end();
}

#[test]
fn disks_of_other_tools_count_as_used() {
    let Some(bed) = Bed::new() else { return };
    let guest = |id: &str| json!({ "id": id, "type": "qemu", "memory": 16, "cpu": 1, "disks": [{ "size": 1 }] });
    let wanted = bed.store.path().join("guests/uses-wanted/disk-0").display().to_string();
    let is_refused = || {
        let request =
            json!({ "guest": guest("uses-wanted"), "args": { "mistify.dry_run": "true" } });
        let plan = bed.agent.call_with("CreateGuest", &request)["result"]["plan"].clone();
        let problems = plan["problems"].as_array().expect("a plan").clone();
        let is_named = |problem: &Value| problem.to_string().contains(" already uses it");
        assert!(problems.iter().all(is_named), "{problems:?}");
        !problems.is_empty()
    };
    assert!(!is_refused());
    // A new domain is seen at once, even before libvirt's event, and so is a later one of its name.
    bed.define("uses-thief", &wanted);
    assert!(is_refused());
    bed.undefine("uses-thief");
    assert!(!is_refused());
    bed.define("uses-thief", "/srv/other");
    assert!(!is_refused());
    bed.undefine("uses-thief");
    bed.define("uses-thief", &wanted);
    assert!(is_refused());
    // libvirt sends an event for a domain that is defined again.
    let redefine = |from: &str, to: &str| {
        let xml = bed.stack.virsh_ok(&["dumpxml", "uses-thief"]).replace(from, to);
        let made = bed.stack.with_xml("define", &xml);
        assert!(made.status.success(), "{made:?}");
    };
    redefine(&wanted, "/srv/other");
    wait_until("it is used no more", SOON, || !is_refused());
    redefine("/srv/other", &wanted);
    wait_until("it is used again", SOON, is_refused);
    // libvirt sends no event for this change: the agent reads the domain again before it refuses a caller.
    bed.stack.virsh_ok(&["detach-disk", "uses-thief", "vda", "--config"]);
    assert!(!is_refused());
    bed.undefine("uses-thief");

    // Before a volume is destroyed, the agent reads all definitions, as libvirt sends no event for this change.
    bed.define("uses-thief", "/srv/other");
    assert!(!is_refused());
    bed.stack.virsh_ok(&["attach-disk", "uses-thief", &wanted, "vdb", "--config"]);
    let directory = bed.store.path().join("guests/uses-wanted");
    fs::create_dir_all(&directory).expect("it can be made");
    fs::write(&wanted, "of another domain").expect("it can be written");
    let request = json!({ "guest": { "id": "uses-wanted" } });
    let error = bed.agent.store_error("DeleteGuestDisks", &request);
    assert!(error.is_some_and(|it| it.contains("is used by domain uses-thief")));
    fs::remove_dir_all(&directory).expect("it is there");

    bed.undefine("uses-thief");

    // What changed while libvirt was away is read when it is back.
    bed.define("uses-thief", "/srv/other");
    assert!(!is_refused());
    let definition = bed.stack.path("/etc/libvirt/qemu/uses-thief.xml");
    let xml = fs::read_to_string(&definition).expect("libvirt keeps it there");
    bed.stack.signal_libvirtd("KILL");
    fs::write(&definition, xml.replace("/srv/other", &wanted)).expect("it can be written");
    bed.stack.start_libvirtd();
    wait_until("it is read again", SOON, is_refused);
    bed.undefine("uses-thief");

    bed.agent.ok("CreateGuest", &guest("uses-wanted"));
    bed.agent.ok("Delete", &guest("uses-wanted"));
    bed.agent.end();
}
