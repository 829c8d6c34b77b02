//! Configuration of the HTTP server, and its limits.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::fixed::HEADERS_MAX;

/// Unix socket that its owner and its group may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Path of the socket.
    pub path: PathBuf,
    /// Group of the socket, by name or number; by default the agent's group.
    pub group: Option<String>,
}

/// Callers that are permitted in addition to root and the agent's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerConfig {
    /// Permitted users, by name or number.
    pub users: Vec<String>,
    /// Groups whose members are permitted, by name or number.
    pub groups: Vec<String>,
    /// Whether every local user is permitted, as with the original agent.
    pub any_local: bool,
    /// File with the token of callers on other hosts. Without it, no other host may call.
    pub token_file: Option<PathBuf>,
    /// The same file for the listener that serves only metrics and health.
    pub metrics_token_file: Option<PathBuf>,
    /// Whether every other host may read that listener without a token.
    pub metrics_open: bool,
    /// Names of this host that requests may use, in addition to its addresses and `localhost`.
    pub host_names: Vec<String>,
}

/// Limits of the HTTP server. Each is a count, a number of bytes or a duration, as its name or type
/// says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Open connections of all callers. The original agent served as many concurrently.
    pub connections: usize,
    /// Open connections of one local user or one remote address. Root and the agent's own user may
    /// have all.
    pub connections_per_caller: usize,
    /// Part of `http.connections` that only root and the agent's own user get.
    pub connections_reserved: usize,
    /// Request line and headers of one request. Common servers accept 8 to 16 KiB.
    pub head_bytes: usize,
    /// Header lines of one request, at most `headers_max`. Common servers accept 100.
    pub headers: usize,
    /// Body of one request. A guest with 64 NICs and 256 disks has less than 100 KiB.
    pub body_bytes: usize,
    /// Time from the first byte of a request to its last. A local caller needs milliseconds.
    pub request: Duration,
    /// Time of a keep-alive connection without a request. Go's client closes an idle connection
    /// after 90 s. A server that closes first cuts off a request in transit.
    pub idle: Duration,
    /// Time from the first byte of a response to its last, for a caller that reads slowly.
    pub write: Duration,
    /// Handler threads: 83 for calls and batches (see `pool.changes`), and 4 for requests that never
    /// wait.
    pub handlers: usize,
    /// Body of one response. The metrics of 1,000 guests have about 5 MB.
    pub response_bytes: usize,
    /// Concurrent streamed responses, such as snapshots. Each has a thread of its own and reads a
    /// disk. One user has half of them, and an eighth is for root and the agent's own user.
    pub streams: usize,
    /// Concurrent clients of the event stream. Each has a thread of its own, which sleeps between
    /// two events. Users share them as they share `http.streams`.
    pub listeners: usize,
    /// Time in which the caller of a streamed response may read no byte. The whole response has no
    /// limit.
    pub stream_progress: Duration,
    /// Time from the last response of a connection to its close, while the caller reads and may
    /// still send. An earlier close can destroy the response in transit.
    pub linger: Duration,
    /// Bytes that the agent reads and discards during `http.linger`: four bodies of the maximum
    /// size.
    pub linger_bytes: usize,
    /// Pause after a failed accept. A lack of file descriptors, for example, needs time to end.
    pub accept_pause: Duration,
    /// Lifetime of a cached membership in a permitted group. The databases may answer slowly.
    pub membership: Duration,
    /// Users with cached memberships. Few users call, and the agent looks up any other user again.
    pub memberships: usize,
    /// Connections of all users that wait for a membership lookup. A working database answers
    /// within milliseconds.
    pub unknown: usize,
    /// Part of `http.unknown` for one user. A slow lookup of one user does not affect the others.
    pub unknown_per_caller: usize,
    /// Idle time after which a caller at its connection limit may replace the connection by a new
    /// one. On a younger connection a request may be in transit, and the caller could not know
    /// whether it ran.
    pub idle_before_eviction: Duration,
    /// Bodies and responses of one HTTP server (RPC, image store or metrics) in memory: two of the
    /// largest responses, each as created and as sent. A request without room gets `busy`.
    pub held_bytes: usize,
    /// Part of `http.held_bytes` for root and the agent's own user: several concurrent changes
    /// while other callers use up the rest.
    pub held_reserved_bytes: usize,
    /// Part of `http.held_bytes` for one user or address: the largest request with the largest
    /// response. Other callers have the rest.
    pub held_per_caller_bytes: usize,
    /// Part of `http.held_bytes` that a request reserves for its response before it starts, in
    /// addition to its body. It is twice what the agent adds to a guest with 64 NICs and 256 disks.
    pub answer_bytes: usize,
    /// Connections that one listener accepts in a row before the agent serves the open ones.
    pub accepts: usize,
}

impl HttpLimits {
    /// Limits of a listener that serves only data in memory.
    pub fn for_metrics(&self) -> Self {
        Self { handlers: self.handlers.min(4), ..self.clone() }
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_caller: 256,
            connections_reserved: 24,
            head_bytes: 16 * 1024,
            headers: HEADERS_MAX,
            body_bytes: 1024 * 1024,
            request: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            write: Duration::from_secs(10),
            handlers: 87,
            response_bytes: 16 * 1024 * 1024,
            streams: 16,
            listeners: 64,
            stream_progress: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            linger_bytes: 4 * 1024 * 1024,
            accept_pause: Duration::from_millis(100),
            membership: Duration::from_secs(10),
            memberships: 64,
            unknown: 64,
            unknown_per_caller: 8,
            held_bytes: 64 * 1024 * 1024,
            idle_before_eviction: Duration::from_secs(1),
            held_reserved_bytes: 16 * 1024 * 1024,
            held_per_caller_bytes: 40 * 1024 * 1024,
            answer_bytes: 128 * 1024,
            accepts: 16,
        }
    }
}
