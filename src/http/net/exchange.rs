//! The request of a connection that a handler answers, and how the front learns that it ended.
//!
//! The front keeps the socket and goes on polling it while a handler answers. Most responses fit into
//! the socket, and most callers send their next request after the response: then the handler need not
//! wake the front, because the next request does.

use std::io::{self, Write};
use std::time::Instant;

use parking_lot::Mutex;

use crate::http::socket::Stream;
use crate::os::peer::Caller;
use crate::threads::Reservation;

/// A connection's socket, and which side acts next.
pub(crate) struct Exchange {
    pub(super) stream: Stream,
    pub(super) caller: Caller,
    turn: Mutex<NextActor>,
}

/// The side that acts next. The lock is held for one assignment only.
enum NextActor {
    /// A handler, which wakes the front only for what the front cannot see by itself.
    Handler,
    /// A handler, and the front waits for it to finish.
    HandlerAwaited,
    Front(Option<Answer>),
}

/// What a handler hands to the front when it finishes.
pub(in crate::http) struct Answer {
    /// When the response was written, or its first part was.
    pub(in crate::http) at: Instant,
    /// The bytes that the socket did not take.
    pub(super) unsent: Vec<u8>,
    pub(crate) then: AfterResponse,
    /// The memory of the unsent bytes; dropped with them.
    pub(super) reservation: Option<Reservation>,
}

impl Answer {
    /// Returns whether the front has nothing left to do for this answer.
    fn is_simple(&self) -> bool {
        self.unsent.is_empty() && self.then == AfterResponse::KeepOpen
    }

    /// Closes a connection without a response, or after the whole response was sent.
    pub(crate) fn close() -> Self {
        Self {
            at: Instant::now(),
            unsent: Vec::new(),
            then: AfterResponse::Close,
            reservation: None,
        }
    }
}

/// What happens to the connection when everything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterResponse {
    KeepOpen,
    Close,
}

/// Whether the front waits for a handler, or for the caller alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AwaitedEnd {
    Handler,
    Caller,
}

impl Exchange {
    pub(super) fn new(stream: Stream, caller: Caller) -> Self {
        Self { stream, caller, turn: Mutex::new(NextActor::Front(None)) }
    }

    /// Hands the request to a handler.
    pub(super) fn begin(&self, until: AwaitedEnd) {
        *self.turn.lock() = match until {
            AwaitedEnd::Handler => NextActor::HandlerAwaited,
            AwaitedEnd::Caller => NextActor::Handler,
        };
    }

    /// Hands the connection back to the front. Returns whether this thread must wake the front.
    pub(in crate::http) fn finish(&self, answer: Answer) -> bool {
        let is_simple = answer.is_simple();
        let before = std::mem::replace(&mut *self.turn.lock(), NextActor::Front(Some(answer)));
        !is_simple || matches!(before, NextActor::HandlerAwaited)
    }

    /// Returns when an answer was given after which the connection is idle; `None` without such an
    /// answer.
    pub(super) fn answered_at(&self) -> Option<Instant> {
        match &*self.turn.lock() {
            NextActor::Front(Some(answer)) => answer.is_simple().then_some(answer.at),
            NextActor::Front(None) | NextActor::Handler | NextActor::HandlerAwaited => None,
        }
    }

    /// Takes the answer if there is one. Otherwise, with [`AwaitedEnd::Handler`], the handler wakes the
    /// front at its end.
    pub(super) fn take(&self, until: AwaitedEnd) -> Option<Answer> {
        let mut turn = self.turn.lock();
        match &mut *turn {
            NextActor::Front(answer) => answer.take(),
            NextActor::Handler | NextActor::HandlerAwaited => {
                if until == AwaitedEnd::Handler {
                    *turn = NextActor::HandlerAwaited;
                }
                None
            }
        }
    }
}

/// Writes what the socket takes without blocking, and returns the number of bytes written.
///
/// # Errors
/// When the caller has disconnected.
pub(crate) fn send(mut stream: &Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
