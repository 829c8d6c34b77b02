//! The one request of a connection that a handler has, and how the front learns of its end.
//!
//! The socket stays with the front, which goes on waiting for it while a handler answers. Most
//! answers fit into the socket and most callers send their next request after the answer: then
//! the handler need not wake the front at all, because the next request does.

use std::io::{self, Write};
use std::time::Instant;

use parking_lot::Mutex;

use crate::os::peer::Caller;
use crate::threads::Reservation;

use super::listener::Stream;

/// A connection's socket, and whose turn it is.
pub(super) struct Exchange {
    pub(super) stream: Stream,
    pub(super) caller: Caller,
    turn: Mutex<Turn>,
}

/// Who acts next. The lock is held for an assignment and nothing else.
enum Turn {
    /// A handler; it tells the front only what the front cannot see by itself.
    Handler,
    /// A handler; the front waits for its end.
    HandlerAwaited,
    Front(Option<Answer>),
}

/// What a handler leaves to the front.
pub(super) struct Answer {
    /// When it was written, or begun to be.
    pub(super) at: Instant,
    /// What the socket did not take.
    pub(super) unsent: Vec<u8>,
    pub(super) then: Then,
    /// For what is unsent: dropped with it.
    pub(super) reservation: Option<Reservation>,
}

impl Answer {
    /// Whether nothing is left to be done for it.
    fn is_simple(&self) -> bool {
        self.unsent.is_empty() && self.then == Then::KeepOpen
    }

    /// The end of a connection that gets no answer, or has had all of it.
    pub(super) fn close() -> Self {
        Self { at: Instant::now(), unsent: Vec::new(), then: Then::Close, reservation: None }
    }
}

/// What becomes of the connection when all is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    KeepOpen,
    Close,
}

/// Whether the front waits for a handler's end, or for the caller alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Await {
    Handler,
    Caller,
}

impl Exchange {
    pub(super) fn new(stream: Stream, caller: Caller) -> Self {
        Self { stream, caller, turn: Mutex::new(Turn::Front(None)) }
    }

    /// The front's last word before a handler has the request.
    pub(super) fn begin(&self, until: Await) {
        *self.turn.lock() = match until {
            Await::Handler => Turn::HandlerAwaited,
            Await::Caller => Turn::Handler,
        };
    }

    /// The handler's last word. True: the front must be woken.
    pub(super) fn finish(&self, answer: Answer) -> bool {
        let is_simple = answer.is_simple();
        let before = std::mem::replace(&mut *self.turn.lock(), Turn::Front(Some(answer)));
        !is_simple || matches!(before, Turn::HandlerAwaited)
    }

    /// When an answer was given after which the connection is idle; none where there is no such answer.
    pub(super) fn answered_at(&self) -> Option<Instant> {
        match &*self.turn.lock() {
            Turn::Front(Some(answer)) => answer.is_simple().then_some(answer.at),
            Turn::Front(None) | Turn::Handler | Turn::HandlerAwaited => None,
        }
    }

    /// The answer if there is one; otherwise, with [`Await::Handler`], its end will wake the front.
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

/// Writes what the socket takes without waiting, and returns how many bytes that was.
///
/// # Errors
/// When the caller is gone.
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
