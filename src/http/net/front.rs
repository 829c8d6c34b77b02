//! The thread that owns the sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use parking_lot::Mutex;

use crate::config::{HttpLimits, SocketConfig};
use crate::http::auth::access::{self, Access};
use crate::http::auth::guard::Guard;
use crate::http::auth::peer_auth::PeerAuth;
use crate::http::http_stats::{Counters, HttpStats};
use crate::http::http1::request::Request;
use crate::http::rate_limited_log::RateLimitedLog;
use crate::http::{Handler, IsShort};
use crate::os::activation::PassedSocket;
use crate::os::poll::{Interest, PollSet, Waker};
use crate::os::users;
use crate::rpc::Inbound;
use crate::threads::{ByteBudget, Queue};

use super::acceptor::Acceptor;
use super::caller_probe::CallerProbe;
use super::connection::{Connection, Round, StepOutcome};
use super::exchange::AwaitedEnd;
use super::handlers;
use super::listener::Listener;
use super::responder::{Responder, Task};
use super::self_probe::SelfProbe;
use super::shared::{Shared, Stop};
use super::stream_counts::StreamCounts;

/// The size of one read from a socket, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// An address or a path on which the agent cannot listen.
#[derive(Debug)]
pub struct BindError {
    /// The address, or the path of the socket.
    pub place: String,
    /// The cause.
    pub cause: io::Error,
}

// One line that contains its cause, and so without a `source`: it ends the start of the agent.
impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.place)?;
        match self.cause.get_ref() {
            Some(ours) => write!(f, "{ours}"),
            None => write!(f, "{}", self.cause.kind()),
        }
    }
}

impl std::error::Error for BindError {}

/// Listening sockets that are not served yet: the kernel queues their connections.
pub struct Front {
    listeners: Vec<Listener>,
    limits: HttpLimits,
    access: Access,
    guard: Guard,
    stats: Arc<HttpStats>,
    is_short: Option<IsShort>,
}

