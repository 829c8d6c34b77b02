//! HTTP/1: the sockets, the framing of requests with limits and deadlines, the writing of answers.
//!
//! One thread (`front`) waits for all sockets, reads, frames (`parse`, `head`) and hands complete
//! requests to a fixed number of threads (`handlers`), which answer them by a [`Handler`] made of
//! rouille's types and write what the socket takes at once. A slow writer or reader costs a slot
//! among the connections and never a handler. What needs no handler is answered past them (`reply`): the
//! front offers each request to a [`Shortcut`] first. An answer whose length is not known goes out in
//! chunks on a thread of its own (`stream`), of which there are few.

mod access;
mod caller_probe;
mod connection;
mod context;
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
mod reply;
pub mod request;
mod respond;
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

use crate::os::peer::Caller;
use crate::pool::Granted;
use crate::rpc::Asking;

pub use access::{Access, AccessError};
pub use context::RequestContext;
pub use front::{BindError, Front, Running, ipv6_twin};
pub use reply::Reply;
pub use scrape::Tallies;
pub use serve::{Fronts, STARTED, ServeError};
pub use tally::{Counters, Reason, Refusal, Tally};
pub use token::{TokenError, look_at_token};
pub(crate) use wiring::{IMAGE_STORE, METRICS, RPC};
pub use wiring::{ListenError, listen};

/// Answers one request of a caller. Runs on a handler thread and may block; a panic is answered
/// with 500. It is not called for a request whose caller has gone by then.
pub type Handler =
    Arc<dyn Fn(&rouille::Request, &RequestContext<'_>) -> rouille::Response + Send + Sync>;

/// Has a call wait for its permit, which is given to what comes with it. Blocks for nothing.
pub type Waiting = Arc<dyn Fn(Asking, Granted) + Send + Sync>;

/// Answers one request of a caller without a handler, if it is one that it can: it then takes the reply.
/// Else it does nothing, and a handler has the request. Runs on the front's own thread, and so blocks
/// for nothing.
pub type Shortcut =
    Arc<dyn Fn(&request::Request, &Caller, &mut dyn FnMut() -> Reply) + Send + Sync>;
