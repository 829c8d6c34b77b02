//! Domain XML: writes the definition of a new guest, and reads the XML that libvirt returns.
//!
//! The reader ignores unknown elements, and reads absent ones as empty.

use std::collections::BTreeMap;

use crate::guest::domain::{
    Device, Disk, DiskDriver, DiskSource, DiskTarget, FilterRef, FilterRefParameter, Graphics,
    Interface, InterfaceAlias, InterfaceMac, InterfaceModel, InterfaceSource, InterfaceTarget,
    KIB_PER_MIB, Os, OsBoot, OsType, VirDomain,
};
use crate::guest::hardware::{Hardware, is_x86};
use crate::guest::metadata::{
    Metadata, MetadataDevice, MetadataDisk, OwnedObjects, UserMetadata, UserMetadataParameter,
};
use crate::guest::xml::{Element, Error};
use crate::guest::xml_values::number;
use crate::guest::{DEVICE_NAMESPACE, GUEST_NAMESPACE, GUEST_PREFIX, USER_METADATA_NAMESPACE};
use crate::guest::{hardware_xml, limits, memory, wire};
use crate::sorted::IntoSorted;

/// The listen address of a VNC display on TCP.
const VNC_ADDRESS: &str = "127.0.0.1";

impl VirDomain {
    /// Returns the XML that defines this domain as a new guest (the owner's `DomainXML`). It contains the model and the
    /// parts of every guest: ACPI, a serial console, a balloon, entropy; block devices bypass the host's page cache.
    /// Not for redefining a domain of another tool: parts outside the model would be lost.
    pub fn domain_xml(&self) -> String {
        let mut domain = Element::new("domain").with("type", &self.kind);
        if !self.uuid.is_empty() {
            domain = domain.containing([Element::new("uuid").holding(&self.uuid)]);
        }
        let (memory, unit) = match self.memory_kib % KIB_PER_MIB {
            0 => (self.memory_kib / KIB_PER_MIB, "MiB"),
            _ => (self.memory_kib, "KiB"),
        };
        let amount = Element::new("memory").with("unit", unit).holding(&memory.to_string());
        let (hardware, is_x86) = (&self.hardware, is_x86(&self.os.kind.machine));
        let mut domain = domain
            .containing(write_fw_cfg(&self.fw_cfg))
            .containing([
                Element::new("name").holding(&self.name),
                write_metadata(&self.metadata, &self.uuid),
                amount,
                write_vcpus(self.vcpu, self.vcpu_max),
                hardware_xml::with_firmware(write_os(&self.os), hardware),
                Element::new("features")
                    .containing([Element::new("acpi")])
                    .containing(hardware_xml::write_features(hardware, is_x86)),
            ])
            .containing(hardware_xml::write_machine(hardware, is_x86))
            .containing([write_devices(&self.devices, hardware)
                .containing(hardware_xml::write_devices(hardware, is_x86))]);
        if self.memory_max_kib > 0 {
            let block = hardware.memory_block_kib;
            memory::write(&mut domain, self.memory_kib, self.memory_max_kib, block);
        }
        domain.to_xml()
    }

    /// Reads the XML of a domain (`virDomainGetXMLDesc`).
    ///
    /// # Errors
    /// If the text is not the XML of a domain, or a number in it is invalid.
    pub fn from_xml(xml: &str) -> Result<Self, Error> {
        let domain = Element::from_xml(xml, "domain")?;
        let uuid = domain.child("uuid").trimmed().to_owned();
        let name = domain.child("name").text.clone();
        let metadata = read_metadata(domain.child("metadata"), &name, &uuid);
        let (memory_kib, memory_max_kib) = memory::read(&domain)?;
        let (vcpu, vcpu_max) = read_vcpus(domain.child("vcpu"))?;
        Ok(Self {
            kind: domain.attribute("type").to_owned(),
            uuid,
            name,
            memory_kib,
            memory_max_kib,
            vcpu,
            vcpu_max,
            devices: read_devices(domain.child("devices")),
            os: read_os(domain.child("os")),
            hardware: hardware_xml::read_hardware(&domain)?,
            metadata,
            ..Self::default()
        })
    }
}

/// Writes items of QEMU's fw_cfg (<https://libvirt.org/formatdomain.html#smbios-system-information>), each with its
/// file.
fn write_fw_cfg(items: &[(String, String)]) -> Option<Element> {
    let entry = |(name, file): &(String, String)| {
        Element::new("entry").with("name", name).with("file", file)
    };
    let info = Element::new("sysinfo").with("type", "fwcfg");
    (!items.is_empty()).then(|| info.containing(items.iter().map(entry)))
}

