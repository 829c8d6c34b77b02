//! Unusual input in every string of a guest, and as many disks and NICs as a guest may have: passed
//! to libvirt and back, or refused by name; and the agent keeps none in memory.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::cost::slow;
use crate::harness::support::wait_until;

const SOON: Duration = Duration::from_secs(60);
/// What memory may have grown by afterwards.
const GROWTH_KIB: u64 = 2048;
/// What the agent keeps of events, and how many there are of a guest that is made, run, stopped and
/// deleted, at least.
const EVENTS_STORED: usize = 4096;
const EVENTS_A_LIFE: usize = 5;

/// Where strings stand in a guest, as JSON pointers; the metadata's are members of their own.
const FIELDS: [&str; 19] = [
    "/id",
    "/type",
    "/image",
    "/state",
    "/metadata/name",
    "/metadata/value",
    "/nics/0/name",
    "/nics/0/network",
    "/nics/0/model",
    "/nics/0/mac",
    "/nics/0/address",
    "/nics/0/netmask",
    "/nics/0/gateway",
    "/nics/0/device",
    "/disks/0/bus",
    "/disks/0/device",
    "/disks/0/volume",
    "/disks/0/image",
    "/disks/0/source",
];

/// The fields that libvirt has a grammar for: it may refuse what XML can carry.
const LIBVIRTS: [&str; 4] = ["/type", "/nics/0/model", "/disks/0/bus", "/disks/0/device"];

fn odd_texts() -> [String; 16] {
    [
        "a\0b".into(),
        "a\u{1}b".into(),
        "\u{1b}[1m".into(),
        "a\u{7f}".into(),
        "a\u{85}\u{9f}".into(),
        "a\nb".into(),
        "a\r\tb".into(),
        "<&>\"'".into(),
        "]]><!-- &amp; &#0; <?x?>".into(),
        "'/><name>other</name><x a='".into(),
        "\u{1f600}\u{1d54f}\u{10ffff}".into(),
        "\u{2028}\u{feff}\u{202e}".into(),
        "\u{fffe}".into(),
        "a\u{ffff}".into(),
        "x".repeat(10_000),
        "\u{1f600}".repeat(10_000),
    ]
}

fn ordinary() -> Value {
    json!({
        "id": "odd", "type": "test", "image": "i", "state": "s", "memory": 32, "cpu": 1,
        "metadata": { "k": "v" },
        "nics": [{ "name": "eth0", "network": "br0", "model": "virtio", "vlans": [1],
                   "mac": "02:00:00:00:40:01", "address": "10.0.0.2", "netmask": "255.0.0.0",
                   "gateway": "10.0.0.1", "device": "d" }],
        "disks": [{ "bus": "virtio", "device": "vda", "size": 1, "volume": "v", "image": "i",
                    "source": "/dev/zvol/mistify/odd" }],
    })
}

fn with(field: &str, text: &str) -> Value {
    let mut guest = ordinary();
    match field {
        "/metadata/name" => guest["metadata"] = json!({ text: "v" }),
        "/metadata/value" => guest["metadata"] = json!({ "k": text }),
        "/disks/0/source" => {
            guest["disks"][0]["source"] = json!(format!("/dev/zvol/mistify/{text}"));
        }
        _ => *guest.pointer_mut(field).expect("it is there") = json!(text),
    }
    guest
}

/// What the agent calls a field: `nics[0].mac`.
fn shown(field: &str) -> String {
    match field {
        "/metadata/name" => "a name in metadata".to_owned(),
        "/metadata/value" => "metadata[\"k\"]".to_owned(),
        _ => field[1..].replace("/0/", "[0]."),
    }
}

/// Makes the guest, makes sure that it came back from libvirt as it went in, and removes it; or
/// makes sure that it is refused by name and that nothing stays.
fn carried_or_refused(agent: &Agent, verb: &str, field: &str, guest: &Value) {
    let answer = agent.call(verb, guest);
    let Some(error) = answer["error"].as_str() else {
        let mut echoed = answer["result"]["guest"].clone();
        if verb == "Create" {
            echoed["state"] = guest["state"].clone();
        } else {
            echoed["disks"] = guest["disks"].clone();
        }
        assert_eq!(&echoed, guest, "{verb} {field}");
        agent.ok(verb, guest);
        agent.ok("Delete", guest);
        return;
    };
    let ours = error.starts_with(&format!("invalid argument: {}", shown(field)));
    let libvirts = error.starts_with("[Code-") && LIBVIRTS.contains(&field);
    let shown: String = error.chars().take(200).collect();
    assert!(ours || libvirts, "{verb} {field}: {shown}");
    assert!(agent.error("Status", &json!({ "id": "odd" })).starts_with("[Code-42] "), "{field}");
}

