//! Which paths the definitions of the host's domains name, kept from one question to the next.
//!
//! libvirt tells which domains change, and each verb of this agent tells of its guest. A question lists the domains
//! and reads only those that are new or changed, so that it takes as many calls on a full host as on an empty one.
//! But libvirt tells late, and of some changes nothing (`virsh attach-disk --config`). So an answer never proves that a
//! path is not used: who destroys, rolls back, grows or adopts a volume reads every definition ([`all_uses`]), and so
//! does who would refuse a new one.
//!
//! [`all_uses`]: crate::ops::domains::all_uses

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::fixed::{USES_CHANGED_MAX, USES_KEPT_FOR};
use crate::libvirt::{Connection, Domain, Error};
use crate::ops::domains::{DomainUse, uses_of};
use crate::ops::promised;
use crate::os::paths::resolved;

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
    /// Its disks and the files below them, as they are named and with their links resolved.
    paths: Vec<PathBuf>,
    /// Whether these are all.
    is_whole: bool,
    /// The memory that it may use while it runs, in KiB.
    promised_kib: u64,
    /// The number of the last change before it was read.
    change: u64,
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

    /// Whether a domain other than `id` used one of `paths` when it was last read.
    ///
    /// # Errors
    /// When libvirt cannot be asked.
    ///
    /// # Blocking
    /// As long as libvirt takes for two round trips, and as [`uses_of`] with two more for each domain that runs: for
    /// those that are new or changed; for all where a change may have been missed, and after [`USES_KEPT_FOR`].
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

    /// The memory in KiB that the running domains may use.
    ///
    /// # Errors
    /// As [`Uses::is_used`].
    ///
    /// # Blocking
    /// As [`Uses::is_used`].
    pub(super) fn promised_kib(&self, connection: &Connection) -> Result<u64, Error> {
        let mut sum: u64 = 0;
        self.refreshed(connection, |domains| {
            sum = domains.values().fold(0, |sum, used| sum.saturating_add(used.promised_kib));
        })?;
        Ok(sum)
    }

    /// Reads what is new or changed, and calls `answer` once with what is known then. It may not wait.
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
                // Of what changes from now on nobody may tell: what was read is no basis for later.
                if reads_all {
                    answer(&read);
                    return Ok(());
                }
                reads_all = true;
                continue;
            }
            if reads_all && state.is_told {
                state.whole_since = Some(Instant::now());
            }
            state.domains.retain(|name, _| listed.names.contains(name));
            for (name, used) in read {
                // Another question may have read it later.
                if state.domains.get(&name).is_none_or(|known| known.change <= used.change) {
                    state.domains.insert(name, used);
                }
            }
            // What changed meanwhile is read next time.
            state.changed.retain(|name, change| changed.get(name) != Some(change));
            answer(&state.domains);
            return Ok(());
        }
    }
}

impl State {
    /// Whether the agent has read the definitions of all domains lately, and libvirt reported each change since.
    fn is_whole(&self) -> bool {
        self.whole_since.is_some_and(|since| since.elapsed() < USES_KEPT_FOR)
    }

    /// Whether what the domain uses was read and has not changed since.
    fn knows(&self, name: &str, domain: &Domain) -> bool {
        let used =
            self.domains.get(name).filter(|it| it.is_whole && !self.changed.contains_key(name));
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
    fn of(domain: &Domain, found: &DomainUse, change: u64) -> Result<Self, Error> {
        let (mut paths, is_whole) = found.paths();
        for index in 0..paths.len() {
            let resolved = resolved(&paths[index]);
            if resolved != paths[index] {
                paths.push(resolved);
            }
        }
        let promised_kib = match promised::of(domain) {
            Err(error) if error.connection_lost() => return Err(error),
            // It is gone, or odd: that fails no other guest's verb.
            promised_kib => promised_kib.unwrap_or_default(),
        };
        Ok(Self { uuid: found.uuid.clone(), paths, is_whole, promised_kib, change })
    }
}
