//! Guest locks, classes and queues: who goes first, who is refused, and that no lane waits for another.

use super::*;

#[test]
fn verbs_on_one_guest_lock_run_in_arrival_order() {
    let pool = pool(&PoolLimits::default());
    let order = parking_lot::Mutex::new(Vec::new());
    let inside = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let first = pool.lock_guest("web-1", far()).unwrap();
        for number in 0..8 {
            let (pool, order, inside) = (&pool, &order, Arc::clone(&inside));
            scope.spawn(move || {
                let deadline = far();
                let lock = pool.lock_guest("web-1", deadline).unwrap();
                assert!(Instant::now() < deadline, "the lock's release wakes the next");
                order.lock().push(number);
                let alone = pool.run(Lane::Control, job("verb"), Some(&lock), move |_| {
                    let alone = !inside.swap(true, SeqCst);
                    thread::yield_now();
                    inside.store(false, SeqCst);
                    alone
                });
                assert_eq!(alone, Ok(true));
            });
            until("the caller waits", || pool.snapshot().callers.locks_waiting == number + 1);
        }
        drop(first);
    });
    assert_eq!(*order.lock(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn verbs_on_100_guest_locks_run_in_parallel() {
    let pool = pool(&PoolLimits { queue: 100, ..PoolLimits::default() });
    // A job ends only with three others beside it, so fewer at once never end.
    let four = Arc::new(Barrier::new(4));
    let running = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..100 {
            let (pool, four, running) = (&pool, Arc::clone(&four), Arc::clone(&running));
            scope.spawn(move || {
                let lock = pool.lock_guest(&format!("web-{number}"), far()).unwrap();
                let at_once = pool.run(Lane::Control, job("verb"), Some(&lock), move |_| {
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
fn full_queue_is_busy_at_once_and_names_the_blocker() {
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

/// More than the lanes of changes have workers.
const CALLERS: usize = 24;

#[test]
fn full_change_lanes_do_not_affect_read_and_urgent() {
    let pool = pool(&PoolLimits::default());
    thread::scope(|scope| {
        let mut blocks = Vec::new();
        for number in 0..CALLERS {
            let lane = if number % 2 == 0 { Lane::Control } else { Lane::Storage };
            let (block, work) = block();
            blocks.push(block);
            let pool = &pool;
            scope.spawn(move || pool.run(lane, job("change"), None, work).unwrap());
        }
        until("all wait", || pool.snapshot().callers.callers == CALLERS);

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
fn a_lock_stays_with_its_last_clone() {
    let pool = pool(&limits());
    let lock = pool.lock_guest("web-1", far()).unwrap();
    let clone = lock.clone();
    drop(lock);
    assert_eq!(pool.snapshot().callers.callers, 0);
    assert_eq!(pool.snapshot().callers.locks_held, 1);
    pool.run(Lane::Control, job("step"), Some(&clone), |_| ()).unwrap();
    drop(clone);
    assert_eq!(pool.snapshot().callers.locks_held, 0);
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
fn nothing_is_left_after_a_hundred_thousand_calls() {
    crate::harness::cost::slow("makes 100,000 calls");
    const THREADS: u64 = 8;
    const CALLS: u64 = 12_500;
    let pool = pool(&PoolLimits::default());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                for number in 0..CALLS {
                    let guest = format!("web-{}", (thread + number) % 1000);
                    let lock = pool.lock_guest(&guest, far()).unwrap();
                    pool.run(Lane::Control, job("verb"), Some(&lock), |_| ()).unwrap();
                }
            });
        }
    });
    let calls = THREADS * CALLS;
    until("all are counted", || lane(&pool, Lane::Control).totals.finished == calls);
    let callers = pool.snapshot().callers;
    assert_eq!((callers.callers, callers.locks_held, callers.locks_waiting), (0, 0, 0));
    let control = lane(&pool, Lane::Control);
    assert_eq!((control.queued, control.running, control.oldest), (0, 0, None));
}
