//! Limits of the throughput of disks and NICs.

use std::collections::BTreeMap;

use crate::guest::xml::Element;

/// Limits by their members in a request; an absent member is unlimited.
pub type Limits = BTreeMap<String, u64>;

/// A limit of disks.
pub struct DiskLimit {
    /// The member in a request.
    pub member: &'static str,
    /// libvirt's name: an element in `<iotune>`, and a parameter of `virDomainSetBlockIoTune`.
    pub name: &'static str,
}

/// Limits of disks, in bytes or requests a second.
pub const DISK: [DiskLimit; 6] = [
    DiskLimit { member: "total_bytes_s", name: "total_bytes_sec" },
    DiskLimit { member: "read_bytes_s", name: "read_bytes_sec" },
    DiskLimit { member: "write_bytes_s", name: "write_bytes_sec" },
    DiskLimit { member: "total_iops", name: "total_iops_sec" },
    DiskLimit { member: "read_iops", name: "read_iops_sec" },
    DiskLimit { member: "write_iops", name: "write_iops_sec" },
];

/// A limit of NICs.
pub struct NicLimit {
    /// The member in a request.
    pub member: &'static str,
    /// libvirt's element in `<bandwidth>`.
    pub element: &'static str,
    /// The parameter of `virDomainSetInterfaceParameters`.
    pub parameter: &'static str,
}

/// Limits of NICs, in bytes a second, from the guest's view.
pub const NIC: [NicLimit; 2] = [
    NicLimit { member: "rx_bytes_s", element: "inbound", parameter: "inbound.average" },
    NicLimit { member: "tx_bytes_s", element: "outbound", parameter: "outbound.average" },
];

/// libvirt's unit for a NIC's limits, in bytes a second.
pub const NIC_UNIT_BYTES_S: u64 = 1000;
/// The highest limit of a disk (`QEMU_BLOCK_IOTUNE_MAX` in libvirt).
pub const DISK_LIMIT_MAX: u64 = 1_000_000_000_000_000;
/// The highest limit of a NIC in bytes a second: libvirt has 32 bits for the number of kilobytes, and Open vSwitch for
/// the number of kilobits.
pub const NIC_LIMIT_MAX: u64 = 500_000_000_000;

/// Returns the limits that a request sets; 0 means no limit.
pub fn limited(asked: Option<&Limits>) -> Limits {
    let mut limits = asked.cloned().unwrap_or_default();
    limits.retain(|_, most| *most > 0);
    limits
}

/// Returns libvirt's parameters for a disk with these limits: every parameter, so that absent limits are lifted.
pub fn disk_parameters(limits: &Limits) -> [(&'static str, u64); 6] {
    DISK.map(|limit| (limit.name, limits.get(limit.member).copied().unwrap_or_default()))
}

/// Returns libvirt's parameters for a NIC with these limits.
pub fn nic_parameters(limits: &Limits) -> [(&'static str, u64); 2] {
    let average = |most: &u64| most / NIC_UNIT_BYTES_S;
    NIC.map(|limit| (limit.parameter, limits.get(limit.member).map_or(0, average)))
}

/// Returns the element of a disk's limits; `None` without limits.
pub fn write_disk(limits: &Limits) -> Option<Element> {
    let limits = DISK.iter().filter_map(|limit| {
        let most = limits.get(limit.member)?;
        Some(Element::new(limit.name).holding(&most.to_string()))
    });
    parent_of("iotune", limits.collect())
}

/// Reads the limits of a disk from its XML.
pub fn read_disk(disk: &Element) -> Limits {
    let tune = disk.child("iotune");
    read(DISK.iter().map(|limit| (limit.member, tune.child(limit.name).trimmed(), 1)))
}

/// Returns the element of a NIC's limits; `None` without limits.
pub fn write_nic(limits: &Limits) -> Option<Element> {
    let limits = NIC.iter().filter_map(|limit| {
        let average = limits.get(limit.member)? / NIC_UNIT_BYTES_S;
        Some(Element::new(limit.element).with("average", &average.to_string()))
    });
    parent_of("bandwidth", limits.collect())
}

/// Reads the limits of a NIC from its XML.
pub fn read_nic(interface: &Element) -> Limits {
    let bandwidth = interface.child("bandwidth");
    let average = |limit: &'static NicLimit| bandwidth.child(limit.element).attribute("average");
    read(NIC.iter().map(|limit| (limit.member, average(limit), NIC_UNIT_BYTES_S)))
}

/// Returns an element with these limits as children; `None` without limits.
fn parent_of(name: &str, limits: Vec<Element>) -> Option<Element> {
    (!limits.is_empty()).then(|| Element::new(name).containing(limits))
}

fn read<'x>(found: impl Iterator<Item = (&'static str, &'x str, u64)>) -> Limits {
    let mut limits = Limits::new();
    for (member, text, unit) in found {
        if let Some(most) = text.parse::<u64>().ok().filter(|most| *most > 0) {
            limits.insert(member.to_owned(), most.saturating_mul(unit));
        }
    }
    limits
}
