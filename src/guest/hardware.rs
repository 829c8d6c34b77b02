//! What a machine is besides its processors' number, memory, disks and NICs.

use serde::Serialize;

use crate::guest::wire::{self, CpuTopology, Guest, disk_index};

/// Seconds between two reports of a guest's memory: what `/metrics` shows is at most so old.
pub const BALLOON_PERIOD_S: u64 = 10;
/// Devices that can be plugged into a running q35 guest, which has a PCI Express port for each.
pub(super) const SPARE_PORTS: usize = 16;
/// Ports for what every modern guest has besides its disks and NICs: the controllers of SCSI, of USB and of the
/// guest agent's channel, balloon, entropy, video and tablet.
const OTHER_PORTS: usize = 7;
/// Firmware of a guest that asks for no other.
pub(super) const BIOS: &str = "bios";
/// Ports that q35 has room for, at eight a slot.
pub const PORTS_MAX: usize = 224;

/// Parts of a machine; the default is what the agent defined before there were profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hardware {
    /// `host-model`, `host-passthrough`, `maximum` or the name of a processor; empty for the hypervisor's own
    /// choice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpu_model: String,
    /// How the processors are arranged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_topology: Option<CpuTopology>,
    /// `bios`, `uefi` or `uefi-secure`; empty where a guest has none of its own (Linux containers).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub firmware: String,
    /// The file of its UEFI variables; empty for one that libvirt names by the domain's name.
    #[serde(skip)]
    pub nvram: String,
    /// Whether it has a TPM 2.0.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub tpm: bool,
    /// Whether it has the channel of the guest agent.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub guest_agent: bool,
    /// Video device; empty for the hypervisor's own choice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub video: String,
    /// Bus of a tablet, whose pointer follows the user's; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tablet: String,
    /// What happens when the guest crashes: `stop`, `restart` or `preserve`; empty where nobody notices.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub on_crash: String,
    /// What happens when the guest's watchdog expires; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub watchdog: String,
    /// What the clock starts from: `utc` or `localtime`; empty for the hypervisor's own choice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub clock: String,
    /// Whether Windows finds the interfaces of Hyper-V.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub hyperv: bool,
    /// Whether the guest notices that it is a copy (`vmgenid`).
    #[serde(skip_serializing_if = "wire::is_false")]
    pub generation_id: bool,
    /// Seconds between two reports of its memory; 0 for none.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub balloon_period_s: u64,
    /// Whether it gives free pages back to the host.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub free_page_reporting: bool,
    /// For each virtual processor the host's processors that it runs on, such as `0-3`; empty for any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_pinning: Vec<String>,
    /// Size in KiB of the host's pages that its memory is made of; 0 for ordinary ones.
    #[serde(rename = "hugepages", skip_serializing_if = "wire::is_zero")]
    pub hugepages_kib: u64,
    /// The host's NUMA nodes that its memory lies on, such as `0`; empty for any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub numa: String,
    /// The unit in KiB of the device that gives it memory up to its maximum; 0 where the balloon does.
    #[serde(skip)]
    pub memory_block_kib: u64,
    /// PCI Express ports; 0 where the machine has slots.
    #[serde(skip)]
    pub ports: usize,
    /// Its virtio controllers of SCSI disks, each for 7 disks.
    #[serde(skip)]
    pub scsi: usize,
    /// Whether the processor is what libvirt made of `host-model` when the guest started.
    #[serde(skip)]
    pub is_expanded: bool,
}

impl Hardware {
    /// Whether it has no part.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a machine as libvirt stores it is the one that is asked for: `pc-q35-7.2` is a `q35`.
pub(super) fn is_machine(own: &str, asked: &str) -> bool {
    let versions = match asked {
        "q35" => "pc-q35-",
        "pc" => "pc-i440fx-",
        "virt" => "virt-",
        exact => return own == exact,
    };
    own.starts_with(versions)
}

/// Disks of a SCSI controller: by the number in a disk's name libvirt chooses the controller, and adds one of a
/// model without a driver in today's systems where there are too few.
pub(crate) const SCSI_DISKS: usize = 7;

pub(super) fn scsi_controllers(guest: &Guest) -> usize {
    let disks = guest.disks.iter().filter(|disk| disk.bus == "scsi");
    let controllers = disks.filter_map(|disk| Some(disk_index(&disk.device)? / SCSI_DISKS + 1));
    controllers.max().unwrap_or_default()
}

/// Whether a machine is one of x86.
pub(super) fn is_x86(machine: &str) -> bool {
    !machine.starts_with("virt")
}

/// The ports of a guest on q35: libvirt puts the devices that a guest is defined with on the ports that its
/// definition lists, so there have to be as many as devices, and those for later.
pub(super) fn ports(guest: &Guest) -> usize {
    let disks = guest.disks.iter().filter(|disk| disk.bus == "virtio" || disk.bus.is_empty());
    let memory = usize::from(guest.max_memory_mib > 0);
    disks.count() + guest.nics.len() + memory + scsi_controllers(guest) + OTHER_PORTS + SPARE_PORTS
}
