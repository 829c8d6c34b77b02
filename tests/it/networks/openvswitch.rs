//! The contract's networks (section 5.2) on a real Open vSwitch: what a guest's ports look like
//! there.

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::{Bridge, Cgroup, Stack};

/// A guest without a disk whose NICs have these VLAN tags, on the bridge of that name.
fn guest(id: &str, bridge: &str, vlans: &[Value]) -> Value {
    let nic = |(index, vlans): (usize, &Value)| {
        let mac = format!("02:00:00:00:20:{index:02x}");
        json!({ "name": format!("eth{index}"), "network": bridge, "mac": mac, "vlans": vlans })
    };
    let nics: Vec<_> = vlans.iter().enumerate().map(nic).collect();
    json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "nics": nics })
}

/// What `ovs-vsctl show` prints, its lines trimmed.
fn switch(stack: &Stack) -> Vec<String> {
    let output = stack.command("ovs-vsctl").arg("show").output().expect("ovs-vsctl starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

/// The lines that the switch shows of a port.
fn port<'a>(shown: &'a [String], device: &str) -> &'a [String] {
    let first = format!("Port {device}");
    let start = shown.iter().position(|line| *line == first).expect("the guest has its port");
    let rest = &shown[start + 1..];
    let next = |line: &String| line.starts_with("Port ") || line.starts_with("Bridge ");
    &rest[..rest.iter().position(next).unwrap_or(rest.len())]
}

fn start() -> Option<(Stack, Agent)> {
    let stack = require("ovs", Stack::start_with(Cgroup::V2, Bridge::OpenVSwitch))?;
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    Some((stack, agent))
}

#[test]
fn switch_shows_tag_trunk_and_no_tag() {
    let Some((stack, agent)) = start() else { return };
    let asked =
        guest("tags", "mistify0", &[json!([7]), json!([1, 42, 4094]), json!([]), Value::Null]);
    agent.ok("CreateGuest", &asked);
    let ran = agent.ok("Run", &asked)["guest"].take();
    let device = |index: usize| ran["nics"][index]["device"].as_str().expect("a tap").to_owned();

    let shown = switch(&stack);
    assert!(port(&shown, &device(0)).contains(&"tag: 7".to_owned()), "{shown:#?}");
    let trunk = "trunks: [1, 42, 4094]".to_owned();
    assert!(port(&shown, &device(1)).contains(&trunk), "{shown:#?}");
    for untagged in [device(2), device(3)] {
        let lines = port(&shown, &untagged);
        let tagged = |line: &String| line.starts_with("tag:") || line.starts_with("trunks:");
        assert!(!lines.iter().any(tagged), "{untagged}: {shown:#?}");
    }

    agent.ok("Delete", &ran);
    let shown = switch(&stack);
    assert!(!shown.iter().any(|line| line.contains("vnet")), "{shown:#?}");
    assert_eq!(stack.virsh_ok(&["net-list", "--all", "--name"]).trim(), "");
}

#[test]
fn a_missing_bridge_is_an_error_that_names_it() {
    let Some((stack, agent)) = start() else { return };
    let asked = guest("bridgeless", "absent0", &[json!([7])]);
    agent.ok("CreateGuest", &asked);
    let error = agent.error("Run", &asked);
    assert!(error.contains("absent0"), "{error}");
    assert_eq!(agent.state("bridgeless"), "shutoff");
    agent.ok("Delete", &asked);
    assert_eq!(stack.virsh_ok(&["net-list", "--all", "--name"]).trim(), "");
}
