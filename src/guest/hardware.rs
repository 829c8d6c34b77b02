//! Parts of a machine other than processor count, memory, disks and NICs.

use serde::Serialize;

use crate::guest::wire::{self, CpuTopology, Guest, disk_index};

/// Seconds between two reports of a guest's memory: the maximum age of the values in `/metrics`.
pub const BALLOON_PERIOD_S: u64 = 10;
/// Devices that can be attached to a running q35 guest, which needs a PCI Express port for each.
pub(super) const SPARE_PORTS: usize = 16;
/// Ports of every modern guest for devices other than disks and NICs: the controllers of SCSI, of USB and of the guest
/// agent's channel, balloon, entropy, video and tablet.
const OTHER_PORTS: usize = 7;
/// Firmware of a guest whose request names none.
pub(super) const BIOS: &str = "bios";
/// The maximum number of ports on q35, at eight a slot.
pub const PORTS_MAX: usize = 224;

/// Parts of a machine; the default is the machine of agents without profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hardware {
    /// `host-model`, `host-passthrough`, `maximum` or a CPU model; empty for the hypervisor's default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpu_model: String,
    /// Topology of the processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_topology: Option<CpuTopology>,
    /// `bios`, `uefi` or `uefi-secure`; empty if a guest has no firmware (Linux containers).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub firmware: String,
    /// The file of its UEFI variables; empty if libvirt chooses a file by the domain's name.
    #[serde(skip)]
    pub nvram: String,
    /// Whether it has a TPM 2.0.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub tpm: bool,
    /// Whether it has the channel of the guest agent.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub guest_agent: bool,
    /// Video device; empty for the hypervisor's default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub video: String,
    /// Bus of a tablet, which gives an absolute pointer; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tablet: String,
    /// Action when the guest crashes: `stop`, `restart` or `preserve`; empty if no device reports a crash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub on_crash: String,
    /// Action when the guest's watchdog expires; empty for no watchdog.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub watchdog: String,
    /// Offset of the clock: `utc` or `localtime`; empty for the hypervisor's default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub clock: String,
    /// Whether it has the Hyper-V interfaces for Windows.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub hyperv: bool,
    /// Whether the guest can detect that it is a copy (`vmgenid`).
    #[serde(skip_serializing_if = "wire::is_false")]
    pub generation_id: bool,
    /// Seconds between two reports of its memory; 0 for none.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub balloon_period_s: u64,
    /// Whether it returns free pages to the host.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub free_page_reporting: bool,
    /// For each virtual processor the host's processors that it may run on, such as `0-3`; empty for any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_pinning: Vec<String>,
    /// Size in KiB of the host's huge pages for its memory; 0 for ordinary pages.
    #[serde(rename = "hugepages", skip_serializing_if = "wire::is_zero")]
    pub hugepages_kib: u64,
    /// The host's NUMA nodes for its memory, such as `0`; empty for any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub numa: String,
    /// The block size in KiB of the device that extends its memory up to the maximum; 0 if the balloon does.
    #[serde(skip)]
    pub memory_block_kib: u64,
    /// PCI Express ports; 0 for a machine with PCI slots.
    #[serde(skip)]
    pub ports: usize,
    /// Its virtio controllers of SCSI disks, each for 7 disks.
    #[serde(skip)]
    pub scsi: usize,
    /// Whether the CPU is libvirt's expansion of `host-model` at the guest's start.
    #[serde(skip)]
    pub is_expanded: bool,
}

impl Hardware {
    /// Returns whether no part is set.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Returns whether a machine as libvirt stores it matches the requested one: `pc-q35-7.2` is a `q35`.
pub(super) fn is_machine(own: &str, asked: &str) -> bool {
    let versions = match asked {
        "q35" => "pc-q35-",
        "pc" => "pc-i440fx-",
        "virt" => "virt-",
        exact => return own == exact,
    };
    own.starts_with(versions)
}

/// Disks of a SCSI controller. libvirt chooses the controller by the number in a disk's name. If controllers are
/// missing, libvirt adds one whose model has no driver in current systems.
pub(crate) const SCSI_DISKS: usize = 7;

pub(super) fn scsi_controllers(guest: &Guest) -> usize {
    let disks = guest.disks.iter().filter(|disk| disk.bus == "scsi");
    let controllers = disks.filter_map(|disk| Some(disk_index(&disk.device)? / SCSI_DISKS + 1));
    controllers.max().unwrap_or_default()
}

/// Returns whether a machine is one of x86.
pub(super) fn is_x86(machine: &str) -> bool {
    !machine.starts_with("virt")
}

/// Returns the number of ports of a guest on q35. libvirt puts the devices of a definition on the ports that the
/// definition lists, so it must list one for each device, and spare ports for later.
pub(super) fn ports(guest: &Guest) -> usize {
    let disks = guest.disks.iter().filter(|disk| disk.bus == "virtio" || disk.bus.is_empty());
    let memory = usize::from(guest.max_memory_mib > 0);
    disks.count() + guest.nics.len() + memory + scsi_controllers(guest) + OTHER_PORTS + SPARE_PORTS
}
