//! What cannot be, and changes nothing.

use std::fs;

use serde_json::{Value, json};

use super::Bed;
use crate::harness::agent::Agent;
use crate::harness::support::{Scratch, files_below};

#[test]
fn impossible_change_is_refused_and_changes_nothing() {
    let Some(bed) = Bed::new("refused-names", 0x31) else { return };
    let made = bed.made(&json!([{ "size": 1 }, { "size": 1 }]));
    let before = bed.everything();
    let outside = format!(
        "invalid argument: disk source outside /dev/zvol/mistify, {}: disk.source /etc/passwd",
        bed.store.path().display()
    );
    let (other, absent) = ("mistify/guests/other/disk-0", bed.volume(9));
    let mac = bed.mac(1);
    for (method, device, why) in [
        ("AttachDisk", Value::Null, "invalid argument: disk is missing"),
        ("AttachDisk", json!({}), "invalid argument: disk must have an image or a size"),
        ("AttachDisk", json!({ "source": "/etc/passwd" }), &outside),
        (
            "AttachDisk",
            json!({ "source": "/a\nb" }),
            "invalid argument: disk.source has a tab or a line break (U+000A)",
        ),
        (
            "AttachDisk",
            json!({ "size": 1, "bus": "ide" }),
            "invalid argument: disk.bus: \"ide\" is not supported; use virtio, scsi, sata",
        ),
        (
            "AttachDisk",
            json!({ "size": 1, "device": "hda" }),
            "invalid argument: disk.device must be a name such as vdb, not hda",
        ),
        (
            "AttachDisk",
            json!({ "size": 2, "device": "vda" }),
            "cannot attach disk vda: the guest has another disk of that name",
        ),
        ("AttachDisk", json!({ "volume": absent }), "not found"),
        (
            "AttachDisk",
            json!({ "volume": bed.volume(1), "device": "vdc" }),
            &format!("cannot attach {}: the guest already has it as vdb", bed.source(1)),
        ),
        ("AttachDisk", json!({ "image": "none" }), "not found"),
        (
            "AttachDisk",
            json!({ "size": u64::MAX }),
            "invalid argument: size 18446744073709551615 MiB is too large",
        ),
        (
            "AttachDisk",
            json!({ "size": 1, "volume": other }),
            &format!("invalid argument: disk.volume {other} must have the form {}", bed.volume(1)),
        ),
        ("DetachDisk", Value::Null, "invalid argument: disk must have a device, volume or source"),
        (
            "DetachDisk",
            json!({ "device": "vdz" }),
            "cannot detach disk vdz: the guest has no such disk",
        ),
        (
            "DetachDisk",
            json!({ "device": "vda", "volume": bed.volume(1) }),
            "cannot detach disk vda: the guest has no such disk",
        ),
        ("DetachDisk", json!({ "volume": absent }), "not found"),
        ("AttachNic", Value::Null, "invalid argument: nic is missing"),
        (
            "AttachNic",
            json!({ "network": "mistify0" }),
            "invalid argument: nic.mac is missing; it names the network of the NIC",
        ),
        (
            "AttachNic",
            json!({ "mac": "x" }),
            "invalid argument: nic.mac: not a MAC address such as 02:00:00:00:00:0a",
        ),
        (
            "AttachNic",
            json!({ "mac": bed.mac(2), "vlans": [7] }),
            "invalid argument: nic.vlans: a Linux bridge does not support VLAN tags",
        ),
        (
            "AttachNic",
            json!({ "mac": mac, "network": "other" }),
            &format!("cannot attach NIC {mac}: the guest has another NIC with this MAC address"),
        ),
        ("DetachNic", json!({}), "invalid argument: nic must have a mac or name"),
        ("DetachNic", json!({ "name": "lan" }), "cannot detach NIC lan: the guest has no such NIC"),
    ] {
        assert_eq!(bed.error(method, &device), why, "{method} {device}");
        assert_eq!(bed.everything(), before, "{method} {device}");
    }
    bed.is_now(&made);
    for (method, device) in
        [("AttachDisk", "disk"), ("DetachDisk", "disk"), ("AttachNic", "nic"), ("DetachNic", "nic")]
    {
        let device = (device, json!({ "device": "vda", "size": 1, "mac": mac }));
        let call = |guest: Value| {
            let answer =
                bed.agent.call_with(method, &json!({ "guest": guest, device.0: device.1 }));
            answer["error"].as_str().expect("an error").to_owned()
        };
        assert!(call(json!({ "id": "gone" })).starts_with("[Code-42] "), "{method}");
        assert_eq!(call(json!({})), "invalid argument", "{method}");
    }
    bed.end();
}

