//! Disks of a guest that is off.

use serde_json::{Value, json};

use super::{Bed, NEXT};
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack, guest_xml};

fn devices(guest: &Value) -> Vec<&str> {
    let disks = guest["disks"].as_array().expect("disks");
    disks.iter().map(|disk| disk["device"].as_str().expect("a name")).collect()
}

#[test]
fn attached_disk_has_a_volume_of_the_guest() {
    let Some(bed) = Bed::new("disk-comes", 1) else { return };
    let before = bed.made(&json!([{ "size": 1 }]));
    let answer = bed.ok("AttachDisk", &json!({ "size": 2 }));
    assert_eq!((&answer["live"], &answer["message"]), (&json!(false), &json!("the guest is off")));
    let guest = &answer["guest"];
    let disk = json!({
        "bus": "virtio", "device": "vdb", "size": 2, "volume": bed.volume(1), "image": "",
        "source": bed.source(1),
    });
    assert_eq!((&guest["disks"][0], &guest["disks"][1]), (&before["disks"][0], &disk));
    for member in ["memory", "cpu", "metadata", "nics"] {
        assert_eq!(guest[member], before[member], "{member}");
    }
    assert_eq!(guest["state"], "shutoff");
    assert_eq!(bed.disks(NEXT)[1], ["vdb".to_owned(), bed.source(1)]);
    assert_eq!(std::fs::metadata(bed.source(1)).expect("a file").len(), 2 << 20);
    bed.is_now(guest);
    // As it would have been asked for.
    bed.agent.ok("CreateGuest", &bed.guest(&json!([{ "size": 1 }, { "size": 2 }])));
    bed.is_no_more(&before);
    let reported = bed.agent.ok("Describe", &json!({ "id": bed.id }));
    assert_eq!(reported["Metadata"]["Device"]["Disks"][1]["Volume"], bed.volume(1));
    let ran = bed.agent.ok("Run", guest)["guest"].take();
    assert_eq!(bed.disks(&[])[1], ["vdb".to_owned(), bed.source(1)]);
    let metrics = bed.agent.ok("DiskMetrics", &ran);
    assert_eq!(metrics["disk"].as_object().map(serde_json::Map::len), Some(2), "{metrics}");
    bed.end();
}

#[test]
fn reattached_disk_is_the_same_if_identifiable() {
    let Some(bed) = Bed::new("disk-again", 2) else { return };
    bed.made(&json!([]));
    for disk in [
        json!({ "device": "vda", "size": 1 }),
        json!({ "volume": bed.volume(7), "size": 1 }),
        json!({ "source": bed.source(7) }),
        json!({ "volume": bed.volume(0) }),
        json!({ "bus": "virtio", "device": "vda", "volume": "any", "source": bed.source(0) }),
    ] {
        let first = bed.ok("AttachDisk", &disk);
        let before = bed.everything();
        assert_eq!(bed.ok("AttachDisk", &disk), first, "{disk}");
        assert_eq!(bed.everything(), before, "{disk}");
        bed.is_now(&first["guest"]);
    }
    let guest = bed.ok("AttachDisk", &json!({ "size": 1 }))["guest"].take();
    assert_eq!(devices(&guest), ["vda", "vdb", "vdc"]);
    assert_eq!(bed.ok("AttachDisk", &json!({ "size": 1 }))["guest"]["disks"][3]["device"], "vdd");
    bed.end();
}

