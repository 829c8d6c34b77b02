//! The pool's threads: lanes, guest locks, late jobs, panics and stop, with jobs that wait on channels.
#![expect(clippy::unwrap_used, reason = "a test ends where its setting fails")]

mod ends;
mod lanes;
mod late;
mod posted;
mod stuck;

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mistify_libvirt::config::PoolLimits;
use mistify_libvirt::pool::{Error, Full, Job, JobName, Lane, LaneSnapshot, Overdue, Pool};

/// Longer than any test that passes.
const FAR: Duration = Duration::from_secs(120);

/// A worker's state that cannot leave its thread: how many jobs it has seen.
type State = Rc<Cell<usize>>;

fn limits() -> PoolLimits {
    PoolLimits { control_workers: 1, storage_workers: 1, ..PoolLimits::default() }
}

fn pool(limits: &PoolLimits) -> Pool<State> {
    Pool::new(limits, |_| State::default()).unwrap()
}

fn far() -> Instant {
    Instant::now() + FAR
}

fn job(what: &str) -> Job {
    Job { name: what.into(), deadline: far() }
}

fn soon(what: &str) -> Job {
    Job { name: what.into(), deadline: Instant::now() + Duration::from_millis(20) }
}

/// Waits for a condition that other threads bring about.
fn until(claim: &str, condition: impl Fn() -> bool) {
    let end = far();
    while !condition() {
        assert!(Instant::now() < end, "never came: {claim}");
        thread::yield_now();
    }
}

fn lane(pool: &Pool<State>, lane: Lane) -> LaneSnapshot {
    let lanes = pool.snapshot().lanes;
    lanes.into_iter().find(|snapshot| snapshot.lane == lane).unwrap()
}

/// The handle of a job that reports when it runs; dropping the handle releases the job.
struct Block {
    running: Receiver<()>,
    _release: Sender<()>,
}

/// A job that blocks, and its handle.
fn block() -> (Block, impl FnOnce(&mut State) + Send + 'static) {
    let (running_sender, running) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let work = move |_: &mut State| {
        // The handle may be dropped already.
        let _ = running_sender.send(());
        let _ = released.recv();
    };
    (Block { running, _release: release }, work)
}

impl Block {
    fn wait_until_running(self) -> Self {
        self.running.recv_timeout(FAR).unwrap();
        self
    }
}

/// What a job does after its release, or its late handler.
trait Then: FnOnce() + Send + Clone + 'static {}

impl<F: FnOnce() + Send + Clone + 'static> Then for F {}

/// Runs a job until its caller gets `Late`; it is then still running, and continues with `then`.
fn run_late(pool: &Pool<State>, guest: &str, then: impl Then, late: impl Then) -> Block {
    let lock = pool.lock_guest(guest, far()).unwrap();
    let attempt = |wait_ms: u64| {
        let (block, work) = block();
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        let job = Job { name: "late".into(), deadline };
        let (then, late) = (then.clone(), late.clone());
        let work = move |state: &mut State| {
            work(state);
            then();
        };
        match pool.run_or_else(Lane::Control, job, Some(&lock), work, |_, ()| late()) {
            // Its worker has taken it, and may not have started it yet.
            Err(Error::Late { .. }) => ControlFlow::Break(block.wait_until_running()),
            // The machine was so busy that no worker came in time.
            Err(Error::Unrun { .. }) => ControlFlow::Continue(()),
            other => panic!("{other:?}"),
        }
    };
    match (4..14).try_for_each(|power| attempt(1 << power)) {
        ControlFlow::Break(block) => block,
        ControlFlow::Continue(()) => panic!("no worker took the job"),
    }
}
