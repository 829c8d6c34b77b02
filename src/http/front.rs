//! The thread that owns the sockets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::{HttpLimits, SocketConfig};
use crate::os::activation::Passed;
use crate::os::poll::{Interest, PollSet, Waker};
use crate::os::users;
use crate::rpc::Inbound;
use crate::threads::{ByteBudget, Queue};

use super::access::{self, Access};
use super::caller_probe::CallerProbe;
use super::connection::{Connection, Fate, Round};
use super::entrance::Entrance;
use super::exchange::Await;
use super::gate::Gate;
use super::guard::Guard;
use super::handlers;
use super::heartbeat::Door;
use super::listener::Listener;
use super::rarely::Rarely;
use super::request::Request;
use super::responder::{Responder, Task};
use super::shared::{Shared, Stop};
use super::stream_counts::StreamCounts;
use super::tally::{Counters, Tally};
use super::{Handler, IsShort};

/// What is read from a socket at once.
const READ_BYTES: usize = 64 * 1024;

/// An address or a path that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// The address, or the path of the socket.
    pub place: String,
    /// Why not.
    pub cause: io::Error,
}

// One line with its cause in it, and so without a `source`: it ends the start of the agent.
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

/// Sockets that listen and are not served yet: the kernel keeps the callers waiting.
pub struct Front {
    listeners: Vec<Listener>,
    limits: HttpLimits,
    access: Access,
    guard: Guard,
    tally: Arc<Tally>,
    is_short: Option<IsShort>,
}

// By its addresses alone.
impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Front {
    /// Listens on every address.
    ///
    /// # Errors
    /// The first address that cannot be listened on; then none is.
    pub fn bind(addresses: &[SocketAddr], limits: HttpLimits) -> Result<Self, BindError> {
        let bind = |address: &SocketAddr| {
            let place = address.to_string();
            Listener::bind(address, limits.connections).map_err(|cause| BindError { place, cause })
        };
        let listeners = addresses.iter().map(bind).collect::<Result<_, _>>()?;
        let (access, guard) = (Access::default(), Guard::default());
        let (tally, is_short) = (Arc::default(), None);
        Ok(Self { listeners, limits, access, guard, tally, is_short })
    }

    /// Listens on `[::1]`, too, beside those of the addresses that have such a twin ([`ipv6_twin`]). Where that
    /// fails, callers of these are served all the same, and the log says who may answer the others.
    pub(super) fn bind_ipv6_twins(&mut self, addresses: &[SocketAddr]) {
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

    /// Listens on a Unix socket as well, which the front's end removes.
    ///
    /// # Errors
    /// When another process has the socket, something else is there, its group is not known, or other users can
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

    /// Serves a socket as well that the agent was started with.
    ///
    /// # Errors
    /// When it cannot be made not to block; nothing is known that makes it fail.
    pub fn add(&mut self, socket: Passed) -> io::Result<()> {
        self.listeners.push(Listener::passed(socket)?);
        Ok(())
    }

    /// Lets those call whom this rule allows, instead of root and the agent's own user alone.
    pub fn admit(&mut self, access: Access) {
        self.access = access;
    }

    /// Wants of requests what these rules say, instead of none from beyond this host.
    pub(super) fn protect(&mut self, guard: Guard) {
        self.guard = guard;
    }

    /// Has requests for which this holds handled on the front's own thread first, instead of by a handler's: what
    /// may block in them goes on with a handler's ([`Inbound::on_handler`](crate::rpc::Inbound::on_handler)).
    pub fn begin_short(&mut self, is_short: IsShort) {
        self.is_short = Some(is_short);
    }

    /// The addresses that are listened on and that others than this host can reach.
    pub(super) fn open_addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = self.local_addresses();
        addresses.retain(|address| !address.ip().to_canonical().is_loopback());
        addresses
    }

    /// The addresses that are listened on, with the port that was found for a port of 0.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(Listener::address).collect()
    }

    /// The addresses and the paths that are listened on, for log lines.
    pub fn places(&self) -> Vec<String> {
        self.listeners.iter().map(Listener::to_string).collect()
    }

    /// Where it can be asked from this host.
    pub(super) fn door(&self) -> Option<Door> {
        // One of this host alone before others, which may want a token.
        let is_local = |it: &&Listener| {
            it.address().is_none_or(|address| address.ip().to_canonical().is_loopback())
        };
        let local = self.listeners.iter().filter(is_local);
        local.chain(&self.listeners).find_map(|listener| listener.door().ok())
    }

    /// The counts, to be had before the start: the handler that shows them is given to it.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// When the threads or the waker cannot be made, or the kernel does not tell who calls; what
    /// was made until then ends by itself.
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
            tally: self.tally,
            probe: CallerProbe::new()?,
            waker: Waker::new()?,
            stop: OnceLock::new(),
        });
        let gate = Gate::new(self.access, &shared)?;
        // A connection has one request in flight, so that the queue is never full.
        let tasks = Tasks(Arc::new(Queue::new(shared.limits.connections)));
        let handlers = (0..shared.limits.handlers)
            .map(|index| start_handler(index, &tasks.0))
            .collect::<io::Result<Vec<_>>>()?;
        let service = Service {
            shared: Arc::clone(&shared),
            entrance: Entrance::new(self.listeners, gate),
            tasks,
            handler,
            is_short: self.is_short,
            connections: Vec::new(),
        };
        let front = thread::Builder::new().name("http-front".into()).spawn(|| service.run())?;
        Ok(Running { shared, front: Some(front), handlers })
    }
}

