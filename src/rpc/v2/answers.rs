//! Writes the answers of JSON-RPC 2.0. A request without an id is a notification, which gets none.

use super::errors::{Failure, Kind};
use crate::rpc::envelope::Id;
use crate::rpc::json::Writer;

/// Returns the answer in place of one that exceeds the memory budget.
pub(in crate::rpc) fn without_room(id: Option<&Id>, changes: bool) -> Option<Vec<u8>> {
    let why = "too many bytes of requests and answers";
    let failure = match changes {
        true => Failure::new(Kind::TooLarge, format!("done, but the answer is omitted: {why}")),
        false => Failure::busy(why),
    };
    fail(id, &failure)
}

/// Returns the answer with the result of the writer; `capacity` is its expected size in bytes.
pub(in crate::rpc) fn success(
    id: Option<&Id>,
    capacity: usize,
    write: Writer<'_>,
) -> Option<Vec<u8>> {
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

/// Returns the answer with this failure.
pub(in crate::rpc) fn fail(id: Option<&Id>, failure: &Failure) -> Option<Vec<u8>> {
    id.map(|id| failure.answer(Some(id)))
}
