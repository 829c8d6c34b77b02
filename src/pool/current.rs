//! The call that a thread carries out. Its deadline counts from its arrival, however long it waited for a
//! permit and a thread.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static ARRIVED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Carries out a call that arrived then, on this thread.
pub fn carry_out<T>(arrived: Instant, call: impl FnOnce() -> T) -> T {
    let _restore = Restore(ARRIVED.replace(Some(arrived)));
    call()
}

/// When the call of this thread arrived; now, where it carries out none.
pub fn arrived() -> Instant {
    ARRIVED.get().unwrap_or_else(Instant::now)
}

/// Puts back what was there before, also after a panic.
struct Restore(Option<Instant>);

impl Drop for Restore {
    fn drop(&mut self) {
        ARRIVED.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_call_is_the_threads_until_it_ends() {
        let then = Instant::now() - Duration::from_secs(5);
        let inner = then + Duration::from_secs(1);
        assert_eq!(carry_out(then, || (carry_out(inner, arrived), arrived())), (inner, then));
        let panicked = catch_unwind(|| carry_out(then, || panic!("of a verb")));
        assert!(panicked.is_err() && arrived() > then);
    }
}
