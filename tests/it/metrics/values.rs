//! The values are those of libvirt, of the kernel, and of what the test does; counters only grow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mistify_libvirt::config::MetricsConfig;
use mistify_libvirt::os::process;
use serde_json::json;

use super::{Bed, Inside, SOON, Scrape};
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{signal, wait_until};

/// libvirt's parameters of one guest, and its process's clock, at about one moment.
struct Truth {
    params: BTreeMap<String, String>,
    process_s: f64,
}

impl Truth {
    fn of(stack: &Stack, guest: &str) -> Self {
        let text = stack.virsh_ok(&["domstats", guest]);
        let params = text.lines().filter_map(|line| line.trim().split_once('='));
        let params = params.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let pid = stack.qemu_pid(guest).expect("it runs");
        let ns = process::cpu_ns(pid).expect("it runs");
        Self { params, process_s: Duration::from_nanos(ns).as_secs_f64() }
    }

    fn number(&self, name: &str) -> f64 {
        let value = self.params.get(name).unwrap_or_else(|| panic!("{name} in {:?}", self.params));
        value.parse().expect("a number")
    }
}

/// Series without their labels, libvirt's parameter, and what one of its units is.
const SAME: [(&str, &str, &str, f64); 19] = [
    ("libvirt_domain_info_maximum_memory_bytes", "", "balloon.maximum", 1024.0),
    ("libvirt_domain_info_memory_usage_bytes", "", "balloon.current", 1024.0),
    ("libvirt_domain_info_virtual_cpus", "", "vcpu.current", 1.0),
    ("libvirt_domain_vcpu_state", ",vcpu=\"0\"", "vcpu.0.state", 1.0),
    ("libvirt_domain_block_stats_read_bytes_total", VDA, "block.0.rd.bytes", 1.0),
    ("libvirt_domain_block_stats_read_requests_total", VDA, "block.0.rd.reqs", 1.0),
    ("libvirt_domain_block_stats_read_time_seconds_total", VDA, "block.0.rd.times", 1e-9),
    ("libvirt_domain_block_stats_write_bytes_total", VDA, "block.0.wr.bytes", 1.0),
    ("libvirt_domain_block_stats_write_requests_total", VDA, "block.0.wr.reqs", 1.0),
    ("libvirt_domain_block_stats_write_time_seconds_total", VDA, "block.0.wr.times", 1e-9),
    ("libvirt_domain_block_stats_flush_requests_total", VDA, "block.0.fl.reqs", 1.0),
    ("libvirt_domain_block_stats_flush_time_seconds_total", VDA, "block.0.fl.times", 1e-9),
    ("libvirt_domain_block_stats_capacity_bytes", VDA, "block.0.capacity", 1.0),
    ("libvirt_domain_block_stats_physicalsize_bytes", VDA, "block.0.physical", 1.0),
    ("libvirt_domain_interface_stats_receive_bytes_total", NIC, "net.0.rx.bytes", 1.0),
    ("libvirt_domain_interface_stats_receive_packets_total", NIC, "net.0.rx.pkts", 1.0),
    ("libvirt_domain_interface_stats_receive_drops_total", NIC, "net.0.rx.drop", 1.0),
    ("libvirt_domain_interface_stats_transmit_bytes_total", NIC, "net.0.tx.bytes", 1.0),
    ("libvirt_domain_interface_stats_transmit_packets_total", NIC, "net.0.tx.pkts", 1.0),
];
const VDA: &str = ",target_device=\"vda\"";
const NIC: &str = ",target_device=NET";

/// Every value lies between what libvirt says before and after: within one sample.
fn assert_between(scrape: &Scrape, guest: &str, before: &Truth, after: &Truth) {
    for (name, labels, param, unit) in SAME {
        let labels = labels.replace("NET", &format!("\"{}\"", before.params["net.0.name"]));
        let value = scrape.value(&format!("{name}{{domain=\"{guest}\"{labels}}}"));
        let (least, most) = (before.number(param) * unit, after.number(param) * unit);
        let slack = most * 1e-12;
        assert!(
            (least - slack..=most + slack).contains(&value),
            "{name}: {value}, not from {least} to {most}"
        );
    }
    let clock = scrape.value(&cpu_time(guest));
    assert!((before.process_s..=after.process_s).contains(&clock), "{clock}");
}

