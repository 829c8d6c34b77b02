//! Tools of the modules that have threads of their own.

mod budget;
mod queue;
mod writer;

use std::any::Any;
use std::mem;

pub(crate) use self::budget::{ByteBudget, Reservation};
pub(crate) use self::queue::{Queue, Wake};
pub(crate) use self::writer::{Bounds, LineSink, Writer, flush_writers, lines_lost};

/// The thread that writes the log to standard error.
pub(crate) const LOG_WRITER: &str = "log-writer";
/// The thread that writes audit records to the log and to the audit's file.
pub(crate) const AUDIT_WRITER: &str = "audit-writer";

/// Returns the text of a caught panic, for a log line.
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
