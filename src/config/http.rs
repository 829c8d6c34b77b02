//! What the HTTP fronts are told, and their bounds.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::fixed::HEADERS_MAX;

/// A Unix socket, which its owner and its group may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Where it lies.
    pub path: PathBuf,
    /// Its group, by name or number; else that of the agent.
    pub group: Option<String>,
}

/// Who may call, besides root and the agent's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerConfig {
    /// Users, by name or number.
    pub users: Vec<String>,
    /// Groups whose members may, by name or number.
    pub groups: Vec<String>,
    /// Whether everybody of this host may, as with the original.
    pub any_local: bool,
    /// The file with the token of callers beyond this host; without one there are none.
    pub token_file: Option<PathBuf>,
    /// The same for the listener that serves metrics and health alone.
    pub metrics_token_file: Option<PathBuf>,
    /// Whether everybody beyond this host may read those.
    pub metrics_open: bool,
    /// Names that callers may call this host by, besides its addresses and `localhost`.
    pub host_names: Vec<String>,
}

/// Bounds of the HTTP front. Each is a count, bytes or a time, as its name or type says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Open connections, all callers together: the original agent served as many at once.
    pub connections: usize,
    /// Open connections of one user of this host, or of one address beyond it. Root and the agent's own user
    /// may have all.
    pub connections_per_caller: usize,
    /// Of [`Self::connections`], those that only root and the agent's own user get.
    pub connections_reserved: usize,
    /// Request line and headers of one request, in bytes: the usual bound of servers is 8 to 16 KiB.
    pub head_bytes: usize,
    /// Header lines of one request, at most `HEADERS_MAX`: 100 is what common servers take.
    pub headers: usize,
    /// Body of one request, in bytes: a guest with 64 NICs and 256 disks is under 100 KiB.
    pub body_bytes: usize,
    /// From a request's first byte to its last: a local caller needs milliseconds.
    pub request: Duration,
    /// A kept-alive connection without a request. Above the 90 s after which Go's client closes one by itself:
    /// who closes first cuts off a request that is just on its way.
    pub idle: Duration,
    /// From a response's first byte to its last, for a caller that reads slowly.
    pub write: Duration,
    /// Threads that answer requests: 60 for the calls and batches of [`PoolLimits`](super::PoolLimits), 8 for calls
    /// of WaitEvents, and 4 for requests that never wait.
    pub handlers: usize,
    /// Body of one response, in bytes: the metrics of a thousand guests are some 5 MB.
    pub response_bytes: usize,
    /// Answers that are streamed at once, such as snapshots: each has a thread of its own and a
    /// disk to read.
    pub streams: usize,
    /// Listeners to events at once, each with a thread of its own that sleeps between two of them.
    pub listeners: usize,
    /// A streamed answer without a byte taken by the caller; the whole has no limit.
    pub stream_progress: Duration,
    /// From the last answer of a connection to its end, while the caller reads and may still send:
    /// a close before that can destroy the answer on its way.
    pub linger: Duration,
    /// Bytes that are read and thrown away in that time: four bodies of the largest size.
    pub linger_bytes: usize,
    /// Without accepting, once that failed: what is short, like file descriptors, needs time.
    pub accept_pause: Duration,
    /// How long it holds who is a member of an allowed group: the databases may be slow to ask.
    pub membership: Duration,
    /// Users of whom that is kept: few call, and who is not kept is asked for again.
    pub memberships: usize,
    /// Connections that wait for an answer about their users, all together: a database that
    /// answers takes milliseconds.
    pub unknown: usize,
    /// Of [`Self::unknown`], those of one user, so that a slow answer about one is no trouble to
    /// the others.
    pub unknown_per_caller: usize,
    /// At its limit of connections a caller's new one takes the place of one that has been idle for so long:
    /// the next request on a younger one may be on its way, and its caller could not know whether anything
    /// was done.
    pub idle_before_eviction: Duration,
    /// Bodies and answers of one front that are in memory at once, in bytes: two of the largest answers,
    /// each as it was made and as it is sent. A request that finds no room is told `busy`.
    pub held_bytes: usize,
    /// Of [`Self::held_bytes`], those that root and the agent's own user have to themselves: several changes
    /// at once, while others use up the rest.
    pub held_reserved_bytes: usize,
    /// Of [`Self::held_bytes`], those of one user or address: the largest request with the largest
    /// answer, so that others have the rest.
    pub held_per_caller_bytes: usize,
    /// Of these, what a request reserves for its answer before it begins, in bytes, beside its body: what
    /// the agent adds to a guest of 64 NICs and 256 disks, twice.
    pub answer_bytes: usize,
    /// Connections that one listener gives at once, before those that are open have their turn.
    pub accepts: usize,
}

impl HttpLimits {
    /// For a listener that only serves what is in memory.
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
            handlers: 72,
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
