//! How each step is undone, and how it is finished.
//!
//! | step | undone | finished |
//! |---|---|---|
//! | `Domain` | undefine it, if it is off and the agent's | destroy and undefine it, if it has the recorded uuid |
//! | `Disk`, `Nic` | detach it from the definition | the same |
//! | `NetworkDefined` | remove it, if it has the guest's mark and no domain uses it | |
//! | `NetworkStarted` | stop it, if no running domain uses it | |
//! | `Volume` | destroy it, if it has the guest's mark and no other domain uses it | destroy it, if it has the recorded mark and no domain uses it |
//! | `Snapshot` | destroy it, if this call made it | |
//! | `SeedFiles` | remove them, once the domain is gone | the same |
//! | `Frozen` | have the guest agent thaw the file systems, if the domain runs | |
//! | `Size` | | set the size of the volume in the definition and in the running guest (`ops::guests::resize`) |
//! | `Leaving` | | remove the guest's networks and volumes that no other domain uses |
//! | `Gone`, `Released` | | nothing: they record which objects the other steps mean |
//!
//! Recovery processes the steps of libvirt in reverse order, then the files of seeds, then all steps of storage. A
//! refused step does not stop the others, except that a domain that stays keeps everything that belongs to it. A new
//! kind of step needs a line in [`row`] and in `Recovered::step_in_libvirt`; the compiler names both.

use std::path::Path;
use std::time::Instant;

use log::warn;

use crate::config::fixed::AGENT_COMMAND;
use crate::guest::domain::VirDomain;
use crate::journal::{Direction, Intent, Step, Verb};
use crate::libvirt::XmlKind;
use crate::ops::disks::domain_uses::{DomainUse, all_uses};
use crate::ops::disks::volume_owners::{Expected, guest_of};
use crate::ops::guests::devices;
use crate::ops::guests::undefine::{destroy_if_active, undefine};
use crate::ops::networks::guest_networks::{self, OwnerMatch};
use crate::ops::{Error, Session};
use crate::storage::{
    self, CreatedVolume, Id, InUse, LeftoverVolume, Maker, PoolName, Recursion, Removal,
    StoredVolume, VolumeSelection, Volumes,
};

use super::leftovers::Leftover;

/// What a recovery has done so far, first in libvirt, then in storage.
#[derive(Debug, Default)]
pub(in crate::ops) struct Recovered {
    /// The remaining part of the recovery.
    pub(super) rest: Rest,
    /// Whether an object was removed.
    pub(in crate::ops) removed: bool,
    /// The objects that stay because other domains use them, or other tools made them.
    pub(in crate::ops) used: Vec<Leftover>,
    /// The objects that could not be undone or finished.
    pub(super) left: Vec<Leftover>,
    /// The steps of a Delete that finish its leftovers.
    pub(super) remaining: Vec<Step>,
    /// Why the domain of a Delete stays.
    pub(super) refused: Option<Error>,
}

/// The remaining part of a recovery after libvirt's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// Storage's part remains.
    #[default]
    Storage,
    /// Nothing remains: libvirt refused to remove the domain or a device, and the objects that belong to it stay.
    Refused,
    /// Nothing remains: the guest runs with the new object, which therefore stays.
    Retained,
    /// Nothing remains: the change had not started, or its guest is gone.
    Void,
    /// The remains of the former guest: another domain may have its id by now.
    Followed,
}

/// What recovery needs for a kind of step.
pub(super) struct Row {
    /// Whether it asks libvirt, if only for the users of a volume.
    pub(super) needs_libvirt: bool,
    /// Whether domains may use its volumes, which then stay.
    may_be_used: bool,
    /// Whether it asks storage.
    pub(super) needs_storage: bool,
    /// Whether a leftover keeps it.
    pub(super) kept: Kept,
}

/// Whether a leftover keeps a step. It does if the step can be undone or finished later, whatever the guest is by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// By every leftover.
    Always,
    /// By a leftover of Delete: the uuid distinguishes the objects of the deleted domain from others.
    ByDelete,
    /// A device may have been attached again by then, and a domain defined again.
    Never,
}

