//! The threads that answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::threads::{Queue, panic_text};

use super::responder::{Responder, Task};

/// Answers requests until the front is gone.
pub(super) fn run(queue: &Queue<Task>) {
    while let Some(Task { responder, then }) = queue.next() {
        if let Some(responder) = responder.on_handler_thread() {
            guarded(responder, then);
        }
    }
}

/// Goes on with a request. A panic costs this request alone, which is answered with 500: what it leaves half-changed
/// is the callee's own affair.
pub(super) fn guarded(responder: Responder, then: impl FnOnce(Responder)) {
    let line = responder.line();
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| then(responder))) {
        log::error!("cannot answer {line}: panic: {}", panic_text(payload));
    }
}
