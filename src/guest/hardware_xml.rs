//! The XML of a machine's parts, see <https://libvirt.org/formatdomain.html>.

use crate::guest::hardware::{BIOS, Hardware};
use crate::guest::wire::CpuTopology;
use crate::guest::xml::{Element, Error};
use crate::guest::{memory, placement};

/// The name of the guest agent's channel, which qemu-ga opens.
pub(super) const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";
/// The model of SCSI controllers with a driver in cloud kernels.
const VIRTIO_SCSI: &str = "virtio-scsi";
/// CPU settings that are modes, not models.
const CPU_MODES: [&str; 3] = ["host-model", "host-passthrough", "maximum"];
/// Actions on a crash, in the API and in libvirt.
const ON_CRASH: [(&str, &str); 3] =
    [("stop", "destroy"), ("restart", "restart"), ("preserve", "preserve")];
/// Actions of an expired watchdog, in the API and in libvirt.
const WATCHDOG: [(&str, &str); 3] =
    [("reset", "reset"), ("poweroff", "poweroff"), ("event", "none")];
/// How often a guest with Hyper-V interfaces tries a lock before it notifies the host: Microsoft's recommendation.
const SPINLOCK_RETRIES: &str = "8191";

/// Writes the parts of `<domain>` between those that every guest has and the devices.
pub(super) fn write_machine(hardware: &Hardware, is_x86: bool) -> Vec<Element> {
    let mut parts = Vec::new();
    parts.extend(placement::write(hardware));
    parts.extend(write_cpu(hardware));
    parts.extend(write_clock(hardware, is_x86));
    if hardware.generation_id {
        parts.push(Element::new("genid"));
    }
    let action = libvirt_word(&ON_CRASH, &hardware.on_crash);
    parts.extend(action.map(|action| Element::new("on_crash").holding(action)));
    parts
}

/// Adds firmware that libvirt selects to `<os>`.
pub(super) fn with_firmware(os: Element, hardware: &Hardware) -> Element {
    let is_secure = match hardware.firmware.as_str() {
        "uefi" => false,
        "uefi-secure" => true,
        _ => return os,
    };
    let feature = |name: &str, enabled: bool| {
        let enabled = if enabled { "yes" } else { "no" };
        Element::new("feature").with("enabled", enabled).with("name", name)
    };
    // Without these, libvirt selects the first build that fits: Debian's with Secure Boot, which boots no unsigned
    // system.
    let features = [feature("enrolled-keys", is_secure), feature("secure-boot", is_secure)];
    let nvram = Some(&hardware.nvram).filter(|nvram| !nvram.is_empty());
    os.with("firmware", "efi")
        .containing([Element::new("firmware").containing(features)])
        .containing(nvram.map(|nvram| Element::new("nvram").holding(nvram)))
}

/// Writes the children of `<features>` other than ACPI.
pub(super) fn write_features(hardware: &Hardware, is_x86: bool) -> Vec<Element> {
    let mut features = Vec::new();
    if is_x86 && hardware.generation_id {
        features.push(Element::new("apic"));
    }
    if hardware.hyperv {
        let on = |name: &str| Element::new(name).with("state", "on");
        features.push(Element::new("hyperv").containing([
            on("relaxed"),
            on("vapic"),
            on("spinlocks").with("retries", SPINLOCK_RETRIES),
            on("vpindex"),
            on("runtime"),
            on("synic"),
            on("stimer"),
            on("reset"),
            on("frequencies"),
        ]));
    }
    if hardware.firmware == "uefi-secure" {
        features.push(Element::new("smm").with("state", "on"));
    }
    features
}

