//! CD-ROMs of guests, and what lies in them.

use std::fs;

use serde_json::{Value, json};

use crate::harness::image_store::Bed;
use crate::harness::linux::{Console, SMALL_MIB, iso};
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::Scratch;

/// For what libvirt's test driver can do: it changes no media.
const DRIVER: &str = "test:///default";

/// A guest with these disks.
fn guest(id: &str, disks: &Value) -> Value {
    json!({ "id": id, "type": "qemu", "memory": SMALL_MIB, "cpu": 1, "disks": disks })
}

/// What InsertMedia and EjectMedia say.
fn change(bed: &Bed, verb: &str, id: &str, disk: &Value) -> Value {
    let answer = bed.agent.call_with(verb, &json!({ "guest": { "id": id }, "disk": disk }));
    assert!(answer["error"].is_null(), "{verb} {disk}: {answer}");
    answer["result"].clone()
}

fn refused(bed: &Bed, verb: &str, id: &str, disk: &Value) -> String {
    let answer = bed.agent.call_with(verb, &json!({ "guest": { "id": id }, "disk": disk }));
    answer["error"].as_str().unwrap_or_else(|| panic!("{verb} {disk}: {answer}")).to_owned()
}

/// The path of the medium that Describe shows, and the image that CreateGuest would be answered.
fn medium(bed: &Bed, id: &str) -> String {
    let described = bed.agent.ok("Describe", &json!({ "id": id }));
    let mut disks = described["devices"]["disks"].as_array().expect("disks").iter();
    let drive = disks.find(|disk| disk["device"] == "cdrom").expect("a CD-ROM");
    drive["source"]["file"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_guest_starts_from_an_iso_and_media_are_changed() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let (Some(hybrid), Some(plain)) =
        (require("qemu", iso("hybrid")), require("qemu", iso("plain")))
    else {
        return;
    };
    let files = Scratch::new();
    let other = files.path().join("plain.iso");
    fs::copy(plain, &other).expect("a copy");
    let directory = files.path().to_str().expect("UTF-8").to_owned();
    let bed = Bed::with_flags(&stack.uri(), None, &["--allow-disk-path", &directory]);
    if !bed.import("installer", &fs::read(hybrid).expect("an ISO"), 40) {
        return;
    }
    let disks = json!([{ "size": 8 }, { "kind": "cdrom", "image": "installer", "boot_order": 1 }]);
    let guest = guest("from-iso", &disks);
    let made = bed.agent.ok("CreateGuest", &guest)["guest"].take();
    assert_eq!(
        (&made["disks"][0]["device"], &made["disks"][1]["device"]),
        (&json!("vda"), &json!("sda"))
    );
    assert_eq!(bed.agent.ok("CreateGuest", &made)["guest"], made, "the same again");
    bed.agent.ok("Run", &guest);
    let mut console = Console::log_in(stack, "from-iso");
    console.run("mkdir -p /cd; mount -t iso9660 /dev/sr0 /cd");
    assert_eq!(console.run("cat /cd/flavour"), "hybrid\n");
    assert!(console.run("touch /cd/x 2>&1 || true").contains("Read-only"));
    let why = bed.error("DeleteImage", &json!({ "id": "installer" }));
    assert!(why.contains("guest from-iso uses it"), "{why}");

    // The system has locked the tray.
    let locked = change(&bed, "EjectMedia", "from-iso", &json!({}));
    assert_eq!(locked["live"], false, "{locked}");
    assert_eq!(bed.agent.ok("Describe", &guest)["pending"], json!(["disks"]));
    console.run("umount /cd");
    console.run("echo 0 >/proc/sys/dev/cdrom/lock; eject /dev/sr0 2>/dev/null; true");
    let ejected = change(&bed, "EjectMedia", "from-iso", &json!({}));
    assert_eq!((&ejected["live"], medium(&bed, "from-iso")), (&json!(true), String::new()));
    let inserted = change(&bed, "InsertMedia", "from-iso", &json!({ "source": other }));
    assert_eq!(inserted["live"], true, "{inserted}");
    assert_eq!(medium(&bed, "from-iso"), other.to_str().expect("UTF-8"));
    console.wait_for("mount -t iso9660 /dev/sr0 /cd; cat /cd/flavour; true", "plain");
    assert_eq!(
        change(&bed, "InsertMedia", "from-iso", &json!({ "source": other }))["live"],
        true,
        "again"
    );
    bed.agent.ok("Delete", &guest);
    assert!(other.exists(), "a medium is no guest's own");
    bed.ok("DeleteImage", &json!({ "id": "installer" }));
}

#[test]
fn a_plain_iso_starts_a_guest_of_the_profile_classic() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(plain) = require("qemu", iso("plain")) else { return };
    let files = Scratch::new();
    let copy = files.path().join("plain.iso");
    fs::copy(plain, &copy).expect("a copy");
    let directory = files.path().to_str().expect("UTF-8").to_owned();
    let flags = ["--allow-disk-path", &directory, "--guest-profile", "classic"];
    let bed = Bed::with_flags(&stack.uri(), None, &flags);
    let guest = guest("plain", &json!([{ "kind": "cdrom", "source": copy, "boot_order": 1 }]));
    let made = bed.agent.ok("CreateGuest", &guest)["guest"].take();
    assert_eq!(made["disks"][0]["bus"], "sata");
    bed.agent.ok("Run", &guest);
    let mut console = Console::log_in(stack, "plain");
    assert_eq!(console.run("hostname"), "small\n");
    bed.agent.ok("Delete", &guest);
}