/// Returns the row of a step.
pub(super) fn row(step: &Step) -> Row {
    use Kept::{Always, ByDelete, Never};
    let (needs_libvirt, may_be_used, needs_storage, kept) = match step {
        Step::Volume { .. } => (true, true, true, Always),
        Step::Snapshot { .. } => (false, false, true, Always),
        Step::NetworkDefined(_) => (true, false, false, Always),
        Step::NetworkStarted(_) => (true, false, false, Never),
        Step::SeedFiles(_) => (false, false, false, Always),
        Step::Domain { .. } => (true, false, false, ByDelete),
        Step::Disk { .. } | Step::Nic { .. } | Step::Frozen(_) => (true, false, false, Never),
        // The only step of its method, which `ops::guests::resize` finishes.
        Step::Size { .. } => (true, false, false, Never),
        Step::Leaving { .. } => (true, true, true, ByDelete),
        Step::Gone { .. } => (false, false, false, ByDelete),
        // `safe_steps` adds it to each leftover of Delete.
        Step::Released => (false, false, false, Never),
    };
    Row { needs_libvirt, may_be_used, needs_storage, kept }
}

/// Undoes or finishes the domains and networks that an intent recorded. Also returns the volumes that domains use.
///
/// # Errors
/// If libvirt does not answer.
///
/// # Blocking
/// Until libvirt has answered: some round trips for each step, and some for each domain of the host.
pub(super) fn in_libvirt(
    session: &mut Session,
    intent: &Intent,
    is_resumed: bool,
) -> Result<(Recovered, InUse), Error> {
    let mut recovered = Recovered { rest: aim(session, intent)?, ..Recovered::default() };
    let mut in_use = InUse::default();
    if recovered.rest == Rest::Void {
        return Ok((recovered, in_use));
    }
    // Read once, if a step needs it, after the domain is gone.
    let mut users = None;
    for step in intent.steps.iter().rev() {
        match recovered.step_in_libvirt(session, intent, step, &mut users, is_resumed) {
            Ok(()) => {}
            Err(error) if error.is_unreachable() => return Err(error),
            // The objects of a domain stay as long as the domain does.
            Err(error) if matches!(step, Step::Domain { .. }) => {
                recovered.refused = Some(error);
                recovered.rest = Rest::Refused;
            }
            Err(error) => recovered.left.push(Leftover::of(step, &intent.guest, &error)),
        }
        if matches!(recovered.rest, Rest::Retained | Rest::Refused) {
            return Ok((recovered, in_use));
        }
    }
    if intent.steps.iter().any(|step| row(step).may_be_used) {
        for user in users_of(session, &mut users)? {
            if user.name == intent.guest && recovered.rest != Rest::Followed {
                // The guest's own domain is the maker of the volume of an attach that is undone.
                user.add_paths_to(&mut in_use);
            } else {
                user.add_to(&mut in_use);
            }
        }
    }
    Ok((recovered, in_use))
}

/// Returns which part of an intent remains.
fn aim(session: &mut Session, intent: &Intent) -> Result<Rest, Error> {
    if intent.verb.direction() == Direction::Back {
        return Ok(Rest::Storage);
    }
    if intent.is_released() {
        return Ok(Rest::Followed);
    }
    let found = session.find(&intent.guest)?.map(|domain| domain.uuid()).transpose()?;
    Ok(match (intent.verb, found, deleted_uuid(intent)) {
        (Verb::Delete, None, _) => Rest::Storage,
        (Verb::Delete, Some(found), Some(deleted)) if found == deleted && intent.has_domain() => {
            Rest::Storage
        }
        (Verb::Delete, Some(_), Some(_)) => Rest::Followed,
        // The Delete did not reach the domain, which is whole; or somebody has defined a new one.
        (Verb::Delete, Some(_), None) | (_, None, _) => Rest::Void,
        (_, Some(_), _) => Rest::Storage,
    })
}

/// Returns the uuid of the domain of a Delete; `None` if there was no domain.
fn deleted_uuid(intent: &Intent) -> Option<&str> {
    intent.steps.iter().find_map(|step| match step {
        Step::Domain { uuid } => uuid.as_deref(),
        Step::Gone { uuid } => Some(uuid.as_str()),
        _ => None,
    })
}

