//! Bridges that NICs name and the host lacks: reported at CreateGuest, at Run and by `check`.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::shell::on_terminal;
use crate::harness::skip::require;
use crate::harness::stack::{Bridge, Cgroup, Stack};
use crate::harness::support::Scratch;

fn guest(id: &str, bridge: &str, mac: u8) -> Value {
    let mac = format!("02:00:00:00:7c:{mac:02x}");
    json!({
        "id": id, "type": "qemu", "memory": 32, "cpu": 1, "profile": "classic",
        "nics": [{ "network": bridge, "mac": mac }],
    })
}

#[test]
fn a_missing_bridge_is_named_before_and_at_the_start() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    // Beside libvirt, in the tests' own network, whose bridges the agent looks for.
    let command = stack.command_outside_network(PROGRAM);
    let flags = ["--libvirt-uri", "qemu:///system", "--bridge-type", "linux"];
    let agent = Agent::run(command, &flags);
    let lost = guest("lost", "nosuch0", 1);
    let dry = agent.call_with("CreateGuest", &json!({ "guest": lost, "dry_run": true }));
    let first = agent.ok("CreateGuest", &lost);
    let warning = "nics[0].network: bridge nosuch0 does not exist; the guest cannot start before you create it";
    assert_eq!(first["warnings"], json!([warning]));
    assert_eq!(dry["result"]["plan"]["warnings"], json!([warning]), "{dry}");
    agent.logged("bridge nosuch0 does not exist");
    // On a terminal, too, where a pipe has the answer.
    let directory = Scratch::new();
    let file = directory.path().join("lost.json");
    fs::write(&file, lost.to_string()).expect("a file can be written");
    let reported = on_terminal(&agent, &format!("create {}", file.display()));
    assert!(reported.ends_with(&format!("lost created\nwarning: {warning}\n")), "{reported}");
    let bound = agent.ok("CreateGuest", &guest("bound", "lo", 2));
    assert_eq!(bound.get("warnings"), None, "the device is there: {bound}");

    let why = agent.error("Run", &lost);
    assert!(
        why.contains("[Code-")
            && why.ends_with("(missing: bridge nosuch0 of NIC 02:00:00:00:7c:01)"),
        "{why}"
    );
    let json = [("Content-Type", "application/json")];
    let params = json!({ "guest": { "id": "lost" } });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "Libvirt.Run", "params": params });
    let answer = agent.request("POST", "/rpc", &json, body.to_string().as_bytes()).text();
    let error = "cannot start guest lost: bridge nosuch0 of its NIC 02:00:00:00:7c:01 does not exist; create the bridge";
    assert!(answer.contains(error), "{answer}");

    let mut check = stack.command_outside_network(PROGRAM);
    check.args(["check", "--config", "/dev/null", "--bridge-type", "linux"]);
    check.args(["--libvirt-uri", "qemu:///system"]);
    let output = check.stdin(Stdio::null()).output().expect("it starts");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = found.as_array().expect("a list").iter();
    let seen: Vec<&str> = found
        .filter(|found| found["subject"] == "bridges" && found["level"] == "warn")
        .filter_map(|found| found["seen"].as_str())
        .filter(|seen| seen.contains("nosuch0"))
        .collect();
    assert_eq!(seen, ["nosuch0 does not exist: cannot start lost"]);
    agent.ok("Delete", &lost);
}

#[test]
fn a_missing_bridge_of_open_vswitch_is_named() {
    let stack = Stack::start_with(Cgroup::V2, Bridge::OpenVSwitch);
    let Some(stack) = require("ovs", stack) else { return };
    let agent = Agent::run(
        stack.command_outside_network(PROGRAM),
        &["--libvirt-uri", "qemu:///system", "--bridge-type", "openvswitch"],
    );
    let lost = guest("lost", "nosuch0", 3);
    assert!(agent.ok("CreateGuest", &lost)["warnings"].is_array());
    let why = agent.error("Run", &lost);
    assert!(why.ends_with("(missing: bridge nosuch0 of NIC 02:00:00:00:7c:03)"), "{why}");
}
