//! What the agent reports of itself from memory: configuration, health, unfinished changes.

use crate::config::fixed::HEALTH_FRESH;
use crate::config::{Deadlines, HostConfig};
use crate::journal;
use crate::ops::{Core, HealthStatus, Session};
use crate::pool::Pool;

impl Core {
    /// Returns the time limits of calls.
    pub fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Returns the configuration of the host.
    pub fn host(&self) -> &HostConfig {
        &self.host
    }

    /// Returns what the agent last saw of libvirt, from memory. An old answer starts a refresh.
    pub fn libvirt_seen(&self) -> HealthStatus {
        self.status.refresh(HEALTH_FRESH);
        self.opener.health().seen()
    }

    /// Returns what the agent last saw of libvirt, and starts no refresh.
    pub fn libvirt_last_seen(&self) -> HealthStatus {
        self.opener.health().seen()
    }

    /// Returns the unfinished changes that the agent could not recover yet, from memory.
    pub fn open_intents(&self) -> Vec<journal::Summary> {
        self.journal.open_intents()
    }

    /// Returns the leftovers that the agent could not remove, from memory.
    pub fn left_intents(&self) -> Vec<journal::Summary> {
        self.journal.leftovers()
    }

    /// Returns the pool. Metrics read its figures; tests also fill its lanes.
    pub fn pool(&self) -> &Pool<Session> {
        &self.pool
    }
}
