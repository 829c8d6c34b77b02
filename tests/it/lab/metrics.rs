//! What the kernel counts of the volumes behind guests' disks.

use std::fs;
use std::time::{Duration, Instant};

use super::guests::running;
use super::{Pool, SOON, device, run, virsh};
use crate::harness::scrape::{Scrape, scrape};
use crate::harness::skip::require;
use crate::harness::support::{poll, signal, wait_until};

/// The series, the column of the kernel's `stat` that they are, and what one of its units is.
const COLUMNS: [(&str, usize, f64); 7] = [
    ("reads_completed", 0, 1.0),
    ("read_bytes", 2, 512.0),
    ("read_time_seconds", 3, 1e-3),
    ("writes_completed", 4, 1.0),
    ("written_bytes", 6, 512.0),
    ("write_time_seconds", 7, 1e-3),
    ("io_time_seconds", 9, 1e-3),
];

/// The kernel's counters of a block device.
fn stat(name: &str) -> Vec<f64> {
    let text = fs::read_to_string(format!("/sys/block/{name}/stat")).expect("it is there");
    text.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

#[test]
fn volume_counters_stay_fresh_when_the_emulator_hangs() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let (directory, agent) = (pool.directory(), pool.agent());
    let guest = &directory.guest;
    running(&agent, &directory);
    let volume = device(&directory.volume(0));
    let zvol = fs::canonicalize(&volume).expect("the link leads somewhere");
    let zvol = zvol.file_name().and_then(|name| name.to_str()).expect("its name").to_owned();
    assert!(zvol.starts_with("zd"), "{zvol}");
    let series = |name: &str| {
        let labels = format!("domain=\"{guest}\",target_device=\"vda\",device=\"{zvol}\"");
        format!("mistify_disk_device_{name}_total{{{labels}}}")
    };
    let until = |what: &str, done: &dyn Fn(&Scrape) -> bool| {
        let found = poll(SOON, || Some(scrape(&agent)).filter(|scrape| done(scrape)));
        found.unwrap_or_else(|| panic!("{what}: {:#?}", scrape(&agent)))
    };
    let writes = series("writes_completed");
    until("the volume's writes are counted", &|it| it.get(&writes).is_some_and(|n| n > 0.0));

    // A guest that is paused writes no more: then both say the same.
    virsh(&["suspend", guest]);
    let still = || {
        let before = stat(&zvol);
        let since = Instant::now();
        let scrape = until("a new sample", &|it| it.is_newer(guest, "fast", since));
        (before == stat(&zvol)).then_some((before, scrape))
    };
    let (counters, scrape_of) = poll(SOON, still).expect("the volume comes to rest");
    for (name, column, unit) in COLUMNS {
        let (value, kernel) = (scrape_of.value(&series(name)), counters[column] * unit);
        assert!((value - kernel).abs() < 1e-9, "{name}: {value}, not {kernel}");
    }
    virsh(&["resume", guest]);

    // Stopped: its slow values grow old, the volume's counters are read on.
    let pid = fs::read_to_string(format!("/run/libvirt/qemu/{guest}.pid")).expect("it runs");
    let pid: u32 = pid.trim().parse().expect("a number");
    signal(pid, "STOP");
    until("it is named", &|it| {
        it.get(&format!("mistify_guest_stuck_seconds{{domain=\"{guest}\"}}")).is_some()
    });
    let reads = series("reads_completed");
    let before = scrape(&agent).value(&reads);
    let input = format!("if={}", volume.display());
    run("dd", &[&input, "of=/dev/null", "bs=64k", "count=16", "iflag=direct"]);
    let fresh = until("what the test reads is counted", &|it| it.value(&reads) >= before + 16.0);
    assert!(fresh.age(guest, "fast") < fresh.age(guest, "slow"), "{fresh:?}");
    signal(pid, "CONT");
    wait_until("it writes again", Duration::from_secs(60), || {
        scrape(&agent).value(&writes) > fresh.value(&writes)
    });
}
