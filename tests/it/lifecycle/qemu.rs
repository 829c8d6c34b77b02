//! The verbs on real guests: libvirtd with qemu in namespaces of the tests' own.

use std::fs;
use std::time::{Duration, Instant};

use mistify_libvirt::libvirt;
use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::boot_sector::boots;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Bridge, Cgroup, Stack};
use crate::harness::support::{Scratch, signal, wait_until};

/// Longer than a loaded machine needs for what a guest does within a second or two.
const SOON: Duration = Duration::from_secs(90);

/// An agent for a stack, with a bootable block device, and a directory with a disk file.
struct Bed {
    agent: Agent,
    device: BlockDevice,
    files: Scratch,
}

impl Bed {
    fn new(stack: &Stack) -> Option<Self> {
        Self::with(stack, &[])
    }

    /// The same with further flags for the agent.
    fn with(stack: &Stack, more: &[&str]) -> Option<Self> {
        let device = require("qemu", BlockDevice::bootable(1 << 20))?;
        let files = Scratch::new();
        fs::write(files.path().join("data.raw"), vec![0; 1 << 20]).expect("scratch is writable");
        let (uri, directory) = (stack.uri(), files.path().to_str().expect("UTF-8"));
        let disk = device.path().to_str().expect("UTF-8");
        let mut flags = vec!["--libvirt-uri", &uri, "--bridge-type", "linux"];
        flags.extend(["--allow-disk-path", directory, "--allow-disk-path", disk]);
        flags.extend(more);
        Some(Self { agent: Agent::start(&flags), device, files })
    }

    /// A guest with two NICs, a block device that it boots from, and a file. The first NIC takes
    /// packets without a driver in the guest.
    fn guest(&self, id: &str, kind: &str, net: u8) -> Value {
        json!({
            "id": id, "type": kind, "memory": 32, "cpu": 2, "metadata": { "owner": "a & b" },
            "nics": [
                { "name": "lan", "network": "mistify0", "model": "rtl8139",
                  "mac": format!("02:00:00:00:{net:02x}:01") },
                { "network": "mistify0", "model": "e1000",
                  "mac": format!("02:00:00:00:{net:02x}:02") },
            ],
            "disks": [
                { "source": self.device.path() },
                { "source": self.files.path().join("data.raw") },
            ],
        })
    }

    /// Creates and runs a guest and returns it as Run answered, when it writes to its disk.
    fn running(&self, id: &str, net: u8) -> Value {
        let guest = self.guest(id, "qemu", net);
        let made = self.agent.ok("CreateGuest", &guest)["guest"].take();
        let ran = self.agent.ok("Run", &made)["guest"].take();
        wait_until("the guest writes to its disk", SOON, || self.writes(&ran) > 0);
        ran
    }

    fn writes(&self, guest: &Value) -> i64 {
        let answer = self.agent.ok("DiskMetrics", guest);
        answer["disk"]["vda"]["write_ops"].as_i64().expect("a count")
    }

    fn boots(&self) -> u16 {
        boots(self.device.path()).expect("the disk can be read")
    }

    fn wait_for_state(&self, id: &str, state: &str) {
        wait_until(&format!("{id} is {state}"), SOON, || self.agent.state(id) == state);
    }
}

#[test]
fn guest_lives_from_create_to_delete_without_traces() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(kind) = require("qemu", stack.domain_type()) else { return };
    let Some(bed) = Bed::new(stack) else { return };
    let (agent, id) = (&bed.agent, "life");
    let asked = bed.guest(id, kind, 0x10);

    let made = agent.ok("CreateGuest", &asked)["guest"].take();
    assert_eq!(agent.state(id), "shutoff");
    assert_eq!(agent.ok("CreateGuest", &asked)["guest"], made, "asked again");
    let xml = stack.virsh_ok(&["dumpxml", id]);
    for part in ["<acpi/>", "<serial type='pty'>", "<memballoon model='virtio' ", "<rng model="] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    assert!(xml.contains("<disk type='block'") && xml.contains("<disk type='file'"), "{xml}");

    let ran = agent.ok("Run", &made)["guest"].take();
    assert_eq!(ran["state"], "running");
    assert_eq!(ran["nics"][0]["name"], "lan", "the caller's name is kept");
    assert_eq!(ran["nics"][1]["name"], "net1", "the alias, as the caller gave no name");
    for nic in ran["nics"].as_array().expect("nics") {
        assert!(nic["device"].as_str().is_some_and(|name| name.starts_with("vnet")), "{nic}");
    }
    assert_eq!(agent.ok("Run", &ran)["guest"], ran, "a second Run changes nothing");
    let before = bed.writes(&ran);
    wait_until("more writes", SOON, || bed.writes(&ran) > before);

    let boots = bed.boots();
    assert_eq!(agent.ok("Reboot", &ran)["guest"]["state"], "running");
    wait_until("it has booted again", SOON, || bed.boots() > boots);

    stack.virsh_ok(&["suspend", id]);
    assert_eq!(agent.state(id), "paused");
    assert_eq!(agent.ok("Run", &ran)["guest"]["state"], "running");

    // Read right after asking. The guest may be quicker than a loaded agent; of one that does not react
    // `original` has the test.
    let asked = agent.ok("Shutdown", &ran)["guest"]["state"].take();
    assert!(["running", "shutdown", "shutoff"].iter().any(|state| asked == *state), "{asked}");
    bed.wait_for_state(id, "shutoff");
    assert_eq!(agent.ok("Shutdown", &ran)["guest"]["state"], "shutoff");
    assert_eq!(agent.ok("Run", &ran)["guest"]["state"], "running");
    assert_eq!(agent.ok("Poweroff", &ran)["guest"]["state"], "shutoff");
    assert_eq!(agent.ok("Run", &ran)["guest"]["state"], "running");

    assert_eq!(agent.ok("Delete", &ran)["guest"], ran);
    assert!(!stack.virsh_ok(&["list", "--all", "--name"]).contains(id));
    assert!(!stack.virsh_ok(&["net-list", "--all", "--name"]).contains("02:00:00:00:10:"));
    assert!(agent.error("Delete", &ran).starts_with("[Code-42] [Domain-10] "));
    bed.agent.end();
}

