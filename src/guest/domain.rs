//! The domain model of the project's owner: what libvirt's domain XML says that matters here.
//!
//! Type names and JSON member names are the owner's, and so is what JSON leaves out when empty; a
//! list that Go would write as `null` when it is empty is written so. What the owner's model lacks
//! and a new guest needs is not in the JSON and says so. XML is read and written in `domain_xml`.

use serde::Serialize;

use crate::config::{HostConfig, VncListen};
use crate::guest::hardware::Hardware;
use crate::guest::limits::{Limits, limited};
use crate::guest::metadata::{Metadata, null_when_empty};
use crate::guest::paths::console_log;
use crate::guest::wire::agent::Address;
use crate::guest::wire::{self, CDROM};

/// The unit that libvirt counts memory in, against the wire's MiB.
pub(crate) const KIB_PER_MIB: u64 = 1024;
/// The format of a disk whose source is the disk itself.
pub(crate) const RAW: &str = "raw";
/// The port group of a NIC's network that carries its VLAN tags (contract section 5.2).
pub const PORT_GROUP: &str = "vlan-all";

/// A domain, see <https://libvirt.org/formatdomain.html>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VirDomain {
    /// Hypervisor, for example `kvm`.
    #[serde(rename = "type")]
    pub kind: String,
    /// libvirt's own identifier; empty before libvirt drew one.
    pub uuid: String,
    /// Name: the guest's id.
    pub name: String,
    /// Memory in KiB that the guest starts with, or has.
    #[serde(rename = "memory")]
    pub memory_kib: u64,
    /// Most memory in KiB that it can have; 0 where that is `memory`. Beyond the owner's model.
    #[serde(rename = "memory_max", skip_serializing_if = "wire::is_zero")]
    pub memory_max_kib: u64,
    /// Number of virtual CPUs that the guest starts with, or has.
    pub vcpu: u64,
    /// Most virtual CPUs that can be plugged; 0 where that is `vcpu`. Beyond the owner's model.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub vcpu_max: u64,
    /// Devices.
    pub devices: Device,
    /// What is booted.
    pub os: Os,
    /// What the machine is besides. Beyond the owner's model.
    #[serde(skip_serializing_if = "Hardware::is_none")]
    pub hardware: Hardware,
    /// Name of the running state. Not in the XML: the caller that asked libvirt sets it.
    pub state: String,
    /// Why it is in that state, where nobody asked for it. Set with the state; beyond the owner's model, as what
    /// follows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether libvirt starts it when the host starts. Not in the XML either.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub autostart: bool,
    /// As the member of a guest, where the agent keeps it. Not in the XML either, as what follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_order: Option<u64>,
    /// As the member of a guest, in seconds.
    #[serde(rename = "start_delay", skip_serializing_if = "Option::is_none")]
    pub start_delay_s: Option<u64>,
    /// As the member of a guest, in seconds.
    #[serde(rename = "stop_timeout", skip_serializing_if = "Option::is_none")]
    pub stop_timeout_s: Option<u64>,
    /// The members of the guest in which the next start differs from what runs. Not in the XML either.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// Items of QEMU's fw_cfg: the name of each, and the file that has its value. Written alone, and not read; beyond
    /// the owner's model.
    #[serde(skip)]
    pub fw_cfg: Vec<(String, String)>,
    /// Its addresses as last seen, those that reach beyond its link first. Not in the XML either.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// What this agent keeps with the domain.
    #[serde(rename = "Metadata")]
    pub metadata: Metadata,
}

/// A domain's devices, see <https://libvirt.org/formatdomain.html#devices>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Disks, in libvirt's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// What disks use besides the files below them: targets of block copies, and external data files of qcow2
    /// files. Beyond the owner's model.
    #[serde(skip)]
    pub beside_disks: Vec<Disk>,
    /// Network interfaces, in libvirt's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The first graphical display.
    pub graphics: Graphics,
    /// The file that keeps what the guest writes to its first serial console; empty for none.
    /// Beyond the owner's model.
    #[serde(skip)]
    pub console_log: String,
}

/// A disk, see <https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// What the source is, for example `block` or `file`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the guest sees: `disk`, `cdrom`, `floppy`.
    pub device: String,
    /// How qemu reads it.
    pub driver: DiskDriver,
    /// What is behind it on the host.
    pub source: DiskSource,
    /// Where the guest sees it.
    pub target: DiskTarget,
    /// Serial number that the guest sees; empty for none. Beyond the owner's model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Whether the guest cannot write to it. Beyond the owner's model.
    #[serde(skip_serializing_if = "wire::is_false")]
    pub read_only: bool,
    /// Place in the firmware's order, from 1; 0 for none. Beyond the owner's model.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub boot_order: u64,
    /// The most that it carries. Beyond the owner's model.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// How a disk is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskDriver {
    /// `qemu`.
    pub name: String,
    /// Format, for example `raw`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How the host caches it; empty for qemu's own choice. Beyond the owner's model, as what follows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cache: String,
    /// How qemu reads and writes it; empty for its own choice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub io: String,
    /// `unmap` where space that the guest frees is freed on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub discard: String,
}

