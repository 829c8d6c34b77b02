//! Calls that run as jobs, and the members that no job's file may contain.

use serde_json::value::RawValue;

use crate::ops::Error;
use crate::os::peer::Share;
use crate::pool::{CallClass, CallShare};
use crate::rpc::envelope::members;
use crate::rpc::table::Effect::Changes;
use crate::rpc::table::{Callee, Method, Service};

/// The parameter, beside those of a method, that makes a job of its call.
pub(super) const ASYNC: &str = "async";

/// When a call runs that may become a job.
#[derive(Clone, Copy)]
pub(super) enum Execution<'a> {
    /// Now, unless its arguments say otherwise.
    Now,
    /// As a job.
    Later,
    /// Now: it is the call of this job.
    ByJob(&'a str),
}

/// How a call is run.
pub(super) enum Mode {
    /// The agent runs its verb.
    Run,
    /// The agent makes a job of the call, with these parameters.
    Job(Box<RawValue>),
    /// The agent answers with this error.
    Fail(Error),
}

/// The prefixes of the names of secret members, so that misspelt names match too, and the member of a guest that is
/// meant.
const SECRETS: [(&str, &str); 3] =
    [("cloud", "cloud_init"), ("ignition", "ignition"), ("credential", "credentials")];

/// Returns the secret member of a request or its guest. The names of deeper members, such as those in metadata, are the
/// caller's own.
fn secret_member(params: &RawValue) -> Option<&'static str> {
    let secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        SECRETS.into_iter().find(|(start, _)| name.starts_with(start)).map(|(_, member)| member)
    };
    members(params).unwrap_or_default().iter().find_map(|(name, value)| {
        let is_guest = name.eq_ignore_ascii_case("guest");
        let below = members(value).ok().filter(|_| is_guest).unwrap_or_default();
        secret(name).or_else(|| below.keys().find_map(|name| secret(name)))
    })
}

impl Callee {
    /// Returns whether calls of this method may become jobs. The method must change a guest, a job's file may contain
    /// the whole request, and no job's thread may wait for another job of its kind, as those of Trim would. A Freeze
    /// that has ended when its caller asks about it is useless.
    pub(super) fn may_be_job(self) -> bool {
        let (name, effect, method) = self.entry;
        let is_never =
            matches!(method, Method::Login(_)) || ["Trim", "Freeze", "Thaw"].contains(&name);
        self.service == Service::Libvirt && effect == Changes && !is_never
    }
}

/// Returns the share of this user that counts a call which writes a job's file.
pub(super) fn file_share(user: Share) -> CallShare {
    CallShare { class: CallClass::JobFile, user, guest: "".into() }
}

/// Decides how a call runs that may become a job. `secret` is a member that no job's file may contain.
pub(super) fn mode_of(
    execution: Execution<'_>,
    wanted: Result<bool, Error>,
    (is_dry_run, waits): (bool, bool),
    secret: Option<&str>,
    written: Option<&RawValue>,
) -> Mode {
    let invalid = |why: &str| Mode::Fail(Error::Invalid(why.to_owned()));
    match (execution, wanted) {
        (_, Err(error)) => return Mode::Fail(error),
        (Execution::ByJob(_), _) | (Execution::Now, Ok(false)) => return Mode::Run,
        (Execution::Now | Execution::Later, Ok(_)) => {}
    }
    if is_dry_run {
        return invalid("a dry run cannot be a job");
    }
    if waits {
        return invalid(
            "wait and force_after cannot be in a job, which would wait on a thread for jobs",
        );
    }
    // The request of a job is in a file until the job starts, with its misspelt and misplaced members.
    if let Some(member) = secret.or_else(|| written.and_then(secret_member)) {
        return invalid(&format!(
            "{member} cannot be in a job, because it is secret; call without async"
        ));
    }
    match written {
        Some(params) => Mode::Job(params.to_owned()),
        None => Mode::Fail(Error::NoGuest),
    }
}
