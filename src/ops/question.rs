//! A question about one guest: one job on the read lane, whose caller may wait for the answer or have
//! it handed on.

use std::sync::Arc;
use std::time::Instant;

use crate::ops::{Error, Libvirt, Session, begun};
use crate::pool::{self, Job, Lane, Place};

/// What a worker does for the answer.
type Work<R> = Box<dyn FnOnce(&mut Session) -> Result<R, Error> + Send>;

/// What answers in its stead where it is late, if anything does.
type StandIn<R> = Box<dyn FnOnce(&Libvirt) -> Option<R> + Send>;

/// A question that was not asked yet.
pub struct Question<R> {
    verb: &'static str,
    id: String,
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
        Self { verb, id, deadline, work: Box::new(work), stand_in: None }
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
        let Question { verb, id, deadline, work, stand_in } = question;
        self.or_late(self.once(Lane::Read, verb, &id, deadline, work), stand_in)
    }

    /// What it takes to post a question: none where it is to be refused.
    pub fn may_post<R: Send + 'static>(&self, question: &Question<R>) -> Option<Posting> {
        let Question { verb, id, deadline, .. } = question;
        let job = self.may_ask(Lane::Read, verb, id, *deadline).ok()?;
        Some(Posting { place: self.pool.place()?, job })
    }

    /// Asks, and waits for nothing: `then` gets the answer, as [`Pool::post`] says.
    ///
    /// [`Pool::post`]: crate::pool::Pool::post
    pub fn post<R: Send + 'static>(
        self: &Arc<Self>,
        Posting { place, job }: Posting,
        question: Question<R>,
        then: impl FnOnce(Result<R, Error>) + Send + 'static,
    ) {
        let Question { deadline, work, stand_in, .. } = question;
        let agent = Arc::clone(self);
        self.pool.post(place, Lane::Read, job, begun(deadline, work), move |outcome| {
            let outcome = outcome.map_err(Error::Pool).and_then(|outcome| outcome);
            then(agent.or_late(outcome, stand_in));
        });
    }

    /// The outcome, or what stands in where it is late: because the guest's emulator hangs.
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
    matches!(error, pool::Error::Late { .. } | pool::Error::Overdue { .. })
}
