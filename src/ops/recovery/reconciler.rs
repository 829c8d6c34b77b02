//! The thread that recovers unfinished changes, and checks libvirt and storage.
//!
//! It does both when the agent starts. It recovers again when a change stays unfinished and when a retry is due. It
//! checks again when a caller asks for the agent's health and the last check is old. For scrapes it also lists the
//! volumes of guests. Otherwise it sleeps.

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
use crate::ops::disks::volume_owners::guest_of;
use crate::ops::{Core, Error, Session};
use crate::pool::{Job, Lane};
use crate::storage::{self, StoredVolume, Usage, Volumes};

/// The result of the last check of storage.
#[derive(Clone, Debug)]
pub struct StorageStatus {
    /// Why storage is unavailable, or how full the store is.
    pub outcome: Result<Usage, String>,
    /// When the check ended.
    pub at: Instant,
}

/// The results of the last check, and the channels that wake the reconciler.
pub(in crate::ops) struct StatusCache {
    storage: Mutex<Option<StorageStatus>>,
    volumes: Mutex<VolumeStatus>,
    /// The end of the last check.
    looked: Mutex<Option<Instant>>,
    look: WakeChannel,
    list: WakeChannel,
    marks: WakeChannel,
}

/// The volumes of guests, for scrapes.
#[derive(Default)]
struct VolumeStatus {
    each: Arc<[GuestVolume]>,
    /// When a scrape last requested them.
    asked: Option<Instant>,
}

/// A request to the reconciler's thread. One pending request is as good as many.
struct WakeChannel {
    wake: Wake,
    requests: Receiver<()>,
}

impl Default for WakeChannel {
    fn default() -> Self {
        let (sender, requests) = bounded(1);
        Self { wake: Wake(sender), requests }
    }
}

impl Default for StatusCache {
    fn default() -> Self {
        let (storage, volumes, looked) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (look, list, marks) =
            (WakeChannel::default(), WakeChannel::default(), WakeChannel::default());
        Self { storage, volumes, looked, look, list, marks }
    }
}

/// Wakes the reconciler for one kind of work.
#[derive(Clone)]
pub(in crate::ops) struct Wake(Sender<()>);

impl Wake {
    /// Wakes the reconciler; does not block.
    pub(in crate::ops) fn wake(&self) {
        // A full channel contains the same request already.
        let _ = self.0.try_send(());
    }
}

impl StatusCache {
    /// Returns how full the store was at the last check, if that succeeded; requests no other check.
    pub(in crate::ops) fn usage(&self) -> Option<Usage> {
        self.storage.lock().as_ref()?.outcome.as_ref().ok().cloned()
    }

    /// Requests another check if the last one is older than `fresh`.
    pub(in crate::ops) fn refresh(&self, fresh: Duration) {
        if self.looked.lock().is_some_and(|last| last.elapsed() > fresh) {
            self.look.wake.wake();
        }
    }

    /// Requests a check for a scrape, and a listing of the guests' volumes. The listing runs at most once a minute, and
    /// without a check of libvirt.
    pub(in crate::ops) fn refresh_for_scrape(&self) {
        self.refresh(HEALTH_FRESH_FOR_SCRAPES);
        let mut volumes = self.volumes.lock();
        if volumes.asked.is_none_or(|asked| asked.elapsed() > HEALTH_FRESH_FOR_SCRAPES) {
            volumes.asked = Some(Instant::now());
            self.list.wake.wake();
        }
    }

    /// Returns the volumes of guests from the last listing; none if it failed.
    pub(in crate::ops) fn volumes(&self) -> Arc<[GuestVolume]> {
        Arc::clone(&self.volumes.lock().each)
    }

    /// Returns the sender that makes the reconciler complete the marks of volumes that a method did not complete.
    pub(in crate::ops) fn marks(&self) -> Wake {
        self.marks.wake.clone()
    }
}

impl fmt::Debug for StatusCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusCache").finish_non_exhaustive()
    }
}

impl Core {
    /// Returns the result of the last check of storage, from memory; `None` before the first check. An old result
    /// starts another check in the background.
    pub fn storage_seen(&self) -> Option<StorageStatus> {
        self.status.refresh(HEALTH_FRESH);
        self.status.storage.lock().clone()
    }

    /// Returns the result of the last check of storage, and starts no other check.
    pub fn storage_last_seen(&self) -> Option<StorageStatus> {
        self.status.storage.lock().clone()
    }

    /// Asks libvirt for its version; the opener's health records the outcome.
    fn look_at_libvirt(&self) {
        let deadline = Instant::now() + self.deadlines.read;
        let looked = self.read(Lane::Read, "check", "libvirt", deadline, |connection| {
            Ok(connection.lib_version()?)
        });
        if let Err(error) = looked {
            debug!("cannot reach libvirt: {error}");
        }
    }

