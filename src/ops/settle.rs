//! Settling what was left open: a create and an attach are undone, a Delete and a detach finished.
//!
//! Whoever has the key of a guest settles what is open of it before anything else: the verb whose
//! step failed, the next verb, or the keeper after a start. So nothing new is built on what is half
//! there, and nobody settles what still runs: that has the key.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use log::{info, warn};

use crate::config::fixed::TAKE_BACK;
use crate::guest::wire::Guest;
use crate::jobs::reached;
use crate::journal::{Entry, Intent, Step, Verb};
use crate::ops::delete::{destroy_if_active, report_left, undefine};
use crate::ops::steps::{Undone, has_volumes, undo_in_libvirt, undo_in_storage};
use crate::ops::volumes::{Expected, LeavingVolumes};
use crate::ops::{Error, Libvirt, Session, devices, domains, networks};
use crate::pool::{self, Hold, Job, Lane};

impl Libvirt {
    /// The guest's key, with everything settled that was open.
    ///
    /// # Errors
    /// When the key is not to be had by `deadline`; [`Error::Open`] when something cannot be settled.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn key(&self, id: &str, deadline: Instant) -> Result<Hold, Error> {
        let hold = self.pool.hold(id, deadline)?;
        self.settle(&hold, deadline)?;
        Ok(hold)
    }

    /// The same for a verb that cannot do without libvirt.
    ///
    /// # Errors
    /// As [`Libvirt::key`]; at once where libvirt is known not to answer.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn hold(&self, id: &str, deadline: Instant) -> Result<Hold, Error> {
        self.opener.health().may_answer()?;
        reached("wait for other calls to the guest");
        self.key(id, deadline)
    }

    /// Settles what is open of a guest whose key is held.
    ///
    /// # Errors
    /// [`Error::Open`]: it stays open, and the keeper tries again.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn settle(&self, hold: &Hold, deadline: Instant) -> Result<(), Error> {
        while let Some(entry) = self.journal.open_of(hold.key()) {
            let verb = entry.intent().verb;
            let outcome = match verb {
                Verb::Delete => self.finish(entry, hold, deadline),
                Verb::DetachDisk | Verb::DetachNic => self.finish_detach(entry, hold, deadline),
                Verb::CreateGuest | Verb::CreateGuestDisks | Verb::AttachDisk | Verb::AttachNic => {
                    self.undo(entry, hold, deadline)
                }
            };
            if let Err(cause) = outcome {
                self.looks.nudge().now();
                return Err(Error::Open { verb, cause: Box::new(cause) });
            }
        }
        Ok(())
    }

    /// The error of a create or an attach that failed, once it is undone; what could not be taken back is in it.
    /// A late one runs on, and takes everything back itself when it returns.
    ///
    /// # Blocking
    /// Up to [`TAKE_BACK`].
    pub(super) fn undone(&self, guest: &Guest, cause: Error, hold: &Hold) -> Error {
        if matches!(cause, Error::Pool(pool::Error::Late { .. })) {
            return cause;
        }
        let open = self.settle(hold, Instant::now() + TAKE_BACK);
        with_left(guest, cause, open)
    }

    /// Settles what is open of all guests, one after the other; what cannot be settled is left for
    /// the next time.
    pub(super) fn settle_all(&self) {
        let open = self.journal.open_intents();
        let mut guests: Vec<String> = open.into_iter().map(|summary| summary.guest).collect();
        guests.sort();
        guests.dedup();
        for guest in guests {
            let deadline = Instant::now() + self.deadlines.change;
            let settled = self.hold(&guest, deadline);
            if let Err(error) = settled {
                warn!("guest {guest:?}: {error}");
                // Others would hear the same.
                if error.is_unreachable() {
                    return;
                }
            }
        }
    }

    /// Takes a create or an attach back.
    ///
    /// # Errors
    /// What is left of it, or why nothing could be done.
    fn undo(&self, entry: Entry, hold: &Hold, deadline: Instant) -> Result<(), Error> {
        let verb = format!("undo {}", entry.intent().verb);
        let (undone, entry) = self.in_libvirt(&verb, entry, hold, deadline, undo_in_libvirt)?;
        let mut left = match undone {
            Undone::But(left) => left,
            Undone::Kept => {
                warn!("guest {:?} runs: what was begun of it stays", hold.key());
                return Ok(entry.settled()?);
            }
        };
        let (more, entry) = match has_volumes(entry.intent()) {
            true => self.undo_volumes(&verb, entry, hold, deadline)?,
            false => (Vec::new(), entry),
        };
        left.extend(more);
        if left.is_empty() {
            info!("guest {:?}: {verb}: done", hold.key());
            return Ok(entry.settled()?);
        }
        entry.not_settled(format!("left behind: {}", left.join(", ")));
        Err(Error::Left(left))
    }

    /// Settles libvirt's part of it, where the entry says why it could not be.
    fn in_libvirt<T: Send + 'static>(
        &self,
        verb: &str,
        entry: Entry,
        hold: &Hold,
        deadline: Instant,
        settle: impl FnOnce(&mut Session, &Intent) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, Entry), Error> {
        let work = move |session: &mut Session| match settle(session, entry.intent()) {
            Ok(settled) => Ok((settled, entry)),
            Err(error) => {
                entry.not_settled(error.to_string());
                Err(error)
            }
        };
        self.held(verb, deadline, hold, work, |_, _| {})
    }

    fn undo_volumes(
        &self,
        verb: &str,
        entry: Entry,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<(Vec<String>, Entry), Error> {
        let id = hold.key().to_owned();
        let scan = move |session: &mut Session, _: &Intent| {
            session.read(|connection| Ok(domains::in_use_by_others(connection, &id)?))
        };
        let (in_use, entry) = self.in_libvirt(verb, entry, hold, deadline, scan)?;
        let volumes = Arc::clone(&self.volumes);
        let job = Job { what: format!("{verb} {}", hold.key()), deadline };
        Ok(self.pool.run(Lane::Storage, job, Some(hold), move |_| {
            let left = undo_in_storage(&*volumes, entry.intent(), &in_use);
            (left, entry)
        })?)
    }

    /// Finishes a detach.
    ///
    /// # Errors
    /// What libvirt says.
    fn finish_detach(&self, entry: Entry, hold: &Hold, deadline: Instant) -> Result<(), Error> {
        let verb = format!("finish {}", entry.intent().verb);
        let finish = devices::finish_in_libvirt;
        let ((), entry) = self.in_libvirt(&verb, entry, hold, deadline, finish)?;
        info!("guest {:?}: {verb}: done", hold.key());
        Ok(entry.settled()?)
    }

    /// Finishes a Delete.
    ///
    /// # Errors
    /// What libvirt or storage says.
    fn finish(&self, entry: Entry, hold: &Hold, deadline: Instant) -> Result<(), Error> {
        let verb = format!("finish {}", entry.intent().verb);
        let (is_gone, entry) = self.in_libvirt(&verb, entry, hold, deadline, finish_in_libvirt)?;
        if !is_gone {
            info!("guest {:?}: its Delete had not begun, or is of a former one", hold.key());
            return Ok(entry.settled()?);
        }
        if let Some(volumes) = leaving_volumes(entry.intent()) {
            let removal = self.destroy_volumes(hold.key(), volumes, hold, deadline);
            if let Err(error) = removal.and_then(|removal| report_left(hold.key(), &removal)) {
                entry.not_settled(error.to_string());
                return Err(error);
            }
        }
        info!("guest {:?}: {verb}: done", hold.key());
        Ok(entry.settled()?)
    }
}