#[test]
fn media_of_an_off_guest_are_attached_at_its_start() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let directory = Scratch::new();
    let path = directory.path().to_str().expect("UTF-8").to_owned();
    let bed = Bed::with_flags(&stack.uri(), None, &["--allow-disk-path", &path]);
    let iso = directory.path().join("a.iso");
    fs::write(&iso, vec![0; 1 << 20]).expect("an ISO");
    let guest = guest("off", &json!([{ "kind": "cdrom" }]));
    let made = bed.agent.ok("CreateGuest", &guest)["guest"].take();
    assert_eq!(bed.agent.ok("CreateGuest", &made)["guest"], made, "an empty drive");
    let inserted = change(&bed, "InsertMedia", "off", &json!({ "source": iso }));
    assert_eq!(
        (&inserted["live"], &inserted["message"]),
        (&json!(false), &json!("the guest is off"))
    );
    assert_eq!(medium(&bed, "off"), iso.to_str().expect("UTF-8"));
    let mut with_it = guest.clone();
    with_it["disks"][0]["source"] = json!(iso);
    bed.agent.ok("CreateGuest", &with_it);
    change(&bed, "EjectMedia", "off", &json!({ "device": "sda" }));
    assert_eq!(medium(&bed, "off"), "");
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("Delete", &guest);
}

#[test]
fn a_medium_that_cannot_be_is_refused() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let directory = Scratch::new();
    let path = directory.path().to_str().expect("UTF-8").to_owned();
    let bed = Bed::with_flags(&stack.uri(), None, &["--allow-disk-path", &path]);
    if !bed.import("image", b"bytes", 1) {
        return;
    }
    let drive = guest("drive", &json!([{ "size": 1 }, { "kind": "cdrom" }]));
    bed.agent.ok("CreateGuest", &drive);
    let volume = bed.path("guests/drive/disk-0");
    let absent = directory.path().join("absent.iso");
    for (disk, begins) in [
        (json!({}), "invalid argument: disk must have an image or a source"),
        (json!({ "image": "absent" }), "disk.image: there is no image absent"),
        (json!({ "source": "/etc/passwd" }), "disk source outside "),
        (json!({ "source": volume }), "disk.source "),
        (json!({ "source": absent }), "disk.source "),
        (json!({ "image": "image", "device": "vda" }), "the guest has no CD-ROM vda"),
        (json!({ "image": "image", "bus": "scsi" }), "disk: InsertMedia takes device, "),
    ] {
        let why = refused(&bed, "InsertMedia", "drive", &disk);
        let why = why.trim_start_matches("invalid argument: ");
        assert!(why.starts_with(begins.trim_start_matches("invalid argument: ")), "{disk}: {why}");
    }
    assert_eq!(medium(&bed, "drive"), "");
    for (disk, why) in [
        (json!({ "kind": "floppy" }), "\"floppy\" is not supported; use disk, cdrom"),
        (json!({ "kind": "cdrom", "size": 1 }), "a CD-ROM has none of them"),
        (json!({ "kind": "cdrom", "format": "qcow2" }), "disks[0].format"),
        (json!({ "kind": "cdrom", "image": "absent" }), "there is no image absent"),
        (json!({ "size": 1, "format": "qcow2" }), "disks[0].format"),
    ] {
        let mut other = drive.clone();
        other["id"] = json!("other");
        other["disks"] = json!([disk]);
        let reported = bed.agent.error("CreateGuest", &other);
        assert!(reported.contains(why), "{disk}: {reported}");
        let plan = json!({ "guest": other, "dry_run": true });
        let plan = bed.agent.call_with("CreateGuest", &plan)["result"]["plan"].take();
        assert!(plan["problems"].to_string().contains(&why.replace('"', "\\\"")), "{disk}: {plan}");
    }
    bed.agent.ok("Delete", &drive);
    bed.ok("GetImage", &json!({ "id": "image" }));
}

#[test]
fn a_source_is_qcow2_where_the_request_says_so() {
    if require("qemu", crate::harness::image_store::qemu_img()).is_none() {
        return;
    }
    let directory = Scratch::new();
    let path = directory.path().to_str().expect("UTF-8").to_owned();
    let bed = Bed::with_flags(DRIVER, None, &["--allow-disk-path", &path]);
    let make = |words: &[&str]| {
        let made = std::process::Command::new("qemu-img")
            .args(words)
            .current_dir(directory.path())
            .output();
        assert!(made.as_ref().is_ok_and(|it| it.status.success()), "{made:?}");
    };
    make(&["create", "-q", "-f", "qcow2", "base.qcow2", "1M"]);
    make(&["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "over.qcow2"]);
    make(&["create", "-q", "-f", "raw", "disk.raw", "1M"]);
    let with = |name: &str, format: &str| {
        let source = directory.path().join(name);
        let mut disk = json!({ "source": source });
        if !format.is_empty() {
            disk["format"] = json!(format);
        }
        let mut guest = guest("formats", &json!([disk]));
        guest["type"] = json!("test");
        guest
    };
    for (name, format, why) in [
        ("base.qcow2", "", "is qcow2, not raw"),
        ("over.qcow2", "qcow2", "the disk needs another file"),
        ("disk.raw", "qcow2", "is not qcow2"),
        ("base.qcow2", "vmdk", "\"vmdk\" is not supported; use raw, qcow2"),
    ] {
        let reported = bed.agent.error("CreateGuest", &with(name, format));
        assert!(reported.contains(why), "{name} {format}: {reported}");
    }
    for (name, format) in [("base.qcow2", "qcow2"), ("base.qcow2", "raw"), ("disk.raw", "raw")] {
        let guest = with(name, format);
        bed.agent.ok("CreateGuest", &guest);
        let described = bed.agent.ok("Describe", &guest);
        assert_eq!(described["devices"]["disks"][0]["driver"]["type"], format, "{name}");
        bed.agent.ok("CreateGuest", &guest);
        bed.agent.ok("Delete", &guest);
    }
}
