//! Guests and networks that the original agent made, by its exact XML, under every verb.

use mistify_libvirt::guest::domain::VirDomain;
use mistify_libvirt::guest::network::NetworkDefinition;
use mistify_libvirt::libvirt::XmlKind;
use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::test_driver::Local;

pub(crate) const DOMAIN: &str = include_str!("../../original/domain.xml");
const BARE: &str = include_str!("../../original/domain-bare.xml");
pub(crate) const NETWORK: &str = include_str!("../../original/network.xml");
pub(crate) const MAC: &str = "DE:AD:BE:EF:00:01";
pub(crate) const DISK: &str = "/dev/zvol/mistify/guests/original/disk-0";

/// The request that the files were made from, as the orchestrator kept it.
pub(crate) fn request() -> Value {
    json!({
        "id": "original", "type": "test", "image": "image-1", "state": "shutoff",
        "memory": 32, "cpu": 2, "metadata": { "owner": "a & b" },
        "nics": [{ "name": "eth0", "network": "mistify0", "model": "rtl8139", "mac": MAC,
                   "address": "10.0.0.2", "netmask": "255.255.255.0", "gateway": "10.0.0.1",
                   "vlans": [7, 8] }],
        "disks": [{ "bus": "virtio", "device": "vda", "size": 10, "volume": "", "image": "image-1",
                    "source": DISK }],
    })
}

/// A host on which the original agent was at work: its guest and network are there, off and on.
fn inherited(id: &str, mac: &str) -> (Local, Value) {
    let local = Local::new();
    let network = local.libvirt.define_network(&NETWORK.replace(MAC, mac)).expect("its XML");
    network.set_autostart().expect("as the original");
    network.create().expect("as the original");
    // All of these tests share libvirt's test driver, and a disk has one guest.
    let disk = DISK.replace("original", id);
    let domain = DOMAIN.replace(MAC, mac).replace("<name>original<", &format!("<name>{id}<"));
    let domain = domain.replace(DISK, &disk);
    local.libvirt.define_domain(&domain).expect("its XML");
    let mut guest = request();
    guest["id"] = json!(id);
    guest["nics"][0]["mac"] = json!(mac);
    guest["disks"][0]["source"] = json!(disk);
    (local, guest)
}

#[test]
fn every_verb_understands_a_guest_of_the_original() {
    let mac = "DE:AD:BE:EF:00:02";
    let (agent, guest) = inherited("every-verb", mac);
    let state = |method: &str| agent.ok(method, &guest)["state"].clone();
    assert_eq!(state("Status"), "shutoff");
    assert_eq!(agent.ok("CreateGuest", &guest), guest, "it is the same guest");
    let mut ran = guest.clone();
    ran["state"] = json!("running");
    ran["nics"][0]["device"] = json!("testnet0");
    assert_eq!(agent.ok("Run", &guest), ran);
    assert_eq!(agent.call("CPUMetrics", &guest).unwrap()["cpu"].as_array().map(Vec::len), Some(2));
    let disks = agent.call("DiskMetrics", &guest).unwrap();
    assert!(disks["disk"]["vda"]["read_bytes"].is_number(), "{disks}");
    let nics = agent.call("NicMetrics", &guest).unwrap();
    assert!(nics["nic"]["eth0"]["rx_bytes"].is_number(), "{nics}");
    for (method, after) in [
        ("Reboot", "running"),
        ("Restart", "running"),
        ("Shutdown", "shutoff"),
        ("Create", "running"),
        ("Poweroff", "shutoff"),
    ] {
        assert_eq!(state(method), after, "{method}");
    }
    assert_eq!(agent.ok("Delete", &guest), guest);
    assert!(agent.libvirt.lookup_domain_by_name("every-verb").is_err());
    assert!(agent.libvirt.lookup_network_by_name(mac).is_err());
    assert!(agent.call("Delete", &guest).unwrap_err().starts_with("[Code-42] "));
}

