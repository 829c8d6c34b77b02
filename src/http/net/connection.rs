//! The state of one connection of the front.
//!
//! ```text
//! Reading --request--> InFlight --answered, all sent--> Reading
//!                      InFlight --the socket is full--> Writing
//! Reading --refused-----------------------------------> Writing
//!                      Writing --sent, stays open-----> Reading
//!                      Writing --sent, last answer----> Lingering --> closed
//! ```

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use crate::config::fixed::FIRST_REQUEST;
use crate::http::http_stats::{NO_ROOM, Reason, Refusal};
use crate::http::http1::parse::Parser;
use crate::http::http1::request::Request;
use crate::http::http1::respond;
use crate::http::rate_limited_log::RateLimitedLog;
use crate::http::socket::Stream;
use crate::os::peer::Caller;
use crate::os::poll::Interest;
use crate::threads::{ByteBudget, Queue, Reservation};

use super::exchange::{self, AfterResponse, Answer, AwaitedEnd, Exchange};
use super::responder::{Responder, Task};
use super::shared::Shared;

const LATE: Refusal =
    Refusal { reason: Reason::Late, sentence: "the request did not arrive in time" };

/// A connection between its accept and its close.
pub(in crate::http) struct Connection {
    exchange: Arc<Exchange>,
    kind: ConnectionKind,
    parser: Parser,
    phase: Phase,
    /// When the phase began.
    since: Instant,
    /// When the first byte of the request that is being read arrived.
    started: Option<Instant>,
    /// Whether a request was dispatched on this connection.
    has_called: bool,
    /// Memory for the body that arrives, from the budget that the caller's connections share.
    reservation: Reservation,
}

/// Whether a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionKind {
    Served,
    /// The connection is over a limit; it only gets that answer.
    Spare,
}

enum Phase {
    /// Idle, or in the middle of a request.
    Reading,
    /// A handler has a request. With [`AwaitedEnd::Caller`] the front still polls the socket: at its next event
    /// the answer is ready.
    InFlight(AwaitedEnd),
    Writing {
        bytes: Vec<u8>,
        sent: usize,
        then: AfterResponse,
        /// The memory of the bytes; dropped with them.
        _reservation: Option<Reservation>,
    },
    /// Everything is sent. The front reads what the caller still sends, because a close with unread bytes
    /// would reset the connection and could destroy the response before the caller has read it.
    Lingering { bytes_left: usize },
}

/// The result of a step of the connection.
pub(super) enum StepOutcome {
    Open,
    /// A request is complete and is dispatched to a handler.
    Dispatch(Request),
    Closed,
}

/// State that all connections share in one round of the front.
pub(super) struct Round<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) now: Instant,
    /// The buffer into which sockets are read.
    pub(super) scratch: &'a mut [u8],
    /// Limits the log lines about callers with a wrong token, or without one.
    pub(super) bad_tokens: &'a mut RateLimitedLog,
}

impl Connection {
    /// Makes the state of an accepted connection, with the budget of its caller.
    pub(crate) fn new(
        stream: Stream,
        caller: Caller,
        kind: ConnectionKind,
        now: Instant,
        budget: &Arc<ByteBudget>,
    ) -> Self {
        Self {
            reservation: budget.empty(),
            exchange: Arc::new(Exchange::new(stream, caller)),
            kind,
            parser: Parser::default(),
            phase: Phase::Reading,
            since: now,
            started: None,
            has_called: false,
        }
    }

    pub(in crate::http) fn stream(&self) -> &Stream {
        &self.exchange.stream
    }

    /// Returns the caller of this connection.
    pub(in crate::http) fn caller(&self) -> &Caller {
        &self.exchange.caller
    }

    /// Returns the budget of bytes in memory that all connections of the caller share.
    pub(super) fn budget(&self) -> &Arc<ByteBudget> {
        self.reservation.budget()
    }

    pub(in crate::http) fn kind(&self) -> ConnectionKind {
        self.kind
    }

