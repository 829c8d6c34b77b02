//! The agent's own options among the `args` of a request (contract section 9). Keys that begin with `mistify.` change
//! how the agent carries out a call; all other keys belong to the orchestrator.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::DEADLINE_S_MAX;
use crate::ops::Error;
use crate::pool::current;

type Args = BTreeMap<String, String>;

const TIMEOUT: &str = "mistify.timeout";
const DRY_RUN: &str = "mistify.dry_run";
const ASYNC: &str = "mistify.async";
const FORCE: &str = "mistify.force";
const NEW_INSTANCE: &str = "mistify.new_instance";

/// Returns whether the call is a dry run.
///
/// # Errors
/// [`Error::Invalid`] if the value is neither `true` nor `false`.
pub fn is_dry_run(args: &Args) -> Result<bool, Error> {
    is_true(DRY_RUN, args.get(DRY_RUN).map(String::as_str))
}

/// Returns whether a change may lose data of the guest.
///
/// # Errors
/// As [`is_dry_run`].
pub(super) fn may_lose(args: &Args) -> Result<bool, Error> {
    is_true(FORCE, args.get(FORCE).map(String::as_str))
}

/// Returns whether a changed seed gets a new instance id.
///
/// # Errors
/// As [`is_dry_run`].
pub(super) fn is_new_instance(args: &Args) -> Result<bool, Error> {
    is_true(NEW_INSTANCE, args.get(NEW_INSTANCE).map(String::as_str))
}

/// Removes the option that asks for a job, and returns its value.
///
/// # Errors
/// As [`is_dry_run`].
pub fn wants_job(args: &mut Args) -> Result<bool, Error> {
    is_true(ASYNC, args.remove(ASYNC).as_deref())
}

fn is_true(word: &str, text: Option<&str>) -> Result<bool, Error> {
    match text {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(text) => {
            Err(Error::Invalid(format!("args: {word} must be \"true\" or \"false\", not {text:?}")))
        }
    }
}

/// Returns the deadline of this thread's call: its arrival plus `mistify.timeout`, else plus `default`. Refuses a dry
/// run: methods that support it call [`plan_deadline`].
///
/// # Errors
/// [`Error::Invalid`] names the wrong option.
pub(super) fn deadline(args: &Args, default: Duration) -> Result<Instant, Error> {
    if is_dry_run(args)? {
        return Err(Error::Invalid(format!("args: only CreateGuest and Delete take {DRY_RUN}")));
    }
    plan_deadline(args, default)
}

/// Returns the deadline of a call that may be a dry run.
///
/// # Errors
/// As [`deadline`].
pub(super) fn plan_deadline(args: &Args, default: Duration) -> Result<Instant, Error> {
    // A change that can be a job has lost this option by now.
    if args.contains_key(ASYNC) {
        return Err(Error::Invalid(format!("args: this method takes no {ASYNC}")));
    }
    Ok(current::arrived() + timeout(args)?.unwrap_or(default))
}

/// Returns the time limit that the caller sets for its call, if any.
///
/// # Errors
/// [`Error::Invalid`] for a value that is not a number of seconds from 1 to [`DEADLINE_S_MAX`].
pub fn timeout(args: &Args) -> Result<Option<Duration>, Error> {
    let Some(text) = args.get(TIMEOUT) else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(seconds @ 1..=DEADLINE_S_MAX) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(Error::Invalid(format!(
            "args: {TIMEOUT} must be from 1 to {DEADLINE_S_MAX} seconds, not {text:?}"
        ))),
    }
}
