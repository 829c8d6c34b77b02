//! Packet filters of real guests: the parameters of a filter, and its effect on the host's device.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::{Skip, require};
use crate::harness::stack::Stack;

/// A filter that cannot be made without each of the four.
const FILTER: &str = "<filter name='mistify-test' chain='root'>
  <rule action='drop' direction='out'><mac match='no' srcmacaddr='$MAC'/></rule>
  <rule action='accept' direction='out'><ip srcipaddr='$IP' srcipmask='$NETMASK'/></rule>
  <rule action='accept' direction='in'><ip srcipaddr='$GATEWAY'/></rule>
</filter>";
const MAC: &str = "02:00:00:00:20:01";

/// The shared stack with the filter, which can be defined once.
fn stack_with_filter() -> Result<&'static Stack, Skip> {
    static DEFINED: OnceLock<Result<(), Skip>> = OnceLock::new();
    let stack = Stack::shared()?;
    let defined = DEFINED.get_or_init(|| {
        let output = stack.with_xml("nwfilter-define", FILTER);
        let why = String::from_utf8_lossy(&output.stderr);
        let refused = || Skip(format!("no filter can be defined: {}", why.trim()));
        output.status.success().then_some(()).ok_or_else(refused)
    });
    defined.clone().map(|()| stack)
}

fn agent(stack: &Stack, filter: &str) -> Agent {
    let uri = stack.uri();
    Agent::start(&["--libvirt-uri", &uri, "--bridge-type", "linux", "--nwfilter", filter])
}

fn guest(id: &str) -> Value {
    json!({
        "id": id, "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "name": "eth0", "network": "mistify0", "model": "virtio", "mac": MAC,
                   "address": "10.20.0.2/24", "netmask": "255.255.255.0",
                   "gateway": "10.20.0.1" }],
    })
}

#[test]
fn filter_applies_to_the_nic_with_its_parameters() {
    let Some(stack) = require("nwfilter", stack_with_filter()) else { return };
    let agent = agent(stack, "mistify-test");
    let guest = guest("filtered");
    agent.ok("CreateGuest", &guest);
    let ran = agent.ok("Run", &guest)["guest"].take();
    let device = ran["nics"][0]["device"].as_str().expect("it runs");

    let rules = stack.command("ebtables").args(["-t", "nat", "-L"]).output().expect("it starts");
    let rules = String::from_utf8_lossy(&rules.stdout);
    // ebtables writes the pairs of a MAC without leading zeros in some versions.
    let rules = rules.to_lowercase().replace("02:00:00:00", "2:0:0:0").replace("20:01", "20:1");
    for part in [device, "2:0:0:0:20:1", "10.20.0.0/24", "10.20.0.1"] {
        assert!(rules.contains(part), "{part} in {rules}");
    }
    let metadata = stack.virsh_ok(&["metadata", "filtered", "http://mistify.io/xml/guest/1"]);
    for part in ["10.20.0.2/24", "255.255.255.0", "10.20.0.1"] {
        assert!(metadata.contains(part), "{part} in {metadata}");
    }
    agent.ok("CreateGuest", &ran);
    agent.ok("Delete", &ran);
    assert!(!stack.virsh_ok(&["nwfilter-binding-list"]).contains(device));
}

#[test]
fn missing_filter_parameter_is_a_named_error() {
    let Some(stack) = require("nwfilter", stack_with_filter()) else { return };
    let agent = agent(stack, "mistify-test");
    let mut guest = guest("unfiltered");
    guest["nics"][0]["mac"] = json!("02:00:00:00:20:02");
    guest["nics"][0]["gateway"] = json!("");
    agent.ok("CreateGuest", &guest);
    let error = agent.error("Run", &guest);
    assert!(error.contains("GATEWAY"), "{error}");
    assert_eq!(agent.state("unfiltered"), "shutoff");
    agent.ok("Delete", &guest);
}

#[test]
fn missing_filter_is_an_error_that_names_it() {
    let Some(stack) = require("nwfilter", stack_with_filter()) else { return };
    let agent = agent(stack, "no-such-filter");
    let mut guest = guest("filterless");
    guest["nics"][0]["mac"] = json!("02:00:00:00:20:03");
    agent.ok("CreateGuest", &guest);
    let error = agent.error("Run", &guest);
    assert!(error.contains("no-such-filter"), "{error}");
    agent.ok("Delete", &guest);
}
