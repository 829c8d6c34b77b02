//! The call that a thread carries out, and its caller. Its deadline counts from its arrival, however long it waited
//! for a permit and a thread.

use std::cell::Cell;
use std::time::Instant;

use crate::os::peer::Share;
use crate::os::process;

thread_local! {
    static ARRIVED: Cell<Option<Instant>> = const { Cell::new(None) };
    static CALLER: Cell<Option<Share>> = const { Cell::new(None) };
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

/// Carries out a call of this caller, on this thread.
pub fn of_caller<T>(caller: Share, call: impl FnOnce() -> T) -> T {
    let _restore = RestoreCaller(CALLER.replace(Some(caller)));
    call()
}

/// Whom the call of this thread is counted for; the agent's own user, where it carries out none.
pub fn caller() -> Share {
    CALLER.get().unwrap_or_else(|| Share::User(process::user()))
}

/// Puts back what was there before, also after a panic.
struct Restore(Option<Instant>);

/// The same of the caller.
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
