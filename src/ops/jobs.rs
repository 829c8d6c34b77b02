//! Calls as jobs: adds, starts, shows and cancels them. `rpc` runs them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::config::fixed::{LIST_GUESTS, LIST_GUESTS_MAX};
use crate::events::EventKind;
use crate::guest::wire::jobs::{JobRequest, JobsRequest};
use crate::guest::wire::{Guest, GuestResponse};
use crate::jobs::{self, Job, JobCall, JobOutcome, JobPage, JobState, Jobs, RunningJob};
use crate::journal::{Direction, Journal, Scope};
use crate::ops::requests::named_guest;
use crate::ops::transaction::{STATE_LANE, state_write};
use crate::ops::{Core, Error};

/// Opens the jobs below the state directory, which the journal has locked; without one, jobs in memory.
pub(super) fn open(config: &Config, journal: &Journal) -> Result<Jobs, jobs::Error> {
    let Some(state) = &config.state_dir else { return Ok(Jobs::in_memory(&config.jobs)) };
    let scope = Scope::from(&config.host).to_string();
    let (directory, set_aside) = (state.join("jobs"), state.join("set-aside"));
    Jobs::open(&directory, &set_aside, scope, &config.jobs, |job| fate(journal, job))
}

/// Returns what the agent does with the changes of a job that ended with a former agent.
fn fate(journal: &Journal, job: &Job) -> &'static str {
    let open = journal.open_intents();
    let of_job = open.iter().find(|intent| {
        intent.guest == job.guest && job.method.ends_with(&format!(".{}", intent.verb))
    });
    match of_job.map(|intent| intent.verb.direction()) {
        Some(Direction::Forward) => "the agent completes its changes",
        Some(Direction::Back) => "the agent undoes its changes",
        None => "outcome unknown; check the guest",
    }
}

impl Core {
    /// Returns the jobs of this agent.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Adds a call of `method` as a job. Checks its guest and `args` before.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; an invalid deadline; as [`Jobs::add`]; a disk that takes longer than the
    /// deadline of changes: then the job may still be added.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn add_job(
        &self,
        method: &str,
        guest: Option<&Guest>,
        args: &BTreeMap<String, String>,
        request: JobCall,
    ) -> Result<GuestResponse, Error> {
        let guest = named_guest(guest.cloned())?;
        self.change_deadline(args)?;
        let (method, id) = (method.to_owned(), guest.id.clone());
        let job = self.write_job(move |jobs| jobs.add(&method, &id, request))?;
        Ok(GuestResponse { guest: Some(guest), job, ..GuestResponse::default() })
    }

    /// Writes the file of a job on a worker, so that a hung disk costs a caller no more than its deadline. While one
    /// write is late, the next fails at once.
    fn write_job<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Jobs) -> Result<T, jobs::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let jobs = Arc::clone(&self.jobs);
        let deadline = self.change_deadline(&BTreeMap::new())?;
        Ok(self.aside(STATE_LANE, state_write(), deadline, move || write(&jobs))??)
    }

    /// Ends a job, and sends the event.
    ///
    /// # Blocking
    /// Until the disk has the result.
    pub fn end_job(&self, started: &RunningJob, outcome: JobOutcome) {
        let job = self.jobs.end(started, outcome);
        self.publish_end(&job);
    }

    fn publish_end(&self, job: &Job) {
        let what = EventKind::Job { job: job.id.clone(), state: job.state.name() };
        self.events.note(&job.guest, what);
    }

    /// Returns a job, with its progress and its result.
    ///
    /// # Errors
    /// If no job of this id exists, or it is no longer kept.
    pub fn get_job(&self, request: JobRequest) -> Result<Job, Error> {
        Ok(self.jobs.get(&request.id)?)
    }

    /// Returns a page of the kept jobs without their results, the oldest first.
    ///
    /// # Errors
    /// A `limit` above [`LIST_GUESTS_MAX`], an unknown `state`, an invalid `after`.
    pub fn list_jobs(&self, request: JobsRequest) -> Result<JobPage, Error> {
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => LIST_GUESTS,
            limit if limit <= LIST_GUESTS_MAX => limit,
            limit => {
                let why = format!("limit is {limit}; the maximum is {LIST_GUESTS_MAX}");
                return Err(Error::Invalid(why));
            }
        };
        let state = match request.state.as_str() {
            "" => None,
            name => {
                Some(JobState::ALL.into_iter().find(|it| it.name() == name).ok_or_else(|| {
                    let names = JobState::ALL.map(JobState::name).join(", ");
                    Error::Invalid(format!("state is {name:?}; it must be one of {names}"))
                })?)
            }
        };
        let guest = Some(request.guest.as_str()).filter(|guest| !guest.is_empty());
        Ok(self.jobs.list(&request.after, limit, |job| {
            state.is_none_or(|state| state == job.state)
                && guest.is_none_or(|guest| guest == job.guest)
        })?)
    }

    /// Cancels a job that has not started.
    ///
    /// # Errors
    /// As [`Core::get_job`]; a job that has started, or has ended otherwise. A disk that takes longer than the
    /// deadline of changes: then the job is cancelled, unless the agent restarts before the disk has it.
    ///
    /// # Blocking
    /// As [`Core::add_job`].
    pub fn cancel_job(&self, request: JobRequest) -> Result<Job, Error> {
        let (job, is_new) = self.write_job(move |jobs| jobs.cancel(&request.id))?;
        if is_new {
            self.publish_end(&job);
        }
        Ok(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostConfig, JournalLimits};
    use crate::journal::Verb;

    #[test]
    fn lost_job_names_the_outcome_of_its_change() {
        let scope = Scope::from(&HostConfig::default());
        let journal = Journal::in_memory(scope, &JournalLimits::default());
        let fate = |method: &str, guest: &str| {
            let (method, guest) = (format!("Libvirt.{method}"), guest.to_owned());
            fate(&journal, &Job { method, guest, ..Job::default() })
        };
        let unknown = "outcome unknown; check the guest";
        for (verb, becomes) in [
            (Verb::CreateGuest, "the agent undoes its changes"),
            (Verb::AttachDisk, "the agent undoes its changes"),
            (Verb::AttachNic, "the agent undoes its changes"),
            (Verb::Delete, "the agent completes its changes"),
            (Verb::DetachDisk, "the agent completes its changes"),
            (Verb::DetachNic, "the agent completes its changes"),
        ] {
            let entry = journal.begin(verb, "a", &Guest::default()).unwrap();
            // The change still runs, so nothing recovers it yet.
            assert_eq!(fate(&verb.to_string(), "a"), unknown);
            drop(entry);
            assert_eq!(fate(&verb.to_string(), "a"), becomes, "{verb}");
            assert_eq!(fate(&verb.to_string(), "b"), unknown, "another guest's");
            assert_eq!(fate("Run", "a"), unknown, "another verb's");
            journal.open_of("a").unwrap().complete().unwrap();
        }
    }
}
