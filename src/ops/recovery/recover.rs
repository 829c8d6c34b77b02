//! The one function that undoes or finishes a transaction, and the policy for leftovers.
//!
//! The holder of a guest lock recovers the guest's open transactions before anything else: the method whose step
//! failed, the guest's next method, or the reconciler. So no method builds on an incomplete change, and none recovers a
//! change that still runs, because the running method holds the lock.

use std::time::{Duration, Instant};

use log::{error, info, warn};

use crate::config::fixed::{RECOVERY_PAUSE, RECOVERY_PAUSE_MAX, RECOVERY_TRIES, TAKE_BACK};
use crate::events::EventKind;
use crate::guest::wire::Guest;
use crate::journal::{Direction, Intent, IntentState, JournalEntry, Retained, Step, Verb};
use crate::ops::transaction::{Abort, STATE_LANE, Transaction, state_write};
use crate::ops::{Core, Error, Session};
use crate::pool::{self, GuestLock, Job};
use crate::storage::{InUse, Volumes};

use super::leftovers::{Leftover, error_of};
use super::table::{Kept, Recovered, Rest, in_libvirt, in_storage, row};

impl Core {
    /// Recovers the open changes of a guest. The caller holds the guest lock.
    ///
    /// # Errors
    /// [`Error::Open`] for the first change that cannot be recovered.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn recover_open(
        &self,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        while let Some(entry) = self.journal.open_of(lock.guest()) {
            let verb = entry.intent().verb;
            self.recover(Transaction::resume(&self.journal, entry), lock, deadline)
                .map_err(|cause| Error::Open { verb, cause: Box::new(cause) })?;
        }
        Ok(())
    }

    /// Tries again to remove these leftovers of a guest, whose lock the caller holds. Returns whether an object was
    /// removed.
    ///
    /// # Errors
    /// [`Error::Left`] names the remaining leftovers.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn recover_leftovers(
        &self,
        leftovers: Vec<JournalEntry>,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let (mut removed, mut left) = (false, Vec::new());
        for entry in leftovers {
            match self.recover(Transaction::resume(&self.journal, entry), lock, deadline) {
                Ok(recovered) => removed |= recovered.removed,
                Err(error) => left.extend(error.left()),
            }
        }
        if left.is_empty() { Ok(removed) } else { Err(Error::Left(left)) }
    }

    /// Undoes a failed create or attach, and returns its error, with the names of the leftovers. A late job continues,
    /// and is recovered when it ends.
    ///
    /// # Blocking
    /// Up to [`TAKE_BACK`].
    pub(in crate::ops) fn undone(&self, guest: &Guest, cause: Error, lock: &GuestLock) -> Error {
        if matches!(cause, Error::Pool(pool::Error::Late { .. })) {
            return cause;
        }
        let open = self.recover_open(lock, Instant::now() + TAKE_BACK);
        with_left(guest, cause, open)
    }

    /// Undoes or finishes a transaction and ends it.
    ///
    /// # Errors
    /// Why it could not be recovered; [`Error::Left`] names the leftovers.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn recover(
        &self,
        transaction: Transaction,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<Recovered, Error> {
        let intent = transaction.intent();
        let label = match (transaction.is_resumed(), intent.verb.direction()) {
            (false, _) => intent.verb.to_string(),
            (true, Direction::Back) => format!("undo {}", intent.verb),
            (true, Direction::Forward) => format!("finish {}", intent.verb),
        };
        let is_resumed = transaction.is_resumed();
        let failure = match self.recover_steps(&label, intent, is_resumed, lock, deadline) {
            Ok(mut recovered) => match (recovered.refused.take(), recovered.left.is_empty()) {
                (None, true) => {
                    self.report(&label, &transaction, &recovered);
                    match transaction.intent().verb.direction() {
                        // The objects are gone, whether or not the journal can be written.
                        Direction::Forward if !is_resumed => {
                            self.abort(transaction, Abort::Forget, lock, deadline);
                        }
                        _ => self.commit(transaction, lock, deadline)?,
                    }
                    return Ok(recovered);
                }
                (Some(error), _) => Failure::DomainStays(error),
                (None, false) if recovered.rest == Rest::Refused => {
                    Failure::DomainStays(error_of(intent.verb, recovered.left))
                }
                (None, false) => {
                    let Recovered { mut left, used, remaining, .. } = recovered;
                    left.extend(used);
                    let steps = match intent.verb {
                        Verb::Delete => [vec![Step::Released], remaining].concat(),
                        _ => safe_steps(intent),
                    };
                    Failure::Left(error_of(intent.verb, left), steps)
                }
            },
            Err(error) if error.cannot_ask() => Failure::CannotAsk(error),
            Err(error) => Failure::Left(error, safe_steps(intent)),
        };
        let (tries, refusals) = transaction.tries();
        let is_leftover = transaction.is_leftover();
        let history = RecoveryHistory { tries, refusals, is_resumed, is_leftover };
        let abort = decide(transaction.intent(), history, &failure);
        self.abort(transaction, abort, lock, deadline);
        Err(failure.into_error())
    }

    fn recover_steps(
        &self,
        label: &str,
        intent: &Intent,
        is_resumed: bool,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<Recovered, Error> {
        if intent.verb == Verb::ResizeDisk {
            self.apply_sizes(label, intent, lock, deadline)?;
            return Ok(Recovered::default());
        }
        let (mut recovered, mut in_use) = (Recovered::default(), InUse::default());
        if intent.steps.iter().any(|step| row(step).needs_libvirt) {
            let asked = intent.clone();
            let work = move |session: &mut Session| in_libvirt(session, &asked, is_resumed);
            (recovered, in_use) = self.run_locked(label, deadline, lock, work, |_, _| {})?;
        }
        let goes_on = matches!(recovered.rest, Rest::Storage | Rest::Followed);
        if goes_on {
            self.remove_seed_files(intent, &mut recovered, lock, deadline)
                .map_err(|error| incomplete(error, is_resumed, &recovered))?;
        }
        if goes_on && intent.steps.iter().any(|step| row(step).needs_storage) {
            let (asked, rest) = (intent.clone(), recovered.rest);
            let work =
                move |volumes: &dyn Volumes| in_storage(volumes, &asked, (in_use, rest), deadline);
            match self.on_storage(label, lock.guest(), Some(lock), deadline, work) {
                Ok(stored) => {
                    recovered.removed |= stored.removed;
                    recovered.left.extend(stored.left);
                    recovered.remaining.extend(stored.remaining);
                    recovered.used = stored.used;
                }
                Err(error) => return Err(incomplete(error, is_resumed, &recovered)),
            }
        }
        Ok(recovered)
    }

    /// Removes the files of seeds that a transaction recorded. Their domain is gone, or never existed.
    ///
    /// # Errors
    /// Errors of the pool.
    fn remove_seed_files(
        &self,
        intent: &Intent,
        recovered: &mut Recovered,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        for step in &intent.steps {
            let Step::SeedFiles(uuid) = step else { continue };
            let removed = match self.seed_files(uuid) {
                Ok(files) => {
                    let job = Job { name: state_write(), deadline };
                    let remove = move |_: &mut Session| files.remove();
                    self.pool.run(STATE_LANE, job, Some(lock), remove)?.map_err(Error::Seed)
                }
                Err(error) => Err(error),
            };
            match removed {
                Ok(removed) => recovered.removed |= removed,
                Err(error) => {
                    recovered.left.push(Leftover::of(step, &intent.guest, &error));
                    recovered.remaining.push(step.clone());
                }
            }
        }
        Ok(())
    }

    /// Logs a recovery that no caller waits for.
    fn report(&self, label: &str, transaction: &Transaction, recovered: &Recovered) {
        let Intent { verb, guest, .. } = transaction.intent();
        if !transaction.is_resumed() {
            return;
        }
        recovered.used.iter().for_each(|used| warn!("{label}: {used}; guest={guest:?}"));
        match recovered.rest {
            Rest::Retained => {
                warn!("{label}: guest is running; keeping the partial {verb}; guest={guest:?}");
                self.status.marks().wake();
                if *verb == Verb::CreateGuest {
                    self.events.note(guest, EventKind::Created);
                }
            }
            Rest::Void => info!("{label}: nothing to do; guest={guest:?}"),
            Rest::Storage | Rest::Followed | Rest::Refused => {
                info!("{label}: done; guest={guest:?}")
            }
        }
    }
}

