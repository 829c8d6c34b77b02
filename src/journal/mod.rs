//! Changes on disk before they happen, so that a crash leaves nothing unrecorded.
//!
//! ```text
//! begin ──► JournalEntry ── note, note, .. ──► complete      the file is removed
//!               │  ▲
//!   drop, keep  │  │ open_of, open_of_verb, leftovers_of
//!               ▼  │
//!        open intent, leftover ◄── open, at start: intents after a crash
//! ```
//!
//! An open intent must be recovered before its guest is changed again. A leftover was tried and refused; it only
//! records the objects that remain. The journal keeps files (see `directory`) and does not know the meaning of steps:
//! `ops::recovery` asks libvirt and storage which objects exist, and undoes or finishes the steps. The guarantees:
//! - When [`Journal::begin`] and [`JournalEntry::note`] return, the record is on the disk. A step is recorded before it
//!   starts, so the steps name every object that may exist, and some that may not.
//! - A partially written line is ignored: its step never started. A file with any other damage, and any file that this
//!   agent did not write for this host, is set aside and never used.
//! - No mutex is held during a wait for the disk.

mod directory;
mod error;
mod intent;
mod record;
mod state_dir;
mod stop;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::error;
use parking_lot::Mutex;

use self::directory::JournalDirectory;
use self::record::{IntentRecord, Tail};
use crate::config::JournalLimits;
use crate::config::fixed::RECOVERY_PAUSE;
use crate::guest::wire::Guest;
use crate::sorted::{IntoSorted, Table};

pub use self::error::Error;
pub use self::intent::{Direction, Intent, IntentState, Scope, Step, Summary, Verb};
#[cfg(any(test, fuzzing))]
pub(crate) use self::record::fuzz::journal_file as fuzz_journal_file;
pub use self::state_dir::default_state_dir;

/// The journal of one agent. Its directory, if it has one, stays locked until the journal and all its entries are
/// dropped.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` for a journal in memory.
    directory: Option<JournalDirectory>,
    scope: Scope,
    limits: JournalLimits,
    slots: Mutex<Slots>,
    /// Has a message if an intent was put back since the last message was received.
    retained: (Sender<()>, Receiver<()>),
}

/// The intents that have a file, or are about to get one.
#[derive(Debug)]
struct Slots {
    /// The number of the next file.
    next: u64,
    /// By number, so the oldest is first, whatever the clock was.
    by_number: Table<u64, Slot>,
}

#[derive(Debug)]
struct Slot {
    summary: Summary,
    /// The content of the file; `None` while a [`JournalEntry`] has it.
    record: Option<IntentRecord>,
}

impl Journal {
    /// Locks the directory, makes it if it is absent, and reads its files. Sets unusable files aside with a warning.
    ///
    /// # Errors
    /// [`Error::Locked`] if another agent uses it; [`Error::Io`] if it cannot be used.
    ///
    /// # Blocking
    /// Until the disk has answered.
    pub fn open(directory: &Path, scope: Scope, limits: &JournalLimits) -> Result<Self, Error> {
        let directory = JournalDirectory::open(directory, limits)?;
        let stored = directory.sweep(&scope, limits)?;
        let slots = stored.records.into_iter().map(|(number, record)| {
            let summary = record.intent.summary(IntentState::Open { retry: Instant::now() });
            (number, Slot { summary, record: Some(record) })
        });
        let slots = Slots { next: stored.next, by_number: slots.into_table() };
        Ok(Self::with(Some(directory), scope, limits, slots))
    }

    /// Creates a journal in memory, for an agent without a state directory. Failed changes are undone, but not those
    /// that a crash interrupts.
    pub fn in_memory(scope: Scope, limits: &JournalLimits) -> Self {
        Self::with(None, scope, limits, Slots { next: 1, by_number: Table::new() })
    }

    /// Opens the file that the agent's commands lock, even beyond the end of the agent; `None` without a state
    /// directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    ///
    /// # Blocking
    /// Until the disk has answered.
    pub fn commands(&self) -> Result<Option<File>, Error> {
        self.shared.directory.as_ref().map(JournalDirectory::commands).transpose()
    }

    fn with(
        directory: Option<JournalDirectory>,
        scope: Scope,
        limits: &JournalLimits,
        slots: Slots,
    ) -> Self {
        let (limits, slots, retained) = (limits.clone(), Mutex::new(slots), bounded(1));
        Self { shared: Arc::new(Shared { directory, scope, limits, slots, retained }) }
    }

