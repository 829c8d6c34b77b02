//! The network that the agent provides: NAT and DHCP for a host without a bridge.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::linux::{Console, SMALL_MIB, small_disk};
use crate::harness::skip::{Skip, require};
use crate::harness::stack::{Stack, installed, wait_for_libvirt};
use crate::harness::support::{Scratch, wait_until};

const NETWORK: &str = "mistify-nat";
const FLAGS: [&str; 2] = ["--bridge-type", "nat:192.168.77.0/24"];
/// Longer than a loaded machine needs for a lease and its report.
const SOON: Duration = Duration::from_secs(120);

/// A libvirtd without the bridge that other tests have.
fn bare_stack() -> Option<Stack> {
    let missing = ["dnsmasq", "iptables"].into_iter().find(|program| !installed(program));
    let stack = match missing {
        Some(missing) => Err(Skip(format!("{missing} is not installed"))),
        None => Stack::start(),
    };
    let stack = require("qemu", stack)?;
    let deleted = stack.command("ip").args(["link", "delete", "mistify0"]).status();
    assert!(deleted.is_ok_and(|status| status.success()), "the bridge is deleted");
    Some(stack)
}

fn agent(stack: &Stack, disks: &Scratch) -> Agent {
    let (uri, path) = (stack.uri(), disks.path().display().to_string());
    let more = ["--libvirt-uri", &uri, "--allow-disk-path", &path];
    Agent::start(&[&FLAGS[..], &more].concat())
}

fn mac(number: u8) -> String {
    format!("02:00:00:00:7d:{number:02x}")
}

fn guest(id: &str, number: u8, address: &str) -> Value {
    json!({
        "id": id, "type": "qemu", "memory": 32, "cpu": 1, "profile": "classic",
        "nics": [{ "network": "mistify0", "mac": mac(number), "address": address }],
    })
}

