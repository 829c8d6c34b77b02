//! Samples of all guests: taken when one is wanted and the last is old, shared by all who wait.
//!
//! ```text
//! scrape ── wants ──► metrics-fast   one bulk call, the kernel's counters      waited for, shortly
//!        └─ wants ──► metrics-slow ──► metrics-ask-N   one call on a connection of its own
//! ```
//! Nobody wants anything: all sleep, and after a while the connections are closed.

use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io};

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::config::MetricsConfig;
use crate::metrics::latest::{Shared, State, View};
use crate::metrics::lazy_connection::Open;
use crate::metrics::slow::{Changing, OnStuck};
use crate::metrics::{fast, slow};

/// Takes samples and keeps the last ones. Its threads end with it.
pub struct Sampler {
    shared: Arc<Shared>,
    fast: Sender<()>,
    slow: Sender<()>,
}

impl Sampler {
    /// Starts the threads, `metrics-fast` and `metrics-slow`, which sleep until the first sample is
    /// wanted.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        limits: &MetricsConfig,
        open: Open,
        changing: Changing,
        on_stuck: OnStuck,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            limits: limits.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        // One wish is as good as many.
        let (fast, fast_wanted) = bounded(1);
        let (slow, slow_wanted) = bounded(1);
        fast::start(Arc::clone(&shared), Arc::clone(&open), fast_wanted)?;
        slow::start(Arc::clone(&shared), open, changing, on_stuck, slow_wanted)?;
        Ok(Self { shared, fast, slow })
    }

    /// All that is known, after a try to have it fresh: a fast sample older than
    /// [`MetricsConfig::max_age`] is taken anew, once for all who wait for it; a slow one that is
    /// due is begun, and waited for only where the last is long past.
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

    /// All that is known, from memory.
    pub fn last(&self) -> View {
        self.shared.state.lock().view(Instant::now(), &self.shared.limits)
    }

    fn want_fast(&self, state: &mut State, now: Instant) {
        if !state.fast_running {
            state.fast_running = true;
            state.fast_wanted = Some(now);
            // Not full: none runs, and so none is wanted. Closed only after a panic there.
            let _ = self.fast.try_send(());
        }
    }

    /// Whether to wait for it.
    fn want_slow(&self, state: &mut State, now: Instant) -> bool {
        let limits = &self.shared.limits;
        if state.slow_is_due(now, limits) && !state.slow_running {
            state.slow_running = true;
            state.slow_wanted = Some(now);
            // As in `want_fast`.
            let _ = self.slow.try_send(());
        }
        let has_begun = state.slow_wanted.is_some_and(|at| now < at + limits.wait);
        has_begun && state.slow.at.is_none_or(|at| now >= at + 2 * limits.slow_interval)
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").finish_non_exhaustive()
    }
}
