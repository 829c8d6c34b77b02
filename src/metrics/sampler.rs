//! Samples of all guests: taken when one is wanted and the last is old, shared by all who wait.
//!
//! ```text
//! scrape ── wants ──► metrics-fast   one bulk call, the kernel's counters      waited for, shortly
//!        └─ wants ──► metrics-slow ──► metrics-ask-N   one call on a connection of its own
//! ```
//! Nobody wants anything: all sleep, and after a while the connections are closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::config::MetricsConfig;
use crate::libvirt::Connection;
use crate::metrics::fast;
use crate::metrics::sample::{Fast, FastGuest, SlowGuest};
use crate::metrics::slow;
use crate::sorted::Table;

/// Opens a connection to libvirt, by the given moment or not at all; or says why not.
pub type Open = Arc<dyn Fn(Instant) -> Result<Connection, String> + Send + Sync>;

/// Names the guests that are being changed right now.
pub type Changing = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Told of each guest whose emulator answers no more (`true`), and when it answers again or has
/// ended.
pub type OnStuck = Arc<dyn Fn(&str, bool) + Send + Sync>;

/// Takes samples and keeps the last ones. Its threads end with it.
pub struct Sampler {
    shared: Arc<Shared>,
    fast: Sender<()>,
    slow: Sender<()>,
}

/// What the sampler and its threads have in common.
pub(super) struct Shared {
    pub(super) limits: MetricsConfig,
    state: Mutex<State>,
    /// A sample ended.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    fast: Option<Arc<Fast>>,
    /// Why the last fast sample could not be taken.
    error: Option<String>,
    /// Fast samples that ended, also those in vain.
    fast_ended: u64,
    fast_failed: u64,
    /// When the fast sample that runs, or ran last, was wanted.
    fast_wanted: Option<Instant>,
    fast_running: bool,
    fast_took: Duration,
    slow: Arc<Slow>,
    slow_wanted: Option<Instant>,
    slow_running: bool,
}

/// What is known by slow samples.
#[derive(Clone, Debug, Default)]
pub struct Slow {
    /// Guests by name, each as it was last answered for.
    pub guests: BTreeMap<String, SlowGuest>,
    /// Metadata of guests by name: a value for each of the configured names.
    pub metadata: Table<String, Vec<String>>,
    /// Guests whose emulator does not answer, since when.
    pub stuck: BTreeMap<String, Instant>,
    /// Guests that were left out of the last sample, and why.
    pub left_out: BTreeMap<String, LeftOut>,
    /// When the last sample that succeeded began.
    pub at: Option<Instant>,
    /// How long that took.
    pub took: Duration,
    /// Samples that ended in order, failed, and came late.
    pub ended: u64,
    /// See above.
    pub failed: u64,
    /// See above.
    pub late: u64,
    /// Calls that are late now: each ends when the emulator that it asks does something.
    pub late_now: usize,
}

/// Why a guest was left out of a slow sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// A verb is changing it.
    Changing,
    /// Its emulator does not answer.
    Stuck,
}

/// All that is known at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The moment.
    pub now: Instant,
    /// The last fast sample; `None` before the first and when that is too old to be shown.
    pub fast: Option<Arc<Fast>>,
    /// Why there is no newer one: `None` where the last try succeeded.
    pub error: Option<String>,
    /// Fast samples that ended, and those of them that failed.
    pub fast_ended: u64,
    /// See above.
    pub fast_failed: u64,
    /// How long the last one took.
    pub fast_took: Duration,
    /// What slow samples know.
    pub slow: Arc<Slow>,
    /// As [`MetricsConfig::keep`].
    keep: Duration,
}

/// One guest of a [`View`].
#[derive(Clone, Copy, Debug)]
pub struct GuestView<'v> {
    /// Its name.
    pub name: &'v str,
    /// By the fast sample.
    pub fast: &'v FastGuest,
    /// By a slow sample of the same run that is not too old to be shown.
    pub slow: Option<&'v SlowGuest>,
}

