//! Calls that are carried out after their request was answered: on threads of their own, by the same
//! desk that carries out all others, for the caller that asked.
//!
//! A job's thread waits for the permit of its call: it keeps no handler waiting.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use serde_json::value::RawValue;

use super::table::{Effect::Changes, Method};
use super::{Audit, Behalf, Callee, Desk, Service, lookup, v2};
use crate::guest::seed::files::given;
use crate::guest::wire::{Guest, GuestResponse};
use crate::jobs::{Begun, Request};
use crate::ops::{self, Error, Libvirt};
use crate::os::peer::Share;
use crate::pool::{CallShare, Ration, current};
use crate::rpc::envelope::Lookup;

/// How the names of secret members begin, misspelt ones among them, and the member of a guest that is meant.
const SECRETS: [(&str, &str); 3] =
    [("cloud", "cloud_init"), ("ignition", "ignition"), ("credential", "credentials")];

/// The secret member of a request or its guest. Names further below, such as those of metadata, are the caller's own.
fn secret_member(params: &RawValue) -> Option<&'static str> {
    let secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        SECRETS.into_iter().find(|(start, _)| name.starts_with(start)).map(|(_, member)| member)
    };
    v2::members(params).unwrap_or_default().iter().find_map(|(name, value)| {
        let is_guest = name.eq_ignore_ascii_case("guest");
        let below = v2::members(value).ok().filter(|_| is_guest).unwrap_or_default();
        secret(name).or_else(|| below.keys().find_map(|name| secret(name)))
    })
}

impl Callee {
    /// Whether its calls may become jobs: it changes a guest, a job's file may have all that its request has, and no
    /// job's thread waits for another job of its kind, as those of Trim would. Of a Freeze that is over when its caller
    /// asks for it nobody has any use.
    pub(super) fn may_be_job(self) -> bool {
        let (name, effect, method) = self.entry;
        let is_never =
            matches!(method, Method::Login(_)) || ["Trim", "Freeze", "Thaw"].contains(&name);
        self.service == Service::Libvirt && effect == Changes && !is_never
    }
}

impl Desk<'_> {
    /// Makes a job of a call where its caller wants that.
    pub(super) fn as_job(
        self,
        callee: Callee,
        when: When<'_>,
        guest: Option<&Guest>,
        args: &mut BTreeMap<String, String>,
        written: Option<&RawValue>,
        (is_dry_run, waits, began): (bool, bool, Instant),
    ) -> Result<Turn, Error> {
        let wanted = ops::wants_job(args)?;
        match when {
            When::ByJob(_) => return Ok(Turn::Now),
            When::Now if !wanted => return Ok(Turn::Now),
            When::Now | When::Later => {}
        }
        if is_dry_run {
            return Err(Error::Invalid("a dry run cannot be a job".to_owned()));
        }
        if waits {
            let why =
                "wait and force_after cannot be in a job, which would wait on a thread for jobs";
            return Err(Error::Invalid(why.to_owned()));
        }
        // The request of a job is in a file until it begins, with what is misspelt or stands in another place.
        let given = guest.and_then(|guest| given(guest).first().copied());
        if let Some(member) = given.or_else(|| written.and_then(secret_member)) {
            let why = "cannot be in a job, because it is secret; call without async";
            return Err(Error::Invalid(format!("{member} {why}")));
        }
        let params = written.ok_or(Error::NoGuest)?.to_owned();
        let request = Request { params, caller: *self.by.caller };
        let share = file_share(self.by.caller.share());
        let Some(_permit) = self.admit(share, None, callee.entry.0, began)? else {
            return Ok(Turn::Waits);
        };
        let name = callee.full_name();
        let accepted =
            current::carry_out(began, || self.agent.add_job(&name, guest, args, request))?;
        Ok(Turn::Later(Box::new(accepted)))
    }
}

/// What a call of this user is counted for that writes the file of a job.
pub(super) fn file_share(user: Share) -> CallShare {
    CallShare { ration: Ration::JobFile, user, guest: "".into() }
}

/// The parameter beside those of a method by which a job is made of its call.
pub(super) const ASYNC: &str = "async";

/// When a call is carried out that may become a job.
#[derive(Clone, Copy)]
pub(super) enum When<'a> {
    /// Now, unless its arguments say otherwise.
    Now,
    /// As a job.
    Later,
    /// Now: it is the call of this job.
    ByJob(&'a str),
}

impl When<'_> {
    /// The job whose call it is.
    pub(super) fn job(self) -> Option<String> {
        match self {
            Self::ByJob(id) => Some(id.to_owned()),
            Self::Now | Self::Later => None,
        }
    }
}

/// What becomes of a call that may be a job.
pub(super) enum Turn {
    /// It is carried out.
    Now,
    /// It waits for its permit without this thread, and is not answered now.
    Waits,
    /// It is a job from here on, and this the answer.
    Later(Box<GuestResponse>),
}

/// The threads that carry jobs out.
pub struct Workers {
    agent: Arc<Libvirt>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts them; jobs that a former life of the agent left are begun at once.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(agent: &Arc<Libvirt>, audit: &Arc<Audit>) -> io::Result<Self> {
        let mut workers = Self { agent: Arc::clone(agent), threads: Vec::new() };
        for index in 0..agent.jobs().limits().at_once {
            let (agent, audit) = (Arc::clone(agent), Arc::clone(audit));
            let thread = thread::Builder::new().name(format!("job-{index}"));
            let thread = thread.spawn(move || work(&agent, &audit));
            workers.threads.push(thread.inspect_err(|_| workers.tell_to_stop())?);
        }
        Ok(workers)
    }

    /// From here on no job is begun, or taken.
    pub fn tell_to_stop(&self) {
        self.agent.jobs().close();
    }

    /// Waits for the jobs that run; whether all have ended.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub fn stop(self, deadline: Instant) -> bool {
        self.tell_to_stop();
        let ended = self.agent.jobs().wait_for_ends(deadline);
        if ended {
            for thread in self.threads {
                thread.join().expect("panics of calls are caught");
            }
        }
        ended
    }
}

/// Carries out one job after the other until none is begun any more.
fn work(agent: &Libvirt, audit: &Audit) {
    while let Some(begun) = agent.jobs().next() {
        carry_out(agent, audit, &begun);
    }
}

fn carry_out(agent: &Libvirt, audit: &Audit, begun: &Begun) {
    let caller = begun.request.caller;
    let desk = Desk::new(agent, Behalf { caller: &caller, audit, inbound: None });
    let outcome = match agent.jobs().may_begin(begun) {
        Ok(()) => begun.tracked(|| v2::carry_out_job(desk, callee(&begun.method), begun)),
        Err(error) => v2::failed(&error.into(), begun),
    };
    agent.end_job(begun, outcome);
}

/// The method of a job; none that this version does not have any more.
fn callee(name: &str) -> Option<Callee> {
    let (service, method) = name.split_once('.')?;
    match lookup(Service::Libvirt, service, method) {
        Lookup::Found(callee) if callee.may_be_job() => Some(callee),
        _ => None,
    }
}
