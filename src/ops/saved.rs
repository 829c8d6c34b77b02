//! Guests with saved memory (libvirt's managed save): off, but their next start goes on where they were.
//!
//! `virsh managedsave` makes such a guest, and libvirt-guests with `ON_SHUTDOWN=suspend`. Its memory fits only
//! the disks and devices that it had: what would change these is refused, and a setting says that it comes
//! later than with the next start.
//!
//! | verbs | with saved memory |
//! |---|---|
//! | Run, Create | libvirt goes on from the memory |
//! | Delete | the memory goes, too |
//! | DiscardSaved | the memory goes; the next start boots |
//! | Update, DetachDisk, DetachNic, ResizeDisk, RollbackSnapshot, DeleteGuestDisks, DeleteDataset | refused |
//! | AttachDisk, AttachNic, InsertMedia, EjectMedia, SetMemory, SetCPU, SetLimits | the definition changes, and the answer says when it counts |
//! | SetMetadata | the definition changes, which List and Describe read, whatever the restored guest has |
//! | all others | as for a guest that is off |

use std::time::Instant;

use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::libvirt::{Code, Domain};
use crate::ops::{Error, Libvirt, Session, named_guest, respond};
use crate::pool::Hold;

/// What a setting's answer says of a guest with saved memory.
pub(super) const COMES_LATER: &str = "the guest has saved memory, and its next start restores the \
    former settings; call Run and Poweroff, or DiscardSaved, to apply this change";

impl Libvirt {
    /// Removes a guest's saved memory, so that its next start boots. A guest without any is a success.
    /// `virDomainManagedSaveRemove`.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; what libvirt says, a missing domain among it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn discard_saved(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.change_deadline(&request.args)?;
        let id = guest.id.clone();
        self.change("DiscardSaved", &guest.id, deadline, move |session| {
            let domain = session.domain(&id)?;
            if is_saved(&domain)? {
                domain.remove_managed_save()?;
            }
            Ok(())
        })?;
        Ok(respond(guest))
    }

    /// Refuses to go on where a guest has saved memory; the guest need not exist.
    ///
    /// # Errors
    /// [`Error::Saved`]; when libvirt cannot be asked.
    pub(super) fn check_not_saved(
        &self,
        verb: &str,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<(), Error> {
        let id = hold.key().to_owned();
        let look = move |session: &mut Session| match session.find(&id)? {
            Some(domain) => not_saved(&domain),
            None => Ok(()),
        };
        self.held(verb, deadline, hold, look, |_, _| {})
    }
}

/// Whether a domain has saved memory. One round trip.
pub(super) fn is_saved(domain: &Domain) -> Result<bool, Error> {
    match domain.has_managed_save() {
        Err(error) if error.code == Code::NO_SUPPORT => Ok(false),
        outcome => Ok(outcome?),
    }
}

/// Refuses a domain that has saved memory.
///
/// # Errors
/// [`Error::Saved`].
pub(super) fn not_saved(domain: &Domain) -> Result<(), Error> {
    match is_saved(domain)? {
        true => Err(Error::Saved { id: domain.name()? }),
        false => Ok(()),
    }
}

/// Why what runs of a domain that is off was not told.
pub(super) fn why_off(domain: &Domain) -> Result<&'static str, Error> {
    Ok(if is_saved(domain)? { COMES_LATER } else { "the guest is off" })
}
