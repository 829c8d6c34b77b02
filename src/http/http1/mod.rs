//! The bytes of HTTP/1, without a socket.
//!
//! - `parse`, `head`, `request`: from bytes to a request.
//! - `respond`: from a response to bytes.

mod head;
pub mod parse;
pub mod request;
pub(super) mod respond;
