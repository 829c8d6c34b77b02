//! The values of guests: plain data, parsed from libvirt's parameters.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::guest::state::{Condition, State};
use crate::libvirt::{BlockStats, DomainStats, InterfaceStats, Value};
use crate::sorted::{IntoSorted, Table};

/// The values of all guests at one moment that need no query of an emulator.
#[derive(Clone, Debug)]
pub struct Fast {
    /// When the sample started.
    pub at: Instant,
    /// The guests by name.
    pub guests: BTreeMap<String, FastGuest>,
}

/// One guest in a fast sample.
#[derive(Clone, Debug, PartialEq)]
pub struct FastGuest {
    /// The domain's uuid.
    pub uuid: String,
    /// The id of its run; `None` when it is off.
    pub run: Option<u32>,
    /// Its state.
    pub state: State,
    /// The reason for its state, if no caller caused it; otherwise empty.
    pub reason: &'static str,
    /// Its CPU time; `None` when it is off or its process cannot be found.
    pub cpu: Option<Cpu>,
    /// Its interfaces by their devices on the host.
    pub nics: BTreeMap<String, InterfaceStats>,
    /// The kernel's counters of the block devices behind its disks, by the disks' targets.
    pub devices: BTreeMap<String, Device>,
}

/// CPU time, by the kernel's clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// The emulator's process as a whole, in nanoseconds.
    pub process_ns: u64,
    /// Its virtual processors by number.
    pub vcpus: Table<u32, Vcpu>,
}

/// One virtual processor's thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vcpu {
    /// Time running, in nanoseconds.
    pub run_ns: u64,
    /// Time ready to run and waiting for a processor of the host, in nanoseconds.
    pub delay_ns: u64,
}

/// The kernel's counters of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name, such as `zd16`.
    pub name: String,
    /// Completed reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Time of all reads, in milliseconds.
    pub read_ms: u64,
    /// Completed writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Time of all writes, in milliseconds.
    pub write_ms: u64,
    /// Time with anything in flight, in milliseconds.
    pub io_ms: u64,
}

/// One guest in a slow sample: the values of its emulator.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowGuest {
    /// When the sample started.
    pub at: Instant,
    /// The id of the guest's run; `None` when the guest was off.
    pub run: Option<u32>,
    /// The maximum memory of the guest, in KiB.
    pub memory_max_kib: Option<u64>,
    /// The current memory of the guest, in KiB.
    pub memory_kib: Option<u64>,
    /// The number of online virtual processors.
    pub vcpus_online: Option<u64>,
    /// The balloon's values, by libvirt's names: KiB, and counts of faults.
    pub balloon: BTreeMap<String, u64>,
    /// The virtual processors by number.
    pub vcpus: Table<u32, SlowVcpu>,
    /// The disks by target.
    pub disks: BTreeMap<String, Disk>,
}

/// The values of a virtual processor that the kernel does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowVcpu {
    /// libvirt's number for its state: 0 offline, 1 running, 2 blocked.
    pub state: Option<u64>,
    /// Time waiting for I/O, in nanoseconds.
    pub wait_ns: Option<u64>,
}

/// One disk of a guest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disk {
    /// The file or device behind it.
    pub source: String,
    /// The kernel's name of the block device behind it, such as `zd16`.
    pub device: Option<String>,
    /// The emulator's counters; `None` when the guest is off.
    pub counters: Option<BlockStats>,
    /// The size that the guest sees, in bytes.
    pub capacity_bytes: Option<u64>,
    /// Allocated bytes of the file behind it; of a device, the end of what was written.
    pub allocation_bytes: Option<u64>,
    /// The space that it occupies, in bytes.
    pub physical_bytes: Option<u64>,
}

/// Parses the state and the interfaces of a guest.
pub(super) fn fast_guest(stats: &DomainStats) -> FastGuest {
    let (state, reason) = (stats.state(), stats.number("state.reason"));
    let condition = state.map(|state| Condition::from_codes(state, reason.unwrap_or_default()));
    FastGuest {
        uuid: stats.uuid.clone(),
        run: stats.id,
        state: condition.map_or(State::Unknown, |it| it.state),
        reason: condition.map_or("", |it| it.reason),
        cpu: None,
        nics: interfaces(stats),
        devices: BTreeMap::new(),
    }
}

/// Returns the interfaces of a domain by their devices on the host. Values that libvirt omits are
/// unknown.
pub fn interfaces(stats: &DomainStats) -> BTreeMap<String, InterfaceStats> {
    let mut nics = Indexed::<Interface>::default();
    for (name, value) in &stats.params {
        if let Some((nic, field)) = nics.entry("net.", name) {
            read_nic(nic, field, value);
        }
    }
    let named = nics.0.into_iter().map(|(_, nic)| nic).filter(|nic| !nic.device.is_empty());
    named.map(|nic| (nic.device, nic.counters)).into_map()
}

