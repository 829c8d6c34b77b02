//! The answer of a call in the envelope of its request: JSON-RPC 1.0 or 2.0.

use crate::ops::Error;
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

    /// The answer in place of one that there is no room for in memory; none where the envelope has none for that.
    pub(super) fn without_room(&self, changes: bool) -> Option<Vec<u8>> {
        let Self::V2(id) = self else { return None };
        let why = "too many bytes of requests and answers";
        let failure = match changes {
            true => Failure::new(Kind::TooLarge, format!("done, but the answer is omitted: {why}")),
            false => Failure::busy(why),
        };
        fail(id.as_ref(), &failure)
    }
}

/// The answer of JSON-RPC 2.0 with a result that is written; `capacity` bytes are expected.
pub(super) fn success(id: Option<&Id>, capacity: usize, write: Writer<'_>) -> Option<Vec<u8>> {
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
