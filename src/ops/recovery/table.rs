//! How each step is undone, and how it is finished.
//!
//! | step | undone | finished |
//! |---|---|---|
//! | `Domain` | undefine it, if it is off and the agent's | destroy and undefine it, if it has the recorded uuid |
//! | `Disk`, `Nic` | take it out of the definition | the same |
//! | `NetworkDefined` | remove it, if it has the guest's mark and no domain uses it | |
//! | `NetworkStarted` | stop it, if no running domain uses it | |
//! | `Volume` | destroy it, if it has the guest's mark and no other domain uses it | |
//! | `Snapshot` | destroy it, if this call made it | |
//! | `SeedFiles` | remove them, once the domain is gone | the same |
//! | `Frozen` | have the guest agent thaw the file systems, if the domain runs | |
//! | `Size` | | set the size of the volume in the definition, and tell the running guest (`ops::resize`) |
//! | `Leaving` | | remove the networks and volumes that are the guest's and that no other domain uses |
//! | `Volume` | | destroy the volume, if it has the recorded mark and no domain uses it |
//!
//! Steps are taken in reverse order, first all of libvirt's, then all of storage's. A step that is refused
//! does not keep the others, except that a domain that stays keeps all that belongs to it.

use std::path::Path;
use std::time::Instant;

use log::warn;

use super::leftovers::Leftover;
use crate::config::fixed::AGENT_COMMAND;
use crate::guest::domain::VirDomain;
use crate::journal::{Direction, Intent, Step, Verb};
use crate::libvirt::XmlKind;
use crate::ops::domains::{DomainUse, all_uses};
use crate::ops::networks::Marked;
use crate::ops::undefine::{destroy_if_active, undefine};
use crate::ops::volume_owners::{Expected, guest_of};
use crate::ops::{Error, Session, devices, networks};
use crate::storage::{
    self, Id, InUse, Left, Made, Maker, PoolName, Reach, Removal, Volume, Volumes, Whose,
};

/// What recovery did with libvirt's part.
#[derive(Debug, Default)]
pub(super) struct InLibvirt {
    /// What is left to do for storage.
    pub(super) rest: Rest,
    /// Whether something was removed.
    pub(super) removed: bool,
    /// What libvirt did not remove.
    pub(super) left: Vec<Leftover>,
    /// The steps of a Delete that finish what it left.
    pub(super) remaining: Vec<Step>,
    /// The volumes that domains use.
    pub(super) in_use: InUse,
    /// Which volumes go with the guest of a Delete.
    pub(super) whose: Option<Whose>,
    /// Why the domain of a Delete stays.
    pub(super) refused: Option<Error>,
}

/// What is left to do of a transaction after libvirt's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// Storage's part.
    #[default]
    Storage,
    /// Nothing: libvirt did not let the domain or a device go, and what belongs to it stays with it.
    Refused,
    /// Nothing: the guest runs with what was made, so that it stays.
    Kept,
    /// Nothing: the change had not begun, or its guest is gone.
    Void,
    /// What is left of the guest itself: another domain has its id by now.
    Followed,
}

/// Undoes or finishes what an intent recorded of domains and networks.
///
/// # Errors
/// When libvirt cannot be asked.
///
/// # Blocking
/// As long as libvirt takes: some round trips for each step, and some for each domain of the host.
pub(super) fn in_libvirt(
    session: &mut Session,
    intent: &Intent,
    is_resumed: bool,
) -> Result<InLibvirt, Error> {
    let mut pass = InLibvirt { rest: aim(session, intent)?, ..InLibvirt::default() };
    if pass.rest == Rest::Void {
        return Ok(pass);
    }
    pass.whose = whose(intent, pass.rest);
    // Asked for once, where a step needs it, after the domain is gone.
    let mut users = None;
    for step in intent.steps.iter().rev() {
        match pass.recover(session, intent, step, &mut users, is_resumed) {
            Ok(()) => {}
            Err(error) if error.is_unreachable() => return Err(error),
            // What belongs to a domain stays as long as the domain does.
            Err(error) if matches!(step, Step::Domain { .. }) => {
                pass.refused = Some(error);
                pass.rest = Rest::Refused;
            }
            Err(error) => pass.left.push(Leftover::of(step, &intent.guest, &error)),
        }
        if matches!(pass.rest, Rest::Kept | Rest::Refused) {
            return Ok(pass);
        }
    }
    if intent.steps.iter().any(may_be_used) {
        for user in users_of(session, &mut users)? {
            if user.name == intent.guest && pass.rest != Rest::Followed {
                // The guest's own domain is the maker of the volume of an attach that is undone.
                user.add_paths_to(&mut pass.in_use);
            } else {
                user.add_to(&mut pass.in_use);
            }
        }
    }
    Ok(pass)
}

