//! Devices of a guest that runs: what it has now, and what it lets go of.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Bed, NEXT};
use crate::harness::boot_sector::{boot_sector, obliging_boot_sector};
use crate::harness::support::{wait_for, wait_until};

/// Longer than a loaded machine needs for what a guest does within a second or two.
pub(super) const SOON: Duration = Duration::from_secs(90);

/// A guest that runs this code from its first disk.
pub(super) fn running(bed: &Bed, code: &[u8]) -> Value {
    let made = bed.made(&json!([{ "size": 1 }]));
    let mut image = fs::read(bed.source(0)).expect("a file");
    image[..code.len()].copy_from_slice(code);
    fs::write(bed.source(0), image).expect("it can be written");
    let ran = bed.agent.ok("Run", &made)["guest"].take();
    wait_until("it runs its code", SOON, || bed.stack.writes(bed.id) > 1);
    ran
}

fn has_it_now(answer: &Value) {
    assert_eq!((&answer["live"], answer.get("message")), (&json!(true), None), "{answer}");
}

#[test]
fn a_running_guest_has_a_new_disk_and_nic_at_once() {
    let Some(bed) = Bed::new("runs-more", 0x21) else { return };
    running(&bed, &boot_sector());
    for _ in 0..2 {
        let answer = bed.ok("AttachDisk", &json!({ "device": "vdb", "size": 2 }));
        has_it_now(&answer);
        assert_eq!(answer["guest"]["state"], "running");
        let expected = ["vdb".to_owned(), bed.source(1)];
        assert_eq!((&bed.disks(&[])[1], &bed.disks(NEXT)[1]), (&expected, &expected));
        bed.is_now(&answer["guest"]);
    }
    let metrics =
        bed.agent.ok("DiskMetrics", &json!({ "id": bed.id, "disks": [{ "device": "vdb" }] }));
    assert!(metrics["disk"]["vdb"].is_object(), "{metrics}");
    for _ in 0..2 {
        let answer = bed.ok("AttachNic", &bed.nic(2));
        has_it_now(&answer);
        let device = answer["guest"]["nics"][1]["device"].as_str().expect("a tap").to_owned();
        assert!(bed.stack.virsh_ok(&["domiflist", bed.id]).contains(&device), "{answer}");
        assert_eq!(
            (bed.macs(&[]), bed.macs(NEXT)),
            (vec![bed.mac(1), bed.mac(2)], vec![bed.mac(1), bed.mac(2)])
        );
        bed.is_now(&answer["guest"]);
    }
    // The running guest alone lost it.
    bed.stack.virsh_ok(&["destroy", bed.id]);
    bed.agent.ok("Run", &json!({ "id": bed.id }));
    assert_eq!((bed.disks(&[]).len(), bed.macs(&[]).len()), (2, 2));
    bed.end();
}

/// Detaches a device that the guest lets go of. libvirt waits 5 s for that: where a loaded machine
/// takes longer, the device is attached once more when it `is_gone`, and detached again.
fn let_go(bed: &Bed, kind: &str, device: &Value, is_gone: impl Fn() -> bool) -> Value {
    wait_for("the guest lets go while libvirt waits", SOON, || {
        let answer = bed.ok(&format!("Detach{kind}"), device);
        if answer["live"] == true {
            return Some(answer);
        }
        wait_until("the guest lets go", SOON, &is_gone);
        has_it_now(&bed.ok(&format!("Attach{kind}"), device));
        None
    })
}

#[test]
fn cooperative_guest_releases_disk_and_nic_at_once() {
    let Some(bed) = Bed::new("runs-less", 0x22) else { return };
    running(&bed, &obliging_boot_sector());
    let before = bed.everything();
    has_it_now(&bed.ok("AttachNic", &bed.nic(2)));
    let disk = json!({ "device": "vdb", "volume": bed.volume(1), "size": 2 });
    has_it_now(&bed.ok("AttachDisk", &disk));
    let answer = let_go(&bed, "Disk", &disk, || bed.disks(&[]).len() == 1);
    has_it_now(&answer);
    assert_eq!((bed.disks(&[]).len(), bed.disks(NEXT).len()), (1, 1));
    let answer = let_go(&bed, "Nic", &bed.nic(2), || bed.macs(&[]).len() == 1);
    has_it_now(&answer);
    assert_eq!((bed.macs(&[]), bed.macs(NEXT)), (vec![bed.mac(1)], vec![bed.mac(1)]));
    let mut after = bed.everything();
    after.retain(|it| !it.contains("disk-1"));
    assert_eq!(after, before, "its network is gone");
    bed.is_now(&answer["guest"]);
    bed.end();
}

#[test]
fn uncooperative_guest_loses_devices_at_next_start() {
    let Some(bed) = Bed::new("runs-on", 0x23) else { return };
    running(&bed, &boot_sector());
    bed.ok("AttachDisk", &json!({ "size": 2 }));
    bed.ok("AttachNic", &bed.nic(2));
    bed.ok("AttachNic", &bed.nic(3));
    for (method, device) in [
        ("DetachDisk", json!({ "device": "vdb" })),
        ("DetachNic", json!({ "mac": bed.mac(2) })),
        ("DetachNic", json!({ "mac": bed.mac(3) })),
    ] {
        let answer = bed.ok(method, &device);
        let why = "detach requested; the guest has not released the device yet";
        assert_eq!((&answer["live"], &answer["message"]), (&json!(false), &json!(why)), "{method}");
        bed.is_now(&answer["guest"]);
    }
    assert_eq!((bed.disks(&[]).len(), bed.disks(NEXT).len()), (2, 1));
    assert_eq!((bed.macs(&[]).len(), bed.macs(NEXT)), (3, vec![bed.mac(1)]));
    assert!(bed.everything().iter().any(|it| it.contains(&bed.mac(2))), "it is in use");
    bed.agent.ok("Poweroff", &json!({ "id": bed.id }));
    bed.agent.ok("Run", &json!({ "id": bed.id }));
    assert_eq!((bed.disks(&[]).len(), bed.macs(&[])), (1, vec![bed.mac(1)]));
    // Asked again when it has let go, the network goes; and that of the other with the guest.
    has_it_now(&bed.ok("DetachNic", &json!({ "mac": bed.mac(2) })));
    assert!(!bed.everything().iter().any(|it| it.contains(&bed.mac(2))));
    assert!(bed.everything().iter().any(|it| it.contains(&bed.mac(3))));
    bed.end();
}
