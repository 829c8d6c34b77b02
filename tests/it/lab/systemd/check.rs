//! The output of `mistify-libvirt check` for an operator who has installed the package.

use std::process::Command;

use super::super::check::Checked;
use super::super::{quietly, run};
use super::{PACKAGE, Service, UNIT, systemctl};
use crate::harness::skip::require;

#[test]
fn unit_user_learns_the_sufficient_zfs_allow() {
    let Some(service) = require("lab", Service::installed()) else { return };
    let pool = service.pool.name.as_str();
    let by_root = || {
        let mut check = Command::new(PACKAGE);
        check.arg("check");
        Checked::by(check)
    };
    let by_its_user = || {
        let mut check = Command::new("runuser");
        check.args(["-u", PACKAGE, "--", PACKAGE, "check"]);
        Checked::by(check)
    };
    let found = by_root();
    assert_eq!(found.status, Some(0));
    assert_eq!(found.line("allowed"), "ok the agent runs as root, which has all permissions");
    assert_eq!(found.line("unit"), "ok enabled, socket enabled, runs as user 0 (root)");

    // Another test may have allowed it; else there is nothing to take back.
    quietly("zfs", &["unallow", "-u", PACKAGE, pool]);
    service.become_its_own_user();
    let who = format!("user {} ({PACKAGE})", run("id", &["-u", PACKAGE]).trim());
    for found in [by_root(), by_its_user()] {
        assert_eq!(found.status, Some(1));
        let allowed = found.line("allowed");
        let lacking = format!("fail {who} lacks the permissions create, ");
        assert!(allowed.starts_with(&lacking), "{allowed}");
    }
    by_root().follow("allowed");
    systemctl(&["restart", UNIT]);
    for found in [by_root(), by_its_user()] {
        assert_eq!(
            found.line("allowed"),
            format!("ok {who} has the required permissions on {pool}")
        );
        assert!(found.line("unit").ends_with(&format!("runs as {who}")), "{}", found.line("unit"));
        for subject in ["libvirt", "storage", "zfs", "mounts", "ports"] {
            assert!(found.line(subject).starts_with("ok "), "{}", found.line(subject));
        }
    }
    quietly("zfs", &["unallow", "-u", PACKAGE, pool]);
}
