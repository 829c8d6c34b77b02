//! The reasons for which requests are refused, and counts of them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The kinds of refusal, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 400: not HTTP, or HTTP that contradicts itself.
    Malformed,
    /// 401: from beyond this host, without the token.
    Token,
    /// 403: sent by a web page, or to a name that is not this host's.
    Page,
    /// 408: not complete within [`request`](crate::config::HttpLimits::request).
    Late,
    /// 413: longer than [`body_bytes`](crate::config::HttpLimits::body_bytes).
    Body,
    /// 414: a target that fills [`head_bytes`](crate::config::HttpLimits::head_bytes) alone.
    Target,
    /// 415: a body that is compressed or coded otherwise (`Content-Encoding`).
    Encoding,
    /// 417: an `Expect` other than `100-continue`.
    Expectation,
    /// 431: over [`head_bytes`](crate::config::HttpLimits::head_bytes) or
    /// [`headers`](crate::config::HttpLimits::headers).
    Head,
    /// 501: a transfer coding other than chunked.
    Coding,
    /// 503: more than [`connections`](crate::config::HttpLimits::connections),
    /// [`streams`](crate::config::HttpLimits::streams), [`listeners`](crate::config::HttpLimits::listeners) or
    /// [`held_bytes`](crate::config::HttpLimits::held_bytes).
    Busy,
    /// 505: neither HTTP/1.0 nor HTTP/1.1, or HTTP/1.0 where chunks are needed.
    Version,
}

impl Reason {
    /// Every reason, in the order of the statuses.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Token,
        Self::Page,
        Self::Late,
        Self::Body,
        Self::Target,
        Self::Encoding,
        Self::Expectation,
        Self::Head,
        Self::Coding,
        Self::Busy,
        Self::Version,
    ];

    /// Returns the status that the caller gets.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Token => 401,
            Self::Page => 403,
            Self::Late => 408,
            Self::Body => 413,
            Self::Target => 414,
            Self::Encoding => 415,
            Self::Expectation => 417,
            Self::Head => 431,
            Self::Coding => 501,
            Self::Busy => 503,
            Self::Version => 505,
        }
    }

    /// Returns one word for a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Token => "token",
            Self::Page => "page",
            Self::Late => "late",
            Self::Body => "body",
            Self::Target => "target",
            Self::Encoding => "encoding",
            Self::Expectation => "expectation",
            Self::Head => "head",
            Self::Coding => "coding",
            Self::Busy => "busy",
            Self::Version => "version",
        }
    }
}

/// A request that the front refuses. The connection is closed after the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, which determines the status.
    pub reason: Reason,
    /// The error text that the caller gets.
    pub sentence: &'static str,
}

impl Refusal {
    /// A request that is malformed or ambiguous.
    pub(super) const fn malformed(sentence: &'static str) -> Self {
        Self { reason: Reason::Malformed, sentence }
    }
}

/// Counts that the front and the handlers update and any thread may read.
#[derive(Debug, Default)]
pub struct HttpStats {
    connections: AtomicUsize,
    requests: AtomicU64,
    panics: AtomicU64,
    denied: AtomicU64,
    abandoned: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
}

/// The values of a [`HttpStats`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Connections that are open now.
    pub connections: usize,
    /// Complete and valid requests since the start.
    pub requests: u64,
    /// Handlers that panicked since the start.
    pub panics: u64,
    /// Connections since the start whose callers were not permitted to call.
    pub denied: u64,
    /// Requests since the start that did not run, or batches that did not run completely, because
    /// their caller had disconnected.
    pub abandoned: u64,
    /// Refused requests and connections since the start, by reason.
    pub refused: Vec<(Reason, u64)>,
}

// Relaxed throughout: the counts say nothing about other memory.
impl HttpStats {
    /// Reads all counts. Each is exact; they need not be of the same instant.
    pub fn counters(&self) -> Counters {
        let refused = self.refused.iter().map(|count| count.load(Ordering::Relaxed));
        Counters {
            connections: self.connections.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            denied: self.denied.load(Ordering::Relaxed),
            abandoned: self.abandoned.load(Ordering::Relaxed),
            refused: Reason::ALL.into_iter().zip(refused).collect(),
        }
    }

    pub(super) fn set_connections(&self, count: usize) {
        self.connections.store(count, Ordering::Relaxed);
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_denied(&self) {
        self.denied.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refusal(&self, reason: Reason) {
        for (each, count) in Reason::ALL.into_iter().zip(&self.refused) {
            if each == reason {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Refuses a request whose body or response does not fit into the memory budget now.
pub(super) const NO_ROOM: Refusal =
    Refusal { reason: Reason::Busy, sentence: "busy: too many bytes of requests and answers" };
