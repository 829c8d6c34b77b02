//! GuestInfo: what a guest's agent says, and what is known without one.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::modern::Bed;
use crate::support::{wait_for, wait_until};

const MAC: &str = "02:00:00:00:62:01";
/// Longer than a loaded machine needs for what takes a second.
const SOON: Duration = Duration::from_secs(90);

fn info(bed: &Bed, id: &str) -> Value {
    bed.agent.ok("GuestInfo", &json!({ "id": id }))
}

#[test]
fn a_guest_agent_tells_until_it_is_silent() {
    let Some(bed) = Bed::new(&[]) else { return };
    let nics = json!([{ "network": "mistify0", "mac": MAC }]);
    let guest = bed.guest("informer", &json!({ "nics": nics }));
    bed.agent.ok("CreateGuest", &guest);
    assert_eq!(info(&bed, "informer")["message"], "the guest is off");
    let mut console = bed.running(&guest);
    console.run("ip addr add 192.0.2.77/24 dev eth0");
    let told = wait_for("the guest agent answers", SOON, || {
        Some(info(&bed, "informer")).filter(|told| told["agent"] == true)
    });
    assert_eq!(told["hostname"], "small", "{told}");
    let address = json!({
        "address": "192.0.2.77", "prefix": 24, "mac": MAC, "interface": "eth0", "source": "agent",
        "age_s": 0,
    });
    assert_eq!(told["addresses"][0], address, "{told}");
    assert!(told["os"]["kernel"].is_string() && told["timezone"]["offset_s"] == 0, "{told}");

    // The channel stays open, and nobody reads it.
    console.run("kill -STOP $(pidof qemu-ga)");
    let silent = info(&bed, "informer");
    assert_eq!(silent["agent"], false, "{silent}");
    assert!(silent["message"].as_str().is_some_and(|it| it.contains("agent")), "{silent}");
    let known = &silent["addresses"][0];
    assert_eq!((&known["address"], &known["source"]), (&json!("192.0.2.77"), &json!("agent")));
    let again = info(&bed, "informer");
    assert!(again["message"].as_str().is_some_and(|it| it.contains("asked again in")), "{again}");
    // Others' commands to it wait as long as they did before.
    let status = "/run/libvirt/qemu/informer.xml";
    let kept = fs::read_to_string(bed.stack.path(status)).expect("libvirt's file of the guest");
    assert!(!kept.contains("<agentTimeout>1"), "{kept}");
    bed.agent.ok("Delete", &guest);
    let missing = bed.agent.error("GuestInfo", &json!({ "id": "informer" }));
    assert!(missing.contains("not found"), "{missing}");
}

/// By order, which needs the processors: the agent is asked for a second.
#[test]
fn a_silent_guest_agent_delays_no_other_call() {
    let Some(bed) = Bed::new(&[]) else { return };
    let guest = bed.guest("mute", &json!({}));
    let mut console = bed.running(&guest);
    wait_until("the guest agent answers", SOON, || info(&bed, "mute")["agent"] == true);
    console.run("kill -STOP $(pidof qemu-ga)");
    thread::scope(|threads| {
        let asking = threads.spawn(|| info(&bed, "mute"));
        wait_until("the guest agent is asked", SOON, || {
            bed.agent.health().1["pool"]["lanes"]["read"]["running"] == 1 || asking.is_finished()
        });
        for (method, state) in [("Suspend", "paused"), ("Resume", "running")] {
            bed.agent.ok(method, &guest);
            assert_eq!(bed.agent.state("mute"), state);
        }
        assert!(!asking.is_finished(), "they were done before it");
        assert_eq!(asking.join().expect("an answer")["agent"], false);
    });
    bed.agent.ok("Delete", &guest);
}

#[test]
fn a_guest_without_an_agent_is_no_error() {
    let Some(bed) = Bed::new(&[]) else { return };
    let guest = bed.guest("uninformed", &json!({ "guest_agent": false }));
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("Run", &guest);
    let told = info(&bed, "uninformed");
    assert_eq!((&told["agent"], &told["addresses"]), (&json!(false), &json!([])), "{told}");
    assert!(told["message"].as_str().is_some_and(|it| it.contains("not configured")), "{told}");
    bed.agent.ok("Delete", &guest);
}