#[test]
fn cpu_time_advances_per_vcpu_on_v2_and_per_cpu_on_v1() {
    for (cgroup, count) in [(Cgroup::V2, Some(2)), (Cgroup::V1, None)] {
        let Some(stack) = require("cgroup", Stack::start_with(cgroup, Bridge::Linux)) else {
            continue;
        };
        let Some(bed) = Bed::new(&stack) else { return };
        let guest = bed.running("timed", 0x11);
        let times = || {
            let answer = bed.agent.ok("CPUMetrics", &guest);
            let cpus = answer["cpu"].as_array().expect("an element for each").clone();
            if let Some(count) = count {
                assert_eq!(cpus.len(), count);
            }
            let sum =
                |member: &str| cpus.iter().filter_map(|cpu| cpu[member].as_f64()).sum::<f64>();
            (sum("cpu_time"), sum("vcpu_time"))
        };
        let first = times();
        assert!(first.0 >= first.1 && first.1 > 0.0, "{first:?}");
        wait_until("both sums grow", SOON, || {
            let now = times();
            now.0 > first.0 && now.1 > first.1
        });
        bed.agent.ok("Poweroff", &guest);
        assert!(bed.agent.error("CPUMetrics", &guest).starts_with("[Code-55] "));
    }
}

#[test]
fn disk_metrics_know_each_disk_and_the_sum_of_all() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(bed) = Bed::new(stack) else { return };
    let guest = bed.running("disks", 0x12);
    let both = bed.agent.ok("DiskMetrics", &guest);
    assert_eq!(both["disk"].as_object().map(serde_json::Map::len), Some(2));
    assert!(both["disk"]["vda"]["read_bytes"].as_i64().unwrap_or(0) > 0, "{both}");
    assert!(both["disk"]["vda"]["read_time"].as_f64().unwrap_or(0.0) > 0.0, "{both}");
    let sum = bed.agent.ok("DiskMetrics", &json!({ "id": "disks", "disks": [{}] }));
    assert!(sum["disk"][""]["write_ops"].as_i64() >= both["disk"]["vda"]["write_ops"].as_i64());
    let unknown = json!({ "id": "disks", "disks": [{ "device": "vdz" }] });
    assert!(bed.agent.error("DiskMetrics", &unknown).starts_with("[Code-8] "));
    bed.agent.ok("Delete", &guest);
}

#[test]
fn nic_metrics_count_traffic_to_the_guest() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(bed) = Bed::new(stack) else { return };
    let guest = bed.running("nics", 0x13);
    let packets = |guest: &Value| {
        let answer = bed.agent.ok("NicMetrics", guest);
        assert_eq!(answer["nic"].as_object().map(serde_json::Map::len), Some(2), "{answer}");
        answer["nic"]["lan"]["rx_packets"].as_i64().expect("a count")
    };
    let before = packets(&guest);
    let inside =
        |words: &[&str]| stack.command(words[0]).args(&words[1..]).status().expect("it runs");
    assert!(inside(&["ip", "address", "replace", "192.0.2.1/24", "dev", "mistify0"]).success());
    wait_until("packets reach the guest", SOON, || {
        // Nobody has the address: the question for it floods the bridge.
        inside(&["bash", "-c", "echo x > /dev/udp/192.0.2.99/9"]);
        packets(&guest) > before
    });
    let mut forgotten = guest.clone();
    forgotten["nics"][0]["device"] = json!("");
    forgotten["nics"][1]["name"] = json!("second");
    assert!(packets(&forgotten) > before, "found by its MAC");
    bed.agent.ok("Delete", &guest);
}

