//! The last samples of all guests, which the sampling threads write and all readers share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::MetricsConfig;
use crate::metrics::sample::{Fast, FastGuest, SlowGuest};
use crate::sorted::Table;

/// State that the sampler and its threads share.
pub(super) struct Shared {
    pub(super) limits: MetricsConfig,
    pub(super) state: Mutex<SamplerState>,
    /// Signals that a sample ended.
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct SamplerState {
    pub(super) fast: Option<Arc<Fast>>,
    /// The error of the last fast sample, if it failed.
    pub(super) error: Option<String>,
    /// Fast samples that ended, including failed ones.
    pub(super) fast_ended: u64,
    pub(super) fast_failed: u64,
    /// When the running or the last fast sample was requested.
    pub(super) fast_wanted: Option<Instant>,
    pub(super) fast_running: bool,
    pub(super) fast_took: Duration,
    pub(super) slow: Arc<Slow>,
    pub(super) slow_wanted: Option<Instant>,
    pub(super) slow_running: bool,
}

/// The results of slow samples.
#[derive(Clone, Debug, Default)]
pub struct Slow {
    /// Guests by name, each with its last complete answer.
    pub guests: BTreeMap<String, SlowGuest>,
    /// Metadata of guests by name: a value for each of the configured names.
    pub metadata: Table<String, Vec<String>>,
    /// Guests whose emulator does not answer, with the time since when.
    pub stuck: BTreeMap<String, Instant>,
    /// Guests that were left out of the last sample, with the reason.
    pub left_out: BTreeMap<String, Omission>,
    /// When the last successful sample started.
    pub at: Option<Instant>,
    /// The duration of that sample.
    pub took: Duration,
    /// Samples that succeeded, failed, and timed out.
    pub ended: u64,
    /// See above.
    pub failed: u64,
    /// See above.
    pub late: u64,
    /// Calls that are late now: each returns when the emulator that it queries answers or ends.
    pub late_now: usize,
}

/// The reason for which a guest was left out of a slow sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omission {
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
    /// The last fast sample; `None` before the first one and when it is too old to be shown.
    pub fast: Option<Arc<Fast>>,
    /// The error of the last attempt; `None` if it succeeded.
    pub error: Option<String>,
    /// Fast samples that ended, and the failed ones among them.
    pub fast_ended: u64,
    /// See above.
    pub fast_failed: u64,
    /// The duration of the last fast sample that succeeded.
    pub fast_took: Duration,
    /// The results of slow samples.
    pub slow: Arc<Slow>,
    /// As [`MetricsConfig::keep`].
    keep: Duration,
}

/// One guest of a [`View`].
#[derive(Clone, Copy, Debug)]
pub struct GuestView<'v> {
    /// Its name.
    pub name: &'v str,
    /// The values of the fast sample.
    pub fast: &'v FastGuest,
    /// The values of a slow sample of the same run, if it is not too old to be shown.
    pub slow: Option<&'v SlowGuest>,
}

impl View {
    /// Returns the guests by name.
    pub fn guests(&self) -> impl Iterator<Item = GuestView<'_>> {
        let guests = self.fast.iter().flat_map(|fast| fast.guests.iter());
        guests.map(|(name, fast)| GuestView { name, fast, slow: self.slow_of(name, fast) })
    }

    /// Returns one guest.
    pub fn guest(&self, name: &str) -> Option<GuestView<'_>> {
        let (name, fast) = self.fast.as_ref()?.guests.get_key_value(name)?;
        Some(GuestView { name, fast, slow: self.slow_of(name, fast) })
    }

    /// Returns the age of a value that was read at `at`.
    pub fn age(&self, at: Instant) -> Duration {
        self.now.saturating_duration_since(at)
    }

    /// Makes a view of these samples, which succeeded.
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

    /// Values of another run are not used: the counters of this run started at zero.
    fn slow_of(&self, name: &str, fast: &FastGuest) -> Option<&SlowGuest> {
        let slow = self.slow.guests.get(name)?;
        (slow.run == fast.run && self.age(slow.at) < self.keep).then_some(slow)
    }
}

impl SamplerState {
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
    /// Stores the outcome of a fast sample: its values or its error.
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

    /// Stores the results of a slow sample that ended.
    pub(super) fn slow_ended(&self, slow: Slow) {
        let mut state = self.state.lock();
        state.slow_running = false;
        state.slow = Arc::new(slow);
        drop(state);
        self.changed.notify_all();
    }

    /// Stores results before the sample ends.
    pub(super) fn slow_so_far(&self, slow: Slow) {
        self.state.lock().slow = Arc::new(slow);
    }

    /// Returns the number of guests in the last fast sample; 0 before the first.
    pub(super) fn guest_count(&self) -> usize {
        self.state.lock().fast.as_ref().map_or(0, |fast| fast.guests.len())
    }

    /// Returns the results of slow samples.
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
        let state = SamplerState { fast, ..SamplerState::default() };
        let moment = Duration::from_millis(1);
        assert!(state.view(at + limits.keep - moment, &limits).fast.is_some());
        assert!(state.view(at + limits.keep, &limits).fast.is_none());
    }

    #[test]
    fn every_scrape_at_slow_interval_gets_a_slow_sample() {
        let (limits, begin) = (MetricsConfig::default(), Instant::now());
        let mut state = SamplerState::default();
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
        let state =
            SamplerState { fast_wanted: Some(at), fast_running: true, ..SamplerState::default() };
        let moment = Duration::from_millis(1);
        assert_eq!(state.view(at + limits.wait - moment, &limits).error, None);
        assert!(state.view(at + limits.wait, &limits).error.is_some());
    }
}
