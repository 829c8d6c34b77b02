//! A connection of the sampler to libvirt, which is there as long as it is used.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{debug, warn};

use crate::config::fixed::SAMPLE_OPEN;
use crate::libvirt::{self, Connection};

/// Opens a connection to libvirt, by the given moment or not at all; or says why not.
pub type Open = Arc<dyn Fn(Instant) -> Result<Connection, String> + Send + Sync>;

/// A connection that is there as long as it is used.
pub(super) struct LazyConnection {
    open: Open,
    connection: Option<Connection>,
}

impl LazyConnection {
    /// Not open yet.
    pub(super) fn new(open: Open) -> Self {
        Self { open, connection: None }
    }

    /// Waits for the next wish; `false` when there will be none. The connection is closed when none
    /// comes for `idle`.
    ///
    /// # Blocking
    /// Until then.
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

    /// Runs `call`, once more on a new connection where the old one turns out to be lost.
    ///
    /// # Errors
    /// What libvirt says.
    ///
    /// # Blocking
    /// As `call`, and [`SAMPLE_OPEN`] for a connection.
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

/// What the work returns; a panic in it is an error of this sample alone.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What it leaves half-changed are caches, which are made anew where they are wrong.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err("the metrics sampler panicked".to_owned()))
}
