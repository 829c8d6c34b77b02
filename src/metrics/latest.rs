//! The last samples of all guests, for the threads that take them and for all who read them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::MetricsConfig;
use crate::metrics::sample::{Fast, FastGuest, SlowGuest};
use crate::sorted::Table;

/// What the sampler and its threads have in common.
pub(super) struct Shared {
    pub(super) limits: MetricsConfig,
    pub(super) state: Mutex<State>,
    /// A sample ended.
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) fast: Option<Arc<Fast>>,
    /// Why the last fast sample could not be taken.
    pub(super) error: Option<String>,
    /// Fast samples that ended, also those in vain.
    pub(super) fast_ended: u64,
    pub(super) fast_failed: u64,
    /// When the fast sample that runs, or ran last, was wanted.
    pub(super) fast_wanted: Option<Instant>,
    pub(super) fast_running: bool,
    pub(super) fast_took: Duration,
    pub(super) slow: Arc<Slow>,
    pub(super) slow_wanted: Option<Instant>,
    pub(super) slow_running: bool,
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

/// The last samples at one moment.
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

impl State {
    pub(super) fn slow_is_due(&self, now: Instant, limits: &MetricsConfig) -> bool {
        self.slow_wanted.is_none_or(|at| now >= at + limits.slow_interval * 9 / 10)
    }

    pub(super) fn view(&self, now: Instant, limits: &MetricsConfig) -> View {
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

    /// The number of guests in the last fast sample; 0 before the first.
    pub(super) fn guests(&self) -> usize {
        self.state.lock().fast.as_ref().map_or(0, |fast| fast.guests.len())
    }

    /// What slow samples know.
    pub(super) fn slow(&self) -> Arc<Slow> {
        Arc::clone(&self.state.lock().slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_fast_sample_expires() {
        let (limits, at) = (MetricsConfig::default(), Instant::now());
        let fast = Some(Arc::new(Fast { at, guests: BTreeMap::new() }));
        let state = State { fast, ..State::default() };
        let moment = Duration::from_millis(1);
        assert!(state.view(at + limits.keep - moment, &limits).fast.is_some());
        assert!(state.view(at + limits.keep, &limits).fast.is_none());
    }

    #[test]
    fn every_scrape_at_slow_interval_gets_a_slow_sample() {
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
    fn slow_libvirt_is_reported_as_not_answering() {
        let (limits, at) = (MetricsConfig::default(), Instant::now());
        let state = State { fast_wanted: Some(at), fast_running: true, ..State::default() };
        let moment = Duration::from_millis(1);
        assert_eq!(state.view(at + limits.wait - moment, &limits).error, None);
        assert!(state.view(at + limits.wait, &limits).error.is_some());
    }
}
