//! The parts of a call that depend on the types of its method, so that the rest is compiled once.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::guest::members::Members;
use crate::ops::{Error, Libvirt, Posting, Question, Step, Steps};
use crate::os::peer::Share;
use crate::rpc::json;
use crate::rpc::table::{Method, SteppedVerb, Verb};
use crate::rpc::target::Targeted;

/// The parameter type of a method.
pub(super) trait Params: DeserializeOwned + for<'de> Members<'de> + Targeted + Send {}

impl<P: DeserializeOwned + for<'de> Members<'de> + Targeted + Send> Params for P {}

/// Writes a result as JSON.
pub(super) type BoxedWriter = Box<dyn Fn(&mut Vec<u8>) -> serde_json::Result<()> + Send>;

/// Receives the outcome of a query for which no thread waits.
pub(super) type OutcomeCallback = Box<dyn FnOnce(Result<BoxedWriter, Error>) + Send>;

/// A verb and its parameter.
pub(super) trait BoundMethod: Send {
    /// The members that the parameter may have.
    fn names(&self) -> &'static [&'static str];

    /// Reads the parameter, which was empty before.
    ///
    /// # Errors
    /// If the JSON does not fit the parameter.
    fn read(&mut self, json: &str) -> serde_json::Result<()>;

    /// Returns the parameter.
    fn params_mut(&mut self) -> &mut dyn Targeted;

    /// Runs the verb with the parameter, or its next step; returns the writer of its result. `is_gone` returns
    /// whether the caller has disconnected.
    fn step(&mut self, agent: &Libvirt, is_gone: &dyn Fn() -> bool) -> Step<BoxedWriter>;

    /// Prepares to post the verb, if it is a single query to libvirt that may run now.
    ///
    /// # Errors
    /// The errors of the verb before its query.
    fn posting(&mut self, _agent: &Libvirt) -> Result<Option<Posting>, Error> {
        Ok(None)
    }

    /// Posts the query that [`BoundMethod::posting`] has prepared; does not block.
    fn post(self: Box<Self>, _: &Arc<Libvirt>, _: Share, _: Posting, _: OutcomeCallback) {}
}

impl Method {
    /// Returns the verb with an empty parameter.
    pub(super) fn bind(self) -> Box<dyn BoundMethod> {
        match self {
            Self::Guest(verb) => typed(verb),
            Self::WithDryRun(verb) => typed(verb),
            Self::Status(asks) => question(asks),
            Self::Metrics(asks) => question(asks),
            Self::AllMetrics(verb) => typed(verb),
            Self::List(verb) => typed(verb),
            Self::Describe(verb) => typed(verb),
            Self::Leftovers(verb) => typed(verb),
            Self::Autostart(verb) => typed(verb),
            Self::Setting(verb) => typed(verb),
            Self::Disk(verb) => typed(verb),
            Self::Nic(verb) => typed(verb),
            Self::Console(verb) => typed(verb),
            Self::GuestInfo(verb) => typed(verb),
            Self::Login(verb) => typed(verb),
            Self::Shutdown(begin) => in_steps(begin),
            Self::Screenshot(verb) => typed(verb),
            Self::Events(begin) => in_steps(begin),
            Self::Image(verb) => typed(verb),
            Self::Clone(verb) => typed(verb),
            Self::Volume(verb) => typed(verb),
            Self::Snapshot(verb) => typed(verb),
            Self::Job(verb) => typed(verb),
            Self::Jobs(verb) => typed(verb),
        }
    }
}

fn typed<P: Params + 'static, R: Serialize + Send + 'static>(
    verb: Verb<P, R>,
) -> Box<dyn BoundMethod> {
    Box::new(BlockingMethod { params: P::default(), verb })
}

fn in_steps<P: Params + 'static, R: Serialize + Send + 'static>(
    begin: SteppedVerb<P, R>,
) -> Box<dyn BoundMethod> {
    Box::new(SteppedMethod { params: P::default(), begin, steps: None })
}

fn question<P: Params + 'static, R: Serialize + Send + 'static>(
    asks: Verb<P, Question<R>>,
) -> Box<dyn BoundMethod> {
    Box::new(QueryMethod { params: P::default(), asks, question: None })
}

/// A verb that may block.
struct BlockingMethod<P, R> {
    params: P,
    verb: Verb<P, R>,
}

/// A verb that waits in steps.
struct SteppedMethod<P, R> {
    params: P,
    begin: SteppedVerb<P, R>,
    /// Set once the verb has started.
    steps: Option<Box<dyn Steps<R>>>,
}

/// A verb that is a single query to libvirt.
struct QueryMethod<P, R> {
    params: P,
    asks: Verb<P, Question<R>>,
    /// Made from the parameter, once that was done.
    question: Option<Question<R>>,
}

/// The parameter of a verb.
macro_rules! takes_params {
    () => {
        fn names(&self) -> &'static [&'static str] {
            P::NAMES
        }

        fn read(&mut self, json: &str) -> serde_json::Result<()> {
            self.params = serde_json::from_str(json)?;
            Ok(())
        }

        fn params_mut(&mut self) -> &mut dyn Targeted {
            &mut self.params
        }
    };
}

impl<P: Params, R: Serialize + Send + 'static> BoundMethod for BlockingMethod<P, R> {
    takes_params!();

    fn step(&mut self, agent: &Libvirt, _: &dyn Fn() -> bool) -> Step<BoxedWriter> {
        Step::Done((self.verb)(agent, std::mem::take(&mut self.params)).map(writer))
    }
}

impl<P: Params, R: Serialize + Send + 'static> BoundMethod for SteppedMethod<P, R> {
    takes_params!();

    fn step(&mut self, agent: &Libvirt, is_gone: &dyn Fn() -> bool) -> Step<BoxedWriter> {
        let steps = match &mut self.steps {
            Some(steps) => steps,
            None => match (self.begin)(agent, std::mem::take(&mut self.params)) {
                Ok(steps) => self.steps.insert(steps),
                Err(error) => return Step::Done(Err(error)),
            },
        };
        match steps.step(&agent.core, is_gone) {
            Step::Done(outcome) => Step::Done(outcome.map(writer)),
            Step::Wait(wait) => Step::Wait(wait),
        }
    }
}

impl<P: Params, R: Serialize + Send + 'static> BoundMethod for QueryMethod<P, R> {
    takes_params!();

    fn step(&mut self, agent: &Libvirt, _: &dyn Fn() -> bool) -> Step<BoxedWriter> {
        let question = match self.question.take() {
            Some(question) => Ok(question),
            None => (self.asks)(agent, std::mem::take(&mut self.params)),
        };
        Step::Done(question.and_then(|question| agent.core.ask(question)).map(writer))
    }

    fn posting(&mut self, agent: &Libvirt) -> Result<Option<Posting>, Error> {
        let question = (self.asks)(agent, std::mem::take(&mut self.params))?;
        Ok(agent.core.may_post(self.question.insert(question)))
    }

    fn post(
        self: Box<Self>,
        agent: &Arc<Libvirt>,
        user: Share,
        posting: Posting,
        then: OutcomeCallback,
    ) {
        // A posting exists only with a query.
        let Some(question) = self.question else { return };
        agent.core.post(user, posting, question, |outcome| then(outcome.map(writer)));
    }
}

/// Returns the writer of this result.
pub(super) fn writer<R: Serialize + Send + 'static>(result: R) -> BoxedWriter {
    Box::new(move |out| json::write(out, &result))
}
