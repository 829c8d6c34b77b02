//! The answer of a call in the envelope of its request: JSON-RPC 1.0 or 2.0.

use crate::ops::Error;
use crate::rpc::audit::Inbound;
use crate::rpc::envelope::{self, Id};
use crate::rpc::json::Writer;
use crate::rpc::target::Target;
use crate::rpc::texts;
use crate::rpc::v2::errors::{Failure, Kind};

/// Writes the answer of a call. A request without an id is a notification, which is never answered.
#[derive(Clone, Debug)]
pub(super) enum Encoder {
    /// JSON-RPC 1.0, which ends with a line feed.
    V1(Option<Id>),
    /// JSON-RPC 2.0, without a line feed.
    V2(Option<Id>),
}

impl Encoder {
    /// Returns the answer, if the request gets one: with the result of the writer, or the error of a call about
    /// this target.
    pub(super) fn answer(
        &self,
        outcome: Result<Writer<'_>, &Error>,
        target: &Target,
    ) -> Option<Vec<u8>> {
        match (self, outcome) {
            (Self::V1(id), Ok(write)) => Some(envelope::encode_success(write, id.as_ref()?)),
            (Self::V1(id), Err(error)) => {
                Some(envelope::encode_error(&texts::on_old_path(error), id.as_ref()?))
            }
            // The answer is mostly the request's guest again, so the buffer rarely grows.
            (Self::V2(id), Ok(write)) => success(id.as_ref(), 1024, write),
            (Self::V2(id), Err(error)) => fail(id.as_ref(), &Failure::of(error, target)),
        }
    }

    /// Returns the answer with a result that is JSON already.
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

    /// Returns this answer, or an error of JSON-RPC 2.0 if the answer exceeds the memory budget. JSON-RPC 1.0 has no such
    /// error: there the connection refuses the answer.
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

/// Returns the JSON-RPC 2.0 answer in place of one that exceeds the memory budget.
pub(super) fn without_room(id: Option<&Id>, changes: bool) -> Option<Vec<u8>> {
    let why = "too many bytes of requests and answers";
    let failure = match changes {
        true => Failure::new(Kind::TooLarge, format!("done, but the answer is omitted: {why}")),
        false => Failure::busy(why),
    };
    fail(id, &failure)
}

/// Returns the JSON-RPC 2.0 answer with the result of the writer; `capacity` is its expected size in bytes.
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

/// Returns the JSON-RPC 2.0 answer with this failure.
pub(super) fn fail(id: Option<&Id>, failure: &Failure) -> Option<Vec<u8>> {
    id.map(|id| failure.answer(Some(id)))
}