    /// Returns the channel that gets a message when an intent was put back for recovery, now or later. For one
    /// receiver.
    pub fn retained(&self) -> Receiver<()> {
        self.shared.retained.1.clone()
    }

    /// Starts a change. Call this before its first step.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Size`] or [`Error::Io`]; the journal then keeps no intent.
    ///
    /// # Blocking
    /// Until the disk has the file.
    pub fn begin(&self, verb: Verb, guest: &str, request: &Guest) -> Result<JournalEntry, Error> {
        self.begin_at(SystemTime::now(), verb, guest, request)
    }

    fn begin_at(
        &self,
        started: SystemTime,
        verb: Verb,
        guest: &str,
        request: &Guest,
    ) -> Result<JournalEntry, Error> {
        let shared = &self.shared;
        let (record, line) = IntentRecord::begin(&shared.scope, started, verb, guest, request);
        shared.check_size(record.tail)?;
        let number = shared.reserve(record.intent.summary(IntentState::Running))?;
        let write = stop::Write::begin();
        let placed = shared.on_disk(|directory| directory.place(number, &line));
        if placed.is_err() {
            shared.slots.lock().by_number.remove(&number);
        }
        placed?;
        write.end();
        Ok(JournalEntry { shared: Arc::clone(shared), number, record, done: false })
    }

    /// Takes the oldest open intent of a guest for recovery: one that a crash left, or whose entry was dropped. Returns
    /// `None` if there is none, or another thread has it.
    pub fn open_of(&self, guest: &str) -> Option<JournalEntry> {
        let is_open = |summary: &Summary| {
            summary.guest == guest && matches!(summary.state, IntentState::Open { .. })
        };
        self.take(is_open, 1).pop()
    }

    /// Takes all open intents of a method, the oldest first.
    pub fn open_of_verb(&self, verb: Verb) -> Vec<JournalEntry> {
        let is_open = |summary: &Summary| {
            summary.verb == verb && matches!(summary.state, IntentState::Open { .. })
        };
        self.take(is_open, usize::MAX)
    }

    /// Takes the guest's leftovers out of the journal, the oldest first. With `due`, the journal hands out only
    /// leftovers whose next retry is due by that time.
    pub fn leftovers_of(&self, guest: &str, due: Option<Instant>) -> Vec<JournalEntry> {
        let is_wanted = |summary: &Summary| {
            let IntentState::Leftover { retry } = summary.state else { return false };
            let is_due = due.is_none_or(|due| retry.is_some_and(|retry| retry <= due));
            summary.guest == guest && is_due
        };
        self.take(is_wanted, usize::MAX)
    }

    fn take(&self, is_wanted: impl Fn(&Summary) -> bool, count: usize) -> Vec<JournalEntry> {
        let mut slots = self.shared.slots.lock();
        let slots = slots.by_number.iter_mut().filter(|(_, slot)| is_wanted(&slot.summary));
        let taken = slots.filter_map(|(number, slot)| Some((*number, slot.record.take()?)));
        let entry = |(number, record)| JournalEntry {
            shared: Arc::clone(&self.shared),
            number,
            record,
            done: false,
        };
        taken.take(count).map(entry).collect()
    }

    /// Returns the method whose leftovers include the volume of this full name and maker, if any.
    pub fn verb_that_left(&self, volume: &str, made_by: Option<&str>) -> Option<Verb> {
        let slots = self.shared.slots.lock();
        let mut records = slots.by_number.values().filter_map(|slot| slot.record.as_ref());
        let is_named = |step: &Step| {
            matches!(step, Step::Volume { name, maker, .. }
                if name == volume && maker.as_deref() == made_by)
        };
        let record = records.find(|record| record.intent.steps.iter().any(is_named))?;
        Some(record.intent.verb)
    }

    /// Returns whether a change of the guest by this method runs, waits for its recovery or is a leftover, from memory.
    pub fn has_unfinished(&self, verb: Verb, guest: &str) -> bool {
        let slots = self.shared.slots.lock();
        let mut summaries = slots.by_number.values().map(|slot| &slot.summary);
        summaries.any(|summary| summary.verb == verb && summary.guest == guest)
    }

    /// Returns the intents that wait for recovery or are being recovered, the oldest first, from memory; without
    /// running methods and leftovers.
    pub fn open_intents(&self) -> Vec<Summary> {
        self.summaries(|state| matches!(state, IntentState::Open { .. }))
    }

