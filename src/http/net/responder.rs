//! The response to one request: its caller, its memory, and how it is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{fmt, thread};

use crossbeam_channel::TrySendError;

use crate::http::http_stats::{NO_ROOM, Refusal};
use crate::http::http1::request::{Persistence, Request, Version};
use crate::http::http1::respond::{self, EncodeError, Encoded, Wanted};
use crate::os::peer::Caller;
use crate::rpc::Inbound;
use crate::threads::{Queue, Reservation};

use super::exchange::{self, AfterResponse, Answer, Exchange};
use super::shared::Shared;
use super::streams;

/// Memory that an element of a JSON text may take when it is parsed, in bytes: `{},` becomes a NIC of some 200.
const ELEMENT_BYTES: usize = 256;

/// A request for a handler: one that has arrived, or one whose call continues.
pub(crate) struct Task {
    pub(in crate::http) responder: Responder,
    /// The work that a handler does with the request.
    pub(crate) then: Box<dyn FnOnce(Responder) + Send>,
}

/// Sends the response to one request. Dropped without a response, it sends status 500 with an empty body.
pub struct Responder {
    exchange: Arc<Exchange>,
    shared: Arc<Shared>,
    /// The queue of the handlers, which continue the request where this thread may not block.
    handlers: Arc<Queue<Task>>,
    arrived: Instant,
    /// Method and target, for log lines.
    line: Arc<str>,
    /// Bytes that the request takes while it is copied and parsed, and that it keeps while its call waits.
    request_bytes: usize,
    version: Version,
    persistence: Persistence,
    wanted: Wanted,
    /// Memory for the request, and for the response until it is sent.
    reservation: Reservation,
    may_block: bool,
    has_waited: bool,
    has_started: bool,
    /// Set once the caller has disconnected.
    is_abandoned: AtomicBool,
    is_sent: bool,
}

impl Responder {
    /// Makes the responder of a request that has just arrived, for a thread that may not block.
    pub(crate) fn new(
        request: &Request,
        exchange: &Arc<Exchange>,
        shared: &Arc<Shared>,
        handlers: &Arc<Queue<Task>>,
        (reservation, arrived): (Reservation, Instant),
    ) -> Self {
        let elements = request.body.iter().filter(|byte| **byte == b',').count();
        let request_bytes = elements.saturating_mul(ELEMENT_BYTES) + 4 * request.body.len();
        Self {
            exchange: Arc::clone(exchange),
            shared: Arc::clone(shared),
            handlers: Arc::clone(handlers),
            arrived,
            line: format!("{} {}", request.method, request.target).into(),
            request_bytes,
            version: request.version,
            persistence: request.persistence,
            wanted: if request.method == "HEAD" { Wanted::Head } else { Wanted::All },
            reservation,
            may_block: false,
            has_waited: false,
            has_started: false,
            is_abandoned: AtomicBool::new(false),
            is_sent: false,
        }
    }

    /// Returns the caller, as the kernel identifies it.
    pub fn caller(&self) -> &Caller {
        &self.exchange.caller
    }

    /// Returns whether this thread may block for the request.
    pub(in crate::http) fn may_block(&self) -> bool {
        self.may_block
    }

    /// Reserves the memory that the request takes while its call waits; returns `false` if the budget is exhausted.
    pub(super) fn reserve_request(&self) -> bool {
        self.reservation.grow_to(self.request_bytes)
    }

    /// Returns method and target, for log lines.
    pub(super) fn line(&self) -> Arc<str> {
        Arc::clone(&self.line)
    }

    /// Sends what the socket takes at once; the front sends the rest.
    pub fn send(mut self, response: rouille::Response) {
        let limits = &self.shared.limits;
        // A short response is mostly sent at once, and a response of the agent's health must not be refused.
        let room = |bytes| bytes <= limits.answer_bytes || self.reservation.grow_to(bytes);
        let manner = (self.version, self.persistence());
        let encoded = respond::encode(response, self.wanted, manner, limits.response_bytes, room);
        match encoded {
            Ok(encoded) => self.deliver(encoded),
            Err(EncodeError::NoRoom) => self.deliver(self.refusal(&NO_ROOM)),
            Err(EncodeError::Unusable(error)) => {
                log::error!("cannot answer {}: unusable response: {error}", self.line);
            }
        }
    }

    /// Continues on a handler's thread, which may block, once memory is reserved for the request and for the response
    /// of a change, which must not be lost once the change is made. That response holds the guest of the request and
    /// what the agent adds. Only a read has a longer response, and a read can be refused.
    ///
    /// Returns `None` when there is no memory, or when the caller has disconnected and would not learn the outcome of
    /// its request.
    pub(super) fn on_handler_thread(mut self) -> Option<Self> {
        self.may_block = true;
        if self.has_started {
            return Some(self);
        }
        let bytes = self.request_bytes.saturating_add(self.shared.limits.answer_bytes);
        if !self.reservation.grow_to(bytes) {
            self.deliver(self.refusal(&NO_ROOM));
            return None;
        }
        if self.is_abandoned() {
            self.close();
            return None;
        }
        Some(self)
    }