/// Why a transaction was not recovered.
enum Failure {
    /// libvirt or storage did not answer.
    CannotAsk(Error),
    /// libvirt refused to remove a domain or a device; the objects that belong to it were not touched.
    DomainStays(Error),
    /// Another object is left; a leftover keeps these steps.
    Left(Error, Vec<Step>),
}

impl Failure {
    fn error(&self) -> &Error {
        match self {
            Self::CannotAsk(error) | Self::DomainStays(error) | Self::Left(error, _) => error,
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::CannotAsk(error) | Self::DomainStays(error) | Self::Left(error, _) => error,
        }
    }
}

/// Wraps the error of a step after which objects are already removed, so that its caller does not take it for a call
/// without effect.
fn incomplete(error: Error, is_resumed: bool, recovered: &Recovered) -> Error {
    match error {
        Error::Pool(_) if !is_resumed && recovered.removed => Error::Incomplete(Box::new(error)),
        error => error,
    }
}

/// The former tries of a transaction.
#[derive(Clone, Copy, Debug, Default)]
struct RecoveryHistory {
    tries: u32,
    refusals: u32,
    is_resumed: bool,
    is_leftover: bool,
}

/// Returns the steps that a leftover keeps.
fn safe_steps(intent: &Intent) -> Vec<Step> {
    let is_delete = intent.verb == Verb::Delete;
    let is_safe = |step: &&Step| match row(step).kept {
        Kept::Always => true,
        Kept::ByDelete => is_delete,
        Kept::Never => false,
    };
    let released = is_delete.then_some(Step::Released);
    released.into_iter().chain(intent.steps.iter().filter(is_safe).map(without_domain)).collect()
}

