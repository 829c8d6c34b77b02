//! List and Describe: on libvirt's test driver, and with real guests of which one hangs.

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack, guest_xml};
use crate::harness::support::signal;

fn create(agent: &Agent, id: &str, memory: u64, owner: &str) {
    let metadata = json!({ "owner": owner, "role": "web" });
    let guest =
        json!({ "id": id, "type": "test", "memory": memory, "cpu": 3, "metadata": metadata });
    agent.ok("CreateGuest", &guest);
}

/// The answer of List to these parameters.
fn list(agent: &Agent, params: &Value) -> Value {
    let mut answer = agent.call_with("List", params);
    assert_eq!(answer["error"], Value::Null, "{params}");
    answer["result"].take()
}

fn ids(page: &Value) -> Vec<&str> {
    let guests = page["guests"].as_array().expect("guests");
    guests.iter().map(|guest| guest["id"].as_str().expect("an id")).collect()
}

#[test]
fn a_list_has_every_guest_with_state_memory_and_cpus() {
    let agent = Agent::on_test_driver();
    create(&agent, "a", 64, "alice");
    let expected = json!({ "guests": [
        { "id": "a", "state": "shutoff", "memory": 64, "cpu": 3 },
        { "id": "test", "state": "running", "memory": 8192, "cpu": 2 },
    ]});
    assert_eq!(list(&agent, &json!({})), expected);
    agent.end();
}

#[test]
fn pages_have_each_guest_once_and_a_continuation() {
    let agent = Agent::on_test_driver();
    for id in ["d", "b", "a", "c"] {
        create(&agent, id, 64, "alice");
    }
    let first = list(&agent, &json!({ "limit": 2 }));
    assert_eq!((ids(&first), &first["next"]), (vec!["a", "b"], &json!("b")));
    let second = list(&agent, &json!({ "limit": 2, "after": "b" }));
    assert_eq!((ids(&second), &second["next"]), (vec!["c", "d"], &json!("d")));
    let last = list(&agent, &json!({ "limit": 2, "after": "d" }));
    assert_eq!((ids(&last), last.get("next")), (vec!["test"], None));
    // The guest that a page ended with may be gone by the next.
    agent.ok("Delete", &json!({ "id": "b" }));
    assert_eq!(ids(&list(&agent, &json!({ "limit": 2, "after": "b" }))), ["c", "d"]);
    let all = list(&agent, &json!({ "limit": 4 }));
    assert_eq!((ids(&all).len(), all.get("next")), (4, None), "a full page that is the last");
    agent.end();
}

#[test]
fn a_list_can_be_of_a_state_and_of_metadata() {
    let agent = Agent::on_test_driver();
    for (id, owner) in [("a", "alice"), ("b", "bob"), ("c", "alice"), ("d", "alice")] {
        create(&agent, id, 64, owner);
    }
    for id in ["b", "c"] {
        agent.ok("Run", &json!({ "id": id }));
    }
    agent.ok("Suspend", &json!({ "id": "c" }));
    for (params, expected) in [
        (json!({ "state": "running" }), &["b", "test"][..]),
        (json!({ "state": "paused" }), &["c"]),
        (json!({ "state": "shutoff" }), &["a", "d"]),
        (json!({ "state": "crashed" }), &[]),
        (json!({ "metadata": { "owner": "alice" } }), &["a", "c", "d"]),
        (json!({ "metadata": { "owner": "alice", "role": "db" } }), &[]),
        (json!({ "metadata": { "owner": "alice" }, "state": "shutoff" }), &["a", "d"]),
        (json!({ "metadata": { "owner": "alice" }, "limit": 1, "after": "a" }), &["c"]),
    ] {
        assert_eq!(ids(&list(&agent, &params)), expected, "{params}");
    }
    agent.end();
}

#[test]
fn invalid_list_is_refused_with_a_message() {
    let agent = Agent::on_test_driver();
    for (params, why) in [
        (json!({ "limit": 1001 }), "invalid argument: limit is 1001; "),
        (json!({ "state": "on" }), "invalid argument: state is \"on\"; it must be one of "),
        (json!({ "args": { "mistify.timeout": "x" } }), "invalid argument: args: "),
    ] {
        let answer = agent.call_with("List", &params);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.starts_with(why), "{params}: {answer}");
    }
    agent.end();
}

#[test]
fn description_is_the_owner_model_with_memory_in_kib() {
    let agent = Agent::on_test_driver();
    let guest = json!({
        "id": "told", "type": "test", "memory": 64, "cpu": 3, "metadata": { "owner": "alice" },
        "nics": [{ "name": "eth0", "network": "br0", "mac": "02:00:00:00:51:01", "vlans": [7] }],
        "disks": [{ "source": "/dev/zvol/mistify/told" }],
    });
    agent.ok("CreateGuest", &guest);
    let reported = agent.ok("Describe", &json!({ "id": "told" }));
    assert_eq!(
        (&reported["name"], &reported["memory"]),
        (&json!("told"), &json!(64 * 1024)),
        "{reported}"
    );
    assert_eq!((&reported["vcpu"], &reported["state"]), (&json!(3), &json!("shutoff")));
    let disk = &reported["devices"]["disks"][0];
    assert_eq!(disk["source"]["device"], "/dev/zvol/mistify/told");
    assert_eq!(reported["devices"]["interfaces"][0]["mac"]["address"], "02:00:00:00:51:01");
    assert_eq!(reported["Metadata"]["UserMetadata"]["Parameters"][0]["Value"], "alice");
    agent.ok("Run", &guest);
    let reported = agent.ok("Describe", &json!({ "id": "told" }));
    assert_eq!(reported["state"], "running");
    assert_eq!(reported["devices"]["interfaces"][0]["target"]["device"], "testnet0");
    assert!(agent.error("Describe", &json!({ "id": "nobody" })).starts_with("[Code-42] "));
    assert_eq!(agent.error("Describe", &json!({})), "invalid argument");
    agent.end();
}

#[test]
fn hung_guest_is_listed_and_described_like_others() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "hangs", &disk);
    let defined = stack.with_xml("define", &guest_xml("qemu", "off", disk.path()));
    assert!(defined.status.success(), "{defined:?}");
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    signal(stack.qemu_pid("hangs").expect("it runs"), "STOP");
    let expected = json!({ "guests": [
        { "id": "hangs", "state": "running", "memory": 32, "cpu": 1 },
        { "id": "off", "state": "shutoff", "memory": 32, "cpu": 1 },
    ]});
    assert_eq!(list(&agent, &json!({})), expected);
    let reported = agent.ok("Describe", &json!({ "id": "hangs" }));
    assert_eq!((&reported["state"], &reported["memory"]), (&json!("running"), &json!(32 * 1024)));
    agent.ok("Poweroff", &json!({ "id": "hangs" }));
}
