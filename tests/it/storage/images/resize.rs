//! Libvirt.ResizeDisk.

use serde_json::{Value, json};

use super::{Bed, MIB, domain};
use crate::harness::skip::require;
use crate::harness::stack::Stack;

/// Makes a guest with two disks.
fn prepare(bed: &Bed) {
    let mut guest = domain("r");
    guest["disks"] = json!([{ "size": 1 }, { "size": 2 }]);
    bed.agent.ok("CreateGuest", &guest);
}

fn request(disks: &Value) -> Value {
    json!({ "id": "r", "disks": disks })
}

fn size_mib(bed: &Bed, disk: &str) -> usize {
    bed.size_mib(&format!("guests/r/{disk}"))
}

pub(super) fn disks_grow_by_device_or_volume_and_report_sizes(bed: Bed) {
    prepare(&bed);
    let disks = json!([
        { "device": "vdb", "size": 5 },
        { "volume": bed.full("guests/r/disk-0"), "size": 4 },
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

pub(super) fn the_same_guest_is_the_grown_one_from_then_on(bed: Bed) {
    prepare(&bed);
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

pub(super) fn what_cannot_be_is_refused_before_anything_grows(bed: Bed) {
    prepare(&bed);
    let first = json!({ "device": "vda", "size": 9 });
    let other = bed.full("guests/other/disk-0");
    for (second, why) in [
        (
            json!({ "device": "vdb", "size": 1 }),
            format!("disks[1]: cannot shrink {} from 2 MiB", bed.full("guests/r/disk-1")),
        ),
        (json!({ "device": "vdz", "size": 9 }), "disks[1]: the guest has no disk vdz".to_owned()),
        (json!({ "size": 9 }), "disks[1] must have a device or volume".to_owned()),
        (json!({ "volume": other, "size": 9 }), format!("disks[1]: the guest has no disk {other}")),
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

pub(super) fn running_guest_is_notified_and_its_error_reported(bed: Bed) {
    prepare(&bed);
    bed.agent.ok("Run", &json!({ "id": "r" }));
    let error = bed.agent.error("ResizeDisk", &request(&json!([{ "device": "vda", "size": 3 }])));
    // The test driver cannot; so this shows that it was asked.
    assert!(error.starts_with("[Code-3] "), "{error}");
    assert!(error.contains("virDomainBlockResize"), "{error}");
    assert_eq!(size_mib(&bed, "disk-0"), 3);
    bed.agent.end();
}

#[test]
fn real_guest_sees_disk_grow_and_refuses_rollback() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::on(&stack.uri(), None);
    a_guest_sees_its_disk_grow_and_is_not_rolled_back_under_way(bed, |words| stack.virsh_ok(words));
}

/// The claim for a real guest, on the libvirt that `virsh` asks.
pub(crate) fn a_guest_sees_its_disk_grow_and_is_not_rolled_back_under_way(
    bed: Bed,
    virsh: impl Fn(&[&str]) -> String,
) {
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
        // What qemu tells the guest, not what the host has.
        let seen = virsh(&["domblkinfo", "grows", "vdb"]);
        let capacity = seen.lines().find(|line| line.starts_with("Capacity:")).expect("a line");
        assert!(capacity.ends_with(&format!(" {}", 7 * MIB)), "{seen}");
    }

    let rollback = json!({ "id": "guests/grows/disk-1@a" });
    let disk = bed.full("guests/grows/disk-1");
    let why = format!("cannot change {disk}: guest grows is running");
    assert_eq!(bed.error("RollbackSnapshot", &rollback), why);
    let mut grown = guest.clone();
    grown["disks"][1]["size"] = json!(7);
    bed.agent.ok("CreateGuest", &grown);
    let why = bed.guest_error("DeleteGuestsDisks", &json!({ "id": "grows" }));
    assert!(why.starts_with("cannot destroy volumes: "), "{why}");
    assert!(why.contains(&format!("{disk} is in use by qemu")), "{why}");

    bed.agent.ok("Poweroff", &made);
    bed.ok("RollbackSnapshot", &rollback);
    bed.agent.ok("Delete", &made);
    assert_eq!(bed.volumes(), [""; 0]);
    bed.agent.end();
}
