//! The one thread that opens libvirt connections; whoever needs one asks it and waits.
//!
//! An open on a libvirtd that is stopped never returns, nor can it be called off. Here it costs
//! one thread, whose silence tells everybody else not to wait.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::debug;

use crate::config::WatchLimits;
use crate::libvirt::{self, Connection};
use crate::ops::{Error, Health};

/// Opens connections to one libvirt on a thread of its own, which ends with the last handle to it.
#[derive(Debug)]
pub struct Opener {
    asks: Sender<Ask>,
    health: Arc<Health>,
    limits: WatchLimits,
}

/// Somebody wants a connection.
struct Ask {
    /// Nobody waits any more from here on.
    give_up: Instant,
    reply: Sender<Result<Connection, libvirt::Error>>,
}

impl Opener {
    /// Starts the thread, `libvirt-opener`; what it sees of libvirt is noted in `health`. `askers`
    /// is how many threads may ask at once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        uri: &str,
        health: Arc<Health>,
        askers: usize,
        limits: &WatchLimits,
    ) -> io::Result<Self> {
        let (asks, asked) = bounded(askers);
        let thread =
            Thread { uri: uri.to_owned(), asked, health: Arc::clone(&health), pause: limits.pause };
        thread::Builder::new().name("libvirt-opener".to_owned()).spawn(move || thread.serve())?;
        Ok(Self { asks, health, limits: limits.clone() })
    }

    /// What it sees of libvirt.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// A new connection for a job with this deadline. It stops waiting early enough for the job's
    /// caller to hear why; past the deadline, where something is to be undone, it waits as long as
    /// a libvirt at work may take.
    ///
    /// # Errors
    /// What libvirt says; [`Error::Silent`] when it says nothing, at once where that is known.
    ///
    /// # Blocking
    /// Up to `deadline`, but for [`WatchLimits::answer`] where that is past.
    pub fn open(&self, deadline: Instant) -> Result<Connection, Error> {
        let asked = Instant::now();
        let in_time = deadline.checked_sub(self.limits.margin).filter(|&early| early > asked);
        self.open_by(asked, in_time.unwrap_or(asked + self.limits.answer))
    }

    /// Whether libvirt answers now: it does if a connection can be opened.
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
        // Full only with asks that were given up: the open before them takes long.
        if self.asks.try_send(Ask { give_up, reply }).is_err() {
            return Err(self.health.given_up(asked));
        }
        match opened.recv_deadline(give_up) {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(self.health.given_up(asked)),
        }
    }
}

/// The thread's side.
struct Thread {
    uri: String,
    asked: Receiver<Ask>,
    health: Arc<Health>,
    /// Until the next try of its own at a libvirt that refuses.
    pause: Duration,
}

impl Thread {
    /// Serves those who ask. Without any it sleeps; but where libvirt refuses, it looks whether it
    /// is back, so that [`Health`] tells the truth to who asks that alone.
    fn serve(self) {
        let mut refused = false;
        loop {
            let ask = if refused {
                self.asked.recv_timeout(self.pause)
            } else {
                self.asked.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            refused = match ask {
                Ok(ask) if ask.give_up <= Instant::now() => refused,
                Ok(ask) => {
                    let opened = self.open();
                    let refused = opened.is_err();
                    if ask.reply.try_send(opened).is_err() {
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
        // A driver that does not know its version is a driver that answers.
        let version = opened.as_ref().map(|connection| connection.lib_version().ok());
        self.health.opened(version);
        opened
    }
}