/// Libvirt's part of a Delete. `false`: the guest is whole, or another one by now.
fn finish_in_libvirt(session: &mut Session, intent: &Intent) -> Result<bool, Error> {
    if let Some(domain) = session.find(&intent.guest)? {
        let uuid = domain.uuid()?;
        let is_it = |step: &Step| *step == Step::Domain { uuid: Some(uuid.clone()) };
        if !intent.steps.iter().any(is_it) {
            return Ok(false);
        }
        destroy_if_active(&domain)?;
        undefine(&domain)?;
    }
    let connection = session.connection()?;
    let mut marked = BTreeSet::new();
    for name in leaving_networks(intent) {
        if networks::marked_for(connection, name, &intent.guest)? {
            marked.insert(name.clone());
        }
    }
    networks::remove_all(connection, &intent.guest, &marked)?;
    Ok(true)
}

/// The networks that go with the domain.
fn leaving_networks(intent: &Intent) -> &[String] {
    let networks = intent.steps.iter().find_map(|step| match step {
        Step::Leaving { networks, .. } => Some(networks.as_slice()),
        _ => None,
    });
    networks.unwrap_or_default()
}

/// The volumes that go with the domain, if any do.
fn leaving_volumes(intent: &Intent) -> Option<LeavingVolumes> {
    intent.steps.iter().find_map(|step| match step {
        Step::Leaving { volumes: true, expected, kept, .. } => Some(LeavingVolumes {
            expected: if *expected { Expected::Some } else { Expected::Unknown },
            kept: kept.iter().map(PathBuf::from).collect(),
        }),
        _ => None,
    })
}

/// The error of a create that failed, with what could not be taken back.
fn with_left(guest: &Guest, cause: Error, open: Result<(), Error>) -> Error {
    let more = match open {
        Ok(()) => return cause,
        Err(error) => error.left(),
    };
    match cause {
        Error::Step { step, cause, mut left } => {
            left.extend(more);
            Error::Step { step, cause, left }
        }
        other => {
            Error::Step { step: format!("make {}", guest.id), cause: Box::new(other), left: more }
        }
    }
}