/// Replaces the fw_cfg items with files in `directory` in a definition (`virDomainGetXMLDesc`, inactive). Other items
/// stay.
///
/// # Errors
/// If the text is not the XML of a domain.
pub(crate) fn with_fw_cfg(
    xml: &str,
    directory: &str,
    items: &[(String, String)],
) -> Result<String, Error> {
    let mut domain = Element::from_xml(xml, "domain")?;
    let mut entries = write_fw_cfg(items).unwrap_or_default();
    let is_fw_cfg =
        |element: &&mut Element| element.name == "sysinfo" && element.attribute("type") == "fwcfg";
    match domain.children.iter_mut().find(is_fw_cfg) {
        Some(info) => {
            info.children.retain(|entry| !entry.attribute("file").starts_with(directory));
            info.children.append(&mut entries.children);
        }
        // Another tool has removed all items.
        None => domain.children.push(entries),
    }
    Ok(domain.to_xml())
}

fn write_os(os: &Os) -> Element {
    let kind = Element::new("type")
        .with_nonempty("arch", &os.kind.arch)
        .with_nonempty("machine", &os.kind.machine)
        .holding(&os.kind.kind);
    let boot = Some(&os.boot.device).filter(|device| !device.is_empty());
    let boot = boot.map(|device| Element::new("boot").with("dev", device));
    Element::new("os").containing([kind]).containing(boot)
}

fn read_os(os: &Element) -> Os {
    let kind = os.child("type");
    Os {
        kind: OsType {
            kind: kind.trimmed().to_owned(),
            arch: kind.attribute("arch").to_owned(),
            machine: kind.attribute("machine").to_owned(),
        },
        boot: OsBoot { device: os.child("boot").attribute("dev").to_owned() },
    }
}

fn write_devices(devices: &Device, hardware: &Hardware) -> Element {
    Element::new("devices")
        .containing(devices.disks.iter().map(write_disk))
        .containing(devices.interfaces.iter().map(write_interface))
        .containing([
            Element::new("serial")
                .with("type", "pty")
                .containing([Element::new("target").with("port", "0")])
                .containing(write_console_log(&devices.console_log)),
            Element::new("console")
                .with("type", "pty")
                .containing([Element::new("target").with("type", "serial").with("port", "0")]),
        ])
        .containing(write_graphics(&devices.graphics))
        .containing([
            hardware_xml::write_balloon(hardware),
            Element::new("rng").with("model", "virtio").containing([Element::new("backend")
                .with("model", "random")
                .holding("/dev/urandom")]),
        ])
}

/// Appends to the log: the output of the guest's earlier runs stays in the file.
fn write_console_log(file: &str) -> Option<Element> {
    let log = Element::new("log").with("file", file).with("append", "on");
    (!file.is_empty()).then_some(log)
}

fn read_devices(devices: &Element) -> Device {
    let graphics = devices.child("graphics");
    Device {
        disks: devices.children_in("", "disk").map(read_disk).collect(),
        beside_disks: devices.children_in("", "disk").flat_map(read_beside).collect(),
        interfaces: devices.children_in("", "interface").map(read_interface).collect(),
        graphics: Graphics {
            kind: graphics.attribute("type").to_owned(),
            port: graphics.attribute("port").to_owned(),
            socket: graphics.child("listen").attribute("socket").to_owned(),
            on_socket: graphics.child("listen").attribute("type") == "socket",
            is_private: graphics.child("listen").attribute("type") == "none",
        },
        console_log: devices.child("serial").child("log").attribute("file").to_owned(),
    }
}

pub(super) fn write_source(source: &DiskSource) -> Element {
    Element::new("source").with_nonempty("dev", &source.device).with_nonempty("file", &source.file)
}

fn write_disk(disk: &Disk) -> Element {
    let driver = Element::new("driver")
        .with_nonempty("name", &disk.driver.name)
        .with_nonempty("type", &disk.driver.kind)
        .with_nonempty("cache", &disk.driver.cache)
        .with_nonempty("io", &disk.driver.io)
        .with_nonempty("discard", &disk.driver.discard);
    let source = write_source(&disk.source);
    let target =
        Element::new("target").with("dev", &disk.target.device).with("bus", &disk.target.bus);
    Element::new("disk")
        .with("type", &disk.kind)
        .with("device", &disk.device)
        .containing([driver])
        .containing(Some(source).filter(|source| !source.attributes.is_empty()))
        .containing([target])
        .containing((!disk.serial.is_empty()).then(|| Element::new("serial").holding(&disk.serial)))
        .containing(disk.read_only.then(|| Element::new("readonly")))
        .containing(write_boot_order(disk.boot_order))
        .containing(limits::write_disk(&disk.limits))
}

