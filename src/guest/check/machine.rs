//! Checks of a guest's machine: by itself, and against this host.

use crate::config::Profile;
use crate::config::fixed::{SHUTDOWN_WAIT_MAX, START_DELAY_MAX, START_ORDER_MAX};
use crate::guest::capabilities::{Capabilities, modern_machine};
use crate::guest::domain::{KIB_PER_MIB, RAW};
use crate::guest::hardware::{PORTS_MAX, ports};
use crate::guest::invalid::{Fault, Invalid};
use crate::guest::limits::{DISK, DISK_LIMIT_MAX, Limits, NIC, NIC_LIMIT_MAX, NIC_UNIT_BYTES_S};
use crate::guest::memory::unit_mib;
use crate::guest::placement::numbers;
use crate::guest::profile::{CLASSIC, CPUS_MAX, DiskSourceInfo, MODERN};
use crate::guest::seed;
use crate::guest::wire::seed::CloudInit;
use crate::guest::wire::{BUSES, CDROM, Guest, GuestDisk, Nic};
use crate::sorted::OrderBy;

/// The maximum length of a disk's serial number in virtio (virtio 1.2, section 5.2.6).
const SERIAL_BYTES_MAX: usize = 20;
/// The maximum number of queue pairs of a tap device (`MAX_TAP_QUEUES` in Linux).
const QUEUES_MAX: u64 = 256;
/// The largest MTU that a virtio NIC can advertise, in bytes (virtio 1.2, section 5.1.4).
const MTU_MAX: u64 = 65_535;
/// The minimum MTU of IPv4, in bytes (RFC 791).
const MTU_MIN: u64 = 68;

/// The maximum number of replaced members that are reported for a request.
const OVERWRITTEN_MAX: usize = 8;

const PROFILES: &[&str] = &[MODERN, CLASSIC];
const FIRMWARES: &[&str] = &["bios", "uefi", "uefi-secure"];
const ON_CRASH: &[&str] = &["stop", "restart", "preserve"];
const WATCHDOG: &[&str] = &["reset", "poweroff", "event"];
const CLOCKS: &[&str] = &["utc", "localtime"];
const KINDS: &[&str] = &["disk", CDROM];
const FORMATS: &[&str] = &["raw", "qcow2"];
const CACHES: &[&str] = &["none", "writeback", "writethrough", "directsync", "unsafe"];
const IOS: &[&str] = &["native", "threads", "io_uring"];
const DISCARDS: &[&str] = &["unmap", "ignore"];

/// Returns the fault of the setting that the disk's source does not support. The profile has already filled in the
/// disk; a block device without `cache` has `none`.
pub fn setting_fault(place: &str, disk: &GuestDisk, source: DiskSourceInfo) -> Option<Invalid> {
    let cache = match disk.cache.as_str() {
        "" if source.is_block => "none",
        cache => cache,
    };
    let passes_cache = GuestDisk::passes_page_cache(cache);
    if disk.io == "native" && !passes_cache {
        let fault = Fault::NotWith("cache: native needs none or directsync");
        return member(&format!("{place}.io"), fault);
    }
    if passes_cache && !source.is_direct {
        let why = "its file system does not support O_DIRECT".to_owned();
        let fault = Fault::NotOnHost { found: disk.cache.clone(), why };
        return member(&format!("{place}.cache"), fault);
    }
    None
}

/// Returns the fault of memory that is not a multiple of its unit. The profile has already filled in the guest.
pub fn unit_fault(guest: &Guest) -> Option<Invalid> {
    memory_fault(guest, unit_mib(guest))
}

fn memory_fault(guest: &Guest, unit: u64) -> Option<Invalid> {
    let amounts = [("memory", guest.memory_mib), ("max_memory", guest.max_memory_mib)];
    let (name, found) = amounts.into_iter().find(|(_, mib)| unit > 0 && mib % unit != 0)?;
    member(name, Fault::NotMultiple { found, unit })
}

