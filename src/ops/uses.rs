//! Which paths the definitions of the host's domains name, kept from one question to the next.
//!
//! libvirt tells which domains change, and each verb of this agent tells of its guest. A question lists the domains
//! and reads only those that are new or changed, so that it takes as many calls on a full host as on an empty one.
//! But libvirt tells late, and of some changes nothing (`virsh attach-disk --config`). So an answer proves that a path
//! is used, and never that it is not: who destroys, rolls back, grows or adopts a volume reads every definition
//! ([`all_uses`]).
//!
//! [`all_uses`]: crate::ops::domains::all_uses

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::config::fixed::{USES_CHANGED_MAX, USES_KEPT_FOR};
use crate::libvirt::{Code, Connection, Domain, Error};
use crate::ops::domains::{DomainUse, named_domains, uses_of};
use crate::ops::promised;
use crate::os::paths::resolved;
use crate::sorted::IntoSorted;
use crate::storage::InUse;

/// The paths of the host's domains.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By the name of the domain.
    domains: BTreeMap<String, Used>,
    /// The domains that changed since they were read, each with the number of the last change.
    changed: BTreeMap<String, u64>,
    /// Changes so far.
    changes: u64,
    /// Whether libvirt tells of changes.
    is_told: bool,
    /// When all domains were read; `None` where a change may have been missed since.
    whole_since: Option<Instant>,
    /// How often a change may have been missed.
    gaps: u64,
}

/// What one domain uses.
#[derive(Debug, Default)]
struct Used {
    /// The uuid of the domain: there may be another one by its name.
    uuid: String,
    /// Its disks and the files below them, links resolved.
    paths: Vec<PathBuf>,
    /// The memory that it may use while it runs, in KiB.
    promised_kib: u64,
}

impl Uses {
    /// Notes that libvirt tells of changes from now on.
    pub(super) fn begin(&self) {
        self.0.lock().miss(true);
    }

    /// Notes that libvirt tells of no more changes.
    pub(super) fn end(&self) {
        self.0.lock().miss(false);
    }

    /// Notes that the domain of this name may use something else than before.
    pub(super) fn changed(&self, name: &str) {
        let mut state = self.0.lock();
        state.changes += 1;
        let change = state.changes;
        state.changed.insert(name.to_owned(), change);
        if state.changed.len() > USES_CHANGED_MAX {
            let is_told = state.is_told;
            state.miss(is_told);
        }
    }

    /// Those of `paths` that a domain other than `id` is known to use.
    ///
    /// # Errors
    /// When libvirt cannot be asked.
    ///
    /// # Blocking
    /// As long as libvirt takes for one round trip, and as [`uses_of`] with two more for each domain that runs: for
    /// those that are new or changed; for all where a change may have been missed, and after [`USES_KEPT_FOR`].
    pub(super) fn known(
        &self,
        connection: &Connection,
        id: &str,
        paths: &[PathBuf],
    ) -> Result<InUse, Error> {
        let paths: Vec<_> = paths.iter().map(|path| (path, resolved(path))).collect();
        let state = self.refreshed(connection)?;
        let mut in_use = InUse::default();
        for (name, used) in state.domains.iter().filter(|(name, _)| *name != id) {
            let named = paths.iter().filter(|(_, resolved)| used.paths.contains(resolved));
            named.for_each(|(path, _)| in_use.add(path, format!("domain {name}")));
        }
        Ok(in_use)
    }

    /// The memory in KiB that the running domains may use.
    ///
    /// # Errors
    /// As [`Uses::known`].
    ///
    /// # Blocking
    /// As [`Uses::known`].
    pub(super) fn promised_kib(&self, connection: &Connection) -> Result<u64, Error> {
        let state = self.refreshed(connection)?;
        Ok(state.domains.values().fold(0, |sum, used| sum.saturating_add(used.promised_kib)))
    }

    /// What is known after what changed was read.
    fn refreshed(&self, connection: &Connection) -> Result<MutexGuard<'_, State>, Error> {
        let mut listed = named_domains(connection)?;
        let names = listed.iter().map(|(name, _)| name.clone()).into_set();
        let (changed, gaps, is_whole) = {
            let state = self.0.lock();
            let is_whole = state.is_whole();
            if is_whole {
                listed.retain(|(name, domain)| !state.knows(name, domain));
            }
            (state.changed.clone(), state.gaps, is_whole)
        };
        let mut read = Vec::with_capacity(listed.len());
        if !listed.is_empty() {
            for (domain, found) in uses_of(connection, listed)? {
                let used = Used::of(&domain, &found)?;
                read.push((found.name, used));
            }
        }
        let mut state = self.0.lock();
        if !is_whole {
            state.domains.clear();
            let is_complete = state.is_told && state.gaps == gaps;
            state.whole_since = is_complete.then(Instant::now);
        }
        state.domains.extend(read);
        state.domains.retain(|name, _| names.contains(name));
        // What changed meanwhile is read next time.
        state.changed.retain(|name, change| changed.get(name) != Some(change));
        Ok(state)
    }
}

impl State {
    /// Whether all domains are known but for those that changed.
    fn is_whole(&self) -> bool {
        self.whole_since.is_some_and(|since| since.elapsed() < USES_KEPT_FOR)
    }

    /// Whether what the domain uses was read and has not changed since.
    fn knows(&self, name: &str, domain: &Domain) -> bool {
        let used = self.domains.get(name).filter(|_| !self.changed.contains_key(name));
        used.is_some_and(|used| domain.uuid().is_ok_and(|uuid| uuid == used.uuid))
    }

    /// A change may have been missed.
    fn miss(&mut self, is_told: bool) {
        self.is_told = is_told;
        self.whole_since = None;
        self.gaps += 1;
        self.changed.clear();
    }
}

impl Used {
    fn of(domain: &Domain, found: &DomainUse) -> Result<Self, Error> {
        let (paths, _) = found.paths();
        let promised_kib = match promised::of(domain) {
            Err(error) if error.code == Code::NO_DOMAIN => 0,
            promised_kib => promised_kib?,
        };
        let uuid = found.uuid.clone();
        Ok(Self { uuid, paths: paths.iter().map(|path| resolved(path)).collect(), promised_kib })
    }
}
