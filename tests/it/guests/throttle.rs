//! Limits of disks and NICs: the settings in libvirt, and the effect on a real guest.

use std::fs::File;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::image_store::SOON;
use crate::harness::linux::{Console, SMALL_MIB, small_disk};
use crate::harness::scrape::scrape;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, wait_until};

const MIB: u64 = 1 << 20;

struct Bed {
    stack: &'static Stack,
    agent: Agent,
    disks: [String; 2],
    mac: &'static str,
    _files: Scratch,
}

impl Bed {
    fn new(mac: &'static str) -> Option<Self> {
        let stack = require("qemu", Stack::shared())?;
        let files = Scratch::new();
        let system = require("qemu", small_disk(&files))?;
        let data = files.path().join("data.raw");
        File::create(&data).and_then(|file| file.set_len(64 * MIB)).expect("a disk");
        let (uri, directory) = (stack.uri(), files.path().to_str().expect("UTF-8").to_owned());
        let flags =
            ["--libvirt-uri", &uri, "--bridge-type", "linux", "--allow-disk-path", &directory];
        let disks = [system, data].map(|path| path.to_str().expect("UTF-8").to_owned());
        Some(Self { stack, agent: Agent::start(&flags), disks, mac, _files: files })
    }

    fn guest(&self, id: &str, limits: &Value, nic: &Value) -> Value {
        let [system, data] = &self.disks;
        json!({
            "id": id, "type": "qemu", "memory": SMALL_MIB, "cpu": 1,
            "disks": [{ "source": system }, { "source": data, "limits": limits }],
            "nics": [{ "network": "mistify0", "mac": self.mac, "limits": nic }],
        })
    }

    /// SetLimits; what it answers.
    fn set(&self, guest: &Value) -> Value {
        let answer = self.agent.call_with("SetLimits", &json!({ "guest": guest }));
        assert!(answer["error"].is_null(), "{guest}: {answer}");
        answer["result"].clone()
    }

    /// What Describe says of the second disk and of the NIC.
    fn limits(&self, id: &str) -> (Value, Value) {
        let described = self.agent.ok("Describe", &json!({ "id": id }));
        let devices = &described["devices"];
        (devices["disks"][1]["limits"].clone(), devices["interfaces"][0]["limits"].clone())
    }
}

#[test]
fn limits_are_defined_and_set_while_the_guest_is_off() {
    let Some(bed) = Bed::new("02:00:00:00:44:01") else { return };
    let disk = json!({ "read_bytes_s": 4_000_000, "write_bytes_s": 2_000_000, "total_iops": 500 });
    let nic = json!({ "rx_bytes_s": 1_000_000, "tx_bytes_s": 0 });
    let guest = bed.guest("limited", &disk, &nic);
    let made = bed.agent.ok("CreateGuest", &guest)["guest"].take();
    assert_eq!(bed.agent.ok("CreateGuest", &made)["guest"], made, "the same again");
    assert_eq!(bed.limits("limited"), (disk, json!({ "rx_bytes_s": 1_000_000 })), "0 is none");
    let xml = bed.stack.virsh_ok(&["dumpxml", "--inactive", "limited"]);
    for part in ["<read_bytes_sec>4000000<", "<total_iops_sec>500<", "<inbound average='1000'/>"] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    let (less, none) = (json!({ "total_bytes_s": 8_000_000 }), json!({}));
    let set = bed.set(&json!({
        "id": "limited",
        "disks": [{ "device": "vdb", "limits": less }],
        "nics": [{ "mac": bed.mac.to_uppercase(), "limits": { "tx_bytes_s": 2_000_000 } }],
    }));
    assert_eq!((&set["live"], &set["message"]), (&json!(false), &json!("the guest is off")));
    assert_eq!(bed.limits("limited"), (less.clone(), json!({ "tx_bytes_s": 2_000_000 })));
    let mut changed = guest.clone();
    changed["disks"][1]["limits"] = less;
    changed["nics"][0]["limits"] = json!({ "tx_bytes_s": 2_000_000 });
    bed.agent.ok("CreateGuest", &changed);
    assert!(bed.agent.error("CreateGuest", &guest).contains("already exists"), "the former limits");
    bed.set(&json!({ "id": "limited", "disks": [{ "device": "vdb", "limits": none }] }));
    assert_eq!(bed.limits("limited"), (Value::Null, json!({ "tx_bytes_s": 2_000_000 })));
    bed.agent.ok("Delete", &guest);
}

