//! Volumes that come and go with their guest, through the agent: one body of claims for both
//! stores. They run on a directory store everywhere, and on the pool that `MISTIFY_TEST_ZPOOL`
//! names where there is one.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::{Skip, require};
use crate::harness::support::{Scratch, wait_for, wait_until};

/// Longer than a loaded machine needs for what takes milliseconds.
const SOON: Duration = Duration::from_secs(60);

/// An agent on libvirt's test driver with a store.
struct Bed {
    agent: Agent,
    pool: String,
    /// The directory store's directory; none for zfs.
    directory: Option<Scratch>,
}

impl Bed {
    fn on_directory() -> Self {
        let directory = Scratch::new();
        let store = format!("directory:{}", directory.path().display());
        let agent = Agent::start(&["--libvirt-uri", "test:///default", "--storage", &store]);
        Self { agent, pool: "mistify".to_owned(), directory: Some(directory) }
    }

    fn on_zpool() -> Option<Self> {
        crate::harness::cost::slow("runs in an emulated machine");
        let none = |_| Skip("MISTIFY_TEST_ZPOOL names no pool: make test-lab".to_owned());
        let pool = require("lab", std::env::var("MISTIFY_TEST_ZPOOL").map_err(none))?;
        let agent = Agent::start(&["--libvirt-uri", "test:///default", "--zpool", &pool]);
        Some(Self { agent, pool, directory: None })
    }

    /// Makes a volume of 8 MiB that has no mark, as an orchestrator's own; its path.
    fn unmarked(&self, name: &str) -> PathBuf {
        let Some(directory) = &self.directory else {
            let dataset = format!("{}/{name}", self.pool);
            let path = Path::new("/dev/zvol").join(&dataset);
            zfs(&["create", "-p", "-V", "8M", &dataset]);
            wait_until("its device is there", SOON, || path.exists());
            return path;
        };
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        let file = fs::File::create(&path).expect("it can be made");
        file.set_len(8 << 20).expect("it can grow");
        path
    }

    /// Removes it.
    fn remove(&self, name: &str) {
        match &self.directory {
            Some(directory) => fs::remove_file(directory.path().join(name)).expect("it is there"),
            None => zfs(&["destroy", &format!("{}/{name}", self.pool)]),
        }
    }

