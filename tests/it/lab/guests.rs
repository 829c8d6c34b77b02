//! Guests whose disks are volumes. These run once more where qemu is a user of its own.

use std::{env, fs};

use serde_json::{Value, json};

use super::{Directory, LIBVIRT, Pool, SOON, device, is_block_device, listing, run, virsh, zfs};
use crate::harness::agent::Agent;
use crate::harness::boot_sector::{boot_sector, boots};
use crate::harness::image_store::Bed;
use crate::harness::skip::require;
use crate::harness::support::wait_until;
use crate::storage::images::resize;

/// Creates and runs the directory's guest on its first volume; it as Run answered, when it writes.
pub(super) fn running(agent: &Agent, directory: &Directory) -> Value {
    let source = directory.make_bootable(0, 16);
    let asked = json!({
        "id": directory.guest, "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "network": "mistify0", "mac": directory.mac() }],
        "disks": [{ "source": source }],
    });
    let made = agent.ok("CreateGuest", &asked)["guest"].take();
    let ran = agent.ok("Run", &made)["guest"].take();
    wait_until("the guest writes to its volume", SOON, || writes(agent, &ran) > 0);
    ran
}

/// The guest's writes to its first disk so far.
pub(super) fn writes(agent: &Agent, guest: &Value) -> i64 {
    let answer = agent.ok("DiskMetrics", guest);
    answer["disk"]["vda"]["write_ops"].as_i64().expect("a count")
}

/// Whom the guest's process belongs to.
fn qemu_user(id: &str) -> String {
    let pid = fs::read_to_string(format!("/run/libvirt/qemu/{id}.pid")).expect("it runs");
    run("ps", &["-o", "user:32=", "-p", pid.trim()]).trim().to_owned()
}

#[test]
fn guest_boots_from_a_given_volume_and_leaves_it() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let (directory, agent) = (pool.directory(), pool.agent());
    let guest = running(&agent, &directory);
    let before = directory.listing();
    let device = device(&directory.volume(0));
    assert_eq!(
        qemu_user(&directory.guest),
        env::var("MISTIFY_TEST_QEMU_USER").expect("in the lab")
    );

    let first = writes(&agent, &guest);
    wait_until("its writes are counted", SOON, || writes(&agent, &guest) > first);

    assert_eq!(agent.ok("Poweroff", &guest)["guest"]["state"], "shutoff");
    assert_eq!(boots(&device).expect("the volume can be read"), 1, "what it wrote is there");
    agent.ok("Delete", &guest);
    assert!(!virsh(&["list", "--all", "--name"]).contains(&directory.guest));
    assert_eq!(directory.listing(), before, "the volume was the caller's");
    assert!(before.contains(&directory.volume(0)), "{before}");
}

#[test]
fn guest_boots_from_a_clone_and_leaves_the_pool_as_is() {
    let Some(pool) = require("lab", Pool::own(256)) else { return };
    let (name, directory) = (pool.name.clone(), pool.directory());
    zfs(&["create", "-o", "mountpoint=none", &format!("{name}/guests")]);
    let bed = Bed::on(LIBVIRT, Some(pool));
    assert!(bed.import("bootable", &boot_sector(), 4));
    let before = listing(&name);

    let asked = json!({
        "id": directory.guest, "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "network": "mistify0", "mac": directory.mac() }],
        "disks": [{ "image": "bootable", "size": 16 }, { "size": 8 }],
    });
    let made = bed.agent.ok("CreateGuest", &asked)["guest"].take();
    for index in [0, 1] {
        let device = device(&directory.volume(index));
        assert!(is_block_device(&device), "as soon as CreateGuest has answered");
        assert_eq!(made["disks"][index]["source"], device.display().to_string());
    }
    let ran = bed.agent.ok("Run", &made)["guest"].take();
    wait_until("its writes are counted", SOON, || writes(&bed.agent, &ran) > 0);
    assert_eq!(
        qemu_user(&directory.guest),
        env::var("MISTIFY_TEST_QEMU_USER").expect("in the lab")
    );
    bed.agent.ok("Poweroff", &ran);
    assert_eq!(boots(&device(&directory.volume(0))).expect("the volume can be read"), 1);

    bed.agent.ok("Delete", &ran);
    assert_eq!(listing(&name), before);
    assert!(!virsh(&["list", "--all", "--name"]).contains(&directory.guest));
    bed.agent.end();
}

#[test]
fn guest_sees_its_volume_grow_and_refuses_rollback() {
    let Some(pool) = require("lab", Pool::own(256)) else { return };
    let bed = Bed::on(LIBVIRT, Some(pool));
    resize::a_guest_sees_its_disk_grow_and_is_not_rolled_back_under_way(bed, virsh);
}
