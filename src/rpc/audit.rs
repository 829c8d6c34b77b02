//! The audit: one record for each call that changes something, or would have, with its caller, its target and its
//! outcome. Records are written to the log at level info, and as JSON to a file if one is configured.
//!
//! ```text
//! {"time":"2026-11-22T16:20:01.123Z","method":"Libvirt.Run","guest":"web-1","address":"unix",
//!  "uid":0,"user":"root","pid":4711,"outcome":"ok","ms":612.408}
//! ```
//!
//! A record is queued when the call has its answer: `ok`; `error`; `late`, if the deadline passed while the call still
//! ran; `refused`, if the request was invalid and nothing was started; `panic`. Unknown values are omitted.
//!
//! The thread `audit-writer` looks up the user's name and writes the record to the log and to the file, in the order of
//! the queue. So a file system or a user database that hangs delays no call: records without room in the queue are
//! dropped, counted and logged.

mod names;
mod sink;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::kv::Value;
use log::{Level, error, log_enabled};
use serde::Serialize;

use crate::config::AuditConfig;
use crate::os::peer::Caller;
use crate::os::{clock, users};
use crate::rpc::inbound::Inbound;
use crate::rpc::target::{Target, cut};
use crate::threads::{AUDIT_WRITER, Bounds, LineSink, Writer};
use names::Names;
use sink::Sink;

/// The size of a record without its texts, in bytes.
const RECORD_BYTES: usize = 128;

/// The caller of a call, and the audit that records it.
#[derive(Clone, Copy, Debug)]
pub struct CallContext<'a> {
    /// The caller.
    pub caller: &'a Caller,
    /// The audit that records the call.
    pub audit: &'a Arc<Audit>,
    /// The HTTP request of the call; `None` where no request waits for the answer, as with a job.
    pub inbound: Option<&'a dyn Inbound>,
}

impl CallContext<'_> {
    /// Returns when the call arrived, or the current time without a request.
    pub(super) fn arrived(&self) -> Instant {
        self.inbound.map_or_else(Instant::now, Inbound::arrived)
    }

    /// Returns whether the caller has disconnected and would not learn the outcome of another call.
    pub(super) fn is_abandoned(&self) -> bool {
        self.inbound.is_some_and(Inbound::is_abandoned)
    }

    /// Returns whether the caller may have disconnected.
    pub(super) fn may_be_abandoned(&self) -> bool {
        self.inbound.is_some_and(Inbound::may_be_abandoned)
    }

    /// Reserves memory for an answer of this total size in bytes; returns `false` if the budget is exhausted.
    pub(super) fn reserve_answer(&self, answer_bytes: usize) -> bool {
        self.inbound.is_none_or(|inbound| inbound.reserve_answer(answer_bytes))
    }
}

/// Records changing calls. The default audit records nothing.
#[derive(Debug, Default)]
pub struct Audit {
    limits: AuditConfig,
    has_file: bool,
    writer: Option<Writer<Entry>>,
    /// Whether the file must be reopened although the queue had no room for that request.
    reopen: Arc<AtomicBool>,
}

impl Audit {
    /// Starts an audit into the log, and into a file if one is configured. A file that does not exist is created with
    /// access for the agent's user alone.
    ///
    /// # Errors
    /// When the file cannot be opened for writing, or is not regular: a pipe without a reader would block the records
    /// of all calls. When the system cannot start a thread.
    pub fn open(config: &AuditConfig) -> io::Result<Self> {
        Self::start(config, config.log.as_deref().map(Sink::open).transpose()?, users::user_name)
    }

    /// Starts an audit into an open file, with this lookup of users' names.
    fn start(
        config: &AuditConfig,
        sink: Option<Sink>,
        name_of: impl Fn(u32) -> io::Result<Option<String>> + Send + 'static,
    ) -> io::Result<Self> {
        let no_thread = |error| io::Error::other(format!("cannot start a thread: {error}"));
        let (has_file, reopen) = (sink.is_some(), Arc::new(AtomicBool::new(false)));
        let names = Names::start(config, name_of).map_err(no_thread)?;
        let records = Records { names, sink, reopen: Arc::clone(&reopen) };
        let bounds = Bounds { lines: config.queue, bytes: config.queue_bytes };
        let writer = Writer::start(AUDIT_WRITER, bounds, records).map_err(no_thread)?;
        Ok(Self { limits: config.clone(), has_file, writer: Some(writer), reopen })
    }

    /// Reopens the file, which may have been renamed, after the records that are queued. The old file stays in use when
    /// that fails, which is logged. Does not block.
    pub fn reopen(&self) {
        let Some(writer) = &self.writer else { return };
        if !writer.try_push(Entry::Reopen, 0) {
            // The writer has a full queue of records, and checks this flag before each.
            self.reopen.store(true, Ordering::SeqCst);
            // If it has emptied the queue meanwhile, there is room now.
            writer.try_push(Entry::Reopen, 0);
        }
    }