fn cpu_time(guest: &str) -> String {
    format!("libvirt_domain_info_cpu_time_seconds_total{{domain=\"{guest}\"}}")
}

/// Packets for nobody, which flood the bridge and so reach every guest.
fn make_traffic(stack: &Stack) {
    let run = |words: &[&str]| stack.command(words[0]).args(&words[1..]).status().expect("it runs");
    assert!(run(&["ip", "address", "replace", "192.0.2.1/24", "dev", "mistify0"]).success());
    run(&["bash", "-c", "for i in 1 2 3; do echo x > /dev/udp/192.0.2.$((i + 90))/9; done"]);
}

#[test]
fn values_match_domstats_process_clock_and_traffic() {
    let Some(bed) = require("qemu", Bed::new(2)) else { return };
    let (stack, guest) = (&bed.stack, bed.guests[0].as_str());
    wait_until("packets reach the guest", SOON, || {
        make_traffic(stack);
        Truth::of(stack, guest).number("net.0.rx.pkts") > 2.0
    });

    let before = Truth::of(stack, guest);
    let agent = Inside::start(stack, &["--metrics-max-age", "0"]);
    let scrape = agent.scrape_until("a slow sample", SOON, |scrape| {
        // And the one after, which has the devices that the slow sample found.
        scrape.0.keys().any(|series| series.starts_with("mistify_disk_device_writes"))
    });
    let after = Truth::of(stack, guest);

    assert_between(&scrape, guest, &before, &after);
    assert!(before.number("net.0.rx.pkts") > 2.0 && before.number("block.0.wr.reqs") > 0.0);
    let of = |name: &str| scrape.value(&format!("{name}{{domain=\"{guest}\",vcpu=\"0\"}}"));
    let (vcpu, whole) =
        (of("libvirt_domain_vcpu_time_seconds_total"), scrape.value(&cpu_time(guest)));
    assert!(vcpu > 0.0 && vcpu <= whole, "{vcpu} of {whole}");
    assert_eq!((scrape.value("libvirt_up"), scrape.value("libvirt_domains")), (1.0, 2.0));
    let state = format!("libvirt_domain_info_state{{domain=\"{guest}\",state=\"running\"}}");
    assert_eq!(scrape.value(&state), 1.0);

    stack.virsh_ok(&["suspend", guest]);
    let since = Instant::now();
    let still = Truth::of(stack, guest);
    let device = stack.virsh_ok(&["domblklist", guest]);
    let device = device.split("/dev/").nth(1).expect("a device").trim().to_owned();
    let paused = agent.scrape_until("it is seen to be paused", SOON, |scrape| {
        let state = format!("libvirt_domain_info_state{{domain=\"{guest}\",state=\"paused\"}}");
        let is_after = ["slow", "fast"].iter().all(|tier| scrape.is_newer(guest, tier, since));
        scrape.get(&state) == Some(3.0) && is_after
    });
    assert_between(&paused, guest, &still, &Truth::of(stack, guest));
    let writes = format!(
        "mistify_disk_device_writes_completed_total{{domain=\"{guest}\",target_device=\"vda\",\
         device=\"{device}\"}}"
    );
    assert!(paused.value(&writes) > 0.0);
}

