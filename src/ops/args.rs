//! The agent's own words among the `args` of a request (contract section 9): what begins with
//! `mistify.` changes how a call is carried out, all else is the orchestrator's own.

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

/// Whether the call is only to say what it would do.
///
/// # Errors
/// [`Error::Invalid`] where that is neither `true` nor `false`.
pub fn is_dry_run(args: &Args) -> Result<bool, Error> {
    is_true(DRY_RUN, args.get(DRY_RUN).map(String::as_str))
}

/// Whether a change may lose something of the guest.
///
/// # Errors
/// As [`is_dry_run`].
pub(super) fn may_lose(args: &Args) -> Result<bool, Error> {
    is_true(FORCE, args.get(FORCE).map(String::as_str))
}

/// Whether a seed that changes is to be a new instance's.
///
/// # Errors
/// As [`is_dry_run`].
pub(super) fn is_new_instance(args: &Args) -> Result<bool, Error> {
    is_true(NEW_INSTANCE, args.get(NEW_INSTANCE).map(String::as_str))
}

/// Takes the word out by which a caller wants a job: whether it does.
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

/// When the call of this thread is late, from its arrival on, by `mistify.timeout` or else by `default`. One that
/// is only to say what it would do is refused: who can do that asks [`plan_deadline`].
///
/// # Errors
/// [`Error::Invalid`] names the word that is wrong.
pub(super) fn deadline(args: &Args, default: Duration) -> Result<Instant, Error> {
    if is_dry_run(args)? {
        return Err(Error::Invalid(format!("args: only CreateGuest and Delete take {DRY_RUN}")));
    }
    plan_deadline(args, default)
}

/// The same for a call that changes nothing if it is told not to.
///
/// # Errors
/// As [`deadline`].
pub(super) fn plan_deadline(args: &Args, default: Duration) -> Result<Instant, Error> {
    // A change that is to be a job has lost its word by now.
    if args.contains_key(ASYNC) {
        return Err(Error::Invalid(format!("args: this method takes no {ASYNC}")));
    }
    Ok(current::arrived() + timeout(args)?.unwrap_or(default))
}

/// The time that a caller gives its call, where it says so.
///
/// # Errors
/// [`Error::Invalid`] for a word that is no number of seconds from 1 to [`DEADLINE_S_MAX`].
pub fn timeout(args: &Args) -> Result<Option<Duration>, Error> {
    let Some(text) = args.get(TIMEOUT) else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(seconds @ 1..=DEADLINE_S_MAX) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(Error::Invalid(format!(
            "args: {TIMEOUT} must be from 1 to {DEADLINE_S_MAX} seconds, not {text:?}"
        ))),
    }
}