/// Writes the devices beyond the owner's model.
pub(super) fn write_devices(hardware: &Hardware, is_x86: bool) -> Vec<Element> {
    let mut devices = Vec::new();
    if hardware.ports > 0 {
        let bus = |model: &str| Element::new("controller").with("type", "pci").with("model", model);
        devices.push(bus("pcie-root").with("index", "0"));
        devices.extend((0..hardware.ports).map(|_| bus("pcie-root-port")));
    }
    for index in 0..hardware.scsi {
        let controller = Element::new("controller").with("type", "scsi");
        let controller = controller.with("index", &index.to_string());
        devices.push(controller.with("model", VIRTIO_SCSI));
    }
    if hardware.guest_agent {
        let target = Element::new("target").with("type", "virtio").with("name", AGENT_CHANNEL);
        devices.push(Element::new("channel").with("type", "unix").containing([target]));
    }
    if hardware.tpm {
        let backend = Element::new("backend").with("type", "emulator").with("version", "2.0");
        let model = if is_x86 { "tpm-crb" } else { "tpm-tis" };
        devices.push(Element::new("tpm").with("model", model).containing([backend]));
    }
    if !hardware.video.is_empty() {
        let model = Element::new("model").with("type", &hardware.video);
        devices.push(Element::new("video").containing([model]));
    }
    if !hardware.tablet.is_empty() {
        devices.push(Element::new("input").with("type", "tablet").with("bus", &hardware.tablet));
    }
    if let Some(action) = libvirt_word(&WATCHDOG, &hardware.watchdog) {
        let watchdog = Element::new("watchdog").with("model", "i6300esb");
        devices.push(watchdog.with("action", action));
    }
    if is_x86 && !hardware.on_crash.is_empty() {
        devices.push(Element::new("panic").with("model", "isa"));
    }
    devices
}

/// Writes the balloon, which every guest has.
pub(super) fn write_balloon(hardware: &Hardware) -> Element {
    let reporting = if hardware.free_page_reporting { "on" } else { "" };
    let balloon = Element::new("memballoon")
        .with("model", "virtio")
        .with_nonempty("freePageReporting", reporting);
    match hardware.balloon_period_s {
        0 => balloon,
        seconds => balloon.containing([Element::new("stats").with("period", &seconds.to_string())]),
    }
}

/// Reads the hardware from a domain's XML.
///
/// # Errors
/// If a number in the XML is invalid.
pub(super) fn read_hardware(domain: &Element) -> Result<Hardware, Error> {
    let (os, devices) = (domain.child("os"), domain.child("devices"));
    let (features, balloon) = (domain.child("features"), devices.child("memballoon"));
    let controllers = devices.children_in("", "controller");
    let mut channels = devices.children_in("", "channel");
    let tablet = devices.children_in("", "input").find(|it| it.attribute("type") == "tablet");
    let ports = devices.children_in("", "controller");
    let panic = devices.has("panic");
    let on_crash = if panic { domain.child("on_crash").trimmed() } else { "" };
    let mut hardware = Hardware {
        cpu_model: read_cpu_model(domain.child("cpu")),
        cpu_topology: read_topology(domain.child("cpu").child("topology"))?,
        firmware: read_firmware(os).to_owned(),
        nvram: os.child("nvram").trimmed().to_owned(),
        tpm: devices.has("tpm"),
        guest_agent: channels.any(is_agent_channel),
        video: devices.child("video").child("model").attribute("type").to_owned(),
        tablet: tablet.map(|it| it.attribute("bus").to_owned()).unwrap_or_default(),
        on_crash: api_word(&ON_CRASH, on_crash),
        watchdog: read_watchdog(devices),
        clock: domain.child("clock").attribute("offset").to_owned(),
        hyperv: features.has("hyperv"),
        generation_id: domain.has("genid"),
        balloon_period_s: super::xml_values::number(
            "stats period",
            balloon.child("stats").attribute("period"),
        )?,
        free_page_reporting: balloon.attribute("freePageReporting") == "on",
        memory_block_kib: memory::read_block(domain)?,
        ports: ports.filter(|it| it.attribute("model") == "pcie-root-port").count(),
        scsi: controllers.filter(|it| it.attribute("model") == VIRTIO_SCSI).count(),
        is_expanded: is_expanded(domain.child("cpu")),
        ..Hardware::default()
    };
    placement::read(domain, &mut hardware)?;
    Ok(hardware)
}

/// Returns whether a `<channel>` is the one of the guest agent.
pub(super) fn is_agent_channel(channel: &Element) -> bool {
    channel.child("target").attribute("name") == AGENT_CHANNEL
}

