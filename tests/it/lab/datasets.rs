//! A dataset in the place of the pool (`--zpool tank/sub`).

use serde_json::json;

use super::check::{Checked, check};
use super::{Pool, SOON, device, is_block_device, virsh, zfs};
use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::support::wait_until;

#[test]
fn a_dataset_serves_as_the_root_of_the_store() {
    let Some(pool) = require("lab", Pool::own(256)) else { return };
    let directory = pool.directory();
    let root = format!("{}/tenant/store", pool.name);

    let absent = Checked::by(check(&root));
    let fails = format!("fail dataset {root}: dataset {root} does not exist");
    assert_eq!(absent.line("storage"), fails);
    zfs(&["create", "-p", "-o", "mountpoint=none", &root]);
    let found = Checked::by(check(&root));
    assert_eq!(found.status, Some(0));
    let storage = found.line("storage");
    assert!(storage.starts_with(&format!("ok dataset {root}: ")), "{storage}");

    let agent = Agent::start(&["--zpool", &root, "--bridge-type", "linux"]);
    let is_usable = || agent.health().1["storage"]["usable"] == true;
    wait_until("the store is prepared", SOON, is_usable);
    let names = || zfs(&["list", "-Hr", "-o", "name", &root]);
    let empty = format!("{root}\n{root}/guests\n{root}/images\n");
    assert_eq!(names(), empty);

    let asked = json!({
        "id": directory.guest, "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "size": 8 }],
    });
    let made = agent.ok("CreateGuest", &asked)["guest"].take();
    let volume = format!("{root}/guests/{}/disk-0", directory.guest);
    assert_eq!(made["disks"][0]["volume"], volume);
    assert_eq!(made["disks"][0]["source"], device(&volume).display().to_string());
    assert!(is_block_device(&device(&volume)), "as soon as CreateGuest has answered");
    assert_eq!(agent.ok("CreateGuest", &asked)["guest"]["id"], directory.guest, "it is the same");
    assert_eq!(agent.ok("Run", &made)["guest"]["state"], "running");
    let found = Checked::by(check(&root));
    assert_eq!(found.status, Some(0));
    assert_eq!(found.line("mounts"), "ok no dataset of guests or images is mounted");

    agent.ok("Delete", &made);
    assert_eq!(names(), empty);
    assert!(!virsh(&["list", "--all", "--name"]).contains(&directory.guest));
    agent.end();
}

#[test]
fn check_finds_mounts_and_grants_of_a_dataset() {
    let Some(pool) = require("lab", Pool::own(64)) else { return };
    let root = format!("{}/tenant", pool.name);
    // In the place of the pool's own guests, which are not this agent's.
    zfs(&["create", &format!("{}/guests", pool.name)]);
    zfs(&["create", "-p", &format!("{root}/guests")]);
    let found = Checked::by(check(&root));
    assert_eq!(found.line("mounts"), format!("warn {root}/guests is mounted"));
    found.follow("mounts");
    let after = Checked::by(check(&root));
    assert_eq!(after.line("mounts"), "ok no dataset of guests or images is mounted");

    let by_nobody = || Checked::by(super::check::as_nobody(check(&root)));
    // Also what the pool allows below itself.
    zfs(&["allow", "-d", "-u", "nobody", "create,destroy", &pool.name]);
    let lacking = by_nobody().line("allowed");
    let begin = "fail user 65534 (nobody) lacks the permissions mount, ";
    assert!(lacking.starts_with(begin), "{lacking}");
    by_nobody().follow("allowed");
    let after = by_nobody().line("allowed");
    assert_eq!(after, format!("ok user 65534 (nobody) has the required permissions on {root}"));
}
