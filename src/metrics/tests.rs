//! Compares the text with files that were checked by a person and by `promtool check metrics`, and
//! tests the parsing of libvirt's parameters.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sample::{fast_guest, is_whole, slow_guest};
use super::*;
use crate::guest::state::State;
use crate::libvirt::{DomainStats, Value};
use crate::pool::{CallerSnapshot, Lane, LaneSnapshot, PoolSnapshot, Totals};
use crate::sorted::IntoSorted;

fn stats(params: &[(&str, Value)]) -> DomainStats {
    let params = params.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    DomainStats { name: "web-1".into(), uuid: "u-1".into(), id: Some(3), params }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn fast_stats() -> DomainStats {
    stats(&[
        ("state.state", Value::Signed(1)),
        ("state.reason", Value::Signed(1)),
        ("net.count", Value::Unsigned(1)),
        ("net.0.name", text("vnet0")),
        ("net.0.rx.bytes", Value::Unsigned(1)),
        ("net.0.rx.pkts", Value::Unsigned(2)),
        ("net.0.rx.errs", Value::Unsigned(3)),
        ("net.0.rx.drop", Value::Unsigned(4)),
        ("net.0.tx.bytes", Value::Unsigned(5)),
        ("net.0.tx.pkts", Value::Unsigned(6)),
        ("net.0.tx.errs", Value::Signed(-1)),
        ("net.0.tx.drop", Value::Unsigned(8)),
    ])
}

fn slow_stats() -> DomainStats {
    stats(&[
        ("balloon.current", Value::Unsigned(1024)),
        ("balloon.maximum", Value::Unsigned(2048)),
        ("balloon.rss", Value::Unsigned(512)),
        ("balloon.major_fault", Value::Unsigned(9)),
        ("vcpu.current", Value::Unsigned(1)),
        ("vcpu.maximum", Value::Unsigned(1)),
        ("vcpu.0.state", Value::Signed(1)),
        ("vcpu.0.wait", Value::Unsigned(1_000)),
        ("block.count", Value::Unsigned(2)),
        ("block.0.name", text("vda")),
        ("block.0.path", text("/dev/zvol/mistify/guests/web-1/disk-0")),
        ("block.0.rd.reqs", Value::Unsigned(11)),
        ("block.0.rd.bytes", Value::Unsigned(12)),
        ("block.0.rd.times", Value::Unsigned(1_300_000_000)),
        ("block.0.wr.reqs", Value::Unsigned(14)),
        ("block.0.wr.bytes", Value::Unsigned(15)),
        ("block.0.wr.times", Value::Unsigned(16)),
        ("block.0.fl.reqs", Value::Unsigned(17)),
        ("block.0.fl.times", Value::Unsigned(18)),
        ("block.0.capacity", Value::Unsigned(19)),
        ("block.0.physical", Value::Unsigned(20)),
        ("block.0.allocation", Value::Unsigned(21)),
        ("block.1.name", text("hda")),
    ])
}

/// Makes a view of `guests` running guests, and one that is off.
fn view(guests: usize) -> View {
    let now = Instant::now();
    let at = now.checked_sub(Duration::from_secs(1)).unwrap();
    let mut fast = fast_guest(&fast_stats());
    let vcpu = Vcpu { run_ns: 1_500_000_000, delay_ns: 7 };
    fast.cpu = Some(Cpu { process_ns: 2_000_000_001, vcpus: [(0, vcpu)].into_iter().into_table() });
    let device = Device {
        name: "zd16".into(),
        reads: 1,
        read_bytes: 2,
        read_ms: 3,
        writes: 4,
        written_bytes: 5,
        write_ms: 6,
        io_ms: 7,
    };
    fast.devices = [("vda".to_owned(), device)].into();
    let slow = slow_guest(at, &slow_stats());
    let names: Vec<String> = (1..=guests).map(|index| format!("web-{index}")).collect();
    let codes = [("state.state", Value::Signed(5)), ("state.reason", Value::Signed(3))];
    let off = DomainStats { id: None, ..stats(&codes) };
    let mut all: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), fast.clone())).collect();
    all.insert("off".to_owned(), fast_guest(&off));
    let metadata = names.iter().map(|name| (name.clone(), vec!["a \"b\"".to_owned()])).into_table();
    let slow = Slow {
        guests: names.iter().map(|name| (name.clone(), slow.clone())).collect(),
        metadata,
        stuck: [("web-1".to_owned(), at)].into(),
        left_out: [("web-1".to_owned(), Omission::Stuck), ("b".to_owned(), Omission::Changing)]
            .into(),
        at: Some(at),
        took: Duration::from_millis(100),
        ended: 5,
        failed: 1,
        late: 1,
        late_now: 1,
    };
    View::of(now, Fast { at, guests: all }, slow)
}

