//! Disks and NICs that are attached to an existing guest and detached from it.
//!
//! The domain's definition decides. A transaction changes it together with the request stored with it: a failed or
//! interrupted attach is undone, and a detach is finished, as with CreateGuest and Delete. After the commit the agent
//! changes the running guest, and the answer reports the outcome. A failure there is no error: the definition is right
//! for the next start, and the same call tries again to change the running guest.

mod attach;
mod detach;
mod kept;

use std::fmt;
use std::time::Instant;

use crate::guest::device_xml::{disk_element, interface_element};
use crate::guest::domain::{Disk, DiskSource, DiskTarget, Interface, VirDomain};
use crate::guest::domain::{InterfaceMac, InterfaceSource};
use crate::guest::wire::Guest;
use crate::guest::wire::verbs::SettingResponse;
use crate::guest::{known, wire};
use crate::journal::Step;
use crate::libvirt::{AffectFlags, Domain, XmlKind};
use crate::ops::lifecycle::{condition, fill_from_live};
use crate::ops::networks::nic_networks;
use crate::ops::saved::why_off;
use crate::ops::volumes::GuestVolumeNames;
use crate::ops::{Error, Libvirt, Session, described, unreadable};
use crate::pool::GuestLock;

pub(super) use attach::undo;
pub(super) use detach::finish;

/// A device of a guest, as its XML describes it.
#[derive(Clone, Debug)]
enum Device {
    Disk(Disk),
    Nic(Interface),
}

