//! The table of jobs, and the choice of the next one: without a mutex, a file or a clock.

use super::job::JobRecord;
use super::{Error, Job, JobState, Track};
use crate::config::JobLimits;
use crate::os::peer::Share;
use crate::pool::Quota;

#[derive(Default)]
pub(super) struct Table {
    /// By number, so the oldest is first.
    pub(super) stored: Vec<StoredJob>,
    /// The number of the next job.
    pub(super) next: u64,
    /// No further job is added or starts.
    pub(super) closed: bool,
}

pub(super) struct StoredJob {
    pub(super) number: u64,
    pub(super) record: JobRecord,
    pub(super) track: Track,
    /// Whether its first file is in place; until then the job is invisible.
    pub(super) placed: bool,
}

impl Table {
    pub(super) fn has_room(
        &self,
        guest: &str,
        caller: Share,
        limits: &JobLimits,
    ) -> Result<(), Error> {
        let queued = |stored: &&StoredJob| stored.state() == JobState::Queued;
        let of_guest = |stored: &&StoredJob| stored.record.job.guest == guest;
        if self.closed {
            return Err(Error::Closed);
        }
        let waiting = self.stored.iter().filter(queued);
        let mut holders =
            waiting.filter_map(|stored| Some(stored.record.request.as_ref()?.caller.share()));
        Quota::of(limits.queued).admit(caller, &mut holders).map_err(Error::Full)?;
        let limit = limits.queued_per_guest;
        match self.stored.iter().filter(queued).filter(of_guest).count() {
            many if many >= limit => Err(Error::GuestFull { guest: guest.to_owned(), limit }),
            _ => Ok(()),
        }
    }

    /// Adds a job. Its number must be higher than all before.
    pub(super) fn add(&mut self, number: u64, record: JobRecord, placed: bool) {
        self.stored.push(StoredJob { number, record, track: Track::default(), placed });
        self.next = number + 1;
    }

    pub(super) fn count(&self, state: JobState) -> usize {
        self.stored.iter().filter(|stored| stored.state() == state).count()
    }

    /// Returns the oldest waiting job that waits for no other job of its guest.
    pub(super) fn first(&mut self) -> Option<&mut StoredJob> {
        // A running job is older than the waiting jobs of its guest.
        let waits = |index: usize, it: &StoredJob| {
            let mut open = self.stored.iter().take(index).filter(|stored| !stored.state().is_end());
            open.any(|stored| stored.record.job.guest == it.record.job.guest)
        };
        let ready = |(index, stored): (usize, &StoredJob)| {
            stored.placed && stored.state() == JobState::Queued && !waits(index, stored)
        };
        let index = self.stored.iter().enumerate().position(ready)?;
        self.stored.get_mut(index)
    }

    pub(super) fn find(&mut self, id: &str) -> Result<&mut StoredJob, Error> {
        let number = number(id);
        let found =
            self.stored.iter_mut().find(|stored| Some(stored.number) == number && stored.placed);
        found.ok_or_else(|| Error::Unknown { id: id.to_owned() })
    }

    /// Returns a job that is not forgotten yet.
    pub(super) fn get(&mut self, number: u64) -> &mut StoredJob {
        let found = self.stored.iter_mut().find(|stored| stored.number == number);
        found.expect("only a job that has ended is forgotten")
    }

    /// Removes the ended jobs that are too old, and above the limit those that ended first; returns their numbers.
    pub(super) fn forget(&mut self, most: usize, is_old: impl Fn(&JobRecord) -> bool) -> Vec<u64> {
        let mut gone = Vec::new();
        while let Some(first) = self.first_to_end() {
            let ended = self.stored.iter().filter(|stored| stored.state().is_end()).count();
            if ended <= most && !is_old(&first.record) {
                break;
            }
            let number = first.number;
            gone.push(number);
            self.stored.retain(|stored| stored.number != number);
        }
        gone
    }

    fn first_to_end(&self) -> Option<&StoredJob> {
        let ended = self.stored.iter().filter(|stored| stored.state().is_end());
        ended.min_by_key(|stored| stored.record.at_ms)
    }
}

impl StoredJob {
    pub(super) fn state(&self) -> JobState {
        self.record.job.state
    }

    /// Returns the job as callers see it.
    pub(super) fn job(&self) -> Job {
        let mut job = self.record.job.clone();
        if job.state == JobState::Running {
            job.progress = self.track.progress();
        }
        job
    }
}

/// Parses the number of a job's id, which must have its exact form.
pub(super) fn number(id: &str) -> Option<u64> {
    id.parse().ok().filter(|number: &u64| number.to_string() == id)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::JobCall;
    use super::*;
    use crate::os::peer::{Caller, Origin, Peer};

    #[test]
    fn jobs_of_one_user_leave_places_to_others() {
        let limits = JobLimits { queued: 8, ..JobLimits::default() };
        let mut table = Table::default();
        let mut add = |uid: u32, guest: &str| {
            let caller = Caller { origin: Origin::Socket, peer: Some(Peer { uid, pid: None }) };
            table.has_room(guest, caller.share(), &limits).map_err(|full| full.to_string())?;
            let params = serde_json::value::RawValue::from_string("{}".to_owned()).unwrap();
            let request = JobCall { params, caller };
            let number = table.next;
            table.add(
                number,
                JobRecord::queued(number, "Run", guest, request, SystemTime::now()),
                true,
            );
            Ok::<_, String>(())
        };
        for guest in ["a", "b", "c", "d"] {
            add(1_000_001, guest).unwrap();
        }
        assert_eq!(add(1_000_001, "e").unwrap_err(), "busy: 4 jobs of this user wait");
        for guest in ["e", "f", "g"] {
            add(1_000_002, guest).unwrap();
        }
        assert_eq!(add(1_000_003, "h").unwrap_err(), "busy: 7 jobs wait", "the last is root's");
        add(0, "h").unwrap();
        assert_eq!(add(0, "i").unwrap_err(), "busy: 8 jobs wait");
    }
}
