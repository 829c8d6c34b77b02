//! Which jobs there are, and whose turn it is: without a lock, a file or a clock.

use std::collections::{BTreeMap, BTreeSet};

use super::job::Record;
use super::{Error, Job, State, Track};
use crate::config::JobLimits;

#[derive(Default)]
pub(super) struct Table {
    /// By number: the oldest comes first.
    pub(super) kept: BTreeMap<u64, Kept>,
    /// The number of the next one.
    pub(super) next: u64,
    /// None is begun any more.
    pub(super) closed: bool,
}

pub(super) struct Kept {
    pub(super) record: Record,
    pub(super) track: Track,
    /// Whether its first file is in its place; until then nobody knows of it.
    pub(super) placed: bool,
}

impl Table {
    pub(super) fn has_room(&self, guest: &str, limits: &JobLimits) -> Result<(), Error> {
        let queued = |kept: &&Kept| kept.record.job.state == State::Queued;
        let of_guest = |kept: &&Kept| kept.record.job.guest == guest;
        if self.closed {
            return Err(Error::Closed);
        }
        if self.count(State::Queued) >= limits.queued {
            return Err(Error::Full { limit: limits.queued });
        }
        let limit = limits.queued_per_guest;
        match self.kept.values().filter(queued).filter(of_guest).count() {
            many if many >= limit => Err(Error::GuestFull { guest: guest.to_owned(), limit }),
            _ => Ok(()),
        }
    }

    pub(super) fn count(&self, state: State) -> usize {
        self.kept.values().filter(|kept| kept.record.job.state == state).count()
    }

    /// The oldest job that waits for no other of its guest.
    pub(super) fn first(&self) -> Option<u64> {
        let open = self.kept.iter().filter(|(_, kept)| !kept.record.job.state.is_end());
        let mut guests = BTreeSet::new();
        // A job that runs is older than those of its guest that wait.
        let mut firsts = open.filter(|(_, kept)| guests.insert(kept.record.job.guest.as_str()));
        let ready = |kept: &Kept| kept.placed && kept.record.job.state == State::Queued;
        firsts.find(|(_, kept)| ready(kept)).map(|(number, _)| *number)
    }

    pub(super) fn find(&self, id: &str) -> Result<(u64, &Kept), Error> {
        let found = number(id).and_then(|number| Some((number, self.kept.get(&number)?)));
        let found = found.filter(|(_, kept)| kept.placed);
        found.ok_or_else(|| Error::Unknown { id: id.to_owned() })
    }

    pub(super) fn change(&mut self, number: u64, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = self.kept.get_mut(&number) {
            change(kept);
        }
    }

    /// Takes out those that ended first, where more have than are kept.
    pub(super) fn crowded_out(&mut self, most: usize) -> Vec<u64> {
        let ended = self.kept.iter().filter(|(_, kept)| kept.record.job.state.is_end());
        let mut ended: Vec<(u64, u64)> =
            ended.map(|(number, kept)| (kept.record.at_ms, *number)).collect();
        ended.sort_unstable();
        let out = ended.len().saturating_sub(most);
        let out: Vec<u64> = ended.into_iter().take(out).map(|(_, number)| number).collect();
        out.iter().for_each(|number| drop(self.kept.remove(number)));
        out
    }
}

impl Kept {
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
