//! What the workers last saw of libvirt, readable at any time without asking it.

use std::time::Instant;

use parking_lot::Mutex;

use crate::libvirt;

/// Whether libvirt could be reached, and since when that has been so.
#[derive(Debug)]
pub struct Health {
    seen: Mutex<Seen>,
}

/// One reading of [`Health`].
#[derive(Clone, Debug)]
pub struct Seen {
    /// Why the last attempt to connect failed; `None` where it succeeded.
    pub error: Option<String>,
    /// Whether anybody has tried at all.
    pub tried: bool,
    /// When the answer last changed.
    pub since: Instant,
}

impl Default for Health {
    fn default() -> Self {
        Self { seen: Mutex::new(Seen { error: None, tried: false, since: Instant::now() }) }
    }
}

impl Health {
    /// Notes the outcome of an attempt to connect.
    pub fn opened(&self, error: Option<&libvirt::Error>) {
        let error = error.map(ToString::to_string);
        let mut seen = self.seen.lock();
        if !seen.tried || seen.error.is_some() != error.is_some() {
            seen.since = Instant::now();
        }
        seen.tried = true;
        seen.error = error;
    }

    /// The last reading.
    pub fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }
}
