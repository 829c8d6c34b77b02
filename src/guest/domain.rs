//! The domain model of the project's owner: the parts of libvirt's domain XML that the agent uses.
//!
//! Type names, JSON member names and the rules for omitted members are the owner's. A list that Go writes as `null`
//! when it is empty is written so here too. Members beyond the owner's model are marked as such; JSON omits them when
//! they are empty. Module `domain_xml` reads and writes the XML.

use serde::Serialize;

use crate::config::{HostConfig, VncListen};
use crate::guest::hardware::Hardware;
use crate::guest::limits::{Limits, limited};
use crate::guest::metadata::{Metadata, null_when_empty};
use crate::guest::paths::console_log;
use crate::guest::wire::agent::Address;
use crate::guest::wire::{self, CDROM};

/// Converts the wire's MiB to KiB, libvirt's unit of memory.
pub(crate) const KIB_PER_MIB: u64 = 1024;
/// The format of a disk whose source is its raw content.
pub(crate) const RAW: &str = "raw";
/// The port group of a NIC's network that carries its VLAN tags (contract section 5.2).
pub const PORT_GROUP: &str = "vlan-all";

/// A domain, see <https://libvirt.org/formatdomain.html>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VirDomain {
    /// Hypervisor, for example `kvm`.
    #[serde(rename = "type")]
    pub kind: String,
    /// libvirt's own identifier; empty before libvirt has assigned one.
    pub uuid: String,
    /// Name: the id of the guest.
    pub name: String,
    /// Memory in KiB, current or at the next start.
    #[serde(rename = "memory")]
    pub memory_kib: u64,
    /// Maximum memory in KiB; 0 if equal to `memory`. Beyond the owner's model.
    #[serde(rename = "memory_max", skip_serializing_if = "wire::is_zero")]
    pub memory_max_kib: u64,
    /// Number of virtual CPUs, current or at the next start.
    pub vcpu: u64,
    /// Maximum number of virtual CPUs; 0 if equal to `vcpu`. Beyond the owner's model.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub vcpu_max: u64,
    /// Devices.
    pub devices: Device,
    /// Boot settings.
    pub os: Os,
    /// Other parts of the machine. Beyond the owner's model.
    #[serde(skip_serializing_if = "Hardware::is_none")]
    pub hardware: Hardware,
    /// Name of the state. Not in the XML: the caller that queries libvirt sets it.
    pub state: String,
    /// Reason of an unrequested state. Set with the state; beyond the owner's model, like all fields below but `metadata`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether libvirt starts it when the host starts. Not in the XML either.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub autostart: bool,
    /// The guest's member of this name, from the stored request. Describe sets it, like the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_order: Option<u64>,
    /// The guest's member of this name, in seconds.
    #[serde(rename = "start_delay", skip_serializing_if = "Option::is_none")]
    pub start_delay_s: Option<u64>,
    /// The guest's member of this name, in seconds.
    #[serde(rename = "stop_timeout", skip_serializing_if = "Option::is_none")]
    pub stop_timeout_s: Option<u64>,
    /// The guest's members in which the definition differs from the running domain. Not in the XML either.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// Items of QEMU's fw_cfg: the name of each, and the file with its value. Written only, never read; beyond the
    /// owner's model.
    #[serde(skip)]
    pub fw_cfg: Vec<(String, String)>,
    /// Last known addresses, those beyond the local link first. Not in the XML either.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// The metadata that this agent stores with the domain.
    #[serde(rename = "Metadata")]
    pub metadata: Metadata,
}

/// A domain's devices, see <https://libvirt.org/formatdomain.html#devices>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Disks, in libvirt's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Disks beside the backing chain: targets of block copies, and external data files of qcow2 files. Beyond the
    /// owner's model.
    #[serde(skip)]
    pub beside_disks: Vec<Disk>,
    /// Network interfaces, in libvirt's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The first graphical display.
    pub graphics: Graphics,
    /// The log file of the first serial console; empty for none. Beyond the owner's model.
    #[serde(skip)]
    pub console_log: String,
}