/// What is behind a disk on the host: one of two paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskSource {
    /// Path of a regular file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Path of a block device.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// The storage pool of libvirt's that it is a volume of; empty for none. Beyond the owner's model, as what
    /// follows.
    #[serde(skip)]
    pub pool: String,
    /// The name of that volume.
    #[serde(skip)]
    pub volume: String,
    /// Paths of the files below that, the nearest first, where libvirt names them.
    #[serde(skip)]
    pub backing: Vec<String>,
}

impl DiskSource {
    /// The path, whichever it is; empty if there is none.
    pub fn path(&self) -> &str {
        if self.device.is_empty() { &self.file } else { &self.device }
    }
}

/// Where a guest sees a disk.
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
    /// What the source is, for example `network`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is plugged into.
    pub source: InterfaceSource,
    /// Its address.
    pub mac: InterfaceMac,
    /// What the guest sees.
    pub model: InterfaceModel,
    /// Its packet filter.
    pub filterref: FilterRef,
    /// The host's end while the domain runs.
    pub target: InterfaceTarget,
    /// libvirt's name for it while the domain runs.
    pub alias: InterfaceAlias,
    /// The name that the guest is to see (`<guest dev>`). Beyond the owner's model.
    #[serde(skip)]
    pub guest_device: String,
    /// Pairs of queues; 0 for one. Beyond the owner's model, as what follows.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub queues: u64,
    /// Maximum transmission unit in bytes; 0 for the network's.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub mtu: u64,
    /// Place in the firmware's order, from 1; 0 for none.
    #[serde(skip_serializing_if = "wire::is_zero")]
    pub boot_order: u64,
    /// The most that it carries.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// What an interface is plugged into.
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

/// What a guest sees of an interface.
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
    /// The parameters of the filter.
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

/// The host's end of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceTarget {
    /// The host's device, for example `vnet0`; empty while the domain is off.
    pub device: String,
}

/// libvirt's name for an interface.
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
    /// TCP port; -1 while libvirt has yet to choose one; empty for a display on a socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port: String,
    /// The Unix socket that it listens on, while the domain runs. Beyond the owner's model, as what follows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket: String,
    /// Whether it listens on a Unix socket of libvirt's choice.
    #[serde(skip)]
    pub on_socket: bool,
    /// Whether it listens nowhere.
    #[serde(skip)]
    pub is_private: bool,
}

/// What is booted, see <https://libvirt.org/formatdomain.html#operating-system-booting>.
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

/// What a disk's `source` is. The caller looks: this room does no I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A block device, or nothing yet.
    Block,
    /// A regular file.
    File,
}

impl VirDomain {
    /// The domain that `guest` asks for on this host. `sources` tells what each disk's source is,
    /// in order; where it is short, a block device.
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
            // Saturated, so that libvirt refuses what does not fit instead of this agent wrapping.
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

    /// The most memory in KiB that it can have without a restart.
    pub fn most_memory_kib(&self) -> u64 {
        self.memory_max_kib.max(self.memory_kib)
    }

    /// The disk with this target, such as `vda`.
    pub fn disk_by_device(&self, device: &str) -> Option<&Disk> {
        self.devices.disks.iter().find(|disk| disk.target.device == device)
    }

    /// The interface with this MAC address, letters of any case; none for an empty one.
    pub fn interface_by_mac(&self, mac: &str) -> Option<&Interface> {
        let mut interfaces = self.devices.interfaces.iter();
        interfaces
            .find(|interface| !mac.is_empty() && interface.mac.address.eq_ignore_ascii_case(mac))
    }
}

impl Disk {
    /// Whether its source is something of this host that has no path here: a volume of a libvirt pool, or a
    /// directory that the guest sees as a file system.
    pub fn is_unnamed(&self) -> bool {
        matches!(self.kind.as_str(), "volume" | "dir")
    }

    /// The disk that a guest asks for, whose source is this.
    ///
    /// A block device is written past the host's page cache, where the contract (section 5.1) has no
    /// `cache`: out of that cache the kernel writes later, and where the pool is full by then the write
    /// is lost without qemu's knowledge. Without it qemu meets the full pool itself and pauses the
    /// guest. ZFS keeps its own cache, so nothing is kept twice either. A regular file may lie where
    /// that cannot be had (tmpfs), and stays as it was.
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
    /// The interface that a guest's NIC asks for on this host.
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
    /// The filter with what it can be told of the NIC, under the names that libvirt's own filters
    /// (`clean-traffic` and others) have for it.
    fn for_nic(nic: &wire::Nic, filter: &str) -> Self {
        // An address may come with its prefix length, for which filters have no place.
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

    /// The TCP port of a VNC display, once it is known.
    pub fn vnc_port(&self) -> Option<i64> {
        let port = self.port.parse().ok().filter(|port| *port > 0);
        port.filter(|_| self.kind == "vnc")
    }
}

#[cfg(test)]
mod tests;
