//! Which jobs of a lane may run beside those that do: guests that hang leave workers to others.

use parking_lot::Mutex;

use super::JobName;
use crate::sorted::Table;

/// How many jobs of each guest run, and how many that ask emulators.
pub(super) struct Turns {
    /// Jobs of one guest that run at once.
    per_guest_most: usize,
    /// Jobs that ask emulators and run at once.
    emulator_most: usize,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    /// A guest of which no job runs has no record.
    per_guest: Table<String, usize>,
    emulator: usize,
}

impl Turns {
    /// Any job may run.
    pub(super) fn unlimited() -> Self {
        Self { per_guest_most: usize::MAX, emulator_most: usize::MAX, running: Mutex::default() }
    }

    /// Of so many workers the jobs of one guest take half, and those that ask emulators leave one.
    pub(super) fn among(workers: usize) -> Self {
        let per_guest_most = (workers / 2).max(1);
        let emulator_most = workers.saturating_sub(1).max(1);
        Self { per_guest_most, emulator_most, running: Mutex::default() }
    }

    /// Whether this job may run; it counts then.
    pub(super) fn begin(&self, name: &JobName) -> bool {
        if self.is_free(name) {
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

    /// This job is over; whether one that was held back may run now.
    pub(super) fn end(&self, name: &JobName) -> bool {
        if self.is_free(name) {
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

    /// Whether this job has to wait for others.
    pub(super) fn holds_back(&self, name: &JobName) -> bool {
        !self.is_free(name) && self.is_full(&self.running.lock(), name)
    }

    fn is_full(&self, running: &Running, name: &JobName) -> bool {
        let of_guest = running.per_guest.get(&name.guest).copied().unwrap_or_default();
        of_guest >= self.per_guest_most
            || (name.asks_emulator && running.emulator >= self.emulator_most)
    }

    /// Whether nothing that runs keeps such a job from running.
    fn is_free(&self, name: &JobName) -> bool {
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
        let turns = Turns::among(4);
        assert!(turns.begin(&metrics("a")) && turns.begin(&metrics("a")));
        assert!(!turns.begin(&metrics("a")), "a guest takes half");
        assert!(turns.begin(&metrics("b")) && !turns.begin(&metrics("c")));
        assert!(turns.holds_back(&metrics("c")) && !turns.holds_back(&"List".into()));
        assert!(turns.begin(&JobName::new("Status", "c")) && turns.begin(&"List".into()));
        assert!(turns.end(&metrics("b")) && turns.begin(&metrics("c")));
    }

    #[test]
    fn all_counts_return_to_nothing() {
        let turns = Turns::among(1);
        for name in [metrics("a"), JobName::new("Status", "a"), "List".into()] {
            assert!(turns.begin(&name));
            turns.end(&name);
        }
        let running = turns.running.lock();
        assert!(running.per_guest.is_empty() && running.emulator == 0);
    }
}