pub(super) fn write_cpu(hardware: &Hardware) -> Option<Element> {
    let model = hardware.cpu_model.as_str();
    if model.is_empty() && hardware.cpu_topology.is_none() {
        return None;
    }
    let cpu = Element::new("cpu");
    let cpu = match model {
        "" => cpu,
        mode if CPU_MODES.contains(&mode) => cpu.with("mode", mode),
        name => {
            let model = Element::new("model").with("fallback", "forbid").holding(name);
            cpu.with("mode", "custom").with("match", "exact").containing([model])
        }
    };
    Some(cpu.containing(hardware.cpu_topology.map(|it| {
        Element::new("topology")
            .with("sockets", &it.sockets.to_string())
            .with("cores", &it.cores.to_string())
            .with("threads", &it.threads.to_string())
    })))
}

/// Returns whether libvirt has expanded the CPU model. It expands `host-model` when a guest starts, and adds the
/// vendor. A named model has no vendor, though it may have features.
fn is_expanded(cpu: &Element) -> bool {
    cpu.attribute("mode") == "custom" && cpu.has("vendor")
}

fn read_cpu_model(cpu: &Element) -> String {
    match cpu.attribute("mode") {
        "" | "custom" => cpu.child("model").trimmed().to_owned(),
        mode => mode.to_owned(),
    }
}

fn read_topology(topology: &Element) -> Result<Option<CpuTopology>, Error> {
    let count = |name| super::xml_values::number(name, topology.attribute(name));
    let found = CpuTopology {
        sockets: count("sockets")?,
        cores: count("cores")?,
        threads: count("threads")?,
    };
    Ok((found.sockets > 0).then_some(found))
}

/// Reads the firmware; `bios` if no loader is set.
fn read_firmware(os: &Element) -> &'static str {
    let loader = os.child("loader");
    let mut features = os.child("firmware").children_in("", "feature");
    let is_enabled = features.any(|feature| {
        feature.attribute("name") == "secure-boot" && feature.attribute("enabled") == "yes"
    });
    if os.attribute("firmware") != "efi" && loader.attribute("type") != "pflash" {
        return if os.child("type").trimmed() == "hvm" { BIOS } else { "" };
    }
    if is_enabled || loader.attribute("secure") == "yes" { "uefi-secure" } else { "uefi" }
}

fn read_watchdog(devices: &Element) -> String {
    // q35 has a second watchdog of its own, which libvirt 9.1 and later also list.
    let mut watchdogs = devices.children_in("", "watchdog");
    let own = watchdogs.find(|watchdog| watchdog.attribute("model") == "i6300esb");
    api_word(&WATCHDOG, own.map_or("", |watchdog| watchdog.attribute("action")))
}

fn write_clock(hardware: &Hardware, is_x86: bool) -> Option<Element> {
    if hardware.clock.is_empty() && !hardware.hyperv {
        return None;
    }
    let offset = if hardware.clock.is_empty() { "utc" } else { &hardware.clock };
    let timer = |name: &str| Element::new("timer").with("name", name);
    let mut timers = Vec::new();
    if is_x86 {
        timers.push(timer("rtc").with("tickpolicy", "catchup"));
        timers.push(timer("pit").with("tickpolicy", "delay"));
        timers.push(timer("hpet").with("present", "no"));
    }
    if hardware.hyperv {
        timers.push(timer("hypervclock").with("present", "yes"));
    }
    Some(Element::new("clock").with("offset", offset).containing(timers))
}

/// Returns libvirt's word for a word of the API.
fn libvirt_word(words: &[(&str, &'static str)], own: &str) -> Option<&'static str> {
    words.iter().find(|(word, _)| *word == own).map(|(_, libvirts)| *libvirts)
}

/// Returns the API's word for a word of libvirt; libvirt's own if the API has none.
fn api_word(words: &[(&'static str, &str)], libvirts: &str) -> String {
    let found = words.iter().find(|(_, word)| *word == libvirts);
    found.map_or(libvirts, |(own, _)| own).to_owned()
}
