//! One change to a guest. Its steps are on the disk before they start.
//!
//! ```text
//! begin ──► record, record, .. ──► commit           everything is done
//!                             ├──► abort(Forget)    no object is left
//!                             └──► abort(Keep..)    recovery follows
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, error, log, warn};
use parking_lot::Mutex;

use crate::config::fixed::{RECOVERY_PAUSE, RECOVERY_PAUSE_MAX, STATE_WRITE};
use crate::events::EventKind;
use crate::guest::wire::Guest;
use crate::jobs::{Track, reached, tracker};
use crate::journal::{self, Intent, IntentState, Journal, JournalEntry, Retained, Step, Verb};
use crate::ops::{Core, Error, Session};
use crate::pool::{self, GuestLock, Job, JobName, Lane};

/// The steps of one change. The journal file of the change exists from the first step on: a call that changes nothing
/// costs nothing.
///
/// It ends with [`Transaction::commit`] or [`Transaction::abort`]. Dropping a transaction with steps is a bug, such as
/// a panic; the agent logs it and keeps the intent.
pub(super) struct Transaction {
    journal: Arc<Journal>,
    intent: Intent,
    /// The journal's file; `None` before the first step, and if the journal could not be written.
    entry: Option<JournalEntry>,
    /// The job that the change belongs to, if any.
    track: Option<Track>,
    is_resumed: bool,
}

/// The journal's action for a transaction that is not committed.
#[derive(Clone, Debug)]
pub(super) enum Abort {
    /// Nothing remains, or the caller knows what remains.
    Forget,
    /// The journal keeps the intent.
    Keep(Retained),
    /// The journal keeps these steps of the intent.
    KeepOnly(Vec<Step>, Retained),
}

impl Abort {
    /// Keeps the intent, so that it is recovered as soon as possible, and before the guest is changed again.
    pub(super) fn recover(why: &Error) -> Self {
        Self::Keep(Retained::open(why.to_string()))
    }
}

/// Why the steps of a transaction ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Objects of the steps may exist; they must be recovered.
    Recover(Error),
    /// No object of the steps remains.
    Clean(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Recover(error.into())
    }
}

impl Transaction {
    /// Starts a change without steps. Call this on the thread of the request, which knows the job of the change.
    pub(super) fn begin(journal: &Arc<Journal>, verb: Verb, request: &Guest) -> Self {
        let intent = Intent {
            verb,
            guest: request.id.clone(),
            started: SystemTime::now(),
            request: request.clone(),
            steps: Vec::new(),
        };
        let mut transaction = Self::with(journal, intent, None);
        transaction.track = tracker();
        transaction
    }

    /// Continues a transaction that the journal has kept.
    pub(super) fn resume(journal: &Arc<Journal>, entry: JournalEntry) -> Self {
        let intent = entry.intent().clone();
        let mut transaction = Self::with(journal, intent, Some(entry));
        transaction.is_resumed = true;
        transaction
    }

    fn with(journal: &Arc<Journal>, intent: Intent, entry: Option<JournalEntry>) -> Self {
        Self { journal: Arc::clone(journal), intent, entry, track: None, is_resumed: false }
    }

    /// Returns its method, its guest and its steps.
    pub(super) fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Returns whether the journal had kept it, so that no caller waits for it.
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Returns how often its recovery was tried since the agent started, and how often it was refused.
    pub(super) fn tries(&self) -> (u32, u32) {
        self.entry.as_ref().map_or((0, 0), JournalEntry::tries)
    }

    /// Returns whether it is a leftover that is tried again.
    pub(super) fn is_leftover(&self) -> bool {
        self.entry.as_ref().is_some_and(JournalEntry::is_leftover)
    }

    /// Records a step. Call this before the step starts.
    ///
    /// # Errors
    /// If the journal cannot be written: do not start the step.
    ///
    /// # Blocking
    /// Until the journal's disk has the step.
    pub(super) fn record(&mut self, step: Step) -> Result<(), journal::Error> {
        let entry = match &mut self.entry {
            Some(entry) => entry,
            none => {
                let Intent { verb, guest, request, .. } = &self.intent;
                none.insert(self.journal.begin(*verb, guest, request)?)
            }
        };
        entry.note(step.clone())?;
        if let Some(track) = &self.track {
            track.step(step.to_string());
        }
        self.intent.steps.push(step);
        Ok(())
    }

