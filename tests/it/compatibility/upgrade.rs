//! From the original agent to this one and back, while guests run: on a real libvirtd with qemu and
//! Open vSwitch. Where the original would call libvirt, virsh makes the same calls.

use std::path::Path;
use std::time::Duration;

use mistify_libvirt::guest::domain::VirDomain;
use serde_json::{Value, json};

use crate::compatibility::original::{DISK, DOMAIN, MAC, NETWORK, request};
use crate::harness::boot_sector::boots;
use crate::harness::pid_namespace::Inside;
use crate::harness::skip::{Skip, require};
use crate::harness::stack::{BlockDevice, Bridge, Cgroup, Stack};
use crate::harness::support::wait_until;

const SOON: Duration = Duration::from_secs(90);

/// A host with a disk, for one agent after the other.
struct Host {
    stack: Stack,
    disk: BlockDevice,
}

impl Host {
    fn new() -> Result<Self, Skip> {
        let stack = Stack::start_with(Cgroup::V2, Bridge::OpenVSwitch)?;
        Ok(Self { stack, disk: BlockDevice::bootable(1 << 20)? })
    }

    fn disk(&self) -> &str {
        self.disk.path().to_str().expect("UTF-8")
    }

    /// This agent with the flags that the original had, and its disk, which is not in a pool. Its
    /// state is new, and goes with it.
    fn agent(&self) -> Inside {
        Inside::start(&self.stack, &["-z", "mistify", "--allow-disk-path", self.disk()])
    }

    /// What the original's CreateGuest and Run make of a request.
    fn made_by_the_original(&self) -> Value {
        assert!(self.stack.with_xml("net-define", NETWORK).status.success());
        self.stack.virsh_ok(&["net-autostart", MAC]);
        self.stack.virsh_ok(&["net-start", MAC]);
        let domain = DOMAIN.replace("type=\"test\"", "type=\"qemu\"").replace(DISK, self.disk());
        let defined = self.stack.with_xml("define", &domain);
        assert!(defined.status.success(), "{defined:?}");
        self.stack.virsh_ok(&["start", "original"]);
        let mut guest = request();
        guest["type"] = json!("qemu");
        guest["disks"][0]["source"] = json!(self.disk());
        guest["state"] = json!("running");
        // It answered without a name after a cold start, and the orchestrator kept that.
        guest["nics"][0].as_object_mut().expect("a NIC").remove("name");
        guest
    }

    /// The emulator's process: the same as long as nobody stops the guest.
    fn process(&self, id: &str) -> u32 {
        self.stack.qemu_pid(id).expect("it runs")
    }

    /// The original's state of a guest.
    fn state(&self, id: &str) -> String {
        self.stack.virsh_ok(&["domstate", id]).trim().to_owned()
    }

    fn writes(&self, id: &str) {
        wait_until("the guest writes to its disk", SOON, || self.stack.writes(id) > 0);
    }

    /// The libvirt calls of the original's Delete; each of them has to succeed.
    fn deleted_by_the_original(&self, id: &str, macs: &[&str]) {
        self.stack.virsh_ok(&["destroy", id]);
        // Without any flag.
        self.stack.virsh_ok(&["undefine", id]);
        for mac in macs {
            self.stack.virsh_ok(&["net-destroy", mac]);
            self.stack.virsh_ok(&["net-undefine", mac]);
        }
    }

    fn is_empty(&self) -> bool {
        let lists = [&["list", "--all", "--name"][..], &["net-list", "--all", "--name"]];
        lists.iter().all(|list| self.stack.virsh_ok(list).trim().is_empty())
    }
}

