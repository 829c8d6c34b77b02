//! Connections and the threads that serve them.
//!
//! - `listener`, `acceptor`, `front`: sockets that listen, new connections, the thread that waits for all sockets.
//! - `connection`, `exchange`, `shared`: the state of a connection, of its request, and of the front.
//! - `handlers`, `responder`: the threads that answer, and how an answer is sent.
//! - `streams`, `stream_counts`: responses of unknown length, and how many there may be.
//! - `caller_probe`, `self_probe`: whether a caller is still connected, and whether the front answers.

mod acceptor;
mod caller_probe;
mod connection;
mod exchange;
pub(crate) mod front;
mod handlers;
mod listener;
pub(super) mod responder;
pub(crate) mod self_probe;
mod shared;
mod stream_counts;
mod streams;
