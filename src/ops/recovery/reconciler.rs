//! The thread that recovers what verbs left open, and looks at libvirt and storage.
//!
//! It does both when the agent starts. It recovers again when a verb leaves something open and when a retry
//! is due, and it looks again when somebody asks for the agent's health and the last look is old. For scrapes
//! it also lists the volumes of guests. While nothing is open and nobody asks, it sleeps.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use crossbeam_channel::{Receiver, Sender, after, at, bounded, never, select};
use log::{Level, debug, info, log, warn};
use parking_lot::Mutex;

use crate::config::Store;
use crate::config::fixed::{
    HEALTH_FRESH, HEALTH_FRESH_FOR_SCRAPES, MARKS_PAUSE, RECOVERY_LOCK, RECOVERY_PAUSE,
};
use crate::metrics::GuestVolume;
use crate::ops::volume_owners::guest_of;
use crate::ops::{Error, Libvirt, Session};
use crate::pool::{Job, Lane};
use crate::storage::{self, Usage, Volume, Volumes};

/// What was last seen of storage.
#[derive(Clone, Debug)]
pub struct StorageSeen {
    /// What is missing, or how full the store is.
    pub outcome: Result<Usage, String>,
    /// When that was seen.
    pub at: Instant,
}

/// What the last look saw, and the way to wake the reconciler.
pub(in crate::ops) struct StatusCache {
    storage: Mutex<Option<StorageSeen>>,
    volumes: Mutex<VolumesSeen>,
    /// The end of the last look.
    looked: Mutex<Option<Instant>>,
    look: Bell,
    list: Bell,
    marks: Bell,
}

/// The volumes of guests, for scrapes.
#[derive(Default)]
struct VolumesSeen {
    each: Arc<[GuestVolume]>,
    /// When a scrape last asked for them.
    asked: Option<Instant>,
}

/// A request to the reconciler's thread: one that waits says as much as many.
struct Bell {
    ring: Wake,
    rung: Receiver<()>,
}

impl Default for Bell {
    fn default() -> Self {
        let (ring, rung) = bounded(1);
        Self { ring: Wake(ring), rung }
    }
}

impl Default for StatusCache {
    fn default() -> Self {
        let (storage, volumes, looked) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (look, list, marks) = (Bell::default(), Bell::default(), Bell::default());
        Self { storage, volumes, looked, look, list, marks }
    }
}

/// Wakes the reconciler for one kind of work.
#[derive(Clone)]
pub(in crate::ops) struct Wake(Sender<()>);

impl Wake {
    /// Wakes it; never waits.
    pub(in crate::ops) fn wake(&self) {
        // A full channel has the same request in it.
        let _ = self.0.try_send(());
    }
}

impl StatusCache {
    /// How full the store was when last seen, where it could be seen; causes no other look.
    pub(in crate::ops) fn usage(&self) -> Option<Usage> {
        self.storage.lock().as_ref()?.outcome.as_ref().ok().cloned()
    }

    /// Asks for another look where the last one is older than this.
    pub(in crate::ops) fn refresh(&self, fresh: Duration) {
        if self.looked.lock().is_some_and(|last| last.elapsed() > fresh) {
            self.look.ring.wake();
        }
    }

    /// The same for a scrape, which also asks for the volumes of guests: they are listed at most once a
    /// minute, and without a look at libvirt.
    pub(in crate::ops) fn refresh_for_scrape(&self) {
        self.refresh(HEALTH_FRESH_FOR_SCRAPES);
        let mut volumes = self.volumes.lock();
        if volumes.asked.is_none_or(|asked| asked.elapsed() > HEALTH_FRESH_FOR_SCRAPES) {
            volumes.asked = Some(Instant::now());
            self.list.ring.wake();
        }
    }

    /// The volumes of guests when last read; none where they could not be.
    pub(in crate::ops) fn volumes(&self) -> Arc<[GuestVolume]> {
        Arc::clone(&self.volumes.lock().each)
    }

    /// The way to have the marks of volumes completed that a guest has and that its verb did not come to.
    pub(in crate::ops) fn marks(&self) -> Wake {
        self.marks.ring.clone()
    }
}

impl fmt::Debug for StatusCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusCache").finish_non_exhaustive()
    }
}

