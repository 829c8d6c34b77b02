//! Serving: from listening sockets to the stop that a signal requests.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io};

use log::{Level, Record, info, kv, warn};

use crate::config::fixed::{FIRST_ROUND, LAST_LINES};
use crate::config::{AuditConfig, HttpLimits, Store};
use crate::daemon::heartbeat::Heartbeat;
use crate::http::api::{health, routes, scrape};
use crate::http::{BindError, Front, ListenerStats};
use crate::ops::{HostStart, Libvirt, Reconciler};
use crate::os::notify::Notify;
use crate::os::signals::{Signal, Signals};
use crate::rpc::{Audit, Service, Workers};

/// Why serving did not start, or could not continue.
#[derive(Debug)]
pub enum ServeError {
    /// The agent cannot listen on the address.
    Bind(BindError),
    /// Signals cannot be handled.
    Signals(io::Error),
    /// The front's threads cannot be started.
    Start(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => write!(f, "{error}"),
            Self::Signals(error) => write!(f, "cannot handle signals: {error}"),
            Self::Start(error) => write!(f, "cannot start serving: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// The fronts of one agent.
pub struct Fronts {
    /// Serves the methods of guests.
    pub main: Front,
    /// Serves the methods of the image store.
    pub images: Option<Front>,
    /// Serves metrics and health alone.
    pub metrics: Option<Front>,
}

impl Fronts {
    fn named(&self) -> impl Iterator<Item = (&'static str, &Front)> {
        let others = [("images", &self.images), ("metrics", &self.metrics)];
        let others = others.into_iter().filter_map(|(name, front)| Some((name, front.as_ref()?)));
        [("main", &self.main)].into_iter().chain(others)
    }

    fn listener_stats(&self) -> ListenerStats {
        self.named().map(|(name, front)| (name, front.stats())).collect()
    }

    /// Returns every address that a front listens on, for log lines.
    fn addresses(&self) -> Vec<ListenAddress> {
        let of = |(name, front): (&'static str, &Front)| -> Vec<ListenAddress> {
            front
                .places()
                .into_iter()
                .map(|address| ListenAddress { front: name, address })
                .collect()
        };
        self.named().flat_map(of).collect()
    }
}

/// The log target of the line at a start, which the default log level shows, too.
pub const STARTED: &str = "mistify_libvirt::started";

/// Logs the start: the agent's version and listeners, and the first result of libvirt and the store.
fn log_start(agent: &Libvirt, addresses: &[ListenAddress]) {
    let listeners = addresses.iter().map(ListenAddress::in_list).collect::<Vec<_>>().join(", ");
    let (host, seen) = (agent.core.host(), agent.core.libvirt_last_seen());
    let version = health::version(&seen);
    let libvirt = match (&seen.error, version) {
        (None, Some(version)) => format!("{version} at {}", host.libvirt_uri),
        (None, None) => format!("{} (not queried yet)", host.libvirt_uri),
        (Some(error), _) => format!("{} ({error})", host.libvirt_uri),
    };
    let store = match agent.core.storage_last_seen().map(|seen| seen.outcome) {
        _ if host.store == Store::None => host.store_name(),
        Some(Ok(usage)) => format!("{}, {} GiB free", host.store_name(), usage.free_bytes >> 30),
        Some(Err(error)) => format!("{} ({error})", host.store_name()),
        None => format!("{} (not queried yet)", host.store_name()),
    };
    let fields: &[(&str, kv::Value<'_>)] = &[
        ("version", kv::Value::from(env!("CARGO_PKG_VERSION"))),
        ("listeners", kv::Value::from(listeners.as_str())),
        ("libvirt", kv::Value::from(libvirt.as_str())),
        ("store", kv::Value::from(store.as_str())),
    ];
    let mut record = Record::builder();
    record.level(Level::Info).target(STARTED).key_values(&fields);
    // The macro would apply the default level; the logger's own filter decides about this line.
    log::logger().log(&record.args(format_args!("mistify-libvirt started")).build());
}

/// An address that a front listens on.
struct ListenAddress {
    front: &'static str,
    address: String,
}

impl ListenAddress {
    /// Returns the address with its service, for a list of all addresses.
    fn in_list(&self) -> String {
        match self.front {
            "images" => format!("image store {}", self.address),
            "metrics" => format!("metrics {}", self.address),
            _ => self.address.clone(),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = match self.front {
            "images" => "the image store listens on",
            "metrics" => "metrics are served on",
            _ => "listening on",
        };
        write!(f, "{subject} {}", self.address)
    }
}

impl Libvirt {
    /// Serves on 127.0.0.1 until SIGTERM or SIGINT (the owner's `RunHTTP`).
    ///
    /// # Errors
    /// When the agent cannot listen on the port; as [`Libvirt::serve`]. A process can serve once: it owns the
    /// signal handlers.
    ///
    /// # Blocking
    /// As [`Libvirt::serve`].
    pub fn run_http(self, port: u16) -> Result<(), ServeError> {
        let signals = Signals::install().map_err(ServeError::Signals)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let front = Front::bind(&[address], HttpLimits::default()).map_err(ServeError::Bind)?;
        let fronts = Fronts { main: front, images: None, metrics: None };
        let audit = Audit::open(&AuditConfig::default()).map_err(ServeError::Start)?;
        self.serve(fronts, audit, signals, None)
    }

    /// Answers requests to the fronts until SIGTERM or SIGINT, and finishes the requests in flight before it
    /// returns. SIGHUP, where it is caught, reopens the audit file.
    ///
    /// Each front has its own handlers. A call that waits for its turn in the pool frees its handler meanwhile. The
    /// agent notifies the service manager when it is ready, while it works, and when it stops.
    ///
    /// # Errors
    /// When threads cannot be started, or waiting for signals fails.
    ///
    /// # Blocking
    /// Until the signal, and then up to [`Deadlines::drain`](crate::config::Deadlines::drain).
    pub fn serve(
        self,
        fronts: Fronts,
        audit: Audit,
        mut signals: Signals,
        notify: Option<Notify>,
    ) -> Result<(), ServeError> {
        let drain = self.core.deadlines().drain();
        let (agent, audit) = (Arc::new(self), Arc::new(audit));
        let reconciler = Reconciler::start(&agent.core).map_err(ServeError::Start)?;
        reconciler.wait_for_first_round(FIRST_ROUND);
        HostStart::start(&agent).map_err(ServeError::Start)?;
        let jobs = Workers::start(&agent, &audit).map_err(ServeError::Start)?;
        let (listener_stats, addresses) = (fronts.listener_stats(), fronts.addresses());
        let Fronts { mut main, mut images, mut metrics } = fronts;
        main.begin_short(routes::short());
        if let Some(images) = &mut images {
            images.begin_short(routes::short());
        }
        if let Some(metrics) = &mut metrics {
            metrics.begin_short(scrape::short());
        }
        let self_probe = main.self_probe();
        let start = |front: Front, handler| front.start(handler).map_err(ServeError::Start);
        let handler = |service| {
            routes::handler(
                Arc::clone(&agent),
                Arc::clone(&audit),
                service,
                Arc::clone(&listener_stats),
            )
        };
        let running = start(main, handler(Service::Libvirt))?;
        let images = images.map(|front| start(front, handler(Service::ImageStore))).transpose()?;
        let scrapes = || scrape::handler(Arc::clone(&agent), Arc::clone(&listener_stats));
        let metrics = metrics.map(|front| start(front, scrapes())).transpose()?;
        let heartbeat = Heartbeat::start(notify, &agent, self_probe).map_err(ServeError::Start)?;
        // A client that reads these lines can connect.
        addresses.iter().for_each(|address| info!("{address}"));
        log_start(&agent, &addresses);
        let signal = loop {
            match signals.wait().map_err(ServeError::Signals)? {
                Signal::Hangup => audit.reopen(),
                other => break other,
            }
        };
        info!("{signal:?}: finishing requests in flight");
        heartbeat.stop();
        agent.core.events().close();
        jobs.request_stop();
        // One deadline bounds the whole stop: the stop timeout of a service manager is hardly longer.
        let now = Instant::now();
        let stopped_by = now + drain;
        agent.core.pool().turn_away_after(now + agent.core.deadlines().change);
        let left = || stopped_by.saturating_duration_since(Instant::now());
        for front in images.iter().chain(&metrics) {
            // All fronts get the same time.
            front.request_stop(drain);
        }
        let ended = [
            running.stop(left()),
            images.is_none_or(|images| images.stop(left())),
            metrics.is_none_or(|metrics| metrics.stop(left())),
            jobs.stop(stopped_by),
            agent.stop(left()),
        ];
        reconciler.stop();
        if ended.contains(&false) {
            warn!("stopped before all requests and jobs were finished");
        }
        if !audit.flush(LAST_LINES) {
            warn!("audit records were not written in time; queued records are lost");
        }
        Ok(())
    }
}