/// The address that `localhost` may mean beside this one: `[::1]` of the same port beside 127.0.0.1 and 0.0.0.0.
/// None of port 0, as a port that the system chooses is free on one address alone.
pub fn ipv6_twin(address: SocketAddr) -> Option<SocketAddr> {
    let is_localhost = [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED].map(IpAddr::V4);
    let has_twin = is_localhost.contains(&address.ip()) && address.port() != 0;
    has_twin.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())))
}

/// Whether the host has no such address.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

fn start_handler(index: usize, tasks: &Arc<Queue<Task>>) -> io::Result<JoinHandle<()>> {
    let tasks = Arc::clone(tasks);
    thread::Builder::new().name(format!("http-{index}")).spawn(move || handlers::run(&tasks))
}

/// The service while it runs. Dropped, it stops without waiting for anything.
pub struct Running {
    shared: Arc<Shared>,
    front: Option<JoinHandle<bool>>,
    handlers: Vec<JoinHandle<()>>,
}

impl Running {
    /// What has been going on.
    pub fn counters(&self) -> Counters {
        self.shared.tally.counters()
    }

    /// Stops: turns newcomers away, closes what is idle, and finishes the requests that have begun or
    /// are on their way: those who have connected before and have not called yet get
    /// [`FIRST_REQUEST`](crate::config::fixed::FIRST_REQUEST) for it. True when all were answered.
    ///
    /// # Blocking
    /// Until the last answer is sent and its connection closed, at most for `drain`. Handlers that
    /// are still at work then are left to themselves.
    pub fn stop(mut self, drain: Duration) -> bool {
        self.tell_to_stop(drain);
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

    /// Begins what [`Running::stop`] waits for: of several services all can begin at once.
    pub fn tell_to_stop(&self, drain: Duration) {
        let since = Instant::now();
        let by = since.checked_add(drain).unwrap_or(since);
        self.shared.stop.get_or_init(|| Stop { since, by });
        self.shared.waker.wake();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell_to_stop(Duration::ZERO);
    }
}

/// What waits for handlers, which end when this is dropped.
struct Tasks(Arc<Queue<Task>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What the front's thread owns.
struct Service {
    shared: Arc<Shared>,
    entrance: Entrance,
    tasks: Tasks,
    handler: Handler,
    is_short: Option<IsShort>,
    connections: Vec<Connection>,
}

impl Service {
    /// Serves until it is told to stop; true when every request was answered.
    fn run(mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut set = PollSet::default();
        let (mut scratch, mut bad_tokens) = (vec![0; READ_BYTES], Rarely::default());
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
            self.entrance.admit(&set, &mut self.connections, &mut round);
            shared.tally.set_connections(self.connections.len());
            if let Some(stop) = shared.stop.get() {
                self.entrance.close();
                let is_empty = self.connections.is_empty() && self.entrance.is_empty();
                if is_empty || now >= stop.by {
                    return self.connections.iter().all(Connection::is_served);
                }
            }
        }
    }

    /// Puts into the set, in this order: the waker, the listeners, the connections.
    fn fill(&self, set: &mut PollSet) {
        set.clear();
        set.add(&self.shared.waker, Interest::Read);
        self.entrance.fill(set);
        for connection in &self.connections {
            match connection.interest() {
                Some(interest) => set.add(connection.stream(), interest),
                None => set.skip(),
            };
        }
    }

    /// The time until the next deadline of anything.
    fn time_left(&self) -> Option<Duration> {
        let shared = &self.shared;
        let deadlines = self.connections.iter().filter_map(|it| it.deadline(shared));
        let stop_by = shared.stop.get().map(|stop| stop.by);
        let others = [self.entrance.deadline(&shared.limits), stop_by];
        let next = deadlines.chain(others.into_iter().flatten()).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn serve(&mut self, set: &PollSet, round: &mut Round<'_>) {
        let is_woken = set.is_ready(0);
        if is_woken {
            round.shared.waker.drain();
        }
        let is_stopping = round.shared.is_stopping();
        let until = if is_stopping { Await::Handler } else { Await::Caller };
        let first = 1 + self.entrance.listeners();
        // Backwards: one that is closed is replaced by the last, which had its turn already.
        for index in (0..self.connections.len()).rev() {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            let mut fate = match (set.is_ready(first + index), is_woken) {
                (true, _) => connection.on_ready(round),
                (false, true) => connection.on_handler(until, round),
                (false, false) => Fate::Open,
            };
            let deadline = connection.deadline(round.shared);
            if matches!(fate, Fate::Open) && deadline.is_some_and(|it| it <= round.now) {
                fate = connection.on_deadline(round);
            }
            if let Fate::Dispatch(request) = fate {
                // Counted first, so that a handler which shows the counts finds its own request in them.
                round.shared.tally.count_request();
                let responder = connection.dispatch(&request, &self.tasks.0, round);
                begin(&self.handler, self.is_short.as_ref(), request, responder);
                fate = Fate::Open;
            }
            if matches!(fate, Fate::Closed) {
                self.connections.swap_remove(index);
            }
        }
    }
}

/// Begins a request, on this thread where it is short.
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