impl Libvirt {
    /// What was last seen of storage; `None` before the first look. From memory; an old answer
    /// causes another look, which nobody waits for.
    pub fn storage_seen(&self) -> Option<StorageSeen> {
        self.status.refresh(HEALTH_FRESH);
        self.status.storage.lock().clone()
    }

    /// Returns the same, and causes no other look.
    pub fn storage_last_seen(&self) -> Option<StorageSeen> {
        self.status.storage.lock().clone()
    }

    /// Asks libvirt for its version: what comes of it stands in the opener's health.
    fn look_at_libvirt(&self) {
        let deadline = Instant::now() + self.deadlines.read;
        let looked = self.read(Lane::Read, "check", "libvirt", deadline, |connection| {
            Ok(connection.lib_version()?)
        });
        if let Err(error) = looked {
            debug!("cannot reach libvirt: {error}");
        }
    }

    /// Looks at storage, and first makes `<pool>/guests` and `<pool>/images` until that succeeded
    /// once. Without a store there is nothing to see.
    fn look_at_storage(&self, prepared: &mut bool) {
        if self.host.store == Store::None {
            return;
        }
        let deadline = Instant::now() + self.deadlines.read;
        let (volumes, wants_preparing) = (Arc::clone(&self.volumes), !*prepared);
        let job = Job { name: "check storage".into(), deadline };
        let looked = self
            .pool
            .run(Lane::Storage, job, None, move |_| look(&*volumes, wants_preparing, deadline));
        // A lane that has no time says nothing of the store.
        let Ok(outcome) = looked else { return };
        *prepared |= outcome.is_ok();
        let outcome = outcome.map_err(|error| error.to_string());
        let mut seen = self.status.storage.lock();
        let before = seen.as_ref().map(|seen| seen.outcome.as_ref().err());
        match (&outcome, before) {
            (Err(now), before) if before.flatten() != Some(now) => {
                let level = if self.host.wants_store { Level::Warn } else { Level::Info };
                log!(level, "storage is unavailable: {now}");
            }
            (Ok(_), Some(Some(_))) => info!("storage is available again"),
            _ => {}
        }
        *seen = Some(StorageSeen { outcome, at: Instant::now() });
    }

    /// Reads the volumes of guests: one listing of them all.
    fn read_volumes(&self) {
        if self.host.store == Store::None {
            return;
        }
        let deadline = Instant::now() + self.deadlines.read;
        let volumes = Arc::clone(&self.volumes);
        let job = Job { name: "read volumes".into(), deadline };
        let list = move |_: &mut Session| volumes.filled(deadline);
        let each = match self.pool.run(Lane::Storage, job, None, list) {
            Ok(Ok(volumes)) => volumes.iter().filter_map(of_guest).collect(),
            Ok(Err(error)) => {
                debug!("cannot read the volumes of guests: {error}");
                Arc::default()
            }
            // A lane that has no time says nothing of them.
            Err(error) => return debug!("cannot read the volumes of guests: {error}"),
        };
        self.status.volumes.lock().each = each;
    }
}

fn of_guest((volume, used_bytes): &(Volume, u64)) -> Option<GuestVolume> {
    Some(GuestVolume {
        guest: guest_of(&volume.name)?.to_owned(),
        name: volume.name.to_string(),
        size_bytes: volume.size_bytes,
        used_bytes: *used_bytes,
    })
}

fn look(
    volumes: &dyn Volumes,
    wants_preparing: bool,
    deadline: Instant,
) -> Result<Usage, storage::Error> {
    if wants_preparing {
        volumes.prepare(deadline)?;
    }
    volumes.usage(deadline)
}

impl Libvirt {
    /// Recovers what is due of all guests, one after the other. Answers when the next try is due.
    fn recover_due(&self) -> Option<Instant> {
        let now = Instant::now();
        for guest in self.journal.due(now).0 {
            // The transactions and libvirt's opener have told of it.
            if let Err(error) = self.recover_guest(&guest, now) {
                debug!("cannot recover guest={guest:?}: {error}");
                // The others would fail in the same way.
                if error.is_unreachable() {
                    break;
                }
            }
            // Somebody waits for a look; the others are still due then.
            if !self.status.look.rung.is_empty() {
                break;
            }
        }
        let (still_due, next) = self.journal.due(Instant::now());
        match still_due.is_empty() {
            true => next,
            false => Some(Instant::now() + RECOVERY_PAUSE),
        }
    }