impl Device {
    /// Returns the device of an intent's step.
    fn of(step: &Step) -> Option<Self> {
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
    fn nic(mac: &str, network: &str) -> Self {
        Self::Nic(Interface {
            source: InterfaceSource { network: network.to_owned(), ..InterfaceSource::default() },
            mac: InterfaceMac { address: mac.to_owned() },
            ..Interface::default()
        })
    }

    fn step(&self) -> Step {
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
    fn is_in(&self, domain: &VirDomain) -> bool {
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
    fn element_of(&self, domain: &Domain, kind: XmlKind) -> Result<Option<String>, Error> {
        let xml = domain.xml(kind)?;
        match self {
            Self::Disk(_) => disk_element(&xml, |found| self.is_disk(found)),
            Self::Nic(_) => interface_element(&xml, |found| self.is_nic(found)),
        }
        .map_err(unreadable)
    }

    fn xml(&self) -> String {
        match self {
            Self::Disk(disk) => disk.disk_xml(),
            Self::Nic(nic) => nic.interface_xml(),
        }
    }

    /// Returns the network that is made and removed with the device: the network that a NIC's MAC names.
    fn network(&self) -> Option<&str> {
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

/// Whether a device is attached or detached.
#[derive(Clone, Copy)]
enum DeviceChange {
    Attach,
    Detach,
}

/// The result of a change of a definition.
struct Changed {
    device: Device,
    guest: Guest,
    /// Whether storage must report the sizes of disks, because images may be larger than the requested size.
    sizes_open: bool,
}

impl Changed {
    /// Reads the changed definition. For a guest of the original agent, `asked` has what only the caller knows.
    fn read(
        session: &mut Session,
        domain: &Domain,
        asked: &Guest,
        device: Device,
    ) -> Result<Self, Error> {
        let found = described(domain, XmlKind::Inactive)?;
        let Some(request) = &found.metadata.guest else {
            let networks = nic_networks(session.connection()?, &found)?;
            let guest = known::of_domain(asked, &found, &networks);
            return Ok(Self { device, guest, sizes_open: false });
        };
        let is_clone = |disk: &wire::GuestDisk| disk.wants_volume() && !disk.image.is_empty();
        let sizes_open = request.disks.iter().any(is_clone);
        Ok(Self { device, guest: known::answered(request, &found), sizes_open })
    }
}

impl Libvirt {
    /// Returns the domain's definition, and its live definition if it runs.
    fn look_at_devices(
        &self,
        verb: &str,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(VirDomain, Option<VirDomain>), Error> {
        let id = lock.guest().to_owned();
        let look = move |session: &mut Session| {
            let domain = persistent(session, &id)?;
            let definition = described(&domain, XmlKind::Inactive)?;
            Ok((definition, running(&domain)?))
        };
        self.run_locked(verb, deadline, lock, look, |_, _| {})
    }

    /// Attaches or detaches the device of a running guest, and makes the answer.
    fn apply_live(
        &self,
        verb: &str,
        way: DeviceChange,
        changed: Changed,
        lock: &GuestLock,
        deadline: Instant,
    ) -> SettingResponse {
        let Changed { device, mut guest, sizes_open } = changed;
        let id = lock.guest().to_owned();
        let apply_device = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            let reported = match running(&domain)? {
                None => Err(why_off(&domain)?.to_owned()),
                Some(live) => apply_device(session, &domain, &id, way, &device, &live)?,
            };
            Ok((reported, condition(&domain)?, domain.xml(XmlKind::Live)?))
        };
        let reported = match self.run_locked(verb, deadline, lock, apply_device, |_, _| {}) {
            Ok((reported, condition, xml)) => {
                condition.state.name().clone_into(&mut guest.state);
                condition.reason.clone_into(&mut guest.reason);
                fill_from_live(&mut guest, &xml);
                reported
            }
            Err(error) => Err(error.to_string()),
        };
        if sizes_open {
            self.fill_sizes(verb, &mut guest.disks, lock, deadline);
        }
        let (live, message) = (reported.is_ok(), reported.err().unwrap_or_default());
        SettingResponse { guest: Some(guest), live, message }
    }

    /// Sets the sizes of disks to those of their volumes. If storage does not answer, the requested sizes stay.
    fn fill_sizes(
        &self,
        verb: &str,
        disks: &mut [wire::GuestDisk],
        lock: &GuestLock,
        deadline: Instant,
    ) {
        let Ok(own) = GuestVolumeNames::new(self.volumes.pool(), lock.guest()) else { return };
        let volumes = match self.own_volumes(verb, &own, lock, deadline) {
            Ok(volumes) => volumes,
            Err(error) => {
                return log::warn!("cannot read disk sizes; guest={:?}: {error}", lock.guest());
            }
        };
        for disk in disks {
            let volume = volumes.iter().find(|volume| volume.name.as_str() == disk.volume);
            disk.size_mib = volume.map_or(disk.size_mib, |volume| volume.size_mib());
        }
    }
}

/// Returns the guest's domain, if it has a definition that can be changed.
///
/// # Errors
/// [`Error::Unsupported`] for a transient domain; errors of libvirt.
pub(super) fn persistent(session: &mut Session, id: &str) -> Result<Domain, Error> {
    let domain = session.domain(id)?;
    match domain.is_persistent()? {
        true => Ok(domain),
        false => Err(Error::Unsupported(
            "cannot change the guest's definition: the guest is transient and has none",
        )),
    }
}

/// Returns the live definition of a domain; `None` if it is off.
fn running(domain: &Domain) -> Result<Option<VirDomain>, Error> {
    domain.is_active()?.then(|| described(domain, XmlKind::Live)).transpose()
}

/// Attaches or detaches a device of a running guest. The inner error says why that failed.
fn apply_device(
    session: &mut Session,
    domain: &Domain,
    id: &str,
    way: DeviceChange,
    device: &Device,
    live: &VirDomain,
) -> Result<Result<(), String>, Error> {
    let outcome = match (way, device.is_in(live)) {
        (DeviceChange::Attach, false) => domain.attach_device(&device.xml(), AffectFlags::Live),
        (DeviceChange::Detach, true) => match device.element_of(domain, XmlKind::Live)? {
            Some(element) => domain.detach_device(&element, AffectFlags::Live),
            None => return Ok(Ok(())),
        },
        (DeviceChange::Attach, true) | (DeviceChange::Detach, false) => return Ok(Ok(())),
    };
    match (way, outcome) {
        (_, Err(error)) if error.connection_lost() => Err(error.into()),
        (_, Err(error)) => Ok(Err(error.message)),
        (DeviceChange::Attach, Ok(())) => Ok(Ok(())),
        (DeviceChange::Detach, Ok(())) => detach::has_let_go(session, domain, id, device),
    }
}
