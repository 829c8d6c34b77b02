//! Shuts guests down when the host stops: first guests without a `start_order`, then the highest `start_order` first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use log::{error, info};
use parking_lot::Mutex;

use crate::config::fixed::{
    HOST_STOP, HOST_STOP_LEAST, HOST_STOP_ROUNDS, SHUTDOWN_LOOK, SHUTDOWN_WAIT_MAX, STOP_AT_ONCE,
    STOP_TIMEOUT,
};
use crate::guest::wire::Guest;
use crate::guest::wire::verbs::ShutdownRequest;
use crate::ops::guests::host_start::{Scheduled, scheduled};
use crate::ops::{Error, Guests};
use crate::pool::Lane;
use crate::sorted::OrderBy;

/// The outcome of the stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The number of guests that are off.
    pub off: usize,
    /// The number of these guests that were forced off.
    pub forced: usize,
    /// The ids of guests that may still run.
    pub left: Vec<String>,
}

impl Guests {
    /// Shuts down all running guests that this agent has made, guests of the same `start_order` in parallel. Forces off
    /// each guest that does not shut down within its `stop_timeout`. Guests of other tools stay untouched.
    ///
    /// # Errors
    /// Errors of libvirt's list of guests.
    ///
    /// # Blocking
    /// For each `start_order`, until its slowest guest is off; at most [`HOST_STOP`], and the time to force the last
    /// guests off.
    pub fn stop_guests(&self) -> Result<Stopped, Error> {
        let end = Instant::now() + HOST_STOP;
        // The agent forces a guest off only while it receives libvirt's events.
        self.core.events.subscription(Instant::now() + SHUTDOWN_LOOK);
        let mut stopped = Stopped::default();
        for _ in 0..HOST_STOP_ROUNDS {
            let (mut guests, unknown) = self.running()?;
            stopped.left = unknown;
            if guests.is_empty() {
                break;
            }
            guests.order_by(&|a, b| rank(a).cmp(&rank(b)));
            for group in guests.chunk_by(|a, b| a.order == b.order) {
                let round = self.stop_group(group, end);
                stopped.off += round.off;
                stopped.forced += round.forced;
                stopped.left.extend(round.left);
            }
            // Somebody may have started another guest meanwhile.
        }
        Ok(stopped)
    }

    /// Returns the running guests of this agent, and the ids of running guests that libvirt does not describe. Tries
    /// twice if libvirt does not answer.
    fn running(&self) -> Result<(Vec<Scheduled>, Vec<String>), Error> {
        let ask = || {
            let deadline = Instant::now() + self.core.deadlines.change;
            self.core.read(Lane::Read, "HostStop", "guests", deadline, scheduled)
        };
        let (mut guests, unknown) = ask().or_else(|_| ask())?;
        guests.retain(|guest| guest.is_active);
        Ok((guests, unknown))
    }

    /// Shuts these guests down in parallel.
    fn stop_group(&self, guests: &[Scheduled], end: Instant) -> Stopped {
        let (next, stopped) = (AtomicUsize::new(0), Mutex::new(Stopped::default()));
        let work = || {
            while let Some(guest) = guests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcome = self.stop_guest(guest, end);
                let mut stopped = stopped.lock();
                match outcome {
                    Ok(was_forced) => {
                        stopped.off += 1;
                        stopped.forced += usize::from(was_forced);
                        info!("a guest is off; guest={:?} forced={was_forced}", guest.id);
                    }
                    Err(why) => {
                        error!("cannot shut a guest down; guest={:?}: {why}", guest.id);
                        stopped.left.push(guest.id.clone());
                    }
                }
            }
        };
        thread::scope(|threads| {
            for _ in 1..guests.len().min(STOP_AT_ONCE) {
                let thread = thread::Builder::new().name("guest-stop".to_owned());
                // If the system refuses a thread, the threads that run do all the work.
                let _ = thread.spawn_scoped(threads, work);
            }
            work();
        });
        stopped.into_inner()
    }

    /// Shuts a guest down; returns whether it was forced off.
    fn stop_guest(&self, guest: &Scheduled, end: Instant) -> Result<bool, Error> {
        let left = end.saturating_duration_since(Instant::now());
        let time = guest.stop_timeout.unwrap_or(STOP_TIMEOUT).min(left);
        let time = time.as_secs().max(HOST_STOP_LEAST.as_secs()).min(SHUTDOWN_WAIT_MAX.as_secs());
        let named = Guest { id: guest.id.clone(), ..Guest::default() };
        let request = ShutdownRequest {
            guest: Some(named),
            wait: Some(time),
            force_after: Some(time),
            ..ShutdownRequest::default()
        };
        Ok(self.shutdown(request, &|| false)?.forced)
    }
}

/// Returns the sort key; guests with the lowest rank stop first.
fn rank(guest: &Scheduled) -> u64 {
    if guest.order == 0 { 0 } else { u64::MAX - guest.order }
}
