//! The number of streamed responses, by kind.

use crate::config::HttpLimits;
use crate::http::http1::respond::Kind;
use crate::pool::Slots;

/// Streams under way.
pub(super) struct StreamCounts {
    contents: Slots,
    listeners: Slots,
}

impl StreamCounts {
    /// Returns counts of zero.
    pub(super) fn new(limits: &HttpLimits) -> Self {
        Self { contents: Slots::new(limits.streams), listeners: Slots::new(limits.listeners) }
    }

    pub(super) fn of(&self, kind: Kind) -> &Slots {
        match kind {
            Kind::Content => &self.contents,
            Kind::Events => &self.listeners,
        }
    }
}
