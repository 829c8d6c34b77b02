//! `mistify-libvirt check`, as an operator meets it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::agent::PROGRAM;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::Scratch;

pub(crate) fn check(words: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["check", "--config", "/dev/null"]).args(words);
    command.stdin(Stdio::null()).output().expect("it starts")
}

/// The levels by subject, the worst of each.
fn levels(output: &Output) -> BTreeMap<String, String> {
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON in a pipe");
    let all = all.as_array().expect("a list");
    assert!(all.iter().all(|found| found["level"] == "ok" || found["remedy"].is_string()));
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    all.iter().map(|found| (word(&found["subject"]), word(&found["level"]))).collect()
}

#[test]
fn suitable_host_passes_with_status_0() {
    let directory = Scratch::new();
    let (store, state) = (directory.path().join("store"), directory.path().join("state"));
    fs::create_dir(&store).expect("a directory can be made");
    let storage = format!("directory:{}", store.display());
    let state = state.display().to_string();
    let words = ["--libvirt-uri", "test:///default", "--storage", &storage, "--state-dir", &state];
    let output = check(&words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let levels = levels(&output);
    let subjects: Vec<&str> = levels.keys().map(String::as_str).collect();
    let all = [
        "allowed", "bridges", "callers", "cgroup", "guests", "images", "kvm", "libvirt", "mounts",
        "ports", "state", "stop", "storage", "tokens", "unit", "zfs",
    ];
    assert_eq!(subjects, all);
    for subject in
        ["allowed", "callers", "images", "libvirt", "mounts", "state", "storage", "tokens"]
    {
        assert_eq!(levels[subject], "ok", "{subject}: {output:?}");
    }
}

#[test]
fn a_unit_that_is_not_started_shuts_nothing_down() {
    let directory = Scratch::new();
    let systemctl = directory.path().join("systemctl");
    for (state, level) in [("inactive", "warn"), ("active", "ok")] {
        let script = format!(
            "#!/bin/sh
[ $1 = is-active ] && echo {state} || echo enabled
"
        );
        fs::write(&systemctl, script).expect("a file can be written");
        fs::set_permissions(&systemctl, Permissions::from_mode(0o755)).expect("it is ours");
        let mut command = Command::new(PROGRAM);
        command.args(["check", "--config", "/dev/null", "--libvirt-uri", "test:///default"]);
        let path = format!("{}:/usr/bin:/bin", directory.path().display());
        let output = command.env("PATH", path).stdin(Stdio::null()).output().expect("it starts");
        assert_eq!(levels(&output)["stop"], level, "{output:?}");
    }
}

#[test]
fn missing_requirement_is_a_failure_with_status_1() {
    let directory = Scratch::new();
    let state = directory.path().join("state");
    fs::write(&state, "").expect("a file can be written");
    let state = state.display().to_string();
    let uri = format!("qemu:///system?socket={}", directory.path().join("absent").display());
    let words = [
        ["--libvirt-uri", &uri],
        ["--storage", "directory:/nonexistent/store"],
        ["--state-dir", &state],
        ["--allow-user", "mistify-nobody-has-this"],
    ];
    let output = check(&words.concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let levels = levels(&output);
    for subject in ["callers", "libvirt", "state", "storage"] {
        assert_eq!(levels[subject], "fail", "{subject}: {output:?}");
    }
}

#[test]
fn a_read_only_libvirt_is_a_failure() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let libvirt_of = |uri: &str| {
        let output = check(&["--libvirt-uri", uri, "--zpool", ""]);
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        (levels(&output)["libvirt"].clone(), levels(&output)["storage"].clone(), found)
    };
    let (level, storage, found) = libvirt_of(&stack.uri());
    assert_eq!((level.as_str(), storage.as_str()), ("ok", "ok"), "{found}");

    let (level, _, found) = libvirt_of(&format!("{}-ro", stack.uri()));

    assert_eq!(level, "fail", "{found}");
    assert!(found.contains("read only access prevents"), "{found}");
}

#[test]
fn store_others_can_change_fails_and_prevents_start() {
    let directory = Scratch::new();
    let (above, state) = (directory.path().join("above"), directory.path().join("state"));
    let store = above.join("store");
    fs::create_dir_all(&store).expect("a directory can be made");
    let (storage, state) = (format!("directory:{}", store.display()), state.display().to_string());
    let words = ["--libvirt-uri", "test:///default", "--storage", &storage, "--state-dir", &state];
    fs::set_permissions(&above, Permissions::from_mode(0o777)).expect("it is ours");
    let why = format!(
        "cannot use {}: {} can be changed by all users; only root and the agent's user may own it and \
         write to it",
        store.display(),
        above.display()
    );

    let output = check(&words);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(levels(&output)["storage"], "fail", "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&why) && said.contains("chmod go-w"), "{said}");

    let mut agent = Command::new(PROGRAM);
    agent.args(["--config", "/dev/null", "--port", "0"]).args(words).stdin(Stdio::null());
    let output = agent.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.ends_with(&format!("{why}\n")), "{said}");
    let mut import = Command::new(PROGRAM);
    import.args([
        "image",
        "import",
        "/bin/cat",
        "a",
        "--config",
        "/dev/null",
        "--storage",
        &storage,
    ]);
    let output = import.stdin(Stdio::null()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.ends_with(&format!("{why}\n")), "{said}");
}

#[test]
fn token_others_can_read_fails_with_the_remedy() {
    let directory = Scratch::new();
    let file = directory.path().join("token");
    let storage = format!("directory:{}", directory.path().display());
    let name = file.display().to_string();
    let words = ["--libvirt-uri", "test:///default", "--storage", &storage, "--token-file", &name];
    let look = || {
        let output = check(&words);
        (output.status.code(), levels(&output)["tokens"].clone())
    };
    assert_eq!(look(), (Some(1), "fail".to_owned()), "it is not there");
    fs::write(&file, "0123456789abcdef0123456789abcdef\n").expect("a file can be written");
    for (mode, outcome) in [(0o644, (Some(1), "fail")), (0o600, (Some(0), "ok"))] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("it is ours");
        assert_eq!(look(), (outcome.0, outcome.1.to_owned()), "{mode:o}");
    }
}

#[test]
fn on_a_terminal_a_finding_is_a_line() {
    let line = format!("{PROGRAM} check --config /dev/null --libvirt-uri test:///default || true");
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output();
    let text = String::from_utf8(output.expect("it starts").stdout).expect("text");
    let first = text.lines().next().unwrap_or_default();
    assert!(first.starts_with("ok    libvirt  test:///default: version "), "{text}");
    assert!(text.lines().all(|line| ["ok ", "warn ", "fail "].iter().any(|w| line.starts_with(w))));
}
