//! The kernel's values of emulators and of the devices behind their disks, read without querying the
//! emulators.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::metrics::files::Files;
use crate::metrics::sample::{Cpu, Device, Vcpu};
use crate::os::process::CpuClock;
use crate::sorted::Table;

/// The size of a sector in the kernel's counters, in bytes, whatever the device's own sector size
/// is.
const SECTOR_BYTES: u64 = 512;

/// The processes of running guests. A process is looked up once per run, and its threads
/// periodically.
#[derive(Debug)]
pub(super) struct Processes {
    pid_dir: PathBuf,
    rare: Duration,
    known: BTreeMap<String, Process>,
}

#[derive(Debug)]
struct Process {
    run: u32,
    clock: CpuClock,
    /// The threads of virtual processors: the processor's number, and the file with the thread's
    /// times.
    vcpus: Vec<(u32, String)>,
    looked: Instant,
}

impl Processes {
    /// Makes an empty set; libvirt stores the process numbers in `pid_dir`.
    pub(super) fn new(pid_dir: &Path, rare: Duration) -> Self {
        Self { pid_dir: pid_dir.to_owned(), rare, known: BTreeMap::new() }
    }

    /// Returns the CPU time of this run of a guest; `None` if its process cannot be found.
    pub(super) fn cpu(
        &mut self,
        files: &mut Files,
        name: &str,
        run: u32,
        now: Instant,
    ) -> Option<Cpu> {
        let rare = self.rare;
        let known = |process: &&Process| process.run == run && now < process.looked + rare;
        let known = self.known.get(name).filter(known);
        if let Some(cpu) = known.and_then(|process| process.cpu(files)) {
            return Some(cpu);
        }
        let found = self.find(name, run, now)?;
        let cpu = found.cpu(files);
        self.known.insert(name.to_owned(), found);
        cpu
    }

    /// Forgets all guests except these.
    pub(super) fn keep(&mut self, names: &BTreeSet<&str>) {
        self.known.retain(|name, _| names.contains(name.as_str()));
    }

    fn find(&self, name: &str, run: u32, now: Instant) -> Option<Process> {
        let pid = noted_pid(&self.pid_dir, name)?;
        let clock = CpuClock::of(pid).ok()?;
        runs(pid, name).then(|| Process { run, clock, vcpus: vcpu_threads(pid), looked: now })
    }
}

/// Returns whether the emulator of a guest is stopped, as by `kill -STOP`: it answers no query until
/// it is continued. Returns `false` if its process cannot be found.
pub(super) fn is_stopped(pid_dir: &Path, name: &str) -> bool {
    let Some(pid) = noted_pid(pid_dir, name) else { return false };
    let state = fs::read(format!("/proc/{pid}/stat")).ok().and_then(|text| state(&text));
    state == Some(b'T') && runs(pid, name)
}

/// Returns a guest's process number from libvirt's file. The number may belong to an earlier run, or
/// to another PID namespace.
fn noted_pid(pid_dir: &Path, name: &str) -> Option<u32> {
    // libvirt allows no such names; a path must not lead outside `pid_dir`.
    if name.contains('/') {
        return None;
    }
    fs::read_to_string(pid_dir.join(format!("{name}.pid"))).ok()?.trim().parse().ok()
}

/// Returns whether this process is the guest's emulator.
fn runs(pid: u32, name: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| is_of(&words, name))
}

/// Returns the letter of a process's state from its `stat`. It follows the name, which may contain
/// any character.
fn state(text: &[u8]) -> Option<u8> {
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    text.get(name_end + 2).copied()
}

impl Process {
    /// Returns `None` when the process has ended or lost a thread.
    fn cpu(&self, files: &mut Files) -> Option<Cpu> {
        // The threads are read first, so that the total is never less than their sum.
        let mut vcpus = Table::new();
        for (number, file) in &self.vcpus {
            vcpus.insert(*number, files.read(file, vcpu)??);
        }
        Some(Cpu { process_ns: self.clock.ns().ok()?, vcpus })
    }
}

/// Returns whether a command line belongs to the guest's emulator: libvirt writes the guest's name
/// into it.
fn is_of(words: &[u8], name: &str) -> bool {
    let wanted = format!("guest={name}");
    words.split(|byte| *byte == 0).any(|word| {
        let rest = word.strip_prefix(wanted.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b","))
    })
}

fn vcpu_threads(pid: u32) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let threads = entries.flatten().filter_map(|entry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((vcpu_number(&name)?, entry.path().join("schedstat").to_str()?.to_owned()))
    });
    threads.collect()
}

