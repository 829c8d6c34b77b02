//! The measurements of one contender in one or more rounds.

use std::time::Duration;

/// Latencies and CPU time. Rounds are added up: the contenders take turns, so that other work of the
/// machine affects them alike.
#[derive(Clone, Default)]
pub(crate) struct Sample {
    /// From each request to its whole answer.
    pub(crate) latencies: Vec<Duration>,
    /// The rounds' lengths together.
    pub(crate) elapsed: Duration,
    /// CPU time of the process that is measured.
    pub(crate) cpu: Duration,
    /// Answered requests, including those of the warm-up: the CPU time is theirs.
    pub(crate) answered: usize,
    /// Refusals (`busy`); each request was sent again.
    pub(crate) refused: usize,
}

impl Sample {
    /// Adds another round.
    pub(crate) fn add(&mut self, round: Self) {
        self.latencies.extend(round.latencies);
        self.elapsed += round.elapsed;
        self.cpu += round.cpu;
        self.answered += round.answered;
        self.refused += round.refused;
    }

    /// Returns a percentile of the latencies, in µs.
    pub(crate) fn percentile_us(&mut self, percent: usize) -> f64 {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        microseconds(self.latencies.get(last * percent / 100).copied().unwrap_or_default())
    }

    /// Returns the requests per second, all connections together.
    pub(crate) fn rate(&self) -> f64 {
        float(self.latencies.len()) / self.elapsed.as_secs_f64()
    }

    /// Returns the CPU time per request, in µs.
    pub(crate) fn cpu_us(&self) -> f64 {
        microseconds(self.cpu) / float(self.answered)
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Converts a count.
pub(crate) fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("fewer requests than 32 bits count"))
}
