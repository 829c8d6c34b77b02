//! What rooms with threads of their own have in common.

mod queue;

use std::any::Any;
use std::mem;

pub(crate) use self::queue::{Queue, Wake};

/// What a panic that was caught has said, for a line of the log.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast::<String>()
        .map(|text| *text)
        .or_else(|payload| payload.downcast::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|payload| {
        // Dropping a value of an unknown type could panic again.
        mem::forget(payload);
        "(no text)".to_owned()
    })
}