    /// Returns the event of the socket to poll for, if any.
    pub(super) fn interest(&self) -> Option<Interest> {
        match self.phase {
            Phase::Reading | Phase::InFlight(AwaitedEnd::Caller) | Phase::Lingering { .. } => {
                Some(Interest::Read)
            }
            Phase::InFlight(AwaitedEnd::Handler) => None,
            Phase::Writing { .. } => Some(Interest::Write),
        }
    }

    /// Returns when the phase must end. The front does not limit a handler's time; while a handler works the
    /// front checks again after the idle time, because the answer may be ready.
    pub(super) fn deadline(&self, shared: &Shared) -> Option<Instant> {
        let limits = &shared.limits;
        match (&self.phase, self.started) {
            (Phase::Reading, Some(started)) => started.checked_add(limits.request),
            (Phase::Reading, None) => self.idle_until(shared),
            (Phase::InFlight(AwaitedEnd::Caller), _) => self.since.checked_add(limits.idle),
            (Phase::InFlight(AwaitedEnd::Handler), _) => None,
            (Phase::Writing { .. }, _) => self.since.checked_add(limits.write),
            (Phase::Lingering { .. }, _) => self.since.checked_add(limits.linger),
        }
    }

    /// Returns when an idle connection is closed. During a stop a connection that has had a request is
    /// closed at once: its client handles a closed idle connection and opens another. A connection without a
    /// request may have its first one in flight.
    fn idle_until(&self, shared: &Shared) -> Option<Instant> {
        match (shared.stop.get(), self.has_called) {
            (None, _) => self.since.checked_add(shared.limits.idle),
            (Some(stop), false) => stop.since.max(self.since).checked_add(FIRST_REQUEST),
            (Some(_), true) => Some(self.since),
        }
    }

