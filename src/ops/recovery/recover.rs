//! The one function that undoes or finishes a transaction, and the policy for what it leaves.
//!
//! Whoever has a guest's lock recovers what is open of the guest before anything else: the verb whose step
//! failed, the guest's next verb, or the reconciler. So nothing new is built on what is incomplete, and
//! nobody recovers a verb that runs: that has the lock.

use std::time::{Duration, Instant};

use log::{info, warn};

use super::leftovers::{Leftover, error_of};
use super::table::{InLibvirt, Rest, has_volumes, in_libvirt, in_storage};
use super::transaction::{Abort, Transaction};
use crate::config::fixed::{RECOVERY_PAUSE, RECOVERY_PAUSE_MAX, RECOVERY_TRIES, TAKE_BACK};
use crate::events::What;
use crate::guest::wire::Guest;
use crate::jobs::reached;
use crate::journal::{Direction, Intent, Kept, State, Verb};
use crate::ops::{Error, Libvirt, Session};
use crate::pool::{self, Hold};
use crate::storage::Volumes;

/// What recovery did.
#[derive(Debug, Default)]
pub(in crate::ops) struct Recovered {
    /// Whether something was removed.
    pub(in crate::ops) removed: bool,
    /// What stays because other domains use it.
    pub(in crate::ops) used: Vec<Leftover>,
    /// What could not be undone or finished.
    left: Vec<Leftover>,
    rest: Rest,
}

impl Libvirt {
    /// The guest's lock, with everything recovered that was open.
    ///
    /// # Errors
    /// When the lock cannot be acquired by `deadline`; [`Error::Open`] when something cannot be recovered.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn key(&self, id: &str, deadline: Instant) -> Result<Hold, Error> {
        let hold = self.pool.hold(id, deadline)?;
        self.recover_open(&hold, deadline)?;
        Ok(hold)
    }

    /// The same for a verb that cannot do without libvirt.
    ///
    /// # Errors
    /// As [`Libvirt::key`]; at once where libvirt is known not to answer.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn hold(&self, id: &str, deadline: Instant) -> Result<Hold, Error> {
        self.opener.health().may_answer()?;
        reached("wait for other calls to the guest");
        self.key(id, deadline)
    }

    /// Recovers what is open of a guest whose lock is held.
    ///
    /// # Errors
    /// [`Error::Open`] for the first that cannot be recovered.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn recover_open(&self, hold: &Hold, deadline: Instant) -> Result<(), Error> {
        while let Some(entry) = self.journal.open_of(hold.key()) {
            let verb = entry.intent().verb;
            self.recover(Transaction::resume(self, entry), hold, deadline)
                .map_err(|cause| Error::Open { verb, cause: Box::new(cause) })?;
        }
        Ok(())
    }

    /// Tries once more to remove the leftovers of a guest whose lock is held; with `due` only those whose
    /// next try is due. Answers whether something was removed.
    ///
    /// # Errors
    /// [`Error::Left`] names what is still left.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn recover_leftovers(
        &self,
        hold: &Hold,
        due: Option<Instant>,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let (mut removed, mut left) = (false, Vec::new());
        for entry in self.journal.leftovers_of(hold.key(), due) {
            match self.recover(Transaction::resume(self, entry), hold, deadline) {
                Ok(recovered) => removed |= recovered.removed,
                Err(error) => left.extend(error.left()),
            }
        }
        if left.is_empty() { Ok(removed) } else { Err(Error::Left(left)) }
    }

    /// The error of a create or an attach that failed, once that is undone; it names what could not be undone.
    /// A late one runs on, and is recovered when it ends.
    ///
    /// # Blocking
    /// Up to [`TAKE_BACK`].
    pub(in crate::ops) fn undone(&self, guest: &Guest, cause: Error, hold: &Hold) -> Error {
        if matches!(cause, Error::Pool(pool::Error::Late { .. })) {
            return cause;
        }
        let open = self.recover_open(hold, Instant::now() + TAKE_BACK);
        with_left(guest, cause, open)
    }

    /// Undoes or finishes a transaction and ends it.
    ///
    /// # Errors
    /// Why it could not be recovered; [`Error::Left`] names what is left.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn recover(
        &self,
        transaction: Transaction,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<Recovered, Error> {
        let intent = transaction.intent();
        let label = match (transaction.is_resumed(), intent.verb.direction()) {
            (false, _) => intent.verb.to_string(),
            (true, Direction::Back) => format!("undo {}", intent.verb),
            (true, Direction::Forward) => format!("finish {}", intent.verb),
        };
        let outcome = self.recover_steps(&label, intent, hold, deadline).and_then(|recovered| {
            match recovered.left.is_empty() {
                true => Ok(recovered),
                false => {
                    let Recovered { mut left, used, .. } = recovered;
                    left.extend(used);
                    Err(error_of(intent.verb, left))
                }
            }
        });
        match outcome {
            Ok(recovered) => {
                self.report(&label, &transaction, &recovered);
                match transaction.intent().verb.direction() {
                    Direction::Back => transaction.commit()?,
                    // What is gone is gone, whatever the journal can write.
                    Direction::Forward => transaction.abort(Abort::Forget),
                }
                Ok(recovered)
            }
            Err(error) => {
                let abort = fate(&transaction, &error);
                transaction.abort(abort);
                Err(error)
            }
        }
    }

    fn recover_steps(
        &self,
        label: &str,
        intent: &Intent,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<Recovered, Error> {
        if intent.verb == Verb::ResizeDisk {
            self.tell_sizes(label, intent, hold, deadline)?;
            return Ok(Recovered::default());
        }
        let asked = intent.clone();
        let work = move |session: &mut Session| in_libvirt(session, &asked);
        let InLibvirt { rest, removed, left, in_use } =
            self.held(label, deadline, hold, work, |_, _| {})?;
        let mut recovered = Recovered { removed, left, rest, used: Vec::new() };
        if rest == Rest::Storage && has_volumes(intent) {
            let asked = intent.clone();
            let work = move |volumes: &dyn Volumes| in_storage(volumes, &asked, in_use, deadline);
            let stored = self.on_storage(label, hold.key(), Some(hold), deadline, work)?;
            recovered.removed |= stored.removed;
            recovered.left.extend(stored.left);
            recovered.used = stored.used;
        }
        Ok(recovered)
    }

    /// Tells of a recovery that no caller waits for.
    fn report(&self, label: &str, transaction: &Transaction, recovered: &Recovered) {
        let Intent { verb, guest, .. } = transaction.intent();
        if !transaction.is_resumed() {
            return;
        }
        recovered.used.iter().for_each(|used| warn!("{label}: {used}; guest={guest:?}"));
        match recovered.rest {
            Rest::Kept => {
                warn!("{label}: guest is running; keeping what was made; guest={guest:?}");
                if *verb == Verb::CreateGuest {
                    self.events.note(guest, What::Created);
                }
            }
            Rest::Void => info!("{label}: nothing to do; guest={guest:?}"),
            Rest::Storage | Rest::Refused => info!("{label}: done; guest={guest:?}"),
        }
    }
}

