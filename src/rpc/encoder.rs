//! The answer of a call in the envelope of its request: JSON-RPC 1.0 or 2.0.

use crate::ops::Error;
use crate::rpc::audit::Inbound;
use crate::rpc::envelope::{self, Id};
use crate::rpc::json::Writer;
use crate::rpc::subject::Subject;
use crate::rpc::texts;
use crate::rpc::v2::errors::{Failure, Kind};

/// Writes the answer of a call. Without an id its request is a notification, which is never answered.
#[derive(Clone, Debug)]
pub(super) enum Encoder {
    /// JSON-RPC 1.0, with a line's end.
    V1(Option<Id>),
    /// JSON-RPC 2.0, without one.
    V2(Option<Id>),
}

impl Encoder {
    /// The answer, if it gets one: with the result that is written, or the error of a call that was about this.
    pub(super) fn answer(
        &self,
        outcome: Result<Writer<'_>, &Error>,
        subject: &Subject,
    ) -> Option<Vec<u8>> {
        match (self, outcome) {
            (Self::V1(id), Ok(write)) => Some(envelope::encode_success(write, id.as_ref()?)),
            (Self::V1(id), Err(error)) => {
                Some(envelope::encode_error(&texts::on_old_path(error), id.as_ref()?))
            }
            // The answer is mostly the request's guest again, so this is rarely grown.
            (Self::V2(id), Ok(write)) => success(id.as_ref(), 1024, write),
            (Self::V2(id), Err(error)) => fail(id.as_ref(), &Failure::of(error, subject)),
        }
    }

    /// The answer with a result that was written before.
    pub(super) fn success_of(&self, result: &'static [u8]) -> Option<Vec<u8>> {
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(result);
            Ok(())
        };
        match self {
            Self::V1(id) => Some(envelope::encode_success(&write, id.as_ref()?)),
            Self::V2(id) => success(id.as_ref(), result.len() + 256, &write),
        }
    }

    /// This answer, or in its place that of JSON-RPC 2.0 where there is no room for it in memory. JSON-RPC 1.0 has no
    /// word for that: the connection's refusal has.
    pub(super) fn fit(
        &self,
        answer: Option<Vec<u8>>,
        inbound: &dyn Inbound,
        changes: bool,
    ) -> Option<Vec<u8>> {
        match (self, &answer) {
            (Self::V2(id), Some(it)) if !inbound.reserve_answer(it.len()) => {
                without_room(id.as_ref(), changes)
            }
            _ => answer,
        }
    }
}

/// The answer of JSON-RPC 2.0 in place of one that there is no room for in memory.
pub(super) fn without_room(id: Option<&Id>, changes: bool) -> Option<Vec<u8>> {
    let why = "too many bytes of requests and answers";
    let failure = match changes {
        true => Failure::new(Kind::TooLarge, format!("done, but the answer is omitted: {why}")),
        false => Failure::busy(why),
    };
    fail(id, &failure)
}

/// The answer of JSON-RPC 2.0 with a result that is written; `capacity` bytes are expected.
fn success(id: Option<&Id>, capacity: usize, write: Writer<'_>) -> Option<Vec<u8>> {
    let id = id?;
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"result\":");
    if let Err(error) = write(&mut out) {
        let why = format!("cannot write the answer as JSON: {error}");
        return fail(Some(id), &Failure::new(Kind::Internal, why));
    }
    out.extend_from_slice(b",\"id\":");
    out.extend_from_slice(id.as_json().as_bytes());
    out.push(b'}');
    Some(out)
}

/// The answer of JSON-RPC 2.0 with this failure.
pub(super) fn fail(id: Option<&Id>, failure: &Failure) -> Option<Vec<u8>> {
    id.map(|id| failure.answer(Some(id)))
}
