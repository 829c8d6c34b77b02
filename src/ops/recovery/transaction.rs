//! One change to a guest, whose steps are on the disk before they are begun.
//!
//! ```text
//! begin ──► record, record, .. ──► commit           everything is done
//!                             ├──► abort(Forget)    nothing of it is left
//!                             └──► abort(Keep)      it has to be recovered
//! ```

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use log::{Level, error, log, warn};

use super::reconciler::Wake;
use crate::config::fixed::RECOVERY_PAUSE_MAX;
use crate::events::What;
use crate::guest::wire::Guest;
use crate::jobs::{Track, reached, tracker};
use crate::journal::{self, Entry, Intent, Journal, Kept, State, Step, Verb};
use crate::ops::{Error, Libvirt, Session, begun};
use crate::pool::{self, Hold, Job, JobName, Lane};

/// The steps of one change. The journal has a file of it from the first step on: a call that changes
/// nothing costs nothing.
///
/// It ends with [`Transaction::commit`] or [`Transaction::abort`]. One that is dropped with steps is a bug:
/// it is logged, and its intent is kept.
pub(in crate::ops) struct Transaction {
    journal: Arc<Journal>,
    intent: Intent,
    /// The journal's file; `None` before the first step, and where the journal could not be written.
    entry: Option<Entry>,
    /// The job that this is a part of, if any.
    track: Option<Track>,
    reconciler: Wake,
    /// Whether a job of the pool has it. The pool drops a job that it does not run, and a result that comes
    /// too late: both keep the intent.
    is_in_job: bool,
    is_resumed: bool,
}

/// What the journal does with a transaction that is not committed.
#[derive(Debug)]
pub(in crate::ops) enum Abort {
    /// Nothing of it is left, or the caller was told what is.
    Forget,
    /// The journal keeps it.
    Keep(Kept),
    /// The journal keeps these of its steps.
    KeepOnly(Vec<Step>, Kept),
}

impl Abort {
    /// Has it recovered as soon as possible, and before the guest is changed again.
    pub(in crate::ops) fn recover(why: &Error) -> Self {
        Self::Keep(Kept::open(why.to_string()))
    }
}

impl Transaction {
    /// A change without a step yet. Call it on the thread of the request, whose job it is a part of.
    pub(in crate::ops) fn begin(agent: &Libvirt, verb: Verb, request: &Guest) -> Self {
        let intent = Intent {
            verb,
            guest: request.id.clone(),
            begun: SystemTime::now(),
            request: request.clone(),
            steps: Vec::new(),
        };
        let mut transaction = Self::with(agent, intent, None);
        transaction.track = tracker();
        transaction
    }

    /// One that the journal has kept.
    pub(super) fn resume(agent: &Libvirt, entry: Entry) -> Self {
        let intent = entry.intent().clone();
        let mut transaction = Self::with(agent, intent, Some(entry));
        transaction.is_resumed = true;
        transaction
    }

    fn with(agent: &Libvirt, intent: Intent, entry: Option<Entry>) -> Self {
        let (journal, reconciler) = (Arc::clone(&agent.journal), agent.status.wake());
        let (is_in_job, is_resumed) = (false, false);
        Self { journal, intent, entry, track: None, reconciler, is_in_job, is_resumed }
    }

    /// Its verb, its guest and its steps.
    pub(in crate::ops) fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Whether the journal had kept it, so that no caller waits for it.
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// How often its recovery was tried since the agent started, and how often it was refused.
    pub(super) fn tries(&self) -> (u32, u32) {
        self.entry.as_ref().map_or((0, 0), Entry::tries)
    }

    /// Whether it is a leftover that is tried again.
    pub(super) fn is_leftover(&self) -> bool {
        self.entry.as_ref().is_some_and(Entry::is_leftover)
    }

