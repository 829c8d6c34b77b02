//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>): the same methods as on the old path, by position and by
//! name, in batches, with error codes that programs can distinguish.
//!
//! The specification leaves some points open; they are decided as follows:
//! - Parameters are the members of the method's request: `{"guest": …}`, or that object as the only parameter by
//!   position. Their names have to match exactly. An unknown member is an error at every level, except in a job from
//!   the old path, which ignores it.
//! - The last value of a repeated member counts, as on the old path.
//! - An `id` is returned as it was written, digit for digit. An invalid request is answered with its `id` if it has
//!   one.
//! - The calls of a batch run concurrently, and so in no order; answers are in the order of calls.

pub(super) mod answers;
mod batch;
mod call;
mod discover;
pub(super) mod errors;
mod job;

use serde_json::value::RawValue;

use crate::config::BATCH_CALLS_MAX;
use crate::rpc::dispatch::Dispatcher;
use crate::rpc::envelope::{check_depth, without_lone_surrogates};
use crate::rpc::table::Service;
use crate::rpc::{Answer, Answered, Message};
pub(super) use batch::answer_batch;
#[cfg(any(test, fuzzing))]
pub(crate) use call::fuzz::calls as fuzz_calls;
pub(super) use discover::answer_document;
pub(super) use job::{carry_out_job, failed};

use call::MethodCall;
use errors::{Failure, Kind};

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

/// Reads the request or the batch in `body`.
pub(super) fn read(dispatcher: Dispatcher<'_>, port: Service, body: &[u8]) -> Message {
    message(body, |message| read_message(dispatcher, port, message))
        .unwrap_or_else(|failure| Message::Answered(failure.into()))
}

fn read_message(dispatcher: Dispatcher<'_>, port: Service, message: &RawValue) -> Message {
    let began = dispatcher.by.arrived();
    if !message.get().starts_with('[') {
        let request = match MethodCall::read(dispatcher, port, message, began) {
            Ok(request) => request,
            Err(answer) => {
                return Message::Answered(Answered { method: None, answer: answer.into() });
            }
        };
        if let Some(port) = request.discovers() {
            return Message::Document(port, request.into_id());
        }
        return match request.call(dispatcher, began) {
            Ok(call) => Message::Call(Box::new(call)),
            Err(answer) => {
                let method = Some(request.name());
                Message::Answered(Answered { method, answer: answer.into() })
            }
        };
    }
    let members: Vec<Box<RawValue>> = match serde_json::from_str(message.get()) {
        Ok(members) => members,
        Err(error) => {
            return Message::Answered(Failure::new(Kind::Parse, error.to_string()).into());
        }
    };
    let refuse = |why: String| Message::Answered(Failure::new(Kind::Request, why).into());
    match members.len() {
        0 => refuse("the batch is empty".to_owned()),
        1..=BATCH_CALLS_MAX => Message::Batch(members),
        many => refuse(format!("the batch has {many} calls; the limit is {BATCH_CALLS_MAX}")),
    }
}
