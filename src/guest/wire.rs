//! The structs of the wire (contract section 4), with members in the order of the output; omitted empty members follow
//! the original.

pub mod agent;
pub mod events;
pub mod images;
pub mod jobs;
pub mod metrics;
pub mod seed;
pub mod verbs;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guest::limits::Limits;
use crate::guest::members::members;
use crate::guest::wire::seed::{CloudInit, Credentials, Secret};

/// The guest type that `CreateGuest` assumes.
pub const DEFAULT_GUEST_TYPE: &str = "kvm";

/// A guest, as callers describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Name of the libvirt domain; callers use UUIDs.
    pub id: String,
    /// Hypervisor: libvirt's domain type.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Id of the image that the guest was made from; for callers only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Network interfaces, in the guest's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Disks, in the guest's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<GuestDisk>,
    /// A name of [`State`](crate::guest::state::State), or a caller's own word such as `create`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Why it is in that state, where nobody asked for it; the agent ignores it in a request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Memory in MiB.
    #[serde(rename = "memory", skip_serializing_if = "is_zero")]
    pub memory_mib: u64,
    /// The most memory in MiB that the guest can have without a restart; 0: `memory`.
    #[serde(rename = "max_memory", skip_serializing_if = "is_zero")]
    pub max_memory_mib: u64,
    /// Number of virtual CPUs.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu: u64,
    /// Port of the VNC display; 0: no display, -1: libvirt chooses the port.
    #[serde(skip_serializing_if = "is_zero")]
    pub vnc: i64,
    /// Whatever callers want kept with the guest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// A name of [`Profile`](crate::config::Profile); empty: the configured one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub profile: String,
    /// Processor model: `host-model`, `host-passthrough`, `maximum`, or a name that libvirt knows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpu_model: String,
    /// Sockets, cores and threads of all processors that the guest can have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_topology: Option<CpuTopology>,
    /// The most virtual CPUs that the guest can have without a restart.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_cpu: u64,
    /// Machine type: `q35`, `pc`, `virt`, or an exact version that libvirt knows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// `bios`, `uefi` or `uefi-secure`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub firmware: String,
    /// Whether it has a TPM 2.0.
    #[serde(skip_serializing_if = "is_false")]
    pub tpm: bool,
    /// Whether it has the channel of the guest agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_agent: Option<bool>,
    /// Whether it has a display without a listener, besides `vnc`.
    #[serde(skip_serializing_if = "is_false")]
    pub display: bool,
    /// Video device of a guest with a display: `virtio`, `vga`, `none` and others that libvirt knows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub video: String,
    /// What happens when the guest crashes: `stop`, `restart` or `preserve`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub on_crash: String,
    /// What happens when the guest's watchdog expires: `reset`, `poweroff` or `event`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub watchdog: String,
    /// What the guest's clock starts from: `utc` or `localtime`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub clock: String,
    /// Whether Windows finds the interfaces of Hyper-V.
    #[serde(skip_serializing_if = "is_false")]
    pub hyperv: bool,
    /// For each virtual CPU the host's CPUs that it runs on, such as `0-3,8`; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_pinning: Vec<String>,
    /// Size in KiB of the host's pages that the guest's memory is made of; 0: ordinary pages.
    #[serde(rename = "hugepages", skip_serializing_if = "is_zero")]
    pub hugepages_kib: u64,
    /// The host's NUMA nodes that the guest's memory lies on, such as `0-1`; empty: any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub numa: String,
    /// Place in the order in which the agent starts guests when the host starts; 0 and absent: the agent does not
    /// start it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_order: Option<u64>,
    /// Seconds after its start before the agent starts the next guest.
    #[serde(rename = "start_delay", skip_serializing_if = "Option::is_none")]
    pub start_delay_s: Option<u64>,
    /// Seconds that it has to shut down when the host stops; then it is forced off.
    #[serde(rename = "stop_timeout", skip_serializing_if = "Option::is_none")]
    pub stop_timeout_s: Option<u64>,
    /// What cloud-init finds at the guest's first boot. It is secret, and in no answer, as the next two.
    #[serde(skip_serializing)]
    pub cloud_init: Option<CloudInit>,
    /// What Ignition finds at the guest's first boot, a JSON object; empty for none.
    #[serde(skip_serializing)]
    pub ignition: Secret,
    /// What systemd finds in the guest, by name.
    #[serde(skip_serializing)]
    pub credentials: Credentials,
    /// Bus of the seed's disk, one of [`BUSES`]; empty: what the profile says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seed_bus: String,
    /// Fingerprint of the guest's seed, which the agent fills in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seed: String,
}