fn own() -> AgentStats {
    let lane = |lane| LaneSnapshot {
        lane,
        workers: 4,
        queued: 1,
        held_back: 0,
        running: 2,
        stuck: 0,
        oldest: None,
        totals: Totals { finished: 10, panicked: 0, unrun: 1, late: 2, refused: 3 },
    };
    let lanes = [Lane::Control, Lane::Read, Lane::Urgent, Lane::Storage].map(lane);
    let callers = CallerSnapshot {
        callers: 3,
        locks_held: 2,
        locks_waiting: 1,
        calls_waiting: 3,
        waits_refused: 0,
        waits_late: 0,
    };
    let calls = Calls::default();
    calls.count("Libvirt", "Status", true, Duration::from_millis(3));
    calls.count("Libvirt", "Status", false, Duration::from_secs(2));
    let listener = Listener {
        name: "main",
        connections: 1,
        requests: 2,
        panics: 0,
        denied: 3,
        abandoned: 4,
        refused: vec![("late", 1)],
    };
    AgentStats {
        pool: PoolSnapshot { lanes, callers },
        calls: calls.counts(),
        open_intents: 1,
        leftovers: 2,
        libvirt_version: Some(9_000_000),
        listeners: vec![listener],
        log_lines_dropped: 3,
        audit_lines_dropped: 4,
        storage: Some((100, 50)),
        limits: [(
            "web-1".to_owned(),
            vec![("vda".to_owned(), BTreeMap::from([("total_iops".to_owned(), 500)]))],
        )]
        .into_iter()
        .into_table(),
        volumes: Arc::new([GuestVolume {
            guest: "web-1".to_owned(),
            name: "tank/guests/web-1/disk-0".to_owned(),
            size_bytes: 1000,
            used_bytes: 400,
        }]),
        inside: vec![
            GuestInside {
                guest: "web-1".to_owned(),
                is_connected: true,
                filesystems: vec![MountedSize {
                    mountpoint: "/srv/\"a\\b\nc".to_owned(),
                    size_bytes: 2000,
                    used_bytes: 500,
                }],
            },
            GuestInside { guest: "web-2".to_owned(), is_connected: false, filesystems: Vec::new() },
        ],
    }
}

