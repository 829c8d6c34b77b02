//! Metrics of guests.
//!
//! - `metrics`: CPUMetrics, DiskMetrics and NicMetrics of one guest.
//! - `samples`: metrics of all guests, from samples.
//! - `counters`: from libvirt's counters to those of the API.

mod counters;
mod metrics;
pub(super) mod samples;