#[test]
fn another_guest_with_an_original_id_is_code_9() {
    let (agent, guest) = inherited("not-another", "DE:AD:BE:EF:00:03");
    for (member, value) in [
        ("type", json!("kvm")),
        ("memory", json!(33)),
        ("cpu", json!(1)),
        ("nics", json!([])),
        ("disks", json!([{ "source": "/dev/zvol/mistify/other" }])),
    ] {
        for method in ["CreateGuest", "Create"] {
            let mut other = guest.clone();
            other[member] = value.clone();
            let error = agent.call(method, &other).unwrap_err();
            assert!(error.starts_with("[Code-9] [Domain-20] "), "{method} {member}: {error}");
        }
    }
    let mut other = guest.clone();
    other["nics"][0]["vlans"] = json!([7]);
    assert!(agent.call("CreateGuest", &other).unwrap_err().starts_with("[Code-9] "));
    agent.ok("Delete", &guest);
}

#[test]
fn original_network_is_adopted_only_by_its_own_guest() {
    let mac = "DE:AD:BE:EF:00:04";
    let (agent, guest) = inherited("network-user", mac);
    let mut thief = guest.clone();
    thief["id"] = json!("network-thief");
    thief["disks"][0]["source"] = json!(DISK.replace("original", "network-thief"));
    assert!(agent.call("CreateGuest", &thief).unwrap_err().starts_with("[Code-9] "));
    agent.libvirt.lookup_domain_by_name("network-user").unwrap().undefine().unwrap();
    agent.ok("CreateGuest", &guest);
    agent.ok("Delete", &guest);
    assert!(agent.libvirt.lookup_network_by_name(mac).is_err());
}

#[test]
fn original_guest_without_devices_is_understood() {
    let agent = Local::new();
    agent.libvirt.define_domain(BARE).expect("its XML");
    let guest = json!({ "id": "bare", "type": "test", "memory": 32, "cpu": 2 });
    assert_eq!(agent.ok("CreateGuest", &guest), guest);
    assert_eq!(agent.ok("Run", &guest)["state"], "running");
    assert_eq!(agent.ok("Delete", &guest), guest);
}

#[test]
fn caller_metadata_and_request_are_kept_in_libvirt() {
    let agent = Local::new();
    let mut guest = request();
    guest["id"] = json!("kept");
    guest["nics"][0]["mac"] = json!("DE:AD:BE:EF:00:05");
    guest["disks"][0]["volume"] = json!("mistify/guests/kept/disk-0");
    agent.ok("CreateGuest", &guest);
    let domain = agent.libvirt.lookup_domain_by_name("kept").unwrap();
    let xml = domain.xml(XmlKind::Inactive).unwrap();
    for namespace in ["device/1", "user_metadata/1", "guest/1"] {
        assert!(xml.contains(&format!("\"http://mistify.io/xml/{namespace}\"")), "{xml}");
    }
    let metadata = VirDomain::from_xml(&xml).unwrap().metadata;
    let [parameter] = metadata.user_metadata.parameters.as_slice() else { panic!("{metadata:?}") };
    assert_eq!((parameter.name.as_str(), parameter.value.as_str()), ("owner", "a & b"));
    let [disk] = metadata.device.disks.as_slice() else { panic!("{metadata:?}") };
    assert_eq!((disk.device.as_str(), disk.image.as_str()), ("vda", "image-1"));
    assert_eq!(disk.volume, "mistify/guests/kept/disk-0");
    assert_eq!(serde_json::to_value(metadata.guest).unwrap(), guest, "with its NIC's address");
    agent.ok("Delete", &guest);
}

/// The original's guest on a stack without Open vSwitch: its network is a plain bridge's.
fn on_a_plain_bridge(stack: &Stack, id: &str, mac: &str, disk: &str) -> Value {
    let mut network = NetworkDefinition::from_xml(NETWORK).expect("XML");
    network.name = mac.to_owned();
    network.openvswitch = false;
    network.vlans.clear();
    assert!(stack.with_xml("net-define", &network.network_xml()).status.success());
    stack.virsh_ok(&["net-start", mac]);
    let domain = DOMAIN.replace(MAC, mac).replace("<name>original<", &format!("<name>{id}<"));
    let domain = domain.replace("type=\"test\"", "type=\"qemu\"").replace(DISK, disk);
    let defined = stack.with_xml("define", &domain);
    assert!(defined.status.success(), "{defined:?}");
    let mut guest = request();
    guest["id"] = json!(id);
    guest["type"] = json!("qemu");
    guest["nics"][0]["mac"] = json!(mac);
    guest["nics"][0]["vlans"] = Value::Null;
    guest["disks"][0]["source"] = json!(disk);
    guest
}

