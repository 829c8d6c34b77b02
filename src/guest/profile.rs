//! Profiles: what a new guest is where its request leaves it open.
//!
//! A profile is applied when the agent defines the domain and never afterwards: a guest keeps its machine.

use crate::config::Profile;
use crate::guest::capabilities::Capabilities;
use crate::guest::wire::{Guest, GuestDisk, Nic};

/// The name of [`Profile::Modern`].
pub const MODERN: &str = Profile::Modern.name();
/// The name of [`Profile::Classic`].
pub const CLASSIC: &str = Profile::Classic.name();

/// Pairs of queues that a NIC gets at most: more help no guest that this agent was measured with.
const QUEUES_MAX: u64 = 8;

/// What a new guest's definition depends on besides its request.
#[derive(Clone, Debug, Default)]
pub struct DefinitionContext {
    /// What libvirt offers for its kind; none where libvirt's driver does not say, and then the guest is
    /// `classic`.
    pub offer: Option<Capabilities>,
    /// For each disk whether it is a block device, and whether the host can read and write it past its page
    /// cache.
    pub disks: Vec<DiskSourceInfo>,
    /// For each NIC the maximum transmission unit of its bridge, in bytes; 0 where that is not known.
    pub mtus: Vec<u64>,
    /// Processors of the host.
    pub cpus: u64,
    /// The domain's uuid; empty where it has none yet, and then its disks have no serial numbers either.
    pub uuid: String,
}

/// What a disk's source is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSourceInfo {
    /// Whether it is a block device.
    pub is_block: bool,
    /// Whether it can be read and written past the host's page cache (`O_DIRECT`).
    pub is_direct: bool,
}

/// Processors of a guest without an interrupt controller that this agent does not define (an IOMMU with
/// `intremap` and `eim`).
pub const CPUS_MAX: u64 = 255;

/// The profile of a guest on a host with this one.
pub fn of(guest: &Guest, configured: Profile) -> Profile {
    match guest.profile.as_str() {
        MODERN => Profile::Modern,
        CLASSIC => Profile::Classic,
        _ => configured,
    }
}

/// Fills in what a request leaves open. Which profile it was is in the guest afterwards.
pub fn fill(guest: &mut Guest, configured: Profile, place: &DefinitionContext) {
    let profile = of(guest, configured);
    let offer = place.offer.as_ref().filter(|_| profile == Profile::Modern);
    let machine = offer.and_then(Capabilities::modern_machine);
    let (Some(offer), Some(machine)) = (offer, machine) else {
        CLASSIC.clone_into(&mut guest.profile);
        return;
    };
    MODERN.clone_into(&mut guest.profile);
    let has_display = guest.vnc != 0 || guest.display;
    let is_kvm = guest.kind == "kvm";
    let open = |member: &mut String, value: &str| {
        if member.is_empty() {
            value.clone_into(member);
        }
    };
    open(&mut guest.machine, machine);
    open(&mut guest.cpu_model, if is_kvm { "host-model" } else { "maximum" });
    open(&mut guest.firmware, "bios");
    open(&mut guest.clock, "utc");
    open(&mut guest.on_crash, "stop");
    if has_display {
        let best = ["virtio", "vga"].into_iter().find(|model| offer.has_video(model));
        open(&mut guest.video, best.unwrap_or_default());
    }
    guest.guest_agent.get_or_insert(true);
    if guest.max_cpu == 0 {
        guest.max_cpu = match guest.cpu_topology {
            Some(topology) => topology.processors(),
            None => place.cpus.min(offer.max_cpu).min(CPUS_MAX).max(guest.cpu),
        };
    }
    let queues = queues(&guest.kind, guest.cpu);
    for (index, nic) in guest.nics.iter_mut().enumerate() {
        fill_nic(nic, queues, place.mtus.get(index).copied().unwrap_or_default());
    }
    for (index, disk) in guest.disks.iter_mut().enumerate() {
        fill_disk(disk, place.disks.get(index).copied().unwrap_or_default(), &place.uuid);
    }
}

/// Pairs of queues of a NIC, for a guest of this type with this many processors; 0 for one.
pub fn queues(kind: &str, cpu: u64) -> u64 {
    match cpu.min(QUEUES_MAX) {
        queues if kind == "kvm" && queues > 1 => queues,
        _ => 0,
    }
}

/// Fills in the open members of a NIC; `queues` is [`queues`] of its guest, `mtu` that of its bridge.
pub fn fill_nic(nic: &mut Nic, queues: u64, mtu: u64) {
    if nic.model.is_empty() {
        "virtio".clone_into(&mut nic.model);
    }
    if nic.model == "virtio" {
        nic.queues = if nic.queues == 0 { queues } else { nic.queues };
        nic.mtu = if nic.mtu == 0 { mtu } else { nic.mtu };
    }
}

/// Fills in the open members of a disk of the guest whose domain has this uuid.
///
/// `native` blocks qemu where a sparse file has to grow, and needs a cache that is passed by.
pub fn fill_disk(disk: &mut GuestDisk, place: DiskSourceInfo, uuid: &str) {
    // A medium of another file system may replace its medium, and its blocks cannot be freed.
    if disk.is_cdrom() {
        return;
    }
    let cache = if place.is_block || place.is_direct { "none" } else { "" };
    if disk.cache.is_empty() {
        cache.clone_into(&mut disk.cache);
    }
    if disk.io.is_empty() && GuestDisk::passes_page_cache(&disk.cache) {
        (if place.is_block { "native" } else { "threads" }).clone_into(&mut disk.io);
    }
    if disk.discard.is_empty() {
        "unmap".clone_into(&mut disk.discard);
    }
    if disk.serial.is_empty() && !uuid.is_empty() {
        disk.serial = serial(uuid, &disk.device);
    }
}

/// The serial number of a disk: it moves with the guest, and no two disks on a host have the same.
fn serial(uuid: &str, device: &str) -> String {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    format!("{digits}-{device}")
}

#[cfg(test)]
mod tests;
