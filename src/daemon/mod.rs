//! The process as a service: it listens, serves until a signal, feeds systemd's watchdog, and stops.
//!
//! - `listeners`: from the configuration and sockets passed by systemd to fronts that listen.
//! - `serve`: [`Libvirt::serve`](crate::ops::Libvirt::serve), from the first request to the end that a signal asks for.
//! - `heartbeat`: tells systemd that the agent is ready, works and stops.

mod heartbeat;
pub(crate) mod listeners;
pub(crate) mod serve;

pub use listeners::{ListenError, listen};
pub use serve::{Fronts, STARTED, ServeError};

pub(crate) use listeners::{IMAGE_STORE, METRICS, RPC};