// Shows its addresses alone.
impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Front {
    /// Listens on every address.
    ///
    /// # Errors
    /// The first address on which the agent cannot listen; then it listens on none.
    pub fn bind(addresses: &[SocketAddr], limits: HttpLimits) -> Result<Self, BindError> {
        let bind = |address: &SocketAddr| {
            let place = address.to_string();
            Listener::bind(address, limits.connections).map_err(|cause| BindError { place, cause })
        };
        let listeners = addresses.iter().map(bind).collect::<Result<_, _>>()?;
        let (access, guard) = (Access::default(), Guard::default());
        let (stats, is_short) = (Arc::default(), None);
        Ok(Self { listeners, limits, access, guard, stats, is_short })
    }

    /// Listens on `[::1]` beside the addresses that have such a twin ([`ipv6_twin`]). If that fails, callers of these
    /// addresses are served all the same, and the log warns that another process may answer callers of the twin.
    pub(crate) fn bind_ipv6_twins(&mut self, addresses: &[SocketAddr]) {
        let twins = addresses.iter().filter_map(|address| ipv6_twin(*address));
        for address in twins.filter(|twin| !addresses.contains(twin)) {
            match Listener::bind(&address, self.limits.connections) {
                Ok(listener) => self.listeners.push(listener),
                Err(error) if is_absent(&error) => {
                    log::info!("not listening on {address}: {error}");
                }
                Err(error) => log::warn!(
                    "cannot listen on {address}: {error}; another process may answer callers of localhost"
                ),
            }
        }
    }

    /// Listens on a Unix socket as well, which the end of the front removes.
    ///
    /// # Errors
    /// When another process has the socket, another file is at the path, its group is unknown, or other users can
    /// change where its path leads.
    pub fn bind_unix(&mut self, socket: &SocketConfig) -> Result<(), BindError> {
        let group = |name: &String| access::number("--socket-group", name, users::group_id);
        let group = socket.group.as_ref().map(group).transpose();
        let bound = group.map_err(io::Error::other);
        let bound = bound.and_then(|group| Listener::bind_unix(&socket.path, group));
        let place = || socket.path.display().to_string();
        self.listeners.push(bound.map_err(|cause| BindError { place: place(), cause })?);
        Ok(())
    }

    /// Serves a socket that was passed at the start of the agent.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking; no cause of that is known.
    pub fn add(&mut self, socket: PassedSocket) -> io::Result<()> {
        self.listeners.push(Listener::passed(socket)?);
        Ok(())
    }

    /// Permits the callers of this rule, instead of root and the agent's own user alone.
    pub fn admit(&mut self, access: Access) {
        self.access = access;
    }

    /// Applies these rules to requests; by default requests from beyond this host are refused.
    pub(crate) fn protect(&mut self, guard: Guard) {
        self.guard = guard;
    }

    /// Starts the requests that `is_short` selects on the front's own thread. Their blocking parts continue on a
    /// handler's thread ([`Inbound::on_handler`]).
    pub fn begin_short(&mut self, is_short: IsShort) {
        self.is_short = Some(is_short);
    }

    /// Returns the addresses of listeners that other hosts can reach.
    pub(crate) fn open_addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = self.local_addresses();
        addresses.retain(|address| !address.ip().to_canonical().is_loopback());
        addresses
    }

    /// Returns the addresses of listeners, with the port that the system chose for port 0.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(Listener::address).collect()
    }

    /// Returns the addresses and the paths of listeners, for log lines.
    pub fn places(&self) -> Vec<String> {
        self.listeners.iter().map(Listener::to_string).collect()
    }

    /// Returns an address at which this process can connect to the front.
    pub(crate) fn self_probe(&self) -> Option<SelfProbe> {
        // Loopback comes first, as other addresses may require a token.
        let is_local = |it: &&Listener| {
            it.address().is_none_or(|address| address.ip().to_canonical().is_loopback())
        };
        let local = self.listeners.iter().filter(is_local);
        local.chain(&self.listeners).find_map(|listener| listener.self_probe().ok())
    }

    /// Returns the counts, for the handler that shows them and is made before the start.
    pub fn stats(&self) -> Arc<HttpStats> {
        Arc::clone(&self.stats)
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// When the threads or the waker cannot be made, or the kernel cannot report the owners of sockets; threads
    /// that were started before end by themselves.
    pub fn start(self, handler: Handler) -> io::Result<Running> {
        let budget = ByteBudget::new(self.limits.held_bytes);
        let others_bytes = self.limits.held_bytes.saturating_sub(self.limits.held_reserved_bytes);
        let shared = Arc::new(Shared {
            others_budget: budget.part(others_bytes),
            budget,
            abandoned: Mutex::default(),
            streams: StreamCounts::new(&self.limits),
            limits: self.limits,
            guard: self.guard,
            stats: self.stats,
            probe: CallerProbe::new()?,
            waker: Waker::new()?,
            stop: OnceLock::new(),
        });
        let woken = Arc::clone(&shared);
        let peer_auth = PeerAuth::new(self.access, &shared.limits, move || woken.waker.wake())?;
        // A connection has one request in flight, so the queue is never full.
        let tasks = Tasks(Arc::new(Queue::new(shared.limits.connections)));
        let handlers = (0..shared.limits.handlers)
            .map(|index| start_handler(index, &tasks.0))
            .collect::<io::Result<Vec<_>>>()?;
        let service = Service {
            shared: Arc::clone(&shared),
            acceptor: Acceptor::new(self.listeners, peer_auth),
            tasks,
            handler,
            is_short: self.is_short,
            connections: Vec::new(),
        };
        let front = thread::Builder::new().name("http-front".into()).spawn(|| service.run())?;
        Ok(Running { shared, front: Some(front), handlers })
    }
}

/// Returns the address that `localhost` may mean beside this one: `[::1]` with the same port beside 127.0.0.1 and
/// 0.0.0.0. Port 0 has no twin, as a port that the system chooses is free on one address only.
pub fn ipv6_twin(address: SocketAddr) -> Option<SocketAddr> {
    let is_localhost = [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED].map(IpAddr::V4);
    let has_twin = is_localhost.contains(&address.ip()) && address.port() != 0;
    has_twin.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())))
}

/// Returns whether the host has no such address.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

fn start_handler(index: usize, tasks: &Arc<Queue<Task>>) -> io::Result<JoinHandle<()>> {
    let tasks = Arc::clone(tasks);
    thread::Builder::new().name(format!("http-{index}")).spawn(move || handlers::run(&tasks))
}

/// The running service. Dropped, it stops without waiting for anything.
pub struct Running {
    shared: Arc<Shared>,
    front: Option<JoinHandle<bool>>,
    handlers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Returns the counts of this moment.
    pub fn counters(&self) -> Counters {
        self.shared.stats.counters()
    }

    /// Stops: refuses new connections, closes idle ones, and finishes requests that have started or are in
    /// flight. Connections that have sent no request yet have
    /// [`FIRST_REQUEST`](crate::config::fixed::FIRST_REQUEST) for it. Returns `true` when all requests were
    /// answered.
    ///
    /// # Blocking
    /// Until the last response is sent and its connection closed, at most for `drain`. Handlers that still work
    /// then are not waited for.
    pub fn stop(mut self, drain: Duration) -> bool {
        self.request_stop(drain);
        let is_finished = self.front.take().is_some_and(|front| front.join().unwrap_or(false));
        if is_finished {
            for handler in self.handlers.drain(..) {
                if handler.join().is_err() {
                    log::error!("an HTTP handler thread panicked");
                }
            }
        }
        is_finished
    }

