//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>): the same methods as on the old path, by position and by
//! name, in batches, with error codes that programs can distinguish.
//!
//! The specification leaves some points open; they are decided as follows:
//! - Parameters are the members of the method's request: `{"guest": …}`, or that object as the only parameter by
//!   position. A member that the request does not have is an error, as names have to match exactly. Unknown members
//!   at deeper levels are ignored, as on the old path, since callers store members of their own in guests.
//! - The last value of a repeated member counts, as on the old path.
//! - An `id` is returned as it was written, digit for digit. An invalid request is answered with its `id` if it has
//!   one.
//! - The calls of a batch run concurrently, and so in no order; answers are in the order of calls.

mod batch;
mod call;
mod discover;
pub(super) mod errors;
mod job;

use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;

use crate::config::BATCH_CALLS_MAX;
use crate::ops::Libvirt;
use crate::pool::CallClass;
use crate::rpc::audit::{Audit, CallContext, Inbound};
use crate::rpc::call::{Call, EncodedRequest, share};
use crate::rpc::dispatch::{Dispatcher, dispatch, with_permit};
use crate::rpc::encoder::Encoder;
use crate::rpc::envelope::{check_depth, without_lone_surrogates};
use crate::rpc::table::Service;
use crate::rpc::{Answer, Answered};
#[cfg(any(test, fuzzing))]
pub(crate) use call::fuzz::calls as fuzz_calls;
pub(super) use job::{carry_out_job, failed};

use call::MethodCall;
use errors::{Failure, Kind};

/// Runs the request or the batch in `body`, for methods of `service`, and passes the answer to `then`, at once or
/// later. A body with only notifications has no answer. Calls that change something are audited, even if they are
/// refused.
///
/// # Blocking
/// As [`answer`](crate::rpc::answer) for one call; for a batch up to twice that, as none of its calls starts after
/// the deadline for changes.
pub fn answer<I: Inbound + 'static>(
    agent: &Arc<Libvirt>,
    audit: &Arc<Audit>,
    service: Service,
    body: &[u8],
    inbound: I,
    then: impl FnOnce(I, Answered) + Send + 'static,
) {
    let then = move |inbound, mut answered: Answered| {
        if let Answer::Result(line) = &mut answered.answer {
            line.push(b'\n');
        }
        then(inbound, answered);
    };
    let by = CallContext { caller: inbound.caller(), audit, inbound: Some(&inbound) };
    let began = by.arrived();
    let read = message(body, |message| read(Dispatcher { agent, by }, service, message, began));
    match read.unwrap_or_else(|failure| Read::Answered(failure.into())) {
        Read::Answered(answered) => then(inbound, answered),
        Read::Call(call) => {
            let method = Some(call.callee.full_name());
            dispatch(agent, audit, *call, inbound, move |inbound, answer| {
                then(inbound, Answered { method, answer: answer.into() });
            });
        }
        // The document is long, and its first request makes it.
        Read::Document(port, encoder) => inbound.on_handler(move |inbound| {
            let answer = encoder.success_of(discover::document(port));
            let answer = encoder.fit(answer, &inbound, false);
            let method = Some(discover::METHOD.to_owned());
            then(inbound, Answered { method, answer: answer.into() });
        }),
        Read::Batch(members) => {
            let user = inbound.caller().share();
            let share = share(CallClass::Batch, user, &format!("{user:?}"));
            let (batch_agent, audit) = (Arc::clone(agent), Arc::clone(audit));
            with_permit(agent, Some(share), (None, "a batch"), inbound, move |inbound, permit| {
                let by = CallContext {
                    caller: inbound.caller(),
                    audit: &audit,
                    inbound: Some(&inbound),
                };
                let dispatcher = Dispatcher { agent: &batch_agent, by };
                let answer = batch::carry_out(dispatcher, service, &members, permit, began);
                then(inbound, Answered { method: None, answer: answer.into() });
            });
        }
    }
}

impl From<Failure> for Answered {
    fn from(failure: Failure) -> Self {
        Self { method: None, answer: Answer::Result(failure.answer(None)) }
    }
}

/// Reads the only JSON value in `body`.
fn message<T>(body: &[u8], then: impl FnOnce(&RawValue) -> T) -> Result<T, Failure> {
    let not_json = |why: &dyn ToString| Failure::new(Kind::Parse, why.to_string());
    let text = std::str::from_utf8(body).map_err(|error| not_json(&error))?;
    let text = without_lone_surrogates(text.into());
    check_depth(&text).map_err(|why| not_json(&why))?;
    let message = serde_json::from_str(&text).map_err(|error| not_json(&error))?;
    Ok(then(message))
}

/// The content of a body.
enum Read {
    /// No call to run.
    Answered(Answered),
    Call(Box<Call>),
    /// A request for the document of the methods on the port of this service.
    Document(Service, Encoder),
    Batch(Vec<Box<RawValue>>),
}

fn read(dispatcher: Dispatcher<'_>, port: Service, message: &RawValue, began: Instant) -> Read {
    if !message.get().starts_with('[') {
        let request = match MethodCall::read(dispatcher, port, message, began) {
            Ok(request) => request,
            Err(answer) => return Read::Answered(Answered { method: None, answer: answer.into() }),
        };
        if let Some(port) = request.discovers() {
            return Read::Document(port, request.encoder());
        }
        return match request.call(dispatcher, began) {
            Ok(call) => Read::Call(Box::new(call)),
            Err(answer) => {
                let method = Some(request.name());
                Read::Answered(Answered { method, answer: answer.into() })
            }
        };
    }
    let members: Vec<Box<RawValue>> = match serde_json::from_str(message.get()) {
        Ok(members) => members,
        Err(error) => return Read::Answered(Failure::new(Kind::Parse, error.to_string()).into()),
    };
    let refuse = |why: String| Read::Answered(Failure::new(Kind::Request, why).into());
    match members.len() {
        0 => refuse("the batch is empty".to_owned()),
        1..=BATCH_CALLS_MAX => Read::Batch(members),
        many => refuse(format!("the batch has {many} calls; the limit is {BATCH_CALLS_MAX}")),
    }
}
