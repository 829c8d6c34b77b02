//! SetMetadata, SetAutostart, SetMemory and SetCPU: change a guest's definition, and the running guest where libvirt
//! can do so.
//!
//! A method first changes the definition, then the request stored with the domain, then the running guest. With the
//! stored request, CreateGuest and Create take a request with the new values as the same guest. Each step can be
//! repeated, so a caller repeats a call that failed halfway or was late.

use crate::guest::check::check_metadata;
use crate::guest::domain::{KIB_PER_MIB, VirDomain};
use crate::guest::invalid::{Fault, Invalid};
use crate::guest::memory::Plugged;
use crate::guest::metadata::Metadata;
use crate::guest::wire::verbs::{AutostartRequest, AutostartResponse, SettingResponse};
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::guest::{USER_METADATA_NAMESPACE, USER_METADATA_PREFIX};
use crate::libvirt::{AffectFlags, Connection, Domain, XmlKind};
use crate::ops::guests::saved_memory::why_off;
use crate::ops::hypervisor::definition::{described, unreadable};
use crate::ops::metadata::Stored;
use crate::ops::requests::{named_guest, respond};
use crate::ops::{Error, Guests};

/// Sets an amount in the definition or in the running domain.
type Set = fn(&Connection, &Domain, u64, AffectFlags) -> Result<(), Error>;

/// Returns the maximum of a guest if a lower amount must not lower it.
type Maximum = fn(&VirDomain) -> Option<u64>;

impl Guests {
    /// Replaces the metadata of a guest by the request's, whether it runs or not. Keys that the request omits are
    /// removed.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; a character that XML cannot contain; errors of libvirt, including a missing
    /// domain.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_metadata(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        check_metadata(&guest.metadata)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let (id, metadata) = (guest.id.clone(), guest.metadata.clone());
        self.core.change("SetMetadata", &guest.id, deadline, move |session| {
            let domain = session.domain(&id)?;
            let element = Metadata::user_element(&metadata);
            let mut stored = Stored::read(&domain)?;
            if let Some(request) = &mut stored.metadata.guest {
                request.metadata = metadata;
            }
            // Before the metadata, because this removes another domain's metadata; and even without a request, so that
            // a copy of this domain is recognized by the uuid.
            stored.write_request(&domain)?;
            Ok(domain.set_metadata(USER_METADATA_NAMESPACE, USER_METADATA_PREFIX, &element)?)
        })?;
        Ok(respond(guest))
    }

    /// Sets whether libvirt starts the guest when the host starts. libvirt then starts it without this agent, so the
    /// checks of Run on the guest's disks do not apply. `virDomainSetAutostart`.
    ///
    /// # Errors
    /// As [`Guests::set_metadata`]; a request without `autostart`.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_autostart(&self, request: AutostartRequest) -> Result<AutostartResponse, Error> {
        let guest = named_guest(request.guest)?;
        let missing = || Error::Invalid("autostart is missing; set it to true or false".to_owned());
        let autostart = request.autostart.ok_or_else(missing)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let id = guest.id.clone();
        self.core.change("SetAutostart", &guest.id, deadline, move |session| {
            Ok(session.domain(&id)?.set_autostart(autostart)?)
        })?;
        Ok(AutostartResponse { guest: Some(guest), autostart })
    }

    /// Sets the memory of a guest to the request's `memory`: in its definition, and up to its maximum also while it
    /// runs, if its system complies. `virDomainSetMemoryFlags`; for memory of a virtio-mem device, `virDomainDefineXML`
    /// and `virDomainUpdateDeviceFlags`.
    ///
    /// # Errors
    /// As [`Guests::set_metadata`]; no memory. A running guest that cannot have the memory is no error: the answer
    /// reports it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_memory(&self, request: GuestRequest) -> Result<SettingResponse, Error> {
        let mib = request.guest.as_ref().map_or(0, |guest| guest.memory_mib);
        // Saturated, so that libvirt refuses an amount that is too large.
        let kib = mib.saturating_mul(KIB_PER_MIB);
        let maximum: Maximum = |found| {
            let asked = found.metadata.guest.as_ref().is_some_and(|asked| asked.max_memory_mib > 0);
            (asked || found.memory_max_kib > 0).then(|| found.most_memory_kib())
        };
        self.set("SetMemory", request, "memory", kib, (set_memory, maximum), move |stored| {
            stored.memory_mib = mib;
            if stored.max_memory_mib > 0 {
                stored.max_memory_mib = stored.max_memory_mib.max(mib);
            }
        })
    }

    /// Sets the number of a guest's virtual processors to the request's `cpu`: in its definition, and also while it
    /// runs, if libvirt can plug and unplug them. `virDomainSetVcpusFlags`.
    ///
    /// # Errors
    /// As [`Guests::set_memory`].
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_cpu(&self, request: GuestRequest) -> Result<SettingResponse, Error> {
        let cpu = request.guest.as_ref().map_or(0, |guest| guest.cpu);
        let maximum: Maximum = |found| Some(found.vcpu_max.max(found.vcpu));
        let set: Set = |_, domain, count, affect| Ok(domain.set_vcpus(count, affect)?);
        self.set("SetCPU", request, "cpu", cpu, (set, maximum), move |stored| stored.cpu = cpu)
    }

    /// Sets an amount in the definition, in the stored request, and in the running guest.
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
        let deadline = self.core.change_deadline(&request.args)?;
        let id = guest.id.clone();
        let (live, message) = self.core.change(verb, &guest.id, deadline, move |session| {
            let domain = session.domain(&id)?;
            // The maximum stays, unless the amount is above it.
            let keeps_maximum = maximum(&described(&domain, XmlKind::Inactive)?);
            if keeps_maximum.is_none_or(|maximum| amount > maximum) {
                set(session.connection()?, &domain, amount, AffectFlags::ConfigMaximum)?;
            }
            let connection = session.connection()?;
            set(connection, &domain, amount, AffectFlags::Config)?;
            Stored::read(&domain)?.change_request(&domain, note)?;
            apply_now(&domain, &|| set(connection, &domain, amount, AffectFlags::Live))
        })?;
        Ok(SettingResponse { guest: Some(guest), live, message })
    }
}

