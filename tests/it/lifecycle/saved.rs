//! Guests with saved memory (managed save), on real qemu: off, but not as other guests that are off.

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::Scratch;

const ID: &str = "saved";
const MACS: [&str; 2] = ["02:00:00:00:77:01", "02:00:00:00:77:02"];

/// A guest with a disk and two NICs, whose memory libvirt has saved.
struct Bed {
    stack: Stack,
    agent: Agent,
    _store: Scratch,
}

impl Bed {
    fn new() -> Option<Self> {
        let stack = require("qemu", Stack::start())?;
        let store = Scratch::new();
        let storage = format!("directory:{}", store.path().display());
        let flags =
            ["--libvirt-uri", &stack.uri(), "--bridge-type", "linux", "--storage", &storage];
        let more = ["--image-store", "--image-store-port", "0"];
        let agent = Agent::start(&[&flags[..], &more].concat());
        let bed = Self { stack, agent, _store: store };
        let nics = MACS.map(|mac| json!({ "network": "mistify0", "mac": mac }));
        let guest = json!({
            "id": ID, "type": "qemu", "memory": 32, "cpu": 1, "nics": nics, "disks": [{ "size": 1 }],
        });
        bed.agent.ok("CreateGuest", &guest);
        let snapshot = json!({ "id": format!("guests/{ID}/disk-0"), "dest": "before" });
        assert_eq!(bed.agent.store_error("CreateSnapshot", &snapshot), None);
        bed.save();
        Some(bed)
    }

    fn save(&self) {
        self.agent.ok("Run", &json!({ "id": ID }));
        self.stack.virsh_ok(&["managedsave", ID]);
    }

    fn has_saved(&self) -> bool {
        self.stack.virsh_ok(&["list", "--all", "--with-managed-save", "--name"]).contains(ID)
    }
}

#[test]
fn change_incompatible_with_saved_memory_is_refused() {
    let Some(bed) = Bed::new() else { return };
    let refused = |error: &str| error.contains("saved memory") && error.contains("DiscardSaved");
    let guest = json!({ "id": ID });
    for (method, params) in [
        ("DetachNic", json!({ "guest": guest, "nic": { "mac": MACS[1] } })),
        ("DetachDisk", json!({ "guest": guest, "disk": { "device": "vda" } })),
        ("ResizeDisk", json!({ "guest": { "id": ID, "disks": [{ "device": "vda", "size": 2 }] } })),
    ] {
        let answer = bed.agent.call_with(method, &params);
        assert!(answer["error"].as_str().is_some_and(refused), "{method}: {answer}");
    }
    let snapshot = json!({ "id": format!("guests/{ID}/disk-0@before") });
    for (method, request) in [
        ("RollbackSnapshot", snapshot),
        ("DeleteDataset", json!({ "id": format!("guests/{ID}") })),
        ("DeleteGuestDisks", json!({ "guest": guest })),
    ] {
        let error = bed.agent.store_error(method, &request).unwrap_or_default();
        assert!(refused(&error), "{method}: {error}");
    }
    // Nothing that it needs is gone: it goes on.
    assert_eq!(bed.agent.ok("Run", &guest)["guest"]["state"], "running");
    bed.agent.ok("Delete", &guest);
    bed.agent.end();
}

#[test]
fn a_setting_of_a_saved_guest_says_when_it_counts() {
    let Some(bed) = Bed::new() else { return };
    for (method, member) in [("SetMemory", "memory"), ("SetCPU", "cpu")] {
        let set = bed.agent.call_with(method, &json!({ "guest": { "id": ID, member: 1 } }));
        let message = set["result"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("DiscardSaved"), "{method}: {set}");
        assert_eq!(set["result"]["live"], false);
    }
    let listed = bed.agent.call_with("List", &json!({}));
    assert_eq!(listed["result"]["guests"][0]["saved"], true, "{listed}");
    bed.agent.end();
}

#[test]
fn metadata_set_while_saved_exists_after_run() {
    let Some(bed) = Bed::new() else { return };
    let guest = json!({ "id": ID });
    let tagged = json!({ "id": ID, "metadata": { "owner": "bob" } });
    bed.agent.ok("SetMetadata", &tagged);
    assert_eq!(bed.agent.ok("Run", &guest)["guest"]["state"], "running");
    let described = bed.agent.ok("Describe", &guest);
    let parameters = &described["Metadata"]["UserMetadata"];
    assert!(parameters.to_string().contains("bob"), "{described}");
    let listed = bed.agent.call_with("List", &json!({ "metadata": { "owner": "bob" } }));
    assert_eq!(listed["result"]["guests"][0]["id"], ID, "{listed}");
    // It is saved and restored again, and has it still.
    bed.stack.virsh_ok(&["managedsave", ID]);
    bed.agent.ok("Run", &guest);
    assert!(bed.agent.ok("Describe", &guest).to_string().contains("bob"));
    bed.agent.ok("Delete", &guest);
    bed.agent.end();
}

#[test]
fn guest_is_ordinary_after_discarding_saved_memory() {
    let Some(bed) = Bed::new() else { return };
    let guest = json!({ "id": ID });
    assert!(bed.has_saved());
    bed.agent.ok("DiscardSaved", &guest);
    assert!(!bed.has_saved());
    bed.agent.ok("DiscardSaved", &guest);
    let detached =
        bed.agent.call_with("DetachNic", &json!({ "guest": guest, "nic": { "mac": MACS[1] } }));
    assert_eq!(detached["error"], Value::Null, "{detached}");
    bed.save();
    bed.agent.ok("Delete", &guest);
    assert!(!bed.has_saved());
    bed.agent.end();
}