#[test]
fn detached_volume_is_reusable_and_deleted_with_guest() {
    let Some(bed) = Bed::new("disk-goes", 3) else { return };
    let before = bed.made(&json!([{ "size": 1 }, { "size": 2 }, { "size": 3 }]));
    let answer = bed.ok("DetachDisk", &json!({ "device": "vdb" }));
    assert_eq!((&answer["live"], &answer["message"]), (&json!(false), &json!("the guest is off")));
    let guest = &answer["guest"];
    assert_eq!(guest["disks"], json!([before["disks"][0], before["disks"][2]]));
    assert_eq!(bed.disks(NEXT).len(), 2);
    bed.is_now(guest);
    // The index of a disk no longer determines its volume.
    bed.is_no_more(&bed.guest(&json!([{ "size": 1 }, { "size": 3 }])));
    let mut named = guest.clone();
    for disk in named["disks"].as_array_mut().expect("disks") {
        disk["source"] = json!("");
    }
    named["disks"][0]["volume"] = json!("");
    assert_eq!(bed.agent.ok("CreateGuest", &named)["guest"]["disks"], guest["disks"]);

    let gone = bed.error("DetachDisk", &json!({ "device": "vdb" }));
    assert_eq!(gone, "cannot detach disk vdb: the guest has no such disk");
    let more = bed.ok("AttachDisk", &json!({ "size": 4 }))["guest"].take();
    assert_eq!(
        (&more["disks"][2]["device"], &more["disks"][2]["volume"]),
        (&json!("vdb"), &json!(bed.volume(3)))
    );
    let all = bed.ok("AttachDisk", &json!({ "volume": bed.volume(1) }))["guest"].take();
    let back = json!({
        "bus": "virtio", "device": "vdd", "size": 2, "volume": bed.volume(1), "image": "",
        "source": bed.source(1),
    });
    assert_eq!(all["disks"][3], back);
    assert_eq!(devices(&all), ["vda", "vdc", "vdb", "vdd"]);
    bed.is_now(&all);
    let grown = json!({ "id": bed.id, "disks": [{ "device": "vdb", "size": 5 }] });
    bed.agent.ok("ResizeDisk", &grown);
    let after = bed.ok("DetachDisk", &back)["guest"].take();
    assert_eq!(after["disks"][2]["size"], 5);
    bed.is_now(&after);
    bed.end();
}

#[test]
fn only_volume_is_deleted_with_a_guest_without_disks() {
    let Some(bed) = Bed::new("disk-last", 4) else { return };
    bed.made(&json!([{ "size": 1 }]));
    let guest = bed.ok("DetachDisk", &json!({ "volume": bed.volume(0) }))["guest"].take();
    assert_eq!(guest.get("disks"), None);
    // A change of other metadata keeps the record of the detached volume.
    bed.agent.ok("SetMetadata", &json!({ "id": bed.id, "metadata": { "k": "v" } }));
    assert!(bed.everything().iter().any(|it| it.ends_with("disk-0")));
    bed.end();
}

#[test]
fn original_guest_gets_a_disk_deleted_with_it() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(device) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let path = device.path().to_str().expect("UTF-8");
    let bed = Bed::on(stack, "disk-original", 5, &["--allow-disk-path", path]);
    assert!(stack.with_xml("define", &guest_xml("qemu", bed.id, device.path())).status.success());
    let guest = json!({
        "id": bed.id, "type": "qemu", "memory": 32, "cpu": 1, "metadata": { "owner": "bob" },
        "disks": [{ "source": path, "size": 1 }],
    });
    bed.agent.ok("CreateGuest", &guest);
    let asked = json!({ "guest": guest, "disk": { "size": 2 } });
    let answer = bed.agent.call_with("AttachDisk", &asked)["result"]["guest"].take();
    assert_eq!((&answer["metadata"], &answer["memory"]), (&guest["metadata"], &json!(32)));
    assert_eq!(
        (&answer["disks"][0]["size"], &answer["disks"][0]["source"]),
        (&json!(1), &json!(path))
    );
    assert_eq!(answer["disks"][1]["source"], bed.source(0));
    bed.agent.ok("CreateGuest", &answer);
    bed.is_no_more(&guest);
    bed.ok("AttachNic", &bed.nic(1));
    bed.end();
}

#[test]
fn disks_attached_at_once_get_separate_places() {
    let Some(bed) = Bed::new("disk-many", 6) else { return };
    bed.made(&json!([]));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| bed.ok("AttachDisk", &json!({ "size": 1 })));
        }
    });
    let sources: Vec<[String; 2]> = bed.disks(NEXT);
    let expected = (0..4).zip(["vda", "vdb", "vdc", "vdd"]);
    let expected: Vec<_> = expected.map(|(n, device)| [device.to_owned(), bed.source(n)]).collect();
    assert_eq!(sources, expected);
    bed.end();
}
