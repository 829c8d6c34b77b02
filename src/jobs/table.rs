//! Which jobs there are, and whose turn it is: without a lock, a file or a clock.

use super::job::Record;
use super::{Error, Job, State, Track};
use crate::config::JobLimits;

#[derive(Default)]
pub(super) struct Table {
    /// By number: the oldest comes first.
    pub(super) kept: Vec<Kept>,
    /// The number of the next one.
    pub(super) next: u64,
    /// None is begun any more.
    pub(super) closed: bool,
}

pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) record: Record,
    pub(super) track: Track,
    /// Whether its first file is in its place; until then nobody knows of it.
    pub(super) placed: bool,
}

impl Table {
    pub(super) fn has_room(&self, guest: &str, limits: &JobLimits) -> Result<(), Error> {
        let queued = |kept: &&Kept| kept.state() == State::Queued;
        let of_guest = |kept: &&Kept| kept.record.job.guest == guest;
        if self.closed {
            return Err(Error::Closed);
        }
        if self.count(State::Queued) >= limits.queued {
            return Err(Error::Full { limit: limits.queued });
        }
        let limit = limits.queued_per_guest;
        match self.kept.iter().filter(queued).filter(of_guest).count() {
            many if many >= limit => Err(Error::GuestFull { guest: guest.to_owned(), limit }),
            _ => Ok(()),
        }
    }

    /// Adds a job, whose number is higher than all before.
    pub(super) fn add(&mut self, number: u64, record: Record, placed: bool) {
        self.kept.push(Kept { number, record, track: Track::default(), placed });
        self.next = number + 1;
    }

    pub(super) fn count(&self, state: State) -> usize {
        self.kept.iter().filter(|kept| kept.state() == state).count()
    }

    /// The oldest job that waits for no other of its guest.
    pub(super) fn first(&mut self) -> Option<&mut Kept> {
        // A job that runs is older than those of its guest that wait.
        let waits = |index: usize, it: &Kept| {
            let mut open = self.kept.iter().take(index).filter(|kept| !kept.state().is_end());
            open.any(|kept| kept.record.job.guest == it.record.job.guest)
        };
        let ready = |(index, kept): (usize, &Kept)| {
            kept.placed && kept.state() == State::Queued && !waits(index, kept)
        };
        let index = self.kept.iter().enumerate().position(ready)?;
        self.kept.get_mut(index)
    }

    pub(super) fn find(&mut self, id: &str) -> Result<&mut Kept, Error> {
        let number = number(id);
        let found = self.kept.iter_mut().find(|kept| Some(kept.number) == number && kept.placed);
        found.ok_or_else(|| Error::Unknown { id: id.to_owned() })
    }

    /// A job that is not forgotten yet.
    pub(super) fn get(&mut self, number: u64) -> &mut Kept {
        let found = self.kept.iter_mut().find(|kept| kept.number == number);
        found.expect("only a job that has ended is forgotten")
    }

    /// Takes out the jobs that ended and are too old, and of the others those that ended first, where
    /// more have than are kept; their numbers.
    pub(super) fn forget(&mut self, most: usize, is_old: impl Fn(&Record) -> bool) -> Vec<u64> {
        let mut gone = Vec::new();
        while let Some(first) = self.first_to_end() {
            let ended = self.kept.iter().filter(|kept| kept.state().is_end()).count();
            if ended <= most && !is_old(&first.record) {
                break;
            }
            let number = first.number;
            gone.push(number);
            self.kept.retain(|kept| kept.number != number);
        }
        gone
    }

    fn first_to_end(&self) -> Option<&Kept> {
        let ended = self.kept.iter().filter(|kept| kept.state().is_end());
        ended.min_by_key(|kept| kept.record.at_ms)
    }
}

impl Kept {
    pub(super) fn state(&self) -> State {
        self.record.job.state
    }

    /// The job as callers see it.
    pub(super) fn job(&self) -> Job {
        let mut job = self.record.job.clone();
        if job.state == State::Running {
            job.progress = self.track.progress();
        }
        job
    }
}

/// The number of a job's id, as it was given.
pub(super) fn number(id: &str) -> Option<u64> {
    id.parse().ok().filter(|number: &u64| number.to_string() == id)
}