/// Returns the number in `CPU <n>/KVM` or `CPU <n>/TCG`.
fn vcpu_number(name: &str) -> Option<u32> {
    name.strip_prefix("CPU ")?.split_once('/')?.0.parse().ok()
}

/// Parses a thread's `schedstat`: nanoseconds running, nanoseconds waiting for a processor, time
/// slices.
fn vcpu(text: &str) -> Option<Vcpu> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some(Vcpu { run_ns: numbers.next()?.ok()?, delay_ns: numbers.next()?.ok()? })
}

/// Returns the kernel's name of the block device at this path, such as `zd16`; follows links.
pub(super) fn device_name(source: &str) -> Option<String> {
    if !source.starts_with("/dev/") {
        return None;
    }
    let device = fs::canonicalize(source).ok()?;
    let name = device.file_name()?.to_str()?;
    Path::new("/sys/class/block").join(name).exists().then(|| name.to_owned())
}

/// Returns the counters of the block device with this name.
pub(super) fn device(files: &mut Files, name: &str) -> Option<Device> {
    files.read(&format!("/sys/class/block/{name}/stat"), |text| device_counters(name, text))?
}

/// Parses a device's `stat`; the kernel's Documentation/block/stat.rst describes its columns.
fn device_counters(name: &str, text: &str) -> Option<Device> {
    let mut numbers = [0; 10];
    let mut words = text.split_ascii_whitespace();
    for number in &mut numbers {
        *number = words.next()?.parse().ok()?;
    }
    let [reads, _, read_sectors, read_ms, writes, _, written_sectors, write_ms, _, io_ms] = numbers;
    Some(Device {
        name: name.to_owned(),
        reads,
        read_bytes: read_sectors.saturating_mul(SECTOR_BYTES),
        read_ms,
        writes,
        written_bytes: written_sectors.saturating_mul(SECTOR_BYTES),
        write_ms,
        io_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_own_emulator_is_measured() {
        let words = b"/usr/bin/qemu-system-x86_64\0-name\0guest=web-1,debug-threads=on\0-S\0";
        assert!(is_of(words, "web-1"));
        assert!(!is_of(words, "web"));
        assert!(!is_of(words, "web-10"));
        assert!(is_of(b"qemu\0guest=web-1\0", "web-1"));
        assert!(!is_of(b"vim\0web-1.txt\0", "web-1"));
    }

    #[test]
    fn the_state_of_a_process_stands_behind_its_name() {
        assert_eq!(state(b"71 (qemu-system-x86) T 1 71 71 0 -1"), Some(b'T'));
        assert_eq!(state(b"71 (a) T (b) S 1 71"), Some(b'S'));
        assert_eq!((state(b"71 (a)"), state(b"71")), (None, None));
    }

    #[test]
    fn vcpu_threads_are_identified_by_name() {
        assert_eq!(vcpu_number("CPU 3/KVM\n"), Some(3));
        assert_eq!(vcpu_number("CPU 12/TCG\n"), Some(12));
        assert_eq!(vcpu_number("ALL CPUs/TCG\n"), None);
        assert_eq!(vcpu_number("worker\n"), None);
    }

    #[test]
    fn kernel_texts_are_read_and_torn_ones_are_not() {
        assert_eq!(vcpu("1500 300 7\n"), Some(Vcpu { run_ns: 1500, delay_ns: 300 }));
        assert_eq!(vcpu("1500\n"), None);
        let text = "   11  0  16  3  22  1  32  5  0  6  8  0 0 0 0 4 1\n";
        let device = device_counters("zd16", text).unwrap();
        assert_eq!((device.reads, device.read_bytes, device.read_ms), (11, 8192, 3));
        assert_eq!((device.writes, device.written_bytes, device.write_ms), (22, 16384, 5));
        assert_eq!((device.io_ms, device.name.as_str()), (6, "zd16"));
        assert_eq!(device_counters("zd16", "1 2 3"), None);
    }

    #[test]
    fn non_block_device_has_no_name() {
        assert_eq!(device_name("/dev/null"), None);
        assert_eq!(device_name("/etc/passwd"), None);
        assert_eq!(device_name("/dev/absent"), None);
    }

    #[test]
    fn a_name_with_a_slash_is_no_path() {
        let mut processes = Processes::new(Path::new("/run"), Duration::from_secs(1));
        assert_eq!(processes.cpu(&mut Files::default(), "../etc/x", 1, Instant::now()), None);
    }
}