/// The reservations of the network as libvirt has them, in its definition and where it runs.
fn reservations(stack: &Stack) -> Vec<String> {
    let lines = |words: &[&str]| {
        let xml = stack.virsh_ok(words);
        let hosts = xml.lines().filter(|line| line.contains("<host "));
        hosts.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let live = lines(&["net-dumpxml", NETWORK]);
    assert_eq!(live, lines(&["net-dumpxml", NETWORK, "--inactive"]));
    live
}

fn reserved(number: u8, address: &str) -> String {
    format!("<host mac='{}' ip='{address}'/>", mac(number))
}

#[test]
fn a_bare_host_gets_one_network_with_reservations() {
    let Some(stack) = bare_stack() else { return };
    let disks = Scratch::new();
    let agent = agent(&stack, &disks);
    let one = guest("nat-one", 1, "192.168.77.9");
    let dry = agent.call_with("CreateGuest", &json!({ "guest": one, "dry_run": true }));
    assert_eq!(dry["result"]["plan"]["steps"][0]["name"], NETWORK, "{dry}");
    assert!(!stack.virsh_ok(&["net-list", "--all", "--name"]).contains(NETWORK));
    let first = agent.ok("CreateGuest", &one);
    let info = stack.virsh_ok(&["net-info", NETWORK]);
    for line in ["Active:         yes", "Persistent:     yes", "Autostart:      yes"] {
        assert!(info.contains(line), "{line} in {info}");
    }
    assert_eq!(reservations(&stack), [reserved(1, "192.168.77.9")]);
    assert_eq!(agent.ok("CreateGuest", &one), first, "again");
    agent.ok("CreateGuest", &guest("nat-two", 2, ""));
    assert_eq!(reservations(&stack).len(), 1);

    // A reserved address undoes the whole guest, and an invalid one creates nothing.
    for (address, why) in [
        ("192.168.77.9/24", "address 192.168.77.9 is reserved for NIC 02:00:00:00:7d:01; detach"),
        ("192.168.77.1", "nics[0].address"),
        ("192.168.78.2", "nics[0].address"),
        ("fd00::2", "nics[0].address"),
    ] {
        let third = json!({ "guest": guest("nat-third", 3, address), "dry_run": true });
        let dry = agent.call_with("CreateGuest", &third)["result"]["plan"].take();
        assert!(dry["problems"].to_string().contains(why), "{dry}");
        let error = agent.error("CreateGuest", &guest("nat-third", 3, address));
        assert!(error.contains(why), "{error}");
    }
    assert!(!stack.virsh_ok(&["net-list", "--all", "--name"]).contains(&mac(3)));
    assert_eq!(reservations(&stack), [reserved(1, "192.168.77.9")]);

    let nic = json!({ "network": "mistify0", "mac": mac(4), "address": "192.168.77.4" });
    let params = json!({ "guest": { "id": "nat-two" }, "nic": nic });
    assert_eq!(agent.call_with("AttachNic", &params)["error"], Value::Null);
    assert_eq!(reservations(&stack).len(), 2);
    assert_eq!(agent.call_with("DetachNic", &params)["error"], Value::Null);
    assert_eq!(reservations(&stack), [reserved(1, "192.168.77.9")]);

    let is_active = || stack.virsh_ok(&["net-info", NETWORK]).contains("Active:         yes");
    stack.virsh_ok(&["net-destroy", NETWORK]);
    agent.ok("CreateGuest", &guest("nat-two", 2, ""));
    assert!(is_active());
    // As at a boot of the host: libvirtd starts it, with its reservations.
    stack.virsh_ok(&["net-destroy", NETWORK]);
    stack.signal_libvirtd("TERM");
    // A boot empties /run, where libvirt marks that it has started its networks.
    let unmarked = stack.command("rm").arg("/run/libvirt/network/autostarted").status();
    assert!(unmarked.is_ok_and(|status| status.success()));
    stack.start_libvirtd();
    assert!(is_active());
    assert_eq!(reservations(&stack), [reserved(1, "192.168.77.9")]);
    let moved = guest("nat-one", 1, "192.168.77.10");
    agent.ok("CreateGuest", &moved);
    assert_eq!(reservations(&stack), [reserved(1, "192.168.77.10")]);
    // An operator removes the network of the NIC.
    stack.virsh_ok(&["net-destroy", &mac(1)]);
    stack.virsh_ok(&["net-undefine", &mac(1)]);
    agent.ok("Delete", &json!({ "id": "nat-one" }));
    assert_eq!(reservations(&stack), Vec::<String>::new());
    agent.ok("Delete", &json!({ "id": "nat-two" }));
    assert!(is_active());
    agent.end();
}

#[test]
fn a_killed_create_leaves_no_reservation() {
    let Some(stack) = bare_stack() else { return };
    let state = Scratch::new();
    let (uri, path) = (stack.uri(), state.path().display().to_string());
    let more = ["--libvirt-uri", &uri, "--state-dir", &path];
    let flags = [&FLAGS[..], &more].concat();
    let made = guest("nat-killed", 6, "192.168.77.66");
    for (deaths, at) in
        (1..9).flat_map(|write| [format!("before:{write}"), format!("after:{write}")]).enumerate()
    {
        let dying = Agent::start_in(Some(("MISTIFY_STOP_AT", &at)), &flags);
        let has_lived = dying.try_call("CreateGuest", &made).is_some();
        if has_lived {
            assert_eq!(reservations(&stack), [reserved(6, "192.168.77.66")]);
            dying.end();
            // The beginning, the network, the domain, the end.
            assert_eq!(deaths, 2 * 4);
            return;
        }
        dying.wait();
        wait_for_libvirt(&uri);
        let agent = Agent::start(&flags);
        wait_until("it is recovered", SOON, || agent.is_recovered());
        let names = stack.virsh_ok(&["net-list", "--all", "--name"]);
        let (is_whole, has_network) = (names.contains(&mac(6)), names.contains(NETWORK));
        let expected: Vec<_> = is_whole.then(|| reserved(6, "192.168.77.66")).into_iter().collect();
        assert!(has_network || !is_whole);
        if has_network {
            assert_eq!(reservations(&stack), expected, "{at}");
        }
        if is_whole {
            agent.ok("Delete", &made);
            assert_eq!(reservations(&stack), Vec::<String>::new());
        }
        agent.end();
    }
    panic!("CreateGuest writes more than 8 times");
}

#[test]
fn a_network_of_others_is_not_touched() {
    let Some(stack) = bare_stack() else { return };
    let disks = Scratch::new();
    let agent = agent(&stack, &disks);
    for (mark, why) in [
        ("", "is not this agent's"),
        (
            "<metadata><m:nat xmlns:m='http://mistify.io/xml/guest/1' addresses='10.0.0.0/24'/></metadata>",
            "has other addresses",
        ),
    ] {
        let xml = format!("<network><name>{NETWORK}</name>{mark}<bridge name='other0'/></network>");
        let file = disks.path().join("network.xml");
        std::fs::write(&file, xml).expect("a file can be written");
        stack.virsh_ok(&["net-define", file.to_str().expect("UTF-8")]);
        let before = stack.virsh_ok(&["net-dumpxml", NETWORK]);
        let foreign = json!({ "guest": guest("nat-foreign", 1, "192.168.77.9"), "dry_run": true });
        let dry = agent.call_with("CreateGuest", &foreign)["result"]["plan"].take();
        assert!(dry["problems"].to_string().contains(why), "{dry}");
        let error = agent.error("CreateGuest", &guest("nat-foreign", 1, "192.168.77.9"));
        assert!(error.contains(why), "{error}");
        assert_eq!(stack.virsh_ok(&["net-dumpxml", NETWORK]), before);
        assert!(!stack.virsh_ok(&["net-list", "--all", "--name"]).contains(&mac(1)));
        stack.virsh_ok(&["net-undefine", NETWORK]);
    }
    agent.end();
}

#[test]
fn a_first_guest_has_its_reserved_address() {
    let Some(stack) = bare_stack() else { return };
    let disks = Scratch::new();
    let Some(disk) = require("qemu", small_disk(&disks)) else { return };
    let agent = agent(&stack, &disks);
    let mut made = guest("nat-real", 5, "192.168.77.55");
    made["memory"] = json!(SMALL_MIB);
    made["disks"] = json!([{ "source": disk }]);
    made["nics"][0]["model"] = json!("virtio");
    agent.ok("CreateGuest", &made);
    agent.ok("Run", &made);
    let mut console = Console::log_in(&stack, "nat-real");
    // It asks by DHCP when it boots.
    let shown = console
        .run("until ip -4 addr show eth0 | grep inet; do sleep 1; done; ip route | grep default");
    assert!(shown.contains("192.168.77.55/24") && shown.contains("via 192.168.77.1"), "{shown}");
    assert!(console.run("ping -c 1 192.168.77.1").contains("1 packets received"));
    wait_until("List shows the lease", SOON, || {
        let list = agent.call_with("List", &json!({}))["result"].take().to_string();
        list.contains("192.168.77.55") && list.contains("lease")
    });
    wait_until("the lease is reported", SOON, || {
        let info = agent.ok("GuestInfo", &json!({ "id": "nat-real" })).to_string();
        info.contains("192.168.77.55") && info.contains("lease")
    });
    agent.ok("Delete", &made);
    agent.end();
}