/// A disk, see <https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Type of the source, for example `block` or `file`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Device type in the guest: `disk`, `cdrom`, `floppy`.
    pub device: String,
    /// Driver settings of qemu.
    pub driver: DiskDriver,
    /// Source on the host.
    pub source: DiskSource,
    /// Target in the guest.
    pub target: DiskTarget,
    /// Serial number that the guest sees; empty for none. Beyond the owner's model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Whether the disk is read-only. Beyond the owner's model.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub read_only: bool,
    /// Position in the firmware's boot order, from 1; 0 for none. Beyond the owner's model.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub boot_order: u64,
    /// Limits of its throughput. Beyond the owner's model.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// Driver settings of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskDriver {
    /// `qemu`.
    pub name: String,
    /// Format, for example `raw`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Cache mode on the host; empty for qemu's default. Beyond the owner's model, like the next fields.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cache: String,
    /// I/O mode of qemu; empty for its default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub io: String,
    /// `unmap` if the host frees space that the guest frees.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub discard: String,
}

/// The source of a disk on the host: one of two paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskSource {
    /// Path of a regular file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Path of a block device.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// The libvirt storage pool, if the source is a volume; empty for none. Beyond the owner's model, like the next
    /// fields.
    #[serde(skip)]
    pub pool: String,
    /// The name of the volume in the pool.
    #[serde(skip)]
    pub volume: String,
    /// Paths of the backing files, the nearest first, if libvirt names them.
    #[serde(skip)]
    pub backing: Vec<String>,
}

impl DiskSource {
    /// Returns the path of either kind; empty if the disk has no path.
    pub fn path(&self) -> &str {
        if self.device.is_empty() { &self.file } else { &self.device }
    }
}

/// The target of a disk in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskTarget {
    /// Device name, for example `vda`.
    pub device: String,
    /// Bus, for example `virtio`.
    pub bus: String,
}

/// A network interface, see <https://libvirt.org/formatdomain.html#network-interfaces>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Type of the source, for example `network`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Network or bridge.
    pub source: InterfaceSource,
    /// MAC address.
    pub mac: InterfaceMac,
    /// Device model in the guest.
    pub model: InterfaceModel,
    /// Its packet filter.
    pub filterref: FilterRef,
    /// The device on the host while the domain runs.
    pub target: InterfaceTarget,
    /// libvirt's alias while the domain runs.
    pub alias: InterfaceAlias,
    /// The device name in the guest (`<guest dev>`). Beyond the owner's model.
    #[serde(skip)]
    pub guest_device: String,
    /// Number of queue pairs; 0 for one. Beyond the owner's model, like the next fields.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub queues: u64,
    /// Maximum transmission unit in bytes; 0 for the network's.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub mtu: u64,
    /// Position in the firmware's boot order, from 1; 0 for none.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub boot_order: u64,
    /// Limits of its throughput.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// The network or bridge of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceSource {
    /// Name of a libvirt network.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// Name of a bridge.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bridge: String,
    /// Port group of the network. Beyond the owner's model.
    #[serde(skip)]
    pub port_group: String,
}

/// An interface's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceMac {
    /// MAC address; libvirt writes it in lower case.
    pub address: String,
}

/// The device model of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceModel {
    /// Model, for example `virtio`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
}

/// A packet filter, see <https://libvirt.org/formatnwfilter.html>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilterRef {
    /// Name of the filter; empty for none.
    pub filter: String,
    /// Parameters of the filter.
    #[serde(serialize_with = "null_when_empty")]
    pub parameters: Vec<FilterRefParameter>,
}

/// A parameter of a packet filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilterRefParameter {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// The device of an interface on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceTarget {
    /// Device name, for example `vnet0`; empty while the domain is off.
    pub device: String,
}

/// libvirt's alias of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceAlias {
    /// For example `net0`; empty while the domain is off.
    pub name: String,
}

