//! The definition of a guest's domain, before and after a device is attached or detached.

use std::time::Instant;

use crate::guest::domain::VirDomain;
use crate::guest::known;
use crate::guest::wire::{self, Guest};
use crate::libvirt::{Domain, XmlKind};
use crate::ops::guests::devices::device::Device;
use crate::ops::hypervisor::definition::described;
use crate::ops::networks::guest_networks::nic_networks;
use crate::ops::{Error, Guests, Session};
use crate::pool::GuestLock;

/// Whether a device is attached or detached.
#[derive(Clone, Copy)]
pub(super) enum DeviceChange {
    Attach,
    Detach,
}

/// The result of a change of a definition.
pub(super) struct Changed {
    pub(super) device: Device,
    pub(super) guest: Guest,
    /// Whether storage must report the sizes of disks, because images may be larger than the requested size.
    pub(super) sizes_open: bool,
}

impl Changed {
    /// Reads the changed definition. For a guest of the original agent, `asked` has what only the caller knows.
    pub(super) fn read(
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

impl Guests {
    /// Returns the domain's definition, and its live definition if it runs.
    pub(super) fn look_at_devices(
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
        self.core.run_locked(verb, deadline, lock, look, |_, _| {})
    }
}

/// Returns the guest's domain, if it has a definition that can be changed.
///
/// # Errors
/// [`Error::Unsupported`] for a transient domain; errors of libvirt.
pub(in crate::ops::guests) fn persistent(session: &mut Session, id: &str) -> Result<Domain, Error> {
    let domain = session.domain(id)?;
    match domain.is_persistent()? {
        true => Ok(domain),
        false => Err(Error::Unsupported(
            "cannot change the guest's definition: the guest is transient and has none",
        )),
    }
}

/// Returns the live definition of a domain; `None` if it is off.
pub(super) fn running(domain: &Domain) -> Result<Option<VirDomain>, Error> {
    domain.is_active()?.then(|| described(domain, XmlKind::Live)).transpose()
}
