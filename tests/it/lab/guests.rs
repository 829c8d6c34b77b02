//! Guests whose disks are volumes. These run once more where qemu is a user of its own.

use std::{env, fs};

use serde_json::{Value, json};

use super::{Folder, Pool, SOON, device, run, virsh};
use crate::agent::Agent;
use crate::boot_sector::boots;
use crate::skip::require;
use crate::support::wait_until;

/// Creates and runs the folder's guest on its first volume; it as Run answered, when it writes.
pub(super) fn running(agent: &Agent, folder: &Folder) -> Value {
    let source = folder.make_bootable(0, 16);
    let asked = json!({
        "id": folder.guest, "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "network": "mistify0", "mac": mac(folder) }],
        "disks": [{ "source": source }],
    });
    let made = agent.ok("CreateGuest", &asked)["guest"].take();
    let ran = agent.ok("Run", &made)["guest"].take();
    wait_until("the guest writes to its volume", SOON, || writes(agent, &ran) > 0);
    ran
}

/// An address that no other guest of these tests has.
fn mac(folder: &Folder) -> String {
    let number: u8 = folder.guest.rsplit('-').next().and_then(|n| n.parse().ok()).expect("fresh");
    format!("02:00:00:00:30:{number:02x}")
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
fn a_guest_boots_from_a_volume_that_was_handed_in_and_leaves_it() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let (folder, agent) = (pool.folder(), pool.agent());
    let guest = running(&agent, &folder);
    let before = folder.listing();
    let device = device(&folder.volume(0));
    assert_eq!(qemu_user(&folder.guest), env::var("MISTIFY_TEST_QEMU_USER").expect("in the lab"));

    let first = writes(&agent, &guest);
    wait_until("its writes are counted", SOON, || writes(&agent, &guest) > first);

    assert_eq!(agent.ok("Poweroff", &guest)["guest"]["state"], "shutoff");
    assert_eq!(boots(&device).expect("the volume can be read"), 1, "what it wrote is there");
    agent.ok("Delete", &guest);
    assert!(!virsh(&["list", "--all", "--name"]).contains(&folder.guest));
    assert_eq!(folder.listing(), before, "the volume was the caller's");
    assert!(before.contains(&folder.volume(0)), "{before}");
}