    /// Checks storage. Until it succeeded once, it first makes `<pool>/guests` and `<pool>/images`. Without a store
    /// there is nothing to check.
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
        // A busy lane tells nothing about the store.
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
        *seen = Some(StorageStatus { outcome, at: Instant::now() });
    }

    /// Reads the volumes of guests with one listing.
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
            // A busy lane tells nothing about the volumes.
            Err(error) => return debug!("cannot read the volumes of guests: {error}"),
        };
        self.status.volumes.lock().each = each;
    }
}

fn of_guest((volume, used_bytes): &(StoredVolume, u64)) -> Option<GuestVolume> {
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

impl Core {
    /// Recovers the due changes of all guests, one after the other. Returns when the next try is due.
    fn recover_due(&self) -> Option<Instant> {
        let now = Instant::now();
        for guest in self.journal.due(now).0 {
            // The transactions and libvirt's opener have logged the cause.
            if let Err(error) = self.recover_guest(&guest, now) {
                debug!("cannot recover guest={guest:?}: {error}");
                // The other guests would fail in the same way.
                if error.is_unreachable() {
                    break;
                }
            }
            // A check is requested; the other guests are still due after it.
            if !self.status.look.requests.is_empty() {
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
        // A method that holds the lock recovers the guest itself, or still runs.
        let lock = self.pool.lock_guest(guest, Instant::now() + RECOVERY_LOCK)?;
        let deadline = Instant::now() + self.deadlines.change;
        let open = self.recover_open(&lock, deadline);
        let leftovers = self.journal.leftovers_of(guest, Some(due));
        let leftovers = self.recover_leftovers(leftovers, &lock, deadline);
        open.and(leftovers.map(drop))
    }
}

/// The reconciler's thread. Dropping it without [`Reconciler::stop`] leaves it to end with the process.
#[derive(Debug)]
pub struct Reconciler {
    thread: JoinHandle<()>,
    stop: Sender<()>,
    /// Gets a message at the end of the first round.
    first_round: Receiver<()>,
}

impl Reconciler {
    /// Starts the thread with a first round.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub fn start(core: &Arc<Core>) -> io::Result<Self> {
        let core = Arc::clone(core);
        let (stop, stopped) = bounded(0);
        let (round_done, first_round) = bounded(1);
        let retained = core.journal.retained();
        let work = move || {
            let (mut is_prepared, mut is_check_due, mut are_marks_complete) = (false, true, false);
            // Before the first check, so that callers see the recovered state.
            core.recover_due();
            loop {
                if is_check_due {
                    core.look_at_libvirt();
                    core.look_at_storage(&mut is_prepared);
                    *core.status.looked.lock() = Some(Instant::now());
                    // The start waits for the first round alone; the messages of later rounds stay in the channel.
                    let _ = round_done.try_send(());
                }
                if is_check_due && is_prepared && !are_marks_complete {
                    let completed = core.complete_marks();
                    are_marks_complete = completed.is_ok();
                    if let Err(error) = completed {
                        debug!("cannot complete the marks of volumes: {error}");
                    }
                }
                let next = core.recover_due();
                let due = next.map_or_else(never, at);
                let again = match is_prepared && !are_marks_complete {
                    true => after(MARKS_PAUSE),
                    false => never(),
                };
                select! {
                    recv(core.status.look.requests) -> _ => is_check_due = true,
                    recv(core.status.list.requests) -> _ => {
                        is_check_due = false;
                        core.read_volumes();
                    }
                    recv(core.status.marks.requests) -> _ => {
                        (is_check_due, are_marks_complete) = (true, false);
                    }
                    recv(retained) -> _ => is_check_due = false,
                    recv(due) -> _ => is_check_due = false,
                    recv(again) -> _ => is_check_due = true,
                    recv(stopped) -> _ => return,
                }
            }
        };
        let thread = thread::Builder::new().name("reconciler".to_owned()).spawn(work)?;
        Ok(Self { thread, stop, first_round })
    }

    /// Waits for the end of the first round.
    ///
    /// # Blocking
    /// Up to `grace`.
    pub fn wait_for_first_round(&self, grace: Duration) {
        // Serving starts even if the round is late or failed.
        let _ = self.first_round.recv_timeout(grace);
    }

    /// Stops the thread.
    ///
    /// # Blocking
    /// Until its round ends. The jobs of the round end at the latest when the pool stops.
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
        let requests = |wake: &WakeChannel| wake.requests.try_recv().is_ok();
        let asked = |fresh| {
            status.refresh(fresh);
            requests(&status.look)
        };
        let scrape_asked = || {
            status.refresh_for_scrape();
            (requests(&status.look), requests(&status.list))
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
