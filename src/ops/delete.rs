//! Delete: a guest's domain and networks, gone; what a former attempt left included.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use log::{info, warn};

use crate::config::fixed::TAKE_BACK;
use crate::events::What;
use crate::guest::domain::{Metadata, VirDomain};
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::journal::{Step, Verb};
use crate::libvirt::{self, Code, Connection, Domain, XmlKind};
use crate::ops::disks::resolved;
use crate::ops::keeper::Nudge;
use crate::ops::steps::Steps;
use crate::ops::volumes::{Expected, LeavingVolumes, complete, wants_volumes};
use crate::ops::{Error, Libvirt, Session, domains, lifecycle, networks, respond, screens};
use crate::pool::Hold;
use crate::storage::{Id, Removal, Volumes, Whose, Why};

impl Libvirt {
    /// Destroys the guest's domain if it runs in any way, undefines it, removes the networks of the
    /// request's NICs that no other guest uses and those that this agent made for it, and destroys
    /// the volumes that it made for it. A `source` that was handed in is left alone. The log of its
    /// console goes, too.
    ///
    /// The answer is the request's guest, unchanged. A domain that is gone already is no error
    /// where networks or volumes of it are left to remove.
    ///
    /// # Errors
    /// What libvirt says; where nothing of the guest is left, that there is no such domain.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); later than that it is still
    /// finished.
    pub fn delete(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = request.guest.ok_or(Error::NoGuest)?;
        let deadline = self.change_deadline(&request.args)?;
        let id = guest.id.clone();
        // Before the key is asked for: a verb that hangs on this guest's emulator holds the key and
        // is freed by this.
        let was_there = self.urgent("Delete", &guest.id, deadline, move |session| match session
            .find(&id)?
        {
            Some(domain) => destroy_if_active(&domain).map(|()| true),
            None => Ok(false),
        })?;
        let hold = self.hold(&guest.id, deadline)?;
        let removed = self.remove_guest(&guest, &hold, deadline);
        if removed.as_ref().is_err_and(Error::is_unreachable) {
            // What is open of it is finished as soon as that can be.
            self.looks.nudge().now();
        }
        match removed? {
            (Some(missing), false) if !was_there => Err(missing.into()),
            _ => {
                screens::forget_console(&guest.id, &self.host);
                self.events.note(&guest.id, What::Deleted);
                Ok(respond(guest))
            }
        }
    }

