//! The pool's threads: lanes, keys, late jobs, panics and stop, with jobs that wait on channels.
#![expect(clippy::unwrap_used, reason = "a test ends where its setting fails")]

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
use mistify_libvirt::pool::{Error, Full, Job, Lane, LaneSnapshot, Pool, Ration};

/// Longer than any test that passes.
const FAR: Duration = Duration::from_secs(60);

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
    Job { what: what.to_owned(), deadline: far() }
}

fn soon(what: &str) -> Job {
    Job { what: what.to_owned(), deadline: Instant::now() + Duration::from_millis(20) }
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

/// The outside end of a job that says when it runs and goes on until it is let go.
struct Block {
    running: Receiver<()>,
    _let_go: Sender<()>,
}

/// A job that blocks, and its outside end; dropping that lets it go.
fn block() -> (Block, impl FnOnce(&mut State) + Send + 'static) {
    let (running_sender, running) = bounded(1);
    let (let_go, wait) = bounded::<()>(0);
    let work = move |_: &mut State| {
        // Either end may be gone already: nobody asks whether it runs, or it was let go before.
        let _ = running_sender.send(());
        let _ = wait.recv();
    };
    (Block { running, _let_go: let_go }, work)
}

impl Block {
    fn wait_until_running(self) -> Self {
        self.running.recv_timeout(FAR).unwrap();
        self
    }
}

/// Runs a job until its caller is told `Late`; it is then still running.
fn run_late(pool: &Pool<State>, key: &str, late: impl FnOnce() + Send + Clone + 'static) -> Block {
    let hold = pool.hold(key, far()).unwrap();
    let attempt = |wait_ms: u64| {
        let (block, work) = block();
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        let job = Job { what: "late".to_owned(), deadline };
        let late = late.clone();
        match pool.run_or_else(Lane::Control, job, Some(&hold), work, |_, ()| late()) {
            Err(Error::Late { .. }) => ControlFlow::Break(block),
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

#[test]
fn verbs_on_one_key_never_overlap_and_go_in_order_of_arrival() {
    let pool = pool(&PoolLimits::default());
    let order = parking_lot::Mutex::new(Vec::new());
    let inside = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let first = pool.hold("web-1", far()).unwrap();
        for number in 0..8 {
            let (pool, order, inside) = (&pool, &order, Arc::clone(&inside));
            scope.spawn(move || {
                let deadline = far();
                let hold = pool.hold("web-1", deadline).unwrap();
                assert!(Instant::now() < deadline, "the key's release wakes the next");
                order.lock().push(number);
                let alone = pool.run(Lane::Control, job("verb"), Some(&hold), move |_| {
                    let alone = !inside.swap(true, SeqCst);
                    thread::yield_now();
                    inside.store(false, SeqCst);
                    alone
                });
                assert_eq!(alone, Ok(true));
            });
            until("the caller waits", || pool.snapshot().callers.keys_waiting == number + 1);
        }
        drop(first);
    });
    assert_eq!(*order.lock(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn verbs_on_a_hundred_keys_run_in_parallel_up_to_the_lane() {
    let limits = PoolLimits {
        queue: 100,
        waiting_change: 100,
        waiting_read: 100,
        waiting_any: 100,
        ..PoolLimits::default()
    };
    let pool = pool(&limits);
    // A job ends only with three others beside it, so fewer at once never end.
    let four = Arc::new(Barrier::new(4));
    let running = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..100 {
            let (pool, four, running) = (&pool, Arc::clone(&four), Arc::clone(&running));
            scope.spawn(move || {
                let hold = pool.hold(&format!("web-{number}"), far()).unwrap();
                let at_once = pool.run(Lane::Control, job("verb"), Some(&hold), move |_| {
                    let at_once = running.fetch_add(1, SeqCst) + 1;
                    four.wait();
                    running.fetch_sub(1, SeqCst);
                    four.wait();
                    at_once
                });
                assert!(at_once.unwrap() <= 4);
            });
        }
    });
}

#[test]
fn one_stuck_guest_does_not_use_up_the_callers_of_the_others() {
    let pool = pool(&PoolLimits { waiting_key: 2, ..limits() });
    thread::scope(|scope| {
        let held = pool.hold("web-1", far()).unwrap();
        for _ in 0..2 {
            scope.spawn(|| pool.hold("web-1", far()).map(drop));
        }
        until("both wait", || pool.snapshot().callers.keys_waiting == 2);
        let busy = pool.hold("web-1", far()).unwrap_err();
        let full = Full::Key("web-1".to_owned());
        assert_eq!(busy, Error::Busy { full, limit: 2, running: None });
        pool.hold("web-2", far()).unwrap();
        assert_eq!(pool.snapshot().callers.holds_refused, 1);
        drop(held);
    });
}

#[test]
fn a_late_job_keeps_its_key_until_it_returns_and_is_undone() {
    let pool = pool(&limits());
    let (undone, wait_undone) = bounded(1);
    let (go_on, wait_go_on) = bounded::<()>(1);
    let undo = move || {
        undone.send(()).unwrap();
        wait_go_on.recv().unwrap();
    };
    let block = run_late(&pool, "web-1", undo).wait_until_running();

    let held = pool.hold("web-1", soon("").deadline).unwrap_err();
    let Error::KeyHeld { key, running: Some(running), .. } = held else { panic!("{held:?}") };
    assert_eq!((key.as_str(), running.what.as_str()), ("web-1", "late"));

    drop(block);
    wait_undone.recv_timeout(FAR).unwrap();
    let held = pool.hold("web-1", soon("").deadline).unwrap_err();
    assert!(matches!(held, Error::KeyHeld { .. }), "the undo runs under the key: {held:?}");
    assert_eq!(pool.snapshot().callers.holds_late, 2);

    thread::scope(|scope| {
        let next = scope.spawn(|| pool.hold("web-1", far()).map(drop));
        until("the next one waits", || pool.snapshot().callers.keys_waiting == 1);
        go_on.send(()).unwrap();
        assert_eq!(next.join().unwrap(), Ok(()));
    });
    assert_eq!(lane(&pool, Lane::Control).totals.late, 1);
}

#[test]
fn a_job_late_before_it_starts_never_runs_and_gives_its_key_back_at_once() {
    let pool = pool(&limits());
    thread::scope(|scope| {
        let (first, work) = block();
        scope.spawn(|| pool.run(Lane::Control, job("first"), None, work).unwrap());
        let first = first.wait_until_running();

        let ran = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&ran);
        let hold = pool.hold("web-1", far()).unwrap();
        let unrun = pool.run(Lane::Control, soon("second"), Some(&hold), move |_| {
            set.store(true, SeqCst);
        });
        let Err(Error::Unrun { what, lane: Lane::Control, running: Some(running), .. }) = unrun
        else {
            panic!("{unrun:?}")
        };
        assert_eq!((what.as_str(), running.what.as_str()), ("second", "first"));
        assert_eq!(Arc::strong_count(&ran), 1, "the work is dropped, not kept in the queue");
        drop(hold);
        assert_eq!(pool.snapshot().callers.keys_held, 0);
        assert_eq!(lane(&pool, Lane::Control).queued, 0);

        drop(first);
        pool.run(Lane::Control, job("third"), None, |_| ()).unwrap();
        assert!(!ran.load(SeqCst));
        assert_eq!(lane(&pool, Lane::Control).totals.unrun, 1);
    });
}

#[test]
fn a_full_queue_is_busy_at_once_and_names_what_blocks_it() {
    let pool = pool(&PoolLimits { queue: 2, ..limits() });
    thread::scope(|scope| {
        let (first, work) = block();
        scope.spawn(|| pool.run(Lane::Storage, job("clone"), None, work).unwrap());
        let first = first.wait_until_running();
        for _ in 0..2 {
            scope.spawn(|| pool.run(Lane::Storage, job("queued"), None, |_| ()).unwrap());
        }
        until("the queue is full", || lane(&pool, Lane::Storage).queued == 2);

        let busy = pool.run(Lane::Storage, job("refused"), None, |_| ());
        let Err(Error::Busy { full, limit: 2, running: Some(running) }) = busy else {
            panic!("{busy:?}")
        };
        assert_eq!((full, running.what.as_str()), (Full::Queue(Lane::Storage), "clone"));
        assert_eq!(lane(&pool, Lane::Storage).totals.refused, 1);
        drop(first);
    });
}

#[test]
fn changes_that_fill_their_lanes_do_not_touch_read_and_urgent() {
    let limits = PoolLimits::default();
    let pool = pool(&limits);
    thread::scope(|scope| {
        let mut blocks = Vec::new();
        for number in 0..limits.waiting_change {
            let lane = if number % 2 == 0 { Lane::Control } else { Lane::Storage };
            let (block, work) = block();
            blocks.push(block);
            let pool = &pool;
            scope.spawn(move || pool.run(lane, job("change"), None, work).unwrap());
        }
        until("all wait", || pool.snapshot().callers.callers == limits.waiting_change);
        let busy =
            |full| move |error: &Error| matches!(error, Error::Busy { full: f, .. } if *f == full);
        let full = pool.run(Lane::Control, job("one more"), None, |_| ()).unwrap_err();
        assert!(busy(Full::Callers(Ration::Change))(&full), "{full:?}");
        let full = pool.hold("web-1", far()).unwrap_err();
        assert!(busy(Full::Callers(Ration::Change))(&full), "{full:?}");

        for lane in [Lane::Read, Lane::Urgent] {
            for _ in 0..100 {
                let job = job("at once");
                let deadline = job.deadline;
                assert_eq!(pool.run(lane, job, None, |_| 7), Ok(7));
                assert!(Instant::now() < deadline, "the job's end wakes its caller");
            }
        }
        drop(blocks);
    });
}

#[test]
fn a_verb_that_was_let_in_is_not_refused_between_its_jobs() {
    let pool = pool(&PoolLimits { waiting_change: 1, ..limits() });
    let hold = pool.hold("web-1", far()).unwrap();
    assert!(matches!(pool.hold("web-2", far()), Err(Error::Busy { limit: 1, .. })));
    for lane in [Lane::Storage, Lane::Control] {
        pool.run(lane, job("step"), Some(&hold), |_| ()).unwrap();
    }
    let clone = hold.clone();
    let busy = pool.run(Lane::Control, job("other caller"), Some(&clone), |_| ());
    assert!(matches!(busy, Err(Error::Busy { .. })), "a clone is the key without the place");

    drop(hold);
    assert_eq!(pool.snapshot().callers.callers, 0);
    assert_eq!(pool.snapshot().callers.keys_held, 1);
    pool.run(Lane::Control, job("step"), Some(&clone), |_| ()).unwrap();
    drop(clone);
    assert_eq!(pool.snapshot().callers.keys_held, 0);
}

#[test]
fn workers_are_named_and_keep_their_state() {
    let pool = pool(&limits());
    let seen = |_| {
        let seen = pool.run(Lane::Control, job("count"), None, |state: &mut State| {
            state.set(state.get() + 1);
            (thread::current().name().map(str::to_owned), state.get())
        });
        seen.unwrap()
    };
    let name = Some("control-0".to_owned());
    assert_eq!([1, 2].map(seen), [(name.clone(), 1), (name, 2)]);
}

#[test]
fn a_panic_costs_the_job_and_the_state_and_gives_the_key_back() {
    let pool = pool(&limits());
    let count = |state: &mut State| state.replace(state.get() + 1);
    pool.run(Lane::Control, job("before"), None, count).unwrap();
    let late_ran = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&late_ran);

    let hold = pool.hold("web-1", far()).unwrap();
    let panicked = pool.run_or_else(
        Lane::Control,
        job("bad"),
        Some(&hold),
        |_| panic!("on purpose"),
        move |_, ()| set.store(true, SeqCst),
    );
    assert_eq!(panicked, Err(Error::Panicked { what: "bad".to_owned() }));
    drop(hold);

    assert_eq!(pool.snapshot().callers.keys_held, 0);
    assert_eq!(pool.run(Lane::Control, job("after"), None, count), Ok(0), "a new state");
    assert!(!late_ran.load(SeqCst));
    assert_eq!(lane(&pool, Lane::Control).totals.panicked, 1);
}

#[test]
fn a_late_job_that_panics_gives_the_key_back_and_is_not_undone() {
    let pool = pool(&limits());
    let late_ran = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&late_ran);
    let (let_go, wait) = bounded::<()>(0);
    let hold = pool.hold("web-1", far()).unwrap();
    let work = move |_: &mut State| {
        assert!(wait.recv().is_ok(), "on purpose");
    };
    let undo = move |_: &mut State, ()| set.store(true, SeqCst);
    let late = pool.run_or_else(Lane::Control, soon("bad"), Some(&hold), work, undo);
    assert!(matches!(late, Err(Error::Late { .. } | Error::Unrun { .. })), "{late:?}");
    drop((hold, let_go));

    pool.hold("web-1", far()).unwrap();
    pool.run(Lane::Control, job("after"), None, |_| ()).unwrap();
    assert!(!late_ran.load(SeqCst));
}

