//! What the agent does of itself: when it starts it settles what was left open, and looks at its
//! storage. It tries again as long as something is open, and looks again when somebody asks for the
//! agent's health and the last look is old. Nothing open, nobody asking: nothing wakes up.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use log::{debug, info, warn};
use parking_lot::Mutex;

use crate::config::fixed::{HEALTH_FRESH, SETTLE_RETRY};
use crate::ops::Libvirt;
use crate::pool::{Job, Lane};
use crate::storage::{self, Usage, Volumes};

/// What was last seen of storage.
#[derive(Clone, Debug)]
pub struct StorageSeen {
    /// What is missing, or how full the store is.
    pub outcome: Result<Usage, String>,
    /// When that was seen.
    pub at: Instant,
}

/// The last look, and the way to ask for another.
pub(super) struct Looks {
    storage: Mutex<Option<StorageSeen>>,
    /// The end of the last round.
    round: Mutex<Option<Instant>>,
    wanted: Sender<()>,
    /// The keeper's end of it.
    asked: Receiver<()>,
}

impl Default for Looks {
    fn default() -> Self {
        // One wish is as good as many.
        let (wanted, asked) = bounded(1);
        Self { storage: Mutex::default(), round: Mutex::default(), wanted, asked }
    }
}

/// Asks the keeper for another round.
#[derive(Clone)]
pub(super) struct Nudge(Sender<()>);

impl Nudge {
    /// Asks; never waits.
    pub(super) fn now(&self) {
        // A full channel has a wish in it already.
        let _ = self.0.try_send(());
    }
}

impl Looks {
    /// How full the store was when last seen, where it could be seen; asks for no other look.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.storage.lock().as_ref()?.outcome.as_ref().ok().cloned()
    }

    /// Asks for another round where the last look is older than this.
    pub(super) fn refresh(&self, fresh: Duration) {
        if self.round.lock().is_some_and(|last| last.elapsed() > fresh) {
            self.nudge().now();
        }
    }

    /// The way to ask for another round.
    pub(super) fn nudge(&self) -> Nudge {
        Nudge(self.wanted.clone())
    }
}

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

impl Libvirt {
    /// What was last seen of storage; `None` before the first look. From memory; an old answer
    /// causes another look, which nobody waits for.
    pub fn storage_seen(&self) -> Option<StorageSeen> {
        self.looks.refresh(HEALTH_FRESH);
        self.looks.storage.lock().clone()
    }

    /// Asks libvirt for its version: what comes of it stands in the opener's health.
    fn look_at_libvirt(&self) {
        let deadline = Instant::now() + self.deadlines.read;
        let looked = self.read(Lane::Read, "look at", "libvirt", deadline, |connection| {
            Ok(connection.lib_version()?)
        });
        if let Err(error) = looked {
            debug!("libvirt: {error}");
        }
    }

    /// Looks at storage, and first makes `<pool>/guests` and `<pool>/images` until that succeeded
    /// once.
    fn look_at_storage(&self, prepared: &mut bool) {
        let deadline = Instant::now() + self.deadlines.read;
        let (volumes, wants_preparing) = (Arc::clone(&self.volumes), !*prepared);
        let job = Job { what: "look at storage".to_owned(), deadline };
        let looked = self
            .pool
            .run(Lane::Storage, job, None, move |_| look(&*volumes, wants_preparing, deadline));
        // A lane that has no time says nothing of the store.
        let Ok(outcome) = looked else { return };
        *prepared |= outcome.is_ok();
        let outcome = outcome.map_err(|error| error.to_string());
        let mut seen = self.looks.storage.lock();
        let before = seen.as_ref().map(|seen| seen.outcome.as_ref().err());
        match (&outcome, before) {
            (Err(now), before) if before.flatten() != Some(now) => warn!("storage: {now}"),
            (Ok(_), Some(Some(_))) => info!("storage: can be used again"),
            _ => {}
        }
        *seen = Some(StorageSeen { outcome, at: Instant::now() });
    }
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

/// The thread that does it. Dropping it without [`Keeper::stop`] leaves it to end with the process.
#[derive(Debug)]
pub struct Keeper {
    thread: JoinHandle<()>,
    stop: Sender<()>,
    began: Receiver<()>,
}

impl Keeper {
    /// Starts it with a first look.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(agent: &Arc<Libvirt>) -> io::Result<Self> {
        let agent = Arc::clone(agent);
        let (stop, stopped) = bounded(0);
        let (begun, began) = bounded(1);
        let work = move || {
            let mut prepared = false;
            loop {
                agent.settle_all();
                agent.look_at_libvirt();
                agent.look_at_storage(&mut prepared);
                *agent.looks.round.lock() = Some(Instant::now());
                // Whoever waited for the first round has it; the others find the channel full.
                let _ = begun.try_send(());
                // While something is open its time comes by itself: every try that fails is a wish
                // for another, which must not bring it sooner.
                let (asked, again) = match agent.journal.open_intents().is_empty() {
                    true => (agent.looks.asked.clone(), never()),
                    false => (never(), after(SETTLE_RETRY)),
                };
                select! {
                    recv(asked) -> _ => {}
                    recv(again) -> _ => {}
                    recv(stopped) -> _ => return,
                }
            }
        };
        let thread = thread::Builder::new().name("keeper".to_owned()).spawn(work)?;
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
            warn!("the keeper panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixed::HEALTH_FRESH_FOR_SCRAPES;

    #[test]
    fn a_scrape_asks_for_a_look_at_most_once_a_minute() {
        let looks = Looks::default();
        let asked = |fresh| {
            looks.refresh(fresh);
            looks.asked.try_recv().is_ok()
        };
        let look_was = |ago| *looks.round.lock() = Instant::now().checked_sub(ago);
        assert!(!asked(HEALTH_FRESH_FOR_SCRAPES), "the first look is under way");
        look_was(Duration::from_secs(30));
        assert!(asked(HEALTH_FRESH) && !asked(HEALTH_FRESH_FOR_SCRAPES));
        look_was(Duration::from_secs(61));
        assert!(asked(HEALTH_FRESH_FOR_SCRAPES));
    }
}