#[test]
fn all_guests_answer_agrees_with_single_answers() {
    let Some(bed) = require("qemu", Bed::new(2)) else { return };
    let (stack, guest) = (&bed.stack, bed.guests[0].as_str());
    stack.virsh_ok(&["suspend", guest]);
    let off = "<domain type='qemu'><name>off</name><memory>8192</memory><os><type>hvm</type></os>\
               <metadata><a xmlns='urn:x'/></metadata></domain>";
    assert!(stack.with_xml("define", off).status.success());
    let agent = Inside::start(stack, &[]);
    agent.scrape_until("a slow sample", SOON, |scrape| scrape.age(guest, "slow").is_some());

    let all = agent.agent.ok("AllMetrics", &json!({}));

    assert_eq!(all.as_object().map(serde_json::Map::len), Some(3), "{all}");
    assert_eq!((&all["off"]["state"], &all["off"]["cpu"]), (&json!("shutoff"), &json!([])));
    let one = &all[guest];
    assert_eq!(one["state"], "paused");
    assert!(one["age"].as_f64().is_some_and(|age| (0.0..60.0).contains(&age)), "{one}");
    let nic = one["nic"].as_object().and_then(|nics| nics.keys().next()).expect("a NIC").clone();
    let asked = json!({
        "id": guest, "disks": [{ "device": "vda" }], "nics": [{ "name": nic, "device": nic }],
    });
    assert_eq!(agent.agent.ok("DiskMetrics", &asked)["disk"], one["disk"]);
    assert_eq!(agent.agent.ok("NicMetrics", &asked)["nic"][&nic]["name"], json!(nic));
    let cpu = agent.agent.ok("CPUMetrics", &asked)["cpu"].clone();
    let seconds = |cpu: &serde_json::Value| cpu[0]["vcpu_time"].as_f64().expect("seconds");
    // libvirt counts a paused guest's processor as the kernel does, to a tick.
    assert!((seconds(&cpu) - seconds(&one["cpu"])).abs() < 0.05, "{cpu} {one}");
}

#[test]
fn counters_never_decrease() {
    let Some(bed) = require("qemu", Bed::new(2)) else { return };
    let (stack, guest) = (&bed.stack, bed.guests[0].as_str());
    let other = bed.guests[1].as_str();
    let limits = MetricsConfig::default();
    let mut last = BTreeMap::new();
    // Looks at each scrape until a sample that begins now has renewed a guest's values.
    let mut watch = |agent: &Inside, name: &str, tier: &str| {
        let since = Instant::now();
        wait_until(&format!("a {tier} sample"), limits.slow_interval + SOON, || {
            let scrape = agent.scrape();
            for (series, value) in &scrape.0 {
                let is_guests = ["libvirt_domain_", "mistify_disk_device_"];
                let is_guests = is_guests.iter().any(|start| series.starts_with(start));
                let is_counter = is_guests && series.contains("_total{");
                let before = last.get(series).copied().filter(|_| is_counter);
                assert!(
                    before.is_none_or(|before| *value >= before),
                    "{series}: {before:?} {value}"
                );
            }
            let is_new = scrape.is_newer(name, tier, since);
            last.extend(scrape.0);
            is_new
        });
    };
    let began = Instant::now();
    let agent = Inside::start(stack, &["--metrics-max-age", "0", "--storage", "directory:/run/m"]);
    agent.scrape_until("a slow sample", SOON, |scrape| scrape.age(guest, "slow").is_some());
    watch(&agent, guest, "fast");
    stack.virsh_ok(&["suspend", guest]);
    watch(&agent, guest, "fast");
    stack.virsh_ok(&["resume", guest]);
    bed.signal(guest, "STOP");
    watch(&agent, other, "slow");
    bed.signal(guest, "CONT");
    watch(&agent, guest, "slow");
    // However many scrapes there are, they cause one slow sample in 15 s, less a tenth, and two jobs of storage in a
    // minute: a check of its state, and a listing of guests' volumes. The start lists volumes once more, for their
    // marks.
    let (scrape, took) = (agent.scrape(), began.elapsed().as_secs_f64());
    let looks = scrape.value("mistify_lane_finished_total{lane=\"storage\"}");
    assert!((2.0..=3.0 + 2.0 * took / 60.0).contains(&looks), "{looks}");
    let samples = scrape.value("mistify_metrics_samples_total{tier=\"slow\"}");
    let most = 1.0 + took / (0.9 * limits.slow_interval.as_secs_f64());
    assert!((2.0..=most).contains(&samples), "{samples} in {took} s");
    signal(agent.pid(), "KILL");
    drop(agent);
    let agent = Inside::start(stack, &["--metrics-max-age", "0"]);
    agent.scrape_until("a slow sample", SOON, |scrape| scrape.age(guest, "slow").is_some());
    watch(&agent, guest, "fast");
    assert!(last[&cpu_time(guest)] > 0.0);
    let devices = last.keys().filter(|series| series.starts_with("mistify_disk_device_"));
    assert!(devices.count() > 0);
}