    /// Returns the leftovers, the oldest first, from memory.
    pub fn leftovers(&self) -> Vec<Summary> {
        self.summaries(|state| matches!(state, IntentState::Leftover { .. }))
    }

    fn summaries(&self, is_wanted: impl Fn(&IntentState) -> bool) -> Vec<Summary> {
        let slots = self.shared.slots.lock();
        let found = slots.by_number.values().filter(|slot| is_wanted(&slot.summary.state));
        found.map(|slot| slot.summary.clone()).collect()
    }

    /// Returns the guests with an intent whose next try is due by `now`, and the time of the first other try.
    pub fn due(&self, now: Instant) -> (BTreeSet<String>, Option<Instant>) {
        let slots = self.shared.slots.lock();
        let waiting = slots.by_number.values().filter(|slot| slot.record.is_some());
        let mut due = BTreeSet::new();
        let mut next: Option<Instant> = None;
        for Summary { guest, state, .. } in waiting.map(|slot| &slot.summary) {
            match state.retry() {
                Some(retry) if retry <= now => drop(due.insert(guest.clone())),
                Some(retry) => next = Some(next.map_or(retry, |next| next.min(retry))),
                None => {}
            }
        }
        (due, next)
    }
}

impl Shared {
    fn on_disk(
        &self,
        work: impl FnOnce(&JournalDirectory) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.directory.as_ref().map_or(Ok(()), work)
    }

    /// Returns a number for a new file, if the limit permits one.
    fn reserve(&self, summary: Summary) -> Result<u64, Error> {
        let mut slots = self.slots.lock();
        let files = slots.by_number.len();
        if files >= self.limits.files {
            return Err(Error::Full { files });
        }
        let number = slots.next;
        slots.next += 1;
        slots.by_number.insert(number, Slot { summary, record: None });
        Ok(number)
    }

    /// Makes room for one more leftover: forgets the oldest if half of all files are leftovers.
    fn bound_leftovers(&self) {
        let mut slots = self.slots.lock();
        let mut found = slots.by_number.iter().filter(|(_, slot)| {
            matches!(slot.summary.state, IntentState::Leftover { .. }) && slot.record.is_some()
        });
        let Some((&oldest, slot)) = found.next() else { return };
        if found.count() + 1 < (self.limits.files / 2).max(1) {
            return;
        }
        let Summary { verb, guest, why, .. } = &slot.summary;
        let why = why.as_deref().unwrap_or("not tried");
        error!("too many leftovers; forgetting the oldest: {verb} guest={guest:?}: {why}");
        slots.by_number.remove(&oldest);
        drop(slots);
        if let Err(error) = self.on_disk(|directory| directory.remove(oldest)) {
            error!("journal: {error}");
        }
    }

    fn check_size(&self, tail: Tail) -> Result<(), Error> {
        match self.limits.file_bytes {
            bytes if tail.bytes > bytes => Err(Error::Size { bytes }),
            _ => Ok(()),
        }
    }
}

/// One intent, held by the method that started it or by its recovery. If it is dropped unfinished, it is open: its file
/// stays, and [`Journal::open_of`] returns it.
#[derive(Debug)]
pub struct JournalEntry {
    shared: Arc<Shared>,
    number: u64,
    record: IntentRecord,
    /// Whether the file is removed.
    done: bool,
}

impl JournalEntry {
    /// Returns the intent.
    pub fn intent(&self) -> &Intent {
        &self.record.intent
    }

    /// Records a step. Call this before the step starts.
    ///
    /// # Errors
    /// [`Error::Steps`], [`Error::Size`] or [`Error::Io`]: do not start the step. The intent is unchanged, and other
    /// steps can be recorded.
    ///
    /// # Blocking
    /// Until the disk has the line.
    pub fn note(&mut self, step: Step) -> Result<(), Error> {
        let steps = self.shared.limits.steps;
        if self.record.intent.steps.len() >= steps {
            return Err(Error::Steps { steps });
        }
        let (line, tail) = self.record.tail.line(&step);
        self.shared.check_size(tail)?;
        let write = stop::Write::begin();
        let bytes = self.record.tail.bytes;
        self.shared.on_disk(|directory| directory.append(self.number, bytes, &line))?;
        self.record.tail = tail;
        self.record.intent.steps.push(step);
        write.end();
        Ok(())
    }

