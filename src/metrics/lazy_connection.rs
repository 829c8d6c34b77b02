//! A connection of the sampler to libvirt, which is open only while it is used.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{debug, warn};

use crate::config::fixed::SAMPLE_OPEN;
use crate::libvirt::{self, Connection};

/// Opens a connection to libvirt before the given moment, or returns the reason of the failure.
pub type Open = Arc<dyn Fn(Instant) -> Result<Connection, String> + Send + Sync>;

/// A connection that is open only while it is used.
pub(super) struct LazyConnection {
    open: Open,
    connection: Option<Connection>,
}

impl LazyConnection {
    /// Makes a closed connection.
    pub(super) fn new(open: Open) -> Self {
        Self { open, connection: None }
    }

    /// Waits for the next request; returns `false` when there will be none. The connection is
    /// closed when no request arrives for `idle`.
    ///
    /// # Blocking
    /// Until the next request, or until the channel closes.
    pub(super) fn next(&mut self, wanted: &Receiver<()>, idle: Duration) -> bool {
        if self.connection.is_some() {
            match wanted.recv_timeout(idle) {
                Ok(()) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    self.close();
                    debug!("metrics: closed the idle connection to libvirt");
                }
            }
        }
        wanted.recv().is_ok()
    }

    /// Runs `call`, and repeats it on a new connection if the old one is lost.
    ///
    /// # Errors
    /// libvirt's error.
    ///
    /// # Blocking
    /// As long as `call` blocks, and up to [`SAMPLE_OPEN`] for a connection.
    pub(super) fn read<T>(
        &mut self,
        mut call: impl FnMut(&Connection) -> Result<T, libvirt::Error>,
    ) -> Result<T, String> {
        if self.connection.as_ref().is_some_and(|connection| !connection.is_alive()) {
            self.close();
        }
        match call(self.connection()?) {
            Err(error) if error.connection_lost() => {
                warn!("metrics: libvirt connection lost during a call; retrying: {error}");
                self.close();
                call(self.connection()?)
            }
            outcome => outcome,
        }
        .map_err(|error| error.to_string())
    }

    fn connection(&mut self) -> Result<&Connection, String> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert((self.open)(Instant::now() + SAMPLE_OPEN)?)),
        }
    }

    fn close(&mut self) {
        if let Some(Err(error)) = self.connection.take().map(Connection::release) {
            debug!("metrics: cannot close the connection to libvirt: {error}");
        }
    }
}

/// Runs the work; a panic in it fails this sample alone.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // A panic can leave only caches half-changed, which are rebuilt when they are wrong.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err("the metrics sampler panicked".to_owned()))
}
