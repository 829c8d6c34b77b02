//! The request of a connection that a handler answers, and how the front learns that it ended.
//!
//! The front keeps the socket and goes on polling it while a handler answers. Most responses fit into
//! the socket, and most callers send their next request after the response: then the handler need not
//! wake the front, because the next request does.

use std::io::{self, Write};
use std::time::Instant;

use parking_lot::Mutex;

use crate::os::peer::Caller;
use crate::threads::Reservation;

use super::listener::Stream;

/// A connection's socket, and which side acts next.
pub(super) struct Exchange {
    pub(super) stream: Stream,
    pub(super) caller: Caller,
    turn: Mutex<Turn>,
}

/// The side that acts next. The lock is held for one assignment only.
enum Turn {
    /// A handler, which wakes the front only for what the front cannot see by itself.
    Handler,
    /// A handler, and the front waits for it to finish.
    HandlerAwaited,
    Front(Option<Answer>),
}

/// What a handler hands to the front when it finishes.
pub(super) struct Answer {
    /// When the response was written, or its first part was.
    pub(super) at: Instant,
    /// The bytes that the socket did not take.
    pub(super) unsent: Vec<u8>,
    pub(super) then: Then,
    /// The memory of the unsent bytes; dropped with them.
    pub(super) reservation: Option<Reservation>,
}

impl Answer {
    /// Returns whether the front has nothing left to do for this answer.
    fn is_simple(&self) -> bool {
        self.unsent.is_empty() && self.then == Then::KeepOpen
    }

    /// Closes a connection without a response, or after the whole response was sent.
    pub(super) fn close() -> Self {
        Self { at: Instant::now(), unsent: Vec::new(), then: Then::Close, reservation: None }
    }
}

/// What happens to the connection when everything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    KeepOpen,
    Close,
}

/// Whether the front waits for a handler, or for the caller alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Await {
    Handler,
    Caller,
}

impl Exchange {
    pub(super) fn new(stream: Stream, caller: Caller) -> Self {
        Self { stream, caller, turn: Mutex::new(Turn::Front(None)) }
    }

    /// Hands the request to a handler.
    pub(super) fn begin(&self, until: Await) {
        *self.turn.lock() = match until {
            Await::Handler => Turn::HandlerAwaited,
            Await::Caller => Turn::Handler,
        };
    }

    /// Hands the connection back to the front. Returns `true` when the caller must wake the front.
    pub(super) fn finish(&self, answer: Answer) -> bool {
        let is_simple = answer.is_simple();
        let before = std::mem::replace(&mut *self.turn.lock(), Turn::Front(Some(answer)));
        !is_simple || matches!(before, Turn::HandlerAwaited)
    }

    /// Returns when an answer was given after which the connection is idle; `None` without such an
    /// answer.
    pub(super) fn answered_at(&self) -> Option<Instant> {
        match &*self.turn.lock() {
            Turn::Front(Some(answer)) => answer.is_simple().then_some(answer.at),
            Turn::Front(None) | Turn::Handler | Turn::HandlerAwaited => None,
        }
    }

    /// Takes the answer if there is one. Otherwise, with [`Await::Handler`], the handler wakes the
    /// front at its end.
    pub(super) fn take(&self, until: Await) -> Option<Answer> {
        let mut turn = self.turn.lock();
        match &mut *turn {
            Turn::Front(answer) => answer.take(),
            Turn::Handler | Turn::HandlerAwaited => {
                if until == Await::Handler {
                    *turn = Turn::HandlerAwaited;
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
pub(super) fn send(mut stream: &Stream, bytes: &[u8]) -> io::Result<usize> {
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
