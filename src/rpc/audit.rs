//! The audit: one line for each call that changes something, or would have: whose it was, what it
//! was about, and how it went. It goes to the log at info, and as JSON to a file if there is one.
//!
//! ```text
//! {"time":"2026-11-22T16:20:01.123Z","method":"Libvirt.Run","guest":"web-1","address":"unix",
//!  "uid":0,"user":"root","pid":4711,"outcome":"ok","ms":612.408}
//! ```
//!
//! A line is written when the call has its answer: `ok`; `error`; `late`, where the caller was told
//! that the deadline came while the call still ran; `refused`, where the request could not be
//! understood, and nothing was begun; `panic`. What is not known is left out.

mod sink;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use log::kv::Value;
use log::{Level, log_enabled};
use parking_lot::Mutex;
use serde::Serialize;

use crate::config::AuditConfig;
use crate::os::peer::Caller;
use crate::os::{clock, users};
use crate::rpc::subject::{Subject, cut};
use sink::Sink;

/// Whose call it is, and what writes that down.
#[derive(Clone, Copy, Debug)]
pub struct Behalf<'a> {
    /// Who calls.
    pub caller: &'a Caller,
    /// What writes it down.
    pub audit: &'a Audit,
}

/// What writes changing calls down. By default into the log alone.
#[derive(Debug, Default)]
pub struct Audit {
    limits: AuditConfig,
    sink: Option<Sink>,
    /// Names of users, with the time when they were asked for.
    names: Mutex<HashMap<u32, (Instant, Option<String>)>>,
}

impl Audit {
    /// An audit as it is configured. A file that is not there is made for the agent's user alone.
    ///
    /// # Errors
    /// When the file cannot be opened for writing, or is no regular file: one that makes its writer
    /// wait would make calls wait.
    pub fn open(config: &AuditConfig) -> io::Result<Self> {
        let sink = config.log.as_deref().map(Sink::open).transpose()?;
        Ok(Self { limits: config.clone(), sink, names: Mutex::default() })
    }

    /// Opens the file anew, which somebody may have renamed. The old one stays in use where that
    /// fails, which is logged.
    pub fn reopen(&self) {
        if let Some(sink) = &self.sink {
            sink.reopen();
        }
    }

    /// Writes a call down.
    fn write(&self, call: &Call<'_>, outcome: &Outcome<'_>) {
        if self.sink.is_none() && !log_enabled!(Level::Info) {
            return;
        }
        let (caller, error) = (call.by.caller, outcome.error());
        let peer = caller.peer;
        let address = caller.origin.address();
        let record = Record {
            time: clock::rfc3339_utc(SystemTime::now()),
            method: &call.method,
            subject: call.subject.as_ref().map(|it| it.cut(self.limits.name_chars)),
            address: address.map_or_else(|| "unix".to_owned(), |address| address.to_string()),
            uid: peer.map(|peer| peer.uid),
            user: peer.and_then(|peer| self.user_name(peer.uid)),
            pid: peer.and_then(|peer| peer.pid),
            outcome: outcome.name(),
            error: error.as_deref().map(|error| first_line(error, self.limits.error_chars)),
            ms: milliseconds(call.began.elapsed()),
        };
        record.log();
        let Some(sink) = &self.sink else { return };
        let mut line = serde_json::to_vec(&record).expect("a record has text keys alone");
        line.push(b'\n');
        sink.write(&line);
    }

    /// The name of a user, from memory for a while; none where nobody knows it.
    ///
    /// # Blocking
    /// As long as the database of users takes.
    fn user_name(&self, uid: u32) -> Option<String> {
        let is_fresh = |at: &Instant| at.elapsed() < self.limits.user;
        if let Some((_, name)) = self.names.lock().get(&uid).filter(|(at, _)| is_fresh(at)) {
            return name.clone();
        }
        // Not known for a while either where the database fails: the number stands beside it.
        let name = users::user_name(uid).unwrap_or_default();
        let mut names = self.names.lock();
        if names.len() >= self.limits.users {
            names.clear();
        }
        names.insert(uid, (Instant::now(), name.clone()));
        name
    }
}

/// A changing call that is being carried out. Dropped without an end, it was a panic that ended it.
pub(super) struct Call<'a> {
    by: Behalf<'a>,
    method: String,
    subject: Option<Subject>,
    began: Instant,
    has_ended: bool,
}

impl<'a> Call<'a> {
    /// A call of this method that began then; without a subject where the request has none that can
    /// be understood.
    pub(super) fn begin(
        by: Behalf<'a>,
        method: String,
        subject: Option<Subject>,
        began: Instant,
    ) -> Self {
        Self { by, method, subject, began, has_ended: false }
    }

    /// Writes the call down; what it was about.
    pub(super) fn end(mut self, outcome: &Outcome<'_>) -> Subject {
        self.has_ended = true;
        self.by.audit.write(&self, outcome);
        self.subject.take().unwrap_or_default()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.by.audit.write(self, &Outcome::Panic);
        }
    }
}

/// How a call went.
pub(super) enum Outcome<'a> {
    Ok,
    Error(&'a dyn fmt::Display),
    Late(&'a dyn fmt::Display),
    Refused(&'a str),
    Panic,
}

impl Outcome<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error(_) => "error",
            Self::Late(_) => "late",
            Self::Refused(_) => "refused",
            Self::Panic => "panic",
        }
    }

    fn error(&self) -> Option<String> {
        match self {
            Self::Ok | Self::Panic => None,
            Self::Error(error) | Self::Late(error) => Some(error.to_string()),
            Self::Refused(why) => Some((*why).to_owned()),
        }
    }
}

/// A line of the file.
#[derive(Serialize)]
struct Record<'a> {
    time: String,
    method: &'a str,
    #[serde(flatten)]
    subject: Option<Subject>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, str>>,
    ms: f64,
}

impl Record<'_> {
    /// Writes it into the log, as the original did with a call's method and guest (contract section
    /// 1), and with the rest of what is known.
    fn log(&self) {
        let mut fields = Vec::new();
        fields.extend(self.subject.iter().flat_map(Subject::fields));
        fields.push(("address", Value::from(self.address.as_str())));
        fields.extend(self.uid.map(|uid| ("uid", Value::from(uid))));
        fields.extend(self.user.as_deref().map(|user| ("user", Value::from(user))));
        fields.extend(self.pid.map(|pid| ("pid", Value::from(pid))));
        fields.extend([("ms", Value::from(self.ms)), ("outcome", Value::from(self.outcome))]);
        fields.extend(self.error.as_deref().map(|error| ("error", Value::from(error))));
        log_call(self.method, &fields);
    }
}

/// A line of the log about a call: its method, and the fields.
pub(super) fn log_call(method: &str, fields: &[(&str, Value<'_>)]) {
    let mut record = log::Record::builder();
    record.level(Level::Info).target(module_path!()).key_values(&fields);
    log::logger().log(&record.args(format_args!("{method}")).build());
}

/// In milliseconds, to the microsecond.
pub(super) fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

fn first_line(text: &str, chars: usize) -> Cow<'_, str> {
    cut(text.lines().next().unwrap_or_default(), chars)
}

#[cfg(test)]
mod tests;
