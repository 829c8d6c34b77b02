//! HTTP/1: the sockets, the framing of requests with limits and deadlines, and the writing of responses.
//!
//! One thread (`front`) waits for all sockets, reads, and frames (`parse`, `head`). A fixed number of threads
//! (`handlers`) answer complete requests with a [`Handler`], whose types are rouille's. A [`Responder`] writes what the
//! socket takes at once. A slow writer or reader occupies a connection slot and never a handler. The front itself
//! starts short requests that need not block. A call that waits holds its responder and no thread. A response of
//! unknown length is sent in chunks by a thread of its own (`stream`); the number of these threads is small.

mod access;
mod caller_probe;
mod connection;
mod entrance;
mod events;
mod exchange;
mod front;
mod gate;
mod guard;
mod handlers;
mod head;
mod health;
mod heartbeat;
mod listener;
mod members;
mod page;
pub mod parse;
mod rarely;
pub mod request;
mod respond;
mod responder;
mod responses;
pub mod routes;
mod scrape;
mod serve;
mod shared;
mod stream;
mod stream_counts;
mod tally;
mod token;
mod wiring;

use std::sync::Arc;

pub use access::{Access, AccessError};
pub use front::{BindError, Front, Running, ipv6_twin};
pub use responder::Responder;
pub use scrape::ListenerStats;
pub use serve::{Fronts, STARTED, ServeError};
pub use tally::{Counters, HttpStats, Reason, Refusal};
pub use token::{TokenError, look_at_token};
pub(crate) use wiring::{IMAGE_STORE, METRICS, RPC};
pub use wiring::{ListenError, listen};

/// Answers one request of a caller, at once or later. A panic is answered with status 500. On the front's thread a
/// handler must not block: it continues by [`Inbound::on_handler`](crate::rpc::Inbound::on_handler). A handler's thread
/// does not call it for a request whose caller has disconnected.
pub type Handler = Arc<dyn Fn(&rouille::Request, Responder) + Send + Sync>;

/// Returns whether the front itself starts a request.
pub type IsShort = Arc<dyn Fn(&request::Request) -> bool + Send + Sync>;
