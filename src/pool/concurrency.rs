//! Limits which jobs of a lane may run together, so that guests that hang leave workers free for
//! others.

use parking_lot::Mutex;

use super::JobName;
use crate::sorted::Table;

/// The running jobs of each guest, and those that query emulators.
pub(super) struct ConcurrencyLimit {
    /// The maximum of running jobs of one guest.
    per_guest_most: usize,
    /// The maximum of running jobs that query emulators.
    emulator_most: usize,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    /// A guest without a running job has no record.
    per_guest: Table<String, usize>,
    emulator: usize,
}

impl ConcurrencyLimit {
    /// Lets every job run.
    pub(super) fn unlimited() -> Self {
        Self { per_guest_most: usize::MAX, emulator_most: usize::MAX, running: Mutex::default() }
    }

    /// Limits the jobs of one guest to half of `workers`, and jobs that query emulators to all
    /// workers but one.
    pub(super) fn among(workers: usize) -> Self {
        let per_guest_most = (workers / 2).max(1);
        let emulator_most = workers.saturating_sub(1).max(1);
        Self { per_guest_most, emulator_most, running: Mutex::default() }
    }

    /// Returns whether this job may run; if so, it counts from now.
    pub(super) fn begin(&self, name: &JobName) -> bool {
        if self.is_exempt(name) {
            return true;
        }
        let mut running = self.running.lock();
        if self.is_full(&running, name) {
            return false;
        }
        running.emulator += usize::from(name.asks_emulator);
        if !name.guest.is_empty() {
            *running.per_guest.or_default(name.guest.clone()) += 1;
        }
        true
    }

    /// Ends this job; returns whether a job that was held back may run now.
    pub(super) fn end(&self, name: &JobName) -> bool {
        if self.is_exempt(name) {
            return false;
        }
        let mut running = self.running.lock();
        let was_full = self.is_full(&running, name);
        running.emulator -= usize::from(name.asks_emulator);
        if let Some(count) = running.per_guest.get_mut(&name.guest) {
            *count -= 1;
            if *count == 0 {
                running.per_guest.remove(&name.guest);
            }
        }
        was_full
    }

    /// Returns whether this job has to wait for others.
    pub(super) fn holds_back(&self, name: &JobName) -> bool {
        !self.is_exempt(name) && self.is_full(&self.running.lock(), name)
    }

    fn is_full(&self, running: &Running, name: &JobName) -> bool {
        let of_guest = running.per_guest.get(&name.guest).copied().unwrap_or_default();
        of_guest >= self.per_guest_most
            || (name.asks_emulator && running.emulator >= self.emulator_most)
    }

    /// Returns whether no limit applies to such a job.
    fn is_exempt(&self, name: &JobName) -> bool {
        self.per_guest_most == usize::MAX || (name.guest.is_empty() && !name.asks_emulator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(guest: &str) -> JobName {
        JobName::new("DiskMetrics", guest).of_emulator()
    }

    #[test]
    fn hanging_guests_leave_a_worker_to_others() {
        let concurrency = ConcurrencyLimit::among(4);
        assert!(concurrency.begin(&metrics("a")) && concurrency.begin(&metrics("a")));
        assert!(!concurrency.begin(&metrics("a")), "a guest takes half");
        assert!(concurrency.begin(&metrics("b")) && !concurrency.begin(&metrics("c")));
        assert!(concurrency.holds_back(&metrics("c")) && !concurrency.holds_back(&"List".into()));
        assert!(
            concurrency.begin(&JobName::new("Status", "c")) && concurrency.begin(&"List".into())
        );
        assert!(concurrency.end(&metrics("b")) && concurrency.begin(&metrics("c")));
    }

    #[test]
    fn all_counts_return_to_nothing() {
        let concurrency = ConcurrencyLimit::among(1);
        for name in [metrics("a"), JobName::new("Status", "a"), "List".into()] {
            assert!(concurrency.begin(&name));
            concurrency.end(&name);
        }
        let running = concurrency.running.lock();
        assert!(running.per_guest.is_empty() && running.emulator == 0);
    }
}
