//! A safe interface to libvirt: handles that free themselves, and errors that are read at the failed call.
//!
//! Guarantees for callers:
//! - A handle ([`Connection`], [`Domain`], [`Network`]) owns one libvirt reference and drops it once. Handles are
//!   `Send`, but neither `Sync` nor `Clone`: libvirt's drivers write plain fields of the object of a call, so an object
//!   belongs to one thread at a time.
//! - The function that makes a failing call copies the [`Error`] from libvirt's thread-local slot before any handle is
//!   dropped (each free resets the slot).
//! - [`start`] must run before the first connection: it silences libvirt's printing and runs its event loop, without
//!   which keepalive would close a healthy connection.
//!
//! This module does not depend on guests, requests or retries.

mod agent;
mod bulk;
mod c_string;
mod connection;
mod domain;
mod domain_events;
mod error;
mod event_loop;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod network;
mod params;
mod screen;
mod settings;
mod stats;
mod strings;
mod volume;

pub use agent::{NicAddresses, Source, Topic};
pub use bulk::{DomainStats, Groups};
pub use connection::{Connection, version_text};
pub use domain::{Domain, Info, XmlKind};
pub use domain_events::{DomainChange, EventSink, Notification, Subscription};
pub use error::{Code, Error, ErrorDomain};
pub use events::{FLOOR, StartError, quiet_log, start};
pub use network::{Network, Reservation};
pub use params::{Name, Value};
pub use screen::Screen;
pub use settings::AffectFlags;
pub use stats::{BlockStats, CpuTime, InterfaceStats, VcpuTimes};

#[cfg(test)]
mod tests;
