//! Status of guests that a worker has been asked for before: one round trip, and not another guest's
//! state.

use std::time::Duration;

use serde_json::json;

use crate::harness::agent::Agent;
use crate::harness::call_counter::Counting;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::wait_until;

/// Longer than a loaded machine needs for a few calls.
const SOON: Duration = Duration::from_secs(120);

/// An agent with one worker for reads, so that each Status comes to the same.
fn agent(uri: &str) -> Agent {
    Agent::start(&["--libvirt-uri", uri, "--workers", "read=1"])
}

/// A guest without anything, started or not.
fn make(stack: &Stack, command: &str, name: &str) {
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    );
    let made = stack.with_xml(command, &xml);
    assert!(made.status.success(), "{command}: {made:?}");
}

#[test]
fn status_of_a_cached_guest_is_one_round_trip() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    make(stack, "define", "kept-known");
    let counting = Counting::start(stack);
    let agent = agent(&counting.uri());
    assert_eq!(agent.state("kept-known"), "shutoff");
    let trips = || {
        let before = counting.calls();
        assert_eq!(agent.state("kept-known"), "shutoff");
        counting.calls() - before
    };
    // On a loaded machine it may not be known any more.
    wait_until("a Status takes one round trip", SOON, || trips() == 1);
    wait_until("it is looked up again after a while", SOON, || trips() == 2);
    stack.virsh_ok(&["undefine", "kept-known"]);
}

#[test]
fn a_state_is_that_of_the_guest_that_has_the_name_now() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = agent(&stack.uri());
    let is_missing = |id: &str| {
        let answer = agent.call("Status", &json!({ "id": id }));
        answer["error"].as_str().is_some_and(|error| error.contains("Domain not found"))
    };
    make(stack, "define", "kept-a");
    assert_eq!(agent.state("kept-a"), "shutoff");
    stack.virsh_ok(&["undefine", "kept-a"]);
    assert!(is_missing("kept-a"), "at once");

    make(stack, "define", "kept-a");
    assert_eq!(agent.state("kept-a"), "shutoff");
    stack.virsh_ok(&["undefine", "kept-a"]);
    make(stack, "create", "kept-a");
    assert_eq!(agent.state("kept-a"), "running", "another guest by the same name");
    stack.virsh_ok(&["suspend", "kept-a"]);
    assert_eq!(agent.state("kept-a"), "paused");
    stack.virsh_ok(&["destroy", "kept-a"]);
    assert!(is_missing("kept-a"), "at once");

    make(stack, "define", "kept-a");
    assert_eq!(agent.state("kept-a"), "shutoff");
    stack.virsh_ok(&["domrename", "kept-a", "kept-b"]);
    assert_eq!(agent.state("kept-b"), "shutoff");
    wait_until("the old name is gone", SOON, || is_missing("kept-a"));
    stack.virsh_ok(&["undefine", "kept-b"]);
}
