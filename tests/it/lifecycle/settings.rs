//! SetMetadata, SetAutostart, SetMemory and SetCPU: on libvirt's test driver, and on a real guest.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::boot_sector::boots;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::support::wait_until;

/// Longer than a loaded machine needs for what a guest does within a second or two.
const SOON: Duration = Duration::from_secs(90);

fn guest(id: &str) -> Value {
    json!({ "id": id, "type": "test", "memory": 64, "cpu": 2, "metadata": { "owner": "alice" } })
}

fn made(agent: &Agent, id: &str) -> Value {
    let guest = guest(id);
    agent.ok("CreateGuest", &guest);
    guest
}

/// The guest is from now on the same as this one, and not as the one before.
fn is_now(agent: &Agent, now: &Value, before: &Value) {
    agent.ok("CreateGuest", now);
    assert!(agent.error("CreateGuest", before).starts_with("[Code-9] "), "{before}");
}

#[test]
fn metadata_is_replaced_and_found_by_afterwards() {
    let agent = Agent::on_test_driver();
    let before = made(&agent, "tagged");
    for metadata in
        [json!({ "a & b": "<\t\n\"'>", "role": "db" }), json!({ "role": "" }), json!({})]
    {
        let mut now = before.clone();
        now["metadata"] = metadata.clone();
        let answer = agent.ok("SetMetadata", &now);
        assert_eq!(answer["guest"].get("metadata").unwrap_or(&json!({})), &metadata);
        is_now(&agent, &now, &before);
        let found = agent.call_with("List", &json!({ "metadata": metadata, "after": "tagge" }));
        assert_eq!(found["result"]["guests"][0]["id"], "tagged", "{found}");
        let reported = agent.ok("Describe", &now);
        let reported =
            reported["Metadata"]["UserMetadata"]["Parameters"].as_array().map_or(0, Vec::len);
        assert_eq!(reported, metadata.as_object().map_or(0, serde_json::Map::len));
    }
    let control = json!({ "id": "tagged", "metadata": { "k": "\u{1}" } });
    let error = agent.error("SetMetadata", &control);
    assert!(error.starts_with("invalid argument: metadata[\"k\"] "), "{error}");
    agent.ok("Delete", &before);
    agent.end();
}

#[test]
fn autostart_is_the_last_value_and_required() {
    let agent = Agent::on_test_driver();
    let guest = made(&agent, "early");
    let set = |autostart: Value| {
        agent.call_with("SetAutostart", &json!({ "guest": guest, "autostart": autostart }))
    };
    for autostart in [true, true, false] {
        let answer = set(json!(autostart));
        assert_eq!(answer["result"]["autostart"], autostart, "{answer}");
        assert_eq!(answer["result"]["guest"]["id"], "early", "{answer}");
    }
    let missing = "invalid argument: autostart is missing; set it to true or false";
    assert_eq!(set(Value::Null)["error"], missing);
    agent.end();
}

#[test]
fn memory_and_cpus_apply_at_next_start_and_say_so() {
    let agent = Agent::on_test_driver();
    let before = made(&agent, "sized");
    for (memory, cpu) in [(128, 4), (32, 1)] {
        let mut now = before.clone();
        (now["memory"], now["cpu"]) = (json!(memory), json!(cpu));
        for method in ["SetMemory", "SetCPU"] {
            let answer = agent.ok(method, &now);
            assert_eq!((&answer["guest"], &answer["live"]), (&now, &json!(false)), "{method}");
            assert_eq!(answer["message"], "the guest is off");
            // The same again is the same.
            assert_eq!(agent.ok(method, &now), answer);
        }
        is_now(&agent, &now, &before);
        let reported = agent.ok("Describe", &now);
        assert_eq!((&reported["memory"], &reported["vcpu"]), (&json!(memory * 1024), &json!(cpu)));
        agent.ok("Run", &now);
        let listed = agent.call_with("List", &json!({ "state": "running" }));
        let expected = json!({ "id": "sized", "state": "running", "memory": memory, "cpu": cpu });
        assert_eq!(listed["result"]["guests"][0], expected);
        agent.ok("Poweroff", &now);
    }
    agent.end();
}

#[test]
fn running_guest_shrinks_at_once_and_grows_at_restart() {
    let agent = Agent::on_test_driver();
    let guest = made(&agent, "runs");
    agent.ok("Run", &guest);
    for (member, method, value, live) in [
        ("memory", "SetMemory", 32, true),
        ("memory", "SetMemory", 128, false),
        ("cpu", "SetCPU", 1, true),
        ("cpu", "SetCPU", 4, false),
    ] {
        let answer = agent.ok(method, &json!({ "id": "runs", member: value }));
        assert_eq!(answer["live"], live, "{method} {value}: {answer}");
        let why = answer["message"].as_str().unwrap_or_default();
        assert_eq!(why.is_empty(), live, "{method} {value}: {answer}");
    }
    agent.ok("Poweroff", &guest);
    let reported = agent.ok("Describe", &guest);
    assert_eq!((&reported["memory"], &reported["vcpu"]), (&json!(128 * 1024), &json!(4)));
    agent.end();
}