    /// Everything of a Delete but stopping the guest: libvirt's word that there is no such domain,
    /// and whether anything was removed.
    fn remove_guest(
        &self,
        guest: &Guest,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<(Option<libvirt::Error>, bool), Error> {
        let (leaving, volumes) = (guest.clone(), Arc::clone(&self.volumes));
        let mut steps = Steps::new(&self.journal, Verb::Delete, guest);
        let ended = self.looks.nudge();
        let work = move |session: &mut Session| match remove(session, &leaving, &mut steps) {
            Ok(removed) => Ok((removed, steps)),
            Err(error) if error.is_unreachable() => Err(error),
            Err(error) => {
                // The caller hears what is left, and says what is to become of it.
                end(steps, &ended);
                Err(error)
            }
        };
        let id = guest.id.clone();
        let nudge = self.looks.nudge();
        let late = move |session: &mut Session, outcome: Result<(Removed, Steps), Error>| {
            if let Ok((removed, steps)) = outcome {
                finish_late(session, &*volumes, &id, removed, steps);
            }
            nudge.now();
        };
        let (mut removed, steps) = self.held("Delete", deadline, hold, work, late)?;
        // Also where the definition names no volumes: another tool may have defined the domain again without
        // this agent's metadata, and the next guest of this id must not find them.
        let removal = self.destroy_volumes(&guest.id, removed.volumes, hold, deadline)?;
        removed.something |= !removal.destroyed.is_empty();
        if let Err(error) = complete(&removal) {
            end(steps, &self.looks.nudge());
            return Err(error);
        }
        end(steps, &self.looks.nudge());
        Ok((removed.missing, removed.something))
    }
}

/// Ends the journal's part of it. What is gone is gone, whatever the journal can note: where it has the
/// Delete all the same, that is finished once more, by the keeper or the next verb.
fn end(steps: Steps, keeper: &Nudge) {
    let guest = steps.guest().to_owned();
    if let Err(error) = steps.settled() {
        warn!("guest {guest:?}: the end of a Delete: {error}");
        keeper.now();
    }
}

/// The volumes of a Delete whose caller was told that it is late.
fn finish_late(
    session: &mut Session,
    volumes: &dyn Volumes,
    id: &str,
    removed: Removed,
    steps: Steps,
) {
    let outcome = destroy_late(session, volumes, id, removed.volumes);
    match outcome.and_then(|()| Ok(steps.settled()?)) {
        Ok(()) => info!("guest {id:?}: a late Delete was finished"),
        Err(error) => warn!("guest {id:?}: finish a late Delete: {error}"),
    }
}

fn destroy_late(
    session: &mut Session,
    volumes: &dyn Volumes,
    id: &str,
    leaving: LeavingVolumes,
) -> Result<(), Error> {
    let Ok(guest) = Id::parse(id) else { return Ok(()) };
    let LeavingVolumes { expected, kept } = leaving;
    let mut in_use = session.read(|connection| Ok(domains::in_use_by_others(connection, id)?))?;
    kept.into_iter().for_each(|path| in_use.keep(path));
    let deadline = Instant::now() + TAKE_BACK;
    match volumes.destroy_guest(&guest, Whose::Marked, &in_use, deadline) {
        Err(error) if expected.allows(&error) => Ok(()),
        removal => report_left(id, &removal?),
    }
}

/// What a Delete that no caller waits for does about volumes that stay: those that another domain uses are
/// that domain's now, so that the Delete is done; all others are tried again.
///
/// # Errors
/// [`Error::VolumesLeft`].
pub(super) fn report_left(id: &str, removal: &Removal) -> Result<(), Error> {
    let (used, others): (Vec<_>, Vec<_>) =
        removal.left.iter().partition(|left| matches!(left.why, Why::Used(_)));
    for left in used {
        warn!("guest {id:?}: a volume stays: {left}");
    }
    match others.is_empty() {
        true => Ok(()),
        false => Err(Error::VolumesLeft(others.iter().map(ToString::to_string).collect())),
    }
}

pub(super) fn destroy_if_active(domain: &Domain) -> Result<(), Error> {
    let gone = |error: &libvirt::Error| error.code == Code::NO_DOMAIN;
    match domain.is_active() {
        Ok(true) => Ok(lifecycle::destroy(domain)?),
        // A domain without a definition is gone when it is off.
        Err(error) if !gone(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// What the libvirt job of a Delete found and did.
struct Removed {
    /// libvirt's word that there is no such domain.
    missing: Option<libvirt::Error>,
    /// Whether anything was removed.
    something: bool,
    /// What the domain said of the guest's volumes.
    volumes: LeavingVolumes,
}

fn remove(session: &mut Session, guest: &Guest, steps: &mut Steps) -> Result<Removed, Error> {
    let (domain, missing) = match session.domain(&guest.id) {
        Ok(domain) => (Some(domain), None),
        Err(Error::Libvirt(error)) if error.code == Code::NO_DOMAIN => (None, Some(error)),
        Err(error) => return Err(error),
    };
    let connection = session.connection()?;
    let (names, volumes) = leaving(connection, guest, domain.as_ref())?;
    if let Some(domain) = domain {
        note_leaving(steps, &names, &volumes, Some(domain.uuid()?));
        destroy_if_active(&domain)?;
        undefine(&domain)?;
    } else if !names.is_empty() {
        note_leaving(steps, &names, &volumes, None);
    }
    let removed = networks::remove_all(connection, &guest.id, &names)?;
    Ok(Removed { missing, something: removed > 0, volumes })
}

/// The names of the networks that go with a guest if no other one uses them, and what its definition says
/// of its volumes.
pub(super) fn leaving(
    connection: &Connection,
    guest: &Guest,
    domain: Option<&Domain>,
) -> Result<(BTreeSet<String>, LeavingVolumes), Error> {
    let mut names: BTreeSet<String> = guest.nics.iter().map(|nic| nic.mac.clone()).collect();
    names.remove("");
    let Some(domain) = domain else {
        let volumes = LeavingVolumes { expected: Expected::Unknown, kept: Vec::new() };
        return Ok((names, volumes));
    };
    let found = definition(domain, &guest.id)?;
    names.extend(networks_made(connection, &found, &guest.id)?);
    let Metadata { guest: request, besides, .. } = &found.metadata;
    let supplied = request.iter().flat_map(|request| &request.disks);
    let supplied = supplied.filter(|disk| !disk.source.is_empty());
    let volumes = LeavingVolumes {
        expected: match request {
            _ if besides.volumes => Expected::Some,
            Some(request) if wants_volumes(request) => Expected::Some,
            Some(_) => Expected::None,
            None => Expected::Unknown,
        },
        kept: supplied.map(|disk| resolved(Path::new(&disk.source))).collect(),
    };
    Ok((names, volumes))
}

/// Notes what goes. A journal that cannot be written does not keep a guest: deleting may be what
/// makes room again, and a Delete that a crash cut off can be repeated.
fn note_leaving(
    steps: &mut Steps,
    names: &BTreeSet<String>,
    volumes: &LeavingVolumes,
    domain_uuid: Option<String>,
) {
    let networks = names.iter().cloned().collect();
    // Last what decides: without it the guest is whole, and a crash leaves it so.
    let domain = domain_uuid.map(|uuid| Step::Domain { uuid: Some(uuid) });
    let leaving = Step::Leaving {
        networks,
        volumes: volumes.expected != Expected::None,
        expected: volumes.expected == Expected::Some,
        kept: volumes.kept.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
    };
    let leaving = [Some(leaving), domain];
    let noted = leaving.into_iter().flatten().try_for_each(|step| steps.note(step));
    if let Err(error) = noted {
        warn!("guest {:?}: a Delete that a crash may leave half done: {error}", steps.guest());
    }
}

/// Forgets a domain; one without a definition is gone when it is off.
pub(super) fn undefine(domain: &Domain) -> Result<(), libvirt::Error> {
    match domain.undefine() {
        Err(error) if error.code == Code::NO_DOMAIN => Ok(()),
        outcome => outcome,
    }
}

/// What libvirt says of the domain; nothing where that cannot be read, which keeps no Delete.
fn definition(domain: &Domain, id: &str) -> Result<VirDomain, Error> {
    Ok(VirDomain::from_xml(&domain.xml(XmlKind::Inactive)?).unwrap_or_else(|error| {
        warn!("guest {id}: libvirt's XML: {error}");
        VirDomain::default()
    }))
}

/// The names of the networks that this agent made for the guest, by what it keeps with its domain;
/// the original kept nothing, so that there the interfaces tell.
fn networks_made(
    connection: &Connection,
    found: &VirDomain,
    id: &str,
) -> Result<Vec<String>, Error> {
    let mut names = found.metadata.besides.networks.clone();
    match &found.metadata.guest {
        Some(request) => names.extend(request.nics.iter().map(|nic| nic.mac.clone())),
        None => {
            let interfaces = found.devices.interfaces.iter();
            names.extend(interfaces.map(|interface| interface.source.network.clone()));
        }
    }
    names.remove("");
    let mut made = Vec::new();
    for name in names {
        if networks::marked_for(connection, &name, id)? {
            made.push(name);
        }
    }
    Ok(made)
}
