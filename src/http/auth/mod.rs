//! Permitted callers: decided before the agent reads a request, or before a handler gets it.
//!
//! - `peer_auth`: the user at the other end of a connection, and the limits of connections per user.
//! - `access`, `members`: the permitted users and groups, and the members of groups.
//! - `guard`, `token`: the token of callers beyond this host, and rules against requests of web pages.

pub(crate) mod access;
pub(crate) mod guard;
mod members;
pub(super) mod peer_auth;
pub(crate) mod token;
