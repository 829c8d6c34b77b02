//! A question about one guest: one job on the read lane, whose caller may wait for the answer or have
//! it handed on.

use std::sync::Arc;
use std::time::Instant;

use crate::ops::{Error, Libvirt, Session, begun};
use crate::os::peer::Share;
use crate::pool::{self, CallShare, Job, JobName, Lane, NoPermit, Permit, Place, Ration, current};

/// What a worker does for the answer.
pub(super) type Work<R> = Box<dyn FnOnce(&mut Session) -> Result<R, Error> + Send>;

/// What answers in its stead where it is late, if anything does.
type StandIn<R> = Box<dyn FnOnce(&Libvirt) -> Option<R> + Send>;

/// A question that was not asked yet.
pub struct Question<R> {
    name: JobName,
    deadline: Instant,
    work: Work<R>,
    stand_in: Option<StandIn<R>>,
}

/// A place for one question, which is its own until it has its answer.
pub struct Posting {
    place: Place,
    job: Job,
}

impl<R: Send + 'static> Question<R> {
    /// A verb's question about the guest of this id. Its work may run twice where a connection breaks
    /// under it.
    pub(super) fn new(
        verb: &'static str,
        id: String,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<R, Error> + Send + 'static,
    ) -> Self {
        Self { name: JobName::new(verb, id), deadline, work: Box::new(work), stand_in: None }
    }

    /// The same, of a question that libvirt passes on to the guest's emulator.
    pub(super) fn of_emulator(self) -> Self {
        Self { name: self.name.of_emulator(), ..self }
    }

    /// The same, with what stands in for an answer that is late.
    pub(super) fn or_late(
        self,
        stand_in: impl FnOnce(&Libvirt) -> Option<R> + Send + 'static,
    ) -> Self {
        Self { stand_in: Some(Box::new(stand_in)), ..self }
    }
}

impl Libvirt {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Those of the question; those of the pool.
    ///
    /// # Blocking
    /// Up to the question's deadline.
    pub fn ask<R: Send + 'static>(&self, question: Question<R>) -> Result<R, Error> {
        let Question { name, deadline, work, stand_in } = question;
        self.or_late(self.once(Lane::Read, name, deadline, work), stand_in)
    }

    /// What it takes to post a question: none where it is to be refused.
    pub fn may_post<R: Send + 'static>(&self, question: &Question<R>) -> Option<Posting> {
        let Question { name, deadline, .. } = question;
        let job = self.may_ask(Lane::Read, name.clone(), *deadline).ok()?;
        Some(Posting { place: self.pool.place()?, job })
    }

    /// Asks for this user, in a fair order of users and guests, and waits for nothing: `then` gets the answer, as
    /// [`Pool::permit_later`] and [`Pool::post`] say.
    ///
    /// [`Pool::permit_later`]: crate::pool::Pool::permit_later
    /// [`Pool::post`]: crate::pool::Pool::post
    pub fn post<R: Send + 'static>(
        self: &Arc<Self>,
        user: Share,
        Posting { place, job }: Posting,
        question: Question<R>,
        then: impl FnOnce(Result<R, Error>) + Send + 'static,
    ) {
        let Question { deadline, work, stand_in, .. } = question;
        let ration = if job.name.asks_emulator { Ration::MetricsPoll } else { Ration::Poll };
        let share = CallShare { ration, user, guest: job.name.guest.as_str().into() };
        let (agent, wanted, arrived) = (Arc::clone(self), share.clone(), current::arrived());
        let go = move |permit: Result<Permit, NoPermit>| {
            let pool = &agent.pool;
            let permit = match permit {
                Ok(permit) => permit,
                Err(why) => {
                    let why = pool.no_permit(why, &wanted, &job.name.to_string(), arrived);
                    return then(agent.or_late(Err(Error::Pool(why)), stand_in));
                }
            };
            let teller = Arc::clone(&agent);
            let tell = move |outcome: Result<Result<R, Error>, pool::Error>| {
                // Whoever waits has its turn before this caller can ask again.
                drop(permit);
                let outcome = outcome.map_err(Error::Pool).and_then(|outcome| outcome);
                then(teller.or_late(outcome, stand_in));
            };
            let work = begun(deadline, work);
            current::carry_out(arrived, || pool.post(place, Lane::Read, job, work, tell));
        };
        match self.pool.permit(&share) {
            Some(permit) => go(Ok(permit)),
            None => self.pool.permit_later(share, deadline, Box::new(go)),
        }
    }

    /// The outcome, or what stands in where it is late: because the guest's emulator hangs, or others were first.
    fn or_late<R>(
        &self,
        outcome: Result<R, Error>,
        stand_in: Option<StandIn<R>>,
    ) -> Result<R, Error> {
        match (outcome, stand_in) {
            (Err(Error::Pool(late)), Some(stand_in)) if is_late(&late) => {
                stand_in(self).ok_or(Error::Pool(late))
            }
            (outcome, _) => outcome,
        }
    }
}

fn is_late(error: &pool::Error) -> bool {
    matches!(
        error,
        pool::Error::Late { .. } | pool::Error::Unrun { .. } | pool::Error::Overdue { .. }
    )
}