#[test]
fn too_many_disks_and_nics_are_refused() {
    let Some(bed) = Bed::new("refused-more", 0x32) else { return };
    let mut guest = bed.guest(&json!([]));
    guest["nics"] = (1..=64).map(|number| bed.nic(number)).collect();
    bed.agent.ok("CreateGuest", &guest);
    let error = bed.error("AttachNic", &bed.nic(65));
    assert_eq!(error, "invalid argument: 65 nics; a guest can have at most 64");
    bed.end();
}

#[test]
fn lost_volume_is_not_recreated_for_its_disk() {
    let Some(bed) = Bed::new("refused-lost", 0x34) else { return };
    bed.made(&json!([{ "size": 1 }, { "size": 1 }]));
    fs::remove_file(bed.source(1)).expect("it is there");
    let before = bed.everything();
    let named = json!({ "volume": bed.volume(1), "size": 1 });
    assert_eq!(bed.error("AttachDisk", &named), "not found");
    assert_eq!(bed.everything(), before);
    // Nor is its name given to another disk.
    let answer = bed.ok("AttachDisk", &json!({ "size": 1 }));
    assert_eq!(answer["guest"]["disks"][2]["volume"], bed.volume(2));
    bed.end();
}

#[test]
fn duplicate_nic_name_identifies_no_nic() {
    let Some(bed) = Bed::new("refused-twins", 0x35) else { return };
    bed.made(&json!([]));
    for number in [2, 3] {
        let mut nic = bed.nic(number);
        nic["name"] = json!("lan");
        bed.ok("AttachNic", &nic);
    }
    let before = bed.everything();
    let error = bed.error("DetachNic", &json!({ "name": "lan" }));
    assert_eq!(error, "invalid argument: nic.name lan fits more than one NIC; set nic.mac");
    assert_eq!(bed.everything(), before);
    bed.ok("DetachNic", &json!({ "mac": bed.mac(3) }));
    bed.ok("DetachNic", &json!({ "name": "lan" }));
    bed.end();
}

#[test]
fn an_attach_that_libvirt_refuses_is_undone() {
    let Some(bed) = Bed::new("refused-undone", 0x33) else { return };
    let made = bed.made(&json!([{ "size": 1 }]));
    let before = bed.everything();
    let mut nic = bed.nic(2);
    nic["model"] = json!("no such model");
    let error = bed.error("AttachNic", &nic);
    assert!(error.ends_with(&format!(" (attach NIC {}; undone)", bed.mac(2))), "{error}");
    assert_eq!(bed.everything(), before);
    bed.is_now(&made);
    assert!(bed.agent.is_recovered());
    bed.end();
}

#[test]
fn driver_without_attach_is_an_error() {
    let store = Scratch::new();
    let storage = format!("directory:{}", store.path().display());
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--storage", &storage]);
    let guest =
        json!({ "id": "plain", "type": "test", "memory": 64, "cpu": 1, "disks": [{ "size": 1 }] });
    let made = agent.ok("CreateGuest", &guest)["guest"].take();
    let files = || {
        let mut found = Vec::new();
        files_below(store.path(), &mut found);
        found.sort();
        found
    };
    let before = files();
    let mac = "02:00:00:91:33:01";
    for (method, member, device, undone) in [
        ("AttachDisk", "disk", json!({ "size": 1 }), " (attach disk vdb; undone)"),
        ("DetachDisk", "disk", json!({ "device": "vda" }), ""),
        (
            "AttachNic",
            "nic",
            json!({ "network": "br0", "mac": mac }),
            " (attach NIC 02:00:00:91:33:01; undone)",
        ),
    ] {
        let answer =
            agent.call_with(method, &json!({ "guest": { "id": "plain" }, member: device }));
        let error = answer["error"].as_str().expect("an error");
        assert!(error.starts_with("[Code-3] ") && error.ends_with(undone), "{method}: {error}");
        assert_eq!(files(), before, "{method}");
        assert!(agent.is_recovered(), "{method}");
        assert_eq!(agent.ok("CreateGuest", &made)["guest"], made, "{method}");
    }
    agent.ok("Delete", &guest);
    agent.end();
}
