//! Changes to an existing guest's machine: some members of the definition change, everything else stays.

use std::fmt;

use crate::guest::GUEST_NAMESPACE;
use crate::guest::domain::KIB_PER_MIB;
use crate::guest::hardware::{Hardware, SPARE_PORTS, is_machine, is_x86};
use crate::guest::hardware_xml::{self, is_agent_channel, read_hardware};
use crate::guest::wire::{CpuTopology, Guest};
use crate::guest::xml::{Element, Error};
use crate::guest::{memory, placement};

/// A part of the guest that a change would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The firmware's variables: boot entries and enrolled keys.
    Nvram,
    /// Windows may not start, or may ask for its licence, on another machine.
    Windows,
    /// The machine has no bus for an IDE disk.
    Ide,
    /// NUMA cells and memory devices that another tool configured.
    Memory,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvram => "it would lose the variables of its UEFI firmware (NVRAM)",
            Self::Memory => "another tool arranged its memory",
            Self::Ide => "that machine has no IDE bus, and the guest has a disk on it",
            Self::Windows => {
                "a guest with Hyper-V features may not start on another machine, or lose its \
                 activation"
            }
        })
    }
}

/// A changed definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated {
    /// The whole definition.
    pub xml: String,
    /// The losses of the change.
    pub losses: Vec<Loss>,
}

/// The members that Update can change, by their names in a request.
pub const MEMBERS: [&str; 19] = [
    "cpu_model",
    "cpu_topology",
    "max_memory",
    "max_cpu",
    "machine",
    "firmware",
    "tpm",
    "guest_agent",
    "video",
    "on_crash",
    "watchdog",
    "clock",
    "hyperv",
    "cpu_pinning",
    "hugepages",
    "numa",
    "start_order",
    "start_delay",
    "stop_timeout",
];

/// Returns whether a request has any of the [`MEMBERS`] that are stored outside the definition, and take effect at
/// once.
pub fn has_schedule(asked: &Guest) -> bool {
    asked.start_order.or(asked.start_delay_s).or(asked.stop_timeout_s).is_some()
}

/// Returns whether a request has any of the [`MEMBERS`] that change the definition.
pub fn has_machine(asked: &Guest) -> bool {
    let without =
        Guest { start_order: None, start_delay_s: None, stop_timeout_s: None, ..asked.clone() };
    has_members(&without)
}

/// Returns whether a request has any of [`MEMBERS`].
pub fn has_members(asked: &Guest) -> bool {
    let mut with_them = Guest::default();
    take_over(&mut with_them, asked);
    with_them != Guest::default()
}

/// Copies the members that [`updated`] changes into the stored request.
pub fn take_over(stored: &mut Guest, asked: &Guest) {
    let words = [
        (&mut stored.cpu_model, &asked.cpu_model),
        (&mut stored.machine, &asked.machine),
        (&mut stored.firmware, &asked.firmware),
        (&mut stored.video, &asked.video),
        (&mut stored.on_crash, &asked.on_crash),
        (&mut stored.watchdog, &asked.watchdog),
        (&mut stored.clock, &asked.clock),
        (&mut stored.numa, &asked.numa),
    ];
    for (stored, asked) in words {
        if !asked.is_empty() {
            stored.clone_from(asked);
        }
    }
    stored.cpu_topology = asked.cpu_topology.or(stored.cpu_topology);
    stored.guest_agent = asked.guest_agent.or(stored.guest_agent);
    stored.start_order = asked.start_order.or(stored.start_order);
    stored.start_delay_s = asked.start_delay_s.or(stored.start_delay_s);
    stored.stop_timeout_s = asked.stop_timeout_s.or(stored.stop_timeout_s);
    if asked.max_memory_mib > 0 {
        stored.max_memory_mib = asked.max_memory_mib;
    }
    stored.max_cpu = if asked.max_cpu > 0 { asked.max_cpu } else { stored.max_cpu };
    if asked.hugepages_kib > 0 {
        stored.hugepages_kib = asked.hugepages_kib;
    }
    if !asked.cpu_pinning.is_empty() {
        stored.cpu_pinning.clone_from(&asked.cpu_pinning);
    }
    stored.tpm |= asked.tpm;
    stored.hyperv |= asked.hyperv;
}