/// Sets the memory of a domain in KiB, through its virtio-mem device if it has one.
///
/// # Errors
/// Errors of libvirt; [`Error::Invalid`] for memory that is not a multiple of the device's unit.
fn set_memory(
    connection: &Connection,
    domain: &Domain,
    kib: u64,
    affect: AffectFlags,
) -> Result<(), Error> {
    let kind = if affect == AffectFlags::Live { XmlKind::Live } else { XmlKind::Definition };
    let Some(plugged) = Plugged::from_xml(&domain.xml(kind)?).map_err(unreadable)? else {
        return Ok(domain.set_memory(kib, affect)?);
    };
    let (mib, unit) = (kib / KIB_PER_MIB, plugged.block_kib / KIB_PER_MIB);
    if kib % plugged.block_kib != 0 {
        let fault = Fault::NotMultiple { found: mib, unit };
        return Err(Invalid::Member { member: "memory".to_owned(), fault }.into());
    }
    if affect != AffectFlags::Live {
        connection.define_domain(&plugged.starting_with(kib).map_err(unreadable)?)?;
        return Ok(());
    }
    let balloon_kib = match plugged.targets(kib).map_err(unreadable)? {
        Some((device, balloon_kib)) => {
            domain.update_device(&device, affect, false)?;
            balloon_kib
        }
        None => kib,
    };
    Ok(domain.set_memory(balloon_kib, affect)?)
}

/// Applies a change of the definition to the guest if it runs. Returns whether that succeeded, and else the reason: a
/// failure is no error.
///
/// # Errors
/// If libvirt does not answer.
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
