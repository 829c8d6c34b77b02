//! What one contender did in one or more rounds.

use std::time::Duration;

/// Latencies and CPU time. Rounds are added up: the contenders take turns, so that what else the
/// machine does hits them alike.
#[derive(Clone, Default)]
pub(crate) struct Sample {
    /// From each request to its whole answer.
    pub(crate) latencies: Vec<Duration>,
    /// The rounds' lengths together.
    pub(crate) elapsed: Duration,
    /// CPU time of the process that is measured.
    pub(crate) cpu: Duration,
    /// Requests that took this CPU time: those of the warm-up are among them.
    pub(crate) answered: usize,
    /// Answers that were refusals for lack of room; each was asked again.
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

    /// The latency that so many per cent of the requests stayed within, in µs.
    pub(crate) fn percentile_us(&mut self, percent: usize) -> f64 {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        microseconds(self.latencies.get(last * percent / 100).copied().unwrap_or_default())
    }

    /// Requests per second, all connections together.
    pub(crate) fn rate(&self) -> f64 {
        float(self.latencies.len()) / self.elapsed.as_secs_f64()
    }

    /// CPU time per request, in µs.
    pub(crate) fn cpu_us(&self) -> f64 {
        microseconds(self.cpu) / float(self.answered)
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A count to be divided by.
pub(crate) fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("fewer requests than 32 bits count"))
}
