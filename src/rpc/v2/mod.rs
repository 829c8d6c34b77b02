//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>): the same methods as on the old path, by
//! position and by name, in batches, with error codes that programs can tell apart.
//!
//! What the specification leaves open, and how it is here:
//! - Parameters are the members of the method's request: `{"guest": …}`, or that object as the only
//!   one by position. A member that the request does not have is an error, as names have to match
//!   exactly. Below, what is unknown is passed over, as on the old path, since callers keep members of
//!   their own in guests.
//! - Of a member that is given twice the last one counts, as on the old path.
//! - An `id` is echoed as it was written, digit for digit. A request that is none is answered under
//!   its `id` where it has one.
//! - The calls of a batch run side by side, and so in no order; answers are in the order of calls.

mod batch;
mod call;
mod discover;
mod errors;
mod job;

use serde_json::value::RawValue;

use crate::config::BATCH_CALLS_MAX;
use crate::ops::Libvirt;
use crate::rpc::envelope::{check_depth, without_lone_surrogates};
use crate::rpc::{Behalf, Desk, Service, give_back_after};
#[cfg(any(test, fuzzing))]
pub(crate) use call::fuzz::calls as fuzz_calls;
pub(super) use job::{carry_out_job, failed};

use call::Call;
pub(super) use call::members;
use errors::{Failure, Kind};

/// Carries out what is in `body`, a request or a batch of them, for methods of `service`: the
/// answer, or nothing where only notifications were in it. Calls that change something are audited,
/// also those that are refused.
///
/// # Blocking
/// As [`answer`](crate::rpc::answer) for one call; for a batch up to twice that, as none of its
/// calls is begun after the deadline for changes.
pub fn answer(agent: &Libvirt, service: Service, body: &[u8], by: Behalf<'_>) -> Answered {
    let desk = Desk::new(agent, by);
    let mut answered = match message(body, |message| carry_out(desk, service, message)) {
        Ok(answered) => answered,
        Err(failure) => failure.into(),
    };
    answered.answer.iter_mut().for_each(|answer| answer.push(b'\n'));
    give_back_after(body);
    answered
}

/// What comes of one body.
pub struct Answered {
    /// The method that was called, with its service: none for a batch, each call of which is logged
    /// by itself, and where nobody knows it.
    pub method: Option<String>,
    /// What goes back, if anything does.
    pub answer: Option<Vec<u8>>,
}

impl From<Failure> for Answered {
    fn from(failure: Failure) -> Self {
        Self { method: None, answer: Some(failure.answer(None)) }
    }
}

/// Reads the one JSON value in `body`.
fn message<T>(body: &[u8], then: impl FnOnce(&RawValue) -> T) -> Result<T, Failure> {
    let not_json = |why: &dyn ToString| Failure::new(Kind::Parse, why.to_string());
    let text = std::str::from_utf8(body).map_err(|error| not_json(&error))?;
    let text = without_lone_surrogates(text.into());
    check_depth(&text).map_err(|why| not_json(&why))?;
    let message = serde_json::from_str(&text).map_err(|error| not_json(&error))?;
    Ok(then(message))
}

fn carry_out(desk: Desk<'_>, port: Service, message: &RawValue) -> Answered {
    let began = desk.by.arrived();
    if !message.get().starts_with('[') {
        return match Call::read(desk, port, message, began) {
            Ok(call) => {
                let answer = call.carry_out(began);
                let has_room = answer.as_ref().is_none_or(|it| desk.by.reserve_answer(it.len()));
                let answer = if has_room { answer } else { call.without_room() };
                Answered { method: Some(call.name()), answer }
            }
            Err(answer) => Answered { method: None, answer },
        };
    }
    let members: Vec<&RawValue> = match serde_json::from_str(message.get()) {
        Ok(members) => members,
        Err(error) => return Failure::new(Kind::Parse, error.to_string()).into(),
    };
    let refuse = |why: String| Failure::new(Kind::Request, why).into();
    match members.len() {
        0 => refuse("the batch is empty".to_owned()),
        1..=BATCH_CALLS_MAX => {
            Answered { method: None, answer: batch::carry_out(desk, port, &members, began) }
        }
        many => refuse(format!("the batch has {many} calls; the limit is {BATCH_CALLS_MAX}")),
    }
}