members!(Guest {
    "id" => id: value,
    "type" => kind: value,
    "image" => image: value,
    "nics" => nics: list,
    "disks" => disks: list,
    "state" => state: value,
    "reason" => reason: value,
    "memory" => memory_mib: value,
    "max_memory" => max_memory_mib: value,
    "cpu" => cpu: value,
    "vnc" => vnc: value,
    "metadata" => metadata: dictionary,
    "profile" => profile: value,
    "cpu_model" => cpu_model: value,
    "cpu_topology" => cpu_topology: optional,
    "max_cpu" => max_cpu: value,
    "machine" => machine: value,
    "firmware" => firmware: value,
    "tpm" => tpm: value,
    "guest_agent" => guest_agent: optional,
    "display" => display: value,
    "video" => video: value,
    "on_crash" => on_crash: value,
    "watchdog" => watchdog: value,
    "clock" => clock: value,
    "hyperv" => hyperv: value,
    "cpu_pinning" => cpu_pinning: list,
    "hugepages" => hugepages_kib: value,
    "numa" => numa: value,
    "start_order" => start_order: value,
    "start_delay" => start_delay_s: value,
    "stop_timeout" => stop_timeout_s: value,
    "cloud_init" => cloud_init: secret,
    "ignition" => ignition: secret_text,
    "credentials" => credentials: secret_texts,
    "seed_bus" => seed_bus: value,
    "seed" => seed: value,
});

/// How the processors of a guest are arranged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuTopology {
    /// Processor packages.
    pub sockets: u64,
    /// Cores of each.
    pub cores: u64,
    /// Threads of each core.
    pub threads: u64,
}

members!(CpuTopology {
    "sockets" => sockets: value,
    "cores" => cores: value,
    "threads" => threads: value,
});

impl CpuTopology {
    /// Returns the total number of processors.
    pub fn processors(self) -> u64 {
        self.sockets.saturating_mul(self.cores).saturating_mul(self.threads)
    }
}

impl Guest {
    /// Completes a `CreateGuest` request: an empty type becomes [`DEFAULT_GUEST_TYPE`], and each disk gets its bus and
    /// a device name by its position on the bus. A bus outside [`GuestDisk::buses`] becomes the first of them (contract
    /// section 5: `virtio`). If `honours_buses` is false, each bus becomes the one that every machine has.
    pub fn complete(&mut self, honours_buses: bool) {
        if self.kind.is_empty() {
            DEFAULT_GUEST_TYPE.clone_into(&mut self.kind);
        }
        let mut places = BTreeMap::new();
        for disk in &mut self.disks {
            let buses = disk.buses();
            let own = if honours_buses { buses[0] } else { disk.classic_bus() };
            if !honours_buses || !buses.contains(&disk.bus.as_str()) {
                own.clone_into(&mut disk.bus);
            }
            let prefix = disk_prefix(&disk.bus);
            let place = places.entry(prefix).or_default();
            disk.device = disk_device(prefix, *place);
            *place += 1;
        }
    }
}

/// The buses of a guest's disk; the first is the default.
pub const BUSES: [&str; 3] = ["virtio", "scsi", "sata"];

/// The buses of a CD-ROM: Debian's cloud kernels have drivers only for the first.
const CDROM_BUSES: [&str; 2] = ["scsi", "sata"];

/// Returns the prefix of Linux for names of disks on a bus.
pub fn disk_prefix(bus: &str) -> &'static str {
    if bus == BUSES[0] { "vd" } else { "sd" }
}

/// Returns the name of the disk at `index` among those with a prefix, in Linux's order: `vda` .. `vdz`, `vdaa` ..
pub fn disk_device(prefix: &str, index: usize) -> String {
    const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
    // Bijective base 26: no letter stands for zero, so each place counts from one.
    let mut letters = Vec::new();
    let mut rest = index.saturating_add(1);
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(LETTERS[rest % 26]));
        rest /= 26;
    }
    prefix.chars().chain(letters.into_iter().rev()).collect()
}

/// Returns the index for which [`disk_device`] returns this name; `None` for another name.
pub fn disk_index(device: &str) -> Option<usize> {
    let letters = device.get(2..).filter(|letters| (1..=3).contains(&letters.len()))?;
    let digits = letters.bytes().map(|letter| match letter {
        b'a'..=b'z' => Some(usize::from(letter - b'a') + 1),
        _ => None,
    });
    let number = digits.reduce(|number, digit| Some(number? * 26 + digit?))?;
    number.map(|number| number - 1)
}

/// A network interface of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// The caller's name for it; metrics are keyed by it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The bridge that it is plugged into.
    pub network: String,
    /// What the guest sees, for example `virtio`.
    pub model: String,
    /// MAC address; also the name of the libvirt network made for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// For callers only.
    pub address: String,
    /// For callers only.
    pub netmask: String,
    /// For callers only.
    pub gateway: String,
    /// The host's device while the guest runs, for example `vnet0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// VLAN tags; an absent list differs from an empty one.
    pub vlans: Option<Vec<i64>>,
    /// Pairs of queues of a virtio NIC; 0: one, or what the profile says.
    #[serde(skip_serializing_if = "is_zero")]
    pub queues: u64,
    /// Maximum transmission unit in bytes; 0: the bridge's, or what the profile says.
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: u64,
    /// Place in the order in which the firmware tries to boot, from 1; 0: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub boot_order: u64,
    /// The most that it carries, by the members of [`NIC`](crate::guest::limits::NIC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