/// Writes a device's position in the firmware's boot order.
fn write_boot_order(order: u64) -> Option<Element> {
    (order > 0).then(|| Element::new("boot").with("order", &order.to_string()))
}

impl Disk {
    /// Returns the XML that attaches the disk to a domain, or detaches it.
    pub fn disk_xml(&self) -> String {
        write_disk(self).to_xml()
    }
}

impl Interface {
    /// Returns the XML that attaches the interface to a domain, or detaches it.
    pub fn interface_xml(&self) -> String {
        write_interface(self).to_xml()
    }
}

pub(super) fn read_disk(disk: &Element) -> Disk {
    let (driver, source, target) =
        (disk.child("driver"), disk.child("source"), disk.child("target"));
    Disk {
        kind: disk.attribute("type").to_owned(),
        device: disk.attribute("device").to_owned(),
        driver: DiskDriver {
            name: driver.attribute("name").to_owned(),
            kind: driver.attribute("type").to_owned(),
            cache: driver.attribute("cache").to_owned(),
            io: driver.attribute("io").to_owned(),
            discard: driver.attribute("discard").to_owned(),
        },
        source: DiskSource {
            file: source.attribute("file").to_owned(),
            device: source.attribute("dev").to_owned(),
            pool: source.attribute("pool").to_owned(),
            volume: source.attribute("volume").to_owned(),
            backing: read_backing(disk),
        },
        target: DiskTarget {
            device: target.attribute("dev").to_owned(),
            bus: target.attribute("bus").to_owned(),
        },
        serial: disk.child("serial").trimmed().to_owned(),
        read_only: disk.children_in("", "readonly").next().is_some(),
        boot_order: read_boot_order(disk),
        limits: limits::read_disk(disk),
    }
}

/// Reads the disks that a disk uses beside its backing chain.
fn read_beside(disk: &Element) -> Vec<Disk> {
    let copies = disk.children_in("", "mirror");
    let found = copies.chain(disk.child("source").children_in("", "dataStore"));
    let read = |element: &Element| {
        let mut disk = read_disk(element);
        element.child("format").attribute("type").clone_into(&mut disk.driver.kind);
        disk
    };
    found.map(read).collect()
}

/// Reads a device's position in the firmware's boot order; libvirt checks that it is a number.
fn read_boot_order(device: &Element) -> u64 {
    device.child("boot").attribute("order").parse().unwrap_or_default()
}

/// Returns the sources of the nested `<backingStore>` elements.
fn read_backing(disk: &Element) -> Vec<String> {
    let mut found = Vec::new();
    let mut store = disk.child("backingStore");
    loop {
        let source = store.child("source");
        let paths = [source.attribute("dev"), source.attribute("file")];
        let Some(path) = paths.into_iter().find(|path| !path.is_empty()) else { return found };
        found.push(path.to_owned());
        store = store.child("backingStore");
    }
}

fn write_interface(interface: &Interface) -> Element {
    let source = Element::new("source")
        .with_nonempty("network", &interface.source.network)
        .with_nonempty("bridge", &interface.source.bridge)
        .with_nonempty("portgroup", &interface.source.port_group);
    let parameters = interface.filterref.parameters.iter().map(|parameter| {
        Element::new("parameter").with("name", &parameter.name).with("value", &parameter.value)
    });
    let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    // libvirt drops a single queue.
    let queues = if interface.queues == 1 { 0 } else { interface.queues };
    let optional = [
        Element::new("mac").with_nonempty("address", &interface.mac.address),
        Element::new("guest").with_nonempty("dev", &interface.guest_device),
        Element::new("model").with_nonempty("type", &interface.model.kind),
        Element::new("driver").with_nonempty("queues", &number(queues)),
        Element::new("mtu").with_nonempty("size", &number(interface.mtu)),
        Element::new("boot").with_nonempty("order", &number(interface.boot_order)),
        Element::new("filterref")
            .with_nonempty("filter", &interface.filterref.filter)
            .containing(parameters),
        Element::new("target").with_nonempty("dev", &interface.target.device),
        Element::new("alias").with_nonempty("name", &interface.alias.name),
    ];
    Element::new("interface")
        .with("type", &interface.kind)
        .containing([source])
        .containing(optional.into_iter().filter(|element| !element.attributes.is_empty()))
        .containing(limits::write_nic(&interface.limits))
}