#[test]
fn every_verb_accepts_an_original_guest() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(device) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let disk = device.path().to_str().expect("UTF-8");
    let (uri, mac) = (stack.uri(), "DE:AD:BE:EF:00:06");
    let flags = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--allow-disk-path", disk];
    let agent = Agent::start(&flags);
    let guest = on_a_plain_bridge(stack, "inherited", mac, disk);
    let state = |method: &str| agent.ok(method, &guest)["guest"]["state"].clone();

    assert_eq!(state("Status"), "shutoff");
    assert_eq!(agent.ok("CreateGuest", &guest)["guest"], guest, "it is the same guest");
    let ran = agent.ok("Run", &guest)["guest"].take();
    assert_eq!((&ran["state"], &ran["nics"][0]["name"]), (&json!("running"), &json!("eth0")));
    assert!(ran["nics"][0]["device"].as_str().is_some_and(|it| it.starts_with("vnet")), "{ran}");
    assert_eq!(agent.ok("CPUMetrics", &guest)["cpu"].as_array().map(Vec::len), Some(2));
    assert!(agent.ok("DiskMetrics", &guest)["disk"]["vda"]["read_ops"].is_number());
    assert!(agent.ok("NicMetrics", &guest)["nic"]["eth0"]["rx_packets"].is_number());
    for (method, after) in [
        ("Reboot", "running"),
        ("Restart", "running"),
        // The guest has no ACPI: the request has no effect.
        ("Shutdown", "running"),
        ("Poweroff", "shutoff"),
        ("Shutdown", "shutoff"),
        ("Create", "running"),
    ] {
        assert_eq!(state(method), after, "{method}");
    }
    assert_eq!(agent.ok("Delete", &guest)["guest"], guest);
    assert!(!stack.virsh_ok(&["list", "--all", "--name"]).contains("inherited"));
    assert!(!stack.virsh_ok(&["net-list", "--all", "--name"]).contains(mac));
}

#[test]
fn original_network_is_deleted_on_a_real_host() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let mac = "DE:AD:BE:EF:00:07";
    assert!(stack.with_xml("net-define", &NETWORK.replace(MAC, mac)).status.success());
    let domain = DOMAIN.replace(MAC, mac).replace("<name>original<", "<name>tagged<");
    let defined = stack.with_xml("define", &domain.replace("type=\"test\"", "type=\"qemu\""));
    assert!(defined.status.success(), "{defined:?}");
    let mut guest = request();
    guest["id"] = json!("tagged");
    guest["type"] = json!("qemu");
    guest["nics"][0]["mac"] = json!(mac);
    assert_eq!(agent.ok("CreateGuest", &guest)["guest"], guest);
    assert!(stack.virsh_ok(&["net-info", mac]).contains("Active:         yes"));
    agent.ok("Delete", &guest);
    assert!(!stack.virsh_ok(&["net-list", "--all", "--name"]).contains(mac));
}

#[test]
fn original_guest_is_known_after_restarts() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let guest = json!({
        "id": "remembered", "type": "qemu", "memory": 32, "cpu": 1, "metadata": { "k": "v" },
        "disks": [{ "volume": "mistify/a", "source": "/dev/zvol/mistify/a" }],
    });
    let made = Agent::start(&["--libvirt-uri", &stack.uri()]).ok("CreateGuest", &guest);
    stack.signal_libvirtd("KILL");
    stack.start_libvirtd();
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    assert_eq!(agent.ok("CreateGuest", &guest), made);
    let mut other = guest.clone();
    other["metadata"]["k"] = json!("w");
    assert!(agent.error("CreateGuest", &other).starts_with("[Code-9] "));
}
