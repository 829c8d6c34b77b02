//! A worker's private libvirt connection: opened when first needed, replaced when it is lost.

use std::sync::Arc;

use log::{debug, info, warn};

use crate::libvirt::{self, Code, Connection, Domain};
use crate::ops::health::Health;

/// The state of one pool worker. It never leaves the worker's thread.
#[derive(Debug)]
pub struct Session {
    uri: Arc<str>,
    health: Arc<Health>,
    connection: Option<Connection>,
}

impl Session {
    /// A session that has no connection yet.
    pub fn new(uri: Arc<str>, health: Arc<Health>) -> Self {
        Self { uri, health, connection: None }
    }

    /// The open connection; a new one where there is none or the old one is known to be dead.
    ///
    /// # Errors
    /// When libvirt cannot be reached.
    ///
    /// # Blocking
    /// Not with a live connection; else as long as [`Connection::open`].
    pub fn connection(&mut self) -> Result<&Connection, libvirt::Error> {
        if self.connection.as_ref().is_some_and(|connection| !connection.is_alive()) {
            info!("libvirt {}: connection lost, opening another", self.uri);
            self.release();
        }
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => {
                let opened = Connection::open(&self.uri);
                self.health.opened(opened.as_ref().err());
                Ok(none.insert(opened?))
            }
        }
    }

    /// Runs `call`, which may run twice: once more on a new connection where the old one turns out
    /// to be lost. For calls that change nothing.
    ///
    /// # Errors
    /// Those of `call`, and those of opening.
    pub fn read<T, E: From<libvirt::Error> + Lost>(
        &mut self,
        mut call: impl FnMut(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        match call(self.connection()?) {
            Err(error) if error.lost() => {
                warn!("libvirt {}: connection lost during a call, trying once more", self.uri);
                self.release();
                call(self.connection()?)
            }
            outcome => outcome,
        }
    }

    fn release(&mut self) {
        // A broken connection has no better end to report than the error that showed it.
        if let Some(Err(error)) = self.connection.take().map(Connection::release) {
            debug!("libvirt {}: close the lost connection: {error}", self.uri);
        }
    }

    /// The domain of that name, over a connection that works.
    ///
    /// Every changing verb starts with this or [`Session::find`]: a connection that broke unnoticed
    /// shows at this first, harmless call and is replaced, so that the caller sees no error and
    /// nothing runs twice.
    ///
    /// # Errors
    /// As [`Connection::lookup_domain_by_name`].
    pub fn domain(&mut self, name: &str) -> Result<Domain, libvirt::Error> {
        self.read(|connection| connection.lookup_domain_by_name(name))
    }

    /// The same, with `None` for a domain that is not there.
    ///
    /// # Errors
    /// When libvirt cannot be asked.
    pub fn find(&mut self, name: &str) -> Result<Option<Domain>, libvirt::Error> {
        match self.domain(name) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if error.code == Code::NO_DOMAIN => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Errors that can tell whether a lost connection is their cause.
pub trait Lost {
    /// Whether the call may do better on a new connection.
    fn lost(&self) -> bool;
}

impl Lost for libvirt::Error {
    fn lost(&self) -> bool {
        self.connection_lost()
    }
}