fn each_case(mut each: impl FnMut(&str, &str, &Value)) {
    slow("sends thousands of requests");
    for field in FIELDS {
        for text in odd_texts() {
            for verb in ["CreateGuest", "Create"] {
                each(verb, field, &with(field, &text));
            }
        }
    }
}

/// A guest with as many NICs and disks as there may be.
fn crowd() -> Value {
    let mut guest = ordinary();
    let nic = |n: usize| json!({ "network": "b", "mac": format!("02:00:00:00:41:{n:02x}") });
    let disk = |n: usize| json!({ "source": format!("/dev/zvol/mistify/crowd-{n}") });
    guest["nics"] = (0..64).map(nic).collect();
    guest["disks"] = (0..256).map(disk).collect();
    guest
}

#[test]
fn every_string_is_carried_through_or_refused_by_name() {
    let agent = Agent::on_test_driver();
    each_case(|verb, field, guest| carried_or_refused(&agent, verb, field, guest));
    // None of these inputs affects an ordinary guest.
    agent.ok("CreateGuest", &ordinary());
}

#[test]
fn odd_ids_are_no_guests_to_any_verb() {
    let agent = Agent::on_test_driver();
    let verbs = ["Status", "Run", "Reboot", "Shutdown", "Poweroff", "Delete", "CPUMetrics"];
    for text in odd_texts() {
        for verb in verbs {
            let error = agent.error(verb, &json!({ "id": text }));
            let nul = text.contains('\0') && error.contains("NUL character");
            assert!(error.starts_with("[Code-42] ") || nul, "{verb}: {error}");
        }
    }
}

#[test]
fn guest_with_64_nics_and_256_disks_passes_every_verb() {
    let agent = Agent::on_test_driver();
    let guest = agent.ok("CreateGuest", &crowd())["guest"].take();
    assert_eq!(guest["disks"][255]["device"], "vdiv");
    assert_eq!(agent.ok("CreateGuest", &guest)["guest"], guest);
    let ran = agent.ok("Run", &guest)["guest"].take();
    assert_eq!(ran["nics"][63]["device"], "testnet63");
    assert_eq!(agent.ok("DiskMetrics", &ran)["disk"].as_object().map(|all| all.len()), Some(256));
    for verb in ["Status", "CPUMetrics", "Reboot", "Shutdown", "Poweroff", "Delete"] {
        agent.ok(verb, &ran);
    }
    agent.ok("CreateGuest", &crowd());
}

fn memory_kib(agent: &Agent) -> u64 {
    let file = format!("/proc/{}/smaps_rollup", agent.pid());
    let rollup = fs::read_to_string(file).expect("Linux has it since 4.14");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a number of KiB")
}

#[test]
fn memory_is_as_before_after_odd_input() {
    slow("sends thousands of requests");
    let agent = Agent::on_test_driver();
    let odd_input = || {
        each_case(|verb, field, guest| carried_or_refused(&agent, verb, field, guest));
        for verb in ["CreateGuest", "Run", "Delete"] {
            agent.ok(verb, &crowd());
        }
    };
    // Before the first look every thread has worked, on all of this too, so that what the allocator
    // keeps for a thread is there; and the ring of events is full, with events of usual guests.
    odd_input();
    for _ in 0..EVENTS_STORED / EVENTS_A_LIFE {
        for verb in ["CreateGuest", "Run", "Status", "DiskMetrics", "Poweroff", "Delete"] {
            agent.ok(verb, &ordinary());
        }
    }
    let before = memory_kib(&agent);
    odd_input();
    odd_input();
    let limit = before + GROWTH_KIB;
    wait_until(&format!("at most {limit} KiB, {before} before"), SOON, || {
        agent.error("Status", &crowd());
        memory_kib(&agent) <= limit
    });
}
