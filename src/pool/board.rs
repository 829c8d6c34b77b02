//! What the workers of a lane are at, and which of them were written off: plain bookkeeping, to be
//! kept behind a lock.
//!
//! ```text
//!           begin            finish
//! (waits) ───────► running ─────────► (waits)      a worker that takes jobs
//!                     │ write off
//!                     └────► stuck ──── finish ──► gone
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::JobName;
use super::lane_state::{Label, Lane, LaneSnapshot, Overdue, Running, Totals};
use crate::sorted::Table;

/// The bookkeeping of one lane.
#[derive(Default)]
pub(super) struct Board {
    /// Threads that live, written off or not.
    pub(super) threads: usize,
    /// Those of them that take jobs.
    workers: usize,
    /// Number of the next worker; a number is given out once.
    next: usize,
    /// Jobs that wait for a worker and whose callers wait for them.
    pub(super) queued: usize,
    pub(super) totals: Totals,
    /// By worker's number.
    running: Table<usize, Entry>,
    /// What workers are on that were written off, by number.
    stuck: Table<usize, Entry>,
}

/// A job that a worker is on.
struct Entry {
    name: JobName,
    key: Option<Arc<str>>,
    deadline: Instant,
    since: Instant,
}

impl Entry {
    fn running(&self) -> Running {
        Running { what: self.name.to_string(), age: self.since.elapsed() }
    }
}

impl Board {
    /// The number of the worker that would join next.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// That worker's thread is there.
    pub(super) fn join(&mut self) {
        self.next += 1;
        self.threads += 1;
        self.workers += 1;
    }

    /// A worker takes a job that was queued.
    pub(super) fn begin(&mut self, worker: usize, label: &Label, since: Instant) {
        let Label { name, key, deadline } = label;
        let entry = Entry { name: name.clone(), key: key.clone(), deadline: *deadline, since };
        self.queued -= 1;
        self.running.insert(worker, entry);
    }

    /// A worker's job returned; whether the worker takes further ones.
    pub(super) fn finish(&mut self, worker: usize) -> bool {
        self.running.remove(&worker).is_some() || self.stuck.remove(&worker).is_none()
    }

    /// Whether this job runs on a worker that was not written off.
    pub(super) fn has(&self, job: &Overdue) -> bool {
        self.running.get(&job.worker).is_some_and(|entry| entry.since == job.since)
    }

    /// A worker on a job that runs takes no further ones.
    pub(super) fn write_off(&mut self, worker: usize) {
        if let Some(entry) = self.running.remove(&worker) {
            self.workers -= 1;
            self.stuck.insert(worker, entry);
        }
    }

    /// A worker's thread ends because its lane is closed.
    pub(super) fn leave(&mut self) {
        self.workers -= 1;
    }

    /// The job that runs longest of those that keep others waiting.
    pub(super) fn oldest(&self) -> Option<Running> {
        self.running.values().min_by_key(|entry| entry.since).map(Entry::running)
    }

    /// The job that runs under this key.
    pub(super) fn under(&self, key: &str) -> Option<Running> {
        let entry = self.all().find(|entry| entry.key.as_deref() == Some(key));
        entry.map(Entry::running)
    }

    /// A job of this name that runs though it is past its deadline.
    pub(super) fn overdue_named(&self, name: &JobName) -> Option<Running> {
        let now = Instant::now();
        let entry = self.all().find(|entry| entry.name == *name && entry.deadline <= now);
        entry.map(Entry::running)
    }

    /// The jobs that are past their deadline, on workers that were not written off.
    pub(super) fn overdue(&self, lane: Lane) -> Vec<Overdue> {
        let now = Instant::now();
        let late = self.running.iter().filter(|(_, entry)| entry.deadline <= now);
        late.map(|(&worker, entry)| Overdue {
            lane,
            worker,
            name: entry.name.clone(),
            since: entry.since,
        })
        .collect()
    }

    /// Whether every worker is on a job that is past its deadline and began so long ago.
    pub(super) fn is_all_overdue(&self, age: Duration) -> bool {
        let now = Instant::now();
        let hangs = |entry: &Entry| entry.deadline <= now && entry.since.elapsed() >= age;
        self.workers > 0 && self.running.len() == self.workers && self.running.values().all(hangs)
    }

    /// Whether this job runs on a worker that was written off.
    pub(super) fn is_stuck(&self, job: &Overdue) -> bool {
        self.stuck.get(&job.worker).is_some_and(|entry| entry.since == job.since)
    }

    /// The number of workers that take jobs.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// The figures.
    pub(super) fn snapshot(&self, lane: Lane) -> LaneSnapshot {
        LaneSnapshot {
            lane,
            workers: self.workers,
            queued: self.queued,
            held_back: 0,
            running: self.running.len(),
            stuck: self.stuck.len(),
            oldest: self.all().min_by_key(|entry| entry.since).map(Entry::running),
            totals: self.totals,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.running.values().chain(self.stuck.values())
    }
}