/// Returns which volumes a Delete removes: all volumes with the guest's mark, because no other method of the guest has
/// started since. For a later retry, and if another domain of this name exists, only the volumes of the deleted domain.
fn whose(intent: &Intent, rest: Rest) -> Option<VolumeSelection> {
    match (rest, deleted_uuid(intent)) {
        (Rest::Followed, uuid) => uuid.map(|uuid| VolumeSelection::OfDomain(Maker::domain(uuid))),
        _ => Some(VolumeSelection::Marked),
    }
}

impl Recovered {
    /// Undoes or finishes the part of a step that is in libvirt.
    fn step_in_libvirt(
        &mut self,
        session: &mut Session,
        intent: &Intent,
        step: &Step,
        users: &mut Option<Vec<DomainUse>>,
        is_resumed: bool,
    ) -> Result<(), Error> {
        let id = intent.guest.as_str();
        let is_followed = self.rest == Rest::Followed;
        match (step, intent.verb.direction()) {
            (Step::Domain { uuid }, Direction::Back) => {
                let runs = undefine_if_made(session, id, uuid.as_deref());
                self.rest = self.unless_refused(intent, step, runs)?;
            }
            (Step::Disk { .. } | Step::Nic { .. }, Direction::Back) => {
                self.rest = self.unless_refused(intent, step, devices::undo(session, id, step))?;
            }
            (Step::NetworkDefined(name), Direction::Back) => {
                let users = users_of(session, users)?;
                let connection = session.connection()?;
                let is_marked =
                    guest_networks::mark_of(connection, name)?.is_some_and(|it| it.guest == id);
                if is_marked && !users.iter().any(|user| user.may_have_network(name)) {
                    self.removed |= guest_networks::remove(connection, name)?;
                }
            }
            (Step::NetworkStarted(name), Direction::Back) => {
                let users = users_of(session, users)?;
                guest_networks::stop_unused(session.connection()?, name, users)?;
            }
            (Step::Domain { .. }, Direction::Forward) if !is_followed => {
                if let Some(domain) = session.find(id)? {
                    destroy_if_active(&domain)?;
                    undefine(&domain)?;
                    self.removed = true;
                }
            }
            (Step::Disk { .. } | Step::Nic { .. }, Direction::Forward) => {
                devices::finish(session, id, step)?;
            }
            (Step::Leaving { networks: names, .. }, Direction::Forward) => {
                let users = users_of(session, users)?;
                let names = names.iter().cloned().collect();
                // After a restart, or for a retry, an unmarked network may belong to somebody else.
                let owner = if is_resumed { OwnerMatch::Only } else { OwnerMatch::OrOriginal };
                let removal =
                    guest_networks::remove_all(session.connection()?, id, &names, users, owner)?;
                self.removed |= removal.removed > 0;
                let networks: Vec<String> =
                    removal.left.iter().map(|(name, _)| name.clone()).collect();
                if !networks.is_empty() {
                    let (volumes, expected, supplied) = (false, false, Vec::new());
                    self.remaining.push(Step::Leaving { networks, volumes, expected, supplied });
                }
                let left = removal.left.into_iter();
                self.left.extend(left.map(|(name, error)| Leftover::network(&name, &error)));
            }
            (Step::Frozen(uuid), Direction::Back) => thaw_if_running(session, id, uuid)?,
            // Another domain may have the id of the deleted one by now.
            (Step::Domain { .. }, Direction::Forward) => {}
            // No method with this step is finished, or undone.
            (
                Step::NetworkDefined(_) | Step::NetworkStarted(_) | Step::Frozen(_),
                Direction::Forward,
            )
            | (Step::Leaving { .. }, Direction::Back) => {}
            // In storage or in the state directory, or no object.
            (
                Step::Volume { .. }
                | Step::Snapshot { .. }
                | Step::Size { .. }
                | Step::SeedFiles(_)
                | Step::Gone { .. }
                | Step::Released,
                _,
            ) => {}
        }
        Ok(())
    }

    /// Returns the remaining part after a step. `runs` tells whether the guest runs with the new object.
    fn unless_refused(
        &mut self,
        intent: &Intent,
        step: &Step,
        runs: Result<bool, Error>,
    ) -> Result<Rest, Error> {
        match runs {
            Ok(true) => Ok(Rest::Retained),
            Ok(false) => Ok(Rest::Storage),
            Err(error) if error.is_unreachable() => Err(error),
            Err(error) => {
                self.left.push(Leftover::of(step, &intent.guest, &error));
                Ok(Rest::Refused)
            }
        }
    }
}