#[test]
fn invalid_settings_are_refused_and_change_nothing() {
    let agent = Agent::on_test_driver();
    let guest = made(&agent, "kept");
    for (method, member) in [("SetMemory", "memory"), ("SetCPU", "cpu")] {
        for value in [Value::Null, json!(0)] {
            let error = agent.error(method, &json!({ "id": "kept", member: value }));
            assert_eq!(error, format!("invalid argument: {member} is missing or 0"));
        }
        let error = agent.error(method, &json!({ "id": "kept", member: u64::MAX }));
        assert!(error.starts_with("[Code-"), "{method}: {error}");
    }
    agent.ok("CreateGuest", &guest);
    for method in ["SetMetadata", "SetAutostart", "SetMemory", "SetCPU"] {
        let asked = json!({ "guest": { "id": "gone", "memory": 1, "cpu": 1 }, "autostart": true });
        let answer = agent.call_with(method, &asked);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.starts_with("[Code-42] "), "{method}: {answer}");
        assert_eq!(agent.error(method, &json!({ "memory": 1, "cpu": 1 })), "invalid argument");
    }
    agent.end();
}

#[test]
fn real_guest_applies_settings_now_or_at_next_start() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(device) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let disk = device.path().to_str().expect("UTF-8");
    let agent = Agent::start(&["--libvirt-uri", &stack.uri(), "--allow-disk-path", disk]);
    let id = "set";
    let mut guest = json!({
        "id": id, "type": "qemu", "memory": 32, "cpu": 2, "disks": [{ "source": disk }],
    });
    agent.ok("CreateGuest", &guest);
    agent.ok("Run", &guest);

    let set = |member: &str, method: &str, value: Value| {
        agent.ok(method, &json!({ "id": id, member: value }))
    };
    assert_eq!(set("memory", "SetMemory", json!(16))["live"], true);
    let more = set("memory", "SetMemory", json!(48));
    assert_eq!(more["live"], false, "{more}");
    assert!(more["message"].as_str().is_some_and(|why| !why.is_empty()), "{more}");
    // A processor that a guest was started with cannot be unplugged, and a third has no socket.
    for cpu in [1, 3] {
        let answer = set("cpu", "SetCPU", json!(cpu));
        assert_eq!(answer["live"], false, "{answer}");
    }
    set("metadata", "SetMetadata", json!({ "owner": "bob" }));
    let answer = agent.call_with("SetAutostart", &json!({ "guest": guest, "autostart": true }));
    assert_eq!(answer["result"]["autostart"], true, "{answer}");
    assert!(stack.virsh_ok(&["dominfo", id]).contains("Autostart:      enable"));
    let running = stack.virsh_ok(&["dumpxml", id]);
    assert!(running.contains("value='bob'") || running.contains("value=\"bob\""), "{running}");
    assert!(running.contains("<memory unit='KiB'>32768<"), "{running}");

    agent.ok("Poweroff", &guest);
    agent.ok("Run", &guest);
    let reported = agent.ok("Describe", &guest);
    assert_eq!((&reported["memory"], &reported["vcpu"]), (&json!(48 * 1024), &json!(3)));
    let running = stack.virsh_ok(&["dumpxml", id]);
    assert!(running.contains("<currentMemory unit='KiB'>49152<"), "{running}");
    (guest["memory"], guest["cpu"]) = (json!(48), json!(3));
    guest["metadata"] = json!({ "owner": "bob" });
    agent.ok("CreateGuest", &guest);
    agent.ok("Delete", &guest);
    assert!(!stack.virsh_ok(&["list", "--all", "--name"]).contains(id));
    agent.end();
}

#[test]
fn a_guest_is_suspended_resumed_and_reset() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "halted", &disk);
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let guest = json!({ "id": "halted" });
    assert_eq!(agent.ok("Suspend", &guest)["guest"]["state"], "paused");
    let writes = stack.writes("halted");
    assert_eq!(agent.ok("Reset", &guest)["guest"]["state"], "paused");
    assert_eq!(stack.writes("halted"), writes, "it stands still");
    let boots = || boots(disk.path()).expect("the disk can be read");
    let before = boots();
    assert_eq!(agent.ok("Resume", &guest)["guest"]["state"], "running");
    wait_until("it boots again", SOON, || boots() > before);
    let before = boots();
    assert_eq!(agent.ok("Reset", &guest)["guest"]["state"], "running");
    wait_until("it boots once more", SOON, || boots() > before);
    agent.ok("Poweroff", &guest);
}
