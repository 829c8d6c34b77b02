//! libvirt as the agent sees it: connections, health, and calls that hang.
//!
//! - `session`, `domain_cache`, `opener`: the connection of a worker, its cached domains, the thread that connects.
//! - `health`, `hung_calls`: whether libvirt answers, and what is done about calls that do not return.
//! - `definition`: reads the definition of a domain.
//! - `committed_memory`: the memory that the guests of the host may use.

pub(super) mod committed_memory;
pub(super) mod definition;
mod domain_cache;
pub(super) mod health;
pub(super) mod hung_calls;
pub(super) mod opener;
pub(super) mod session;
