//! The agent killed and started again, as in [`crate::recovery::crash`], with its disks on ZFS.

use std::time::Duration;

use super::{LIBVIRT, Pool, run, virsh};
use crate::harness::skip::require;
use crate::recovery::crash::{
    Bed, Host, a_command_outlives_its_agent, attach_is_undone, create_is_undone,
    delete_is_finished, delete_meets, leftovers_go, random_kills, undo_meets,
};

/// Fewer than with a directory: here each takes seconds.
const KILLS: u32 = 20;
/// As long as a create and a delete take on the emulated machine.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// The machine's libvirtd and a pool of the test's own.
struct OnZfs(Pool);

impl Host for OnZfs {
    fn uri(&self) -> String {
        LIBVIRT.to_owned()
    }

    fn storage(&self) -> [String; 2] {
        ["--zpool", &self.0.name].map(str::to_owned)
    }

    fn virsh(&self, words: &[&str]) -> String {
        virsh(words)
    }

    fn stored(&self) -> Vec<String> {
        self.0.listing().lines().map(str::to_owned).collect()
    }
}

#[test]
fn create_killed_at_any_write_rolls_back_and_succeeds() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    create_is_undone(&Bed::new(&OnZfs(pool), "crash-create", 0x71));
}

#[test]
fn delete_killed_at_any_write_completes_or_is_undone() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    delete_is_finished(&Bed::new(&OnZfs(pool), "crash-delete", 0x72));
}

#[test]
fn disk_attach_killed_at_any_write_is_all_or_nothing() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    attach_is_undone(&Bed::new(&OnZfs(pool), "crash-attach", 0x74), "Disk");
}

#[test]
fn random_kills_leave_whole_guests_and_nothing_else() {
    let Some(pool) = require("lab", Pool::own(256)) else { return };
    random_kills(&Bed::new(&OnZfs(pool), "crash-random", 0x73), KILLS, KILL_WITHIN);
}

#[test]
fn a_recovery_waits_for_the_killed_agents_commands() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    a_command_outlives_its_agent(&Bed::new(&OnZfs(pool), "crash-outlived", 0x76));
}

#[test]
fn a_recovery_that_meets_a_clone_locks_no_guest() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    let pool_name = pool.name.clone();
    let host = OnZfs(pool);
    let bed = Bed::new(&host, "crash-clone", 0x75);
    let disk = format!("{pool_name}/guests/crash-clone-1/disk-0");
    let (snapshot, clone) = (format!("{disk}@kept"), format!("{pool_name}/kept"));
    delete_meets(&bed, || {
        run("zfs", &["snapshot", &snapshot]);
        run("zfs", &["clone", &snapshot, &clone]);
    });
    run("zfs", &["destroy", &clone]);
    leftovers_go(&bed);
    assert!(!host.stored().iter().any(|line| line.contains(&disk)), "{:?}", host.stored());
}

/// Takes a snapshot that a user holds (`zfs hold`).
fn lock(disk: &str) {
    let snapshot = format!("{disk}@held");
    run("zfs", &["snapshot", &snapshot]);
    run("zfs", &["hold", "backup", &snapshot]);
}

#[test]
fn a_delete_that_meets_a_held_snapshot_locks_no_guest() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    let disk = format!("{}/guests/crash-held-1/disk-0", pool.name);
    let host = OnZfs(pool);
    let bed = Bed::new(&host, "crash-held", 0x77);
    delete_meets(&bed, || lock(&disk));
    run("zfs", &["release", "backup", &format!("{disk}@held")]);
    leftovers_go(&bed);
    assert!(!host.stored().iter().any(|line| line.contains(&disk)), "{:?}", host.stored());
}

#[test]
fn an_undone_create_names_a_held_snapshot() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    let disk = format!("{}/guests/crash-undo-1/disk-0", pool.name);
    let host = OnZfs(pool);
    let bed = Bed::new(&host, "crash-undo", 0x78);
    undo_meets(&bed, || lock(&disk), &disk);
    assert!(host.stored().iter().any(|line| line.starts_with(&disk)), "{:?}", host.stored());
    run("zfs", &["release", "backup", &format!("{disk}@held")]);
    leftovers_go(&bed);
    assert!(!host.stored().iter().any(|line| line.contains(&disk)), "{:?}", host.stored());
}