/// Returns the step for a domain that is gone by now: a domain that somebody defines again is another one.
fn without_domain(step: &Step) -> Step {
    match step {
        Step::Domain { uuid: Some(uuid) } => Step::Gone { uuid: uuid.clone() },
        step => step.clone(),
    }
}

/// Decides what to do with a transaction that could not be recovered.
///
/// | why | a create, an attach | a Delete | a detach, a resize |
/// |---|---|---|---|
/// | no answer | open; for storage at last as below | open | open; for storage at last as below |
/// | the domain or a device stays | open, at last forgotten | forgotten if a caller gets the error; else open, at last forgotten | as a create |
/// | something else is left | open, at last a leftover | a leftover that is tried again | as above |
///
/// "At last" is after [`RECOVERY_TRIES`] refusals, for a store without an answer after as many tries. A leftover stays
/// one.
fn decide(intent: &Intent, history: RecoveryHistory, failure: &Failure) -> Abort {
    let is_last_try = history.tries + 1 >= RECOVERY_TRIES;
    let is_last = history.refusals + 1 >= RECOVERY_TRIES;
    let (verb, error) = (intent.verb, failure.error());
    let retry = match error.is_unreachable() {
        true => Instant::now() + RECOVERY_PAUSE,
        false => Instant::now() + pause(history.tries + 1),
    };
    let left = match error {
        Error::Left(left) | Error::VolumesLeft(left) => left.clone(),
        _ => vec![error.to_string()],
    };
    let refused = !matches!(failure, Failure::CannotAsk(_));
    let keep = |state| Retained { why: error.to_string(), left, tried: true, refused, state };
    let leftover = |retry| IntentState::Leftover { retry };
    match failure {
        _ if history.is_leftover || intent.is_released() => {
            let is_retried = !refused || !is_last;
            let retained = keep(leftover(is_retried.then_some(retry)));
            match failure {
                Failure::Left(_, steps) if verb == Verb::Delete && *steps != intent.steps => {
                    Abort::KeepOnly(steps.clone(), retained)
                }
                _ => Abort::Keep(retained),
            }
        }
        Failure::CannotAsk(Error::Storage(_)) if verb == Verb::Delete && intent.has_domain() => {
            let steps = intent.steps.iter().map(without_domain).collect();
            Abort::KeepOnly(steps, keep(IntentState::Open { retry }))
        }
        // Storage has not named its leftovers.
        Failure::Left(Error::Storage(_), _) if verb == Verb::Delete && !is_last => {
            Abort::Keep(keep(IntentState::Open { retry }))
        }
        // A store that stays unavailable must not block callers, least of all those of a running guest.
        Failure::CannotAsk(Error::Storage(_)) if verb != Verb::Delete && is_last_try => {
            match safe_steps(intent) {
                steps if steps.is_empty() => give_up(intent, error),
                steps => Abort::KeepOnly(steps, keep(leftover(Some(retry)))),
            }
        }
        Failure::CannotAsk(_) => Abort::Keep(keep(IntentState::Open { retry })),
        Failure::DomainStays(_) if verb == Verb::Delete && !history.is_resumed => Abort::Forget,
        Failure::Left(_, steps) if verb == Verb::Delete => {
            Abort::KeepOnly(steps.clone(), keep(leftover((!is_last).then_some(retry))))
        }
        Failure::Left(_, steps) if is_last && !steps.is_empty() => {
            Abort::KeepOnly(steps.clone(), keep(leftover(None)))
        }
        _ if is_last => give_up(intent, error),
        _ => Abort::Keep(keep(IntentState::Open { retry })),
    }
}

fn give_up(Intent { verb, guest, .. }: &Intent, error: &Error) -> Abort {
    error!("giving up on {verb} after {RECOVERY_TRIES} tries; guest={guest:?}: {error}");
    Abort::Forget
}