    /// Waits until the records that are queued now are written; returns whether they are.
    ///
    /// # Blocking
    /// Up to `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.flush(patience))
    }

    /// Queues the record of a call.
    fn write(&self, call: &AuditedCall, outcome: &Outcome<'_>) {
        let Some(writer) = &self.writer else { return };
        if !self.has_file && !log_enabled!(Level::Info) {
            return;
        }
        let (caller, error) = (call.caller, outcome.error());
        let (peer, address) = (caller.peer, caller.origin.address());
        let record = Box::new(Record {
            time: clock::rfc3339_utc(SystemTime::now()),
            method: call.method.clone(),
            target: call.target.as_ref().map(|it| it.cut(self.limits.name_chars)),
            address: address.map_or_else(|| "unix".to_owned(), |address| address.to_string()),
            uid: peer.map(|peer| peer.uid),
            user: None,
            pid: peer.and_then(|peer| peer.pid),
            outcome: outcome.name(),
            error: error.map(|error| first_line(&error, self.limits.error_chars).into_owned()),
            ms: milliseconds(call.began.elapsed()),
        });
        let bytes = record.bytes();
        // Refused calls cost their callers nothing: they must not push out the records of changes.
        match outcome {
            Outcome::Refused(_) => writer.push_minor(Entry::Call(record), bytes),
            _ => writer.push(Entry::Call(record), bytes),
        }
    }
}

/// An entry of the writer's queue.
enum Entry {
    Call(Box<Record>),
    Reopen,
}

/// The state of the writer's thread.
struct Records {
    names: Names,
    sink: Option<Sink>,
    reopen: Arc<AtomicBool>,
}

impl LineSink<Entry> for Records {
    fn write(&mut self, entry: Entry) -> bool {
        let is_due = self.reopen.swap(false, Ordering::SeqCst) || matches!(entry, Entry::Reopen);
        if let (true, Some(sink)) = (is_due, &mut self.sink) {
            sink.reopen();
        }
        match entry {
            Entry::Call(record) => self.write_record(*record),
            Entry::Reopen => true,
        }
    }

    fn report_dropped(&mut self, lines: u64) {
        error!(dropped_lines = lines; "audit queue was full");
    }
}

impl Records {
    fn write_record(&mut self, mut record: Record) -> bool {
        record.user = record.uid.and_then(|uid| self.names.name(uid));
        record.log();
        let Some(sink) = &mut self.sink else { return true };
        let mut line = serde_json::to_vec(&record).expect("a record has text keys alone");
        line.push(b'\n');
        sink.write(&line)
    }
}

/// A changing call that runs. A drop without `end` means that a panic ended it.
pub(super) struct AuditedCall {
    caller: Caller,
    audit: Arc<Audit>,
    method: String,
    target: Option<Target>,
    began: Instant,
    has_ended: bool,
}

impl AuditedCall {
    /// Starts the record of a call of this method that began at `began`. The target is `None` if the request has no
    /// valid one.
    pub(super) fn begin(
        by: CallContext<'_>,
        method: String,
        target: Option<Target>,
        began: Instant,
    ) -> Self {
        let (caller, audit) = (*by.caller, Arc::clone(by.audit));
        Self { caller, audit, method, target, began, has_ended: false }
    }

    /// Queues the call's record; returns the call's target.
    pub(super) fn end(mut self, outcome: &Outcome<'_>) -> Target {
        self.has_ended = true;
        self.audit.write(&self, outcome);
        self.target.take().unwrap_or_default()
    }
}

impl Drop for AuditedCall {
    fn drop(&mut self) {
        if !self.has_ended && thread::panicking() {
            self.audit.write(self, &Outcome::Panic);
        }
    }
}

/// The outcome of a call.
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
struct Record {
    time: String,
    method: String,
    #[serde(flatten)]
    target: Option<Target>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    /// Set by the writer's thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    ms: f64,
}

impl Record {
    /// Returns the bytes of the queue that the record takes.
    fn bytes(&self) -> usize {
        let target = self.target.as_ref().map_or(0, Target::bytes);
        let error = self.error.as_ref().map_or(0, String::len);
        RECORD_BYTES + self.method.len() + self.address.len() + target + error
    }

    /// Writes the record into the log, as the original did with a call's method and guest (contract section 1), and
    /// with the remaining fields.
    fn log(&self) {
        let mut fields = Vec::new();
        fields.extend(self.target.iter().flat_map(Target::fields));
        fields.push(("address", Value::from(self.address.as_str())));
        fields.extend(self.uid.map(|uid| ("uid", Value::from(uid))));
        fields.extend(self.user.as_deref().map(|user| ("user", Value::from(user))));
        fields.extend(self.pid.map(|pid| ("pid", Value::from(pid))));
        fields.extend([("ms", Value::from(self.ms)), ("outcome", Value::from(self.outcome))]);
        fields.extend(self.error.as_deref().map(|error| ("error", Value::from(error))));
        log_call(&self.method, &fields);
    }
}

/// Logs a call: its method, and the fields.
pub(super) fn log_call(method: &str, fields: &[(&str, Value<'_>)]) {
    let mut record = log::Record::builder();
    record.level(Level::Info).target(module_path!()).key_values(&fields);
    log::logger().log(&record.args(format_args!("{method}")).build());
}

/// Returns the duration in milliseconds, rounded to the microsecond.
pub(super) fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

fn first_line(text: &str, chars: usize) -> Cow<'_, str> {
    cut(text.lines().next().unwrap_or_default(), chars)
}

#[cfg(test)]
mod tests;
