//! The paths that the definitions of the host's domains name, cached between queries.
//!
//! libvirt reports which domains change, and each method of this agent reports its guest. A query lists the domains and
//! reads only the new or changed ones, so that it needs as many calls on a full host as on an empty one. But libvirt's
//! events are late, and some changes have none (`virsh attach-disk --config`). So a cached answer never proves that a
//! path is unused. Code that destroys, rolls back, grows or adopts a volume reads every definition ([`all_uses`]), and
//! so does code that would refuse a new volume.
//!
//! [`all_uses`]: crate::ops::disks::domain_uses::all_uses

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::fixed::{PATH_USES_AGE, USES_CHANGED_MAX};
use crate::libvirt::{Connection, Domain, Error};
use crate::ops::disks::domain_uses::{DomainUse, uses_of};
use crate::ops::hypervisor::committed_memory;
use crate::os::paths::resolved;

/// The paths of the host's domains.
#[derive(Debug, Default)]
pub(in crate::ops) struct PathUses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By domain name.
    domains: BTreeMap<String, Used>,
    /// The domains that changed since their last read, each with the number of its last change.
    changed: BTreeMap<String, u64>,
    /// The number of changes so far.
    changes: u64,
    /// Whether libvirt reports changes.
    is_reported: bool,
    /// When all domains were read; `None` if a change may have been missed since.
    whole_since: Option<Instant>,
    /// The number of times that changes may have been missed.
    gaps: u64,
}

/// The resources of one domain.
#[derive(Debug, Default)]
struct Used {
    /// The uuid of the domain: another domain may have its name by now.
    uuid: String,
    /// Its disks and their backing files, both as named and with their links resolved.
    paths: Vec<PathBuf>,
    /// Whether the list is complete.
    is_whole: bool,
    /// The memory that it may use while it runs, in KiB.
    promised_kib: u64,
    /// The number of the last change before the read.
    change: u64,
}

impl PathUses {
    /// Records that libvirt reports changes from now on.
    pub(in crate::ops) fn begin(&self) {
        self.0.lock().miss(true);
    }

    /// Records that libvirt no longer reports changes.
    pub(in crate::ops) fn end(&self) {
        self.0.lock().miss(false);
    }

    /// Records that the resources of the domain of this name may have changed.
    pub(in crate::ops) fn changed(&self, name: &str) {
        let mut state = self.0.lock();
        state.changes += 1;
        let change = state.changes;
        state.changed.insert(name.to_owned(), change);
        if state.changed.len() > USES_CHANGED_MAX {
            let is_reported = state.is_reported;
            state.miss(is_reported);
        }
    }

    /// Returns whether a domain other than `id` used one of `paths` at its last read.
    ///
    /// # Errors
    /// If libvirt does not answer.
    ///
    /// # Blocking
    /// Two round trips, and as [`uses_of`] with two more for each running domain: for new or changed domains; for all
    /// domains if a change may have been missed, and after [`PATH_USES_AGE`].
    pub(super) fn is_used(
        &self,
        connection: &Connection,
        id: &str,
        paths: &[PathBuf],
    ) -> Result<bool, Error> {
        let links = paths.iter().map(|path| resolved(path));
        let paths: Vec<PathBuf> = links.chain(paths.iter().cloned()).collect();
        let mut is_used = false;
        self.refreshed(connection, |domains| {
            let mut others = domains.iter().filter(|(name, _)| *name != id);
            is_used = others.any(|(_, used)| used.paths.iter().any(|path| paths.contains(path)));
        })?;
        Ok(is_used)
    }

    /// Returns the memory in KiB that the running domains may use.
    ///
    /// # Errors
    /// As [`PathUses::is_used`].
    ///
    /// # Blocking
    /// As [`PathUses::is_used`].
    pub(in crate::ops) fn promised_kib(&self, connection: &Connection) -> Result<u64, Error> {
        let mut sum: u64 = 0;
        self.refreshed(connection, |domains| {
            sum = domains.values().fold(0, |sum, used| sum.saturating_add(used.promised_kib));
        })?;
        Ok(sum)
    }

    /// Reads the new or changed domains, and calls `answer` once with all known domains. `answer` must not block.
    fn refreshed(
        &self,
        connection: &Connection,
        mut answer: impl FnMut(&BTreeMap<String, Used>),
    ) -> Result<(), Error> {
        let mut reads_all = false;
        loop {
            let (changed, change, gaps) = {
                let state = self.0.lock();
                reads_all |= !state.is_whole();
                (state.changed.clone(), state.changes, state.gaps)
            };
            let wanted =
                |name: &str, domain: &Domain| reads_all || !self.0.lock().knows(name, domain);
            let listed = uses_of(connection, wanted)?;
            let mut read = BTreeMap::new();
            for (domain, found) in listed.found {
                let used = Used::of(&domain, &found, change)?;
                read.insert(found.name, used);
            }
            let mut state = self.0.lock();
            if state.gaps != gaps {
                // Later changes may not be reported, so this result must not be cached.
                if reads_all {
                    answer(&read);
                    return Ok(());
                }
                reads_all = true;
                continue;
            }
            if reads_all && state.is_reported {
                state.whole_since = Some(Instant::now());
            }
            state.domains.retain(|name, _| listed.names.contains(name));
            for (name, used) in read {
                // Another query may have read it later.
                if state.domains.get(&name).is_none_or(|known| known.change <= used.change) {
                    state.domains.insert(name, used);
                }
            }
            // The next query reads the domains that changed meanwhile.
            state.changed.retain(|name, change| changed.get(name) != Some(change));
            answer(&state.domains);
            return Ok(());
        }
    }
}

impl State {
    /// Returns whether the agent has read the definitions of all domains lately, and libvirt has reported each change
    /// since.
    fn is_whole(&self) -> bool {
        self.whole_since.is_some_and(|since| since.elapsed() < PATH_USES_AGE)
    }

    /// Returns whether the domain was read and has not changed since.
    fn knows(&self, name: &str, domain: &Domain) -> bool {
        let used =
            self.domains.get(name).filter(|it| it.is_whole && !self.changed.contains_key(name));
        used.is_some_and(|used| domain.uuid().is_ok_and(|uuid| uuid == used.uuid))
    }

    /// Records that a change may have been missed.
    fn miss(&mut self, is_reported: bool) {
        self.is_reported = is_reported;
        self.whole_since = None;
        self.gaps += 1;
        self.changed.clear();
    }
}

impl Used {
    fn of(domain: &Domain, found: &DomainUse, change: u64) -> Result<Self, Error> {
        let (mut paths, is_whole) = found.paths();
        for index in 0..paths.len() {
            let resolved = resolved(&paths[index]);
            if resolved != paths[index] {
                paths.push(resolved);
            }
        }
        let promised_kib = match committed_memory::of(domain) {
            Err(error) if error.connection_lost() => return Err(error),
            // The domain no longer exists, or is unusual: methods of other guests must not fail for that.
            promised_kib => promised_kib.unwrap_or_default(),
        };
        Ok(Self { uuid: found.uuid.clone(), paths, is_whole, promised_kib, change })
    }
}