/// What becomes of a transaction that could not be recovered.
///
/// | why | a create, an attach | a Delete | a detach |
/// |---|---|---|---|
/// | libvirt or storage cannot be asked | open | open | open |
/// | a domain or device stays | open, then a leftover | forgotten if a caller is told, else as a create | forgotten |
/// | something else stays | open, then a leftover | a leftover that is tried again | |
///
/// "Then" is after [`RECOVERY_TRIES`]. A leftover of a create is not tried again by itself: by then the
/// guest may be another one that looks the same.
fn fate(transaction: &Transaction, error: &Error) -> Abort {
    let tries = transaction.tries() + 1;
    let is_last = tries >= RECOVERY_TRIES;
    let retry = Instant::now() + pause(tries);
    let open = State::Open { retry };
    let is_left = matches!(error, Error::Left(_) | Error::VolumesLeft(_));
    let state = match (transaction.intent().verb, is_left) {
        _ if error.is_unreachable() => State::Open { retry: Instant::now() + RECOVERY_PAUSE },
        _ if error.cannot_ask() => open,
        // The caller is told, and the guest is as it was, or the same call goes on.
        (Verb::DetachDisk | Verb::DetachNic | Verb::ResizeDisk, _) => return Abort::Forget,
        (Verb::Delete, false) if !transaction.is_resumed() => return Abort::Forget,
        (Verb::Delete, true) => State::Leftover { retry: (!is_last).then_some(retry) },
        _ if is_last => State::Leftover { retry: None },
        _ => open,
    };
    let left = match error {
        Error::Left(left) | Error::VolumesLeft(left) => left.clone(),
        _ => Vec::new(),
    };
    Abort::Keep(Kept { why: error.to_string(), left, tried: true, state })
}

/// The pause after this many tries.
fn pause(tries: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1));
    RECOVERY_PAUSE.saturating_mul(doubled).min(RECOVERY_PAUSE_MAX)
}

/// The error of a create that failed, with what could not be undone.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let pauses: Vec<u64> = (1..8).map(|tries| pause(tries).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), RECOVERY_PAUSE_MAX);
    }
}
