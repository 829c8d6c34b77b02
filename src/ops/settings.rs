//! SetMetadata, SetAutostart, SetMemory and SetCPU: what a guest has from its next start on, and
//! where libvirt can do it at once what it has now.
//!
//! The definition comes first, then the request that is kept with the domain (so that CreateGuest
//! and Create take the guest as it is from now on for the same), then the guest that runs. Each can
//! be done twice, so a call that failed half way, or was late, is repeated.

use crate::guest::check::check_metadata;
use crate::guest::domain::{KIB_PER_MIB, VirDomain};
use crate::guest::invalid::{Fault, Invalid};
use crate::guest::memory::Plugged;
use crate::guest::metadata::Metadata;
use crate::guest::wire::verbs::{AutostartRequest, AutostartResponse, SettingResponse};
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::guest::{USER_METADATA_NAMESPACE, USER_METADATA_PREFIX};
use crate::libvirt::{Connection, Domain, Reach, XmlKind};
use crate::ops::metadata::Stored;
use crate::ops::saved::why_off;
use crate::ops::{Error, Libvirt, described, named_guest, respond, unreadable};

/// Sets something of a domain, as far as is said.
type Set = fn(&Connection, &Domain, u64, Reach) -> Result<(), Error>;

/// The maximum of a guest that a lower amount does not lower.
type Maximum = fn(&VirDomain) -> Option<u64>;

impl Libvirt {
    /// Replaces the metadata of a guest by the request's, running or not: what the request has not
    /// is gone.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; a character that XML cannot carry; what libvirt says, a
    /// missing domain among it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_metadata(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        check_metadata(&guest.metadata)?;
        let deadline = self.change_deadline(&request.args)?;
        let (id, metadata) = (guest.id.clone(), guest.metadata.clone());
        self.change("SetMetadata", &guest.id, deadline, move |session| {
            let domain = session.domain(&id)?;
            let element = Metadata::user_element(&metadata);
            let mut stored = Stored::read(&domain)?;
            if let Some(request) = &mut stored.metadata.guest {
                request.metadata = metadata;
            }
            // First what takes another domain's metadata away; and also without a request: a copy of this
            // domain shows by the uuid that its metadata is another's.
            stored.write_request(&domain)?;
            Ok(domain.set_metadata(USER_METADATA_NAMESPACE, USER_METADATA_PREFIX, &element)?)
        })?;
        Ok(respond(guest))
    }

    /// Says whether libvirt starts the guest when the host starts. It does so by itself: nobody
    /// looks at the guest's disks then as Run does. `virDomainSetAutostart`.
    ///
    /// # Errors
    /// As [`Libvirt::set_metadata`]; a request that does not say whether.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_autostart(&self, request: AutostartRequest) -> Result<AutostartResponse, Error> {
        let guest = named_guest(request.guest)?;
        let missing = || Error::Invalid("autostart is missing; set it to true or false".to_owned());
        let autostart = request.autostart.ok_or_else(missing)?;
        let deadline = self.change_deadline(&request.args)?;
        let id = guest.id.clone();
        self.change("SetAutostart", &guest.id, deadline, move |session| {
            Ok(session.domain(&id)?.set_autostart(autostart)?)
        })?;
        Ok(AutostartResponse { guest: Some(guest), autostart })
    }

    /// Gives a guest the request's `memory` from its next start on, and asks the one that runs to take or to
    /// make do with it up to its maximum: how far it does is up to its system. `virDomainSetMemoryFlags`; where a
    /// virtio-mem device gives the memory, `virDomainDefineXML` and `virDomainUpdateDeviceFlags`.
    ///
    /// # Errors
    /// As [`Libvirt::set_metadata`]; no memory. That the running guest cannot have it is none: the
    /// answer says so.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_memory(&self, request: GuestRequest) -> Result<SettingResponse, Error> {
        let mib = request.guest.as_ref().map_or(0, |guest| guest.memory_mib);
        // Saturated, so that libvirt refuses what does not fit.
        let kib = mib.saturating_mul(KIB_PER_MIB);
        let maximum: Maximum = |found| {
            let asked = found.metadata.guest.as_ref().is_some_and(|asked| asked.max_memory_mib > 0);
            (asked || found.memory_max_kib > 0).then(|| found.most_memory_kib())
        };
        self.set("SetMemory", request, "memory", kib, (set_memory, maximum), move |kept| {
            kept.memory_mib = mib;
            if kept.max_memory_mib > 0 {
                kept.max_memory_mib = kept.max_memory_mib.max(mib);
            }
        })
    }

    /// Gives a guest the request's `cpu` virtual processors from its next start on, and the one
    /// that runs, too, where libvirt can plug and unplug them. `virDomainSetVcpusFlags`.
    ///
    /// # Errors
    /// As [`Libvirt::set_memory`].
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_cpu(&self, request: GuestRequest) -> Result<SettingResponse, Error> {
        let cpu = request.guest.as_ref().map_or(0, |guest| guest.cpu);
        let maximum: Maximum = |found| Some(found.vcpu_max.max(found.vcpu));
        let set: Set = |_, domain, count, reach| Ok(domain.set_vcpus(count, reach)?);
        self.set("SetCPU", request, "cpu", cpu, (set, maximum), move |kept| kept.cpu = cpu)
    }

    /// Sets an amount for the next start, in the request that is kept, and now.
    fn set(
        &self,
        verb: &str,
        request: GuestRequest,
        member: &str,
        amount: u64,
        (set, maximum): (Set, Maximum),
        note: impl FnOnce(&mut Guest) + Send + 'static,
    ) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        if amount == 0 {
            return Err(Error::Invalid(format!("{member} is missing or 0")));
        }
        let deadline = self.change_deadline(&request.args)?;
        let id = guest.id.clone();
        let (live, message) = self.change(verb, &guest.id, deadline, move |session| {
            let domain = session.domain(&id)?;
            // A maximum for plugging stays, unless more is asked for.
            let keeps_maximum = maximum(&described(&domain, XmlKind::Inactive)?);
            if keeps_maximum.is_none_or(|maximum| amount > maximum) {
                set(session.connection()?, &domain, amount, Reach::NextMost)?;
            }
            let connection = session.connection()?;
            set(connection, &domain, amount, Reach::Next)?;
            Stored::read(&domain)?.change_request(&domain, note)?;
            apply_now(&domain, &|| set(connection, &domain, amount, Reach::Now))
        })?;
        Ok(SettingResponse { guest: Some(guest), live, message })
    }
}

