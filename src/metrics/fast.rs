//! The fast tier: one bulk call that asks no emulator, and the kernel's counters.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{debug, warn};

use crate::config::fixed::SAMPLE_OPEN;
use crate::libvirt::{self, Connection, Groups};
use crate::metrics::files::Files;
use crate::metrics::kernel::{self, Processes};
use crate::metrics::sample::{Device, Fast, SlowGuest, fast_guest};
use crate::metrics::sampler::{Open, Shared};
use crate::sorted::IntoSorted;

/// Starts the thread, which takes a sample for each wish and ends with who wishes.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(shared: Arc<Shared>, open: Open, wanted: Receiver<()>) -> io::Result<()> {
    let limits = &shared.limits;
    let processes = Processes::new(&limits.pid_dir, limits.rare);
    let mut tier = Tier { line: Line::new(open), processes, files: Files::default(), shared };
    let work = move || {
        while tier.line.next(&wanted, tier.shared.limits.idle) {
            let outcome = guarded(|| tier.sample());
            tier.shared.fast_ended(outcome);
        }
    };
    thread::Builder::new().name("metrics-fast".to_owned()).spawn(work)?;
    Ok(())
}

/// What the work returns; a panic in it is an error of this sample alone.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What it leaves half-changed are caches, which are made anew where they are wrong.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err("the metrics sampler panicked".to_owned()))
}

struct Tier {
    line: Line,
    processes: Processes,
    files: Files,
    shared: Arc<Shared>,
}

impl Tier {
    fn sample(&mut self) -> Result<Fast, String> {
        let (stats, at) = self.line.read(|connection| {
            let at = Instant::now();
            Ok((connection.all_stats(Groups::OWN)?, at))
        })?;
        let slow = self.shared.slow();
        let mut guests = BTreeMap::new();
        for stats in &stats {
            let mut guest = fast_guest(stats);
            if let Some(run) = guest.run {
                guest.cpu = self.processes.cpu(&mut self.files, &stats.name, run, at);
            }
            if let Some(slow) = slow.guests.get(&stats.name) {
                guest.devices = devices(&mut self.files, slow);
            }
            guests.insert(stats.name.clone(), guest);
        }
        let names: BTreeSet<&str> = guests.keys().map(String::as_str).into_set();
        self.processes.keep(&names);
        self.files.close_unused();
        Ok(Fast { at, guests })
    }
}

/// The kernel's counters of the devices behind a guest's disks.
fn devices(files: &mut Files, guest: &SlowGuest) -> BTreeMap<String, Device> {
    let disks = guest.disks.iter();
    let devices = disks.filter_map(|(target, disk)| {
        Some((target.clone(), kernel::device(files, disk.device.as_deref()?)?))
    });
    devices.into_map()
}

/// A connection that is there as long as it is used.
pub(super) struct Line {
    open: Open,
    connection: Option<Connection>,
}

impl Line {
    /// Not open yet.
    pub(super) fn new(open: Open) -> Self {
        Self { open, connection: None }
    }

    /// Waits for the next wish; `false` when there will be none. The connection is closed when none
    /// comes for `idle`.
    ///
    /// # Blocking
    /// Until then.
    fn next(&mut self, wanted: &Receiver<()>, idle: Duration) -> bool {
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
