//! Acquires guest locks. Only one method changes a guest at a time, and it recovers first what an earlier one left
//! unfinished.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::jobs::reached;
use crate::ops::disks::volume_owners::lock_name;
use crate::ops::{Core, Error};
use crate::pool::{GuestLock, JobName, Lane};
use crate::sorted::IntoSorted;

impl Core {
    /// Acquires the guest lock, and recovers everything that is open.
    ///
    /// # Errors
    /// If the lock is not free by `deadline`; [`Error::Open`] if a change cannot be recovered.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn lock_and_recover(
        &self,
        id: &str,
        deadline: Instant,
    ) -> Result<GuestLock, Error> {
        let lock = self.pool.lock_guest(id, deadline)?;
        self.recover_open(&lock, deadline)?;
        Ok(lock)
    }

    /// Acquires the guest lock for a method that needs libvirt.
    ///
    /// # Errors
    /// As [`Core::lock_and_recover`]; at once if libvirt is known not to answer.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn lock_guest(
        &self,
        id: &str,
        deadline: Instant,
    ) -> Result<GuestLock, Error> {
        self.opener.health().may_answer()?;
        reached("wait for other calls to the guest");
        self.lock_and_recover(id, deadline)
    }

    /// Acquires the guest lock, as [`Core::lock_guest`], and the locks of the guests whose volumes the caller names as
    /// sources. Therefore other methods on such a volume end before it is checked, and none starts before this one has
    /// ended.
    ///
    /// # Errors
    /// As [`Core::lock_guest`]; if the paths cannot be read.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn lock_with_sources(
        &self,
        verb: &str,
        id: &str,
        sources: &[(String, String)],
        deadline: Instant,
    ) -> Result<GuestLock, Error> {
        if sources.is_empty() {
            return self.lock_guest(id, deadline);
        }
        self.opener.health().may_answer()?;
        let (own, sources) = (id.to_owned(), sources.to_vec());
        let volumes = Arc::clone(&self.volumes);
        let find = move || {
            let names = sources.iter().filter_map(|(_, it)| volumes.name_of(Path::new(it)));
            let mut locks: BTreeSet<String> =
                names.map(|name| lock_name(&name).to_owned()).into_set();
            locks.insert(own);
            locks
        };
        let lock_names = self.aside(Lane::Read, JobName::new(verb, id), deadline, find)?;
        reached("wait for other calls to the guest");
        let (mut lock, mut more) = (None, Vec::new());
        // In the order of the names: two calls that name each other's volumes do not deadlock.
        for name in lock_names {
            let acquired = self.pool.lock_guest(&name, deadline)?;
            if name == id {
                lock = Some(acquired);
            } else {
                more.push(acquired);
            }
        }
        let mut lock = lock.ok_or(Error::NoGuest)?;
        more.into_iter().for_each(|other| lock.keep(other));
        self.recover_open(&lock, deadline)?;
        Ok(lock)
    }
}
