//! What a verb changes, noted before it changes it; and how that is taken back. The same notes
//! serve a step that failed, a verb whose caller was told that it is late, and one that a crash cut
//! off: see `settle`.

use std::sync::Arc;
use std::time::Instant;

use log::{info, warn};

use crate::config::fixed::TAKE_BACK;
use crate::guest::domain::VirDomain;
use crate::guest::wire::Guest;
use crate::jobs::{Track, tracker};
use crate::journal::{self, Entry, Intent, Journal, Step, Verb};
use crate::libvirt::XmlKind;
use crate::ops::{Error, Session, devices, domains, networks};
use crate::storage::{Id, InUse, Made, PoolName, Volumes, Why};

/// The steps of one verb on one guest. The journal hears of it with the first of them: what changes
/// nothing costs nothing.
///
/// Dropped before [`Steps::settled`], they are what the journal calls an open intent.
pub(super) struct Steps {
    journal: Arc<Journal>,
    verb: Verb,
    request: Guest,
    entry: Option<Entry>,
    /// Of the job that this is a part of, if it is of one.
    track: Option<Track>,
}

impl Steps {
    /// No step yet. To be called on the thread of the call.
    pub(super) fn new(journal: &Arc<Journal>, verb: Verb, request: &Guest) -> Self {
        let (journal, request) = (Arc::clone(journal), request.clone());
        Self { journal, verb, request, entry: None, track: tracker() }
    }

    /// Whose they are.
    pub(super) fn verb(&self) -> Verb {
        self.verb
    }

    /// The guest's id.
    pub(super) fn guest(&self) -> &str {
        &self.request.id
    }

    /// Notes a step; to be called before it is begun.
    ///
    /// # Errors
    /// When the journal cannot be written: the step is not to be begun.
    ///
    /// # Blocking
    /// As long as the journal's disk takes.
    pub(super) fn note(&mut self, step: Step) -> Result<(), journal::Error> {
        let entry = match &mut self.entry {
            Some(entry) => entry,
            none => {
                let entry = self.journal.begin(self.verb, &self.request.id, &self.request)?;
                none.insert(entry)
            }
        };
        let what = self.track.as_ref().map(|track| (track, words(&step)));
        entry.note(step)?;
        if let Some((track, what)) = what {
            track.step(what);
        }
        Ok(())
    }

    /// The verb is done.
    ///
    /// # Errors
    /// When the journal still has it, which is then an open intent.
    ///
    /// # Blocking
    /// As [`Steps::note`].
    pub(super) fn settled(self) -> Result<(), journal::Error> {
        self.entry.map_or(Ok(()), Entry::settled)
    }

    /// Takes everything back on this thread, for a verb that ended after its caller was told that it
    /// is late. What cannot be taken back stays an open intent.
    ///
    /// # Blocking
    /// As long as libvirt takes, and up to [`TAKE_BACK`].
    pub(super) fn take_back(self, session: &mut Session, volumes: &dyn Volumes) {
        let Some(entry) = self.entry else { return };
        let (verb, guest) = (entry.intent().verb, entry.intent().guest.clone());
        let mut left = match undo_in_libvirt(session, entry.intent()) {
            Ok(Undone::Kept) => Vec::new(),
            Ok(Undone::But(mut left)) => {
                match session.read(|it| Ok(domains::in_use_by_others(it, &guest)?)) {
                    Ok(in_use) => left.extend(undo_in_storage(volumes, entry.intent(), &in_use)),
                    Err(error) => left.push(error.to_string()),
                }
                left
            }
            Err(error) => vec![error.to_string()],
        };
        if left.is_empty() {
            match entry.settled() {
                Ok(()) => return info!("guest {guest:?}: a late {verb} was taken back"),
                Err(error) => left.push(error.to_string()),
            }
        } else {
            entry.not_settled(format!("left behind: {}", left.join(", ")));
        }
        warn!("guest {guest:?}: take a late {verb} back: left behind: {}", left.join(", "));
    }
}

/// A step as people who look at a job read it.
fn words(step: &Step) -> String {
    match step {
        Step::Volume { name, .. } => format!("volume {name}"),
        Step::NetworkDefined(name) | Step::NetworkStarted(name) => format!("network {name}"),
        Step::Domain { .. } => "domain".to_owned(),
        Step::Disk { device, .. } => format!("disk {device}"),
        Step::Nic { mac, .. } => format!("NIC {mac}"),
        Step::Leaving { .. } => "what goes with the domain".to_owned(),
    }
}

/// What came of undoing libvirt's part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// All of it is gone, but for what is named.
    But(Vec<String>),
    /// The guest runs with it: somebody has taken it as it is, and so it stays.
    Kept,
}

