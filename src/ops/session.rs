//! A worker's private libvirt connection: opened when first needed, replaced when it is lost.

use std::sync::Arc;
use std::time::Instant;

use log::{debug, info, warn};

use crate::libvirt::{Connection, Domain};
use crate::ops::kept::Kept;
use crate::ops::{Error, Opener};

/// The state of one pool worker. It never leaves the worker's thread.
#[derive(Debug)]
pub struct Session {
    opener: Arc<Opener>,
    /// Domains of the connection. They keep it open, and so go first.
    kept: Kept,
    connection: Option<Connection>,
    /// Of the job that runs, or ran last.
    deadline: Instant,
}

impl Session {
    /// A session that has no connection yet.
    pub fn new(opener: Arc<Opener>) -> Self {
        Self { opener, kept: Kept::default(), connection: None, deadline: Instant::now() }
    }

    /// A job with this deadline begins: it waits no longer for a connection.
    pub(super) fn begin(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// The open connection; a new one where there is none or the old one is known to be dead.
    ///
    /// # Errors
    /// When libvirt cannot be reached.
    ///
    /// # Blocking
    /// Not with a live connection; else as [`Opener::open`], with the deadline of the job.
    pub fn connection(&mut self) -> Result<&Connection, Error> {
        self.line().map(|(connection, _)| connection)
    }

    /// The same with the domains that are kept of it.
    fn line(&mut self) -> Result<(&Connection, &mut Kept), Error> {
        if self.connection.as_ref().is_some_and(|connection| !connection.is_alive()) {
            info!("libvirt connection lost; reconnecting");
            self.release();
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.opener.open(self.deadline)?),
        };
        Ok((connection, &mut self.kept))
    }

    /// Runs `call`, which may run twice: once more on a new connection where the old one turns out
    /// to be lost. For calls that change nothing.
    ///
    /// # Errors
    /// Those of `call`, and those of opening.
    pub fn read<T>(
        &mut self,
        mut call: impl FnMut(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut found = None;
        self.read_kept(&mut |connection, _| {
            found = Some(call(connection)?);
            Ok(())
        })?;
        Ok(found.expect("the call has succeeded"))
    }

    /// Not generic: the code of each call is in the program once, and not for each of its two runs.
    fn read_kept(
        &mut self,
        call: &mut dyn FnMut(&Connection, &mut Kept) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (connection, kept) = self.line()?;
        match call(connection, kept) {
            Err(error) if error.connection_lost() => {
                warn!("libvirt connection lost during a call; retrying: {error}");
                self.release();
                let (connection, kept) = self.line()?;
                call(connection, kept)
            }
            outcome => outcome,
        }
    }

    fn release(&mut self) {
        self.kept = Kept::default();
        // A broken connection has no better end to report than the error that showed it.
        if let Some(Err(error)) = self.connection.take().map(Connection::release) {
            debug!("cannot close the lost libvirt connection: {error}");
        }
    }

    /// The state of the domain of that name as libvirt counts, over a connection that works: as
    /// [`Session::domain`] and [`Domain::state`], in one round trip where the worker was asked for it
    /// within the last second.
    ///
    /// # Errors
    /// As both, and those of opening.
    pub fn state(&mut self, name: &str) -> Result<(i32, i32), Error> {
        let mut found = (0, 0);
        self.read_kept(&mut |connection, kept| {
            found = kept.state(connection, name)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// The domain of that name, over a connection that works.
    ///
    /// Every changing verb starts with this or [`Session::find`]: a connection that broke unnoticed
    /// shows at this first, harmless call and is replaced, so that the caller sees no error and
    /// nothing runs twice.
    ///
    /// # Errors
    /// As [`Connection::lookup_domain_by_name`], and those of opening.
    pub fn domain(&mut self, name: &str) -> Result<Domain, Error> {
        self.read(|connection| Ok(connection.lookup_domain_by_name(name)?))
    }

    /// The same, with `None` for a domain that is not there.
    ///
    /// # Errors
    /// When libvirt cannot be asked.
    pub fn find(&mut self, name: &str) -> Result<Option<Domain>, Error> {
        self.read(|connection| Ok(connection.find_domain(name)?))
    }
}