    /// Ends the intent: everything is done, or undone.
    ///
    /// # Errors
    /// [`Error::Io`]. If the file could not be removed, the intent is open. If the directory could not be synced, the
    /// intent is removed, but may return after a power failure.
    ///
    /// # Blocking
    /// Until the disk has answered.
    pub fn complete(mut self) -> Result<(), Error> {
        let write = stop::Write::begin();
        if let Err(error) = self.shared.on_disk(|directory| directory.remove(self.number)) {
            let state = IntentState::Open { retry: Instant::now() + RECOVERY_PAUSE };
            self.keep(Retained { state, ..Retained::open(error.to_string()) });
            return Err(error);
        }
        self.done = true;
        self.shared.slots.lock().by_number.remove(&self.number);
        self.shared.on_disk(JournalDirectory::sync)?;
        write.end();
        Ok(())
    }

    /// Returns how often the intent's recovery was tried since the agent started, and how often it was refused.
    pub fn tries(&self) -> (u32, u32) {
        let slots = self.shared.slots.lock();
        let slot = slots.by_number.get(&self.number);
        slot.map_or((0, 0), |Slot { summary, .. }| (summary.tries, summary.refusals))
    }

    /// Returns whether the intent is a leftover.
    pub fn is_leftover(&self) -> bool {
        let slots = self.shared.slots.lock();
        let slot = slots.by_number.get(&self.number);
        slot.is_some_and(|slot| matches!(slot.summary.state, IntentState::Leftover { .. }))
    }

    /// Replaces the entry by one of the same change with only these steps.
    ///
    /// # Errors
    /// As [`Journal::begin`], with the unchanged entry.
    ///
    /// # Blocking
    /// Until the disk has answered.
    pub fn narrow(self, steps: Vec<Step>) -> Result<Self, Box<(Self, Error)>> {
        let Intent { verb, guest, request, started, .. } = self.intent().clone();
        let journal = Journal { shared: Arc::clone(&self.shared) };
        let narrowed = journal.begin_at(started, verb, &guest, &request).and_then(|mut entry| {
            match steps.into_iter().try_for_each(|step| entry.note(step)) {
                Ok(()) => Ok(entry),
                Err(error) => entry.complete().and(Err(error)),
            }
        });
        match narrowed {
            Ok(entry) => {
                if let Err(error) = self.complete() {
                    error!("journal: {error}");
                }
                Ok(entry)
            }
            Err(error) => Err(Box::new((self, error))),
        }
    }

    /// Keeps the intent in the journal. Returns whether the reason is a new one.
    pub fn keep(self, retained: Retained) -> bool {
        let Retained { why, left, tried, refused, state } = retained;
        if matches!(state, IntentState::Leftover { .. }) {
            self.shared.bound_leftovers();
        }
        let mut slots = self.shared.slots.lock();
        let Some(slot) = slots.by_number.get_mut(&self.number) else { return true };
        // Many reasons contain a duration.
        let without_numbers =
            |text: &str| text.chars().filter(|it| !it.is_ascii_digit()).collect::<String>();
        let before = slot.summary.why.as_deref().map(without_numbers);
        let is_new = before != Some(without_numbers(&why)) || (tried && slot.summary.tries == 0);
        slot.summary.why = Some(why);
        slot.summary.left = left;
        slot.summary.tries += u32::from(tried);
        slot.summary.refusals += u32::from(refused);
        slot.summary.state = state;
        drop(slots);
        // The drop of `self` here puts the record back.
        is_new
    }
}

/// Why and how an intent stays in the journal.
#[derive(Clone, Debug)]
pub struct Retained {
    /// Why it could not be recovered.
    pub why: String,
    /// The leftovers, each with the reason.
    pub left: Vec<String>,
    /// Whether this was an attempt to recover it.
    pub tried: bool,
    /// Whether libvirt or storage refused it.
    pub refused: bool,
    /// Its new state.
    pub state: IntentState,
}

impl Retained {
    /// Returns the state of an open intent that is due at once.
    pub fn open(why: String) -> Self {
        let state = IntentState::Open { retry: Instant::now() };
        Self { why, left: Vec::new(), tried: false, refused: false, state }
    }
}

impl Drop for JournalEntry {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(slot) = self.shared.slots.lock().by_number.get_mut(&self.number) {
            if slot.summary.state == IntentState::Running {
                slot.summary.state = IntentState::Open { retry: Instant::now() };
            }
            slot.record = Some(self.record.clone());
        }
        // A full channel contains the same message already.
        let _ = self.shared.retained.0.try_send(());
    }
}

#[cfg(test)]
mod tests;
