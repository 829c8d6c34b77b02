//! Responses of unknown length, sent in chunks. Each has a thread of its own, so that a long one
//! occupies no handler. Their number is limited, and each must make progress. Listeners of events
//! are counted separately: they stay connected, and a download must not wait for one of them to
//! leave.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use log::Level;

use crate::config::fixed::LAST_EVENTS;
use crate::http::http_stats::{Reason, Refusal};
use crate::http::http1::respond::{Kind, Streamed};
use crate::os::poll::{Interest, PollSet};

use super::exchange::{self, Answer, Exchange};
use super::shared::Shared;

/// The size of one read from a body, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// The size of one read from events, which are short.
const EVENTS_BYTES: usize = 4 * 1024;

const BUSY: Refusal = Refusal { reason: Reason::Busy, sentence: "busy: too many streams" };
const OWN_BUSY: Refusal =
    Refusal { reason: Reason::Busy, sentence: "busy: too many streams of this user" };
const NO_THREAD: Refusal =
    Refusal { reason: Reason::Busy, sentence: "busy: cannot start a thread" };
// If only the close of the connection ended a body, a complete body would look like a broken one.
// Events are never complete.
const NO_CHUNKS: Refusal =
    Refusal { reason: Reason::Version, sentence: "a streamed answer needs HTTP/1.1" };

/// Sends `head` and then `body` on a thread of their own, which ends the exchange.
///
/// # Errors
/// The refusal to send instead, where there are too many streams, or the caller of a content has no
/// chunks (HTTP/1.0).
pub(crate) fn start(
    exchange: &Arc<Exchange>,
    shared: &Arc<Shared>,
    head: Vec<u8>,
    streamed: Streamed,
) -> Result<(), Refusal> {
    let Streamed { body, kind, in_chunks } = streamed;
    if kind == Kind::Content && !in_chunks {
        return Err(NO_CHUNKS);
    }
    let (slots, caller) = (shared.streams.of(kind), exchange.caller.share());
    slots.take(caller).map_err(|full| if full.is_own { OWN_BUSY } else { BUSY })?;
    // A thread that fails to start drops what its closure owns, so the thread gets the exchange and
    // the body only after its start.
    let (give, given) = bounded::<(Stream, Vec<u8>, Box<dyn Read + Send>)>(1);
    let run = move || {
        let Ok((stream, head, body)) = given.recv() else { return };
        if let Err(error) = stream.send_all(&head, body) {
            // Listeners of events disconnect when they want to.
            let level = if kind == Kind::Events { Level::Debug } else { Level::Warn };
            log::log!(level, "stream to {} ended early: {error}", stream.exchange.caller);
        }
    };
    if let Err(error) = thread::Builder::new().name("http-stream".into()).spawn(run) {
        slots.give_back(caller);
        log::error!("cannot start a thread for a stream: {error}");
        return Err(NO_THREAD);
    }
    let (exchange, shared) = (Arc::clone(exchange), Arc::clone(shared));
    let stream = Stream { exchange, shared, kind, in_chunks };
    // The thread waits for this, and the channel has room.
    let _ = give.send((stream, head, body));
    Ok(())
}

/// A response that is being streamed. Dropped, also by a panic of the body's reader, it ends the
/// exchange: the connection is closed, and a body without its last chunk shows that it is broken.
struct Stream {
    exchange: Arc<Exchange>,
    shared: Arc<Shared>,
    kind: Kind,
    in_chunks: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.streams.of(self.kind).give_back(self.exchange.caller.share());
        if self.exchange.finish(Answer::close()) {
            self.shared.waker.wake();
        }
    }
}

impl Stream {
    fn send_all(&self, head: &[u8], mut body: Box<dyn Read + Send>) -> io::Result<()> {
        self.send(head)?;
        let bytes = match self.kind {
            Kind::Content => CHUNK_BYTES,
            Kind::Events => EVENTS_BYTES,
        };
        let mut data = vec![0; bytes];
        let mut chunk = Vec::with_capacity(bytes + 16);
        loop {
            let read = match body.read(&mut data) {
                Ok(0) if self.in_chunks => return self.send(b"0\r\n\r\n"),
                Ok(0) => return Ok(()),
                Ok(count) => data.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if !self.in_chunks {
                self.send(read)?;
                continue;
            }
            chunk.clear();
            chunk.extend_from_slice(format!("{:x}\r\n", read.len()).as_bytes());
            chunk.extend_from_slice(read);
            chunk.extend_from_slice(b"\r\n");
            self.send(&chunk)?;
        }
    }

    /// Sends all of `bytes`. The front shares the socket, which never blocks, so this waits for
    /// room.
    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let sent = exchange::send(&self.exchange.stream, bytes)?;
            bytes = bytes.get(sent..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            self.wait_for_room()?;
        }
    }

    /// # Errors
    /// When the caller reads nothing for [`HttpLimits::stream_progress`](crate::config::HttpLimits),
    /// and during a stop when a listener has not read its last events within [`LAST_EVENTS`]: the
    /// stop waits for all streams.
    ///
    /// # Blocking
    /// Until there is room or one of these times is over.
    fn wait_for_room(&self) -> io::Result<()> {
        let progress_by = Instant::now() + self.shared.limits.stream_progress;
        let mut set = PollSet::default();
        let index = set.add(&self.exchange.stream, Interest::Write);
        while !set.is_ready(index) {
            let now = Instant::now();
            let mut left = progress_by.saturating_duration_since(now);
            if self.kind == Kind::Events {
                // A stop does not wake this wait.
                left = left.min(LAST_EVENTS);
                if let Some(stop) = self.shared.stop.get() {
                    let stop_by = stop.since + LAST_EVENTS;
                    left = left.min(stop_by.saturating_duration_since(now));
                }
            }
            if left == Duration::ZERO {
                return Err(io::Error::new(ErrorKind::TimedOut, "the caller does not read"));
            }
            set.wait(Some(left))?;
        }
        Ok(())
    }
}
