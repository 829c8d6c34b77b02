//! The facts about the machine that a reader of the figures needs.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use mistify_libvirt::os::clock;

/// Describes the time, the machine, and its load average.
pub(crate) fn describe() -> String {
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let load = read("/proc/loadavg");
    format!(
        "{}: Linux {}, {cpus} CPUs ({}), libvirt {}; load average at the start {}.",
        clock::rfc3339_utc(SystemTime::now()),
        kernel.trim(),
        model.unwrap_or("unknown"),
        libvirt_version(),
        load.split_whitespace().next().unwrap_or_default(),
    )
}

/// Returns the percentage of all CPUs in use. While nothing is measured, that is other work.
///
/// # Blocking
/// For a second.
pub(crate) fn busy_percent() -> u64 {
    let before = CpuTimes::read();
    thread::sleep(Duration::from_secs(1));
    let after = CpuTimes::read();
    100 * (after.busy - before.busy) / (after.all - before.all).max(1)
}

/// Returns the percentages before and after a run as a sentence.
pub(crate) fn other_work(percent_before: u64, percent_after: u64) -> String {
    format!("CPUs busy with other work: {percent_before} % before, {percent_after} % after.")
}

fn libvirt_version() -> String {
    let output = Command::new("virsh").arg("--version").output();
    let text = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or("without virsh".to_owned(), |text| text.trim().to_owned())
}

/// Times of all CPUs together since the start of the machine, in ticks.
struct CpuTimes {
    all: u64,
    busy: u64,
}

impl CpuTimes {
    fn read() -> Self {
        let stat = read("/proc/stat");
        // user nice system idle iowait irq softirq steal; guests' times come after and are in user.
        let words = stat.lines().next().unwrap_or_default().split_whitespace();
        let times: Vec<u64> = words.skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
        let all = times.iter().sum();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        Self { all, busy: all - idle }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