/// Returns the pause after this many tries.
fn pause(tries: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1));
    RECOVERY_PAUSE.saturating_mul(doubled).min(RECOVERY_PAUSE_MAX)
}

/// Adds the leftovers to the error of a failed create.
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
            Error::Step { step: format!("create {}", guest.id), cause: Box::new(other), left: more }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage;

    const LAST: RecoveryHistory =
        RecoveryHistory { tries: 4, refusals: 4, is_resumed: true, is_leftover: false };

    fn intent(verb: Verb) -> Intent {
        let steps = vec![
            Step::Leaving { networks: vec![], volumes: true, expected: true, supplied: vec![] },
            Step::Volume { name: "tank/guests/a/disk-0".into(), made_parent: true, maker: None },
            Step::Disk { device: "vda".into(), source: "/dev/zvol/tank/guests/a/disk-0".into() },
            Step::Domain { uuid: Some("u".into()) },
        ];
        let (guest, request) = ("a".to_owned(), Guest::default());
        Intent { verb, guest, started: std::time::SystemTime::now(), request, steps }
    }

    /// Returns the outcome as a word, whether the recovery is tried again, and how many steps are kept.
    fn outcome(
        verb: Verb,
        history: RecoveryHistory,
        failure: &Failure,
    ) -> (&'static str, bool, usize) {
        let intent = intent(verb);
        let (retained, steps) = match decide(&intent, history, failure) {
            Abort::Forget => return ("forgotten", false, 0),
            Abort::Keep(retained) => (retained, intent.steps.len()),
            Abort::KeepOnly(steps, retained) => (retained, steps.len()),
        };
        match retained.state {
            IntentState::Leftover { retry } => ("leftover", retry.is_some(), steps),
            IntentState::Open { .. } => ("open", true, steps),
            IntentState::Running => ("running", false, steps),
        }
    }

    #[test]
    fn a_store_that_stays_away_locks_no_guest() {
        let away = || Failure::CannotAsk(Error::Storage(storage::Error::NotInstalled));
        for verb in [Verb::CreateGuest, Verb::AttachDisk] {
            assert_eq!(outcome(verb, RecoveryHistory::default(), &away()), ("open", true, 4));
            assert_eq!(outcome(verb, LAST, &away()), ("leftover", true, 1));
            let history = RecoveryHistory { is_leftover: true, ..LAST };
            assert_eq!(outcome(verb, history, &away()), ("leftover", true, 4));
        }
        assert_eq!(outcome(Verb::ResizeDisk, LAST, &away()).0, "leftover");
        assert_eq!(outcome(Verb::Delete, LAST, &away()), ("open", true, 4));
        let Abort::KeepOnly(steps, _) = decide(&intent(Verb::Delete), LAST, &away()) else {
            panic!("its domain is gone; one that is defined again is another")
        };
        assert!(steps.contains(&Step::Gone { uuid: "u".to_owned() }));
        let mut released = intent(Verb::Delete);
        released.steps.insert(0, Step::Released);
        let Abort::Keep(retained) = decide(&released, RecoveryHistory::default(), &away()) else {
            panic!("it stays as it is")
        };
        assert!(
            matches!(retained.state, IntentState::Leftover { retry: Some(_) }),
            "also after a start"
        );
    }

    #[test]
    fn refused_undo_becomes_a_leftover() {
        let refused = |verb| {
            let error = Error::Left(vec!["volume tank/guests/a/disk-0 is in use".to_owned()]);
            Failure::Left(error, safe_steps(&intent(verb)))
        };
        let first = RecoveryHistory::default();
        assert_eq!(outcome(Verb::AttachDisk, first, &refused(Verb::AttachDisk)).0, "open");
        let last = outcome(Verb::AttachDisk, LAST, &refused(Verb::AttachDisk));
        assert_eq!(last, ("leftover", false, 1));
        let delete = refused(Verb::Delete);
        assert_eq!(outcome(Verb::Delete, first, &delete), ("leftover", true, 4));
        assert_eq!(outcome(Verb::Delete, LAST, &delete), ("leftover", false, 4));
        let stays = Failure::DomainStays(Error::NoGuest);
        assert_eq!(outcome(Verb::Delete, first, &stays).0, "forgotten");
        assert_eq!(outcome(Verb::Delete, LAST, &stays).0, "forgotten");
        let resumed = RecoveryHistory { is_resumed: true, ..first };
        assert_eq!(outcome(Verb::Delete, resumed, &stays).0, "open");
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let pauses: Vec<u64> = (1..8).map(|tries| pause(tries).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), RECOVERY_PAUSE_MAX);
    }
}
