//! The number of streamed responses, by kind.

use super::respond::Kind;
use crate::config::HttpLimits;
use crate::pool::Places;

/// Streams under way.
pub(super) struct StreamCounts {
    contents: Places,
    listeners: Places,
}

impl StreamCounts {
    /// Returns counts of zero.
    pub(super) fn new(limits: &HttpLimits) -> Self {
        Self { contents: Places::new(limits.streams), listeners: Places::new(limits.listeners) }
    }

    pub(super) fn of(&self, kind: Kind) -> &Places {
        match kind {
            Kind::Content => &self.contents,
            Kind::Events => &self.listeners,
        }
    }
}