/// Returns the faults of a guest's machine that do not depend on the host.
pub fn faults(guest: &Guest) -> Vec<Invalid> {
    let mut found = vec![
        word("profile", &guest.profile, PROFILES),
        word("firmware", &guest.firmware, FIRMWARES),
        word("on_crash", &guest.on_crash, ON_CRASH),
        word("watchdog", &guest.watchdog, WATCHDOG),
        word("clock", &guest.clock, CLOCKS),
        word("seed_bus", &guest.seed_bus, &seed::BUSES),
        letters_digits("seed", &guest.seed, "-:"),
        name("cpu_model", &guest.cpu_model),
        name("machine", &guest.machine),
        name("video", &guest.video),
        below("start_order", guest.start_order.unwrap_or(0), START_ORDER_MAX),
        below("start_delay", guest.start_delay_s.unwrap_or(0), START_DELAY_MAX.as_secs()),
        below("stop_timeout", guest.stop_timeout_s.unwrap_or(0), SHUTDOWN_WAIT_MAX.as_secs()),
    ];
    if guest.stop_timeout_s == Some(0) {
        found.push(member("stop_timeout", Fault::TooLittle { least: 1 }));
    }
    if guest.max_cpu != 0 && guest.max_cpu < guest.cpu {
        found.push(member("max_cpu", Fault::NotWith("cpu, which is larger")));
    }
    if let Some(topology) = guest.cpu_topology {
        let product = topology.processors();
        let (limit, fits) = match guest.max_cpu {
            0 => (format!("be at least cpu {}", guest.cpu), product >= guest.cpu),
            most => (format!("equal max_cpu {most}"), product == most),
        };
        if product == 0 || !fits {
            found.push(member("cpu_topology", Fault::Product { found: product, limit }));
        }
    }
    if guest.max_memory_mib != 0 && guest.max_memory_mib < guest.memory_mib {
        found.push(member("max_memory", Fault::NotWith("memory, which is larger")));
    }
    found.push(memory_fault(guest, guest.hugepages_kib / KIB_PER_MIB));
    let most = guest.cpu_topology.map_or(guest.max_cpu, |it| it.processors()).max(guest.cpu);
    if u64::try_from(guest.cpu_pinning.len()).unwrap_or(u64::MAX) > most {
        found.push(member("cpu_pinning", Fault::NotWith("the number of CPUs, which is smaller")));
    }
    for (i, cpus) in guest.cpu_pinning.iter().enumerate() {
        found.push(list(&format!("cpu_pinning[{i}]"), cpus));
    }
    found.push(list("numa", &guest.numa));
    let orders = guest.disks.iter().map(|disk| disk.boot_order);
    let mut orders: Vec<u64> = orders.chain(guest.nics.iter().map(|nic| nic.boot_order)).collect();
    orders.retain(|order| *order > 0);
    orders.order_by(&Ord::cmp);
    if let Some(pair) = orders.windows(2).find(|pair| pair[0] == pair[1]) {
        found.push(member("boot_order", Fault::Repeated(pair[0])));
    }
    let mut found: Vec<Invalid> = found.into_iter().flatten().collect();
    found.extend(guest.cloud_init.iter().flat_map(CloudInit::faults));
    found.extend(seed::files::fault(guest));
    for (i, nic) in guest.nics.iter().enumerate() {
        found.extend(nic_faults(&format!("nics[{i}]"), nic));
    }
    for (i, disk) in guest.disks.iter().enumerate() {
        found.extend(disk_faults(&format!("disks[{i}]"), disk));
    }
    found
}