/// Returns the text without the metrics of the process.
fn written(format: Format) -> String {
    let text = write(&view(1), &own(), &["owner".to_owned()], format);
    let lines = text.lines().filter(|line| !line.contains("process_"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The file is written by `MISTIFY_GOLDEN=write cargo test --lib metrics::`, and then reviewed by a
/// person.
fn assert_golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("MISTIFY_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    for (line, wanted) in text.lines().zip(golden.lines()) {
        assert_eq!(line, wanted);
    }
    assert_eq!(text.len(), golden.len());
}

#[test]
fn the_texts_are_the_golden_ones() {
    assert_golden("metrics.txt", &written(Format::Prometheus));
    assert_golden("metrics-openmetrics.txt", &written(Format::OpenMetrics));
}

#[test]
fn parameters_are_read_by_name_and_others_ignored() {
    let fast = fast_guest(&fast_stats());
    assert_eq!((fast.state, fast.run, fast.uuid.as_str()), (State::Running, Some(3), "u-1"));
    let nic = fast.nics["vnet0"];
    assert_eq!((nic.rx_bytes, nic.rx_drops, nic.tx_errors, nic.tx_drops), (1, 4, -1, 8));
    let few = stats(&[("net.0.name", text("vnet0")), ("net.0.rx.bytes", Value::Unsigned(1))]);
    let few = fast_guest(&few).nics["vnet0"];
    assert_eq!((few.rx_bytes, few.rx_drops), (1, -1), "what is left out is not 0");
    let slow = slow_guest(Instant::now(), &slow_stats());
    assert_eq!(
        (slow.memory_max_kib, slow.memory_kib, slow.vcpus_online),
        (Some(2048), Some(1024), Some(1))
    );
    let disk = slow.disks["vda"].counters.unwrap();
    assert_eq!((disk.read_ops, disk.write_bytes, disk.flush_ns), (11, 15, 18));
    assert_eq!(slow.disks["hda"].counters, None, "no counters are not counters of 0");
    let odd = stats(&[("net.x.name", text("a")), ("net.0", text("b")), ("block.9", text("c"))]);
    assert!(fast_guest(&odd).nics.is_empty() && slow_guest(Instant::now(), &odd).disks.is_empty());
}

#[test]
fn running_guest_without_sample_is_reported() {
    assert!(is_whole(&slow_stats()));
    assert!(!is_whole(&stats(&[("balloon.current", Value::Unsigned(1))])));
    let off = stats(&[("balloon.current", Value::Unsigned(1))]);
    assert!(is_whole(&DomainStats { id: None, ..off }), "one that is off is not asked");
    assert!(is_whole(&stats(&[])), "a driver without emulators asks none");
}

#[test]
fn values_of_another_run_are_hidden() {
    let view = view(1);
    assert!(view.guest("web-1").unwrap().slow.is_some());
    let mut another = view.clone();
    Arc::make_mut(&mut another.slow).guests.get_mut("web-1").unwrap().run = Some(2);
    assert!(another.guest("web-1").unwrap().slow.is_none());
    assert!(view.guest("absent").is_none());
}

#[test]
fn hung_guest_loses_values_after_5_min_keeps_its_name() {
    let mut view = view(1);
    let at = view.slow.guests["web-1"].at;
    let seen = |view: &View| {
        let text = write(view, &own(), &[], Format::Prometheus);
        let has = |series: &str| text.lines().any(|line| line.starts_with(series));
        assert!(has("mistify_guest_stuck_seconds{domain=\"web-1\"}"));
        assert!(has("libvirt_domain_info_state{domain=\"web-1\",state=\"running\"} 1"));
        let slow = [
            "libvirt_domain_block_stats_read_bytes_total{",
            "libvirt_domain_info_memory_usage_bytes{",
            "libvirt_domain_memory_stats_rss_bytes{",
            "libvirt_domain_vcpu_state{",
            "mistify_guest_sample_age_seconds{domain=\"web-1\",tier=\"slow\"}",
        ];
        slow.map(has)
    };
    view.now = at + Duration::from_millis(299_999);
    assert_eq!(seen(&view), [true; 5]);
    view.now = at + Duration::from_secs(300);
    assert_eq!(seen(&view), [false; 5]);
}

#[test]
fn a_text_takes_time_in_line_with_its_guests() {
    crate::cost::slow("writes the text of 1,000 guests ten times");
    let least = |guests| {
        let (view, own) = (view(guests), own());
        // The thread's own CPU time: other processes use the machine, too.
        let used_ns = || -> u64 {
            let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        let turn = |_| {
            let began = used_ns();
            let text = write(&view, &own, &[], Format::Prometheus);
            assert!(text.len() > guests * 1000);
            Duration::from_nanos(used_ns() - began)
        };
        (0..10).map(turn).min().unwrap()
    };
    let (some, many) = (least(100), least(1000));
    println!("100 guests take {some:?}, 1000 take {many:?}");
    assert!(many < 20 * some, "{some:?} for 100, {many:?} for 1000");
}