/// Sets the memory of a domain in KiB, by its device where it has one.
///
/// # Errors
/// What libvirt says; [`Error::Invalid`] for memory that is no multiple of the device's unit.
fn set_memory(
    connection: &Connection,
    domain: &Domain,
    kib: u64,
    reach: Reach,
) -> Result<(), Error> {
    let kind = if reach == Reach::Now { XmlKind::Live } else { XmlKind::Definition };
    let Some(plugged) = Plugged::from_xml(&domain.xml(kind)?).map_err(unreadable)? else {
        return Ok(domain.set_memory(kib, reach)?);
    };
    let (mib, unit) = (kib / KIB_PER_MIB, plugged.block_kib / KIB_PER_MIB);
    if kib % plugged.block_kib != 0 {
        let fault = Fault::NotMultiple { found: mib, unit };
        return Err(Invalid::Member { member: "memory".to_owned(), fault }.into());
    }
    if reach != Reach::Now {
        connection.define_domain(&plugged.starting_with(kib).map_err(unreadable)?)?;
        return Ok(());
    }
    let balloon_kib = match plugged.told(kib).map_err(unreadable)? {
        Some((device, balloon_kib)) => {
            domain.update_device(&device, reach, false)?;
            balloon_kib
        }
        None => kib,
    };
    Ok(domain.set_memory(balloon_kib, reach)?)
}

/// Applies to a guest that runs what its definition has already; whether it has it now, and why not. That it cannot
/// have it is no error.
///
/// # Errors
/// When libvirt cannot be asked.
pub(super) fn apply_now(
    domain: &Domain,
    apply: &dyn Fn() -> Result<(), Error>,
) -> Result<(bool, String), Error> {
    if !domain.is_active()? {
        return Ok((false, why_off(domain)?.to_owned()));
    }
    match apply() {
        Ok(()) => Ok((true, String::new())),
        Err(Error::Libvirt(error)) if !error.connection_lost() => Ok((false, error.message)),
        Err(error) => Err(error),
    }
}