/// Returns the faults of a NIC's settings that do not depend on the host.
pub(super) fn nic_faults(place: &str, nic: &Nic) -> Vec<Invalid> {
    let mtu = match nic.mtu {
        0 | MTU_MIN..=MTU_MAX => None,
        mtu => {
            let allowed = vec![format!("{MTU_MIN} to {MTU_MAX} bytes")];
            let found = mtu.to_string();
            member(&format!("{place}.mtu"), Fault::NotOneOf { found, allowed })
        }
    };
    let has_queues = ["", "virtio"].contains(&nic.model.as_str());
    let queues = format!("{place}.queues");
    let found = [
        below(&queues, nic.queues, QUEUES_MAX),
        (nic.queues > 1 && !has_queues)
            .then(|| member(&queues, Fault::NotWith("model: only virtio has several queues")))
            .flatten(),
        mtu,
    ];
    let mut found: Vec<Invalid> = found.into_iter().flatten().collect();
    let names = NIC.map(|limit| limit.member);
    found.extend(limit_faults(place, nic.limits.as_ref(), &names, NIC_LIMIT_MAX));
    for (name, most) in nic.limits.iter().flatten() {
        if most % NIC_UNIT_BYTES_S != 0 {
            let fault = Fault::NotMultiple { found: *most, unit: NIC_UNIT_BYTES_S };
            found.extend(member(&format!("{place}.limits.{name}"), fault));
        }
    }
    found
}

/// Returns the faults of the limits of a disk or a NIC; `names` lists the supported limits.
fn limit_faults(place: &str, limits: Option<&Limits>, names: &[&str], max: u64) -> Vec<Invalid> {
    let mut found = Vec::new();
    for (name, most) in limits.into_iter().flatten() {
        found.extend(word(&format!("{place}.limits"), name, names));
        found.extend(below(&format!("{place}.limits.{name}"), *most, max));
    }
    found
}

/// Returns the faults of a disk's settings that do not depend on the host.
pub(super) fn disk_faults(place: &str, disk: &GuestDisk) -> Vec<Invalid> {
    let at = |name: &str| format!("{place}.{name}");
    let length = u64::try_from(disk.serial.len()).unwrap_or(u64::MAX);
    let is_direct = disk.cache.is_empty() || GuestDisk::passes_page_cache(&disk.cache);
    let found = [
        word(&at("kind"), &disk.kind, KINDS),
        word(&at("format"), &disk.format, FORMATS),
        word(&at("cache"), &disk.cache, CACHES),
        word(&at("io"), &disk.io, IOS),
        word(&at("discard"), &disk.discard, DISCARDS),
        name(&at("serial"), &disk.serial),
        below(&at("serial"), length, SERIAL_BYTES_MAX as u64),
        (disk.io == "native" && !is_direct)
            .then(|| member(&at("io"), Fault::NotWith("cache: native needs none or directsync")))
            .flatten(),
    ];
    let mut found: Vec<Invalid> = found.into_iter().flatten().collect();
    let is_raw = ["", RAW].contains(&disk.format.as_str());
    if !is_raw && (disk.source.is_empty() || disk.is_cdrom()) {
        let why = "the disk: only a disk with a source can have it";
        found.extend(member(&at("format"), Fault::NotWith(why)));
    }
    let has_volume_members =
        disk.size_mib > 0 || !disk.volume.is_empty() || !disk.discard.is_empty();
    if disk.is_cdrom() && has_volume_members {
        let why = "size, volume or discard: a CD-ROM has none of them";
        found.extend(member(&at("kind"), Fault::NotWith(why)));
    }
    let names = DISK.map(|limit| limit.member);
    found.extend(limit_faults(place, disk.limits.as_ref(), &names, DISK_LIMIT_MAX));
    let has = |name: &str| disk.limits.as_ref().is_some_and(|limits| limits.get(name) > Some(&0));
    for (total, read, write) in [
        ("total_bytes_s", "read_bytes_s", "write_bytes_s"),
        ("total_iops", "read_iops", "write_iops"),
    ] {
        if has(total) && (has(read) || has(write)) {
            let fault = Fault::NotWith("limits of reads or writes; set a total, or these");
            found.extend(member(&at(&format!("limits.{total}")), fault));
        }
    }
    found
}

