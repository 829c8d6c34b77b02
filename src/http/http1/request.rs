//! A parsed request of HTTP/1.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::http::http_stats::{Reason, Refusal};
use crate::os::peer::Caller;

pub(super) const BODY_TOO_LARGE: Refusal =
    Refusal { reason: Reason::Body, sentence: "the request's body is too large" };

/// The address for callers over a Unix socket.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A request that has arrived completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, as it was sent.
    pub method: String,
    /// Path and query, or `*`.
    pub target: String,
    /// Names and values in their order; invalid UTF-8 is replaced.
    pub headers: Vec<(String, String)>,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
    /// Whether the agent closes the connection after the response.
    pub persistence: Persistence,
    /// The caller's HTTP version.
    pub version: Version,
}

impl Request {
    /// Returns the request of this caller in rouille's type.
    pub(in crate::http) fn into_rouille(self, caller: &Caller) -> rouille::Request {
        let Self { method, target, headers, body, .. } = self;
        // rouille requires an address of the caller.
        let address = caller.origin.address().unwrap_or(NO_ADDRESS);
        rouille::Request::fake_http_from(address, method, target, headers, body)
    }
}

/// The supported versions of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0, which has no chunks.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Whether the agent closes a connection after a response, and whether the response says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, which is the default of HTTP/1.1.
    Implied,
    /// It stays open because an HTTP/1.0 caller requested it.
    Asked,
    /// It is closed.
    Close,
}