/// Returns the resources of every domain; reads them once.
fn users_of<'u>(
    session: &mut Session,
    users: &'u mut Option<Vec<DomainUse>>,
) -> Result<&'u [DomainUse], Error> {
    let found = match users.take() {
        Some(found) => found,
        None => session.read(|connection| Ok(all_uses(connection)?))?,
    };
    Ok(users.insert(found))
}

/// Undefines the guest's domain if this agent made it, it has this uuid and it is off. Returns whether it runs.
fn undefine_if_made(session: &mut Session, id: &str, uuid: Option<&str>) -> Result<bool, Error> {
    let Some(domain) = session.find(id)? else { return Ok(false) };
    let is = domain.uuid()?;
    if uuid.is_some_and(|uuid| uuid != is) {
        return Ok(false);
    }
    if domain.is_active()? {
        return Ok(true);
    }
    let found = VirDomain::from_xml(&domain.xml(XmlKind::Inactive)?).ok();
    if found.is_some_and(|found| found.metadata.guest.is_some()) {
        domain.undefine()?;
    }
    Ok(false)
}

/// Thaws the guest's domain if it has this uuid and runs. The threads of `ops::guest_agent::freezes` thaw guests after
/// a crash; this thaws them after a panic of such a thread.
fn thaw_if_running(session: &mut Session, id: &str, uuid: &str) -> Result<(), Error> {
    let Some(domain) = session.find(id)? else { return Ok(()) };
    if domain.id().is_none() || domain.uuid()? != uuid {
        return Ok(());
    }
    domain.set_agent_timeout(Some(AGENT_COMMAND))?;
    let thawed = domain.thaw();
    let reset = domain.set_agent_timeout(None);
    Ok(thawed.and(reset)?)
}

/// Undoes or finishes the volumes that an intent recorded.
///
/// # Errors
/// If storage does not answer.
///
/// # Blocking
/// Up to `deadline`.
pub(super) fn in_storage(
    volumes: &dyn Volumes,
    intent: &Intent,
    (in_use, rest): (InUse, Rest),
    deadline: Instant,
) -> Result<Recovered, storage::Error> {
    let (mut removal, mut remaining) = (Removal::default(), Vec::new());
    match (intent.verb.direction(), Id::parse(&intent.guest)) {
        (Direction::Back, Ok(_)) if intent.verb.is_for_guest() => {
            let made = made_volumes(volumes.pool(), intent);
            removal = volumes.take_back(&made, &in_use, deadline)?;
        }
        (Direction::Back, _) if !intent.verb.is_for_guest() => {
            let made = made_volumes(volumes.pool(), intent);
            removal = volumes.take_back(&made, &in_use, deadline)?;
            take_back_snapshots(volumes, intent, &mut removal, deadline)?;
        }
        (Direction::Forward, Ok(owner)) => {
            let made = made_volumes(volumes.pool(), intent);
            if !made.is_empty() {
                removal = volumes.take_back(&made, &in_use, deadline)?;
            }
            if let Some(whose) = whose(intent, rest) {
                removal.merge(destroy(volumes, intent, (&owner, whose), in_use, deadline)?);
            }
            remaining = steps_of(volumes, intent, &owner, &removal.left, deadline)?;
        }
        // An id that cannot name a dataset has no volumes.
        (_, Err(_)) | (Direction::Back, Ok(_)) => {}
    }
    let (used, left): (Vec<_>, Vec<_>) = removal.left.iter().partition(|left| left.is_others());
    Ok(Recovered {
        rest,
        removed: !removal.destroyed.is_empty(),
        left: left.into_iter().map(Leftover::volume).collect(),
        remaining,
        used: used.into_iter().map(Leftover::volume).collect(),
        refused: None,
    })
}