/// Changes the definition (`virDomainGetXMLDesc`, inactive) to the members of the request; an absent member stays
/// unchanged. `nvram` is the file for the variables of a new UEFI firmware; empty for libvirt's choice.
///
/// # Errors
/// If the text is not the XML of a domain, or a number in it is invalid.
pub fn updated(xml: &str, asked: &Guest, nvram: &str) -> Result<Updated, Error> {
    let mut domain = Element::from_xml(xml, "domain")?;
    let before = read_hardware(&domain)?;
    let mut losses = Vec::new();
    // A member with the requested value stays unchanged, because another tool may have refined it.
    let asked = &without_known(asked, &before);
    if !asked.cpu_model.is_empty() || asked.cpu_topology.is_some() {
        update_cpu(domain.child_mut("cpu"), asked);
    }
    if asked.max_memory_mib > 0 && memory::is_arranged(&domain)? {
        losses.push(Loss::Memory);
    }
    let most = asked.cpu_topology.map_or(asked.max_cpu, CpuTopology::processors);
    if most > 0 {
        update_vcpus(domain.child_mut("vcpu"), most);
        if before.memory_block_kib > 0 {
            // libvirt fills in the processors of the only cell.
            let cell = domain.child_mut("cpu").child_mut("numa").child_mut("cell");
            cell.attributes.retain(|(name, _)| name != "cpus");
        }
    }
    let own = domain.child("os").child("type").attribute("machine").to_owned();
    if !asked.machine.is_empty() && !is_machine(&own, &asked.machine) {
        domain.child_mut("os").child_mut("type").set("machine", &asked.machine);
        if family(&own) != family(&asked.machine) {
            if before.hyperv {
                losses.push(Loss::Windows);
            }
            losses.extend(leave_machine(domain.child_mut("devices"), &asked.machine));
        }
    }
    if !asked.firmware.is_empty() && asked.firmware != before.firmware {
        if before.firmware.starts_with("uefi") {
            losses.push(Loss::Nvram);
        }
        update_firmware(&mut domain, asked, nvram);
    }
    if !asked.clock.is_empty() {
        domain.child_mut("clock").set("offset", &asked.clock);
    }
    if asked.hyperv && !before.hyperv {
        let only = Hardware { hyperv: true, ..Hardware::default() };
        let features = hardware_xml::write_features(&only, false);
        domain.child_mut("features").children.extend(features);
        let timer = Element::new("timer").with("name", "hypervclock").with("present", "yes");
        domain.child_mut("clock").children.push(timer);
    }
    if !asked.on_crash.is_empty() {
        domain.remove("on_crash", |_| true);
        let only = Hardware { on_crash: asked.on_crash.clone(), ..Hardware::default() };
        domain.children.extend(hardware_xml::write_machine(&only, false));
    }
    placement::update(&mut domain, &Hardware::for_guest(asked));
    // After the huge pages, because the block size depends on their size.
    if asked.max_memory_mib > 0 || (asked.hugepages_kib > 0 && before.memory_block_kib > 0) {
        update_memory(&mut domain, asked, before.memory_block_kib)?;
    }
    let is_x86 = is_x86(domain.child("os").child("type").attribute("machine"));
    update_devices(domain.child_mut("devices"), &before, asked, is_x86);
    Ok(Updated { xml: domain.to_xml(), losses })
}

fn update_cpu(cpu: &mut Element, asked: &Guest) {
    let only = Hardware {
        cpu_model: asked.cpu_model.clone(),
        cpu_topology: asked.cpu_topology,
        ..Hardware::default()
    };
    let written = hardware_xml::write_cpu(&only).unwrap_or_default();
    if !asked.cpu_model.is_empty() {
        cpu.attributes.clone_from(&written.attributes);
        for former in ["model", "feature", "vendor"] {
            cpu.remove(former, |_| true);
        }
    }
    if asked.cpu_topology.is_some() {
        cpu.remove("topology", |_| true);
    }
    cpu.children.extend(written.children);
}

/// The profile decides whether a device or the balloon extends the memory, unless the guest has a device already.
fn update_memory(domain: &mut Element, asked: &Guest, block_kib: u64) -> Result<(), Error> {
    let block_kib = match block_kib {
        0 => {
            memory::block_kib(asked, is_x86(domain.child("os").child("type").attribute("machine")))
        }
        own => own,
    };
    let (memory_kib, most_kib) = memory::read(domain)?;
    let most_kib = match asked.max_memory_mib {
        0 => most_kib,
        most => most.saturating_mul(KIB_PER_MIB),
    };
    memory::write(domain, memory_kib, most_kib, block_kib);
    Ok(())
}

