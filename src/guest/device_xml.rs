//! Single devices of a domain, as libvirt wrote them.

use crate::guest::domain::{Device, Disk, Interface, VirDomain};
use crate::guest::domain_xml::{read_disk, read_interface, write_source};
use crate::guest::hardware_xml::AGENT_CHANNEL;
use crate::guest::limits::Limits;
use crate::guest::xml::{Element, Error};

/// Returns the element of a domain's first disk for which `is_it` holds, complete as libvirt wrote it: the model cannot
/// write every kind of disk.
///
/// # Errors
/// If the text is not the XML of a domain.
pub(crate) fn disk_element(
    xml: &str,
    is_it: impl Fn(&Disk) -> bool,
) -> Result<Option<String>, Error> {
    device_element(xml, "disk", |disk| is_it(&read_disk(disk)))
}

/// Returns the element of a domain's first interface for which `is_it` holds, as [`disk_element`] does for disks.
///
/// # Errors
/// As [`disk_element`].
pub(crate) fn interface_element(
    xml: &str,
    is_it: impl Fn(&Interface) -> bool,
) -> Result<Option<String>, Error> {
    device_element(xml, "interface", |interface| is_it(&read_interface(interface)))
}

/// Returns libvirt's aliases of the disks and NICs of a running domain, each with the name in the guest's request: the
/// target of a disk, the MAC address of a NIC.
///
/// # Errors
/// As [`disk_element`].
pub(crate) fn aliases(xml: &str) -> Result<Vec<(String, String)>, Error> {
    let domain = Element::from_xml(xml, "domain")?;
    let name = |device: &Element| match device.name.as_str() {
        "disk" => device.child("target").attribute("dev").to_owned(),
        "interface" => device.child("mac").attribute("address").to_owned(),
        _ => String::new(),
    };
    let alias = |device: &Element| device.child("alias").attribute("name").to_owned();
    let devices = domain.child("devices").children.iter();
    Ok(devices.map(|it| (alias(it), name(it))).filter(|(_, name)| !name.is_empty()).collect())
}

/// The sources of the addresses of a running domain: its NICs, their networks, and its guest agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressSources {
    /// MAC addresses of its NICs, in lower case.
    pub(crate) macs: Vec<String>,
    /// The libvirt networks of its NICs.
    networks: Vec<String>,
    /// Whether its guest agent is connected; `None` without a channel for a guest agent.
    pub(crate) agent: Option<bool>,
}

impl AddressSources {
    /// Reads the live definition of a domain.
    ///
    /// # Errors
    /// As [`disk_element`].
    pub(crate) fn of(xml: &str) -> Result<Self, Error> {
        let domain = Element::from_xml(xml, "domain")?;
        let devices = domain.child("devices");
        let mut sources = Self::default();
        for nic in devices.children_in("", "interface") {
            sources.macs.push(nic.child("mac").attribute("address").to_lowercase());
            sources.networks.push(nic.child("source").attribute("network").to_owned());
        }
        let mut channels = devices.children_in("", "channel").map(|it| it.child("target"));
        let agent = channels.find(|target| target.attribute("name") == AGENT_CHANNEL);
        sources.agent = agent.map(|target| target.attribute("state") == "connected");
        Ok(sources)
    }

    /// Returns the networks that may lease addresses. A network with the name of a NIC was made for that NIC, and
    /// leases none.
    pub(crate) fn networks(&self) -> impl Iterator<Item = String> {
        let is_own = |network: &String| self.macs.contains(&network.to_lowercase());
        self.networks.iter().filter(move |it| !it.is_empty() && !is_own(it)).cloned()
    }
}

/// Returns the limits of the disks and NICs of a running domain, by target; only devices with limits.
///
/// # Errors
/// If the text is not the XML of a domain, or a number in it is invalid.
pub(crate) fn limits(xml: &str) -> Result<Vec<(String, Limits)>, Error> {
    if !xml.contains("<iotune>") && !xml.contains("<bandwidth>") {
        return Ok(Vec::new());
    }
    let Device { disks, interfaces, .. } = VirDomain::from_xml(xml)?.devices;
    let disks = disks.into_iter().map(|disk| (disk.target.device, disk.limits));
    let nics = interfaces.into_iter().map(|nic| (nic.target.device, nic.limits));
    Ok(disks.chain(nics).filter(|(_, limits)| !limits.is_empty()).collect())
}

/// Returns the element of a domain's disk with this target and another medium, otherwise as libvirt wrote it; `None` if
/// the disk has that medium already.
///
/// # Errors
/// As [`disk_element`].
pub(crate) fn with_medium(xml: &str, device: &str, medium: &Disk) -> Result<Option<String>, Error> {
    let mut domain = Element::from_xml(xml, "domain")?;
    let disks = domain.child_mut("devices").children.iter_mut();
    let is_it = |it: &Element| it.name == "disk" && it.child("target").attribute("dev") == device;
    let mut drives = disks.filter(|it| is_it(it));
    let Some(drive) = drives.next() else { return Ok(None) };
    if read_disk(drive).source.path() == medium.source.path() {
        return Ok(None);
    }
    drive.set("type", &medium.kind);
    drive.remove("source", |_| true);
    drive.remove("backingStore", |_| true);
    let source = Some(write_source(&medium.source));
    drive.children.extend(source.filter(|source| !source.attributes.is_empty()));
    Ok(Some(drive.to_xml()))
}

fn device_element(
    xml: &str,
    name: &str,
    is_it: impl Fn(&Element) -> bool,
) -> Result<Option<String>, Error> {
    let domain = Element::from_xml(xml, "domain")?;
    let mut devices = domain.child("devices").children_in("", name);
    Ok(devices.find(|device| is_it(device)).map(Element::to_xml))
}
