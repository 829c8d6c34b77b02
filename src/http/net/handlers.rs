//! The handler threads.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::threads::{Queue, panic_text};

use super::responder::{Responder, Task};

/// Answers requests until the front has ended.
pub(in crate::http) fn run(queue: &Queue<Task>) {
    while let Some(Task { responder, then }) = queue.next() {
        if let Some(responder) = responder.on_handler_thread() {
            guarded(responder, then);
        }
    }
}

/// Runs a step of a request. A panic ends this request alone, which is answered with 500: the callee is responsible
/// for the state that it leaves half-changed.
pub(super) fn guarded(responder: Responder, then: impl FnOnce(Responder)) {
    let line = responder.line();
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| then(responder))) {
        log::error!("cannot answer {line}: panic: {}", panic_text(payload));
    }
}