/// A graphical display, see <https://libvirt.org/formatdomain.html#graphical-framebuffers>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Graphics {
    /// Protocol, for example `vnc`; empty for no display.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// TCP port; -1 until libvirt chooses one; empty for a display on a socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port: String,
    /// The Unix socket of the display while the domain runs. Beyond the owner's model, like the next fields.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket: String,
    /// Whether it listens on a Unix socket that libvirt chooses.
    #[serde(skip)]
    pub on_socket: bool,
    /// Whether it has no listener.
    #[serde(skip)]
    pub is_private: bool,
}

/// Boot settings, see <https://libvirt.org/formatdomain.html#operating-system-booting>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Os {
    /// Kind of virtual machine.
    #[serde(rename = "type")]
    pub kind: OsType,
    /// First boot device.
    pub boot: OsBoot,
}

/// Kind of virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OsType {
    /// `hvm` for full virtualisation.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// CPU architecture, for example `x86_64`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// Machine, for example `pc-i440fx-7.2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub machine: String,
}

/// Boot device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OsBoot {
    /// `hd`, `network`, `cdrom`, `fd`.
    #[serde(rename = "dev", skip_serializing_if = "String::is_empty")]
    pub device: String,
}

/// The type of a disk's `source`. The caller determines it, because this module does no I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A block device, or a path that does not exist yet.
    Block,
    /// A regular file.
    File,
}

impl VirDomain {
    /// Builds the domain that `guest` requests on this host. `sources` has the type of each disk's source, in order; a
    /// missing entry means a block device.
    pub fn for_guest(guest: &wire::Guest, host: &HostConfig, sources: &[SourceKind]) -> Self {
        let sources = sources.iter().copied().chain(std::iter::repeat(SourceKind::Block));
        let most = match guest.cpu_topology {
            Some(topology) if guest.max_cpu == 0 => topology.processors(),
            _ => guest.max_cpu,
        };
        let most_memory =
            if guest.max_memory_mib > guest.memory_mib { guest.max_memory_mib } else { 0 };
        Self {
            kind: guest.kind.clone(),
            name: guest.id.clone(),
            // Saturated, so that libvirt refuses an amount that is too large, instead of an overflow here.
            memory_kib: guest.memory_mib.saturating_mul(KIB_PER_MIB),
            memory_max_kib: most_memory.saturating_mul(KIB_PER_MIB),
            vcpu: guest.cpu,
            vcpu_max: Some(most).filter(|most| *most > guest.cpu).unwrap_or_default(),
            devices: Device {
                disks: guest
                    .disks
                    .iter()
                    .zip(sources)
                    .map(|(d, s)| Disk::for_guest(d, s))
                    .collect(),
                beside_disks: Vec::new(),
                interfaces: guest.nics.iter().map(|nic| Interface::for_nic(nic, host)).collect(),
                graphics: Graphics::for_guest(guest, host.vnc),
                console_log: console_log(&guest.id, host).unwrap_or_default(),
            },
            os: Os {
                kind: OsType {
                    kind: "hvm".into(),
                    machine: guest.machine.clone(),
                    ..OsType::default()
                },
                ..Os::default()
            },
            hardware: Hardware::for_guest(guest),
            metadata: Metadata::for_guest(guest),
            ..Self::default()
        }
    }

    /// Returns the maximum memory in KiB without a restart.
    pub fn most_memory_kib(&self) -> u64 {
        self.memory_max_kib.max(self.memory_kib)
    }

    /// Returns the disk with this target, such as `vda`.
    pub fn disk_by_device(&self, device: &str) -> Option<&Disk> {
        self.devices.disks.iter().find(|disk| disk.target.device == device)
    }

    /// Returns the interface with this MAC address, in upper or lower case; `None` for an empty address.
    pub fn interface_by_mac(&self, mac: &str) -> Option<&Interface> {
        let mut interfaces = self.devices.interfaces.iter();
        interfaces
            .find(|interface| !mac.is_empty() && interface.mac.address.eq_ignore_ascii_case(mac))
    }
}

impl Disk {
    /// Returns whether the source has no path here though it is on this host: a volume of a libvirt pool, or a
    /// directory that the guest sees as a file system.
    pub fn is_unnamed(&self) -> bool {
        matches!(self.kind.as_str(), "volume" | "dir")
    }

