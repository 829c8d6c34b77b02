//! Stop points for crash tests: `MISTIFY_STOP_AT=before:3` ends the process like `kill -9` before its third write to
//! the journal, `after:3` after it. A release build does not contain them.

/// One write to the journal: a beginning, a step or an end.
pub(super) struct Write {
    /// Counted from 1 in this process.
    #[cfg(debug_assertions)]
    number: u64,
}

#[cfg(debug_assertions)]
impl Write {
    /// Marks the start of a write.
    pub(super) fn begin() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};

        static WRITES: AtomicU64 = AtomicU64::new(0);
        let write = Self { number: WRITES.fetch_add(1, Ordering::Relaxed) + 1 };
        write.stop_if("before");
        write
    }

    /// Marks the end of the write.
    pub(super) fn end(self) {
        self.stop_if("after");
    }

    fn stop_if(&self, when: &str) {
        let here = format!("{when}:{}", self.number);
        if std::env::var_os("MISTIFY_STOP_AT").is_some_and(|at| at == here.as_str()) {
            crate::os::process::kill_self();
        }
    }
}

#[cfg(not(debug_assertions))]
impl Write {
    pub(super) fn begin() -> Self {
        Self {}
    }

    pub(super) fn end(self) {}
}
