//! JSON-RPC: the envelopes, the table of methods, and the texts of errors. Only this module knows the form of
//! answers.

mod as_job;
mod audit;
mod bound_method;
mod call;
mod dispatch;
mod dry_run;
mod encoder;
mod envelope;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod inbound;
mod jobs;
pub mod json;
mod strange;
mod table;
mod target;
mod texts;
mod v1;
mod v2;

use std::io::Read;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::guest::wire::images::SnapshotRequest;
use crate::ops::{Error, Libvirt};
use crate::os::memory;
use crate::pool::{self, CallClass, current};
use crate::rpc::call::Call;
use crate::rpc::dispatch::{Dispatcher, dispatch, log_read, with_permit};
use crate::rpc::envelope::{Id, Refusal};
use crate::rpc::table::Callee;
use crate::rpc::target::Targeted;
use crate::storage;
pub use audit::{Audit, CallContext};
pub use inbound::Inbound;
pub use jobs::Workers;
pub use table::Service;
#[cfg(any(test, fuzzing))]
pub(crate) use v2::fuzz_calls;

/// A larger request frees so much memory that it is worth returning to the system: a guest of common size takes 2
/// KiB.
const LARGE_BYTES: usize = 8 * 1024;

/// The outcome of one request.
#[derive(Debug)]
pub struct Answered {
    /// The method that was called, with its service; `None` if it is unknown.
    pub method: Option<String>,
    /// The answer to send.
    pub answer: Answer,
}

/// The answer to one request.
#[derive(Debug)]
pub enum Answer {
    /// A result or a method's error: status 200 with this body.
    Result(Vec<u8>),
    /// The request was a notification, or a batch of them: no body, with status 200, or 204 for JSON-RPC 2.0.
    Nothing,
    /// The request was invalid: status 400 with this line.
    Refused(String),
}

/// The version of the JSON-RPC of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// JSON-RPC 1.0, as the original agent speaks it (contract section 1).
    V1,
    /// JSON-RPC 2.0.
    V2,
}

/// The content of a body.
enum Message {
    Call(Box<Call>),
    /// No call to run.
    Answered(Answered),
    /// A request for the document of the methods on the port of this service.
    Document(Service, Option<Id>),
    Batch(Vec<Box<RawValue>>),
}

/// Runs the request or the batch in `body`, for methods of `service`, and passes the answer to `then`, at once or
/// later. A call that changes something is audited, even if it is refused.
///
/// # Blocking
/// Where the thread of the request may block: up to the deadline of the method that it calls; for a batch up to twice
/// that, as none of its calls starts after the deadline for changes.
pub fn answer<I: Inbound + 'static>(
    agent: &Arc<Libvirt>,
    audit: &Arc<Audit>,
    (version, service): (Version, Service),
    body: &[u8],
    inbound: I,
    then: impl FnOnce(I, Answered) + Send + 'static,
) {
    let by = CallContext { caller: inbound.caller(), audit, inbound: Some(&inbound) };
    let dispatcher = Dispatcher { agent, by };
    let message = match version {
        Version::V1 => match v1::read(dispatcher, service, body) {
            Ok(call) => Message::Call(Box::new(call)),
            Err(answered) => Message::Answered(answered),
        },
        Version::V2 => v2::read(dispatcher, service, body),
    };
    match message {
        Message::Answered(answered) => then(inbound, answered),
        Message::Call(call) => {
            let method = Some(call.callee.full_name());
            dispatch(agent, audit, *call, inbound, move |inbound, answer| {
                then(inbound, Answered { method, answer: answer.into() });
            });
        }
        Message::Document(port, id) => v2::answer_document(port, id, inbound, then),
        Message::Batch(members) => v2::answer_batch(agent, audit, service, members, inbound, then),
    }
}

/// Runs the request of a caller in this process, on this thread.
///
/// # Blocking
/// Up to the deadline of the method.
pub fn answer_here(agent: &Libvirt, service: Service, body: &[u8], by: CallContext<'_>) -> Answer {
    let dispatcher = Dispatcher { agent, by };
    match v1::read(dispatcher, service, body) {
        Err(answered) => answered.answer,
        Ok(call) => dispatcher.wait_and_carry_out(call).into(),
    }
}

impl From<Option<Vec<u8>>> for Answer {
    fn from(answer: Option<Vec<u8>>) -> Self {
        answer.map_or(Self::Nothing, Self::Result)
    }
}

/// Gives the memory that a large request has freed back to the system, once its answer is sent or stored. Not for the
/// front's thread, whose requests are short.
pub fn give_back_after(body_bytes: usize) {
    if body_bytes > LARGE_BYTES {
        memory::give_back();
    }
}

/// The answer to the download of a snapshot.
pub enum Download {
    /// Its content: status 200.
    Stream(Box<dyn Read + Send>),
    /// This status with this line.
    Refused(u16, String),
}

/// Opens the snapshot that the request in `body` names: a `SnapshotRequest` without an envelope.
///
/// # Blocking
/// As [`Images::send_snapshot`](crate::ops::Images::send_snapshot), where the thread of the request may block.
pub fn download<I: Inbound + 'static>(
    agent: &Arc<Libvirt>,
    body: &[u8],
    inbound: I,
    then: impl FnOnce(I, Download) + Send + 'static,
) {
    let request: SnapshotRequest = match v1::decode_bare(body) {
        Ok(request) => request,
        Err(refusal) => return then(inbound, Download::Refused(Refusal::STATUS, refusal.text)),
    };
    let (service, method) = (Service::ImageStore, "DownloadSnapshot");
    let share = call::share(CallClass::Store, inbound.caller().share(), &request.target().key());
    let agent = Arc::clone(agent);
    with_permit(
        &Arc::clone(&agent),
        Some(share),
        (None, method),
        inbound,
        move |inbound, permit| {
            let began = inbound.arrived();
            let outcome = permit.and_then(|_permit| {
                current::carry_out(began, || agent.images.send_snapshot(&request))
            });
            agent.telemetry.calls().count(service.name(), method, outcome.is_ok(), began.elapsed());
            log_read(service, method, &request.target(), false, began, outcome.as_ref().err());
            then(inbound, outcome.map_or_else(|error| refused(&error), Download::Stream));
        },
    );
}

fn refused(error: &Error) -> Download {
    let status = match error {
        Error::Storage(storage::Error::NotFound { .. }) => 404,
        Error::Refused(_) | Error::Storage(storage::Error::Invalid(_)) => 400,
        Error::Pool(pool::Error::Busy { .. } | pool::Error::Stopping) => 503,
        _ => 500,
    };
    Download::Refused(status, texts::on_old_path(error))
}