/// The metrics of one guest by the three methods, and by the one for all and the scrape.
fn is_measured(agent: &Inside, guest: &Value) {
    let id = guest["id"].as_str().expect("a text");
    let ok = |method: &str| agent.agent.ok(method, guest);
    assert_eq!(ok("CPUMetrics")["cpu"].as_array().map(Vec::len), Some(2));
    let disk = ok("DiskMetrics");
    assert!(disk["disk"]["vda"]["write_ops"].as_u64() > Some(0), "{disk}");
    let name = guest["nics"][0]["name"].as_str().unwrap_or_default();
    let nic = ok("NicMetrics");
    assert!(nic["nic"][name]["tx_packets"].is_number(), "{nic}");
    // From a sample, which a loaded machine takes after the question.
    wait_until("it is among all", SOON, || {
        agent.agent.call_with("AllMetrics", &json!({}))["result"][id]["state"] == "running"
    });
    let of = |name: &str, label: &str| format!(r#"libvirt_domain_{name}{{domain="{id}"{label}}}"#);
    agent.scrape_until("it is in a scrape", SOON, |scrape| {
        scrape.get(&of("info_state", r#",state="running""#)) == Some(1.0)
            && scrape.get(&of("info_cpu_time_seconds_total", "")) > Some(0.0)
            && scrape.get(&of("block_stats_write_requests_total", r#",target_device="vda""#))
                > Some(0.0)
    });
}

#[test]
fn original_guest_survives_every_verb_and_metric() {
    let Some(host) = require("ovs", Host::new()) else { return };
    let mut guest = host.made_by_the_original();
    host.writes("original");
    let process = host.process("original");

    // Twice: the agent's state is gone in between.
    for _ in 0..2 {
        let agent = host.agent();
        assert_eq!(agent.agent.state("original"), "running");
        assert_eq!(agent.agent.ok("CreateGuest", &guest)["guest"], guest, "it is the same guest");
        is_measured(&agent, &guest);
        let ran = agent.agent.ok("Run", &guest)["guest"].take();
        assert!(ran["nics"][0]["device"].as_str().is_some_and(|it| it.starts_with("vnet")));
        assert_eq!(ran["state"], "running");
        for method in ["Reboot", "Restart"] {
            assert_eq!(agent.agent.ok(method, &guest)["guest"]["state"], "running", "{method}");
        }
        // The guest has no ACPI, as the original configured none: the request has no effect.
        assert_eq!(agent.agent.ok("Shutdown", &guest)["guest"]["state"], "running");
        assert_eq!(host.process("original"), process, "nobody has stopped it");
        guest = ran;
    }

    let agent = host.agent();
    for (method, state) in [("Poweroff", "shutoff"), ("Run", "running"), ("Poweroff", "shutoff")] {
        assert_eq!(agent.agent.ok(method, &guest)["guest"]["state"], state, "{method}");
    }
    assert_eq!(agent.agent.ok("Create", &guest)["guest"]["state"], "running");
    assert!(agent.agent.ok("Delete", &guest)["guest"].is_object());
    assert!(host.is_empty(), "and nothing of it is left");
}

#[test]
fn new_guest_survives_a_downgrade_and_return() {
    let Some(host) = require("ovs", Host::new()) else { return };
    let mac = "02:00:00:00:77:01";
    let asked = json!({
        "id": "made-here", "type": "qemu", "memory": 32, "cpu": 2, "metadata": { "owner": "a" },
        "nics": [{ "name": "eth0", "network": "mistify0", "model": "rtl8139", "mac": mac,
                   "vlans": [7] }],
        "disks": [{ "source": host.disk() }],
    });
    let agent = host.agent();
    let made = agent.agent.ok("CreateGuest", &asked)["guest"].take();
    let ran = agent.agent.ok("Run", &made)["guest"].take();
    host.writes("made-here");
    let process = host.process("made-here");
    drop(agent);

    // The original: domains by the guest's id, networks by the NIC's MAC, devices by its index.
    assert_eq!(host.state("made-here"), "running");
    let xml = host.stack.virsh_ok(&["dumpxml", "made-here"]);
    let domain = VirDomain::from_xml(&xml).expect("XML");
    let [interface] = domain.devices.interfaces.as_slice() else { panic!("{xml}") };
    let device = interface.target.device.as_str();
    assert_eq!((device, interface.alias.name.as_str()), (nic_device(&ran), "net0"));
    assert_eq!(interface.source.network, mac);
    let network = host.stack.virsh_ok(&["net-dumpxml", mac]);
    assert!(network.contains("<portgroup name='vlan-all'"), "{network}");
    for words in [["domblkstat", "made-here", "vda"], ["domifstat", "made-here", device]] {
        host.stack.virsh_ok(&words);
    }
    let before = boots(host.disk.path()).expect("the disk can be read");
    host.stack.virsh_ok(&["reboot", "made-here"]);
    wait_until("it boots again", SOON, || boots(host.disk.path()).is_ok_and(|now| now != before));
    assert_eq!(host.process("made-here"), process, "nobody has stopped it");
    // Its Shutdown, which the guest follows, its Run, its Poweroff.
    host.stack.virsh_ok(&["shutdown", "made-here"]);
    wait_until("it is off", SOON, || host.state("made-here") == "shut off");
    host.stack.virsh_ok(&["start", "made-here"]);
    host.stack.virsh_ok(&["destroy", "made-here"]);
    host.stack.virsh_ok(&["start", "made-here"]);
    host.writes("made-here");
    let process = host.process("made-here");

    // And back.
    let agent = host.agent();
    assert_eq!(agent.agent.ok("CreateGuest", &asked)["guest"], made, "it is the same guest");
    let ran = agent.agent.ok("Run", &made)["guest"].take();
    is_measured(&agent, &ran);
    assert_eq!(host.process("made-here"), process, "nobody has stopped it");

    host.deleted_by_the_original("made-here", &[mac]);
    assert!(host.is_empty());
    let error = agent.agent.error("Status", &asked);
    assert!(error.starts_with("[Code-42] "), "{error}");
    agent.agent.ok("CreateGuest", &asked);
    agent.agent.ok("Delete", &asked);
    assert!(host.is_empty() && Path::new(host.disk()).exists(), "a source is its owner's");
}

fn nic_device(guest: &Value) -> &str {
    guest["nics"][0]["device"].as_str().expect("a text")
}