    /// Closes the connection of a caller that has disconnected.
    fn close(mut self) {
        self.shared.log_abandoned(&self.line, self.caller());
        self.is_sent = true;
        self.finish(Answer::close());
    }

    /// Read late, because the call may have taken long and the agent may have started to stop.
    fn persistence(&self) -> Persistence {
        if self.shared.is_stopping() { Persistence::Close } else { self.persistence }
    }

    /// Sends what the socket takes at once and leaves the rest to the front.
    fn deliver(&mut self, encoded: Encoded) {
        self.is_sent = true;
        let (exchange, shared, reservation) = (&self.exchange, &self.shared, &self.reservation);
        let Encoded { mut bytes, mut persistence, stream } = encoded;
        if let Some(streamed) = stream {
            match streams::start(exchange, shared, bytes, streamed) {
                Ok(()) => return,
                Err(refusal) => Encoded { bytes, persistence, .. } = self.refusal(&refusal),
            }
        }
        let at = Instant::now();
        let mut then = match persistence {
            Persistence::Close => AfterResponse::Close,
            Persistence::Implied | Persistence::Asked => AfterResponse::KeepOpen,
        };
        // The memory of the call is free by now, and the caller may send its next request as soon as it has this
        // response.
        reservation.shrink_to(bytes.len());
        match exchange::send(&exchange.stream, &bytes) {
            Ok(sent) => drop(bytes.drain(..sent)),
            Err(error) => {
                let caller = self.caller();
                log::debug!("{caller} disconnected before its response was sent: {error}");
                bytes.clear();
                then = AfterResponse::Close;
            }
        }
        bytes.shrink_to_fit();
        if !reservation.grow_to(bytes.len()) {
            // A request that no handler ran has reserved nothing. Its response is short, and its caller does not read.
            shared.stats.count_refusal(NO_ROOM.reason);
            (bytes, then) = (Vec::new(), AfterResponse::Close);
        }
        reservation.shrink_to(bytes.len());
        let reservation = (!bytes.is_empty()).then(|| reservation.take());
        self.finish(Answer { at, unsent: bytes, then, reservation });
    }

    /// Hands the connection back to the front.
    fn finish(&self, answer: Answer) {
        if self.exchange.finish(answer) {
            self.shared.waker.wake();
        }
    }

    /// Encodes a refusal in place of the response.
    fn refusal(&self, refusal: &Refusal) -> Encoded {
        self.shared.stats.count_refusal(refusal.reason);
        let bytes = respond::encode_refusal(refusal, self.version);
        Encoded { bytes, persistence: Persistence::Close, stream: None }
    }
}

impl Inbound for Responder {
    fn caller(&self) -> &Caller {
        &self.exchange.caller
    }

    fn is_abandoned(&self) -> bool {
        // Relaxed: the flag says nothing about other memory.
        if self.is_abandoned.load(Ordering::Relaxed) {
            return true;
        }
        let is_abandoned = self.shared.probe.has_disconnected(&self.exchange);
        // Several threads of a batch may see it; only the first counts it.
        if is_abandoned && !self.is_abandoned.swap(true, Ordering::Relaxed) {
            self.shared.stats.count_abandoned();
        }
        is_abandoned
    }

    fn may_be_abandoned(&self) -> bool {
        self.is_abandoned() || self.shared.probe.may_have_left(&self.exchange)
    }

    fn reserve_answer(&self, answer_bytes: usize) -> bool {
        self.reservation.grow_to(respond::room_of(answer_bytes))
    }

    fn arrived(&self) -> Instant {
        self.arrived
    }

    fn park(&mut self, has_started: bool) {
        (self.may_block, self.has_waited, self.has_started) = (false, true, has_started);
        if !has_started {
            self.reservation.shrink_to(self.request_bytes);
        }
    }

    fn on_handler(self, then: impl FnOnce(Self) + Send + 'static) {
        if self.may_block {
            return then(self);
        }
        let (queue, has_waited) = (Arc::clone(&self.handlers), self.has_waited);
        let task = Task { responder: self, then: Box::new(then) };
        let put = if has_waited { queue.put_first(task) } else { queue.put(task) };
        match put {
            Ok(_wake) => {}
            // The agent stops: a call that has started notices it, and ends.
            Err(TrySendError::Disconnected(task)) if task.responder.has_started => {
                (task.then)(task.responder);
            }
            // The front has ended, and its connections with it.
            Err(TrySendError::Disconnected(mut task)) => task.responder.is_sent = true,
            // Never full: the queue has room for the one request of each connection.
            Err(TrySendError::Full(_)) => {}
        }
    }
}

// Shows the caller alone.
impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("caller", self.caller()).finish_non_exhaustive()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.is_sent {
            if thread::panicking() {
                self.shared.stats.count_panic();
            }
            self.deliver(respond::encode_failure(self.version, self.persistence()));
        }
    }
}
