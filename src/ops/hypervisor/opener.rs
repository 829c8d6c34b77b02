//! The one thread that opens libvirt connections. Other threads send it a request and wait.
//!
//! An open on a stopped libvirtd never returns, and cannot be cancelled. Here it blocks one thread
//! only, and its silence tells all other threads not to wait.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::debug;

use crate::config::WatchLimits;
use crate::libvirt::{self, Connection};
use crate::ops::{Error, Health};

/// Opens connections to one libvirt on a thread of its own. The thread ends when the last handle is
/// dropped.
#[derive(Debug)]
pub struct Opener {
    requests: Sender<Request>,
    health: Arc<Health>,
    limits: WatchLimits,
}

/// A request for a connection.
struct Request {
    /// The time at which the caller stops waiting.
    give_up: Instant,
    reply: Sender<Result<Connection, libvirt::Error>>,
}

impl Opener {
    /// Starts the thread, `libvirt-opener`, which records the state of libvirt in `health`. At most
    /// `askers` threads may wait at once.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub fn start(
        uri: &str,
        health: Arc<Health>,
        askers: usize,
        limits: &WatchLimits,
    ) -> io::Result<Self> {
        let (requests, receiver) = bounded(askers);
        let thread = Thread {
            uri: uri.to_owned(),
            requests: receiver,
            health: Arc::clone(&health),
            pause: limits.pause,
        };
        thread::Builder::new().name("libvirt-opener".to_owned()).spawn(move || thread.serve())?;
        Ok(Self { requests, health, limits: limits.clone() })
    }

    /// Returns the state of libvirt that the thread last saw.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Opens a connection for a job with this deadline. The wait ends early enough for the job's
    /// caller to get the reason. After the deadline, when a job undoes a change, it waits as long
    /// as a working libvirt may take.
    ///
    /// # Errors
    /// Errors of libvirt; [`Error::Silent`] if it does not answer, at once if that is known.
    ///
    /// # Blocking
    /// Up to `deadline`; after that, up to [`WatchLimits::answer`].
    pub fn open(&self, deadline: Instant) -> Result<Connection, Error> {
        let asked = Instant::now();
        let in_time = deadline.checked_sub(self.limits.margin).filter(|&early| early > asked);
        self.open_by(asked, in_time.unwrap_or(asked + self.limits.answer))
    }

    /// Checks whether libvirt answers now, by opening a connection.
    ///
    /// # Errors
    /// As [`Opener::open`].
    ///
    /// # Blocking
    /// Up to [`WatchLimits::answer`].
    pub fn probe(&self) -> Result<(), Error> {
        let asked = Instant::now();
        self.open_by(asked, asked + self.limits.answer).map(drop)
    }

    fn open_by(&self, asked: Instant, give_up: Instant) -> Result<Connection, Error> {
        self.health.may_answer()?;
        let (reply, opened) = bounded(1);
        // The channel is full only with abandoned requests, behind an open that takes long.
        if self.requests.try_send(Request { give_up, reply }).is_err() {
            return Err(self.health.given_up(asked));
        }
        match opened.recv_deadline(give_up) {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(self.health.given_up(asked)),
        }
    }
}

/// The state of the thread.
struct Thread {
    uri: String,
    requests: Receiver<Request>,
    health: Arc<Health>,
    /// The pause between two tries while libvirt refuses.
    pause: Duration,
}

impl Thread {
    /// Serves requests, and sleeps without any. While libvirt refuses, it also tries on its own, so
    /// that [`Health`] is up to date for callers that only read it.
    fn serve(self) {
        let mut refused = false;
        loop {
            let request = if refused {
                self.requests.recv_timeout(self.pause)
            } else {
                self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            refused = match request {
                Ok(request) if request.give_up <= Instant::now() => refused,
                Ok(request) => {
                    let opened = self.open();
                    let refused = opened.is_err();
                    if request.reply.try_send(opened).is_err() {
                        debug!("closed a connection that opened too late; uri={}", self.uri);
                    }
                    refused
                }
                Err(RecvTimeoutError::Timeout) => self.open().is_err(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
        }
    }

    fn open(&self) -> Result<Connection, libvirt::Error> {
        self.health.opening();
        let opened = Connection::open(&self.uri);
        // A driver that does not know its version has answered, too.
        let version = opened.as_ref().map(|connection| connection.lib_version().ok());
        self.health.opened(version);
        opened
    }
}
