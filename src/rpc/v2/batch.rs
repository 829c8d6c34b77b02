//! The calls of one batch, which run concurrently.
//!
//! They get threads of their own beside the handler's, which shares the work. With other handlers instead, as many
//! batches as there are handlers would wait for each other forever; as jobs of a lane, a worker would wait for jobs
//! of its own lane. A batch waits for a permit, so that batches cannot occupy all handlers. Each of its calls waits
//! for another permit, on its thread. WaitEvents, which waits without a lane, is bounded in the same way: by
//! [`EventLimits::waiting`](crate::config::EventLimits::waiting) for all callers together, each up to its own
//! timeout.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::value::RawValue;

use super::call::MethodCall;
use super::errors::{Failure, Kind};
use crate::config::{BATCH_ANSWER_BYTES, BATCH_AT_ONCE};
use crate::ops::{Error, Libvirt};
use crate::pool::{CallClass, Permit};
use crate::rpc::Answered;
use crate::rpc::audit::{Audit, CallContext};
use crate::rpc::call::share;
use crate::rpc::dispatch::{Dispatcher, with_permit};
use crate::rpc::inbound::Inbound;
use crate::rpc::table::Service;
use crate::sorted::OrderBy;

/// Runs a batch on a thread that may block, after its permit is acquired, and passes its answer to `then`.
pub(in crate::rpc) fn answer_batch<I: Inbound + 'static>(
    agent: &Arc<Libvirt>,
    audit: &Arc<Audit>,
    port: Service,
    members: Vec<Box<RawValue>>,
    inbound: I,
    then: impl FnOnce(I, Answered) + Send + 'static,
) {
    let user = inbound.caller().share();
    let share = share(CallClass::Batch, user, &format!("{user:?}"));
    let (batch_agent, audit) = (Arc::clone(agent), Arc::clone(audit));
    with_permit(agent, Some(share), (None, "a batch"), inbound, move |inbound, permit| {
        let by = CallContext { caller: inbound.caller(), audit: &audit, inbound: Some(&inbound) };
        let (dispatcher, began) = (Dispatcher { agent: &batch_agent, by }, by.arrived());
        let answer = carry_out(dispatcher, port, &members, permit, began);
        then(inbound, Answered { method: None, answer: answer.into() });
    });
}

/// Runs the calls of a batch with this permit, counted from `began`; returns the answers in their order, if there
/// are any.
pub(super) fn carry_out(
    dispatcher: Dispatcher<'_>,
    port: Service,
    members: &[Box<RawValue>],
    permit: Result<Option<Permit>, Error>,
    began: Instant,
) -> Option<Vec<u8>> {
    let calls = members.iter().map(|member| MethodCall::read(dispatcher, port, member, began));
    let calls: Vec<_> = calls.collect();
    let _permit = match permit {
        Ok(permit) => permit,
        Err(error) => {
            let (why, is_late) =
                (error.to_string(), began.elapsed() >= dispatcher.agent.core.deadlines().change);
            let refuse = |call: Result<MethodCall<'_>, _>| match call {
                Ok(call) if is_late => call.refuse(dispatcher, Kind::Deadline, why.clone(), began),
                Ok(call) => call.refuse_busy(dispatcher, &why, began),
                Err(answer) => answer,
            };
            return join(calls.into_iter().filter_map(refuse).collect());
        }
    };
    let helpers = calls.len().min(BATCH_AT_ONCE).saturating_sub(1);
    let threads =
        dispatcher.agent.core.pool().batches().begin(dispatcher.by.caller.share(), helpers);
    let batch = Batch {
        dispatcher,
        calls: &calls,
        next: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        begin_until: began + dispatcher.agent.core.deadlines().change,
    };
    let mut answers = thread::scope(|scope| {
        let helpers: Vec<_> = (0..threads.helpers)
            .map_while(|_| {
                let thread = thread::Builder::new().name("http-batch".to_owned());
                // If the system cannot start a thread, the running ones do all the work.
                thread.spawn_scoped(scope, || batch.work()).ok()
            })
            .collect();
        let mut answers = batch.work();
        for helper in helpers {
            answers.extend(helper.join().expect("panics of calls are caught"));
        }
        answers
    });
    answers.order_by(&|(a, _), (b, _)| a.cmp(b));
    join(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// Joins these answers to an array; each is freed as soon as it is copied. Returns `None` without answers.
fn join(answers: Vec<Vec<u8>>) -> Option<Vec<u8>> {
    // A comma or the opening bracket for each, and the closing bracket.
    let bytes = answers.iter().map(|answer| answer.len() + 1).sum::<usize>() + 1;
    let mut array = Vec::with_capacity(bytes);
    for answer in answers {
        array.push(if array.is_empty() { b'[' } else { b',' });
        array.extend_from_slice(&answer);
    }
    (!array.is_empty()).then(|| {
        array.push(b']');
        array
    })
}

/// A batch that runs.
struct Batch<'a> {
    dispatcher: Dispatcher<'a>,
    /// The calls; for an invalid one its answer, if it gets one.
    calls: &'a [Result<MethodCall<'a>, Option<Vec<u8>>>],
    next: AtomicUsize,
    /// The bytes of all answers so far.
    bytes: AtomicUsize,
    begin_until: Instant,
}

impl Batch<'_> {
    /// Runs one call after the other until none is left; returns the answers with their positions.
    fn work(&self) -> Vec<(usize, Vec<u8>)> {
        let mut answers = Vec::new();
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(call) = self.calls.get(index) else { return answers };
            let answer = match call {
                Ok(call) => self.carry_out(call),
                Err(answer) => answer.clone(),
            };
            answers.extend(answer.map(|answer| (index, answer)));
        }
    }

    fn carry_out(&self, call: &MethodCall<'_>) -> Option<Vec<u8>> {
        let began = Instant::now();
        if self.dispatcher.by.is_abandoned() {
            // Not started, and recorded as refused: the caller would not learn the outcome. Calls that have started
            // are finished.
            return call.refuse_busy(
                self.dispatcher,
                "not run: the caller has disconnected",
                began,
            );
        }
        if began >= self.begin_until {
            let why = "not run: the other calls of the batch took too long";
            return call.refuse(self.dispatcher, Kind::Deadline, why.to_owned(), began);
        }
        // The other calls of the batch need room for their answers, too.
        let answer = call.carry_out(self.dispatcher, began)?;
        let before = self.bytes.fetch_add(answer.len(), Ordering::Relaxed);
        if before >= BATCH_ANSWER_BYTES {
            let why = format!("done, but the batch's answers exceed {BATCH_ANSWER_BYTES} bytes");
            return call.fail(&Failure::new(Kind::TooLarge, why));
        }
        if !self.dispatcher.by.reserve_answer(before + answer.len()) {
            self.bytes.fetch_sub(answer.len(), Ordering::Relaxed);
            return call.without_room();
        }
        Some(answer)
    }
}
