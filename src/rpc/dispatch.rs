//! Runs calls of either envelope: at once, as a query that a worker answers, or after their permit is acquired.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::kv::Value;
use log::{Level, log_enabled};
use serde_json::value::RawValue;

use crate::guest::wire::GuestResponse;
use crate::jobs::{JobCall, reached};
use crate::ops::{Error, Libvirt, Step};
use crate::os::peer::Share;
use crate::pool::{CallClass, CallShare, JobName, NoPermit, Permit, current};
use crate::rpc::as_job::Mode;
use crate::rpc::audit::{Audit, AuditedCall, CallContext, Outcome, log_call, milliseconds};
use crate::rpc::bound_method::{BoundMethod, BoxedWriter, writer};
use crate::rpc::call::Call;
use crate::rpc::encoder::Encoder;
use crate::rpc::inbound::Inbound;
use crate::rpc::json::Writer;
use crate::rpc::table::{Callee, Service};
use crate::rpc::target::Target;

/// Runs the calls of one caller.
#[derive(Clone, Copy)]
pub(super) struct Dispatcher<'a> {
    pub(super) agent: &'a Libvirt,
    pub(super) by: CallContext<'a>,
}

/// Runs the call of this request. `then` receives its answer, if it has one, on the thread that completes the call.
/// Blocks where the thread of the request may.
pub(super) fn dispatch<I: Inbound + 'static>(
    agent: &Arc<Libvirt>,
    audit: &Arc<Audit>,
    mut call: Call,
    mut inbound: I,
    then: impl FnOnce(I, Option<Vec<u8>>) + Send + 'static,
) {
    let (user, changes, encoder) =
        (inbound.caller().share(), call.callee.changes(), call.encoder.clone());
    let then = move |inbound: I, answer| {
        let answer = encoder.fit(answer, &inbound, changes);
        then(inbound, answer);
    };
    if let Mode::Run = call.mode {
        match current::carry_out(call.arrived, || call.bound.posting(agent)) {
            Ok(Some(posting)) => {
                let Call { callee, bound, target, is_dry_run, encoder, arrived, .. } = call;
                let what = What::Read { target, is_dry_run };
                let in_flight = InFlightCall { callee, began: arrived, what };
                let counted_by = Arc::clone(agent);
                inbound.park(true);
                let answer = Box::new(move |outcome: Result<BoxedWriter, Error>| {
                    let target = in_flight.end(&counted_by, outcome.as_ref().err());
                    let outcome = outcome.as_ref().map(|write| &**write as Writer<'_>);
                    then(inbound, encoder.answer(outcome, &target));
                });
                return current::carry_out(arrived, || bound.post(agent, user, posting, answer));
            }
            Ok(None) => {}
            Err(error) => call.mode = Mode::Fail(error),
        }
    }
    let (agent, audit) = (Arc::clone(agent), Arc::clone(audit));
    let (share, timeout, name) = (call.share(user), call.timeout, call.callee.entry.0);
    with_permit(&Arc::clone(&agent), share, (timeout, name), inbound, move |inbound, permit| {
        let by = CallContext { caller: inbound.caller(), audit: &audit, inbound: Some(&inbound) };
        let started = Dispatcher { agent: &agent, by }.begin(call, permit);
        go_on(agent, inbound, started, then);
    });
}

/// Runs the next step of a call on this thread, and the later steps after the events that they wait for. A panic drops
/// `started`, with its permit and its record, before `inbound`, which answers.
fn go_on<I: Inbound + 'static>(
    agent: Arc<Libvirt>,
    mut inbound: I,
    mut started: StartedCall,
    then: impl FnOnce(I, Option<Vec<u8>>) + Send + 'static,
) {
    let by = inbound.caller().share();
    match started.step(&agent, by, &|| inbound.may_be_abandoned()) {
        Step::Done(outcome) => then(inbound, started.end(&agent, outcome)),
        Step::Wait(wait) => {
            inbound.park(true);
            let core = Arc::clone(&agent.core);
            let next = move |inbound| go_on(agent, inbound, started, then);
            core.wait_later(wait, Box::new(move || inbound.on_handler(next)));
        }
    }
}