/// Checks that the agent supports the bus of a disk.
///
/// # Errors
/// A list of the supported buses.
pub fn check_bus(place: &str, disk: &GuestDisk) -> Result<(), Invalid> {
    match word(&format!("{place}.bus"), &disk.bus, disk.buses()) {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

/// Describes the members of a guest's disks that [`Guest::complete`] has replaced.
pub fn overwritten(guest: &Guest, completed: &Guest) -> Vec<String> {
    let mut found = Vec::new();
    for (i, (disk, own)) in guest.disks.iter().zip(&completed.disks).enumerate() {
        if found.len() == OVERWRITTEN_MAX {
            break;
        }
        if let Err(fault) = check_bus(&format!("disks[{i}]"), disk) {
            found.push(fault.plain());
        } else if !disk.bus.is_empty() && disk.bus != own.bus {
            found.push(format!("disks[{i}].bus: the profile classic has {} only", own.bus));
        } else if !disk.device.is_empty() && disk.device != own.device {
            let (asked, own) = (&disk.device, &own.device);
            found.push(format!("disks[{i}].device must be {own} or absent, not {asked}"));
        }
    }
    found
}

/// Returns the machine to query libvirt for, for a guest of this profile; empty for libvirt's default.
pub fn asked_machine(guest: &Guest, profile: Profile) -> &str {
    match (guest.machine.as_str(), profile) {
        ("", Profile::Modern) => modern_machine(std::env::consts::ARCH).unwrap_or_default(),
        (machine, _) => machine,
    }
}

/// Returns the members that this host does not support, each with the available alternatives.
pub fn unavailable(guest: &Guest, offer: &Capabilities) -> Vec<Invalid> {
    let has = |list: &[String], name: &str| list.iter().any(|it| it == name);
    let mut found = Vec::new();
    let model = guest.cpu_model.as_str();
    let modes: Vec<&String> = offer.cpu_modes.iter().filter(|mode| *mode != "custom").collect();
    if has(&offer.unusable_cpu_models, model) {
        let why = "the host's processor lacks a feature of that model".to_owned();
        found.push(not("cpu_model", model, why));
    } else if !model.is_empty()
        && !modes.iter().any(|mode| *mode == model)
        && !has(&offer.cpu_models, model)
    {
        let names = modes.into_iter().chain(&offer.cpu_models);
        let names: Vec<&str> = names.map(String::as_str).collect();
        found.push(not("cpu_model", model, format!("available are {}", names.join(", "))));
    }
    let is_efi = guest.firmware.starts_with("uefi");
    if is_efi && !has(&offer.firmwares, "efi") {
        let why = format!("install the package {}", firmware_package(&offer.arch));
        found.push(not("firmware", &guest.firmware, why));
    } else if guest.firmware == "uefi-secure" {
        let machine = offer.machine.as_str();
        if offer.arch == "x86_64" && !machine.contains("q35") {
            found.push(member("firmware", Fault::NotWith("machine: Secure Boot needs q35")));
        } else if !offer.has_secure_boot {
            let why = "its UEFI firmware has no build with Secure Boot".to_owned();
            found.push(not("firmware", &guest.firmware, why));
        }
    }
    if guest.tpm && !has(&offer.tpm_backends, "emulator") {
        let why = "install the packages swtpm and swtpm-tools".to_owned();
        found.push(not("tpm", "true", why));
    }
    if !guest.video.is_empty() && !offer.has_video(&guest.video) {
        let why = format!("available are {}", offer.videos.join(", "));
        found.push(not("video", &guest.video, why));
    }
    let (name, most) = match guest.cpu_topology {
        _ if guest.max_cpu > 0 => ("max_cpu", guest.max_cpu),
        Some(topology) => ("cpu_topology", topology.processors()),
        None => ("cpu", guest.cpu),
    };
    let limit = if offer.arch == "x86_64" { offer.max_cpu.min(CPUS_MAX) } else { offer.max_cpu };
    // Not for `cpu` alone: in an Update it is the present number, and a guest with more processors than the limit
    // already has the hardware that they need.
    if limit > 0 && name != "cpu" {
        found.push(below(name, most, limit));
    }
    for (i, disk) in guest.disks.iter().enumerate() {
        // libvirt checks other buses: Create passes them unchanged.
        if BUSES.contains(&disk.bus.as_str()) && !has(&offer.disk_buses, &disk.bus) {
            let why = format!("available are {}", offer.disk_buses.join(", "));
            found.push(not(&format!("disks[{i}].bus"), &disk.bus, why));
        }
    }
    if offer.machine.contains("q35") && ports(guest) > PORTS_MAX {
        let why = "q35 has no PCI Express port for so many; put disks on the bus scsi".to_owned();
        found.push(not("disks", &guest.disks.len().to_string(), why));
    }
    found.into_iter().flatten().collect()
}

/// Returns the Debian package with the firmware of an architecture.
fn firmware_package(arch: &str) -> &'static str {
    if arch == "aarch64" { "qemu-efi-aarch64" } else { "ovmf" }
}

/// Returns the fault of a member that this host does not support.
fn not(name: &str, found: &str, why: String) -> Option<Invalid> {
    member(name, Fault::NotOnHost { found: found.to_owned(), why })
}

/// Returns a member with its fault, as an option, so that a list of checks has one type.
#[expect(clippy::unnecessary_wraps, reason = "one line of a list of checks")]
fn member(member: &str, fault: Fault) -> Option<Invalid> {
    Some(Invalid::Member { member: member.to_owned(), fault })
}

/// Checks that a word is empty or one of `allowed`.
fn word(place: &str, found: &str, allowed: &[&str]) -> Option<Invalid> {
    if found.is_empty() || allowed.contains(&found) {
        return None;
    }
    let allowed = allowed.iter().map(|word| (*word).to_owned()).collect();
    member(place, Fault::NotOneOf { found: found.to_owned(), allowed })
}

/// Checks that a text is empty or a list of numbers.
fn list(place: &str, found: &str) -> Option<Invalid> {
    if found.is_empty() || numbers(found).is_some() {
        return None;
    }
    let allowed = vec!["a list of numbers such as 0-3,8".to_owned()];
    member(place, Fault::NotOneOf { found: found.to_owned(), allowed })
}

/// Returns the members of a guest's placement that this host cannot satisfy. `cpus` and `nodes` list the host's
/// processors and NUMA nodes; `has_pages`: the host has huge pages of the guest's size.
pub fn misplaced(guest: &Guest, cpus: &str, nodes: &str, has_pages: bool) -> Vec<Invalid> {
    let fits = |asked: &str, has: &str| match (numbers(asked), numbers(has)) {
        (Some(asked), Some(has)) => asked.iter().all(|number| has.contains(number)),
        _ => true,
    };
    let mut found = Vec::new();
    for (i, asked) in guest.cpu_pinning.iter().enumerate() {
        if !fits(asked, cpus) {
            found.push(not(&format!("cpu_pinning[{i}]"), asked, format!("it has the CPUs {cpus}")));
        }
    }
    if !fits(&guest.numa, nodes) {
        found.push(not("numa", &guest.numa, format!("it has the NUMA nodes {nodes}")));
    }
    if guest.hugepages_kib > 0 && !has_pages {
        let why =
            "its kernel has no huge pages of that size; /sys/kernel/mm/hugepages has the sizes";
        found.push(not("hugepages", &guest.hugepages_kib.to_string(), why.to_owned()));
    }
    found.into_iter().flatten().collect()
}

/// Checks a name from a set that libvirt knows and this agent does not: letters, digits and a few marks.
fn name(place: &str, found: &str) -> Option<Invalid> {
    letters_digits(place, found, "-_.+")
}

/// Checks that a text has only letters, digits and the characters of `more`.
fn letters_digits(place: &str, found: &str, more: &str) -> Option<Invalid> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
    let odd = found.chars().find(|c| !is_fine(*c));
    odd.and_then(|c| member(place, Fault::IdCharacter(c)))
}

fn below(place: &str, found: u64, max: u64) -> Option<Invalid> {
    (found > max).then(|| member(place, Fault::TooMuch { found, max })).flatten()
}
