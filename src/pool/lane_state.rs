//! The jobs of a lane's workers, and the abandoned workers: plain accounting, to be protected by a
//! mutex.
//!
//! ```text
//!           begin            finish
//! (waits) ───────► running ─────────► (waits)      a worker that takes jobs
//!                     │ abandon
//!                     └────► stuck ──── finish ──► gone
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::JobName;
use super::lane_info::{Label, Lane, LaneSnapshot, Overdue, RunningJob, Totals};
use crate::sorted::Table;

/// The accounting of one lane.
#[derive(Default)]
pub(super) struct LaneState {
    /// Live threads, abandoned or not.
    pub(super) threads: usize,
    /// The threads that take jobs.
    workers: usize,
    /// The number of the next worker; numbers are never reused.
    next: usize,
    /// Jobs in the queue whose callers still wait.
    pub(super) queued: usize,
    pub(super) totals: Totals,
    /// Running jobs, by the worker's number.
    running: Table<usize, Entry>,
    /// The jobs of abandoned workers, by the worker's number.
    stuck: Table<usize, Entry>,
}

/// A running job.
struct Entry {
    name: JobName,
    guest: Option<Arc<str>>,
    deadline: Instant,
    since: Instant,
}

impl Entry {
    fn running(&self) -> RunningJob {
        RunningJob { what: self.name.to_string(), age: self.since.elapsed() }
    }
}

impl LaneState {
    /// Returns the number of the next worker.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// Adds that worker, whose thread has started.
    pub(super) fn join(&mut self) {
        self.next += 1;
        self.threads += 1;
        self.workers += 1;
    }

    /// Notes that a worker takes a job from the queue.
    pub(super) fn begin(&mut self, worker: usize, label: &Label, since: Instant) {
        let Label { name, guest, deadline } = label;
        let entry = Entry { name: name.clone(), guest: guest.clone(), deadline: *deadline, since };
        self.queued -= 1;
        self.running.insert(worker, entry);
    }

    /// Notes that a worker's job has returned; returns whether the worker takes more jobs.
    pub(super) fn finish(&mut self, worker: usize) -> bool {
        self.running.remove(&worker).is_some() || self.stuck.remove(&worker).is_none()
    }

    /// Returns whether this job runs on a worker that was not abandoned.
    pub(super) fn has(&self, job: &Overdue) -> bool {
        self.running.get(&job.worker).is_some_and(|entry| entry.since == job.since)
    }

    /// Abandons a worker with a running job: it takes no more jobs.
    pub(super) fn abandon(&mut self, worker: usize) {
        if let Some(entry) = self.running.remove(&worker) {
            self.workers -= 1;
            self.stuck.insert(worker, entry);
        }
    }

    /// Notes that a worker's thread ends because its lane is closed.
    pub(super) fn leave(&mut self) {
        self.workers -= 1;
    }

    /// Returns the oldest running job of the workers that take jobs.
    pub(super) fn oldest(&self) -> Option<RunningJob> {
        self.running.values().min_by_key(|entry| entry.since).map(Entry::running)
    }

    /// Returns the running job that holds this guest's lock.
    pub(super) fn on_guest(&self, guest: &str) -> Option<RunningJob> {
        let entry = self.all().find(|entry| entry.guest.as_deref() == Some(guest));
        entry.map(Entry::running)
    }

    /// Returns a job of this name that runs past its deadline.
    pub(super) fn overdue_named(&self, name: &JobName) -> Option<RunningJob> {
        let now = Instant::now();
        let entry = self.all().find(|entry| entry.name == *name && entry.deadline <= now);
        entry.map(Entry::running)
    }

    /// Returns the jobs past their deadline, on workers that were not abandoned.
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

    /// Returns whether every worker runs a job that is past its deadline and is at least this old.
    pub(super) fn is_all_overdue(&self, age: Duration) -> bool {
        let now = Instant::now();
        let hangs = |entry: &Entry| entry.deadline <= now && entry.since.elapsed() >= age;
        self.workers > 0 && self.running.len() == self.workers && self.running.values().all(hangs)
    }

    /// Returns whether this job runs on an abandoned worker.
    pub(super) fn is_stuck(&self, job: &Overdue) -> bool {
        self.stuck.get(&job.worker).is_some_and(|entry| entry.since == job.since)
    }

    /// Returns the number of workers that take jobs.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Returns the current numbers.
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