/// A state whose making and dropping panic when told so.
struct Odd<'a>(&'a AtomicBool);

impl Drop for Odd<'_> {
    fn drop(&mut self) {
        assert!(!self.0.load(SeqCst), "on purpose: drop");
    }
}

#[test]
fn a_panic_in_making_or_dropping_the_state_does_not_kill_the_worker() {
    static MAKE: AtomicBool = AtomicBool::new(true);
    static DROP: AtomicBool = AtomicBool::new(true);
    let make = |_| {
        assert!(!MAKE.load(SeqCst), "on purpose: make");
        Odd(&DROP)
    };
    let pool = Pool::new(&limits(), make).unwrap();
    let run = |work: fn(&mut Odd<'_>)| pool.run(Lane::Control, job("verb"), None, work);
    let panicked = Err(Error::Panicked { what: "verb".to_owned() });

    assert_eq!(run(|_| ()), panicked, "making the state panics");
    MAKE.store(false, SeqCst);
    assert_eq!(run(|_| panic!("on purpose")), panicked, "and then dropping it");
    assert_eq!(run(|_| ()), Ok(()));
    DROP.store(false, SeqCst);
    assert!(pool.stop(FAR));
}

#[test]
fn the_result_goes_to_the_caller_or_to_the_late_handler_exactly_once() {
    const CALLS: usize = 10_000;
    let pool = pool(&limits());
    let late = Arc::new(AtomicUsize::new(0));
    let ran = Arc::new(AtomicUsize::new(0));
    let (mut in_time, mut told_late, mut unrun) = (0, 0, 0);
    for number in 0..CALLS {
        let micros = |n: usize| Duration::from_micros(u64::try_from(n).unwrap());
        let deadline = Instant::now() + micros(50 + number % 50);
        let job = Job { what: "race".to_owned(), deadline };
        let (late, ran) = (Arc::clone(&late), Arc::clone(&ran));
        // Timers are up to 50 µs late (timer slack), so the callers give up in the middle of this.
        let end = deadline + micros(number % 149);
        let work = move |_: &mut State| {
            ran.fetch_add(1, SeqCst);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            number
        };
        let undo = move |_: &mut State, result| {
            assert_eq!(result, number);
            late.fetch_add(1, SeqCst);
        };
        match pool.run_or_else(Lane::Control, job, None, work, undo) {
            Ok(result) => {
                assert_eq!(result, number);
                in_time += 1;
            }
            Err(Error::Late { .. }) => told_late += 1,
            Err(Error::Unrun { .. }) => unrun += 1,
            // Hulls of unrun jobs lie in the queue until the worker has passed them.
            Err(Error::Busy { full: Full::Queue(_), .. }) => thread::yield_now(),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(pool.stop(FAR));
    assert!(in_time > 0 && told_late > 0, "{in_time} in time, {told_late} late, {unrun} unrun");
    assert_eq!(late.load(SeqCst), told_late);
    assert_eq!(ran.load(SeqCst), in_time + told_late);
    let totals = lane(&pool, Lane::Control).totals;
    let count = |n: usize| u64::try_from(n).unwrap();
    assert_eq!(totals.finished, count(in_time + told_late));
    assert_eq!((totals.late, totals.unrun), (count(told_late), count(unrun)));
    assert_eq!(totals.panicked, 0);
}

#[test]
fn stop_lets_verbs_and_queued_jobs_end_and_turns_new_ones_away() {
    let pool = pool(&limits());
    thread::scope(|scope| {
        let (first, work) = block();
        let verb = scope.spawn(|| {
            let hold = pool.hold("web-1", far())?;
            pool.run(Lane::Control, job("first step"), Some(&hold), work)?;
            pool.run(Lane::Storage, job("second step"), Some(&hold), |_| ())
        });
        let first = first.wait_until_running();
        let queued = scope.spawn(|| pool.run(Lane::Control, job("queued"), None, |_| 7));
        let waiter = scope.spawn(|| pool.hold("web-1", far()).map(drop));
        until("one waits for the key", || pool.snapshot().callers.keys_waiting == 1);
        until("one is queued", || lane(&pool, Lane::Control).queued == 1);

        let stop = scope.spawn(|| pool.stop(FAR));
        assert_eq!(waiter.join().unwrap(), Err(Error::Stopping));
        assert_eq!(pool.run(Lane::Read, job("new"), None, |_| ()), Err(Error::Stopping));
        assert_eq!(pool.hold("web-2", far()).map(drop), Err(Error::Stopping));

        drop(first);
        assert_eq!(verb.join().unwrap(), Ok(()));
        assert_eq!(queued.join().unwrap(), Ok(7));
        assert!(stop.join().unwrap());
    });
    assert!(pool.snapshot().lanes.iter().all(|lane| lane.workers == 0 && lane.running == 0));
}

#[test]
fn stop_leaves_a_stuck_job_after_its_grace_and_answers_the_queued() {
    let pool = pool(&limits());
    let block = run_late(&pool, "web-1", || ());
    thread::scope(|scope| {
        let ran = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&ran);
        let work = move |_: &mut State| set.store(true, SeqCst);
        let queued = scope.spawn(|| pool.run(Lane::Control, job("queued"), None, work));
        until("it is queued", || lane(&pool, Lane::Control).queued == 1);

        assert!(!pool.stop(Duration::from_millis(20)));
        assert_eq!(queued.join().unwrap(), Err(Error::Stopping));
        drop(block);
        assert!(pool.stop(FAR), "the stuck worker ends with its job");
        assert!(!ran.load(SeqCst));
    });
}

#[test]
fn dropping_the_pool_does_not_wait_for_a_stuck_job_and_the_late_handler_still_runs() {
    let pool = pool(&limits());
    let (undone, wait_undone) = unbounded();
    let block = run_late(&pool, "web-1", move || undone.send(()).unwrap());
    drop(pool);
    drop(block);
    wait_undone.recv_timeout(FAR).unwrap();
}

#[test]
fn nothing_is_left_after_a_hundred_thousand_calls() {
    const THREADS: u64 = 8;
    const CALLS: u64 = 12_500;
    let pool = pool(&PoolLimits::default());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                for number in 0..CALLS {
                    let key = format!("web-{}", (thread + number) % 1000);
                    let hold = pool.hold(&key, far()).unwrap();
                    pool.run(Lane::Control, job("verb"), Some(&hold), |_| ()).unwrap();
                }
            });
        }
    });
    let calls = THREADS * CALLS;
    until("all are counted", || lane(&pool, Lane::Control).totals.finished == calls);
    let callers = pool.snapshot().callers;
    assert_eq!((callers.callers, callers.keys_held, callers.keys_waiting), (0, 0, 0));
    let control = lane(&pool, Lane::Control);
    assert_eq!((control.queued, control.running, control.oldest), (0, 0, None));
}
