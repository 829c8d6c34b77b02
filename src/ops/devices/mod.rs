//! Disks and NICs that come to a guest and go from it while it is there.
//!
//! The domain's definition decides. It is changed under the journal, together with the request that
//! is kept with it: an attach that fails, or is cut off, is undone, and a detach finished, as with
//! CreateGuest and Delete. After that what runs is told, and the answer says what came of it. Nothing
//! of that is an error: the guest has, or has not, the device from its next start on, and the same
//! call tells what runs once more.

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
use crate::libvirt::{Domain, Reach, XmlKind};
use crate::ops::lifecycle::{condition, fill_from_live};
use crate::ops::networks::wiring;
use crate::ops::saved::why_off;
use crate::ops::volumes::Own;
use crate::ops::{Error, Libvirt, Session, described, unreadable};
use crate::pool::Hold;

pub(super) use attach::undo;
pub(super) use detach::finish;

/// A device of a guest, as far as XML says it.
#[derive(Clone, Debug)]
enum Device {
    Disk(Disk),
    Nic(Interface),
}

impl Device {
    /// The device that an intent's step is about.
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

    /// A NIC by what it is known by.
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

    /// Whether a domain has it: a disk with its target and source, an interface with its MAC.
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

    /// The domain's element of it, as libvirt wrote it. One round trip.
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

    /// The network that comes and goes with it: the one that a NIC's MAC names.
    fn network(&self) -> Option<&str> {
        match self {
            Self::Nic(nic) if nic.source.network.eq_ignore_ascii_case(&nic.mac.address) => {
                Some(&nic.source.network)
            }
            _ => None,
        }
    }
}

/// What a device is called in errors.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(disk) => write!(f, "disk {}", disk.target.device),
            Self::Nic(nic) => write!(f, "NIC {}", nic.mac.address),
        }
    }
}

/// Whether a device comes or goes.
#[derive(Clone, Copy)]
enum Way {
    Comes,
    Goes,
}

/// What the definition of a domain has become.
struct Changed {
    device: Device,
    guest: Guest,
    /// Whether storage has to say what sizes disks have, as images may be larger than was asked for.
    sizes_open: bool,
}

impl Changed {
    /// Reads the definition anew. `asked` says what only the caller knows of a guest that the
    /// original agent made.
    fn read(
        session: &mut Session,
        domain: &Domain,
        asked: &Guest,
        device: Device,
    ) -> Result<Self, Error> {
        let found = described(domain, XmlKind::Inactive)?;
        let Some(request) = &found.metadata.guest else {
            let networks = wiring(session.connection()?, &found)?;
            let guest = known::of_domain(asked, &found, &networks);
            return Ok(Self { device, guest, sizes_open: false });
        };
        let is_clone = |disk: &wire::Disk| disk.wants_volume() && !disk.image.is_empty();
        let sizes_open = request.disks.iter().any(is_clone);
        Ok(Self { device, guest: known::answered(request, &found), sizes_open })
    }
}

impl Libvirt {
    /// The domain's definition, and what runs of it.
    fn look_at_devices(
        &self,
        verb: &str,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<(VirDomain, Option<VirDomain>), Error> {
        let id = hold.key().to_owned();
        let look = move |session: &mut Session| {
            let domain = persistent(session, &id)?;
            let definition = described(&domain, XmlKind::Inactive)?;
            Ok((definition, running(&domain)?))
        };
        self.held(verb, deadline, hold, look, |_, _| {})
    }

    /// Tells a guest that runs, and answers.
    fn tell_running(
        &self,
        verb: &str,
        way: Way,
        changed: Changed,
        hold: &Hold,
        deadline: Instant,
    ) -> SettingResponse {
        let Changed { device, mut guest, sizes_open } = changed;
        let id = hold.key().to_owned();
        let tell = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            let told = match running(&domain)? {
                None => Err(why_off(&domain)?.to_owned()),
                Some(live) => tell(session, &domain, &id, way, &device, &live)?,
            };
            Ok((told, condition(&domain)?, domain.xml(XmlKind::Live)?))
        };
        let told = match self.held(verb, deadline, hold, tell, |_, _| {}) {
            Ok((told, condition, xml)) => {
                condition.state.name().clone_into(&mut guest.state);
                condition.reason.clone_into(&mut guest.reason);
                fill_from_live(&mut guest, &xml);
                told
            }
            Err(error) => Err(error.to_string()),
        };
        if sizes_open {
            self.fill_sizes(verb, &mut guest.disks, hold, deadline);
        }
        let (live, message) = (told.is_ok(), told.err().unwrap_or_default());
        SettingResponse { guest: Some(guest), live, message }
    }

    /// Sets the sizes of disks to those of their volumes; where storage does not say them, they stay
    /// as they were asked for.
    fn fill_sizes(&self, verb: &str, disks: &mut [wire::Disk], hold: &Hold, deadline: Instant) {
        let Ok(own) = Own::new(self.volumes.pool(), hold.key()) else { return };
        let volumes = match self.own_volumes(verb, &own, hold, deadline) {
            Ok(volumes) => volumes,
            Err(error) => {
                return log::warn!("cannot read disk sizes; guest={:?}: {error}", hold.key());
            }
        };
        for disk in disks {
            let volume = volumes.iter().find(|volume| volume.name.as_str() == disk.volume);
            disk.size_mib = volume.map_or(disk.size_mib, |volume| volume.size_mib());
        }
    }
}

/// The guest's domain, if it has a definition that can be changed.
///
/// # Errors
/// [`Error::Unsupported`] for a transient domain; what libvirt says.
pub(super) fn persistent(session: &mut Session, id: &str) -> Result<Domain, Error> {
    let domain = session.domain(id)?;
    match domain.is_persistent()? {
        true => Ok(domain),
        false => Err(Error::Unsupported(
            "cannot change the guest's definition: the guest is transient and has none",
        )),
    }
}

/// What runs of a domain; none where it is off.
fn running(domain: &Domain) -> Result<Option<VirDomain>, Error> {
    domain.is_active()?.then(|| described(domain, XmlKind::Live)).transpose()
}

/// Tells what runs that a device comes or goes; why it has not heard.
fn tell(
    session: &mut Session,
    domain: &Domain,
    id: &str,
    way: Way,
    device: &Device,
    live: &VirDomain,
) -> Result<Result<(), String>, Error> {
    let outcome = match (way, device.is_in(live)) {
        (Way::Comes, false) => domain.attach_device(&device.xml(), Reach::Now),
        (Way::Goes, true) => match device.element_of(domain, XmlKind::Live)? {
            Some(element) => domain.detach_device(&element, Reach::Now),
            None => return Ok(Ok(())),
        },
        (Way::Comes, true) | (Way::Goes, false) => return Ok(Ok(())),
    };
    match (way, outcome) {
        (_, Err(error)) if error.connection_lost() => Err(error.into()),
        (_, Err(error)) => Ok(Err(error.message)),
        (Way::Comes, Ok(())) => Ok(Ok(())),
        (Way::Goes, Ok(())) => detach::has_let_go(session, domain, id, device),
    }
}