members!(Nic {
    "name" => name: value,
    "network" => network: value,
    "model" => model: value,
    "mac" => mac: value,
    "address" => address: value,
    "netmask" => netmask: value,
    "gateway" => gateway: value,
    "device" => device: value,
    "vlans" => vlans: nullable_list,
    "queues" => queues: value,
    "mtu" => mtu: value,
    "boot_order" => boot_order: value,
    "limits" => limits: optional,
});

/// The [`kind`](GuestDisk::kind) of a CD-ROM.
pub const CDROM: &str = "cdrom";

/// A disk of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestDisk {
    /// `cdrom`, or `disk`; empty: `disk`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Bus that the guest sees it on, for example `virtio`.
    pub bus: String,
    /// Device name in the guest, for example `vda`; metrics are keyed by it.
    pub device: String,
    /// Size in MiB.
    #[serde(rename = "size")]
    pub size_mib: u64,
    /// ZFS volume behind it.
    pub volume: String,
    /// Id of the image that it is cloned from.
    pub image: String,
    /// Path of the block device or file on the host.
    pub source: String,
    /// Format of its source: `raw` or `qcow2`; empty: `raw`, and a source that looks like another is refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// How the host caches it: `none`, `writeback`, `writethrough`, `directsync` or `unsafe`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cache: String,
    /// How the host reads and writes it: `native`, `threads` or `io_uring`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub io: String,
    /// Whether space that the guest frees is freed on the host: `unmap` or `ignore`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub discard: String,
    /// Serial number that the guest sees, at most 20 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Whether the guest cannot write to it.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Place in the order in which the firmware tries to boot, from 1; 0: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub boot_order: u64,
    /// The most that it carries, by the members of [`DISK`](crate::guest::limits::DISK).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Whether it is the disk of the guest's seed. Not on the wire: a request names no such disk.
    #[serde(skip)]
    pub is_seed: bool,
}

members!(GuestDisk {
    "kind" => kind: value,
    "bus" => bus: value,
    "device" => device: value,
    "size" => size_mib: value,
    "volume" => volume: value,
    "image" => image: value,
    "source" => source: value,
    "format" => format: value,
    "cache" => cache: value,
    "io" => io: value,
    "discard" => discard: value,
    "serial" => serial: value,
    "read_only" => read_only: value,
    "boot_order" => boot_order: value,
    "limits" => limits: optional,
});

impl GuestDisk {
    /// Returns whether the disk is a CD-ROM, whose medium may be absent and never belongs to the guest.
    pub fn is_cdrom(&self) -> bool {
        self.kind == CDROM
    }

    /// Returns whether the agent makes a volume for the disk.
    pub fn wants_volume(&self) -> bool {
        self.source.is_empty() && !self.is_cdrom()
    }

    /// Returns the buses that the disk can have; the first is the default.
    pub fn buses(&self) -> &'static [&'static str] {
        if self.is_cdrom() { &CDROM_BUSES } else { &BUSES }
    }

    /// Returns the bus on a machine of the profile classic, which has no SCSI controller.
    fn classic_bus(&self) -> &'static str {
        if self.is_cdrom() { "sata" } else { BUSES[0] }
    }

    /// Returns whether a disk with this `cache` bypasses the host's page cache, which `io` `native` needs.
    pub fn passes_page_cache(cache: &str) -> bool {
        ["none", "directsync"].contains(&cache)
    }
}

/// The arguments of the verbs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// The orchestrator's name for what it does; ignored.
    pub action: String,
    /// Arguments of the orchestrator's pipeline stage.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Whether a bus or device that CreateGuest would replace is an error. Not on the wire: the caller's path
    /// says so.
    #[serde(skip)]
    pub is_strict: bool,
}

members!(GuestRequest {
    "guest" => guest: value,
    "action" => action: value,
    "args" => args: dictionary,
});

/// The answer of the verbs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestResponse {
    /// The guest as it is now. Callers store it, so a success always has it.
    pub guest: Option<Guest>,
    /// Set by Thaw alone, where no freeze was in force.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Never set by this agent.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry: i64,
    /// The id of the job that the call became, where the caller wanted one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// Whether Shutdown has forced the guest off.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// What keeps a guest that was made from its start. Not on the wire.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

members!(GuestResponse {
    "guest" => guest: value,
    "message" => message: value,
    "retry" => retry: value,
    "job" => job: value,
    "forced" => forced: value,
});

pub(super) fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

#[cfg(test)]
mod tests;