    /// Records steps that run even if the journal cannot be written. Only Delete does this: it may free the space that
    /// the journal needs, and it can be repeated.
    ///
    /// # Blocking
    /// As [`Transaction::record`].
    pub(super) fn record_if_possible(&mut self, steps: impl IntoIterator<Item = Step>) {
        let mut steps = steps.into_iter();
        for step in steps.by_ref() {
            if let Err(error) = self.record(step.clone()) {
                let Intent { verb, guest, .. } = &self.intent;
                warn!(
                    "{verb} is not journaled; a crash may leave it incomplete; guest={guest:?}: {error}"
                );
                self.intent.steps.push(step);
                break;
            }
        }
        self.intent.steps.extend(steps);
    }

    /// Ends the transaction with success.
    ///
    /// # Errors
    /// If the journal cannot remove its file: the intent is then open, and will be recovered. If the file is removed
    /// but the directory cannot be written: the change is complete, unless the host loses power now.
    ///
    /// # Blocking
    /// As [`Transaction::record`].
    pub(super) fn commit(mut self) -> Result<(), journal::Error> {
        self.entry.take().map_or(Ok(()), JournalEntry::complete)
    }

    /// Ends the transaction without success.
    ///
    /// # Blocking
    /// As [`Transaction::record`]; none if it stays open with all of its steps.
    pub(super) fn abort(mut self, abort: Abort) {
        let Some(entry) = self.entry.take() else { return };
        let Intent { verb, guest, .. } = &self.intent;
        match abort {
            Abort::Forget => {
                if let Err(error) = entry.complete() {
                    warn!("cannot remove {verb} from the journal; guest={guest:?}: {error}");
                }
            }
            Abort::KeepOnly(steps, retained) => {
                warn!("{verb} is incomplete; guest={guest:?}: {}", retained.why);
                match entry.narrow(steps) {
                    Ok(entry) => drop(entry.keep(retained)),
                    // The unchanged intent would undo too much later.
                    Err(not_narrowed) => {
                        let (entry, error) = *not_narrowed;
                        warn!("cannot journal the rest of {verb}; guest={guest:?}: {error}");
                        entry.keep(later(retained));
                    }
                }
            }
            Abort::Keep(retained) => {
                // The caller's own recovery follows before it gets its answer, so this is no warning yet.
                let level = if retained.tried { Level::Warn } else { Level::Debug };
                let line = format!("{verb} is incomplete; guest={guest:?}: {}", retained.why);
                if entry.keep(retained) {
                    log!(level, "{line}");
                }
            }
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // Dropping the entry returns it to the journal, and the reconciler recovers it.
        if self.entry.is_some() {
            let Intent { verb, guest, .. } = &self.intent;
            error!("bug: {verb} was neither committed nor aborted; guest={guest:?}");
        }
    }
}

impl Core {
    /// Runs steps of a transaction as one job under the guest lock. After an error, the journal keeps the intent,
    /// except for [`Stop::Clean`]. It also keeps the intent if the pool does not run the job, or the result is late.
    ///
    /// # Errors
    /// Errors of `work` and of the pool.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn run_steps<T: Send + 'static>(
        &self,
        lane: Lane,
        transaction: Transaction,
        lock: &GuestLock,
        deadline: Instant,
        work: impl FnOnce(&mut Session, &mut Transaction) -> Result<T, Stop> + Send + 'static,
    ) -> Result<(T, Transaction), Error> {
        // Storage needs no connection.
        let needs_libvirt = lane != Lane::Storage;
        if needs_libvirt {
            if let Err(error) = self.opener.health().may_answer() {
                transaction.abort(Abort::recover(&error));
                return Err(error);
            }
        }
        let name = JobName::new(transaction.intent.verb.to_string(), lock.guest());
        reached(&name);
        let work = move |session: &mut Session, mut transaction: Transaction| {
            if needs_libvirt {
                session.begin(deadline);
            }
            match work(session, &mut transaction) {
                Ok(result) => Ok((result, transaction)),
                Err(Stop::Recover(error)) => {
                    transaction.abort(Abort::recover(&error));
                    Err(error)
                }
                Err(Stop::Clean(error)) => {
                    transaction.abort(Abort::Forget);
                    Err(error)
                }
            }
        };
        let late = |_: &mut Session, ended: Result<(T, Transaction), Error>| {
            let Ok((_, transaction)) = ended else { return };
            if transaction.entry.is_some() {
                let Intent { verb, guest, .. } = &transaction.intent;
                warn!("{verb} did not end in time; recovering guest={guest:?}");
            }
            transaction.abort(Abort::Keep(Retained::open("it did not end in time".to_owned())));
        };
        self.on_worker(lane, Job { name, deadline }, lock, transaction, work, late)
            .map_err(NotRun::keep)?
    }

