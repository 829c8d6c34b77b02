//! Counts of calls by method: their number, outcome and duration.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

/// The upper bounds of the counts by duration, in seconds, as a metric's label writes them.
pub(super) const BOUNDS: [&str; 8] =
    ["0.001", "0.005", "0.025", "0.1", "0.5", "2.5", "10.0", "60.0"];
/// The same bounds in microseconds.
const BOUNDS_US: [u128; 8] =
    [1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000, 60_000_000];

/// The counts, by service and method. Both are names defined by the program, so their number is
/// small.
#[derive(Debug, Default)]
pub struct Calls(Mutex<BTreeMap<(&'static str, &'static str), Counts>>);

/// The counts of one method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that succeeded.
    pub succeeded: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls by duration: each element counts calls up to its bound and above the previous one, and
    /// the last counts calls above all bounds.
    pub took: [u64; BOUNDS.len() + 1],
    /// The sum of all durations, in nanoseconds.
    pub sum_ns: u64,
}

impl Calls {
    /// Counts one call.
    pub fn count(
        &self,
        service: &'static str,
        method: &'static str,
        succeeded: bool,
        took: Duration,
    ) {
        let mut calls = self.0.lock();
        let counts = calls.entry((service, method)).or_default();
        if succeeded {
            counts.succeeded += 1;
        } else {
            counts.failed += 1;
        }
        let us = took.as_nanos().div_ceil(1000);
        let over = BOUNDS_US.iter().filter(|bound| us > **bound).count();
        if let Some(count) = counts.took.get_mut(over) {
            *count += 1;
        }
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        counts.sum_ns = counts.sum_ns.saturating_add(ns);
    }

    /// Returns the current counts.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), Counts> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_once_by_outcome_and_by_duration() {
        let calls = Calls::default();
        calls.count("S", "M", true, Duration::from_millis(1));
        calls.count("S", "M", false, Duration::from_micros(1001));
        calls.count("S", "M", true, Duration::from_secs(61));
        let counts = calls.counts()[&("S", "M")].clone();
        assert_eq!((counts.succeeded, counts.failed), (2, 1));
        assert_eq!(counts.took, [1, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(counts.sum_ns, 61_002_001_000);
    }

    #[test]
    fn the_bounds_are_the_labels() {
        for (label, us) in BOUNDS.iter().zip(BOUNDS_US) {
            let seconds: f64 = label.parse().unwrap();
            assert_eq!(Duration::from_secs_f64(seconds).as_micros(), us);
        }
    }
}
