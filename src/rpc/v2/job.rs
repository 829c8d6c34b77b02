//! The call of a job, and its outcome in the form that a job stores.

use std::time::Instant;

use serde_json::value::RawValue;

use super::call::Request;
use super::errors::{Failure, Kind};
use crate::jobs::{Begun, Outcome};
use crate::ops::Error;
use crate::rpc::dispatch::Desk;
use crate::rpc::envelope::members;
use crate::rpc::subject::Subject;
use crate::rpc::table::Callee;

/// Runs a job; its deadline counts from now. `callee` is `None` if the method no longer exists.
///
/// # Blocking
/// Up to the deadline of its method.
pub(in crate::rpc) fn carry_out_job(
    desk: Desk<'_>,
    callee: Option<Callee>,
    begun: &Begun,
) -> Outcome {
    let Some(callee) = callee else {
        return Outcome::Failed(Failure::new(Kind::Method, begun.method.as_str()).json());
    };
    let id = begun.id();
    let request = Request::of_job(callee, &begun.request.params, &id);
    let answer = request.carry_out(desk, Instant::now()).unwrap_or_default();
    let answer = String::from_utf8(answer).ok().and_then(|it| RawValue::from_string(it).ok());
    let members = answer.as_deref().and_then(|answer| members(answer).ok()).unwrap_or_default();
    match (members.get("result"), members.get("error")) {
        (Some(result), _) => Outcome::Done((*result).to_owned()),
        (None, Some(error)) => Outcome::Failed((*error).to_owned()),
        (None, None) => Outcome::Failed(Failure::new(Kind::Internal, "no answer").json()),
    }
}

/// Returns the outcome of a job that does not start because of this error.
pub(in crate::rpc) fn failed(error: &Error, begun: &Begun) -> Outcome {
    let subject = Subject { job: Some(begun.id()), ..Subject::default() };
    Outcome::Failed(Failure::of(error, &subject).json())
}