struct Interface {
    device: String,
    counters: InterfaceStats,
}

impl Default for Interface {
    fn default() -> Self {
        Self { device: String::new(), counters: InterfaceStats::UNKNOWN }
    }
}

fn read_nic(Interface { device, counters: nic }: &mut Interface, field: &str, value: &Value) {
    let slot = match field {
        "name" => return copy_text(device, value),
        "rx.bytes" => &mut nic.rx_bytes,
        "rx.pkts" => &mut nic.rx_packets,
        "rx.errs" => &mut nic.rx_errors,
        "rx.drop" => &mut nic.rx_drops,
        "tx.bytes" => &mut nic.tx_bytes,
        "tx.pkts" => &mut nic.tx_packets,
        "tx.errs" => &mut nic.tx_errors,
        "tx.drop" => &mut nic.tx_drops,
        _ => return,
    };
    *slot = value.as_i64().unwrap_or(-1);
}

/// Parses memory, virtual processors and disks of a guest.
pub(super) fn slow_guest(at: Instant, stats: &DomainStats) -> SlowGuest {
    let mut guest = SlowGuest {
        at,
        run: stats.id,
        memory_max_kib: None,
        memory_kib: None,
        vcpus_online: None,
        balloon: BTreeMap::new(),
        vcpus: Table::new(),
        disks: disks(stats),
    };
    let mut vcpus = Indexed::<SlowVcpu>::default();
    for (name, value) in &stats.params {
        match &**name {
            "balloon.maximum" => guest.memory_max_kib = value.as_u64(),
            "balloon.current" => guest.memory_kib = value.as_u64(),
            "vcpu.current" => guest.vcpus_online = value.as_u64(),
            _ => {
                if let Some(field) = name.strip_prefix("balloon.") {
                    guest.balloon.extend(value.as_u64().map(|value| (field.to_owned(), value)));
                } else if let Some((vcpu, field)) = vcpus.entry("vcpu.", name) {
                    match field {
                        "state" => vcpu.state = value.as_u64(),
                        "wait" => vcpu.wait_ns = value.as_u64(),
                        _ => {}
                    }
                }
            }
        }
    }
    guest.vcpus = vcpus.0;
    guest
}

/// Returns the disks of a domain by target.
pub fn disks(stats: &DomainStats) -> BTreeMap<String, Disk> {
    let mut disks = Indexed::<(String, Disk)>::default();
    for (name, value) in &stats.params {
        if let Some((disk, field)) = disks.entry("block.", name) {
            read_disk(disk, field, value);
        }
    }
    disks.0.into_iter().map(|(_, disk)| disk).filter(|(target, _)| !target.is_empty()).into_map()
}

fn read_disk((target, disk): &mut (String, Disk), field: &str, value: &Value) {
    match field {
        "name" => return copy_text(target, value),
        "path" => return copy_text(&mut disk.source, value),
        "capacity" => return disk.capacity_bytes = value.as_u64(),
        "allocation" => return disk.allocation_bytes = value.as_u64(),
        "physical" => return disk.physical_bytes = value.as_u64(),
        _ => {}
    }
    let mut counters = disk.counters.unwrap_or_default();
    let slot = match field {
        "rd.reqs" => &mut counters.read_ops,
        "rd.bytes" => &mut counters.read_bytes,
        "rd.times" => &mut counters.read_ns,
        "wr.reqs" => &mut counters.write_ops,
        "wr.bytes" => &mut counters.write_bytes,
        "wr.times" => &mut counters.write_ns,
        "fl.reqs" => &mut counters.flush_ops,
        "fl.times" => &mut counters.flush_ns,
        _ => return,
    };
    *slot = value.as_i64().unwrap_or(0);
    disk.counters = Some(counters);
}

/// Returns `false` if libvirt could not query the emulator of a running guest. libvirt adds the size
/// of the emulator's process after every query to a monitor, and only then. A driver without
/// emulators, such as the test driver, reports no balloon values at all.
pub(super) fn is_whole(stats: &DomainStats) -> bool {
    let has = |wanted: &str| stats.params.iter().any(|(name, _)| **name == *wanted);
    stats.id.is_none() || has("balloon.rss") || !has("balloon.current")
}

fn copy_text(to: &mut String, value: &Value) {
    if let Value::Text(text) = value {
        to.clone_from(text);
    }
}

/// The members of `<prefix><number>.<field>`, by number.
#[derive(Default)]
struct Indexed<T>(Table<u32, T>);

impl<T: Default> Indexed<T> {
    /// Returns the member to which a parameter belongs, and the rest of the parameter's name.
    fn entry<'n>(&mut self, prefix: &str, name: &'n str) -> Option<(&mut T, &'n str)> {
        let (number, field) = name.strip_prefix(prefix)?.split_once('.')?;
        Some((self.0.or_default(number.parse().ok()?), field))
    }
}