    /// Returns whether no request has started and no response is in flight.
    fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Reading) && self.started.is_none()
    }

    /// Returns since when the connection is idle; `None` if it is not.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        match self.phase {
            // A handler that sent its response at once does not wake the front.
            Phase::InFlight(AwaitedEnd::Caller) => self.exchange.answered_at(),
            _ => self.is_idle().then_some(self.since),
        }
    }

    /// Returns whether every response is sent.
    pub(crate) fn is_served(&self) -> bool {
        self.is_idle() || matches!(self.phase, Phase::Lingering { .. })
    }

    /// Handles an event of the socket.
    pub(super) fn on_ready(&mut self, round: &mut Round<'_>) -> StepOutcome {
        match self.phase {
            Phase::Reading => self.read(round),
            Phase::InFlight(_) => match self.take_answer(AwaitedEnd::Handler, round) {
                // The answer was ready; so this event is the next request.
                StepOutcome::Open if matches!(self.phase, Phase::Reading) => self.read(round),
                outcome => outcome,
            },
            Phase::Writing { .. } => self.write(round),
            Phase::Lingering { .. } => self.discard(round),
        }
    }

    /// Handles the deadline of the phase.
    pub(super) fn on_deadline(&mut self, round: &mut Round<'_>) -> StepOutcome {
        match self.phase {
            Phase::Reading if self.started.is_some() => self.refuse(LATE, round),
            Phase::InFlight(_) => self.take_answer(AwaitedEnd::Handler, round),
            // A request that arrives at the last moment is not lost.
            Phase::Reading => match self.read(round) {
                StepOutcome::Open if self.is_idle() => StepOutcome::Closed,
                outcome => outcome,
            },
            Phase::Writing { .. } | Phase::Lingering { .. } => StepOutcome::Closed,
        }
    }

    /// Takes a handler's answer if there is one. `until` says what to wait for otherwise.
    pub(super) fn take_answer(&mut self, until: AwaitedEnd, round: &mut Round<'_>) -> StepOutcome {
        let Phase::InFlight(awaited) = &mut self.phase else { return StepOutcome::Open };
        match self.exchange.take(until) {
            Some(Answer { at, unsent, then, reservation }) => {
                self.since = at;
                self.phase =
                    Phase::Writing { bytes: unsent, sent: 0, then, _reservation: reservation };
                self.write(round)
            }
            None => {
                if until == AwaitedEnd::Handler {
                    *awaited = AwaitedEnd::Handler;
                }
                StepOutcome::Open
            }
        }
    }

    /// Dispatches the request; returns the responder for its handler.
    pub(super) fn dispatch(
        &mut self,
        request: &Request,
        handlers: &Arc<Queue<Task>>,
        round: &Round<'_>,
    ) -> Responder {
        // The next request is in the buffer already, so the socket will not signal it.
        let until =
            if self.parser.has_started() { AwaitedEnd::Handler } else { AwaitedEnd::Caller };
        self.exchange.begin(until);
        self.has_called = true;
        self.phase = Phase::InFlight(until);
        self.since = round.now;
        let arrival = (self.reservation.take(), round.now);
        Responder::new(request, &self.exchange, round.shared, handlers, arrival)
    }

    /// Answers with the refusal and closes the connection.
    pub(super) fn refuse(&mut self, refusal: Refusal, round: &mut Round<'_>) -> StepOutcome {
        match refusal.reason {
            Reason::Token => {
                if let Some(more) = round.bad_tokens.now(round.now) {
                    let caller = self.caller();
                    log::warn!(
                        "request from {caller} refused: missing or wrong token; suppressed={more}"
                    );
                }
            }
            _ => log::debug!("request from {} refused: {}", self.caller(), refusal.sentence),
        }
        round.shared.stats.count_refusal(refusal.reason);
        self.since = round.now;
        let bytes = respond::encode_refusal(&refusal, self.parser.version());
        // The rest of the refused request is dropped.
        self.parser = Parser::default();
        self.reservation.shrink_to(0);
        self.phase =
            Phase::Writing { bytes, sent: 0, then: AfterResponse::Close, _reservation: None };
        self.write(round)
    }

    fn read(&mut self, round: &mut Round<'_>) -> StepOutcome {
        match read_some(self.stream(), round.scratch) {
            Ok(Some([])) | Err(_) => StepOutcome::Closed,
            Ok(Some(bytes)) => {
                self.parser.push(bytes);
                self.parse(round)
            }
            Ok(None) => StepOutcome::Open,
        }
    }

    fn parse(&mut self, round: &mut Round<'_>) -> StepOutcome {
        let (guard, caller) = (&round.shared.guard, &self.exchange.caller);
        let judge = |request: &Request| guard.judge(request, caller);
        match self.parser.next(&round.shared.limits, judge) {
            Ok(Some(request)) => {
                if !self.reservation.grow_to(request.body.capacity()) {
                    return self.refuse(NO_ROOM, round);
                }
                self.started = None;
                StepOutcome::Dispatch(request)
            }
            Ok(None) => {
                // A body that is announced and does not arrive takes no memory.
                if !self.reservation.grow_to(self.parser.body_capacity()) {
                    return self.refuse(NO_ROOM, round);
                }
                let started = self.started.unwrap_or(round.now);
                self.started = self.parser.has_started().then_some(started);
                if self.parser.take_expectation() {
                    // When the socket has no room for 25 bytes the caller may wait in vain and time out.
                    match exchange::send(self.stream(), respond::CONTINUE) {
                        Ok(0) => {}
                        Ok(sent) if sent == respond::CONTINUE.len() => {}
                        Ok(_) | Err(_) => return StepOutcome::Closed,
                    }
                }
                StepOutcome::Open
            }
            Err(refusal) => self.refuse(refusal, round),
        }
    }

    fn write(&mut self, round: &mut Round<'_>) -> StepOutcome {
        let Phase::Writing { bytes, sent, then, .. } = &mut self.phase else {
            return StepOutcome::Open;
        };
        let rest = bytes.get(*sent..).unwrap_or_default();
        match exchange::send(&self.exchange.stream, rest) {
            Ok(count) => *sent += count,
            Err(_) => return StepOutcome::Closed,
        }
        if *sent < bytes.len() {
            return StepOutcome::Open;
        }
        match then {
            AfterResponse::KeepOpen => {
                // If nothing was left to send, the connection is idle since the handler's answer.
                self.since = if bytes.is_empty() { self.since } else { round.now };
                self.phase = Phase::Reading;
                // A pipelined request may have arrived with the one that is answered now.
                self.parse(round)
            }
            AfterResponse::Close => self.linger(round),
        }
    }

    fn linger(&mut self, round: &mut Round<'_>) -> StepOutcome {
        // A caller that has disconnected needs no more bytes.
        if self.stream().shutdown(Shutdown::Write).is_err() {
            return StepOutcome::Closed;
        }
        self.parser = Parser::default();
        self.phase = Phase::Lingering { bytes_left: round.shared.limits.linger_bytes };
        self.since = round.now;
        StepOutcome::Open
    }

    fn discard(&mut self, round: &mut Round<'_>) -> StepOutcome {
        let Phase::Lingering { bytes_left } = &mut self.phase else { return StepOutcome::Open };
        match read_some(&self.exchange.stream, round.scratch) {
            Ok(Some([])) | Err(_) => return StepOutcome::Closed,
            Ok(Some(bytes)) => *bytes_left = bytes_left.saturating_sub(bytes.len()),
            Ok(None) => {}
        }
        if *bytes_left == 0 { StepOutcome::Closed } else { StepOutcome::Open }
    }
}

