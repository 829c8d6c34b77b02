//! Limits the bytes that many threads hold together. A thread that needs more than is free gets a
//! refusal; no thread waits.

use std::sync::Arc;

use parking_lot::Mutex;

/// A limit of held bytes.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    free: Mutex<usize>,
    /// The budget of which this one is a part; its bytes count there, too.
    whole: Option<Arc<ByteBudget>>,
}

impl ByteBudget {
    /// Makes a budget of `bytes`, all of them free.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(bytes), whole: None })
    }

    /// Makes a part of the budget for one holder: at most `bytes`, as long as the whole has them.
    pub(crate) fn part(self: &Arc<Self>, bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(bytes), whole: Some(Arc::clone(self)) })
    }

    /// Makes a reservation without bytes.
    pub(crate) fn empty(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: Mutex::new(0) }
    }

    /// Reserves `bytes`; returns `None` if too few are free.
    #[cfg(test)]
    fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        self.take(bytes).then(|| Reservation { budget: Arc::clone(self), bytes: Mutex::new(bytes) })
    }

    fn take(&self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        let mut free = self.free.lock();
        let Some(left) = free.checked_sub(bytes) else { return false };
        // A part is locked before its whole, always in this order.
        let has_taken = self.whole.as_ref().is_none_or(|whole| whole.take(bytes));
        if has_taken {
            *free = left;
        }
        has_taken
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        *self.free.lock() += bytes;
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

/// Bytes that are held. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<ByteBudget>,
    bytes: Mutex<usize>,
}

impl Reservation {
    /// Returns the budget to which the bytes belong.
    pub(crate) fn budget(&self) -> &Arc<ByteBudget> {
        &self.budget
    }

    /// Grows to at least `bytes`. Returns `false`, and changes nothing, if too few are free.
    pub(crate) fn grow_to(&self, bytes: usize) -> bool {
        let mut held = self.bytes.lock();
        let has_grown = self.budget.take(bytes.saturating_sub(*held));
        if has_grown {
            *held = bytes.max(*held);
        }
        has_grown
    }

    /// Frees all bytes above `bytes`.
    pub(crate) fn shrink_to(&self, bytes: usize) {
        let mut held = self.bytes.lock();
        self.budget.give_back(held.saturating_sub(bytes));
        *held = bytes.min(*held);
    }

    /// Moves all held bytes into a new reservation.
    pub(crate) fn take(&self) -> Self {
        let bytes = std::mem::take(&mut *self.bytes.lock());
        Self { budget: Arc::clone(&self.budget), bytes: Mutex::new(bytes) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(*self.bytes.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn free(budget: &ByteBudget) -> usize {
        *budget.free.lock()
    }

    #[test]
    fn budget_grants_only_free_bytes() {
        let budget = ByteBudget::new(10);
        let first = budget.try_reserve(7).unwrap();
        assert!(budget.try_reserve(4).is_none());
        assert_eq!(free(&budget), 3, "a refusal takes nothing");
        let second = budget.try_reserve(3).unwrap();
        assert!(budget.try_reserve(0).is_some() && budget.try_reserve(1).is_none());
        drop(first);
        assert_eq!(free(&budget), 7);
        drop(second);
        assert!(budget.try_reserve(11).is_none() && budget.try_reserve(10).is_some());
    }

    #[test]
    fn reservation_grows_and_shrinks_within_the_budget() {
        let budget = ByteBudget::new(10);
        let (one, other) = (budget.try_reserve(2).unwrap(), budget.try_reserve(3).unwrap());
        assert!(one.grow_to(7) && !one.grow_to(8) && one.grow_to(1));
        assert_eq!(free(&budget), 0, "it holds 7");
        other.shrink_to(9);
        other.shrink_to(1);
        assert!(one.grow_to(9));
        let taken = one.take();
        drop(one);
        assert_eq!(free(&budget), 0, "what it held is held elsewhere");
        drop((taken, other));
        assert_eq!(free(&budget), 10);
    }

    #[test]
    fn part_of_a_budget_counts_in_the_whole() {
        let whole = ByteBudget::new(10);
        let (one, other) = (whole.part(6), whole.part(6));
        let first = one.try_reserve(6).unwrap();
        assert!(one.try_reserve(1).is_none(), "its part is used up");
        assert!(other.try_reserve(5).is_none(), "the whole has 4");
        assert_eq!((free(&other), free(&whole)), (6, 4), "a refusal takes nothing");
        let second = other.empty();
        assert!(second.grow_to(4));
        drop((first, second));
        assert_eq!((free(&one), free(&other), free(&whole)), (6, 6, 10));
    }

    #[test]
    fn threads_never_hold_more_than_the_budget() {
        let budget = ByteBudget::new(100);
        let shared = budget.try_reserve(0).unwrap();
        thread::scope(|scope| {
            for step in 1..=4 {
                let (budget, shared) = (&budget, &shared);
                scope.spawn(move || {
                    for bytes in (0..20_000).map(|turn| (turn * step) % 60) {
                        let own = budget.try_reserve(bytes);
                        shared.grow_to(bytes);
                        shared.shrink_to(bytes / 2);
                        drop(own);
                    }
                });
            }
        });
        drop(shared);
        assert_eq!(free(&budget), 100, "nothing leaks, and nothing is given back twice");
    }
}
