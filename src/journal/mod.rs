//! What is about to happen, on the disk before it happens: so that a crash leaves nothing behind.
//!
//! ```text
//! begin ──► Entry ── note, note, .. ──► settled              nothing is left to do: the file goes
//!             │  ▲
//!     dropped │  │ open_of
//!             ▼  │
//!        open intent ◄── open, at start: what a crash left
//! ```
//!
//! The journal keeps files (see `folder`) and knows nothing of what the steps mean: whoever takes an
//! open intent asks libvirt and storage what is really there, and undoes or finishes it. What holds:
//! - When [`Journal::begin`] and [`Entry::note`] return, the disk has it: a step is noted before it
//!   is begun, so the steps name all that may be there, and things that may not be.
//! - A line that was being written is ignored: its step was never begun. Any other damage, and any
//!   file that this agent did not write about this host, is set aside and never followed.
//! - No lock is held while a disk is waited for.

mod error;
mod folder;
mod intent;
mod record;
mod state_dir;
mod stop;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use self::folder::Folder;
use self::record::{Record, Tail};
use crate::config::JournalLimits;
use crate::guest::wire::Guest;

pub use self::error::Error;
pub use self::intent::{Intent, Scope, Step, Summary, Verb};
#[cfg(any(test, fuzzing))]
pub(crate) use self::record::fuzz::journal_file as fuzz_journal_file;
pub use self::state_dir::default_state_dir;

/// The journal of one agent. Its folder, if it has one, is locked until it and all its entries are dropped.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` for a journal in memory.
    folder: Option<Folder>,
    scope: Scope,
    limits: JournalLimits,
    kept: Mutex<Kept>,
}

/// The intents that have a file, or are about to.
#[derive(Debug)]
struct Kept {
    /// The number of the next file.
    next: u64,
    /// By number: the oldest comes first, whatever the clock said.
    slots: BTreeMap<u64, Slot>,
}

#[derive(Debug)]
struct Slot {
    summary: Summary,
    /// Whether the verb that began it is gone.
    open: bool,
    /// What the file says; `None` while an entry has it.
    record: Option<Record>,
}

impl Journal {
    /// Takes the folder, which is made where it is absent, and reads what was left in it. Files that
    /// cannot be followed are set aside with a warning.
    ///
    /// # Errors
    /// [`Error::Locked`] where another agent has it; [`Error::Io`] where it cannot be used.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn open(folder: &Path, scope: Scope, limits: &JournalLimits) -> Result<Self, Error> {
        let folder = Folder::open(folder, limits)?;
        let left = folder.sweep(&scope, limits)?;
        let slots = left.records.into_iter().map(|(number, record)| {
            let summary = record.intent.summary();
            (number, Slot { summary, open: true, record: Some(record) })
        });
        let kept = Kept { next: left.next, slots: slots.collect() };
        Ok(Self::with(Some(folder), scope, limits, kept))
    }

    /// A journal that ends with the process, for an agent that has no folder: what fails is undone,
    /// and what a crash leaves is not.
    pub fn in_memory(scope: Scope, limits: &JournalLimits) -> Self {
        Self::with(None, scope, limits, Kept { next: 1, slots: BTreeMap::new() })
    }

    fn with(folder: Option<Folder>, scope: Scope, limits: &JournalLimits, kept: Kept) -> Self {
        let (limits, kept) = (limits.clone(), Mutex::new(kept));
        Self { shared: Arc::new(Shared { folder, scope, limits, kept }) }
    }

    /// Begins a verb: to be called before its first step.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Size`] or [`Error::Io`]; nothing is kept of it then.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn begin(&self, verb: Verb, guest: &str, request: &Guest) -> Result<Entry, Error> {
        let shared = &self.shared;
        let (record, line) = Record::begin(&shared.scope, verb, guest, request);
        shared.check_size(record.tail)?;
        let number = shared.reserve(record.intent.summary())?;
        let write = stop::Write::begin();
        let placed = shared.on_disk(|folder| folder.place(number, &line));
        if placed.is_err() {
            shared.kept.lock().slots.remove(&number);
        }
        placed?;
        write.end();
        Ok(Entry { shared: Arc::clone(shared), number, record, done: false })
    }

    /// Takes the oldest open intent of a guest, to settle it: one that a crash left, or whose entry
    /// was dropped. `None` where nobody left any, or others have it.
    pub fn open_of(&self, guest: &str) -> Option<Entry> {
        let mut kept = self.shared.kept.lock();
        let mut slots = kept.slots.iter_mut().filter(|(_, slot)| slot.summary.guest == guest);
        let (number, record) =
            slots.find_map(|(number, slot)| Some((*number, slot.record.take()?)))?;
        Some(Entry { shared: Arc::clone(&self.shared), number, record, done: false })
    }

    /// The intents that wait to be settled or are being settled, the oldest first; not those of
    /// verbs that run. Answers from memory.
    pub fn open_intents(&self) -> Vec<Summary> {
        let kept = self.shared.kept.lock();
        let open = kept.slots.values().filter(|slot| slot.open);
        open.map(|slot| slot.summary.clone()).collect()
    }
}

