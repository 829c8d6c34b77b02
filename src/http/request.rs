//! A request of HTTP/1, read and framed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::tally::{Reason, Refusal};
use crate::os::peer::Caller;

pub(super) const BODY_TOO_LARGE: Refusal =
    Refusal { reason: Reason::Body, sentence: "the request's body is too large" };

/// The address that callers over a Unix socket are given.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A request that has arrived completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The verb, as it was written.
    pub method: String,
    /// Path and query, or `*`.
    pub target: String,
    /// Names and values in their order; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The body, without chunks around it.
    pub body: Vec<u8>,
    /// Whether the agent closes the connection after the response.
    pub persistence: Persistence,
    /// What the caller speaks.
    pub version: Version,
}

impl Request {
    /// The request of this caller in rouille's type.
    pub(super) fn into_rouille(self, caller: &Caller) -> rouille::Request {
        let Self { method, target, headers, body, .. } = self;
        // rouille knows no callers without an address.
        let address = caller.origin.address().unwrap_or(NO_ADDRESS);
        rouille::Request::fake_http_from(address, method, target, headers, body)
    }
}

/// The versions of HTTP that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0, which knows no chunks.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Whether the agent closes a connection after a response, and whether the response must say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, as it does in HTTP/1.1 unless something is said.
    Implied,
    /// It stays open because an HTTP/1.0 caller asked for it.
    Asked,
    /// It is closed.
    Close,
}
