//! The call of a job, and its outcome in the form that a job stores.

use std::time::Instant;

use serde_json::value::RawValue;

use super::call::MethodCall;
use super::errors::{Failure, Kind};
use crate::jobs::{JobOutcome, RunningJob};
use crate::ops::Error;
use crate::rpc::dispatch::Dispatcher;
use crate::rpc::envelope::members;
use crate::rpc::table::Callee;
use crate::rpc::target::Target;

/// Runs a job; its deadline counts from now. `callee` is `None` if the method no longer exists.
///
/// # Blocking
/// Up to the deadline of its method.
pub(in crate::rpc) fn carry_out_job(
    dispatcher: Dispatcher<'_>,
    callee: Option<Callee>,
    started: &RunningJob,
) -> JobOutcome {
    let Some(callee) = callee else {
        return JobOutcome::Failed(Failure::new(Kind::Method, started.method.as_str()).json());
    };
    let id = started.id();
    let request = MethodCall::of_job(callee, &started.request.params, &id);
    let answer = request.carry_out(dispatcher, Instant::now()).unwrap_or_default();
    let answer = String::from_utf8(answer).ok().and_then(|it| RawValue::from_string(it).ok());
    let members = answer.as_deref().and_then(|answer| members(answer).ok()).unwrap_or_default();
    match (members.get("result"), members.get("error")) {
        (Some(result), _) => JobOutcome::Done((*result).to_owned()),
        (None, Some(error)) => JobOutcome::Failed((*error).to_owned()),
        (None, None) => JobOutcome::Failed(Failure::new(Kind::Internal, "no answer").json()),
    }
}

/// Returns the outcome of a job that does not start because of this error.
pub(in crate::rpc) fn failed(error: &Error, started: &RunningJob) -> JobOutcome {
    let target = Target { job: Some(started.id()), ..Target::default() };
    JobOutcome::Failed(Failure::of(error, &target).json())
}