impl Shared {
    fn on_disk(&self, work: impl FnOnce(&Folder) -> Result<(), Error>) -> Result<(), Error> {
        self.folder.as_ref().map_or(Ok(()), work)
    }

    /// A number for a new file, where there is room for one.
    fn reserve(&self, summary: Summary) -> Result<u64, Error> {
        let mut kept = self.kept.lock();
        let files = kept.slots.len();
        if files >= self.limits.files {
            return Err(Error::Full { files });
        }
        let number = kept.next;
        kept.next += 1;
        kept.slots.insert(number, Slot { summary, open: false, record: None });
        Ok(number)
    }

    fn check_size(&self, tail: Tail) -> Result<(), Error> {
        match self.limits.file_bytes {
            bytes if tail.bytes > bytes => Err(Error::Size { bytes }),
            _ => Ok(()),
        }
    }
}

/// One intent, held by the verb that began it or by who settles it. Dropped before it is settled
/// it is open: its file stays, and [`Journal::open_of`] finds it.
#[derive(Debug)]
pub struct Entry {
    shared: Arc<Shared>,
    number: u64,
    record: Record,
    /// Whether the file is gone.
    done: bool,
}

impl Entry {
    /// What is being done.
    pub fn intent(&self) -> &Intent {
        &self.record.intent
    }

    /// Notes a step: to be called before it is begun.
    ///
    /// # Errors
    /// [`Error::Steps`], [`Error::Size`] or [`Error::Io`]: the step is not to be begun. The intent
    /// is as it was, and others can be noted.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn note(&mut self, step: Step) -> Result<(), Error> {
        let steps = self.shared.limits.steps;
        if self.record.intent.steps.len() >= steps {
            return Err(Error::Steps { steps });
        }
        let (line, tail) = self.record.tail.line(&step);
        self.shared.check_size(tail)?;
        let write = stop::Write::begin();
        let bytes = self.record.tail.bytes;
        self.shared.on_disk(|folder| folder.append(self.number, bytes, &line))?;
        self.record.tail = tail;
        self.record.intent.steps.push(step);
        write.end();
        Ok(())
    }

    /// Ends the intent: everything is done, or undone.
    ///
    /// # Errors
    /// [`Error::Io`]. Where the file could not be removed the intent is open; where the folder could
    /// not be written it is gone, and may be back after a power failure.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn settled(mut self) -> Result<(), Error> {
        let write = stop::Write::begin();
        if let Err(error) = self.shared.on_disk(|folder| folder.remove(self.number)) {
            self.not_settled(error.to_string());
            return Err(error);
        }
        self.done = true;
        self.shared.kept.lock().slots.remove(&self.number);
        self.shared.on_disk(Folder::sync)?;
        write.end();
        Ok(())
    }

    /// Leaves the intent open, with the reason for [`Journal::open_intents`].
    pub fn not_settled(self, why: String) {
        if let Some(slot) = self.shared.kept.lock().slots.get_mut(&self.number) {
            slot.summary.why = Some(why);
        }
        // Dropped here, which opens it.
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(slot) = self.shared.kept.lock().slots.get_mut(&self.number) {
            slot.open = true;
            slot.record = Some(self.record.clone());
        }
    }
}

#[cfg(test)]
mod tests;
