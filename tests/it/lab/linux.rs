//! A small Linux guest on volumes, emulated in an emulated machine: its boot takes minutes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Directory, LIBVIRT, Pool, SOON, quietly, run, virsh, zfs, zpool_sync};
use crate::harness::image_store::Bed;
use crate::harness::linux::{Console, SMALL_MIB, discarded_space_is_freed, small};
use crate::harness::linux_bed::trim;
use crate::harness::skip::require;
use crate::harness::support::wait_for;

/// How many times slower than on the host these guests are, at most.
const SLOWNESS: u32 = 8;
/// A processor without cmpxchg16b: QEMU emulates that by the host's own, and the lab's processor has none.
const CPU: &str = "Opteron_G1";
/// The NIC's limits, in bytes a second.
const RX: u32 = 400_000;
const TX: u32 = 200_000;
const HOST: &str = "192.0.2.1";
const GUEST: &str = "192.0.2.2";

/// An agent with the small Linux as an image, and a guest that runs from its clone.
struct LinuxBed {
    bed: Bed,
    directory: Directory,
    console: Console,
}

impl LinuxBed {
    /// With an empty second disk, and a NIC with these limits.
    fn new(limits: &Value) -> Option<Self> {
        let pool = require("lab", Pool::own(512))?;
        let image = require("lab", small())?;
        let directory = pool.directory();
        zfs(&["create", "-o", "mountpoint=none", &format!("{}/guests", pool.name)]);
        let bed = Bed::on(LIBVIRT, Some(pool));
        assert!(bed.import("small", &fs::read(image).expect("the image"), 64));
        let guest = json!({
            "id": directory.guest, "type": "qemu", "memory": SMALL_MIB, "cpu": 1, "cpu_model": CPU,
            "disks": [{ "image": "small", "size": 64 }, { "size": 64 }],
            "nics": [{ "network": "mistify0", "mac": directory.mac(), "limits": limits }],
        });
        bed.agent.ok("CreateGuest", &guest);
        bed.agent.ok("Run", &guest);
        let terminal = virsh(&["ttyconsole", &directory.guest]);
        let console = Console::log_in_at(Path::new(terminal.trim()), SLOWNESS);
        Some(Self { bed, directory, console })
    }
}

/// A volume shrinks when its guest trims.
fn trims(bed: &mut LinuxBed) {
    let volume = bed.directory.volume(1);
    let pool = volume.split('/').next().expect("a pool").to_owned();
    // A thick volume's `used` has its reservation in it.
    let referenced = || {
        zpool_sync(&pool);
        let bytes = zfs(&["get", "-Hp", "-o", "value", "referenced", &volume]);
        bytes.trim().parse().expect("a count of bytes")
    };
    let LinuxBed { bed, directory, console } = bed;
    discarded_space_is_freed(console, 24, || trim(&bed.agent, &directory.guest), referenced);
}

/// What a guest gets (`rx`) or sends (`tx`) by TCP in 10 s, after 3 s, in bytes a second.
fn measured_by_iperf3(direction: &str) -> f64 {
    let mut arguments = vec!["-c", GUEST, "-J", "-t", "10", "-O", "3"];
    if direction == "tx" {
        arguments.push("-R");
    }
    // The server refuses a test until it has ended the one before.
    let bits = wait_for("iperf3 measures", SOON, || {
        let output = quietly("iperf3", &arguments);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["end"]["sum_received"]["bits_per_second"].as_f64()
    });
    bits / 8.0
}

/// Fails where the guest's NIC carries less than 70 % or more than 110 % of its limit.
fn iperf3(direction: &str, limit: u32) {
    let measured = measured_by_iperf3(direction);
    let share = measured / f64::from(limit);
    println!("{direction}: {measured:.0} bytes a second, {share:.3} of the limit");
    assert!((0.7..=1.1).contains(&share), "{direction}: {measured} of {limit} bytes a second");
}

/// What a NIC carries by iperf3 stays within its limits, which are `RX` and `TX` at first.
fn obeys_nic_limits(bed: &mut LinuxBed) {
    run("ip", &["addr", "add", &format!("{HOST}/24"), "dev", "mistify0"]);
    bed.console.run(&format!("ip addr add {GUEST}/24 dev eth0 && iperf3 -s -D && echo"));
    bed.console.wait_for("netstat -ltn", ":5201 ");
    let set = |limits: Value| {
        let nic = json!({ "mac": bed.directory.mac(), "limits": limits });
        let asked = json!({ "id": bed.directory.guest, "nics": [nic] });
        let answer = bed.bed.agent.ok("SetLimits", &asked);
        assert_eq!(answer["live"], true, "{answer}");
    };
    iperf3("rx", RX);
    iperf3("tx", TX);
    set(json!({ "rx_bytes_s": TX, "tx_bytes_s": RX }));
    iperf3("rx", TX);
    iperf3("tx", RX);
    set(json!({}));
    for direction in ["rx", "tx"] {
        let free = measured_by_iperf3(direction);
        println!("{direction}: {free:.0} bytes a second without a limit");
        assert!(free > f64::from(2 * RX), "{direction}: {free} without a limit");
    }
}

/// One test, for the boot takes most of its time.
#[test]
fn a_small_linux_trims_and_obeys_nic_limits() {
    let Some(mut bed) = LinuxBed::new(&json!({ "rx_bytes_s": RX, "tx_bytes_s": TX })) else {
        return;
    };
    trims(&mut bed);
    obeys_nic_limits(&mut bed);
    bed.bed.agent.ok("Delete", &json!({ "id": bed.directory.guest }));
    bed.bed.agent.end();
}
