//! Limits the threads on which the batches of one caller run, so that other callers do not wait for
//! them all.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::config::PoolLimits;
use crate::os::peer::Share;

/// The running batches, by caller.
#[derive(Debug)]
pub struct Batches {
    helpers_max: usize,
    /// Callers with at least one running batch.
    running: Mutex<HashMap<Share, Running>>,
}

#[derive(Debug, Default)]
struct Running {
    batches: usize,
    helpers: usize,
}

impl Batches {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        Self { helpers_max: limits.batch_helpers, running: Mutex::default() }
    }

    /// Starts a batch of this caller, with as many of the wanted helpers as are free.
    pub(crate) fn begin(&self, share: Share, helpers_wanted: usize) -> HelperThreads<'_> {
        let mut all = self.running.lock();
        let running = all.entry(share).or_default();
        let helpers = helpers_wanted.min(self.helpers_max.saturating_sub(running.helpers));
        running.batches += 1;
        running.helpers += helpers;
        HelperThreads { batches: self, share, helpers }
    }
}

/// The helper threads of a batch; the number is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct HelperThreads<'a> {
    batches: &'a Batches,
    share: Share,
    /// The number of threads that the batch may have beside its handler.
    pub(crate) helpers: usize,
}

impl Drop for HelperThreads<'_> {
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
        let limits = PoolLimits { batch_helpers: 9, ..PoolLimits::default() };
        let batches = Batches::new(&limits);
        let begin = |uid| batches.begin(Share::User(uid), 7);
        let (first, second, third) = (begin(7), begin(7), begin(7));
        assert_eq!([first.helpers, second.helpers, third.helpers], [7, 2, 0]);
        assert_eq!(begin(8).helpers, 7, "another caller has its own");
        drop(second);
        assert_eq!(begin(7).helpers, 2);
        drop((first, third));
        assert!(batches.running.lock().is_empty(), "callers without a batch are forgotten");
    }

    #[test]
    fn a_batch_alone_has_all_its_threads() {
        assert!(PoolLimits::default().batch_helpers + 1 >= crate::config::BATCH_AT_ONCE);
    }
}
