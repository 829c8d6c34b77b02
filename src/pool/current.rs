//! The call that a thread runs, and its caller. The deadline of a call counts from its arrival, however long it
//! waited for a permit and a thread.

use std::cell::Cell;
use std::time::Instant;

use crate::os::peer::Share;
use crate::os::process;

thread_local! {
    static ARRIVED: Cell<Option<Instant>> = const { Cell::new(None) };
    static CALLER: Cell<Option<Share>> = const { Cell::new(None) };
}

/// Runs a call that arrived at `arrived`, on this thread.
pub fn carry_out<T>(arrived: Instant, call: impl FnOnce() -> T) -> T {
    let _restore = Restore(ARRIVED.replace(Some(arrived)));
    call()
}

/// Returns when the call of this thread arrived, or the current time if the thread runs none.
pub fn arrived() -> Instant {
    ARRIVED.get().unwrap_or_else(Instant::now)
}

/// Runs a call of this caller, on this thread.
pub fn of_caller<T>(caller: Share, call: impl FnOnce() -> T) -> T {
    let _restore = RestoreCaller(CALLER.replace(Some(caller)));
    call()
}

/// Returns the share of the caller of this thread's call, or of the agent's own user if the thread runs none.
pub fn caller() -> Share {
    CALLER.get().unwrap_or_else(|| Share::User(process::user()))
}

/// Restores the previous arrival, also after a panic.
struct Restore(Option<Instant>);

/// Restores the previous caller, also after a panic.
struct RestoreCaller(Option<Share>);

impl Drop for RestoreCaller {
    fn drop(&mut self) {
        CALLER.set(self.0);
    }
}

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
        let own = caller();
        let stranger = Share::User(7_000_000);
        let panicked = catch_unwind(|| of_caller(stranger, || assert_ne!(caller(), stranger)));
        assert!(panicked.is_err() && caller() == own && of_caller(stranger, caller) == stranger);
    }
}
