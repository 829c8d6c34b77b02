//! From the configuration and the sockets that were passed to fronts that listen.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::config::Config;
use crate::os::activation::{Named, Passed};

use super::access::{Access, AccessError};
use super::front::{BindError, Front};
use super::serve::Fronts;

/// Why the agent cannot listen as it was told.
#[derive(Debug)]
pub enum ListenError {
    /// Something cannot be listened on.
    Bind(BindError),
    /// A user or a group is not known.
    Access(AccessError),
    /// A socket that was passed has a name that means nothing.
    Name(String),
    /// A socket that was passed cannot be used.
    Passed(io::Error),
}

// Each is one line with its cause in it: it ends the start of the agent.
impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => write!(f, "{error}"),
            Self::Access(error) => write!(f, "{error}"),
            Self::Name(name) => write!(
                f,
                "LISTEN_FDNAMES: {name}: a socket is named {RPC}, {IMAGE_STORE} or {METRICS} \
                 (FileDescriptorName=)"
            ),
            Self::Passed(error) => write!(f, "use a passed socket: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}

impl From<BindError> for ListenError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

/// Names of sockets that are passed.
const RPC: &str = "rpc";
const IMAGE_STORE: &str = "image-store";
const METRICS: &str = "metrics";

/// Listens as the configuration says. Sockets that were passed for a service stand in for its
/// addresses; those without names are for guests.
///
/// # Errors
/// The first thing that cannot be had.
///
/// # Blocking
/// As long as it takes to look up the users and groups that may call.
pub fn listen(config: &Config, passed: Vec<Named>) -> Result<Fronts, ListenError> {
    let access = Access::new(&config.callers).map_err(ListenError::Access)?;
    if access.is_for_all() {
        log::warn!("--allow-any-local: every user of this host has root's power over its guests");
    }
    let (mut rpc, mut images, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
    for (name, socket) in passed {
        match name.as_deref() {
            None | Some(RPC) => rpc.push(socket),
            Some(IMAGE_STORE) => images.push(socket),
            Some(METRICS) => metrics.push(socket),
            Some(other) => return Err(ListenError::Name(other.to_owned())),
        }
    }
    let front = |addresses: &[SocketAddr], passed: Vec<Passed>, limits, access| {
        let addresses = if passed.is_empty() { addresses } else { &[] };
        let mut front = Front::bind(addresses, limits)?;
        front.admit(access);
        for socket in passed {
            front.add(socket).map_err(ListenError::Passed)?;
        }
        Ok::<_, ListenError>(front)
    };
    let if_served = |addresses: &[SocketAddr], passed: Vec<Passed>, limits, access| {
        let is_served = !addresses.is_empty() || !passed.is_empty();
        is_served.then(|| front(addresses, passed, limits, access)).transpose()
    };
    let limits = &config.http;
    let mut main = front(&config.listen, rpc, limits.clone(), access.clone())?;
    if let Some(socket) = &config.socket {
        main.bind_unix(socket)?;
    }
    let images = if_served(&config.image_store, images, limits.clone(), access)?;
    // Everybody on this host may read what is measured.
    let (limits, everybody) = (limits.for_metrics(), Access::of_all());
    let metrics = if_served(&config.metrics_listen, metrics, limits, everybody)?;
    Ok(Fronts { main, images, metrics })
}