/// Continues a request on a thread that may block, after its permit is acquired. The request waits for the permit
/// without a thread, until this timeout or the default of its kind.
pub(super) fn with_permit<I: Inbound + 'static>(
    agent: &Arc<Libvirt>,
    share: Option<CallShare>,
    (timeout, what): (Option<Duration>, &'static str),
    mut inbound: I,
    then: impl FnOnce(I, Result<Option<Permit>, Error>) + Send + 'static,
) {
    let Some(share) = share else {
        return inbound.on_handler(|inbound| then(inbound, Ok(None)));
    };
    let arrived = inbound.arrived();
    let deadline = deadline(agent, &share, timeout, arrived);
    let permit = agent.core.pool().permit(&share);
    let (owned_agent, wanted) = (Arc::clone(agent), share.clone());
    let proceed = move |inbound, permit: Result<Permit, NoPermit>| {
        let permit = in_time(permit, deadline);
        let permit = permit.map_err(|why| unpermitted(&owned_agent, why, &wanted, what, arrived));
        then(inbound, permit.map(Some));
    };
    match permit {
        Some(permit) => inbound.on_handler(move |inbound| proceed(inbound, Ok(permit))),
        None => {
            inbound.park(false);
            let granted = move |permit| inbound.on_handler(move |inbound| proceed(inbound, permit));
            agent.core.pool().permit_later(share, deadline, Box::new(granted));
        }
    }
}

/// Returns the deadline of a call that arrived at `arrived`.
fn deadline(
    agent: &Libvirt,
    share: &CallShare,
    timeout: Option<Duration>,
    arrived: Instant,
) -> Instant {
    let default = match share.class {
        CallClass::Read | CallClass::Metrics | CallClass::Agent => agent.core.deadlines().read,
        _ => agent.core.deadlines().change,
    };
    arrived + timeout.unwrap_or(default)
}

/// A verb that starts after its deadline would only fail with it, perhaps after a part of its work.
fn in_time(permit: Result<Permit, NoPermit>, deadline: Instant) -> Result<Permit, NoPermit> {
    permit.and_then(|permit| match Instant::now() < deadline {
        true => Ok(permit),
        false => Err(NoPermit::Late),
    })
}

/// Returns the error of a call that got no permit.
fn unpermitted(
    agent: &Libvirt,
    why: NoPermit,
    share: &CallShare,
    what: &str,
    arrived: Instant,
) -> Error {
    let what = match share.class {
        CallClass::Batch => what.to_owned(),
        _ => JobName::new(what, share.guest.as_ref()).to_string(),
    };
    Error::Pool(agent.core.pool().no_permit(why, share, &what, arrived))
}

impl Dispatcher<'_> {
    /// Runs a call that waits for its permit on this thread, as the calls of a batch or a job do; returns its answer,
    /// if it has one.
    ///
    /// # Blocking
    /// Up to the deadline of its method.
    pub(super) fn wait_and_carry_out(self, mut call: Call) -> Option<Vec<u8>> {
        if call.waits {
            let why = "wait and force_after cannot be in a batch, as the batch would wait, too";
            call.mode = Mode::Fail(Error::Invalid(why.to_owned()));
        }
        let (agent, arrived) = (self.agent, call.arrived);
        let permit = call.share(self.by.caller.share()).map(|share| {
            let deadline = deadline(agent, &share, call.timeout, arrived);
            let permit = agent.core.pool().permit(&share).map_or_else(
                || {
                    reached("wait for a permit of the pool");
                    agent.core.pool().wait_for_permit(&share, deadline)
                },
                Ok,
            );
            let what = call.callee.entry.0;
            in_time(permit, deadline).map_err(|why| unpermitted(agent, why, &share, what, arrived))
        });
        let mut started = self.begin(call, permit.transpose());
        let (user, is_gone) = (self.by.caller.share(), || self.by.may_be_abandoned());
        loop {
            match started.step(agent, user, &is_gone) {
                Step::Done(outcome) => return started.end(agent, outcome),
                Step::Wait(wait) => agent.core.wait(&wait),
            }
        }
    }

    /// Starts a call with this permit: its verb, which logs a line at its end, or a job, which logs its line when it
    /// has run.
    fn begin(self, call: Call, permit: Result<Option<Permit>, Error>) -> StartedCall {
        let Call { callee, mut bound, target, is_dry_run, mode, encoder, arrived, .. } = call;
        let (permit, mode) = match permit {
            Ok(permit) => (permit, mode),
            Err(error) => (None, Mode::Fail(error)),
        };
        let (outcome, is_job) = match mode {
            Mode::Run => (None, false),
            Mode::Fail(error) => (Some(Err(error)), false),
            Mode::Job(params) => {
                let accepted = self.add_job(callee, &mut *bound, params, arrived);
                let is_job = accepted.is_ok();
                (Some(accepted.map(writer)), is_job)
            }
        };
        // No caller waits for a job, so that its deadline counts from here.
        let counted_from = if target.job.is_some() { Instant::now() } else { arrived };
        let in_flight = (!is_job).then(|| self.in_flight(callee, target, is_dry_run, arrived));
        StartedCall { bound, outcome, permit, encoder, counted_from, in_flight }
    }

    /// Makes a job of a call.
    fn add_job(
        self,
        callee: Callee,
        bound: &mut dyn BoundMethod,
        params: Box<RawValue>,
        began: Instant,
    ) -> Result<GuestResponse, Error> {
        let request = JobCall { params, caller: *self.by.caller };
        let (guest, args) = bound.params_mut().for_job().ok_or(Error::NoGuest)?;
        let name = callee.full_name();
        current::carry_out(began, || self.agent.core.add_job(&name, guest, args, request))
    }

    /// Records a call from its start.
    fn in_flight(
        self,
        callee: Callee,
        target: Target,
        is_dry_run: bool,
        began: Instant,
    ) -> InFlightCall {
        let what = match callee.changes() && !is_dry_run {
            true => {
                What::Change(AuditedCall::begin(self.by, callee.full_name(), Some(target), began))
            }
            false => What::Read { target, is_dry_run },
        };
        InFlightCall { callee, began, what }
    }

    /// Records a call that was refused before its verb, if the verb changes something.
    pub(super) fn refused(self, callee: Callee, why: &str, began: Instant) {
        if callee.changes() {
            AuditedCall::begin(self.by, callee.full_name(), None, began)
                .end(&Outcome::Refused(why));
        }
    }
}