/// What there is to do for an intent.
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
        // It did not get to the domain, which is whole; or somebody has defined a new one.
        (Verb::Delete, Some(_), None) | (_, None, _) => Rest::Void,
        (_, Some(_), _) => Rest::Storage,
    })
}

/// The uuid of the domain that a Delete is about; none where there was no domain.
fn deleted_uuid(intent: &Intent) -> Option<&str> {
    intent.steps.iter().find_map(|step| match step {
        Step::Domain { uuid } => uuid.as_deref(),
        Step::Gone { uuid } => Some(uuid.as_str()),
        _ => None,
    })
}

/// Which volumes go with the guest of a Delete: all with the guest's mark, as no other verb of the guest has
/// begun since. Later, and where somebody else has defined a domain of its name, only those of its domain.
fn whose(intent: &Intent, rest: Rest) -> Option<Whose> {
    match (rest, deleted_uuid(intent)) {
        (Rest::Followed, uuid) => uuid.map(|uuid| Whose::OfDomain(Maker::domain(uuid))),
        _ => Some(Whose::Marked),
    }
}

impl InLibvirt {
    fn recover(
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
                    networks::mark_of(connection, name)?.is_some_and(|it| it.guest == id);
                if is_marked && !users.iter().any(|user| user.may_have_network(name)) {
                    self.removed |= networks::remove(connection, name)?;
                }
            }
            (Step::NetworkStarted(name), Direction::Back) => {
                let users = users_of(session, users)?;
                networks::stop_unused(session.connection()?, name, users)?;
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
                // Later an unmarked network may be somebody else's.
                let reach = if is_resumed { Marked::Only } else { Marked::OrOriginal };
                let removal =
                    networks::remove_all(session.connection()?, id, &names, users, reach)?;
                self.removed |= removal.removed > 0;
                let networks: Vec<String> =
                    removal.left.iter().map(|(name, _)| name.clone()).collect();
                if !networks.is_empty() {
                    let (volumes, expected, kept) = (false, false, Vec::new());
                    self.remaining.push(Step::Leaving { networks, volumes, expected, kept });
                }
                let left = removal.left.into_iter();
                self.left.extend(left.map(|(name, error)| Leftover::network(&name, &error)));
            }
            (Step::Frozen(uuid), Direction::Back) => thaw_if_running(session, id, uuid)?,
            // Storage's, or not this direction's.
            (
                Step::Volume { .. }
                | Step::Snapshot { .. }
                | Step::Size { .. }
                | Step::SeedFiles(_),
                _,
            )
            | (_, Direction::Forward)
            | (Step::Leaving { .. } | Step::Gone { .. } | Step::Released, _) => {}
        }
        Ok(())
    }

    /// What is left to do after a step whose outcome says whether the guest runs with what was made.
    fn unless_refused(
        &mut self,
        intent: &Intent,
        step: &Step,
        runs: Result<bool, Error>,
    ) -> Result<Rest, Error> {
        match runs {
            Ok(true) => Ok(Rest::Kept),
            Ok(false) => Ok(Rest::Storage),
            Err(error) if error.is_unreachable() => Err(error),
            Err(error) => {
                self.left.push(Leftover::of(step, &intent.guest, &error));
                Ok(Rest::Refused)
            }
        }
    }
}

/// Whether libvirt has a part in a step, if only to say who uses a volume.
pub(super) fn needs_libvirt(step: &Step) -> bool {
    !matches!(step, Step::Snapshot { .. } | Step::Gone { .. } | Step::SeedFiles(_) | Step::Released)
}

/// Whether domains may use what a step is about for storage.
fn may_be_used(step: &Step) -> bool {
    matches!(step, Step::Volume { .. } | Step::Leaving { .. })
}

/// What every domain uses; asked for once.
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

/// Undefines the guest's domain if this agent made it, as the one of this uuid, and it is off; whether it runs.
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