pub(super) fn read_interface(interface: &Element) -> Interface {
    let (source, filter) = (interface.child("source"), interface.child("filterref"));
    let parameters = filter.children_in("", "parameter").map(|parameter| FilterRefParameter {
        name: parameter.attribute("name").to_owned(),
        value: parameter.attribute("value").to_owned(),
    });
    Interface {
        kind: interface.attribute("type").to_owned(),
        source: InterfaceSource {
            network: source.attribute("network").to_owned(),
            bridge: source.attribute("bridge").to_owned(),
            port_group: source.attribute("portgroup").to_owned(),
        },
        mac: InterfaceMac { address: interface.child("mac").attribute("address").to_owned() },
        model: InterfaceModel { kind: interface.child("model").attribute("type").to_owned() },
        filterref: FilterRef {
            filter: filter.attribute("filter").to_owned(),
            parameters: parameters.collect(),
        },
        target: InterfaceTarget { device: interface.child("target").attribute("dev").to_owned() },
        alias: InterfaceAlias { name: interface.child("alias").attribute("name").to_owned() },
        guest_device: interface.child("guest").attribute("dev").to_owned(),
        queues: interface.child("driver").attribute("queues").parse().unwrap_or_default(),
        mtu: interface.child("mtu").attribute("size").parse().unwrap_or_default(),
        boot_order: read_boot_order(interface),
        limits: limits::read_nic(interface),
    }
}

fn write_graphics(graphics: &Graphics) -> Option<Element> {
    if graphics.kind.is_empty() {
        return None;
    }
    let display = Element::new("graphics").with("type", &graphics.kind);
    let listener = match (graphics.on_socket, graphics.is_private) {
        (true, _) => Some("socket"),
        (false, true) => Some("none"),
        (false, false) => None,
    };
    if let Some(kind) = listener {
        return Some(display.containing([Element::new("listen").with("type", kind)]));
    }
    let chosen_by_libvirt = if graphics.port == "-1" { "yes" } else { "no" };
    Some(
        display
            .with_nonempty("port", &graphics.port)
            .with("autoport", chosen_by_libvirt)
            .with("listen", VNC_ADDRESS),
    )
}

fn write_user_metadata(metadata: &UserMetadata) -> Element {
    let parameters = metadata.parameters.iter().map(|parameter| {
        Element::new("parameter").with("name", &parameter.name).with("value", &parameter.value)
    });
    Element::new("user_metadata").containing(parameters)
}

fn write_metadata(metadata: &Metadata, uuid: &str) -> Element {
    let lists = [
        write_user_metadata(&metadata.user_metadata).with("xmlns", USER_METADATA_NAMESPACE),
        write_device(&metadata.device).with("xmlns", DEVICE_NAMESPACE),
    ];
    let guest = metadata.guest.as_ref().map(|_| {
        let element = metadata.stored(&format!("{GUEST_PREFIX}:guest"), uuid);
        element.with(&format!("xmlns:{GUEST_PREFIX}"), GUEST_NAMESPACE)
    });
    Element::new("metadata")
        .containing(lists.into_iter().filter(|list| !list.children.is_empty()))
        .containing(guest)
}

fn write_device(device: &MetadataDevice) -> Element {
    let disks = device.disks.iter().map(|disk| {
        Element::new("disk")
            .with("device", &disk.device)
            .with("image", &disk.image)
            .with("volume", &disk.volume)
    });
    Element::new("device").containing(disks)
}

impl Metadata {
    /// Returns the element that stores the request and the guest's other objects, for `virDomainSetMetadata`. It has no
    /// namespace, because libvirt adds [`GUEST_PREFIX`] and [`GUEST_NAMESPACE`]. `uuid` is the domain's.
    pub fn guest_element(&self, uuid: &str) -> String {
        self.stored("guest", uuid).to_xml()
    }

    /// Returns the element of the disks' metadata, for the same call.
    pub fn device_element(&self) -> String {
        write_device(&self.device).to_xml()
    }

    fn stored(&self, name: &str, uuid: &str) -> Element {
        let json = self.guest.as_ref().map(serde_json::to_string).transpose();
        let json = json.expect("a guest has text keys alone").unwrap_or_default();
        let networks: Vec<&str> = self.besides.networks.iter().map(String::as_str).collect();
        Element::new(name)
            .with_nonempty("domain", uuid)
            .with_nonempty("profile", &self.profile)
            .with_nonempty("volumes", if self.besides.volumes { "yes" } else { "" })
            .with_nonempty("networks", &networks.join(" "))
            .with_nonempty("instance", &self.besides.instance)
            .holding(&json)
    }

    /// Returns the element that stores a caller's metadata, for the same call.
    pub fn user_element(metadata: &BTreeMap<String, String>) -> String {
        write_user_metadata(&UserMetadata::from(metadata)).to_xml()
    }
}

