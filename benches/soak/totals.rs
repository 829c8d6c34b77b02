//! Counts of calls, faults and violations.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::Value;

use crate::common::report::Report;
use crate::common::sample::float;

/// The maximum number of violations with their text; all are counted.
const VIOLATIONS_SHOWN: usize = 20;

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    NotFound,
    Exists,
    WrongState,
    Busy,
    /// The call passed its deadline.
    Late,
    /// libvirt is away.
    Unavailable,
    /// Any other error of a method.
    Failed,
    /// The caller closed the connection.
    Cut,
    /// The agent was killed meanwhile, or had no room for the connection.
    NoAnswer,
}

/// The columns of [`Outcome`], in its order.
const COLUMNS: [&str; 10] = [
    "ok",
    "not found",
    "exists",
    "wrong state",
    "busy",
    "late",
    "unavailable",
    "failed",
    "cut",
    "no answer",
];

/// All counts.
#[derive(Default)]
pub(crate) struct Totals {
    calls: Mutex<BTreeMap<String, [usize; COLUMNS.len()]>>,
    faults: Mutex<BTreeMap<String, usize>>,
    violations: Mutex<(usize, Vec<String>)>,
}

impl Outcome {
    /// Returns the outcome for an error code of `/rpc`; `None` for an error that no call of the soak may have.
    pub(crate) fn of_code(code: i64) -> Option<Self> {
        Some(match code {
            -32001 => Self::NotFound,
            -32002 => Self::Exists,
            -32003 => Self::WrongState,
            -32005 => Self::Busy,
            -32006 | -32007 => Self::Late,
            -32009 => Self::Unavailable,
            // Invalid parameters (-32602): a console without a log, a disk that would shrink.
            -32602 | -32000 | -32004 | -32008 | -32012..=-32010 => Self::Failed,
            _ => return None,
        })
    }

    /// Returns the outcome for an error of the original's path.
    pub(crate) fn of_text(error: &Value) -> Self {
        match error.as_str() {
            None => Self::Ok,
            Some(text) if text.starts_with("[Code-42]") => Self::NotFound,
            Some(text) if text.starts_with("[Code-9]") => Self::Exists,
            Some(text) if text.starts_with("[Code-55]") => Self::WrongState,
            Some(text) if text.starts_with("busy: ") => Self::Busy,
            Some(text) if text.starts_with("deadline: ") => Self::Late,
            Some(text) if text.starts_with("libvirt does not answer") => Self::Unavailable,
            Some(_) => Self::Failed,
        }
    }
}

impl Totals {
    pub(crate) fn call(&self, method: &str, outcome: Outcome) {
        let mut calls = self.calls.lock();
        let counts = calls.entry(method.to_owned()).or_default();
        counts[outcome as usize] += 1;
    }

    pub(crate) fn fault(&self, what: &str) {
        *self.faults.lock().entry(what.to_owned()).or_default() += 1;
    }

    /// Records an event that must not occur.
    pub(crate) fn violation(&self, what: &str) {
        eprintln!("violation: {what}");
        let (count, shown) = &mut *self.violations.lock();
        *count += 1;
        if shown.len() < VIOLATIONS_SHOWN {
            shown.push(what.to_owned());
        }
    }

    /// Returns the number of violations, and the text of the first ones.
    pub(crate) fn violations(&self) -> (usize, Vec<String>) {
        self.violations.lock().clone()
    }

    /// Returns the number of calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls.lock().values().flatten().sum()
    }

    pub(crate) fn write(&self, report: &mut Report) {
        for (method, counts) in &*self.calls.lock() {
            let cells: Vec<_> =
                COLUMNS.into_iter().zip(counts.iter().map(|count| float(*count))).collect();
            report.row(method, &cells);
        }
        for (fault, count) in &*self.faults.lock() {
            report.row(fault, &[("times", float(*count))]);
        }
    }
}
