//! The integration tests: one binary, a directory a topic. The helpers are in `harness`.

mod api;
mod cli;
mod code;
mod compatibility;
mod documents;
mod guests;
mod harness;
mod http;
mod lab;
mod lifecycle;
mod metrics;
mod networks;
mod packaging;
mod page;
mod recovery;
mod scheduling;
mod security;
mod storage;
