//! What CreateGuest and Delete would do, found out by the same checks and written by the same
//! functions as when they do it.
//!
//! It is a read: the guest's key is not taken, the journal hears nothing, and while another verb
//! runs on the guest the plan is for what is there. What fails is collected where the verb itself
//! would stop at the first.

mod create;
mod delete;

use std::sync::Arc;
use std::time::Instant;

use crate::guest::wire::Guest;
use crate::guest::wire::verbs::{Plan, PlanStep};
use crate::ops::{Error, Libvirt};
use crate::pool::{Job, JobName, Lane};
use crate::storage::{self, Action, Volumes};

/// What a verb would do, and what it would answer.
#[derive(Debug)]
pub struct Forecast {
    /// The guest as the verb would answer it, as far as that is known.
    pub guest: Guest,
    /// The plan, without the texts of its problems.
    pub plan: Plan,
    /// What would make the verb fail.
    pub problems: Vec<Problem>,
}

/// What would make a verb fail.
#[derive(Debug)]
pub enum Problem {
    /// It would fail with this.
    Error(Error),
    /// This part would fail with that.
    Part(String, Error),
    /// In words, where the error would be somebody else's.
    Words(String),
}

impl Libvirt {
    /// No plan yet, but what a former verb left open.
    fn forecast(&self, guest: Guest) -> Forecast {
        let open = self.open_intents().into_iter().filter(|summary| summary.guest == guest.id);
        let warnings =
            open.map(|open| format!("the agent recovers an earlier {} first", open.verb));
        let plan = Plan { warnings: warnings.collect(), ..Plan::default() };
        Forecast { guest, plan, problems: Vec::new() }
    }

    /// One job on the storage lane that changes nothing.
    fn ask_storage<T: Send + 'static>(
        &self,
        name: JobName,
        deadline: Instant,
        work: impl FnOnce(&dyn Volumes) -> Result<T, storage::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let volumes = Arc::clone(&self.volumes);
        Ok(self.aside(Lane::Storage, name, deadline, move || work(&*volumes))??)
    }

    /// One job that changes nothing and asks no libvirt; refused as long as the same is late.
    pub(super) fn aside<T: Send + 'static>(
        &self,
        lane: Lane,
        name: JobName,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.pool.not_overdue(lane, &name)?;
        Ok(self.pool.run(lane, Job { name, deadline }, None, move |_| work())?)
    }
}

impl Forecast {
    /// What was found out; nothing, with a problem noted, where it could not be.
    ///
    /// # Errors
    /// Where the agent itself did not come to it: then there is no plan.
    fn unless_failed<T>(
        &mut self,
        part: &str,
        outcome: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(error @ Error::Pool(_)) => Err(error),
            Err(error) => {
                self.problems.push(Problem::Part(part.to_owned(), error));
                Ok(None)
            }
        }
    }
}

fn step_of(action: Action) -> PlanStep {
    let Action { what, name, command, detail, with } = action;
    PlanStep { what, name, command, detail, with, ..PlanStep::default() }
}
