//! A worker's private libvirt connection: opened on first use, replaced when it is lost.

use std::sync::Arc;
use std::time::Instant;

use log::{debug, info, warn};

use crate::libvirt::{Connection, Domain};
use crate::ops::hypervisor::domain_cache::DomainCache;
use crate::ops::{Error, Opener};

/// The state of one pool worker. It never leaves the worker's thread.
#[derive(Debug)]
pub struct Session {
    opener: Arc<Opener>,
    /// Domains of the connection. They keep the connection open, so they are dropped first.
    cache: DomainCache,
    connection: Option<Connection>,
    /// The deadline of the present or the last job.
    deadline: Instant,
}

impl Session {
    /// Creates a session without a connection.
    pub fn new(opener: Arc<Opener>) -> Self {
        Self { opener, cache: DomainCache::default(), connection: None, deadline: Instant::now() }
    }

    /// Sets the deadline of the job that starts; it limits the wait for a connection.
    pub(in crate::ops) fn begin(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Returns the open connection, or opens a new one if there is none or the old one is known to be dead.
    ///
    /// # Errors
    /// If libvirt cannot be reached.
    ///
    /// # Blocking
    /// None with a live connection; else as [`Opener::open`], with the deadline of the job.
    pub fn connection(&mut self) -> Result<&Connection, Error> {
        self.connected().map(|(connection, _)| connection)
    }

    /// Returns the connection and its cached domains.
    fn connected(&mut self) -> Result<(&Connection, &mut DomainCache), Error> {
        if self.connection.as_ref().is_some_and(|connection| !connection.is_alive()) {
            info!("libvirt connection lost; reconnecting");
            self.release();
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.opener.open(self.deadline)?),
        };
        Ok((connection, &mut self.cache))
    }

    /// Runs `call`, and runs it again on a new connection if the old one turns out to be lost. For calls that change
    /// nothing.
    ///
    /// # Errors
    /// Errors of `call` and of opening a connection.
    pub fn read<T>(
        &mut self,
        mut call: impl FnMut(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut found = None;
        self.read_cached(&mut |connection, _| {
            found = Some(call(connection)?);
            Ok(())
        })?;
        Ok(found.expect("the call has succeeded"))
    }

    /// Runs the call of [`Session::read`] with its retry. Not generic, so that the program has one copy of the retry,
    /// and one of each call.
    fn read_cached(
        &mut self,
        call: &mut dyn FnMut(&Connection, &mut DomainCache) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (connection, cache) = self.connected()?;
        match call(connection, cache) {
            Err(error) if error.connection_lost() => {
                warn!("libvirt connection lost during a call; retrying: {error}");
                self.release();
                let (connection, cache) = self.connected()?;
                call(connection, cache)
            }
            outcome => outcome,
        }
    }

    fn release(&mut self) {
        self.cache = DomainCache::default();
        // The error that showed the broken connection is more useful than that of closing it.
        if let Some(Err(error)) = self.connection.take().map(Connection::release) {
            debug!("cannot close the lost libvirt connection: {error}");
        }
    }

    /// Returns the state of the domain of this name as libvirt's numbers, over a working connection. As
    /// [`Session::domain`] and [`Domain::state`], but in one round trip if this worker looked the domain up within the
    /// last second.
    ///
    /// # Errors
    /// As both, and errors of opening a connection.
    pub fn state(&mut self, name: &str) -> Result<(i32, i32), Error> {
        let mut found = (0, 0);
        self.read_cached(&mut |connection, cache| {
            found = cache.state(connection, name)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns the domain of this name, over a working connection.
    ///
    /// Every changing method starts with this or [`Session::find`]. A connection that broke unnoticed fails at this
    /// first, harmless call and is replaced. So the caller sees no error, and no change runs twice.
    ///
    /// # Errors
    /// As [`Connection::lookup_domain_by_name`], and errors of opening a connection.
    pub fn domain(&mut self, name: &str) -> Result<Domain, Error> {
        self.read(|connection| Ok(connection.lookup_domain_by_name(name)?))
    }

    /// Returns the domain of this name, or `None` for a missing domain.
    ///
    /// # Errors
    /// If libvirt does not answer.
    pub fn find(&mut self, name: &str) -> Result<Option<Domain>, Error> {
        self.read(|connection| Ok(connection.find_domain(name)?))
    }
}
