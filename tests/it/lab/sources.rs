//! Which disk sources the agent takes where the links of real volumes lead.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::{Pool, device, virsh};
use crate::harness::agent::Agent;
use crate::harness::skip::require;

/// CreateGuest with this source; its error, after it has left nothing.
fn refusal(agent: &Agent, id: &str, source: &Path) -> String {
    let error = agent.error("CreateGuest", &guest(id, source));
    assert!(!virsh(&["list", "--all", "--name"]).lines().any(|name| name == id), "{source:?}");
    error
}

fn guest(id: &str, source: &Path) -> Value {
    json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "source": source }] })
}

#[test]
fn volume_of_the_pool_is_accepted_by_its_link() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let (directory, agent) = (pool.directory(), pool.agent());
    let device = directory.make_bootable(0, 16);
    agent.ok("CreateGuest", &guest(&directory.guest, &device));
    let xml = virsh(&["dumpxml", &directory.guest]);
    assert!(xml.contains(&format!("<source dev='{}'/>", device.display())), "{xml}");
    agent.ok("Delete", &json!({ "id": directory.guest }));
}

#[test]
fn link_out_of_the_pool_is_refused() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let Some(other) = require("lab", Pool::own(64)) else { return };
    let (directory, agent) = (pool.directory(), pool.agent());
    let tree = Path::new("/dev/zvol").join(&pool.name);
    let volume = directory.make_bootable(0, 16);
    let lender = other.directory();
    let foreign = lender.make_bootable(0, 16);
    let to_disk = volume.with_file_name("vda");
    symlink("/dev/vda", &to_disk).expect("the tree is a directory");
    let to_foreign = volume.with_file_name("foreign");
    symlink(foreign.canonicalize().expect("the link leads to it"), &to_foreign).expect("as above");

    for source in [
        Path::new("/dev/vda"),
        &tree.join("../../vda"),
        &tree.join("guests/../../../vda"),
        &to_disk,
        &foreign,
        // A device says itself whose volume it is.
        &to_foreign,
        &tree.join("..").join(&other.name).join("guests"),
        // Not by its number: that is another volume's after the next boot.
        &volume.canonicalize().expect("the link leads to it"),
        &device(&format!("{}-2/disk-0", pool.name)),
    ] {
        let error = refusal(&agent, &directory.guest, source);
        assert!(error.contains("disk source outside "), "{source:?}: {error}");
    }
}

#[test]
fn volume_link_swapped_after_create_prevents_start() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let Some(other) = require("lab", Pool::own(64)) else { return };
    let (directory, agent) = (pool.directory(), pool.agent());
    let device = directory.make_bootable(0, 16);
    let lender = other.directory();
    let foreign = lender.make_bootable(0, 16);
    let guest = guest(&directory.guest, &device);
    agent.ok("CreateGuest", &guest);
    let udevs = fs::read_link(&device).expect("udev made it");
    let swap = |target: &Path| {
        fs::remove_file(&device).expect("it is there");
        symlink(target, &device).expect("the tree is a directory");
    };
    for target in [Path::new("/dev/vda"), &foreign] {
        swap(target);
        let error = agent.error("Run", &guest);
        assert!(error.contains("disk source outside "), "{target:?}: {error}");
    }
    fs::remove_file(&device).expect("it is there");
    let error = agent.error("Run", &guest);
    assert!(error.ends_with(&format!(" (missing: vda {})", device.display())), "{error}");
    symlink(udevs, &device).expect("the tree is a directory");
    assert_eq!(agent.ok("Run", &guest)["guest"]["state"], "running");
    agent.ok("Poweroff", &guest);
    agent.ok("Delete", &guest);
}
