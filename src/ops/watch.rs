//! Who is stuck when a job is late: the worker, or libvirt as a whole.
//!
//! A call on a guest whose emulator hangs never returns, and takes its worker along. As long as
//! libvirt answers others, another worker takes the place of such a one. Where libvirt answers
//! nobody, another worker would hang as well: all is left as it is until it answers again.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{error, warn};

use crate::events::{Events, What};
use crate::ops::{Opener, Session};
use crate::os::process;
use crate::pool::{Lane, Overdue, Pool, Span};

/// Looks after jobs that are late, on a thread of its own. It sleeps as long as none is.
pub(super) struct Watch {
    pool: Weak<Pool<Session>>,
    late: Receiver<()>,
    opener: Arc<Opener>,
    events: Arc<Events>,
    /// As [`PoolLimits::stuck`](crate::config::PoolLimits::stuck).
    stuck_max: usize,
    /// As [`WatchLimits::pause`](crate::config::WatchLimits::pause).
    pause: Duration,
}

impl Watch {
    /// Starts the thread, `libvirt-watch`, which ends with the pool.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        pool: &Arc<Pool<Session>>,
        opener: &Arc<Opener>,
        events: &Arc<Events>,
        stuck_max: usize,
        pause: Duration,
    ) -> io::Result<()> {
        let watch = Self {
            pool: Arc::downgrade(pool),
            late: pool.late_answers(),
            opener: Arc::clone(opener),
            events: Arc::clone(events),
            stuck_max,
            pause,
        };
        thread::Builder::new().name("libvirt-watch".to_owned()).spawn(move || {
            while watch.late.recv().is_ok() {
                watch.judge();
            }
        })?;
        Ok(())
    }

    /// Stays with the jobs that are late until all have returned or are written off.
    ///
    /// A job is written off when it was late before libvirt gave one answer and has not returned by
    /// a second one, some time later: what only waited for libvirt has returned by then.
    fn judge(&self) {
        let mut suspects: Vec<Overdue> = Vec::new();
        while let Some(pool) = self.pool.upgrade() {
            let late: Vec<Overdue> = pool.overdue().into_iter().filter(calls_libvirt).collect();
            if late.is_empty() {
                return;
            }
            suspects = match self.opener.probe() {
                Ok(()) => {
                    let stuck = late.iter().filter(|job| suspects.contains(job));
                    stuck.for_each(|job| self.write_off(&pool, job));
                    late
                }
                // It says in its own log what it says or does not say.
                Err(_) => Vec::new(),
            };
            drop(pool);
            if !self.sleep() {
                return;
            }
        }
    }

    /// Writes the job's worker off; one too many is the end of the process.
    fn write_off(&self, pool: &Pool<Session>, job: &Overdue) {
        let Overdue { lane, worker, what, since } = job;
        let age = Span(since.elapsed());
        let stuck: usize = pool.snapshot().lanes.iter().map(|lane| lane.stuck).sum();
        if stuck >= self.stuck_max {
            error!(
                "{what} runs since {age} ago and {stuck} more are stuck though libvirt answers: \
                 ending, to be started again"
            );
            process::end_at_once(process::TEMPORARY_FAILURE);
        }
        match pool.write_off(job) {
            Ok(true) => {
                warn!(
                    "{what} runs since {age} ago though libvirt answers: {lane}-{worker} is stuck, \
                     another takes its place"
                );
                // A job is called "Status web-1".
                let guest = what.split_once(' ').map_or("", |(_, guest)| guest);
                self.events.note(guest, What::Stuck);
            }
            Ok(false) => {}
            Err(error) => error!("{lane}-{worker} is stuck in {what}; start another: {error}"),
        }
    }

    /// Waits for the pause to pass; `false` when the pool is gone.
    fn sleep(&self) -> bool {
        let end = Instant::now() + self.pause;
        loop {
            match self.late.recv_deadline(end) {
                // What is late now is looked at after the pause.
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}

/// What libvirt's answer can tell about; storage has bounds of its own.
fn calls_libvirt(job: &Overdue) -> bool {
    job.lane != Lane::Storage
}
