//! Profiles: the defaults of a new guest for the members that its request omits.
//!
//! The agent applies a profile when it defines the domain and never again: a guest keeps its machine.

use crate::config::Profile;
use crate::guest::capabilities::Capabilities;
use crate::guest::wire::{Guest, GuestDisk, Nic};

/// The name of [`Profile::Modern`].
pub const MODERN: &str = Profile::Modern.name();
/// The name of [`Profile::Classic`].
pub const CLASSIC: &str = Profile::Classic.name();

/// The maximum number of queue pairs that a NIC gets by default: measurements with this agent showed no gain from more.
const QUEUES_MAX: u64 = 8;

/// The inputs of a new guest's definition other than its request.
#[derive(Clone, Debug, Default)]
pub struct DefinitionContext {
    /// The capabilities of the guest's type; `None` if libvirt's driver does not report them, and then the guest is
    /// `classic`.
    pub offer: Option<Capabilities>,
    /// For each disk whether it is a block device, and whether it supports I/O that bypasses the host's page cache.
    pub disks: Vec<DiskSourceInfo>,
    /// For each NIC the MTU of its bridge, in bytes; 0 if unknown.
    pub mtus: Vec<u64>,
    /// Processors of the host.
    pub cpus: u64,
    /// The domain's uuid; empty if it has none yet, and then its disks get no serial numbers either.
    pub uuid: String,
}

/// Properties of a disk's source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSourceInfo {
    /// Whether it is a block device.
    pub is_block: bool,
    /// Whether it supports I/O that bypasses the host's page cache (`O_DIRECT`).
    pub is_direct: bool,
}

/// The maximum number of processors without an IOMMU with `intremap` and `eim`, which this agent does not define.
pub const CPUS_MAX: u64 = 255;

/// Returns the profile of a guest on a host with this configured profile.
pub fn of(guest: &Guest, configured: Profile) -> Profile {
    match guest.profile.as_str() {
        MODERN => Profile::Modern,
        CLASSIC => Profile::Classic,
        _ => configured,
    }
}

/// Fills in the members that a request omits, and records the applied profile in the guest.
pub fn fill(guest: &mut Guest, configured: Profile, context: &DefinitionContext) {
    let profile = of(guest, configured);
    let offer = context.offer.as_ref().filter(|_| profile == Profile::Modern);
    let machine = offer.and_then(Capabilities::modern_machine);
    let (Some(offer), Some(machine)) = (offer, machine) else {
        CLASSIC.clone_into(&mut guest.profile);
        return;
    };
    MODERN.clone_into(&mut guest.profile);
    let has_display = guest.vnc != 0 || guest.display;
    let is_kvm = guest.kind == "kvm";
    let fill_in = |member: &mut String, value: &str| {
        if member.is_empty() {
            value.clone_into(member);
        }
    };
    fill_in(&mut guest.machine, machine);
    fill_in(&mut guest.cpu_model, if is_kvm { "host-model" } else { "maximum" });
    fill_in(&mut guest.firmware, "bios");
    fill_in(&mut guest.clock, "utc");
    fill_in(&mut guest.on_crash, "stop");
    if has_display {
        let best = ["virtio", "vga"].into_iter().find(|model| offer.has_video(model));
        fill_in(&mut guest.video, best.unwrap_or_default());
    }
    guest.guest_agent.get_or_insert(true);
    if guest.max_cpu == 0 {
        guest.max_cpu = match guest.cpu_topology {
            Some(topology) => topology.processors(),
            None => context.cpus.min(offer.max_cpu).min(CPUS_MAX).max(guest.cpu),
        };
    }
    let queues = queues(&guest.kind, guest.cpu);
    for (index, nic) in guest.nics.iter_mut().enumerate() {
        fill_nic(nic, queues, context.mtus.get(index).copied().unwrap_or_default());
    }
    for (index, disk) in guest.disks.iter_mut().enumerate() {
        fill_disk(disk, context.disks.get(index).copied().unwrap_or_default(), &context.uuid);
    }
}

/// Returns the number of queue pairs of a NIC, for a guest of this type with this many processors; 0 for one.
pub fn queues(kind: &str, cpu: u64) -> u64 {
    match cpu.min(QUEUES_MAX) {
        queues if kind == "kvm" && queues > 1 => queues,
        _ => 0,
    }
}

/// Fills in the omitted members of a NIC; `queues` is the result of [`queues`] for its guest, `mtu` the MTU of its bridge.
pub fn fill_nic(nic: &mut Nic, queues: u64, mtu: u64) {
    if nic.model.is_empty() {
        "virtio".clone_into(&mut nic.model);
    }
    if nic.model == "virtio" {
        nic.queues = if nic.queues == 0 { queues } else { nic.queues };
        nic.mtu = if nic.mtu == 0 { mtu } else { nic.mtu };
    }
}

/// Fills in the omitted members of a disk of the guest whose domain has this uuid.
///
/// The I/O mode `native` blocks qemu when a sparse file grows, and needs a cache mode that bypasses the page cache.
pub fn fill_disk(disk: &mut GuestDisk, source: DiskSourceInfo, uuid: &str) {
    // Another medium may be on another file system, and a medium has no space to free.
    if disk.is_cdrom() {
        return;
    }
    let cache = if source.is_block || source.is_direct { "none" } else { "" };
    if disk.cache.is_empty() {
        cache.clone_into(&mut disk.cache);
    }
    if disk.io.is_empty() && GuestDisk::passes_page_cache(&disk.cache) {
        (if source.is_block { "native" } else { "threads" }).clone_into(&mut disk.io);
    }
    if disk.discard.is_empty() {
        "unmap".clone_into(&mut disk.discard);
    }
    if disk.serial.is_empty() && !uuid.is_empty() {
        disk.serial = serial(uuid, &disk.device);
    }
}

/// Returns the serial number of a disk: it moves with the guest, and is unique on a host.
fn serial(uuid: &str, device: &str) -> String {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    format!("{digits}-{device}")
}

#[cfg(test)]
mod tests;
