//! Log lines about callers, limited in rate however often callers cause them.

use std::time::Instant;

use crate::config::fixed::LOG_INTERVAL;

/// The rate limit of one kind of line.
#[derive(Debug, Default)]
pub(super) struct RateLimitedLog {
    /// When the line was last written, and how many lines were suppressed since then.
    last: Option<(Instant, u64)>,
}

impl RateLimitedLog {
    /// Returns whether to write the line now: the number of lines suppressed since the last.
    pub(super) fn now(&mut self, now: Instant) -> Option<u64> {
        match &mut self.last {
            Some((at, left_out)) if now.duration_since(*at) < LOG_INTERVAL => {
                *left_out += 1;
                None
            }
            last => Some(last.replace((now, 0)).map_or(0, |(_, left_out)| left_out)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_line_per_ten_seconds_counts_omitted_lines() {
        let (mut log, begin) = (RateLimitedLog::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let lines: Vec<_> = [0, 0, 9, 10, 19, 20].map(|seconds| log.now(at(seconds))).into();
        assert_eq!(lines, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