/// Destroys the volumes with the guest's mark, even if its definition names none. Another tool may have defined the
/// domain again without this agent's metadata, and the next guest of this id must not find the volumes.
fn destroy(
    volumes: &dyn Volumes,
    intent: &Intent,
    (owner, whose): (&Id, VolumeSelection),
    mut in_use: InUse,
    deadline: Instant,
) -> Result<Removal, storage::Error> {
    let leaving = intent.steps.iter().find_map(|step| match step {
        Step::Leaving { volumes, expected, supplied, .. } => Some((*volumes, *expected, supplied)),
        _ => None,
    });
    let Some((may_have, is_expected, supplied)) = leaving else { return Ok(Removal::default()) };
    supplied.iter().for_each(|path| in_use.keep(Path::new(path)));
    let expected = match (is_expected, may_have) {
        (true, _) => Expected::Some,
        (false, true) => Expected::Unknown,
        (false, false) => Expected::None,
    };
    match volumes.destroy_guest(owner, whose, &in_use, deadline) {
        Err(storage::Error::NoStore) if expected != Expected::Some => Ok(Removal::default()),
        Err(error) if expected.allows(&error) => {
            warn!("cannot list the volumes of a deleted guest; guest={owner:?}: {error}");
            Ok(Removal::default())
        }
        removal => removal,
    }
}

/// Returns the steps for the volumes that a Delete left, each with its mark: a new guest of the id may have others.
fn steps_of(
    volumes: &dyn Volumes,
    intent: &Intent,
    owner: &Id,
    left: &[LeftoverVolume],
    deadline: Instant,
) -> Result<Vec<Step>, storage::Error> {
    let recorded = |left: &LeftoverVolume| {
        let mut steps = intent.steps.iter();
        steps.find(|step| matches!(step, Step::Volume { name, .. } if *name == left.name))
    };
    let left = left.iter().filter(|left| !left.is_others());
    let (again, left): (Vec<_>, Vec<_>) = left.partition(|left| recorded(left).is_some());
    let again = again.into_iter().filter_map(recorded).cloned();
    if left.is_empty() {
        return Ok(again.collect());
    }
    let root = volumes.pool().guest(owner).map_err(storage::Error::Name)?;
    let found = volumes.volumes(Some(&root), deadline)?.into_iter();
    let found = found.filter(|it| left.iter().any(|left| left.name == it.name.as_str()));
    let step = |volume: StoredVolume| Step::Volume {
        name: volume.name.to_string(),
        // The guest's dataset is removed with its last volume.
        made_parent: true,
        maker: volume.maker.as_ref().map(ToString::to_string),
    };
    let mut steps: Vec<Step> = found.map(step).collect();
    if steps.len() < left.len() {
        // The guest's dataset itself stays.
        let name = volumes.pool().guest_disk(owner, 0).map_err(storage::Error::Name)?.to_string();
        steps.push(Step::Volume { name, made_parent: true, maker: None });
    }
    steps.extend(again);
    Ok(steps)
}

/// Destroys the snapshots that an intent recorded.
fn take_back_snapshots(
    volumes: &dyn Volumes,
    intent: &Intent,
    removal: &mut Removal,
    deadline: Instant,
) -> Result<(), storage::Error> {
    for step in &intent.steps {
        let Step::Snapshot { name, below, maker } = step else { continue };
        let Ok(name) = volumes.pool().full_snapshot(name) else { continue };
        let recursion = if *below { Recursion::Below } else { Recursion::Itself };
        let maker = Maker::stored(maker);
        let gone =
            volumes.take_back_snapshots(&name, recursion, &maker, intent.started, deadline)?;
        removal.destroyed.extend(gone.destroyed);
        removal.left.extend(gone.left);
    }
    Ok(())
}

fn made_volumes(pool: &PoolName, intent: &Intent) -> Vec<CreatedVolume> {
    let made = |step: &Step| match step {
        Step::Volume { name, made_parent, maker } => {
            let volume = pool.full_dataset(name).ok()?;
            // From its name: the guest may have had another id when the volume was made.
            let owner = guest_of(&volume).filter(|_| intent.verb.is_for_guest());
            Some(CreatedVolume {
                owner: owner.and_then(|id| Id::parse(id).ok()),
                maker: maker.as_deref().map(Maker::stored),
                with_parent: *made_parent,
                volume,
            })
        }
        _ => None,
    };
    intent.steps.iter().filter_map(made).collect()
}