/// Takes back what an intent noted of domains and networks, the last first.
///
/// Only what carries this guest's mark goes: what others made under the same names stays.
///
/// # Errors
/// When libvirt cannot be asked, or not to the end.
///
/// # Blocking
/// As long as libvirt takes.
pub(super) fn undo_in_libvirt(session: &mut Session, intent: &Intent) -> Result<Undone, Error> {
    let mut left = Vec::new();
    for step in intent.steps.iter().rev() {
        let outcome = match step {
            Step::Domain { .. } => undefine(session, &intent.guest),
            Step::Disk { .. } | Step::Nic { .. } => {
                devices::take_back(session, &intent.guest, step)
            }
            Step::NetworkDefined(name) => {
                remove_network(session, name, &intent.guest).map(|()| false)
            }
            Step::NetworkStarted(name) => stop_network(session, name).map(|()| false),
            Step::Volume { .. } | Step::Leaving { .. } => continue,
        };
        match outcome {
            Ok(true) => return Ok(Undone::Kept),
            Ok(false) => {}
            Err(error) if error.is_unreachable() => return Err(error),
            Err(error) => {
                let what = name_of(step, &intent.guest);
                warn!("undo {} {:?}: {what}: {error}", intent.verb, intent.guest);
                left.push(what);
            }
        }
    }
    Ok(Undone::But(left))
}

/// What a step made, for people.
fn name_of(step: &Step, guest: &str) -> String {
    match step {
        Step::NetworkDefined(name) | Step::NetworkStarted(name) => format!("network {name}"),
        Step::Volume { name, .. } => format!("volume {name}"),
        Step::Disk { device, .. } => format!("disk {device}"),
        Step::Nic { mac, .. } => format!("NIC {mac}"),
        Step::Domain { .. } | Step::Leaving { .. } => format!("domain {guest}"),
    }
}

/// Undefines the guest's domain if this agent made it and it is off; whether it runs.
fn undefine(session: &mut Session, id: &str) -> Result<bool, Error> {
    let Some(domain) = session.find(id)? else { return Ok(false) };
    if domain.is_active()? {
        return Ok(true);
    }
    let found = VirDomain::from_xml(&domain.xml(XmlKind::Inactive)?).ok();
    if found.is_some_and(|found| found.metadata.guest.is_some()) {
        domain.undefine()?;
    }
    Ok(false)
}

fn remove_network(session: &mut Session, name: &str, id: &str) -> Result<(), Error> {
    let connection = session.connection()?;
    if networks::marked_for(connection, name, id)? {
        networks::remove(connection, name)?;
    }
    Ok(())
}

fn stop_network(session: &mut Session, name: &str) -> Result<(), Error> {
    Ok(networks::stop(session.connection()?, name)?)
}

/// Takes back what an intent noted of volumes; answers with what is left.
///
/// # Blocking
/// Up to [`TAKE_BACK`].
pub(super) fn undo_in_storage(
    volumes: &dyn Volumes,
    intent: &Intent,
    in_use: &InUse,
) -> Vec<String> {
    let made = made_volumes(volumes.pool(), intent);
    if made.is_empty() {
        return Vec::new();
    }
    match volumes.take_back(&made, in_use, Instant::now() + TAKE_BACK) {
        Ok(removal) => {
            // A guest that was renamed meanwhile has its disks.
            let (used, left): (Vec<_>, Vec<_>) =
                removal.left.iter().partition(|left| matches!(left.why, Why::Used(_)));
            used.iter().for_each(|left| warn!("undo {} {:?}: {left}", intent.verb, intent.guest));
            left.iter().map(|left| format!("volume {left}")).collect()
        }
        Err(error) => {
            warn!("undo {} {:?}: volumes: {error}", intent.verb, intent.guest);
            made.iter().map(|made| format!("volume {}", made.volume)).collect()
        }
    }
}

/// Whether an intent noted volumes.
pub(super) fn has_volumes(intent: &Intent) -> bool {
    intent.steps.iter().any(|step| matches!(step, Step::Volume { .. }))
}

fn made_volumes(pool: &PoolName, intent: &Intent) -> Vec<Made> {
    // A name that is none was never one of a volume.
    let Ok(owner) = Id::parse(&intent.guest) else { return Vec::new() };
    let volumes = intent.steps.iter().filter_map(|step| match step {
        Step::Volume { name, made_parent } => Some((pool.full_dataset(name).ok()?, *made_parent)),
        _ => None,
    });
    volumes
        .map(|(volume, with_parent)| Made { volume, owner: Some(owner.clone()), with_parent })
        .collect()
}