#[test]
fn delete_takes_a_managed_save_image_with_it() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(bed) = Bed::new(stack) else { return };
    let guest = bed.running("saved", 0x14);
    stack.virsh_ok(&["managedsave", "saved"]);
    assert_eq!(bed.agent.state("saved"), "shutoff");
    bed.agent.ok("Delete", &guest);
    assert!(!stack.virsh_ok(&["list", "--all", "--name"]).contains("saved"));
}

#[test]
fn delete_of_a_paused_guest_ends_it() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(bed) = Bed::new(stack) else { return };
    let guest = bed.running("paused", 0x15);
    stack.virsh_ok(&["suspend", "paused"]);
    bed.agent.ok("Delete", &guest);
    assert_eq!(stack.qemu_pid("paused"), None);
    assert!(!stack.virsh_ok(&["list", "--all", "--name"]).contains("paused"));
}

#[test]
fn leftovers_of_a_missing_domain_are_deleted() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(bed) = Bed::new(stack) else { return };
    let guest = bed.agent.ok("CreateGuest", &bed.guest("halves", "qemu", 0x16))["guest"].take();
    stack.virsh_ok(&["undefine", "halves"]);
    // Inactive, too: what the original could not delete.
    stack.virsh_ok(&["net-destroy", "02:00:00:00:16:01"]);
    bed.agent.ok("Delete", &guest);
    assert!(!stack.virsh_ok(&["net-list", "--all", "--name"]).contains("02:00:00:00:16:"));
    assert!(bed.agent.error("Delete", &guest).starts_with("[Code-42] "));
}

#[test]
fn a_restarted_libvirtd_is_not_noticed_by_callers() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(bed) = Bed::new(&stack) else { return };
    let guest = bed.running("lasting", 0x17);
    for _ in 0..3 {
        stack.signal_libvirtd("KILL");
        stack.start_libvirtd();
        // More calls than a lane has workers: each of them has a connection that broke.
        for _ in 0..8 {
            assert_eq!(bed.agent.state("lasting"), "running");
            bed.agent.ok("Run", &guest);
        }
    }
    assert_eq!(bed.agent.ok("Poweroff", &guest)["guest"]["state"], "shutoff");
    bed.agent.end();
}

#[test]
fn stopped_libvirtd_ends_calls_at_their_deadline() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    // One worker for reads, which has a connection after the first.
    let flags = ["--workers", "read=1", "--deadline-read", "60"];
    let Some(bed) = Bed::with(&stack, &flags) else { return };
    let guest = bed.agent.ok("CreateGuest", &bed.guest("waiting", "qemu", 0x18))["guest"].take();
    assert_eq!(bed.agent.state("waiting"), "shutoff");
    stack.signal_libvirtd("STOP");
    let began = Instant::now();
    let error = |verb: &str| {
        let params = json!({ "guest": &guest, "args": { "mistify.timeout": "1" } });
        bed.agent.call_with(verb, &params)["error"].as_str().unwrap_or_default().to_owned()
    };
    let late = error("Status");
    assert!(late.starts_with("deadline: Status waiting "), "{late}");
    assert!(late.contains("still running since "), "{late}");
    // Its lane has no connection yet. On a loaded machine the deadline may come before the words for that.
    wait_until("the agent answers that libvirt does not answer", SOON, || {
        error("Poweroff").starts_with("libvirt does not answer since ")
    });
    // Each had a second of its own, instead of the 60 s that calls have by default.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    stack.signal_libvirtd("CONT");
    wait_until("the agent answers Status again", SOON, || {
        bed.agent.call("Status", &json!({ "id": "waiting" }))["error"].is_null()
    });
}

#[test]
fn stopped_qemu_fails_own_reads_and_poweroff_frees_it() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(bed) = Bed::new(stack) else { return };
    let guest = bed.running("stuck", 0x19);
    signal(stack.qemu_pid("stuck").expect("it runs"), "STOP");
    let params = json!({ "guest": guest, "args": { "mistify.timeout": "1" } });
    let answer = bed.agent.call_with("DiskMetrics", &params);
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.starts_with("deadline: DiskMetrics stuck "), "{error}");
    assert_eq!(bed.agent.ok("Poweroff", &guest)["guest"]["state"], "shutoff");
    bed.agent.ok("Delete", &guest);
}

#[test]
fn keepalive_notices_a_libvirtd_that_is_silent() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    libvirt::start().expect("libvirt is there");
    let connection = libvirt::Connection::open(&stack.uri()).expect("it answers");
    assert!(connection.is_alive());
    stack.signal_libvirtd("STOP");
    // 2 s x 3, and one more interval until the last question counts as unanswered.
    wait_until("the connection is lost", SOON, || !connection.is_alive());
    stack.signal_libvirtd("CONT");
    let error = connection.lookup_domain_by_name("any").expect_err("it is lost for good");
    assert!(error.connection_lost(), "{error}");
}
