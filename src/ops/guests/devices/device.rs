//! A disk or NIC as a domain's XML has it.

use std::fmt;

use crate::guest::device_xml::{disk_element, interface_element};
use crate::guest::domain::{
    Disk, DiskSource, DiskTarget, Interface, InterfaceMac, InterfaceSource, VirDomain,
};
use crate::journal::Step;
use crate::libvirt::{Domain, XmlKind};
use crate::ops::Error;
use crate::ops::hypervisor::definition::unreadable;

/// A device of a guest, as its XML describes it.
#[derive(Clone, Debug)]
pub(super) enum Device {
    Disk(Disk),
    Nic(Interface),
}

impl Device {
    /// Returns the device of an intent's step.
    pub(super) fn of(step: &Step) -> Option<Self> {
        match step {
            Step::Disk { device, source } => Some(Self::Disk(Disk {
                source: DiskSource { device: source.clone(), ..DiskSource::default() },
                target: DiskTarget { device: device.clone(), ..DiskTarget::default() },
                ..Disk::default()
            })),
            Step::Nic { mac, network } => Some(Self::nic(mac, network)),
            _ => None,
        }
    }

    /// Returns a NIC with the members that identify it.
    pub(super) fn nic(mac: &str, network: &str) -> Self {
        Self::Nic(Interface {
            source: InterfaceSource { network: network.to_owned(), ..InterfaceSource::default() },
            mac: InterfaceMac { address: mac.to_owned() },
            ..Interface::default()
        })
    }

    pub(super) fn step(&self) -> Step {
        match self {
            Self::Disk(disk) => Step::Disk {
                device: disk.target.device.clone(),
                source: disk.source.path().to_owned(),
            },
            Self::Nic(nic) => {
                Step::Nic { mac: nic.mac.address.clone(), network: nic.source.network.clone() }
            }
        }
    }

    /// Returns whether a domain has the device: a disk with its target and source, an interface with its MAC.
    pub(super) fn is_in(&self, domain: &VirDomain) -> bool {
        match self {
            Self::Disk(_) => domain.devices.disks.iter().any(|found| self.is_disk(found)),
            Self::Nic(_) => domain.devices.interfaces.iter().any(|found| self.is_nic(found)),
        }
    }

    fn is_disk(&self, found: &Disk) -> bool {
        matches!(self, Self::Disk(disk) if found.target.device == disk.target.device
            && found.source.path() == disk.source.path())
    }

    fn is_nic(&self, found: &Interface) -> bool {
        matches!(self, Self::Nic(nic) if !nic.mac.address.is_empty()
            && found.mac.address.eq_ignore_ascii_case(&nic.mac.address))
    }

    /// Returns the device's element of the domain, as libvirt wrote it. One round trip.
    pub(super) fn element_of(
        &self,
        domain: &Domain,
        kind: XmlKind,
    ) -> Result<Option<String>, Error> {
        let xml = domain.xml(kind)?;
        match self {
            Self::Disk(_) => disk_element(&xml, |found| self.is_disk(found)),
            Self::Nic(_) => interface_element(&xml, |found| self.is_nic(found)),
        }
        .map_err(unreadable)
    }

    pub(super) fn xml(&self) -> String {
        match self {
            Self::Disk(disk) => disk.disk_xml(),
            Self::Nic(nic) => nic.interface_xml(),
        }
    }

    /// Returns the network that is made and removed with the device: the network that a NIC's MAC names.
    pub(super) fn network(&self) -> Option<&str> {
        match self {
            Self::Nic(nic) if nic.source.network.eq_ignore_ascii_case(&nic.mac.address) => {
                Some(&nic.source.network)
            }
            _ => None,
        }
    }
}

/// The name of a device in errors.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(disk) => write!(f, "disk {}", disk.target.device),
            Self::Nic(nic) => write!(f, "NIC {}", nic.mac.address),
        }
    }
}