    /// Builds the disk that a guest requests, with a source of this type.
    ///
    /// A block device bypasses the host's page cache by default; the contract (section 5.1) sets no `cache`. From the
    /// page cache, the kernel writes later: if the pool is full by then, the write is lost and qemu does not notice.
    /// Without the page cache, qemu gets the error of the full pool itself and pauses the guest. ZFS has its own cache,
    /// so this also avoids caching data twice. A regular file may be on a file system without support for this (tmpfs),
    /// so its default stays.
    pub fn for_guest(disk: &wire::GuestDisk, source: SourceKind) -> Self {
        let path = disk.source.clone();
        let cache = match (disk.cache.as_str(), source) {
            ("", SourceKind::Block) => "none",
            (cache, _) => cache,
        };
        let (kind, source) = match source {
            SourceKind::Block => ("block", DiskSource { device: path, ..DiskSource::default() }),
            SourceKind::File => ("file", DiskSource { file: path, ..DiskSource::default() }),
        };
        Self {
            kind: kind.into(),
            device: if disk.is_cdrom() { CDROM } else { "disk" }.into(),
            driver: DiskDriver {
                name: "qemu".into(),
                kind: if disk.format.is_empty() { RAW } else { &disk.format }.into(),
                cache: cache.to_owned(),
                io: disk.io.clone(),
                discard: disk.discard.clone(),
            },
            source,
            target: DiskTarget { device: disk.device.clone(), bus: disk.bus.clone() },
            serial: disk.serial.clone(),
            read_only: disk.read_only || disk.is_cdrom(),
            boot_order: disk.boot_order,
            limits: limited(disk.limits.as_ref()),
        }
    }
}

impl Interface {
    /// Builds the interface that a guest's NIC requests on this host.
    pub fn for_nic(nic: &wire::Nic, host: &HostConfig) -> Self {
        Self {
            kind: "network".into(),
            source: InterfaceSource {
                network: nic.mac.clone(),
                port_group: PORT_GROUP.into(),
                ..InterfaceSource::default()
            },
            mac: InterfaceMac { address: nic.mac.clone() },
            model: InterfaceModel { kind: nic.model.clone() },
            filterref: host
                .nwfilter
                .as_deref()
                .map_or_else(FilterRef::default, |filter| FilterRef::for_nic(nic, filter)),
            guest_device: nic.name.clone(),
            queues: nic.queues,
            mtu: nic.mtu,
            boot_order: nic.boot_order,
            limits: limited(nic.limits.as_ref()),
            ..Self::default()
        }
    }
}

impl FilterRef {
    /// Builds the filter with the NIC's parameters, under the names that libvirt's own filters (`clean-traffic` and
    /// others) use.
    fn for_nic(nic: &wire::Nic, filter: &str) -> Self {
        // An address may include its prefix length, which filters do not accept.
        let address = nic.address.split('/').next().unwrap_or_default();
        let parameters = [
            ("MAC", nic.mac.as_str()),
            ("IP", address),
            ("NETMASK", nic.netmask.as_str()),
            ("GATEWAY", nic.gateway.as_str()),
        ];
        let given = parameters.into_iter().filter(|(_, value)| !value.is_empty());
        let parameter = |(name, value): (&str, &str)| FilterRefParameter {
            name: name.into(),
            value: value.into(),
        };
        Self { filter: filter.to_owned(), parameters: given.map(parameter).collect() }
    }
}

impl Graphics {
    fn for_guest(guest: &wire::Guest, listen: VncListen) -> Self {
        let display = Self { kind: "vnc".into(), ..Self::default() };
        match (guest.vnc, listen) {
            (0, _) if guest.display => Self { is_private: true, ..display },
            (0, _) => Self::default(),
            (_, VncListen::Socket) => Self { on_socket: true, ..display },
            (port, VncListen::Tcp) => Self { port: port.to_string(), ..display },
        }
    }

    /// Returns the TCP port of a VNC display, once it is known.
    pub fn vnc_port(&self) -> Option<i64> {
        let port = self.port.parse().ok().filter(|port| *port > 0);
        port.filter(|_| self.kind == "vnc")
    }
}

#[cfg(test)]
mod tests;
