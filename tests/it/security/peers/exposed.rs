//! Paths of the configuration below a directory of another user, who could lead the agent anywhere by them.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use serde_json::Value;

use super::{ON_TEST_DRIVER, STRANGER, World};
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::require;

const FLAGS: [&str; 3] = ["--socket", "--state-dir", "--audit-log"];

/// A world with a directory of a stranger.
fn world() -> Option<(World, String)> {
    let world = require("users", World::new())?;
    let theirs = world.at("theirs");
    fs::create_dir(&theirs).expect("it is ours");
    chown(&theirs, Some(STRANGER), None).expect("root may");
    Some((world, theirs))
}

#[test]
fn paths_that_others_can_change_end_the_start() {
    let Some((_world, theirs)) = world() else { return };
    for flag in FLAGS {
        for below in ["it", "deeper/it"] {
            let path = format!("{theirs}/{below}");
            let flags = [&ON_TEST_DRIVER[..], &[flag, &path]].concat();
            let log = Agent::try_run(Command::new(PROGRAM), &flags).err().expect("it ends");
            let why = log.lines().last().unwrap_or_default();
            let said = format!("{path}: {theirs} can be changed by user {STRANGER}");
            assert!(why.starts_with("mistify-libvirt: cannot ") && why.ends_with(&said), "{why}");
        }
    }
    assert_eq!(fs::read_dir(&theirs).expect("it is there").count(), 0, "nothing was made");
}

#[test]
fn check_reports_paths_that_others_can_change() {
    let Some((_world, theirs)) = world() else { return };
    let mut command = Command::new(PROGRAM);
    command.args(["check", "--json", "--config", "/dev/null"]).args(ON_TEST_DRIVER);
    for flag in FLAGS {
        command.args([flag, &format!("{theirs}/it{flag}")]);
    }
    let output = command.output().expect("it starts");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for flag in FLAGS {
        let said = format!("{theirs}/it{flag}: {theirs} can be changed by user {STRANGER}");
        let of_flag = |it: &&Value| it["level"] == "fail" && it["seen"] == said.as_str();
        let finding = found.as_array().and_then(|all| all.iter().find(of_flag));
        let remedy = finding.and_then(|it| it["remedy"].as_str()).unwrap_or_default();
        assert!(remedy.contains("chmod go-w, or set another path"), "{flag}: {found:#}");
    }
}