    /// Returns the volumes and snapshots of a guest, by name.
    fn volumes(&self, id: &str) -> Vec<String> {
        let guest = format!("guests/{id}");
        let Some(directory) = &self.directory else {
            let dataset = format!("{}/{guest}", self.pool);
            let words = ["list", "-Hpr", "-o", "name", "-t", "volume,snapshot", &dataset];
            let output = Command::new("zfs").args(words).output().expect("zfs starts");
            return String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        };
        let Ok(entries) = fs::read_dir(directory.path().join(&guest)) else { return Vec::new() };
        let names = entries.map(|entry| entry.expect("readable").file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn zfs(words: &[&str]) {
    let done = || Command::new("zfs").args(words).status().is_ok_and(|status| status.success());
    // udev may have a device open for a moment.
    wait_until("zfs does it", SOON, done);
}

fn guest(id: &str, disks: &Value) -> Value {
    json!({ "id": id, "type": "test", "memory": 64, "cpu": 1, "disks": disks })
}

fn is_size(source: &Value, mib: u64) -> bool {
    let path = source.as_str().expect("a path");
    let meta = fs::metadata(path).expect("the device is there");
    if meta.file_type().is_block_device() {
        let output = Command::new("blockdev").args(["--getsize64", path]).output();
        let output = output.expect("blockdev starts").stdout;
        return String::from_utf8_lossy(&output).trim() == (mib << 20).to_string();
    }
    meta.is_file() && meta.len() == mib << 20
}

fn a_blank_disk_is_made_named_and_gone_with_its_guest(bed: &Bed) {
    let asked = guest("v-blank", &json!([{ "size": 8 }, { "size": 16 }]));
    let made = bed.agent.ok("CreateGuest", &asked)["guest"].take();
    for (index, mib) in [8, 16].into_iter().enumerate() {
        let disk = &made["disks"][index];
        assert_eq!(disk["volume"], format!("{}/guests/v-blank/disk-{index}", bed.pool));
        assert_eq!((&disk["bus"], &disk["size"]), (&json!("virtio"), &json!(mib)));
        assert!(is_size(&disk["source"], mib), "{disk}");
    }
    assert!(!bed.volumes("v-blank").is_empty());
    bed.agent.ok("Delete", &made);
    assert_eq!(bed.volumes("v-blank"), [""; 0]);
}

fn same_guest_is_the_same_answer_and_another_is_none(bed: &Bed) {
    let asked = guest("v-again", &json!([{ "size": 8 }]));
    let made = bed.agent.ok("CreateGuest", &asked);
    let there = bed.volumes("v-again");
    assert_eq!(bed.agent.ok("CreateGuest", &asked), made, "as it was asked");
    assert_eq!(bed.agent.ok("CreateGuest", &made["guest"]), made, "as it was answered");
    for disks in [json!([{ "size": 16 }]), json!([{ "size": 8 }, { "size": 8 }]), json!([])] {
        let error = bed.agent.error("CreateGuest", &guest("v-again", &disks));
        assert!(error.starts_with("[Code-9] "), "{disks}: {error}");
    }
    assert_eq!(bed.volumes("v-again"), there);
    bed.agent.ok("Delete", &asked);
    assert_eq!(bed.volumes("v-again"), [""; 0]);
}

fn a_failure_at_any_step_leaves_no_volume(bed: &Bed) {
    let mut broken = guest("v-half", &json!([{ "size": 8 }]));
    broken["type"] = json!("nonsense");
    let error = bed.agent.error("CreateGuest", &broken);
    assert!(error.ends_with(" (define domain v-half; undone)"), "{error}");
    assert_eq!(bed.volumes("v-half"), [""; 0]);

    let taken = json!([{ "network": "br0", "mac": "02:00:00:00:40:01", "vlans": [1] }]);
    let mut owner = guest("v-owner", &json!([]));
    owner["nics"] = taken.clone();
    bed.agent.ok("CreateGuest", &owner);
    let mut netless = guest("v-half", &json!([{ "size": 8 }]));
    netless["nics"] = taken;
    let error = bed.agent.error("CreateGuest", &netless);
    assert!(error.ends_with(" (create network 02:00:00:00:40:01; undone)"), "{error}");
    assert_eq!(bed.volumes("v-half"), [""; 0]);
    bed.agent.ok("Delete", &owner);

    for (disks, expected) in [
        (json!([{ "size": 8 }, { "image": "v-absent" }]), "not found"),
        (json!([{ "size": 8 }, { "size": 1_u64 << 40 }]), "no space left on device"),
        (json!([{ "size": 8 }, {}]), "invalid argument: disks[1] must have an image or a size"),
    ] {
        let error = bed.agent.error("CreateGuest", &guest("v-half", &disks));
        assert!(error.starts_with(expected), "{disks}: {error}");
        assert_eq!(bed.volumes("v-half"), [""; 0], "{disks}");
    }
    assert!(bed.agent.error("Status", &broken).starts_with("[Code-42] "));
}

fn a_source_that_was_handed_in_stays(bed: &Bed) {
    const NAME: &str = "guests/v-lender/disk-0";
    let source = json!(bed.unmarked(NAME));
    let asked = guest("v-borrower", &json!([{ "source": source }, { "size": 8 }]));
    let made = bed.agent.ok("CreateGuest", &asked)["guest"].take();
    assert_eq!(made["disks"][0]["source"], source);
    assert_eq!(made["disks"][1]["volume"], format!("{}/guests/v-borrower/disk-1", bed.pool));
    bed.agent.ok("Delete", &made);
    assert_eq!(bed.volumes("v-borrower"), [""; 0]);
    assert!(is_size(&source, 8));
    bed.remove(NAME);
}

fn volumes_whose_domain_is_gone_are_deleted(bed: &Bed) {
    // The agent's libvirt ends with it; its volumes do not.
    let asked = guest("v-orphan", &json!([{ "size": 8 }]));
    bed.agent.ok("CreateGuest", &asked);
    let there = bed.volumes("v-orphan");
    let store = bed.directory.as_ref().map(|it| format!("directory:{}", it.path().display()));
    let next = Agent::start(&[
        "--libvirt-uri",
        "test:///default",
        "--zpool",
        &bed.pool,
        "--storage",
        store.as_deref().unwrap_or("zfs"),
    ]);
    assert_eq!(bed.volumes("v-orphan"), there);
    next.ok("Delete", &asked);
    assert_eq!(bed.volumes("v-orphan"), [""; 0]);
    assert!(next.error("Delete", &asked).starts_with("[Code-42] "));
    let error = bed.agent.error("CreateGuest", &asked);
    assert!(error.starts_with("not found"), "its volume is gone, and not made anew: {error}");
}

fn health_shows_store_usage_and_start_creates_it(bed: &Bed) {
    // A loaded machine serves before its first look at the store.
    let storage = wait_for("a look at the store", SOON, || {
        Some(bed.agent.health().1["storage"].take()).filter(|it| !it["usable"].is_null())
    });
    assert_eq!((&storage["usable"], &storage["error"]), (&json!(true), &Value::Null));
    assert!(storage["free_bytes"].as_u64().is_some_and(|free| free > 0), "{storage}");
    let Some(directory) = &bed.directory else {
        for name in ["guests", "images"] {
            let dataset = format!("{}/{name}", bed.pool);
            let words = ["get", "-Ho", "value", "mounted", &dataset];
            let output = Command::new("zfs").args(words).output().expect("zfs starts");
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "no", "{output:?}");
        }
        return;
    };
    assert!(directory.path().join("guests").is_dir() && directory.path().join("images").is_dir());
}

/// Makes a test of each claim for each store.
macro_rules! on_both_stores {
    ($($claim:ident)*) => {
        mod directory {
            $(#[test]
            fn $claim() {
                super::$claim(&super::Bed::on_directory());
            })*
        }

        mod zpool {
            $(#[test]
            fn $claim() {
                let Some(bed) = super::Bed::on_zpool() else { return };
                super::$claim(&bed);
            })*
        }
    };
}

on_both_stores! {
    a_blank_disk_is_made_named_and_gone_with_its_guest
    same_guest_is_the_same_answer_and_another_is_none
    a_failure_at_any_step_leaves_no_volume
    a_source_that_was_handed_in_stays
    volumes_whose_domain_is_gone_are_deleted
    health_shows_store_usage_and_start_creates_it
}

#[test]
fn without_zfs_given_sources_work_and_others_say_why() {
    if std::env::var("MISTIFY_TEST_ZPOOL").is_ok() {
        return;
    }
    let agent = Agent::on_test_driver();
    let error = agent.error("CreateGuest", &guest("v-none", &json!([{ "size": 8 }])));
    assert!(error.contains("zfs is not installed"), "{error}");
    let health = wait_for("a look at the store", SOON, || {
        Some(agent.health().1).filter(|health| !health["storage"]["usable"].is_null())
    });
    assert_eq!((&health["status"], &health["storage"]["usable"]), (&json!("ok"), &json!(false)));
    let error = health["storage"]["error"].as_str().expect("what is missing");
    assert!(error.contains("zfs is not installed"), "{error}");
    let given = guest("v-given", &json!([{ "source": "/dev/zvol/mistify/guests/v/disk-0" }]));
    agent.ok("CreateGuest", &given);
    agent.ok("Delete", &given);
    assert!(agent.error("Delete", &given).starts_with("[Code-42] "));
}
