//! HTTP/1: sockets, framing with limits and deadlines, authorization, and the paths that the agent serves.
//!
//! | module | contents |
//! |---|---|
//! | `net` | the thread `http-front`, which owns all sockets, and the handlers, which answer requests |
//! | `http1` | the bytes of HTTP/1: requests are parsed, responses are encoded |
//! | `auth` | permitted callers: users, groups, tokens, and rules against cross-origin requests |
//! | `api` | the paths: JSON-RPC, `/metrics`, health, `/events`, the page |
//! | `http_stats` | reasons for refusals, and counts |
//! | `rate_limited_log`, `socket` | what these share |
//!
//! One thread (`net::front`) waits for all sockets, reads, and frames requests (`http1`). A fixed number of threads
//! (`net::handlers`) answer complete requests: they call a [`Handler`] with rouille's request and a [`Responder`], which
//! writes what the socket accepts at once. A slow reader or writer therefore occupies a connection and never a handler.
//! The front begins short requests itself: those that need not block need no handler. A call that waits keeps its
//! responder and no thread. A response of unknown length is sent in chunks by a thread of its own (`net::streams`), of
//! which there are few.

pub mod api;
pub(crate) mod auth;
pub mod http1;
mod http_stats;
pub(crate) mod net;
mod rate_limited_log;
mod socket;

pub use api::scrape::ListenerStats;
pub use auth::access::{Access, AccessError};
pub use auth::token::{TokenError, look_at_token};
pub use http_stats::{Counters, HttpStats, Reason, Refusal};
pub use net::front::{BindError, Front, Running, ipv6_twin};
pub use net::responder::Responder;

use std::sync::Arc;

/// Answers one request of a caller, at once or later. A panic is answered with status 500. On the front's thread a
/// handler must not block: it continues by [`Inbound::on_handler`](crate::rpc::Inbound::on_handler). A handler's thread
/// does not call it for a request whose caller has disconnected.
pub type Handler = Arc<dyn Fn(&rouille::Request, Responder) + Send + Sync>;

/// Returns whether the front itself starts a request.
pub type IsShort = Arc<dyn Fn(&http1::request::Request) -> bool + Send + Sync>;