    /// Commits a transaction on a worker, so that a hung disk costs the caller no more than the deadline. If the pool
    /// does not run the commit, the journal keeps the intent.
    ///
    /// # Errors
    /// As [`Transaction::commit`], and errors of the pool.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn commit(
        &self,
        transaction: Transaction,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        // A change without a step has no file.
        if transaction.entry.is_none() {
            return Ok(());
        }
        let job = Job { name: state_write(), deadline };
        let is_new = transaction.intent.verb == Verb::CreateGuest && !transaction.is_resumed;
        let created = is_new.then(|| (Arc::clone(&self.events), transaction.intent.guest.clone()));
        let marks = self.status.marks();
        let commit = |_: &mut Session, transaction: Transaction| transaction.commit();
        // A late commit is valid, but its method does nothing more.
        let late = move |_: &mut Session, committed: Result<(), journal::Error>| {
            if let (Some((events, guest)), Ok(())) = (created, committed) {
                events.note(&guest, EventKind::Created);
            }
            marks.wake();
        };
        let committed = self.on_worker(STATE_LANE, job, lock, transaction, commit, late);
        Ok(committed.map_err(NotRun::keep)??)
    }

    /// Ends a transaction without success. Writes run on a worker, as in [`Core::commit`].
    ///
    /// # Blocking
    /// Up to `deadline`, or [`STATE_WRITE`] if that is later; if the pool does not run the write, as
    /// [`Transaction::abort`].
    pub(super) fn abort(
        &self,
        transaction: Transaction,
        abort: Abort,
        lock: &GuestLock,
        deadline: Instant,
    ) {
        let is_open = matches!(&abort, Abort::Keep(retained) if matches!(retained.state, IntentState::Open { .. }));
        if is_open || transaction.entry.is_none() {
            return transaction.abort(abort);
        }
        let otherwise = match &abort {
            Abort::KeepOnly(_, retained) => Abort::Keep(later(retained.clone())),
            // `Forget` stays: the caller's answer may say that nothing more follows.
            abort => abort.clone(),
        };
        let deadline = deadline.max(Instant::now() + STATE_WRITE);
        let job = Job { name: state_write(), deadline };
        let work = move |_: &mut Session, transaction: Transaction| transaction.abort(abort);
        let ended = self.on_worker(STATE_LANE, job, lock, transaction, work, |_, ()| {});
        if let Err(NotRun { transaction: Some(transaction), .. }) = ended {
            transaction.abort(otherwise);
        }
    }

    /// Moves a transaction into a job.
    ///
    /// # Errors
    /// As [`pool::Pool::run_or_else`]; with the transaction if the job did not run.
    ///
    /// # Blocking
    /// Up to the job's deadline.
    fn on_worker<T: Send + 'static>(
        &self,
        lane: Lane,
        job: Job,
        lock: &GuestLock,
        transaction: Transaction,
        work: impl FnOnce(&mut Session, Transaction) -> T + Send + 'static,
        late: impl FnOnce(&mut Session, T) + Send + 'static,
    ) -> Result<T, NotRun> {
        let shared = Arc::new(Mutex::new(Some(transaction)));
        let given = Arc::clone(&shared);
        let work = move |session: &mut Session| {
            let transaction = given.lock().take();
            work(session, transaction.expect("its caller takes it only where this does not run"))
        };
        self.pool.run_or_else(lane, job, Some(lock), work, late).map_err(|error| {
            // A job that has started has the transaction, or will take it in a moment.
            let has_started =
                matches!(error, pool::Error::Late { .. } | pool::Error::Panicked { .. });
            let transaction = if has_started { None } else { shared.lock().take().map(Box::new) };
            NotRun { error, transaction }
        })
    }
}

/// Why a job has no result, and the transaction that it did not take.
struct NotRun {
    error: pool::Error,
    transaction: Option<Box<Transaction>>,
}

impl NotRun {
    /// Keeps the transaction in the journal.
    fn keep(self) -> pool::Error {
        if let Some(transaction) = self.transaction {
            // No caller waits for a resumed transaction, and the lane may still have no room.
            let pause = if transaction.is_resumed { RECOVERY_PAUSE } else { Duration::ZERO };
            let state = IntentState::Open { retry: Instant::now() + pause };
            let retained = Retained { state, ..Retained::open(self.error.to_string()) };
            transaction.abort(Abort::Keep(retained));
        }
        self.error
    }
}