/// Thaws the guest's domain if it is the one of this uuid and runs. The threads of `ops::freezes` do that for what a
/// crash leaves; this is for a freeze whose thread has panicked.
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

/// What recovery did with storage's part.
#[derive(Debug, Default)]
pub(super) struct InStorage {
    /// Whether something was removed.
    pub(super) removed: bool,
    /// What storage did not remove.
    pub(super) left: Vec<Leftover>,
    /// The steps of a Delete that finish what it left.
    pub(super) remaining: Vec<Step>,
    /// What other domains use, which is theirs now, and what other tools made of the guest's disks.
    pub(super) used: Vec<Leftover>,
}

/// Undoes or finishes what an intent recorded of volumes.
///
/// # Errors
/// When storage cannot be asked.
///
/// # Blocking
/// Up to `deadline`.
pub(super) fn in_storage(
    volumes: &dyn Volumes,
    intent: &Intent,
    (in_use, whose): (InUse, Option<Whose>),
    deadline: Instant,
) -> Result<InStorage, storage::Error> {
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
            if let Some(whose) = whose {
                removal.merge(destroy(volumes, intent, (&owner, whose), in_use, deadline)?);
            }
            remaining = steps_of(volumes, intent, &owner, &removal.left, deadline)?;
        }
        // An id that is no dataset's name has no volumes.
        (_, Err(_)) | (Direction::Back, Ok(_)) => {}
    }
    let (used, left): (Vec<_>, Vec<_>) = removal.left.iter().partition(|left| left.is_others());
    Ok(InStorage {
        removed: !removal.destroyed.is_empty(),
        left: left.into_iter().map(Leftover::volume).collect(),
        remaining,
        used: used.into_iter().map(Leftover::volume).collect(),
    })
}

/// Destroys the volumes with the guest's mark, also where its definition names none: another tool may have
/// defined the domain again without this agent's metadata, and the next guest of this id must not find them.
fn destroy(
    volumes: &dyn Volumes,
    intent: &Intent,
    (owner, whose): (&Id, Whose),
    mut in_use: InUse,
    deadline: Instant,
) -> Result<Removal, storage::Error> {
    let leaving = intent.steps.iter().find_map(|step| match step {
        Step::Leaving { volumes, expected, kept, .. } => Some((*volumes, *expected, kept)),
        _ => None,
    });
    let Some((may_have, is_expected, kept)) = leaving else { return Ok(Removal::default()) };
    kept.iter().for_each(|path| in_use.keep(Path::new(path)));
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

/// The steps that name volumes which a Delete left, each with its mark: a new guest of the id may have others.
fn steps_of(
    volumes: &dyn Volumes,
    intent: &Intent,
    owner: &Id,
    left: &[Left],
    deadline: Instant,
) -> Result<Vec<Step>, storage::Error> {
    let recorded = |left: &Left| {
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
    let step = |volume: Volume| Step::Volume {
        name: volume.name.to_string(),
        // The guest's dataset goes with its last volume.
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

/// Whether storage has a part in an intent.
pub(super) fn has_volumes(intent: &Intent) -> bool {
    let is_stored = |step: &Step| {
        matches!(step, Step::Volume { .. } | Step::Leaving { .. } | Step::Snapshot { .. })
    };
    intent.steps.iter().any(is_stored)
}

/// Takes back the snapshots that an intent recorded.
fn take_back_snapshots(
    volumes: &dyn Volumes,
    intent: &Intent,
    removal: &mut Removal,
    deadline: Instant,
) -> Result<(), storage::Error> {
    for step in &intent.steps {
        let Step::Snapshot { name, below, maker } = step else { continue };
        let Ok(name) = volumes.pool().full_snapshot(name) else { continue };
        let reach = if *below { Reach::Below } else { Reach::Itself };
        let maker = Maker::stored(maker);
        let gone = volumes.take_back_snapshots(&name, reach, &maker, intent.begun, deadline)?;
        removal.destroyed.extend(gone.destroyed);
        removal.left.extend(gone.left);
    }
    Ok(())
}

fn made_volumes(pool: &PoolName, intent: &Intent) -> Vec<Made> {
    let made = |step: &Step| match step {
        Step::Volume { name, made_parent, maker } => {
            let volume = pool.full_dataset(name).ok()?;
            // By its name: the guest may have had another id when it was made.
            let owner = guest_of(&volume).filter(|_| intent.verb.is_for_guest());
            Some(Made {
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
