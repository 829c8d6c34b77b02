//! Small Linux guests on volumes, emulated in an emulated machine: a boot takes minutes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Folder, LIBVIRT, Pool, run, virsh, zfs};
use crate::images::Bed;
use crate::linux::{Console, SMALL_MIB, discarded_space_is_freed, small};
use crate::skip::require;

/// How many times slower than on the host these guests are, at most.
const SLOWNESS: u32 = 8;
const HOST: &str = "192.0.2.1";
const GUEST: &str = "192.0.2.2";

/// An agent with the small Linux as an image, and a guest that runs from a clone of it.
struct LinuxBed {
    bed: Bed,
    folder: Folder,
    console: Console,
}

impl LinuxBed {
    /// With an empty second disk, and a NIC with these limits.
    fn new(limits: &Value) -> Option<Self> {
        let pool = require("lab", Pool::own(512))?;
        let image = require("lab", small())?;
        let folder = pool.folder();
        zfs(&["create", "-o", "mountpoint=none", &format!("{}/guests", pool.name)]);
        let bed = Bed::on(LIBVIRT, Some(pool));
        assert!(bed.import("small", &fs::read(image).expect("the image"), 64));
        let guest = json!({
            "id": folder.guest, "type": "qemu", "memory": SMALL_MIB, "cpu": 1,
            "disks": [{ "image": "small", "size": 64 }, { "size": 64 }],
            "nics": [{ "network": "mistify0", "mac": folder.mac(), "limits": limits }],
        });
        bed.agent.ok("CreateGuest", &guest);
        bed.agent.ok("Run", &guest);
        let terminal = virsh(&["ttyconsole", &folder.guest]);
        let console = Console::at(Path::new(terminal.trim()), SLOWNESS);
        Some(Self { bed, folder, console })
    }

    fn end(self) {
        self.bed.agent.ok("Delete", &json!({ "id": self.folder.guest }));
        self.bed.agent.end();
    }
}

#[test]
fn a_volume_shrinks_when_its_guest_trims() {
    let Some(mut bed) = LinuxBed::new(&json!({})) else { return };
    let volume = bed.folder.volume(1);
    let pool = volume.split('/').next().expect("a pool").to_owned();
    // A thick volume's `used` has its reservation in it.
    let referenced = || {
        run("zpool", &["sync", &pool]);
        let bytes = zfs(&["get", "-Hp", "-o", "value", "referenced", &volume]);
        bytes.trim().parse().expect("a count of bytes")
    };
    discarded_space_is_freed(&mut bed.console, 24, referenced);
    bed.end();
}

/// What a guest gets (`rx`) or sends (`tx`) by TCP in 10 s, after 3 s, in bytes a second.
fn measured_by_iperf3(direction: &str) -> f64 {
    let mut arguments = vec!["-c", GUEST, "-J", "-t", "10", "-O", "3"];
    if direction == "tx" {
        arguments.push("-R");
    }
    let report: Value = serde_json::from_str(&run("iperf3", &arguments)).expect("JSON");
    report["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate") / 8.0
}

/// Fails where the guest's NIC carries less than 70 % or more than 110 % of its limit.
fn iperf3(direction: &str, limit: u32) {
    let measured = measured_by_iperf3(direction);
    let share = measured / f64::from(limit);
    println!("{direction}: {measured:.0} bytes a second, {share:.3} of the limit");
    assert!((0.7..=1.1).contains(&share), "{direction}: {measured} of {limit} bytes a second");
}

#[test]
fn iperf3_with_a_guest_stays_within_limits_of_its_nic() {
    let limits = json!({ "rx_bytes_s": 400_000, "tx_bytes_s": 200_000 });
    let Some(mut bed) = LinuxBed::new(&limits) else { return };
    run("ip", &["addr", "add", &format!("{HOST}/24"), "dev", "mistify0"]);
    bed.console.run(&format!("ip addr add {GUEST}/24 dev eth0 && iperf3 -s -D && echo"));
    bed.console.wait_for("netstat -ltn", ":5201 ");
    let set = |limits: Value| {
        let nic = json!({ "mac": bed.folder.mac(), "limits": limits });
        let asked = json!({ "id": bed.folder.guest, "nics": [nic] });
        let answer = bed.bed.agent.ok("SetLimits", &asked);
        assert_eq!(answer["live"], true, "{answer}");
    };
    iperf3("rx", 400_000);
    iperf3("tx", 200_000);
    set(json!({ "rx_bytes_s": 200_000, "tx_bytes_s": 400_000 }));
    iperf3("rx", 200_000);
    iperf3("tx", 400_000);
    set(json!({}));
    for direction in ["rx", "tx"] {
        let free = measured_by_iperf3(direction);
        println!("{direction}: {free:.0} bytes a second without a limit");
        assert!(free > 800_000.0, "{direction}: {free} without a limit");
    }
    bed.end();
}
