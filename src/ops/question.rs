//! A question about one guest: a job on the read lane. The caller waits for the answer, or passes a function that gets
//! it.

use std::sync::Arc;
use std::time::Instant;

use crate::ops::{Core, Error, Session, with_deadline};
use crate::os::peer::Share;
use crate::pool::{
    self, CallClass, CallShare, CallerSlot, Job, JobName, Lane, NoPermit, Permit, current,
};

/// The work of a worker for the answer.
pub(super) type Work<R> = Box<dyn FnOnce(&mut Session) -> Result<R, Error> + Send>;

/// A substitute for a late answer, if there is any.
type StandIn<R> = Box<dyn FnOnce() -> Option<R> + Send>;

/// A question that has not been asked yet.
pub struct Question<R> {
    name: JobName,
    deadline: Instant,
    work: Work<R>,
    stand_in: Option<StandIn<R>>,
}

/// The reservation for one question that is posted.
pub struct Posting {
    /// Held until the answer.
    slot: CallerSlot,
    job: Job,
}

impl<R: Send + 'static> Question<R> {
    /// Creates a method's question about the guest of this id. Its work may run twice if its connection breaks.
    pub(super) fn new(
        verb: &'static str,
        id: String,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<R, Error> + Send + 'static,
    ) -> Self {
        Self { name: JobName::new(verb, id), deadline, work: Box::new(work), stand_in: None }
    }

    /// Marks a question that libvirt passes on to the guest's emulator.
    pub(super) fn of_emulator(self) -> Self {
        Self { name: self.name.of_emulator(), ..self }
    }

    /// Adds a substitute for a late answer.
    pub(super) fn or_late(self, stand_in: impl FnOnce() -> Option<R> + Send + 'static) -> Self {
        Self { stand_in: Some(Box::new(stand_in)), ..self }
    }
}

impl Core {
    /// Asks the question, and waits for the answer.
    ///
    /// # Errors
    /// Errors of the question and of the pool.
    ///
    /// # Blocking
    /// Up to the question's deadline.
    pub fn ask<R: Send + 'static>(&self, question: Question<R>) -> Result<R, Error> {
        let Question { name, deadline, work, stand_in } = question;
        or_late(self.once(Lane::Read, name, deadline, work), stand_in)
    }

    /// Reserves what posting a question needs; `None` if the agent would refuse the question.
    pub fn may_post<R: Send + 'static>(&self, question: &Question<R>) -> Option<Posting> {
        let Question { name, deadline, .. } = question;
        let job = self.may_ask(Lane::Read, name.clone(), *deadline).ok()?;
        Some(Posting { slot: self.pool.caller_slot()?, job })
    }

    /// Asks the question for this user, in a fair order of users and guests, and does not block: `then` gets the
    /// answer, as [`Pool::permit_later`] and [`Pool::post`] describe.
    ///
    /// [`Pool::permit_later`]: crate::pool::Pool::permit_later
    /// [`Pool::post`]: crate::pool::Pool::post
    pub fn post<R: Send + 'static>(
        self: &Arc<Self>,
        user: Share,
        Posting { slot, job }: Posting,
        question: Question<R>,
        then: impl FnOnce(Result<R, Error>) + Send + 'static,
    ) {
        let Question { deadline, work, stand_in, .. } = question;
        let class = if job.name.asks_emulator { CallClass::MetricsPoll } else { CallClass::Poll };
        let share = CallShare { class, user, guest: job.name.guest.as_str().into() };
        let (agent, wanted, arrived) = (Arc::clone(self), share.clone(), current::arrived());
        let go = move |permit: Result<Permit, NoPermit>| {
            let pool = &agent.pool;
            let permit = match permit {
                Ok(permit) => permit,
                Err(why) => {
                    let why = pool.no_permit(why, &wanted, &job.name.to_string(), arrived);
                    return then(or_late(Err(Error::Pool(why)), stand_in));
                }
            };
            let report = move |outcome: Result<Result<R, Error>, pool::Error>| {
                // Released before the answer, so that a waiting call gets its turn before this caller can ask again.
                drop(permit);
                let outcome = outcome.map_err(Error::Pool).and_then(|outcome| outcome);
                then(or_late(outcome, stand_in));
            };
            let work = with_deadline(deadline, work);
            current::carry_out(arrived, || pool.post(slot, Lane::Read, job, work, report));
        };
        match self.pool.permit(&share) {
            Some(permit) => go(Ok(permit)),
            None => self.pool.permit_later(share, deadline, Box::new(go)),
        }
    }
}

/// Returns the outcome, or the substitute if the outcome is late: the guest's emulator hangs, or other calls were first.
fn or_late<R>(outcome: Result<R, Error>, stand_in: Option<StandIn<R>>) -> Result<R, Error> {
    match (outcome, stand_in) {
        (Err(Error::Pool(late)), Some(stand_in)) if is_late(&late) => {
            stand_in().ok_or(Error::Pool(late))
        }
        (outcome, _) => outcome,
    }
}

fn is_late(error: &pool::Error) -> bool {
    matches!(
        error,
        pool::Error::Late { .. } | pool::Error::Unrun { .. } | pool::Error::Overdue { .. }
    )
}
