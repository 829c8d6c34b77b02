//! Guests that another tool made with what the wire has no words for.

use serde_json::json;

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::Stack;

const COUNTED: &str = "02:00:00:00:28:01";
const HIDDEN: &str = "02:00:00:00:28:02";

/// A running guest with one processor of four, and two NICs, of which one has no end on the host.
fn guest(stack: &Stack, id: &str) -> Agent {
    let xml = format!(
        "<domain type='qemu'><name>{id}</name><memory unit='MiB'>32</memory><vcpu current='1'>4</vcpu>
         <os><type>hvm</type></os><devices>
         <interface type='network'><mac address='{COUNTED}'/><source network='{id}'/></interface>
         <interface type='user'><mac address='{HIDDEN}'/></interface></devices></domain>"
    );
    let network = format!(
        "<network><name>{id}</name><forward mode='bridge'/><bridge name='mistify0'/></network>"
    );
    for (command, xml) in [("net-create", network), ("define", xml)] {
        let done = stack.with_xml(command, &xml);
        assert!(done.status.success(), "{done:?}");
    }
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    agent.ok("Run", &json!({ "id": id }));
    agent
}

#[test]
fn a_nic_without_a_host_end_fails_no_metrics() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = guest(stack, "mixed-nics");
    let nics = json!([{ "name": "lan", "mac": COUNTED }, { "name": "inner", "mac": HIDDEN }]);

    let answer = agent.ok("NicMetrics", &json!({ "id": "mixed-nics", "nics": nics }));

    assert!(answer["nic"]["lan"]["rx_packets"].is_number(), "{answer}");
    assert_eq!(answer["nic"].as_object().map(serde_json::Map::len), Some(1), "{answer}");
    let hidden = agent.ok("NicMetrics", &json!({ "id": "mixed-nics", "nics": [nics[1]] }));
    assert_eq!(hidden, json!({ "guest": null, "type": "nic" }));
    agent.ok("Delete", &json!({ "id": "mixed-nics" }));
    stack.virsh_ok(&["net-destroy", "mixed-nics"]);
}

#[test]
fn set_cpu_keeps_the_maximum_for_hotplug() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = guest(stack, "hotplug");
    let counts = || {
        let described = agent.ok("Describe", &json!({ "id": "hotplug" }));
        let listed = agent.call_with("List", &json!({}))["result"]["guests"].clone();
        let listed =
            listed.as_array().and_then(|all| all.iter().find(|one| one["id"] == "hotplug"));
        let listed = listed.map_or(0, |one| one["cpu"].as_u64().unwrap_or_default());
        (described["vcpu"].clone(), described["vcpu_max"].clone(), listed)
    };
    assert_eq!(counts(), (json!(1), json!(4), 1));

    agent.ok("SetCPU", &json!({ "id": "hotplug", "cpu": 2 }));

    let configured =
        |of: &str| stack.virsh_ok(&["vcpucount", "hotplug", of, "--config"]).trim().to_owned();
    assert_eq!(
        (configured("--current"), configured("--maximum")),
        ("2".to_owned(), "4".to_owned())
    );
    assert_eq!(counts(), (json!(2), json!(4), 2), "and now");
    agent.ok("SetCPU", &json!({ "id": "hotplug", "cpu": 4 }));
    agent.ok("SetCPU", &json!({ "id": "hotplug", "cpu": 3 }));
    assert_eq!(
        (configured("--current"), configured("--maximum")),
        ("3".to_owned(), "4".to_owned())
    );
    agent.ok("SetCPU", &json!({ "id": "hotplug", "cpu": 6 }));
    assert_eq!(
        (configured("--current"), configured("--maximum")),
        ("6".to_owned(), "6".to_owned())
    );
    agent.ok("Delete", &json!({ "id": "hotplug" }));
    stack.virsh_ok(&["net-destroy", "hotplug"]);
}
