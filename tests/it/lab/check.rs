//! `mistify-libvirt check` on real ZFS: what it finds is so, and each remedy that it names is one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Pool, run, zfs};
use crate::harness::agent::PROGRAM;
use crate::harness::skip::require;

/// The user nobody, on Debian.
const NOBODY: u32 = 65534;

/// What a check has said: its status, and each finding by its subject.
pub(super) struct Checked {
    pub(super) status: Option<i32>,
    findings: BTreeMap<String, Value>,
}

impl Checked {
    pub(super) fn by(mut check: Command) -> Self {
        let output = check.stdin(Stdio::null()).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        let all: Vec<Value> = serde_json::from_slice(&output.stdout).expect(&said);
        let subject = |found: &Value| found["subject"].as_str().expect("a word").to_owned();
        let findings = all.into_iter().map(|found| (subject(&found), found)).collect();
        Self { status: output.status.code(), findings }
    }

    fn member(&self, subject: &str, member: &str) -> &str {
        self.findings[subject][member].as_str().expect("a text")
    }

    /// The level, and what was seen.
    pub(super) fn line(&self, subject: &str) -> String {
        format!("{} {}", self.member(subject, "level"), self.member(subject, "seen"))
    }

    /// Does as it says, which is one command.
    pub(super) fn follow(&self, subject: &str) {
        let words: Vec<&str> = self.member(subject, "remedy").split(' ').collect();
        run(words[0], &words[1..]);
    }
}

/// A check of this pool, or of the dataset in its place, as root.
pub(super) fn check(pool: &str) -> Command {
    // Where other users reach it, too.
    let mut check = Command::new(fs::canonicalize(PROGRAM).expect("it is there"));
    check.args(["check", "--config", "/dev/null", "--bridge-type", "linux", "--zpool", pool]);
    check
}

/// The same by the user nobody.
pub(super) fn as_nobody(mut check: Command) -> Command {
    check.uid(NOBODY).gid(NOBODY);
    check
}

#[test]
fn usable_pool_is_reported_with_space_and_zfs_version() {
    let Some(pool) = require("lab", Pool::own(256)) else { return };
    let found = Checked::by(check(&pool.name));
    assert_eq!(found.status, Some(0));
    let storage = found.line("storage");
    let room = storage.strip_prefix(&format!("ok pool {}: ", pool.name)).expect(&storage);
    let numbers: Vec<u64> = room.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [free, all] = numbers[..] else { panic!("{room}") };
    let reported = zfs(&["get", "-Hpo", "value", "available,used", &pool.name]);
    let reported: Vec<u64> = reported.lines().filter_map(|line| line.parse().ok()).collect();
    let [available, used] = reported[..] else { panic!("{reported:?}") };
    // A pool goes on writing about itself.
    let is_near = |mib: u64, bytes: u64| mib.abs_diff(bytes >> 20) <= 1;
    assert!(is_near(free, available) && is_near(all, available + used), "{room}: {reported:?}");
    let version = run("zfs", &["version"]);
    let module = version.lines().find_map(|line| line.strip_prefix("zfs-kmod-")).expect(&version);
    assert_eq!(found.line("zfs"), format!("ok module {module}"));
    assert_eq!(found.line("allowed"), "ok the agent runs as root, which has all permissions");
    assert_eq!(found.line("mounts"), "ok no dataset of guests or images is mounted");
}

#[test]
fn full_pool_is_a_warning_and_missing_pool_a_failure() {
    let Some(pool) = require("lab", Pool::own(64)) else { return };
    pool.fill();
    let full = Checked::by(check(&pool.name));
    assert!(full.line("storage").starts_with("warn pool "), "{}", full.line("storage"));
    assert_eq!(full.status, Some(0), "guests that run go on");

    let absent = Checked::by(check("absent"));
    assert_eq!(absent.status, Some(1));
    let storage = absent.line("storage");
    assert_eq!(storage, "fail pool absent: pool absent does not exist");
    assert!(absent.member("storage", "remedy").starts_with("import or create the pool"));
}

#[test]
fn mounted_guests_dataset_is_a_warning_with_a_remedy() {
    let Some(pool) = require("lab", Pool::own(64)) else { return };
    let guests = format!("{}/guests", pool.name);
    zfs(&["create", &guests]);
    let found = Checked::by(check(&pool.name));
    assert_eq!(found.line("mounts"), format!("warn {guests} is mounted"));
    assert_eq!(found.status, Some(0));
    found.follow("mounts");
    assert_eq!(zfs(&["get", "-Ho", "value", "mounted", &guests]), "no\n");
    let after = Checked::by(check(&pool.name));
    assert_eq!(after.line("mounts"), "ok no dataset of guests or images is mounted");
}

#[test]
fn unprivileged_user_learns_the_needed_zfs_allow() {
    let Some(pool) = require("lab", Pool::own(64)) else { return };
    let by_nobody = || Checked::by(as_nobody(check(&pool.name)));
    let found = by_nobody();
    assert_eq!(found.status, Some(1));
    let lacking = "fail user 65534 (nobody) lacks the permissions create, ";
    assert!(found.line("allowed").starts_with(lacking));
    assert!(found.line("zfs").starts_with("ok module "), "{}", found.line("zfs"));
    // A permission less than it takes is named alone.
    zfs(&["allow", "-u", "nobody", "create,destroy,mount", &pool.name]);
    assert!(!by_nobody().line("allowed").contains("create"));
    by_nobody().follow("allowed");
    let after = by_nobody().line("allowed");
    assert_eq!(
        after,
        format!("ok user 65534 (nobody) has the required permissions on {}", pool.name)
    );
}