/// A call that has started.
struct StartedCall {
    bound: Box<dyn BoundMethod>,
    /// Set if the outcome is known before the verb runs.
    outcome: Option<Result<BoxedWriter, Error>>,
    permit: Option<Permit>,
    encoder: Encoder,
    /// The start of its deadline.
    counted_from: Instant,
    /// The record to write at its end.
    in_flight: Option<InFlightCall>,
}

impl StartedCall {
    /// Runs the verb, or its next step.
    fn step(
        &mut self,
        agent: &Libvirt,
        user: Share,
        is_gone: &dyn Fn() -> bool,
    ) -> Step<BoxedWriter> {
        if let Some(outcome) = self.outcome.take() {
            return Step::Done(outcome);
        }
        let (bound, from) = (&mut self.bound, self.counted_from);
        let step = || current::carry_out(from, || bound.step(agent, is_gone));
        current::of_caller(user, step)
    }

    /// Records the outcome; returns the answer, if the call has one.
    fn end(self, agent: &Libvirt, outcome: Result<BoxedWriter, Error>) -> Option<Vec<u8>> {
        drop(self.permit);
        let in_flight =
            self.in_flight.map(|in_flight| in_flight.end(agent, outcome.as_ref().err()));
        let outcome = outcome.as_ref().map(|write| &**write as Writer<'_>);
        self.encoder.answer(outcome, &in_flight.unwrap_or_default())
    }
}

/// A call that runs.
struct InFlightCall {
    callee: Callee,
    began: Instant,
    what: What,
}

enum What {
    Change(AuditedCall),
    Read { target: Target, is_dry_run: bool },
}

impl InFlightCall {
    /// Counts and records the call, with its error if it failed; returns its target.
    fn end(self, agent: &Libvirt, error: Option<&Error>) -> Target {
        let Self { callee: Callee { service, entry: (method, ..) }, began, what } = self;
        agent.telemetry.calls().count(service.name(), method, error.is_none(), began.elapsed());
        match what {
            What::Change(call) => call.end(&match error {
                None => Outcome::Ok,
                Some(error) if error.is_late() => Outcome::Late(error),
                Some(error) => Outcome::Error(error),
            }),
            What::Read { target, is_dry_run } => {
                log_read(service, method, &target, is_dry_run, began, error);
                target
            }
        }
    }
}

/// Logs the outcome of a call that changes nothing, including a dry run of a method that changes something.
pub(super) fn log_read(
    service: Service,
    method: &str,
    target: &Target,
    is_dry_run: bool,
    began: Instant,
    error: Option<&Error>,
) {
    if !log_enabled!(Level::Info) {
        return;
    }
    let error = error.map(ToString::to_string);
    let word = if error.is_none() { "ok" } else { "error" };
    let mut fields: Vec<_> = target.fields().collect();
    let ms = Value::from(milliseconds(began.elapsed()));
    fields.extend(is_dry_run.then_some(("dry_run", Value::from(true))));
    fields.extend([("ms", ms), ("outcome", Value::from(word))]);
    fields.extend(error.as_deref().map(|error| ("error", Value::from(error))));
    log_call(&service.full_name(method), &fields);
}