    /// Records a step. Call it before the step is begun.
    ///
    /// # Errors
    /// When the journal cannot be written: do not begin the step.
    ///
    /// # Blocking
    /// As long as the journal's disk takes.
    pub(in crate::ops) fn record(&mut self, step: Step) -> Result<(), journal::Error> {
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

    /// Records steps that are done even where the journal cannot be written. Only Delete does that: it may
    /// be what makes room for the journal again, and it can be repeated.
    ///
    /// # Blocking
    /// As [`Transaction::record`].
    pub(in crate::ops) fn record_if_possible(&mut self, steps: impl IntoIterator<Item = Step>) {
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

    /// Everything is done.
    ///
    /// # Errors
    /// When the journal cannot forget it. The intent is open then, and will be recovered.
    ///
    /// # Blocking
    /// As [`Transaction::record`].
    pub(in crate::ops) fn commit(mut self) -> Result<(), journal::Error> {
        let committed = self.entry.take().map_or(Ok(()), Entry::settled);
        if committed.is_err() {
            self.reconciler.wake();
        }
        committed
    }

    /// Ends it without success. One that is kept wakes the reconciler.
    ///
    /// # Blocking
    /// As [`Transaction::record`] with [`Abort::Forget`]; else not.
    pub(in crate::ops) fn abort(mut self, abort: Abort) {
        let Some(entry) = self.entry.take() else { return };
        let Intent { verb, guest, .. } = &self.intent;
        match abort {
            Abort::Forget => {
                if let Err(error) = entry.settled() {
                    warn!("cannot remove {verb} from the journal; guest={guest:?}: {error}");
                    self.reconciler.wake();
                }
            }
            Abort::KeepOnly(steps, kept) => {
                warn!("{verb} is incomplete; guest={guest:?}: {}", kept.why);
                match entry.narrow(steps) {
                    Ok(entry) => drop(entry.keep(kept)),
                    // As it is, it would undo too much later.
                    Err(not_narrowed) => {
                        let (entry, error) = *not_narrowed;
                        warn!("cannot journal the rest of {verb}; guest={guest:?}: {error}");
                        let state = State::Open { retry: Instant::now() + RECOVERY_PAUSE_MAX };
                        entry.keep(Kept { state, ..kept });
                    }
                }
                self.reconciler.wake();
            }
            Abort::Keep(kept) => {
                // What has just failed is recovered before its caller hears of it.
                let level = if kept.tried { Level::Warn } else { Level::Debug };
                let line = format!("{verb} is incomplete; guest={guest:?}: {}", kept.why);
                if entry.keep(kept) {
                    log!(level, "{line}");
                }
                self.reconciler.wake();
            }
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        let Intent { verb, guest, .. } = &self.intent;
        if self.is_in_job {
            entry.keep(Kept::open("it did not end in time".to_owned()));
            warn!("{verb} did not end in time; recovering guest={guest:?}");
        } else {
            error!("bug: {verb} was neither committed nor aborted; guest={guest:?}");
        }
        self.reconciler.wake();
    }
}

impl Libvirt {
    /// Runs steps of a transaction as one job under the guest's lock. After an error the intent is kept, and
    /// so it is where the pool drops the job or its late result.
    ///
    /// # Errors
    /// Those of `work` and of the pool.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn run_steps<T: Send + 'static>(
        &self,
        lane: Lane,
        mut transaction: Transaction,
        hold: &Hold,
        deadline: Instant,
        work: impl FnOnce(&mut Session, &mut Transaction) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, Transaction), Error> {
        let name = JobName::new(transaction.intent.verb.to_string(), hold.key());
        let job = Job { name, deadline };
        transaction.is_in_job = true;
        if lane != Lane::Storage {
            self.opener.health().may_answer()?;
        }
        reached(&job.name);
        let work = move |session: &mut Session| match work(session, &mut transaction) {
            Ok(result) => Ok((result, transaction)),
            Err(error) => {
                transaction.abort(Abort::recover(&error));
                Err(error)
            }
        };
        let (result, mut transaction) = match lane {
            // Storage needs no connection.
            Lane::Storage => self.pool.run(lane, job, Some(hold), work),
            _ => self.pool.run(lane, job, Some(hold), begun(deadline, work)),
        }??;
        transaction.is_in_job = false;
        Ok((result, transaction))
    }

    /// Commits a transaction on a worker, so that a disk that hangs costs its caller no more than the deadline.
    /// Where the pool does not run that, the intent is kept.
    ///
    /// # Errors
    /// As [`Transaction::commit`], and those of the pool.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn commit(
        &self,
        transaction: Transaction,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<(), Error> {
        Ok(self.end(transaction, hold, deadline, Transaction::commit)??)
    }

    /// Forgets a transaction of which nothing is left, as [`Libvirt::commit`] commits one.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn forget(&self, transaction: Transaction, hold: &Hold, deadline: Instant) {
        let forget = |transaction: Transaction| {
            transaction.abort(Abort::Forget);
            Ok(())
        };
        // Where the pool does not run it the intent is kept, and its recovery finds nothing to do.
        let _ = self.end(transaction, hold, deadline, forget);
    }

    fn end(
        &self,
        mut transaction: Transaction,
        hold: &Hold,
        deadline: Instant,
        end: fn(Transaction) -> Result<(), journal::Error>,
    ) -> Result<Result<(), journal::Error>, pool::Error> {
        // A change without a step has no file.
        if transaction.entry.is_none() {
            return Ok(Ok(()));
        }
        transaction.is_in_job = true;
        let job = Job { name: state_write(), deadline };
        let is_new = transaction.intent.verb == Verb::CreateGuest && !transaction.is_resumed;
        let created = is_new.then(|| (Arc::clone(&self.events), transaction.intent.guest.clone()));
        let marks = self.status.marks();
        // What is committed late stays, and its verb does nothing more.
        let late = move |_: &mut Session, ended: Result<(), journal::Error>| {
            if let (Some((events, guest)), Ok(())) = (created, ended) {
                events.note(&guest, What::Created);
            }
            marks.wake();
        };
        self.pool.run_or_else(STATE_LANE, job, Some(hold), move |_| end(transaction), late)
    }
}

/// The lane of writes to the state directory that wait for nothing else. It is free where the others wait for a
/// store or for a guest that hangs, and a disk that hangs takes half of its workers: they share a name.
pub(in crate::ops) const STATE_LANE: Lane = Lane::Read;

/// The name of such a write.
pub(in crate::ops) fn state_write() -> JobName {
    JobName::new("a write to", "the state directory")
}
