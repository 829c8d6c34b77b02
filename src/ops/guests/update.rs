//! Update: changes the machine of a guest's definition.

use std::env::consts::ARCH;

use crate::config::Profile;
use crate::guest::check::machine as rules;
use crate::guest::domain::{KIB_PER_MIB, VirDomain};
use crate::guest::paths;
use crate::guest::update::{self, Loss, MEMBERS, has_machine, has_members, has_schedule};
use crate::guest::wire::verbs::SettingResponse;
use crate::guest::wire::{Guest, GuestRequest};
use crate::libvirt::XmlKind;
use crate::ops::guests::devices::change::persistent;
use crate::ops::guests::machine;
use crate::ops::guests::saved_memory::not_saved;
use crate::ops::hypervisor::definition::unreadable;
use crate::ops::requests::named_guest;
use crate::ops::{Error, Guests, args};

/// The message of the answer for a running guest.
const NEXT_START: &str = "saved for the next start";

impl Guests {
    /// Changes the machine in the definition of a guest, including a guest of another tool, to the request's members
    /// ([`update::MEMBERS`]). The change applies at the next start; Describe shows it as `pending`. The rest of the
    /// definition stays, and the same call again changes nothing. `virDomainDefineXML`.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::Invalid`] for a member that this host cannot provide, for a request
    /// without such members, and for a change that would lose data if the request has no `mistify.force`;
    /// [`Error::Saved`]; errors of libvirt, including a missing domain.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn update(&self, request: GuestRequest) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        if !has_members(&guest) {
            let members = MEMBERS.join(", ");
            return Err(Error::Invalid(format!("nothing to update; set one of {members}")));
        }
        let may_lose = args::may_lose(&request.args)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let (id, mut asked, host) = (guest.id.clone(), guest.clone(), self.core.host.clone());
        let is_active = self.core.change("Update", &guest.id, deadline, move |session| {
            let domain = persistent(session, &id)?;
            not_saved(&domain)?;
            let xml = domain.xml(XmlKind::Definition)?;
            let definition = VirDomain::from_xml(&xml).map_err(unreadable)?;
            if has_schedule(&asked) && definition.metadata.guest.is_none() {
                let why = "start_order, start_delay and stop_timeout need a guest that this agent created";
                return Err(Error::Unsupported(why));
            }
            asked.profile.clone_from(&definition.metadata.profile);
            let after = as_it_would_be(&asked, &definition);
            let unit = rules::unit_fault(&after);
            if let Some(fault) = rules::faults(&after).into_iter().chain(unit).next() {
                return Err(fault.into());
            }
            if !asked.video.is_empty() && definition.devices.graphics.kind.is_empty() {
                return Err(Error::Invalid("video: the guest has no display".to_owned()));
            }
            // The capabilities of this host's emulator do not apply to another architecture.
            if definition.os.kind.arch == ARCH {
                machine::offer(session.connection()?, &after, Profile::Classic)?;
            }
            let nvram = paths::nvram(&definition.uuid, &host);
            let updated = update::updated(&xml, &asked, &nvram).map_err(unreadable)?;
            check_losses(&updated.losses, may_lose)?;
            let mut xml = updated.xml;
            if let Some(mut stored) = definition.metadata.guest {
                update::take_over(&mut stored, &asked);
                xml = update::with_request(&xml, &stored).map_err(unreadable)?;
            }
            session.connection()?.define_domain(&xml)?;
            Ok(domain.is_active()?)
        })?;
        let message = if is_active && has_machine(&guest) { NEXT_START } else { "" }.to_owned();
        Ok(SettingResponse { guest: Some(guest), live: false, message })
    }
}

/// Returns the guest after the update, for the check of what this host can provide.
fn as_it_would_be(asked: &Guest, definition: &VirDomain) -> Guest {
    let mut guest = asked.clone();
    guest.kind.clone_from(&definition.kind);
    guest.cpu = definition.vcpu;
    if guest.machine.is_empty() {
        guest.machine.clone_from(&definition.os.kind.machine);
    }
    let hardware = &definition.hardware;
    let sets_processors = guest.max_cpu > 0 || guest.cpu_topology.is_some();
    if sets_processors && guest.cpu_topology.is_none() {
        guest.cpu_topology = hardware.cpu_topology;
    }
    if !guest.cpu_pinning.is_empty() && guest.max_cpu == 0 {
        guest.max_cpu = definition.vcpu_max.max(definition.vcpu);
    }
    guest.memory_mib = definition.memory_kib / KIB_PER_MIB;
    if guest.hugepages_kib == 0 {
        guest.hugepages_kib = hardware.hugepages_kib;
    }
    if guest.max_memory_mib == 0 && hardware.memory_block_kib > 0 {
        guest.max_memory_mib = definition.most_memory_kib() / KIB_PER_MIB;
    }
    guest.disks.clear();
    guest.nics.clear();
    guest
}

/// # Errors
/// [`Error::Invalid`] names the loss.
fn check_losses(losses: &[Loss], may_lose: bool) -> Result<(), Error> {
    let why = |loss: Loss| match loss {
        // libvirt would use the file of the former firmware, or leave it in place.
        Loss::Nvram => format!(
            "firmware cannot be changed: {loss}; delete the guest and create it again on its disks"
        ),
        Loss::Memory => format!("max_memory cannot be changed: {loss}"),
        Loss::Ide => format!("machine cannot be changed: {loss}; detach it first"),
        Loss::Windows => format!(
            "machine is not changed: {loss}; set args mistify.force to \"true\" to change it"
        ),
    };
    let is_refused = |loss: &&Loss| !may_lose || **loss != Loss::Windows;
    match losses.iter().find(is_refused) {
        Some(loss) => Err(Error::Invalid(why(*loss))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_permits_another_machine_and_nothing_else() {
        for (losses, may_lose, is_fine) in [
            (&[][..], false, true),
            (&[Loss::Windows], false, false),
            (&[Loss::Windows], true, true),
            (&[Loss::Windows, Loss::Nvram], true, false),
            (&[Loss::Windows, Loss::Ide], true, false),
            (&[Loss::Memory], true, false),
        ] {
            assert_eq!(check_losses(losses, may_lose).is_ok(), is_fine, "{losses:?} {may_lose}");
        }
    }
}