/// Reads once; returns `None` when no data is available, and no bytes when the caller has closed its side.
fn read_some<'a>(mut stream: &Stream, scratch: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    match stream.read(scratch) {
        Ok(count) => Ok(scratch.get(..count)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpLimits;
    use crate::http::auth::guard::Guard;
    use crate::http::http_stats::HttpStats;
    use crate::http::net::caller_probe::CallerProbe;
    use crate::http::net::stream_counts::StreamCounts;
    use crate::os::peer::{Origin, Peer};
    use crate::os::poll::Waker;
    use parking_lot::Mutex;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::OnceLock;
    use std::time::Duration;

    fn shared() -> Arc<Shared> {
        let budget = ByteBudget::new(1024);
        Arc::new(Shared {
            others_budget: budget.part(1024),
            budget,
            abandoned: Mutex::default(),
            limits: HttpLimits::default(),
            guard: Guard::default(),
            stats: Arc::new(HttpStats::default()),
            probe: CallerProbe::new().unwrap(),
            waker: Waker::new().unwrap(),
            stop: OnceLock::new(),
            streams: StreamCounts::new(&HttpLimits::default()),
        })
    }

    #[test]
    fn idle_connections_outlive_those_of_go_clients() {
        // net/http.DefaultTransport closes an idle connection after 90 s. When both ends close at once, a
        // request can be lost.
        assert!(HttpLimits::default().idle > Duration::from_secs(90));
    }

    #[test]
    fn bytes_at_the_idle_deadline_are_a_request() {
        let shared = shared();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stream = Stream::Unix(ours);
        stream.prepare().unwrap();
        let caller = Caller { origin: Origin::Socket, peer: Some(Peer { uid: 0, pid: None }) };
        let begin = Instant::now();
        let mut connection =
            Connection::new(stream, caller, ConnectionKind::Served, begin, &shared.others_budget);
        let now = connection.deadline(&shared).unwrap();
        let (mut scratch, mut bad_tokens) = ([0; 256], RateLimitedLog::default());
        let mut round =
            Round { shared: &shared, now, scratch: &mut scratch, bad_tokens: &mut bad_tokens };

        // The bytes arrive after the front has polled the sockets.
        theirs.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let StepOutcome::Dispatch(request) = connection.on_deadline(&mut round) else {
            panic!("the request is thrown away");
        };

        assert_eq!(request.target, "/healthz");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let stream = Stream::Unix(ours);
        stream.prepare().unwrap();
        let mut silent =
            Connection::new(stream, caller, ConnectionKind::Served, begin, &shared.others_budget);
        assert!(matches!(silent.on_deadline(&mut round), StepOutcome::Closed));
    }
}
