//! Samples of all guests: taken on request if the last is old, and shared by all waiting requests.
//!
//! ```text
//! scrape ── wants ──► metrics-fast   one bulk call, the kernel's counters      waited for, briefly
//!        └─ wants ──► metrics-slow ──► metrics-ask-N   one call on a connection of its own
//! ```
//! Without requests all threads sleep, and after a while the connections are closed.

use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io};

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::config::MetricsConfig;
use crate::metrics::latest::{SamplerState, Shared, View};
use crate::metrics::lazy_connection::Open;
use crate::metrics::slow::{Changing, StuckCallback};
use crate::metrics::{fast, slow};

/// Takes samples and stores the last ones. Its threads end when it is dropped.
pub struct Sampler {
    shared: Arc<Shared>,
    fast: Sender<()>,
    slow: Sender<()>,
}

impl Sampler {
    /// Starts the threads, `metrics-fast` and `metrics-slow`, which sleep until the first sample is
    /// requested.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(
        limits: &MetricsConfig,
        open: Open,
        changing: Changing,
        on_stuck: StuckCallback,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            limits: limits.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        // One queued request serves all callers.
        let (fast, fast_wanted) = bounded(1);
        let (slow, slow_wanted) = bounded(1);
        fast::start(Arc::clone(&shared), Arc::clone(&open), fast_wanted)?;
        slow::start(Arc::clone(&shared), open, changing, on_stuck, slow_wanted)?;
        Ok(Self { shared, fast, slow })
    }

    /// Returns all values, after an attempt to refresh them. A fast sample older than
    /// [`MetricsConfig::max_age`] is taken anew, once for all waiting callers. A slow sample is
    /// started if it is due, and waited for only if the last one is long past.
    ///
    /// # Blocking
    /// Up to [`MetricsConfig::wait`].
    pub fn view(&self) -> View {
        let (now, limits) = (Instant::now(), &self.shared.limits);
        let give_up = now + limits.wait;
        let mut state = self.shared.state.lock();
        let waits_for_slow = self.want_slow(&mut state, now);
        if state.fast.as_ref().is_none_or(|fast| now > fast.at + limits.max_age) {
            self.want_fast(&mut state, now);
            let before = state.fast_ended;
            while state.fast_ended == before {
                if self.shared.changed.wait_until(&mut state, give_up).timed_out() {
                    break;
                }
            }
        }
        while waits_for_slow && state.slow_running {
            if self.shared.changed.wait_until(&mut state, give_up).timed_out() {
                break;
            }
        }
        state.view(Instant::now(), limits)
    }

    /// Returns all values, from memory.
    pub fn last(&self) -> View {
        self.shared.state.lock().view(Instant::now(), &self.shared.limits)
    }

    fn want_fast(&self, state: &mut SamplerState, now: Instant) {
        if !state.fast_running {
            state.fast_running = true;
            state.fast_wanted = Some(now);
            // The channel is not full: no sample runs, so no request is queued. It is closed only
            // after a panic of the thread.
            let _ = self.fast.try_send(());
        }
    }

    /// Requests a slow sample if it is due; returns whether to wait for one.
    fn want_slow(&self, state: &mut SamplerState, now: Instant) -> bool {
        let limits = &self.shared.limits;
        if state.slow_is_due(now, limits) && !state.slow_running {
            state.slow_running = true;
            state.slow_wanted = Some(now);
            // The channel is not full, as in `want_fast`.
            let _ = self.slow.try_send(());
        }
        let was_just_requested = state.slow_wanted.is_some_and(|at| now < at + limits.wait);
        was_just_requested && state.slow.at.is_none_or(|at| now >= at + 2 * limits.slow_interval)
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").finish_non_exhaustive()
    }
}
