//! The methods: what callers send and what they get.

mod dry_run;
mod events;
mod extreme_input;
mod inventory;
mod jobs;
pub(crate) mod jsonrpc;
mod malformed;
mod verbs;
