//! Addresses of guests, as List, Describe and `list` have them without a question to a guest.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::linux_bed::Bed;
use crate::harness::skip::{Skip, require};
use crate::harness::support::{wait_for, wait_until};

/// Longer than a loaded machine needs for what takes a second, and longer than between two looks at the host.
const SOON: Duration = Duration::from_secs(90);

const LEASED_MAC: &str = "02:00:00:00:63:01";

/// The first address of a guest that List has.
pub(crate) fn listed(agent: &Agent, id: &str) -> Value {
    let guests = agent.call_with("List", &json!({}))["result"]["guests"].take();
    let guests = guests.as_array().expect("a list");
    let guest = guests.iter().find(|guest| guest["id"] == id).expect("the guest is listed");
    guest["addresses"][0].clone()
}

/// Runs an agent on libvirt's test driver in a network of its own, whose kernel knows a neighbour with the MAC address
/// of the driver's guest.
fn with_neighbour() -> Result<Agent, Skip> {
    const SCRIPT: &str = "ip link set lo up && ip link add host0 type bridge && \
        ip addr add 192.0.2.1/24 dev host0 && ip link set host0 up && \
        ip neigh add 192.0.2.9 lladdr aa:bb:cc:dd:ee:ff dev host0 && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-n", "/bin/sh", "-c", SCRIPT, PROGRAM]);
    let agent = Agent::try_run(command, &["--libvirt-uri", "test:///default"]);
    agent.map_err(|log| Skip(format!("it cannot run in a network of its own: {log}")))
}

#[test]
fn a_neighbour_of_the_host_is_a_guests_address() {
    let Some(agent) = require("users", with_neighbour()) else { return };
    let run = |arguments: &[&str]| {
        let pid = agent.pid().to_string();
        let port = agent.address().port().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-n", "-t", &pid, PROGRAM]).args(arguments);
        command.args(["--config", "/dev/null", "--port", &port]).stdin(Stdio::null());
        let output = command.output().expect("nsenter starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    wait_until("list has the address", SOON, || run(&["list"]).contains("192.0.2.9"));
    let described = run(&["call", "Describe", r#"{"guest": {"id": "test"}}"#]);
    let described: Value = serde_json::from_str(&described).expect("JSON");
    let address = &described["addresses"][0];
    assert_eq!(address["address"], "192.0.2.9", "{described}");
    assert_eq!((&address["source"], &address["mac"]), (&json!("arp"), &json!("aa:bb:cc:dd:ee:ff")));
    let events = run(&["call", "WaitEvents", r#"{"after": 0}"#]);
    assert!(events.contains("\"state\":\"addresses\""), "{events}");
    // Of a guest that is off none is known.
    run(&["poweroff", "test"]);
    let list = wait_for("the guest is off", SOON, || {
        Some(run(&["list"])).filter(|list| list.contains("shutoff"))
    });
    assert!(!list.contains("192.0.2.9"), "{list}");
    run(&["run", "test"]);
    wait_until("its next run has the address again", SOON, || run(&["list"]).contains("192.0.2.9"));
}

#[test]
fn a_lease_is_a_guests_address() {
    const NETWORK: &str = "<network><name>leased</name><bridge name='leased0'/>
        <ip address='198.51.100.1' netmask='255.255.255.0'>
        <dhcp><range start='198.51.100.7' end='198.51.100.7'/></dhcp></ip></network>";
    let Some(bed) = Bed::new(&[]) else { return };
    let guest = bed.guest("leases", &json!({ "guest_agent": false }));
    assert!(bed.stack.with_xml("net-define", NETWORK).status.success());
    bed.stack.virsh_ok(&["net-start", "leased"]);
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("Run", &guest);
    assert_eq!(listed(&bed.agent, "leases"), Value::Null);
    let attach = ["attach-interface", "leases", "network", "leased", "--model", "virtio"];
    bed.stack.virsh_ok(&[&attach[..], &["--mac", LEASED_MAC, "--live"]].concat());
    // What libvirt's DHCP server runs for each lease.
    let helper = bed
        .stack
        .command("env")
        .args(["VIR_BRIDGE_NAME=leased0", "DNSMASQ_INTERFACE=leased0"])
        .args(["DNSMASQ_LEASE_EXPIRES=4000000000", "/usr/lib/libvirt/libvirt_leaseshelper"])
        .args(["add", LEASED_MAC, "198.51.100.7"])
        .status();
    assert!(helper.is_ok_and(|status| status.success()));
    let address = wait_for("List has the lease", SOON, || {
        Some(listed(&bed.agent, "leases")).filter(Value::is_object)
    });
    assert_eq!(
        (&address["address"], &address["source"]),
        (&json!("198.51.100.7"), &json!("lease"))
    );
    assert_eq!(
        (&address["mac"], &address["prefix"]),
        (&json!(LEASED_MAC), &json!(24)),
        "{address}"
    );
    bed.agent.ok("Delete", &guest);
    bed.stack.virsh_ok(&["net-destroy", "leased"]);
    bed.stack.virsh_ok(&["net-undefine", "leased"]);
}
