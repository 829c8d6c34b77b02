//! HTTP/1: the sockets, the framing of requests with limits and deadlines, the writing of answers.
//!
//! One thread (`front`) waits for all sockets, reads, and frames (`parse`, `head`). A fixed number of threads
//! (`handlers`) answer complete requests by a [`Handler`] made of rouille's types, with a [`Responder`] that writes what
//! the socket takes at once. A slow writer or reader costs a slot among the connections and never a handler. The front
//! begins short requests itself: those that need not block need no handler. A call that waits keeps its responder and
//! no thread. An answer whose length is not known goes out in chunks on a thread of its own (`stream`), of which there
//! are few.

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
pub use scrape::Tallies;
pub use serve::{Fronts, STARTED, ServeError};
pub use tally::{Counters, Reason, Refusal, Tally};
pub use token::{TokenError, look_at_token};
pub(crate) use wiring::{IMAGE_STORE, METRICS, RPC};
pub use wiring::{ListenError, listen};

/// Answers one request of a caller, at once or later. A panic is answered with 500. On the front's thread it does not
/// block: it goes on by [`Inbound::on_handler`](crate::rpc::Inbound::on_handler). On a handler's thread it is not called
/// for a request whose caller has gone by then.
pub type Handler = Arc<dyn Fn(&rouille::Request, Responder) + Send + Sync>;

/// Whether the front itself begins a request.
pub type IsShort = Arc<dyn Fn(&request::Request) -> bool + Send + Sync>;
