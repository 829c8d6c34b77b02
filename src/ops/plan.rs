//! The dry runs of CreateGuest and Delete, with the same checks and the same functions that make
//! the XML.
//!
//! A dry run is a read: it acquires no guest lock and writes no journal. While another method
//! changes the guest, the plan is for the present state. It collects all errors, where the method
//! itself would stop at the first.

mod create;
mod delete;

use crate::guest::wire::Guest;
use crate::guest::wire::verbs::{Plan, PlanStep};
use crate::ops::{Error, Guests};
use crate::storage::Action;

/// The changes and the answer that a method would make.
#[derive(Debug)]
pub struct OperationPlan {
    /// The guest as the method would return it; unknown members stay empty.
    pub guest: Guest,
    /// The plan, without the texts of its problems.
    pub plan: Plan,
    /// The problems that would make the method fail.
    pub problems: Vec<Problem>,
}

/// A problem that would make a method fail.
#[derive(Debug)]
pub enum Problem {
    /// The method would fail with this error.
    Error(Error),
    /// This part of the request would fail with this error.
    Part(String, Error),
    /// A sentence, if the error would come from libvirt itself.
    Words(String),
}

impl Guests {
    /// Returns an empty plan, with warnings about unfinished changes of the guest.
    fn new_plan(&self, guest: Guest) -> OperationPlan {
        let open = self.core.open_intents().into_iter().filter(|summary| summary.guest == guest.id);
        let warnings =
            open.map(|open| format!("the agent recovers an earlier {} first", open.verb));
        let plan = Plan { warnings: warnings.collect(), ..Plan::default() };
        OperationPlan { guest, plan, problems: Vec::new() }
    }
}

impl OperationPlan {
    /// Returns the result of a check; after an error records a problem and returns `None`.
    ///
    /// # Errors
    /// Errors of the agent's own pool: then there is no plan.
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
