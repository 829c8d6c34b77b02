//! Serving as a whole: from sockets that listen to the end that a signal asks for.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};

use crate::config::HttpLimits;
use crate::http::{BindError, Front, routes};
use crate::ops::{Keeper, Libvirt};
use crate::os::signals::Signals;
use crate::rpc::Service;

/// How long what the agent does of itself may keep its sockets closed at the start.
const FIRST_ROUND: Duration = Duration::from_secs(2);

/// Why serving did not begin, or could not go on.
#[derive(Debug)]
pub enum ServeError {
    /// The address cannot be listened on.
    Bind(BindError),
    /// Signals cannot be caught.
    Signals(io::Error),
    /// The front's threads cannot be started.
    Start(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => write!(f, "{error}"),
            Self::Signals(error) => write!(f, "signal handlers: {error}"),
            Self::Start(error) => write!(f, "start the HTTP front: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl Libvirt {
    /// Serves on 127.0.0.1 until SIGTERM or SIGINT (the owner's `RunHTTP`).
    ///
    /// # Errors
    /// When the port cannot be had; as [`Libvirt::serve`]. A process can serve once: it owns the
    /// signal handlers.
    ///
    /// # Blocking
    /// As [`Libvirt::serve`].
    pub fn run_http(self, port: u16) -> Result<(), ServeError> {
        let signals = Signals::install().map_err(ServeError::Signals)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let front = Front::bind(&[address], HttpLimits::default()).map_err(ServeError::Bind)?;
        self.serve(front, None, signals)
    }

    /// Answers what comes to `front` for guests, and to `images` for the image store, until a
    /// signal; everything in flight is finished before it returns.
    ///
    /// Each front has handlers of its own. Those that wait for the pool are rationed in the pool,
    /// for both together, so that each has one left.
    ///
    /// # Errors
    /// When threads cannot be started or signals not waited for.
    ///
    /// # Blocking
    /// Until the signal, and then up to twice [`Deadlines::drain`](crate::config::Deadlines::drain).
    pub fn serve(
        self,
        front: Front,
        images: Option<Front>,
        mut signals: Signals,
    ) -> Result<(), ServeError> {
        let drain = self.deadlines().drain();
        let agent = Arc::new(self);
        let keeper = Keeper::start(&agent).map_err(ServeError::Start)?;
        keeper.wait_for_first_round(FIRST_ROUND);
        for address in front.local_addresses() {
            info!("listening on {address}");
        }
        for address in images.iter().flat_map(Front::local_addresses) {
            info!("the image store listens on {address}");
        }
        let start = |front: Front, service| {
            let handler = routes::handler(Arc::clone(&agent), service);
            front.start(handler).map_err(ServeError::Start)
        };
        let running = start(front, Service::Libvirt)?;
        let images = images.map(|front| start(front, Service::ImageStore)).transpose()?;
        let signal = signals.wait().map_err(ServeError::Signals)?;
        info!("{signal:?}: finishing what runs");
        if let Some(images) = &images {
            // So that both have the same time.
            images.tell_to_stop(drain);
        }
        let ended = [
            running.stop(drain),
            images.is_none_or(|images| images.stop(drain)),
            agent.stop(drain),
        ];
        keeper.stop();
        if ended.contains(&false) {
            warn!("stopped before all work was finished");
        }
        Ok(())
    }
}
