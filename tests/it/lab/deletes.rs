//! Deletes that cannot be whole: the rest is done, and the error names who keeps what.

use serde_json::{Value, json};

use super::{Directory, Pool, device, quietly, virsh, zfs};
use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::storage::store::Holder;

/// Creates the directory's guest with a NIC and two blank disks, and a snapshot of the first.
fn guest(agent: &Agent, directory: &Directory) -> Value {
    let asked = json!({
        "id": directory.guest, "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "network": "mistify0", "mac": directory.mac() }],
        "disks": [{ "size": 8 }, { "size": 8 }],
    });
    let made = agent.ok("CreateGuest", &asked)["guest"].take();
    zfs(&["snapshot", &format!("{}@monday", directory.volume(0))]);
    made
}

/// The domain and its network are gone, and of the volumes the first is left with its snapshot.
fn check_rest_is_gone(directory: &Directory) {
    assert!(!virsh(&["list", "--all", "--name"]).contains(&directory.guest));
    assert!(!virsh(&["net-list", "--all", "--name"]).contains(&directory.mac()));
    let left = directory.listing();
    assert!(left.contains(&format!("{}@monday", directory.volume(0))), "{left}");
    assert!(!left.contains(&directory.volume(1)), "{left}");
}

/// Repeats an incomplete Delete, unless the agent has finished it by itself already.
fn finish(agent: &Agent, guest: &Value) {
    let error = agent.call("Delete", guest)["error"].take();
    assert!(error.as_str().is_none_or(|error| error.starts_with("[Code-42] ")), "{error}");
}

#[test]
fn a_live_clone_keeps_its_origin_and_is_named() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let (directory, other, agent) = (pool.directory(), pool.directory(), pool.agent());
    let made = guest(&agent, &directory);
    let clone = other.volume(0);
    zfs(&["clone", "-p", &format!("{}@monday", directory.volume(0)), &clone]);

    let error = agent.error("Delete", &made);
    assert!(error.contains(&format!("{} has clones: {clone}", directory.volume(0))), "{error}");
    check_rest_is_gone(&directory);
    assert!(other.listing().contains(&clone));

    drop(other);
    finish(&agent, &made);
    assert_eq!(directory.listing(), "");
}

#[test]
fn open_volume_stays_with_snapshots_and_names_reader() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let (directory, agent) = (pool.directory(), pool.agent());
    let made = guest(&agent, &directory);
    let reader = Holder::of_device(&device(&directory.volume(0)));

    let error = agent.error("Delete", &made);
    let why = format!("{} is in use by {}", directory.volume(0), reader.name());
    assert!(error.contains(&why), "{error}");
    check_rest_is_gone(&directory);

    drop(reader);
    finish(&agent, &made);
    assert_eq!(directory.listing(), "");
    assert!(!quietly("zfs", &["list", &directory.dataset]).status.success());
}
