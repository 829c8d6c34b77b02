//! Writes the answers of JSON-RPC 1.0, each with a line feed at its end.

use crate::rpc::envelope::Id;
use crate::rpc::json::{self, Writer};

/// Returns the answer of a method that succeeded, with the result of the writer.
pub(in crate::rpc) fn encode_success(write: Writer<'_>, id: &Id) -> Vec<u8> {
    // The answer is mostly the request's guest again, so the buffer rarely grows.
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"result\":");
    if let Err(error) = write(&mut out) {
        return encode_error(&format!("cannot write the answer as JSON: {error}"), id);
    }
    out.extend_from_slice(b",\"error\":null,\"id\":");
    finish(out, id)
}

/// Returns the answer of a method that failed.
pub(in crate::rpc) fn encode_error(text: &str, id: &Id) -> Vec<u8> {
    let mut out = b"{\"result\":null,\"error\":".to_vec();
    json::write(&mut out, &text).expect("text has a JSON form");
    out.extend_from_slice(b",\"id\":");
    finish(out, id)
}

fn finish(mut out: Vec<u8>, id: &Id) -> Vec<u8> {
    out.extend_from_slice(id.as_json().as_bytes());
    out.extend_from_slice(b"}\n");
    out
}