impl View {
    /// The guests by name.
    pub fn guests(&self) -> impl Iterator<Item = GuestView<'_>> {
        let guests = self.fast.iter().flat_map(|fast| fast.guests.iter());
        guests.map(|(name, fast)| GuestView { name, fast, slow: self.slow_of(name, fast) })
    }

    /// One guest.
    pub fn guest(&self, name: &str) -> Option<GuestView<'_>> {
        let (name, fast) = self.fast.as_ref()?.guests.get_key_value(name)?;
        Some(GuestView { name, fast, slow: self.slow_of(name, fast) })
    }

    /// How old what this moment was read is now.
    pub fn age(&self, at: Instant) -> Duration {
        self.now.saturating_duration_since(at)
    }

    /// A view of these samples, taken in order.
    #[cfg(test)]
    pub(crate) fn of(now: Instant, fast: Fast, slow: Slow) -> Self {
        Self {
            now,
            fast: Some(Arc::new(fast)),
            error: None,
            fast_ended: 9,
            fast_failed: 2,
            fast_took: Duration::from_millis(1),
            slow: Arc::new(slow),
            keep: MetricsConfig::default().keep,
        }
    }

    /// Values of another run are not this one's: its counters began anew.
    fn slow_of(&self, name: &str, fast: &FastGuest) -> Option<&SlowGuest> {
        let slow = self.slow.guests.get(name)?;
        (slow.run == fast.run && self.age(slow.at) < self.keep).then_some(slow)
    }
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

impl State {
    fn slow_is_due(&self, now: Instant, limits: &MetricsConfig) -> bool {
        self.slow_wanted.is_none_or(|at| now >= at + limits.slow_interval * 9 / 10)
    }

    fn view(&self, now: Instant, limits: &MetricsConfig) -> View {
        let fast = self.fast.as_ref().filter(|fast| now < fast.at + limits.keep).map(Arc::clone);
        let silent = || {
            let wanted = self.fast_wanted.filter(|_| self.fast_running)?;
            (now >= wanted + limits.wait).then(|| "libvirt does not answer".to_owned())
        };
        View {
            now,
            fast,
            error: self.error.clone().or_else(silent),
            fast_ended: self.fast_ended,
            fast_failed: self.fast_failed,
            fast_took: self.fast_took,
            slow: Arc::clone(&self.slow),
            keep: limits.keep,
        }
    }
}

impl Shared {
    /// A fast sample ended: what it saw, or why it saw nothing.
    pub(super) fn fast_ended(&self, outcome: Result<Fast, String>) {
        let mut state = self.state.lock();
        state.fast_running = false;
        state.fast_ended += 1;
        match outcome {
            Ok(fast) => {
                state.fast_took = fast.at.elapsed();
                state.fast = Some(Arc::new(fast));
                state.error = None;
            }
            Err(why) => {
                state.fast_failed += 1;
                state.error = Some(why);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A slow sample ended, and this is what is known now.
    pub(super) fn slow_ended(&self, slow: Slow) {
        let mut state = self.state.lock();
        state.slow_running = false;
        state.slow = Arc::new(slow);
        drop(state);
        self.changed.notify_all();
    }

    /// Something is known before the sample ends.
    pub(super) fn slow_so_far(&self, slow: Slow) {
        self.state.lock().slow = Arc::new(slow);
    }

    /// How many guests there are, as far as is known.
    pub(super) fn guests(&self) -> usize {
        self.state.lock().fast.as_ref().map_or(0, |fast| fast.guests.len())
    }

    /// What slow samples know.
    pub(super) fn slow(&self) -> Arc<Slow> {
        Arc::clone(&self.state.lock().slow)
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_sample_that_is_not_renewed_goes_after_a_while() {
        let (limits, at) = (MetricsConfig::default(), Instant::now());
        let fast = Some(Arc::new(Fast { at, guests: BTreeMap::new() }));
        let state = State { fast, ..State::default() };
        let moment = Duration::from_millis(1);
        assert!(state.view(at + limits.keep - moment, &limits).fast.is_some());
        assert!(state.view(at + limits.keep, &limits).fast.is_none());
    }

    #[test]
    fn every_scrape_at_the_slow_interval_has_a_slow_sample_though_some_come_early() {
        let (limits, begin) = (MetricsConfig::default(), Instant::now());
        let mut state = State::default();
        for (scrape, jitter_ms) in (0..).zip([0, 900, 100, 1_000, 0, 1_400, 0]) {
            let now = begin + scrape * limits.slow_interval + Duration::from_millis(jitter_ms);
            assert!(state.slow_is_due(now, &limits), "scrape {scrape}");
            state.slow_wanted = Some(now);
        }
        let often = limits.slow_interval / 2;
        let last = state.slow_wanted.unwrap();
        assert!(!state.slow_is_due(last + often, &limits));
        assert!(state.slow_is_due(last + 2 * often, &limits));
    }

    #[test]
    fn a_libvirt_that_lets_a_sample_wait_is_said_not_to_answer() {
        let (limits, at) = (MetricsConfig::default(), Instant::now());
        let state = State { fast_wanted: Some(at), fast_running: true, ..State::default() };
        let moment = Duration::from_millis(1);
        assert_eq!(state.view(at + limits.wait - moment, &limits).error, None);
        assert!(state.view(at + limits.wait, &limits).error.is_some());
    }
}
