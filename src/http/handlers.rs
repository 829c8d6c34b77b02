//! The threads that answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::config::HttpLimits;
use crate::os::poll::Waker;
use crate::threads::{Queue, panic_text};

use super::Handler;
use super::exchange::{self, Answer, Exchange, Then};
use super::guard::Guard;
use super::parse::{Persistence, Request, Version};
use super::respond::{self, Encoded, Wanted};
use super::stream;
use super::tally::Tally;

/// The address that callers over a Unix socket are given.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What the front and its handlers have in common.
pub(super) struct Shared {
    pub(super) limits: HttpLimits,
    pub(super) guard: Guard,
    pub(super) tally: Arc<Tally>,
    /// Wakes the front.
    pub(super) waker: Waker,
    /// Set once the front is told to stop.
    pub(super) stop: OnceLock<Stop>,
    /// Answers that are being streamed.
    pub(super) streams: stream::Counts,
}

/// A stop of the front.
pub(super) struct Stop {
    /// When it was told to.
    pub(super) since: Instant,
    /// Until when requests in flight may be finished.
    pub(super) by: Instant,
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.get().is_some()
    }
}

/// A request on its way to a handler.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) exchange: Arc<Exchange>,
}

/// Answers requests until the front is gone.
pub(super) fn run(jobs: &Queue<Job>, handler: &Handler, shared: &Arc<Shared>) {
    while let Some(Job { request, exchange }) = jobs.next() {
        let version = request.version;
        let encoded = answer(request, &exchange, handler, shared);
        deliver(encoded, version, &exchange, shared);
    }
}

/// Sends what the socket takes at once and leaves the rest to the front.
pub(super) fn deliver(
    encoded: Encoded,
    version: Version,
    exchange: &Arc<Exchange>,
    shared: &Arc<Shared>,
) {
    let Encoded { mut bytes, mut persistence, stream } = encoded;
    if let Some(streamed) = stream {
        match stream::start(exchange, shared, version, bytes, streamed) {
            Ok(()) => return,
            Err(refusal) => {
                shared.tally.count_refusal(refusal.reason);
                (bytes, persistence) = (respond::encode_refusal(&refusal), Persistence::Close);
            }
        }
    }
    let at = Instant::now();
    let mut then = match persistence {
        Persistence::Close => Then::Close,
        Persistence::Implied | Persistence::Asked => Then::KeepOpen,
    };
    match exchange::send(&exchange.stream, &bytes) {
        Ok(sent) => drop(bytes.drain(..sent)),
        Err(error) => {
            log::debug!("{} left before its answer: {error}", exchange.caller);
            bytes.clear();
            then = Then::Close;
        }
    }
    if exchange.finish(Answer { at, unsent: bytes, then }) {
        shared.waker.wake();
    }
}

fn answer(request: Request, exchange: &Exchange, handler: &Handler, shared: &Shared) -> Encoded {
    let Request { method, target, headers, body, persistence, .. } = request;
    let wanted = if method == "HEAD" { Wanted::Head } else { Wanted::All };
    // rouille knows no callers without an address.
    let address = exchange.caller.origin.address().unwrap_or(NO_ADDRESS);
    let request = rouille::Request::fake_http_from(address, method, target, headers, body);
    // Asked after the handler, which may have taken long.
    let persistence = || if shared.is_stopping() { Persistence::Close } else { persistence };
    // What a panic leaves half-changed is the handler's own affair; of ours it sees the request,
    // of which only verb and target are read afterwards.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let response = handler(&request, &exchange.caller);
        respond::encode(response, wanted, persistence(), shared.limits.response_bytes)
    }));
    let problem = match outcome {
        Ok(Ok(encoded)) => return encoded,
        Ok(Err(error)) => format!("unusable response: {error}"),
        Err(payload) => {
            shared.tally.count_panic();
            format!("panic: {}", panic_text(payload))
        }
    };
    log::error!("answer {} {}: {problem}", request.method(), request.raw_url());
    respond::encode_failure(persistence())
}
