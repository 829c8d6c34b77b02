//! Runs the work of a method as a job on a worker of the pool, and determines its deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::jobs::reached;
use crate::libvirt::Connection;
use crate::ops::{Core, Error, Session, args, with_deadline};
use crate::pool::{GuestLock, Job, JobName, Lane, current};
use crate::storage::{self, Volumes};

impl Core {
    /// Runs a job that changes nothing. It may therefore run again if its connection breaks.
    pub(super) fn read<T: Send + 'static>(
        &self,
        lane: Lane,
        verb: &str,
        id: &str,
        deadline: Instant,
        work: impl FnMut(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let work = move |session: &mut Session| session.read(work);
        self.once(lane, JobName::new(verb, id), deadline, work)
    }

    /// Acquires the guest lock and runs a job on the control lane.
    pub(super) fn change<T: Send + 'static>(
        &self,
        verb: &str,
        id: &str,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let lock = self.lock_guest(id, deadline)?;
        self.run_locked(verb, deadline, &lock, work, |_, _| {})
    }

    /// Runs a job on the control lane for a method that holds the guest lock. If the job ends after its deadline, when
    /// its caller has its answer, `late` gets the outcome, still under the lock.
    pub(super) fn run_locked<T: Send + 'static>(
        &self,
        verb: &str,
        deadline: Instant,
        lock: &GuestLock,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
        late: impl FnOnce(&mut Session, Result<T, Error>) + Send + 'static,
    ) -> Result<T, Error> {
        self.opener.health().may_answer()?;
        let job = Job { name: JobName::new(verb, lock.guest()), deadline };
        reached(&job.name);
        self.pool.run_or_else(
            Lane::Control,
            job,
            Some(lock),
            with_deadline(deadline, work),
            late,
        )?
    }

    /// Runs a job on the urgent lane without the guest lock: destroying the domain frees a method that hangs.
    pub(super) fn urgent<T: Send + 'static>(
        &self,
        verb: &str,
        id: &str,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.once(Lane::Urgent, JobName::new(verb, id), deadline, work)
    }

    /// Runs a job without the guest lock; refuses it while the same job is stuck or late. A guest whose emulator hangs
    /// therefore occupies no further worker, however often callers ask for it.
    pub(super) fn once<T: Send + 'static>(
        &self,
        lane: Lane,
        name: JobName,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let job = self.may_ask(lane, name, deadline)?;
        self.pool.run(lane, job, None, with_deadline(deadline, work))?
    }

    /// Checks that [`Self::once`] may run a job, and returns that job.
    ///
    /// # Errors
    /// If libvirt is silent, or the same job is stuck or late.
    pub(super) fn may_ask(
        &self,
        lane: Lane,
        name: JobName,
        deadline: Instant,
    ) -> Result<Job, Error> {
        self.opener.health().may_answer()?;
        let job = Job { name, deadline };
        reached(&job.name);
        self.pool.not_overdue(lane, &job.name)?;
        Ok(job)
    }

    /// Returns the deadline of a storage call that arrives now. Reads get as long as changes, because they share two
    /// workers with them.
    pub(super) fn storage_deadline(&self) -> Instant {
        current::arrived() + self.deadlines.change
    }

    /// Runs a job on the storage lane.
    pub(super) fn on_storage<T: Send + 'static>(
        &self,
        verb: &str,
        name: &str,
        lock: Option<&GuestLock>,
        deadline: Instant,
        work: impl FnOnce(&dyn Volumes) -> Result<T, storage::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let volumes = Arc::clone(&self.volumes);
        let job = Job { name: JobName::new(verb, name), deadline };
        Ok(self.pool.run(Lane::Storage, job, lock, move |_| work(&*volumes))??)
    }

    /// Runs a job on the storage lane that changes nothing.
    pub(super) fn ask_storage<T: Send + 'static>(
        &self,
        name: JobName,
        deadline: Instant,
        work: impl FnOnce(&dyn Volumes) -> Result<T, storage::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let volumes = Arc::clone(&self.volumes);
        Ok(self.aside(Lane::Storage, name, deadline, move || work(&*volumes))??)
    }

    /// Runs a job that changes nothing and needs no libvirt; refuses it while the same job is late.
    pub(super) fn aside<T: Send + 'static>(
        &self,
        lane: Lane,
        name: JobName,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.pool.not_overdue(lane, &name)?;
        Ok(self.pool.run(lane, Job { name, deadline }, None, move |_| work())?)
    }

    /// Returns the deadline of a read that starts now.
    ///
    /// # Errors
    /// As [`Core::change_deadline`].
    pub(super) fn read_deadline(&self, args: &BTreeMap<String, String>) -> Result<Instant, Error> {
        args::deadline(args, self.deadlines.read)
    }

    /// Returns the deadline of a change that starts now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong option in `args`.
    pub fn change_deadline(&self, args: &BTreeMap<String, String>) -> Result<Instant, Error> {
        args::deadline(args, self.deadlines.change)
    }
}