/// Reads the metadata that this agent stored with the domain of this name and uuid.
///
/// virt-clone copies the metadata of another domain: then its uuid differs from this domain's, and the metadata is
/// ignored. Former agents stored no uuid: then the id in the request must equal the name.
fn read_metadata(metadata: &Element, name: &str, uuid: &str) -> Metadata {
    let stored = metadata.child_in(GUEST_NAMESPACE, "guest");
    let request = stored_request(stored);
    if !is_own(stored, request.as_ref(), name, uuid) {
        return Metadata::default();
    }
    let device = metadata.child_in(DEVICE_NAMESPACE, "device");
    let disks = device.children_in(DEVICE_NAMESPACE, "disk").map(|disk| MetadataDisk {
        device: disk.attribute("device").to_owned(),
        image: disk.attribute("image").to_owned(),
        volume: disk.attribute("volume").to_owned(),
    });
    let user = metadata.child_in(USER_METADATA_NAMESPACE, "user_metadata");
    let parameters = user.children_in(USER_METADATA_NAMESPACE, "parameter").map(|parameter| {
        UserMetadataParameter {
            name: parameter.attribute("name").to_owned(),
            value: parameter.attribute("value").to_owned(),
        }
    });
    let networks = stored.attribute("networks").split_whitespace().map(str::to_owned);
    let device = MetadataDevice { disks: disks.collect() };
    Metadata {
        profile: stored.attribute("profile").to_owned(),
        guest: request.map(|request| under_name(request, name, &device)),
        device,
        user_metadata: UserMetadata { parameters: parameters.collect() },
        besides: OwnedObjects {
            volumes: stored.attribute("volumes") == "yes",
            networks: networks.into_set(),
            instance: stored.attribute("instance").to_owned(),
        },
    }
}

/// Returns the stored request; `None` if somebody has made it unreadable.
fn stored_request(stored: &Element) -> Option<wire::Guest> {
    serde_json::from_str(&stored.text).ok()
}

fn is_own(stored: &Element, request: Option<&wire::Guest>, name: &str, uuid: &str) -> bool {
    match stored.attribute("domain") {
        "" => request.is_none_or(|request| request.id == name),
        owner => owner == uuid,
    }
}

/// Returns whether a domain carries the metadata of another domain.
///
/// # Errors
/// If the text is not the XML of a domain.
pub(crate) fn is_of_another(xml: &str) -> Result<bool, Error> {
    let domain = Element::from_xml(xml, "domain")?;
    let (name, uuid) = (&domain.child("name").text, domain.child("uuid").trimmed());
    let stored = domain.child("metadata").child_in(GUEST_NAMESPACE, "guest");
    Ok(!is_own(stored, stored_request(stored).as_ref(), name, uuid))
}

/// Returns the disk sources of the request that is stored with a domain, even if it is another domain's request: the
/// caller made these disks, and destroys them. Empty if the XML cannot be read.
pub(crate) fn handed_in_sources(xml: &str) -> Vec<String> {
    let Ok(domain) = Element::from_xml(xml, "domain") else { return Vec::new() };
    let request = stored_request(domain.child("metadata").child_in(GUEST_NAMESPACE, "guest"));
    let disks = request.into_iter().flat_map(|request| request.disks);
    disks.map(|disk| disk.source).filter(|source| !source.is_empty()).collect()
}

/// Adapts the request to a domain that may have been renamed since (`virsh domrename`). Its volumes keep the names from
/// the former id.
fn under_name(mut request: wire::Guest, name: &str, device: &MetadataDevice) -> wire::Guest {
    if request.id == name {
        return request;
    }
    name.clone_into(&mut request.id);
    for disk in request.disks.iter_mut().filter(|disk| disk.source.is_empty()) {
        if let Some(known) = device.disks.iter().find(|known| known.device == disk.device) {
            known.volume.clone_into(&mut disk.volume);
        }
    }
    request
}

fn write_vcpus(count: u64, most: u64) -> Element {
    let vcpus = Element::new("vcpu");
    match most {
        0 => vcpus.holding(&count.to_string()),
        most => vcpus.with("current", &count.to_string()).holding(&most.to_string()),
    }
}

/// Reads the number of virtual CPUs, and the maximum, which is 0 if equal.
fn read_vcpus(vcpus: &Element) -> Result<(u64, u64), Error> {
    let most = number("vcpu", vcpus.trimmed())?;
    match number("vcpu current", vcpus.attribute("current"))? {
        0 => Ok((most, 0)),
        count if count == most => Ok((most, 0)),
        count => Ok((count, most)),
    }
}