    /// Starts the stop that [`Running::stop`] waits for, so that several fronts can stop at the same time.
    pub fn request_stop(&self, drain: Duration) {
        let since = Instant::now();
        let by = since.checked_add(drain).unwrap_or(since);
        self.shared.stop.get_or_init(|| Stop { since, by });
        self.shared.waker.wake();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.request_stop(Duration::ZERO);
    }
}

/// The queue of the handlers, which end when this is dropped.
struct Tasks(Arc<Queue<Task>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// State that the front's thread owns.
struct Service {
    shared: Arc<Shared>,
    acceptor: Acceptor,
    tasks: Tasks,
    handler: Handler,
    is_short: Option<IsShort>,
    connections: Vec<Connection>,
}

impl Service {
    /// Serves until the stop; returns `true` when every request was answered.
    fn run(mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut set = PollSet::default();
        let (mut scratch, mut bad_tokens) = (vec![0; READ_BYTES], RateLimitedLog::default());
        loop {
            self.fill(&mut set);
            if let Err(error) = set.wait(self.time_left()) {
                log::error!("cannot wait for connections: {error}");
                thread::sleep(shared.limits.accept_pause);
            }
            let now = Instant::now();
            let (scratch, bad_tokens) = (&mut scratch, &mut bad_tokens);
            let mut round = Round { shared: &shared, now, scratch, bad_tokens };
            self.serve(&set, &mut round);
            self.acceptor.admit(&set, &mut self.connections, &mut round);
            shared.stats.set_connections(self.connections.len());
            if let Some(stop) = shared.stop.get() {
                self.acceptor.close();
                let is_empty = self.connections.is_empty() && self.acceptor.is_empty();
                if is_empty || now >= stop.by {
                    return self.connections.iter().all(Connection::is_served);
                }
            }
        }
    }

    /// Adds to the set, in this order: the waker, the listeners, the connections.
    fn fill(&self, set: &mut PollSet) {
        set.clear();
        set.add(&self.shared.waker, Interest::Read);
        self.acceptor.fill(set);
        for connection in &self.connections {
            match connection.interest() {
                Some(interest) => set.add(connection.stream(), interest),
                None => set.skip(),
            };
        }
    }

    /// Returns the time until the next deadline.
    fn time_left(&self) -> Option<Duration> {
        let shared = &self.shared;
        let deadlines = self.connections.iter().filter_map(|it| it.deadline(shared));
        let stop_by = shared.stop.get().map(|stop| stop.by);
        let others = [self.acceptor.deadline(&shared.limits), stop_by];
        let next = deadlines.chain(others.into_iter().flatten()).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn serve(&mut self, set: &PollSet, round: &mut Round<'_>) {
        let is_woken = set.is_ready(0);
        if is_woken {
            round.shared.waker.drain();
        }
        let is_stopping = round.shared.is_stopping();
        let until = if is_stopping { AwaitedEnd::Handler } else { AwaitedEnd::Caller };
        let first = 1 + self.acceptor.listeners();
        // Backwards: `swap_remove` replaces a closed connection by the last, which had its turn already.
        for index in (0..self.connections.len()).rev() {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            let mut outcome = match (set.is_ready(first + index), is_woken) {
                (true, _) => connection.on_ready(round),
                (false, true) => connection.take_answer(until, round),
                (false, false) => StepOutcome::Open,
            };
            let deadline = connection.deadline(round.shared);
            if matches!(outcome, StepOutcome::Open) && deadline.is_some_and(|it| it <= round.now) {
                outcome = connection.on_deadline(round);
            }
            if let StepOutcome::Dispatch(request) = outcome {
                // Counted first, so that a handler which shows the counts includes its own request.
                round.shared.stats.count_request();
                let responder = connection.dispatch(&request, &self.tasks.0, round);
                begin(&self.handler, self.is_short.as_ref(), request, responder);
                outcome = StepOutcome::Open;
            }
            if matches!(outcome, StepOutcome::Closed) {
                self.connections.swap_remove(index);
            }
        }
    }
}

/// Starts a request, on this thread if it is short.
fn begin(handler: &Handler, is_short: Option<&IsShort>, request: Request, responder: Responder) {
    let is_short =
        is_short.is_some_and(|is_short| is_short(&request)) && responder.reserve_request();
    let handler = Arc::clone(handler);
    let answer = move |responder: Responder| {
        let request = request.into_rouille(responder.caller());
        handler(&request, responder);
    };
    match is_short {
        true => handlers::guarded(responder, answer),
        false => responder.on_handler(answer),
    }
}
