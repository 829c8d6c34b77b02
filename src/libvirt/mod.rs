//! libvirt made safe: handles that free themselves, errors that are read where they happen.
//!
//! What a caller may rely on:
//! - A handle ([`Connection`], [`Domain`], [`Network`]) owns one libvirt reference and drops it
//!   once. Handles are `Send`, never `Sync` nor `Clone`: libvirt's drivers write plain fields of the
//!   object that a caller passes in, so an object belongs to one thread at a time.
//! - An [`Error`] is copied out of libvirt's thread-local slot by the function that made the failing
//!   call, before any handle drops (each free resets the slot).
//! - [`start`] comes before the first connection: it silences libvirt's printing and runs its event
//!   loop, without which keepalive would end a healthy connection.
//!
//! Nothing here knows guests, requests or retries.

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