fn update_vcpus(vcpus: &mut Element, most: u64) {
    let most_before = vcpus.trimmed().to_owned();
    if vcpus.attribute("current").is_empty() {
        vcpus.set("current", &most_before);
    }
    vcpus.text = most.to_string();
}

/// Returns a machine without its version.
fn family(machine: &str) -> &str {
    match machine {
        "pc" => "pc-i440fx",
        "q35" => "pc-q35",
        exact => {
            let families = ["pc-i440fx", "pc-q35", "virt"];
            families.into_iter().find(|family| exact.starts_with(family)).unwrap_or(exact)
        }
    }
}

/// Returns the request without the members that already have the requested value.
fn without_known(asked: &Guest, before: &Hardware) -> Guest {
    let mut left = asked.clone();
    let words = [
        (&mut left.cpu_model, &before.cpu_model),
        (&mut left.video, &before.video),
        (&mut left.on_crash, &before.on_crash),
        (&mut left.watchdog, &before.watchdog),
        (&mut left.clock, &before.clock),
    ];
    for (asked, own) in words {
        if asked == own {
            asked.clear();
        }
    }
    if left.cpu_topology == before.cpu_topology {
        left.cpu_topology = None;
    }
    left
}

/// Removes the addresses of all devices, which do not exist on another machine: libvirt assigns new ones. Returns the
/// loss, if any.
fn leave_machine(devices: &mut Element, machine: &str) -> Option<Loss> {
    let is_ide = |disk: &Element| disk.child("target").attribute("bus") == "ide";
    if family(machine) != "pc-i440fx" && devices.children_in("", "disk").any(is_ide) {
        return Some(Loss::Ide);
    }
    let is_of_machine = |controller: &Element| {
        ["pci", "ide", "sata", "usb"].contains(&controller.attribute("type"))
    };
    devices.remove("controller", is_of_machine);
    for device in &mut devices.children {
        device.remove("address", |address| address.attribute("type") == "pci");
    }
    if machine.contains("q35") {
        let only = Hardware { ports: devices.children.len() + SPARE_PORTS, ..Hardware::default() };
        devices.children.extend(hardware_xml::write_devices(&only, false));
    }
    None
}

fn update_firmware(domain: &mut Element, asked: &Guest, nvram: &str) {
    let (firmware, nvram) = (asked.firmware.clone(), nvram.to_owned());
    let only = Hardware { firmware, nvram, ..Hardware::default() };
    let os = domain.child_mut("os");
    os.attributes.retain(|(name, _)| name != "firmware");
    for former in ["loader", "nvram", "firmware"] {
        os.remove(former, |_| true);
    }
    *os = hardware_xml::with_firmware(std::mem::take(os), &only);
    let features = domain.child_mut("features");
    features.remove("smm", |_| true);
    features.children.extend(hardware_xml::write_features(&only, false));
}

fn update_devices(devices: &mut Element, before: &Hardware, asked: &Guest, is_x86: bool) {
    let only = Hardware {
        tpm: asked.tpm && !before.tpm,
        guest_agent: asked.guest_agent == Some(true) && !before.guest_agent,
        watchdog: asked.watchdog.clone(),
        on_crash: if before.on_crash.is_empty() { asked.on_crash.clone() } else { String::new() },
        ..Hardware::default()
    };
    if !asked.watchdog.is_empty() {
        devices.remove("watchdog", |it| it.attribute("model") == "i6300esb");
    }
    if asked.guest_agent == Some(false) {
        devices.remove("channel", is_agent_channel);
    }
    if !asked.video.is_empty() && devices.has("video") {
        let model = Element::new("model").with("type", &asked.video);
        devices.child_mut("video").children = vec![model];
    }
    devices.children.extend(hardware_xml::write_devices(&only, is_x86));
}

/// Replaces the request that is stored in a definition.
///
/// # Errors
/// If the text is not the XML of a domain.
pub fn with_request(xml: &str, request: &Guest) -> Result<String, Error> {
    let mut domain = Element::from_xml(xml, "domain")?;
    let json = serde_json::to_string(request).expect("a guest has text keys alone");
    let metadata = domain.child_mut("metadata");
    let mut own = metadata.children.iter_mut();
    if let Some(stored) = own.find(|it| it.namespace == GUEST_NAMESPACE && it.name == "guest") {
        stored.text = json;
    }
    Ok(domain.to_xml())
}

#[cfg(test)]
mod tests;
