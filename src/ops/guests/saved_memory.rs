//! Guests with saved memory (libvirt's managed save): they are off, but their next start continues from the saved
//! state.
//!
//! `virsh managedsave` saves a guest, and so does libvirt-guests with `ON_SHUTDOWN=suspend`. The memory matches only
//! the disks and devices that the guest had. Therefore changes of these are refused, and the answer of a setting says
//! that it applies later than at the next start.
//!
//! | methods | with saved memory |
//! |---|---|
//! | Run, Create | libvirt restores the memory |
//! | Delete | the memory is removed, too |
//! | DiscardSaved | the memory is removed; the next start boots |
//! | Update, SetSeed, DetachDisk, DetachNic, ResizeDisk, RollbackSnapshot, DeleteGuestDisks, DeleteDataset | refused |
//! | AttachDisk, AttachNic, InsertMedia, EjectMedia, SetMemory, SetCPU, SetLimits | the definition changes, and the answer says when it applies |
//! | SetMetadata | the definition changes, which List and Describe read, whatever the restored guest has |
//! | all others | as for a guest that is off |

use std::time::Instant;

use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::libvirt::{Code, Domain};
use crate::ops::requests::{named_guest, respond};
use crate::ops::{Core, Error, Guests, Session};
use crate::pool::GuestLock;

/// The message of a setting's answer for a guest with saved memory.
pub(super) const APPLIES_LATER: &str = "the guest has saved memory, and its next start restores the \
    former settings; call Run and Poweroff, or DiscardSaved, to apply this change";

impl Guests {
    /// Removes a guest's saved memory, so that its next start boots; succeeds without any.
    /// `virDomainManagedSaveRemove`.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; errors of libvirt, including a missing domain.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn discard_saved(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let id = guest.id.clone();
        self.core.change("DiscardSaved", &guest.id, deadline, move |session| {
            let domain = session.domain(&id)?;
            if is_saved(&domain)? {
                domain.remove_managed_save()?;
            }
            Ok(())
        })?;
        Ok(respond(guest))
    }
}

impl Core {
    /// Refuses a guest with saved memory; the guest need not exist.
    ///
    /// # Errors
    /// [`Error::Saved`]; if libvirt does not answer.
    pub(in crate::ops) fn check_not_saved(
        &self,
        verb: &str,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        let id = lock.guest().to_owned();
        let look = move |session: &mut Session| match session.find(&id)? {
            Some(domain) => not_saved(&domain),
            None => Ok(()),
        };
        self.run_locked(verb, deadline, lock, look, |_, _| {})
    }
}

/// Returns whether a domain has saved memory. One round trip.
pub(in crate::ops) fn is_saved(domain: &Domain) -> Result<bool, Error> {
    match domain.has_managed_save() {
        Err(error) if error.code == Code::NO_SUPPORT => Ok(false),
        outcome => Ok(outcome?),
    }
}

/// Refuses a domain with saved memory.
///
/// # Errors
/// [`Error::Saved`].
pub(super) fn not_saved(domain: &Domain) -> Result<(), Error> {
    match is_saved(domain)? {
        true => Err(Error::Saved { id: domain.name()? }),
        false => Ok(()),
    }
}

/// Returns why a change did not apply at once to a domain that is off.
pub(super) fn why_off(domain: &Domain) -> Result<&'static str, Error> {
    Ok(if is_saved(domain)? { APPLIES_LATER } else { "the guest is off" })
}
