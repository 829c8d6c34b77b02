//! The paths that the agent serves.
//!
//! - `routes`: JSON-RPC, downloads of snapshots, and all other paths.
//! - `health`, `scrape`, `events`, `page`: `/healthz` and `/readyz`, `/metrics`, `/events`, `/ui/`.
//! - `responses`: responses that several of these use.

mod events;
pub(crate) mod health;
mod page;
mod responses;
pub mod routes;
pub(crate) mod scrape;
