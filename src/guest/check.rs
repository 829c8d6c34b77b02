//! Checks of a guest before the agent creates anything for it.
//!
//! libvirt judges VLAN ranges, hypervisor types, models and sizes better, so libvirt checks those.

use std::collections::BTreeMap;

use crate::config::{
    BridgeType, GUEST_DISKS_MAX, GUEST_METADATA_BYTES, GUEST_NICS_MAX, HostConfig, Nat, VncListen,
};
use crate::guest::invalid::{Fault, ID_BYTES_MAX, Invalid, VNC_PORT_MIN};
use crate::guest::wire::{Guest, GuestDisk, Nic};
use crate::guest::xml::escaped_bytes;

const VNC_PORT_MAX: i64 = 65535;

/// The checked id of a guest. It names a libvirt domain and libvirt's files.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuestId(String);

impl GuestId {
    /// Accepts an id of 1 to 247 bytes without control characters, `/` and XML's `<>&"'`, that
    /// starts neither with `-` nor `.`, and has no blank at either end.
    ///
    /// # Errors
    /// [`Invalid::Missing`] if the id is empty, else [`Invalid::Member`].
    pub fn parse(id: &str) -> Result<Self, Invalid> {
        let fault = |fault| Err(Invalid::Member { member: "id".to_owned(), fault });
        let (Some(first), Some(last)) = (id.chars().next(), id.chars().next_back()) else {
            return Err(Invalid::Missing);
        };
        if id.len() > ID_BYTES_MAX {
            return fault(Fault::IdLength(id.len()));
        }
        let forbidden = |c: char| c.is_control() || "/<>&\"'".contains(c);
        if let Some(c) = id.chars().find(|c| forbidden(*c)) {
            return fault(Fault::IdCharacter(c));
        }
        if first == '-' || first == '.' || first.is_whitespace() {
            return fault(Fault::IdCharacter(first));
        }
        if last.is_whitespace() {
            return fault(Fault::IdCharacter(last));
        }
        check_text(id, || "id".to_owned())?;
        Ok(Self(id.to_owned()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns whether `text` is six hexadecimal pairs with colons between them.
pub fn is_mac(text: &str) -> bool {
    let is_pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
    text.split(':').count() == 6 && text.split(':').all(is_pair)
}

/// Returns whether XML 1.0 can carry a character, literally or by reference.
pub fn xml_carries(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        c => c >= ' ',
    }
}

/// Checks a guest for which a domain will be defined, as `Create` needs it.
///
/// # Errors
/// The first fault, with the name of the member.
pub fn check_definition(guest: &Guest, host: &HostConfig) -> Result<(), Invalid> {
    first(definition_faults(guest, host))
}

/// Checks a disk that will be attached to a guest.
///
/// # Errors
/// The first fault, with the name of the member.
pub fn check_attached_disk(disk: &GuestDisk) -> Result<(), Invalid> {
    first(disk_text_faults("disk", disk))?;
    first(machine::disk_faults("disk", disk))
}

/// Checks a NIC that will be attached to a guest, and its network.
///
/// # Errors
/// The first fault, with the name of the member.
pub fn check_attached_nic(nic: &Nic, host: &HostConfig) -> Result<(), Invalid> {
    first(nic_text_faults("nic", nic))?;
    first(machine::nic_faults("nic", nic))?;
    if nic.mac.is_empty() {
        return Err(Invalid::Member { member: "nic.mac".to_owned(), fault: Fault::NoMac });
    }
    check_nic("nic", nic, host.bridge_type)
}

/// Checks the limits of a request that only sets limits.
///
/// # Errors
/// The first fault, with the name of the member; also a request without disks and NICs.
pub fn check_limits(guest: &Guest) -> Result<(), Invalid> {
    let missing = |place: String| Invalid::Member { member: place, fault: Fault::Missing };
    let mut found = Vec::new();
    if guest.disks.is_empty() && guest.nics.is_empty() {
        found.push(missing("disks or nics".to_owned()));
    }
    for (i, disk) in guest.disks.iter().enumerate() {
        let place = format!("disks[{i}]");
        found.extend(disk.limits.is_none().then(|| missing(format!("{place}.limits"))));
        found.extend(machine::disk_faults(&place, disk));
    }
    for (i, nic) in guest.nics.iter().enumerate() {
        let place = format!("nics[{i}]");
        found.extend(nic.limits.is_none().then(|| missing(format!("{place}.limits"))));
        found.extend(machine::nic_faults(&place, nic));
    }
    first(found)
}

/// Checks a guest whose networks will be created too, as `CreateGuest` needs it.
///
/// # Errors
/// The first fault, with the name of the member.
pub fn check_definition_with_networks(guest: &Guest, host: &HostConfig) -> Result<(), Invalid> {
    first(faults(guest, host))
}

/// Returns all faults of a guest in a `CreateGuest` request, by member. If the id is invalid or the
/// guest has too many disks or NICs, checks nothing else.
pub fn faults(guest: &Guest, host: &HostConfig) -> Vec<Invalid> {
    let mut found = definition_faults(guest, host);
    if !found.iter().all(Invalid::is_of_a_part) {
        return found;
    }
    for (i, nic) in guest.nics.iter().enumerate() {
        let is_same = |other: &Nic| other.mac.eq_ignore_ascii_case(&nic.mac);
        let fault = match nic.mac.as_str() {
            "" => Fault::NoMac,
            _ if guest.nics.iter().take(i).any(is_same) => Fault::RepeatedMac,
            _ => continue,
        };
        found.push(Invalid::Member { member: format!("nics[{i}].mac"), fault });
    }
    found
}

fn first(found: Vec<Invalid>) -> Result<(), Invalid> {
    found.into_iter().next().map_or(Ok(()), Err)
}

fn definition_faults(guest: &Guest, host: &HostConfig) -> Vec<Invalid> {
    let whole = [
        GuestId::parse(&guest.id).map(drop),
        check_count("nics", guest.nics.len(), GUEST_NICS_MAX),
        check_count("disks", guest.disks.len(), GUEST_DISKS_MAX),
    ];
    let mut found: Vec<Invalid> = whole.into_iter().filter_map(Result::err).collect();
    if found.is_empty() {
        check_texts(guest, &mut found);
        let nics = guest.nics.iter().enumerate();
        found.extend(
            nics.filter_map(|(i, nic)| {
                check_nic(&format!("nics[{i}]"), nic, host.bridge_type).err()
            }),
        );
        found.extend(check_vnc(guest.vnc, host.vnc).err());
        found.extend(machine::faults(guest));
    }
    found
}

/// Checks the number of disks or NICs of a guest.
///
/// # Errors
/// [`Invalid::TooMany`].
pub fn check_count(member: &'static str, count: usize, max: usize) -> Result<(), Invalid> {
    if count > max { Err(Invalid::TooMany { member, count, max }) } else { Ok(()) }
}

fn check_vnc(port: i64, listen: VncListen) -> Result<(), Invalid> {
    let fault = match port {
        1..VNC_PORT_MIN if listen == VncListen::Tcp => Fault::LowVncPort(port),
        -1..=VNC_PORT_MAX => return Ok(()),
        _ => Fault::NotVncPort(port),
    };
    Err(Invalid::Member { member: "vnc".to_owned(), fault })
}

fn check_nic(place: &str, nic: &Nic, bridge_type: BridgeType) -> Result<(), Invalid> {
    let fault = |name, fault| Err(Invalid::Member { member: format!("{place}.{name}"), fault });
    if !nic.mac.is_empty() && !is_mac(&nic.mac) {
        return fault("mac", Fault::NotMac);
    }
    let tagged = nic.vlans.as_ref().is_some_and(|vlans| !vlans.is_empty());
    if bridge_type != BridgeType::OpenVSwitch && tagged {
        return fault("vlans", Fault::TagsOnLinuxBridge);
    }
    if let (BridgeType::Nat(nat), Nat::BRIDGE) = (bridge_type, nic.network.as_str()) {
        let address = nic.address.split('/').next().unwrap_or_default();
        if !address.is_empty() && !address.parse().is_ok_and(|address| nat.has(address)) {
            let allowed = vec![format!(
                "an address of {nat} that is neither its own, the host's nor for broadcasts"
            )];
            return fault("address", Fault::NotOneOf { found: nic.address.clone(), allowed });
        }
    }
    Ok(())
}

/// Checks every text of a guest, because the domain's XML stores the whole request.
fn check_texts(guest: &Guest, found: &mut Vec<Invalid>) {
    // Module `machine` checks the other texts.
    let Guest { kind, image, nics, disks, state, reason, metadata, .. } = guest;
    found.extend(check_line(kind, || "type".to_owned()).err());
    for (name, text) in [("image", image), ("state", state), ("reason", reason)] {
        found.extend(check_text(text, || name.to_owned()).err());
    }
    for (i, nic) in nics.iter().enumerate() {
        found.extend(nic_text_faults(&format!("nics[{i}]"), nic));
    }
    for (i, disk) in disks.iter().enumerate() {
        found.extend(disk_text_faults(&format!("disks[{i}]"), disk));
    }
    found.extend(check_metadata(metadata).err());
}

fn nic_text_faults(place: &str, nic: &Nic) -> Vec<Invalid> {
    let Nic { name, network, model, mac, address, netmask, gateway, device, .. } = nic;
    line_faults(
        place,
        &[
            ("name", name),
            ("network", network),
            ("model", model),
            ("mac", mac),
            ("address", address),
            ("netmask", netmask),
            ("gateway", gateway),
            ("device", device),
        ],
    )
}

fn disk_text_faults(place: &str, disk: &GuestDisk) -> Vec<Invalid> {
    let GuestDisk { bus, device, volume, image, source, .. } = disk;
    line_faults(
        place,
        &[
            ("bus", bus),
            ("device", device),
            ("volume", volume),
            ("image", image),
            ("source", source),
        ],
    )
}

fn line_faults(place: &str, texts: &[(&str, &String)]) -> Vec<Invalid> {
    let line = |(name, text): &(&str, &String)| check_line(text, || format!("{place}.{name}"));
    texts.iter().filter_map(|text| line(text).err()).collect()
}

/// Checks metadata that will be stored with a domain.
///
/// # Errors
/// A character that XML cannot carry, with the member; metadata above the size limit.
pub fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (name, value) in metadata {
        check_text(name, || "a name in metadata".to_owned())?;
        check_text(value, || format!("metadata[{name:?}]"))?;
    }
    let pairs = metadata.iter().map(|(name, value)| escaped_bytes(name) + escaped_bytes(value));
    match pairs.sum() {
        bytes if bytes > GUEST_METADATA_BYTES => Err(Invalid::Member {
            member: "metadata".to_owned(),
            fault: Fault::TooLarge { bytes, max: GUEST_METADATA_BYTES },
        }),
        _ => Ok(()),
    }
}

/// Checks a text that libvirt stores in its own XML. libvirt writes tabs and line ends unescaped,
/// so they would read as blanks.
fn check_line(text: &str, member: impl FnOnce() -> String) -> Result<(), Invalid> {
    match text.chars().find(|c| matches!(c, '\t' | '\n' | '\r')) {
        Some(c) => Err(Invalid::Member { member: member(), fault: Fault::NotOneLine(c) }),
        None => check_text(text, member),
    }
}

fn check_text(text: &str, member: impl FnOnce() -> String) -> Result<(), Invalid> {
    match text.chars().find(|c| !xml_carries(*c)) {
        Some(c) => Err(Invalid::Member { member: member(), fault: Fault::Character(c) }),
        None => Ok(()),
    }
}

pub mod machine;

#[cfg(test)]
mod tests;
