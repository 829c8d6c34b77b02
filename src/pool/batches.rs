//! How many batches of one caller run at once, and on how many threads.
//!
//! A call of a batch waits for the pool like any other. Without a bound of their own four batches of one
//! caller would be as many callers as the pool lets in, and all others would be told `busy`.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::config::PoolLimits;
use crate::os::peer::Share;

/// The batches that run, by caller.
#[derive(Debug)]
pub struct Batches {
    batches_max: usize,
    helpers_max: usize,
    /// Callers with a batch, and no others.
    running: Mutex<HashMap<Share, Running>>,
}

#[derive(Debug, Default)]
struct Running {
    batches: usize,
    helpers: usize,
}

impl Batches {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let (batches_max, helpers_max) = (limits.batches_per_caller, limits.batch_helpers);
        Self { batches_max, helpers_max, running: Mutex::default() }
    }

    /// Begins a batch of this caller, with as many helpers as are free of those that it wants; none
    /// where too many batches of this caller run.
    pub(crate) fn begin(&self, share: Share, helpers_wanted: usize) -> Option<BatchPermit<'_>> {
        let mut all = self.running.lock();
        let running = all.entry(share).or_default();
        if running.batches >= self.batches_max {
            return None;
        }
        let helpers = helpers_wanted.min(self.helpers_max.saturating_sub(running.helpers));
        running.batches += 1;
        running.helpers += helpers;
        Some(BatchPermit { batches: self, share, helpers })
    }
}

/// A batch that may run, until this is dropped.
#[derive(Debug)]
pub(crate) struct BatchPermit<'a> {
    batches: &'a Batches,
    share: Share,
    /// The threads that it may have beside the one that it is on.
    pub(crate) helpers: usize,
}

impl Drop for BatchPermit<'_> {
    fn drop(&mut self) {
        let mut all = self.batches.running.lock();
        let Some(running) = all.get_mut(&self.share) else { return };
        running.batches -= 1;
        running.helpers -= self.helpers;
        if running.batches == 0 {
            all.remove(&self.share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_a_caller_share_its_helpers() {
        let limits =
            PoolLimits { batches_per_caller: 3, batch_helpers: 9, ..PoolLimits::default() };
        let batches = Batches::new(&limits);
        let begin = |uid| batches.begin(Share::User(uid), 7);
        let (first, second, third) = (begin(7).unwrap(), begin(7).unwrap(), begin(7).unwrap());
        assert_eq!([first.helpers, second.helpers, third.helpers], [7, 2, 0]);
        assert!(begin(7).is_none(), "one more than it may have");
        assert_eq!(begin(8).unwrap().helpers, 7, "another caller has its own");
        drop(second);
        assert_eq!(begin(7).unwrap().helpers, 2);
        drop((first, third));
        assert!(batches.running.lock().is_empty(), "callers without a batch are forgotten");
    }

    #[test]
    fn batches_of_a_caller_take_half_of_the_pool() {
        let limits = PoolLimits::default();
        assert!(limits.batches_per_caller + limits.batch_helpers <= limits.waiting_any.div_ceil(2));
        assert!(limits.batch_helpers + 1 >= crate::config::BATCH_AT_ONCE, "one alone has all");
    }
}