#[test]
fn limits_that_cannot_be_are_refused_by_name() {
    let Some(bed) = Bed::new("02:00:00:00:44:02") else { return };
    let guest = bed.guest("unlimited", &json!({}), &json!({}));
    bed.agent.ok("CreateGuest", &guest);
    let disk = |limits: Value| json!({ "disks": [{ "device": "vdb", "limits": limits }] });
    let nic = |limits: Value| json!({ "nics": [{ "mac": bed.mac, "limits": limits }] });
    for (members, why) in [
        (json!({}), "disks or nics is missing"),
        (json!({ "disks": [{ "device": "vdb" }] }), "disks[0].limits is missing"),
        (
            disk(json!({ "iops": 1 })),
            "disks[0].limits: \"iops\" is not supported; use total_bytes_s,",
        ),
        (
            disk(json!({ "total_iops": 1, "read_iops": 1 })),
            "disks[0].limits.total_iops does not match",
        ),
        (
            disk(json!({ "total_iops": 1_000_000_000_000_001_u64 })),
            "is above the limit of 1000000000000000",
        ),
        (
            nic(json!({ "rx_bytes_s": 1500 })),
            "nics[0].limits.rx_bytes_s: 1500 is not a multiple of 1000",
        ),
        (
            json!({ "disks": [{ "device": "vdz", "limits": {} }] }),
            "disks[0].device: the guest has no disk \"vdz\"",
        ),
        (
            json!({ "nics": [{ "mac": "02:00:00:00:44:ff", "limits": {} }] }),
            "nics[0].mac: the guest has no NIC ",
        ),
    ] {
        let mut asked = members.clone();
        asked["id"] = json!("unlimited");
        let reported = bed.agent.error("SetLimits", &asked);
        assert!(reported.contains(why), "{members}: {reported}");
    }
    assert_eq!(bed.limits("unlimited"), (Value::Null, Value::Null));
    bed.agent.ok("Delete", &guest);
}

/// The limit is 2 MiB a second, and then none; a burst of one second comes before it.
#[test]
fn a_running_guest_reads_no_faster_than_its_limit() {
    let Some(bed) = Bed::new("02:00:00:00:44:03") else { return };
    let guest = bed.guest("slow", &json!({ "read_bytes_s": 2 * MIB }), &json!({}));
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("Run", &guest);
    let mut console = Console::log_in(bed.stack, "slow");
    let mut seconds = |mib: u64| {
        let began = Instant::now();
        console.run(&format!(
            "dd if=/dev/vdb of=/dev/null bs=64k iflag=direct count={} 2>/dev/null",
            mib * 16
        ));
        began.elapsed().as_secs_f64()
    };
    let limited = seconds(10);
    assert!(limited > 3.5, "10 MiB in {limited} s");
    let shown = "mistify_guest_limit{domain=\"slow\",target_device=\"vdb\",limit=\"read_bytes_s\"}";
    wait_until("the limit is shown", SOON, || scrape(&bed.agent).get(shown) == Some(2097152.0));
    let set = bed.set(&json!({ "id": "slow", "disks": [{ "device": "vdb", "limits": {} }] }));
    assert_eq!(set["live"], true, "{set}");
    assert_eq!(scrape(&bed.agent).get(shown), None);
    assert!(seconds(10) < limited / 2.0, "without a limit");
    let live = bed.stack.virsh_ok(&["blkdeviotune", "slow", "vdb"]);
    assert!(
        live.lines().any(|line| line.starts_with("read_bytes_sec") && line.ends_with(" 0")),
        "{live}"
    );
    bed.agent.ok("Delete", &guest);
    wait_until("it is gone", SOON, || !bed.stack.virsh_ok(&["list", "--all"]).contains("slow"));
}