/// Returns the same state, open and due after the longest pause.
fn later(retained: Retained) -> Retained {
    Retained { state: IntentState::Open { retry: Instant::now() + RECOVERY_PAUSE_MAX }, ..retained }
}

/// The lane of short writes to the state directory. It is free while other lanes wait for a store or for a hung guest.
/// A hung disk occupies at most half of its workers, because these writes share a name.
pub(super) const STATE_LANE: Lane = Lane::Read;

/// Returns the job name of such a write.
pub(super) fn state_write() -> JobName {
    JobName::new("a write to", "the state directory")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ops::Libvirt;

    const GUEST: &str = "web-1";
    const SOON: Duration = Duration::from_secs(60);

    fn agent() -> Arc<Core> {
        Libvirt::new("test:///default", "mistify", 1).unwrap().core
    }

    /// Returns a transaction with a step.
    fn started(agent: &Core) -> Transaction {
        let guest = Guest { id: GUEST.to_owned(), ..Guest::default() };
        let mut transaction = Transaction::begin(&agent.journal, Verb::CreateVolume, &guest);
        let name = "mistify/guests/web-1/disk-0".to_owned();
        transaction.record(Step::Volume { name, made_parent: false, maker: None }).unwrap();
        transaction
    }

    /// Returns why its intent is open, if it is.
    fn open(agent: &Core) -> Option<Option<String>> {
        agent.open_intents().pop().map(|summary| summary.why)
    }

    fn run(
        agent: &Core,
        limit: Duration,
        work: impl FnOnce() -> Result<(), Stop> + Send + 'static,
    ) -> Result<(), Error> {
        let lock = agent.pool.lock_guest(GUEST, Instant::now() + SOON).unwrap();
        let work = |_: &mut Session, _: &mut Transaction| work();
        let (transaction, deadline) = (started(agent), Instant::now() + limit);
        let done = agent.run_steps(Lane::Storage, transaction, &lock, deadline, work);
        done.map(|((), transaction)| transaction.commit().unwrap())
    }

    #[test]
    fn a_transaction_that_is_dropped_stays_open() {
        let agent = agent();
        drop(started(&agent));
        assert_eq!(open(&agent), Some(None));
        assert!(agent.journal.retained().try_recv().is_ok(), "the reconciler is woken");
    }

    #[test]
    fn outcome_decides_whether_the_intent_stays() {
        let agent = agent();
        run(&agent, SOON, || Ok(())).unwrap();
        assert_eq!(open(&agent), None);
        let refused = || Error::Refused("no");
        run(&agent, SOON, move || Err(Stop::Clean(refused()))).unwrap_err();
        assert_eq!(open(&agent), None);
        run(&agent, SOON, move || Err(Stop::Recover(refused()))).unwrap_err();
        assert_eq!(open(&agent), Some(Some("no".to_owned())));
    }

    #[test]
    fn a_job_that_never_runs_keeps_its_intent() {
        let agent = agent();
        let lock = agent.pool.lock_guest(GUEST, Instant::now() + SOON).unwrap();
        let transaction = started(&agent);
        agent.pool.stop(Duration::ZERO);
        let work = |_: &mut Session, _: &mut Transaction| -> Result<(), Stop> { unreachable!() };
        let deadline = Instant::now() + SOON;
        let refused = agent.run_steps(Lane::Storage, transaction, &lock, deadline, work);
        let why = refused.map(|_| ()).unwrap_err().to_string();
        assert_eq!(open(&agent), Some(Some(why)));
    }

    #[test]
    fn late_result_keeps_its_intent() {
        let agent = agent();
        let (ends, ended) = crossbeam_channel::bounded::<()>(0);
        let work = move || {
            // Until its caller has gone.
            let _ = ended.recv();
            Ok(())
        };
        let late = run(&agent, Duration::from_secs(1), work).unwrap_err();
        assert!(matches!(late, Error::Pool(pool::Error::Late { .. })), "{late}");
        assert_eq!(open(&agent), None, "it runs");
        drop(ends);
        let deadline = Instant::now() + SOON;
        while open(&agent).is_none() {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        assert_eq!(open(&agent), Some(Some("it did not end in time".to_owned())));
    }

    #[test]
    fn a_panic_keeps_the_intent() {
        let agent = agent();
        let panicked = run(&agent, SOON, || panic!("on purpose")).unwrap_err();
        assert!(matches!(panicked, Error::Pool(pool::Error::Panicked { .. })), "{panicked}");
        assert_eq!(open(&agent), Some(None));
    }
}
