//! Libvirt.ResizeDisk.

use std::fs;

use serde_json::{Value, json};

use super::{Bed, MIB, domain};
use crate::skip::require;
use crate::stack::Stack;

/// A bed with a guest of two disks that the agent made.
fn bed() -> Bed {
    let bed = Bed::new();
    let mut guest = domain("r");
    guest["disks"] = json!([{ "size": 1 }, { "size": 2 }]);
    bed.agent.ok("CreateGuest", &guest);
    bed
}

fn request(disks: &Value) -> Value {
    json!({ "id": "r", "disks": disks })
}

fn size_mib(bed: &Bed, disk: &str) -> usize {
    let bytes = fs::metadata(bed.path(&format!("guests/r/{disk}"))).expect("a file").len();
    usize::try_from(bytes).expect("a small file") / MIB
}

#[test]
fn disks_grow_by_device_or_by_volume_and_the_answer_has_the_sizes() {
    let bed = bed();
    let disks = json!([
        { "device": "vdb", "size": 5 },
        { "volume": "mistify/guests/r/disk-0", "size": 4 },
    ]);
    for _ in 0..2 {
        let answer = bed.agent.ok("ResizeDisk", &request(&disks))["guest"].take();
        assert_eq!(
            (&answer["disks"][0]["size"], &answer["disks"][1]["size"]),
            (&json!(5), &json!(4))
        );
        assert_eq!((size_mib(&bed, "disk-0"), size_mib(&bed, "disk-1")), (4, 5));
    }
    bed.agent.end();
}

#[test]
fn the_same_guest_is_the_grown_one_from_then_on() {
    let bed = bed();
    bed.agent.ok("ResizeDisk", &request(&json!([{ "device": "vdb", "size": 5 }])));
    let mut guest = domain("r");
    guest["disks"] = json!([{ "size": 1 }, { "size": 5 }]);
    let again = bed.agent.ok("CreateGuest", &guest)["guest"].take();
    assert_eq!((size_mib(&bed, "disk-1"), &again["disks"][1]["size"]), (5, &json!(5)));
    assert_eq!(bed.agent.ok("CreateGuest", &again)["guest"], again, "as it was answered");
    guest["disks"] = json!([{ "size": 1 }, { "size": 2 }]);
    let error = bed.agent.error("CreateGuest", &guest);
    assert!(error.starts_with("[Code-9] "), "as it was before: {error}");
    bed.agent.end();
}

#[test]
fn what_cannot_be_is_refused_before_anything_grows() {
    let bed = bed();
    let first = json!({ "device": "vda", "size": 9 });
    for (second, why) in [
        (
            json!({ "device": "vdb", "size": 1 }),
            "disks[1]: mistify/guests/r/disk-1 has 2 MiB and does not shrink",
        ),
        (json!({ "device": "vdz", "size": 9 }), "disks[1]: the guest has no disk vdz"),
        (json!({ "size": 9 }), "disks[1] has neither device nor volume"),
        (
            json!({ "volume": "mistify/guests/other/disk-0", "size": 9 }),
            "disks[1]: the guest has no disk mistify/guests/other/disk-0",
        ),
    ] {
        let error = bed.agent.error("ResizeDisk", &request(&json!([first, second])));
        assert_eq!(error, format!("invalid argument: {why}"));
        assert_eq!(size_mib(&bed, "disk-0"), 1, "{second}");
    }
    for nothing in [json!({}), json!({ "id": "r" }), json!({ "disks": [first] })] {
        assert_eq!(bed.agent.error("ResizeDisk", &nothing), "invalid argument");
    }
    let unknown = json!({ "id": "none", "disks": [first] });
    let error = bed.agent.error("ResizeDisk", &unknown);
    assert_eq!(error, "[Code-42] [Domain-12] Domain not found");
    bed.agent.end();
}

#[test]
fn a_running_guest_is_told_and_an_error_of_that_is_the_callers() {
    let bed = bed();
    bed.agent.ok("Run", &json!({ "id": "r" }));
    let error = bed.agent.error("ResizeDisk", &request(&json!([{ "device": "vda", "size": 3 }])));
    // The test driver cannot; so this shows that it was asked.
    assert!(error.starts_with("[Code-3] "), "{error}");
    assert!(error.contains("virDomainBlockResize"), "{error}");
    assert_eq!(size_mib(&bed, "disk-0"), 3);
    bed.agent.end();
}

#[test]
fn a_real_guest_sees_its_disk_grow_and_is_not_rolled_back_under_way() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::on(&stack.uri());
    let guest = json!({
        "id": "grows", "type": "qemu", "memory": 32, "cpu": 1,
        "disks": [{ "size": 1 }, { "size": 2 }],
    });
    let made = bed.agent.ok("CreateGuest", &guest)["guest"].take();
    bed.ok("CreateSnapshot", &json!({ "id": "guests/grows/disk-1", "dest": "a" }));
    bed.agent.ok("Run", &made);

    let request = json!({ "id": "grows", "disks": [{ "device": "vdb", "size": 7 }] });
    for _ in 0..2 {
        let answer = bed.agent.ok("ResizeDisk", &request);
        assert_eq!(answer["guest"]["disks"][0]["size"], 7);
        let seen = stack.virsh_ok(&["domblkinfo", "grows", "vdb"]);
        let capacity = seen.lines().find(|line| line.starts_with("Capacity:")).expect("a line");
        assert!(capacity.ends_with(&format!(" {}", 7 * MIB)), "{seen}");
    }

    let rollback = json!({ "id": "guests/grows/disk-1@a" });
    let why = "mistify/guests/grows/disk-1 is in use: guest grows is running";
    assert_eq!(bed.error("RollbackSnapshot", &rollback), why);
    let mut grown = guest.clone();
    grown["disks"][1]["size"] = json!(7);
    bed.agent.ok("CreateGuest", &grown);
    let why = bed.guest_error("DeleteGuestsDisks", &json!({ "id": "grows" }));
    assert!(why.starts_with("volumes are left: "), "{why}");
    assert!(why.contains("mistify/guests/grows/disk-1 is in use by qemu"), "{why}");

    bed.agent.ok("Poweroff", &made);
    bed.ok("RollbackSnapshot", &rollback);
    bed.agent.ok("Delete", &made);
    assert_eq!(bed.volumes(), [""; 0]);
    bed.agent.end();
}
