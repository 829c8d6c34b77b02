//! Calls that do not return: finds out whether the call's guest hangs, or libvirt as a whole.
//!
//! A call on a guest whose emulator hangs may never return, and its worker hangs with it. While libvirt answers other
//! calls, the pool starts a further worker for each hung one, up to a bound. Beyond the bound the agent answers `busy`
//! if no worker is free. If libvirt answers no call, a further worker would hang as well: the pool starts none until
//! libvirt answers again.
//!
//! A late call is not stuck yet: libvirt itself waits up to 30 s for another job on the domain. A call counts as stuck
//! by its own age, whatever its caller's deadline was. The process exits only when it cannot serve at all: every worker
//! that calls libvirt is in a stuck call although libvirt answers.

use std::io;
use std::mem;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{error, info, warn};

use crate::config::PoolLimits;
use crate::config::fixed::LAST_LINES;
use crate::events::{EventKind, Events};
use crate::ops::{Opener, Session};
use crate::os::process;
use crate::pool::{Lane, Overdue, Pool, Span};
use crate::threads;

/// The lanes whose workers call libvirt.
const LIBVIRT_LANES: [Lane; 3] = [Lane::Control, Lane::Read, Lane::Urgent];

/// Watches late calls on a thread of its own, which sleeps while there are none.
pub(in crate::ops) struct Watch {
    pool: Weak<Pool<Session>>,
    late: Receiver<()>,
    opener: Arc<Opener>,
    events: Arc<Events>,
    /// As [`PoolLimits::stuck`].
    replaced_max: usize,
    /// As [`PoolLimits::stuck_age`].
    stuck_age: Duration,
    /// As [`WatchLimits::pause`](crate::config::WatchLimits::pause).
    pause: Duration,
}

/// A call whose worker was replaced.
struct Replaced {
    job: Overdue,
    /// Whether an event has reported it as stuck.
    is_reported: bool,
}

impl Watch {
    /// Starts the thread, `libvirt-watch`. The thread ends with the pool.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub(in crate::ops) fn start(
        pool: &Arc<Pool<Session>>,
        opener: &Arc<Opener>,
        events: &Arc<Events>,
        limits: &PoolLimits,
        pause: Duration,
    ) -> io::Result<()> {
        let watch = Self {
            pool: Arc::downgrade(pool),
            late: pool.late_answers(),
            opener: Arc::clone(opener),
            events: Arc::clone(events),
            replaced_max: limits.stuck,
            stuck_age: limits.stuck_age,
            pause,
        };
        thread::Builder::new().name("libvirt-watch".to_owned()).spawn(move || {
            while watch.late.recv().is_ok() {
                watch.judge();
            }
        })?;
        Ok(())
    }

    /// Watches the late calls until all have returned.
    ///
    /// A worker is replaced if its call was late before one answer of libvirt, and has not returned by a second answer
    /// some time later. Calls that only waited for libvirt have returned by then.
    fn judge(&self) {
        let (mut suspects, mut replaced): (Vec<Overdue>, Vec<Replaced>) = Default::default();
        while let Some(pool) = self.pool.upgrade() {
            self.look_at_replaced(&pool, &mut replaced);
            let late: Vec<Overdue> = pool.overdue().into_iter().filter(calls_libvirt).collect();
            if late.is_empty() && replaced.is_empty() {
                return;
            }
            suspects = match late.is_empty() || self.opener.probe().is_ok() {
                true => {
                    let hangs = late.iter().filter(|job| suspects.contains(job));
                    hangs.for_each(|job| self.replace(&pool, job, &mut replaced));
                    if self.serves_nobody(&pool, &replaced) {
                        error!(
                            "all workers hang although libvirt answers; exiting with status 75 to be \
                             restarted"
                        );
                        threads::flush_writers(LAST_LINES);
                        process::end_at_once(process::TEMPORARY_FAILURE);
                    }
                    late
                }
                // The opener has logged the reason.
                false => Vec::new(),
            };
            drop(pool);
            if !self.sleep() {
                return;
            }
        }
    }

    /// Reports which of these calls are stuck by now, and forgets the calls that have returned.
    fn look_at_replaced(&self, pool: &Pool<Session>, replaced: &mut Vec<Replaced>) {
        let before = replaced.len();
        let (still, returned) =
            mem::take(replaced).into_iter().partition(|it| pool.is_stuck(&it.job));
        let returned: Vec<Replaced> = returned;
        *replaced = still;
        for Replaced { job, is_reported } in returned {
            info!("{} returned after {}", job.name, Span(job.since.elapsed()));
            let of_guest =
                |other: &Replaced| other.is_reported && other.job.name.guest == job.name.guest;
            if is_reported && !replaced.iter().any(of_guest) {
                self.events.note(&job.name.guest, EventKind::Unstuck);
            }
        }
        for Replaced { job, is_reported } in replaced.iter_mut().filter(|it| !it.is_reported) {
            if job.since.elapsed() >= self.stuck_age {
                *is_reported = true;
                warn!("{} is stuck; still running after {}", job.name, Span(job.since.elapsed()));
                self.events.note(&job.name.guest, EventKind::Stuck);
            }
        }
        if before >= self.replaced_max && replaced.len() < self.replaced_max {
            info!("fewer calls hang; replacing workers again");
            pool.set_out_of_spares(false);
        }
    }

    /// Replaces the worker of this call, unless the bound is reached.
    fn replace(&self, pool: &Pool<Session>, job: &Overdue, replaced: &mut Vec<Replaced>) {
        if replaced.len() >= self.replaced_max {
            return;
        }
        let Overdue { lane, worker, name, since } = job;
        let age = Span(since.elapsed());
        match pool.abandon(job) {
            Ok(true) => {
                warn!(
                    "{name} is still running after {age} although libvirt answers; replacing \
                     worker {lane}-{worker}"
                );
                replaced.push(Replaced { job: job.clone(), is_reported: false });
            }
            Ok(false) => {}
            Err(error) => {
                error!("cannot replace worker {lane}-{worker}, which runs {name}: {error}");
            }
        }
        if replaced.len() == self.replaced_max {
            warn!("{} calls hang; not replacing workers until one returns", self.replaced_max);
            pool.set_out_of_spares(true);
        }
    }

    /// Returns whether every worker that calls libvirt is in a stuck call, and no further worker is replaced.
    fn serves_nobody(&self, pool: &Pool<Session>, replaced: &[Replaced]) -> bool {
        replaced.len() >= self.replaced_max
            && LIBVIRT_LANES.iter().all(|lane| pool.is_all_overdue(*lane, self.stuck_age))
    }

    /// Waits for the pause; returns `false` if the pool has ended.
    fn sleep(&self) -> bool {
        let end = Instant::now() + self.pause;
        loop {
            match self.late.recv_deadline(end) {
                // Calls that are late now are checked after the pause.
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}

/// Returns whether a job calls libvirt. Storage has time limits of its own.
fn calls_libvirt(job: &Overdue) -> bool {
    job.lane != Lane::Storage
}
