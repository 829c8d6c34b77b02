//! Shuts guests down when the host stops: those with the highest `start_order` first, after those without one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info};

use crate::config::fixed::{STOP_AT_ONCE, STOP_TIMEOUT};
use crate::guest::wire::Guest;
use crate::guest::wire::verbs::ShutdownRequest;
use crate::ops::host_start::{Scheduled, scheduled};
use crate::ops::{Error, Libvirt};
use crate::pool::Lane;
use crate::sorted::OrderBy;

/// What became of the guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Guests that ran.
    pub guests: usize,
    /// Of these, those that were forced off.
    pub forced: usize,
    /// Of these, those that may still run.
    pub left: usize,
}

impl Libvirt {
    /// Shuts down all running guests that this agent has made, those of one place side by side, and forces off what does
    /// not shut down within its `stop_timeout`. Guests of other tools are left to those.
    ///
    /// # Errors
    /// What keeps libvirt from telling of its guests.
    ///
    /// # Blocking
    /// For each place of the order as long as its slowest guests take.
    pub fn stop_guests(&self) -> Result<Stopped, Error> {
        let deadline = Instant::now() + self.deadlines.change;
        let mut guests = self.read(Lane::Read, "HostStop", "guests", deadline, scheduled)?;
        guests.retain(|guest| guest.is_active);
        guests.order_by(&|a, b| rank(a).cmp(&rank(b)));
        let mut stopped = Stopped { guests: guests.len(), ..Stopped::default() };
        for place in guests.chunk_by(|a, b| a.order == b.order) {
            let (forced, left) = self.stop_place(place);
            stopped.forced += forced;
            stopped.left += left;
        }
        Ok(stopped)
    }

    /// Shuts these guests down side by side; how many were forced off, and how many may still run.
    fn stop_place(&self, guests: &[Scheduled]) -> (usize, usize) {
        let [next, forced, left] = [const { AtomicUsize::new(0) }; 3];
        let work = || {
            while let Some(guest) = guests.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.stop_guest(guest) {
                    Ok(false) => info!("shut a guest down; guest={:?}", guest.id),
                    Ok(true) => drop(forced.fetch_add(1, Ordering::Relaxed)),
                    Err(why) => {
                        error!("cannot shut a guest down; guest={:?}: {why}", guest.id);
                        left.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        thread::scope(|threads| {
            for _ in 1..guests.len().min(STOP_AT_ONCE) {
                let thread = thread::Builder::new().name("guest-stop".to_owned());
                // Where the system gives no thread those that are there do it all.
                let _ = thread.spawn_scoped(threads, work);
            }
            work();
        });
        (forced.into_inner(), left.into_inner())
    }

    /// Whether it was forced off.
    fn stop_guest(&self, guest: &Scheduled) -> Result<bool, Error> {
        let time = guest.stop_timeout.unwrap_or(STOP_TIMEOUT).max(Duration::from_secs(1)).as_secs();
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

/// Guests with the lowest stop first.
fn rank(guest: &Scheduled) -> u64 {
    if guest.order == 0 { 0 } else { u64::MAX - guest.order }
}
