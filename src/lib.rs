//! `mistify-libvirt`: the agent of a hypervisor host.
//!
//! The program is a thin `main` over this library: [`cli`] turns arguments into a [`config::Config`], that becomes an
//! [`ops::Libvirt`], and [`ops::Libvirt::serve`] answers until a signal.
//!
//! A call passes through these modules, from the socket to libvirt and back:
//!
//! | module | does |
//! |---|---|
//! | [`http`] | accepts connections, asks the kernel who the caller is, frames requests, routes them |
//! | [`rpc`] | decodes a call of JSON-RPC once, finds its method in a table, acquires a permit, encodes the answer |
//! | [`ops`] | the methods: takes the guest's lock, recovers what is unfinished, changes the guest in a transaction |
//! | [`journal`] | writes and syncs each step of a transaction before the step begins |
//! | [`pool`] | runs each step on a worker; the caller waits until the deadline, the step ends by itself |
//! | [`libvirt`] | handles over libvirt's C library: with [`os`] the only module with `unsafe` |
//! | [`storage`] | volumes, by `zfs` or as files |
//!
//! Beside them: [`daemon`] listens, serves until a signal and stops, [`guest`] has the types of the wire and of
//! libvirt's XML, [`events`] and [`jobs`] serve callers that do not wait, [`metrics`] samples all guests, [`fetch`] and
//! [`import`] make images, [`check`] and [`client`] are the command line. `docs/design.md` has the order of the
//! modules, the threads and the decisions. Begin with [`ops::Guests::create_guest`].
//!
//! [`go_names`] is the stable interface; everything else is public for the program's own tests and benchmarks, and
//! changes without notice.

pub mod check;
pub mod cli;
pub mod client;
pub mod config;
#[cfg(test)]
#[path = "../tests/it/harness/cost.rs"]
mod cost;
pub mod daemon;
pub mod events;
pub mod fetch;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod go_names;
pub mod guest;
pub mod http;
pub mod import;
pub mod jobs;
pub mod journal;
#[expect(unsafe_code, reason = "one of the two modules that may; each block says why it is sound")]
pub mod libvirt;
pub mod metrics;
pub mod ops;
pub mod os;
pub mod pool;
pub mod rpc;
mod sorted;
pub mod storage;
#[path = "../sys/mod.rs"]
mod sys;
mod threads;