    fn recover_guest(&self, guest: &str, due: Instant) -> Result<(), Error> {
        self.opener.health().may_answer()?;
        // A verb that has the lock recovers the guest itself, or runs.
        let hold = self.pool.hold(guest, Instant::now() + RECOVERY_LOCK)?;
        let deadline = Instant::now() + self.deadlines.change;
        let open = self.recover_open(&hold, deadline);
        let leftovers = self.journal.leftovers_of(guest, Some(due));
        let leftovers = self.recover_leftovers(leftovers, &hold, deadline);
        open.and(leftovers.map(drop))
    }
}

/// The reconciler's thread. Dropping it without [`Reconciler::stop`] leaves it to end with the process.
#[derive(Debug)]
pub struct Reconciler {
    thread: JoinHandle<()>,
    stop: Sender<()>,
    began: Receiver<()>,
}

impl Reconciler {
    /// Starts it with a first round.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(agent: &Arc<Libvirt>) -> io::Result<Self> {
        let agent = Arc::clone(agent);
        let (stop, stopped) = bounded(0);
        let (begun, began) = bounded(1);
        let kept = agent.journal.kept();
        let work = move || {
            let (mut is_prepared, mut is_look, mut are_marks_complete) = (false, true, false);
            // Before the first look: callers are told then what really exists.
            agent.recover_due();
            loop {
                if is_look {
                    agent.look_at_libvirt();
                    agent.look_at_storage(&mut is_prepared);
                    *agent.status.looked.lock() = Some(Instant::now());
                    // The start waits for the first round alone; later sends find the channel full.
                    let _ = begun.try_send(());
                }
                if is_look && is_prepared && !are_marks_complete {
                    let completed = agent.complete_marks();
                    are_marks_complete = completed.is_ok();
                    if let Err(error) = completed {
                        debug!("cannot complete the marks of volumes: {error}");
                    }
                }
                let next = agent.recover_due();
                let due = next.map_or_else(never, at);
                let again = match is_prepared && !are_marks_complete {
                    true => after(MARKS_PAUSE),
                    false => never(),
                };
                select! {
                    recv(agent.status.look.rung) -> _ => is_look = true,
                    recv(agent.status.list.rung) -> _ => {
                        is_look = false;
                        agent.read_volumes();
                    }
                    recv(agent.status.marks.rung) -> _ => {
                        (is_look, are_marks_complete) = (true, false);
                    }
                    recv(kept) -> _ => is_look = false,
                    recv(due) -> _ => is_look = false,
                    recv(again) -> _ => is_look = true,
                    recv(stopped) -> _ => return,
                }
            }
        };
        let thread = thread::Builder::new().name("reconciler".to_owned()).spawn(work)?;
        Ok(Self { thread, stop, began })
    }

    /// Waits for the end of the first round.
    ///
    /// # Blocking
    /// Up to `grace`.
    pub fn wait_for_first_round(&self, grace: Duration) {
        // Late or ended: serving begins either way.
        let _ = self.began.recv_timeout(grace);
    }

    /// Ends it.
    ///
    /// # Blocking
    /// Until its round ends, whose jobs end at the latest when the pool stops.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            warn!("the reconciler panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_asks_for_looks_at_most_once_a_minute() {
        let status = StatusCache::default();
        let rung = |bell: &Bell| bell.rung.try_recv().is_ok();
        let asked = |fresh| {
            status.refresh(fresh);
            rung(&status.look)
        };
        let scrape_asked = || {
            status.refresh_for_scrape();
            (rung(&status.look), rung(&status.list))
        };
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        assert!(!asked(HEALTH_FRESH_FOR_SCRAPES), "the first look is under way");
        *status.looked.lock() = ago(30);
        assert!(asked(HEALTH_FRESH) && !asked(HEALTH_FRESH_FOR_SCRAPES));
        assert_eq!(scrape_asked(), (false, true), "no scrape has asked for volumes yet");
        assert_eq!(scrape_asked(), (false, false));
        *status.looked.lock() = ago(61);
        assert_eq!(scrape_asked(), (true, false));
        status.volumes.lock().asked = ago(61);
        *status.looked.lock() = ago(1);
        assert_eq!(scrape_asked(), (false, true));
    }
}
