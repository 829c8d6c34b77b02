//! Jobs that are late before and after they start.

use super::*;

#[test]
fn late_job_holds_its_lock_until_return_and_is_undone() {
    let pool = pool(&limits());
    let (undone, wait_undone) = bounded(1);
    let (go_on, wait_go_on) = bounded::<()>(1);
    let undo = move || {
        undone.send(()).unwrap();
        wait_go_on.recv().unwrap();
    };
    let block = run_late(&pool, "web-1", || (), undo);

    let held = pool.lock_guest("web-1", soon("").deadline).unwrap_err();
    let Error::GuestLocked { guest, running: Some(running), .. } = held else { panic!("{held:?}") };
    assert_eq!((guest.as_str(), running.what.as_str()), ("web-1", "late"));

    drop(block);
    wait_undone.recv_timeout(FAR).unwrap();
    let held = pool.lock_guest("web-1", soon("").deadline).unwrap_err();
    assert!(matches!(held, Error::GuestLocked { .. }), "the undo runs under the lock: {held:?}");
    assert_eq!(pool.snapshot().callers.waits_late, 2);

    thread::scope(|scope| {
        let next = scope.spawn(|| pool.lock_guest("web-1", far()).map(drop));
        until("the next one waits", || pool.snapshot().callers.locks_waiting == 1);
        go_on.send(()).unwrap();
        assert_eq!(next.join().unwrap(), Ok(()));
    });
    assert_eq!(lane(&pool, Lane::Control).totals.late, 1);
}

#[test]
fn a_late_job_keeps_the_keys_of_other_guests_too() {
    let pool = pool(&limits());
    let mut lock = pool.lock_guest("web-2", far()).unwrap();
    lock.keep(pool.lock_guest("web-1", far()).unwrap());
    assert_eq!((lock.guest(), pool.snapshot().callers.callers), ("web-2", 1));
    let (go_on, wait_go_on) = bounded::<()>(1);
    let work = move |_: &mut State| wait_go_on.recv().unwrap();
    // As long as a worker needs to take it, on a loaded machine too.
    let deadline = Instant::now() + Duration::from_secs(2);
    let late = pool.run(Lane::Control, Job { name: "late".into(), deadline }, Some(&lock), work);
    assert!(matches!(late, Err(Error::Late { .. })), "{late:?}");
    drop(lock);
    for guest in ["web-1", "web-2"] {
        let held = pool.lock_guest(guest, soon("").deadline).unwrap_err();
        assert!(matches!(held, Error::GuestLocked { .. }), "{guest}: {held:?}");
    }
    go_on.send(()).unwrap();
    for guest in ["web-1", "web-2"] {
        pool.lock_guest(guest, far()).map(drop).unwrap();
    }
}

#[test]
fn late_queued_job_never_starts_and_frees_its_lock() {
    let pool = pool(&limits());
    thread::scope(|scope| {
        let (first, work) = block();
        scope.spawn(|| pool.run(Lane::Control, job("first"), None, work).unwrap());
        let first = first.wait_until_running();

        let ran = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&ran);
        let lock = pool.lock_guest("web-1", far()).unwrap();
        let unrun = pool.run(Lane::Control, soon("second"), Some(&lock), move |_| {
            set.store(true, SeqCst);
        });
        let Err(Error::Unrun { what, lane: Lane::Control, running: Some(running), .. }) = unrun
        else {
            panic!("{unrun:?}")
        };
        assert_eq!((what.as_str(), running.what.as_str()), ("second", "first"));
        assert_eq!(Arc::strong_count(&ran), 1, "the work is dropped, not kept in the queue");
        drop(lock);
        assert_eq!(pool.snapshot().callers.locks_held, 0);
        assert_eq!(lane(&pool, Lane::Control).queued, 0);

        drop(first);
        pool.run(Lane::Control, job("third"), None, |_| ()).unwrap();
        assert!(!ran.load(SeqCst));
        assert_eq!(lane(&pool, Lane::Control).totals.unrun, 1);
    });
}

#[test]
fn result_reaches_caller_or_late_handler_exactly_once() {
    const CALLS: usize = 10_000;
    let pool = pool(&limits());
    let late = Arc::new(AtomicUsize::new(0));
    let ran = Arc::new(AtomicUsize::new(0));
    let (mut in_time, mut reported_late, mut unrun) = (0, 0, 0);
    let end = far();
    // And until both outcomes were seen, which takes a loaded machine longer.
    let mut number = 0;
    while number < CALLS || ((in_time == 0 || reported_late == 0) && Instant::now() < end) {
        number += 1;
        let micros = |n: usize| Duration::from_micros(u64::try_from(n).unwrap());
        let deadline = Instant::now() + micros(50 + number % 50);
        let job = Job { name: "race".into(), deadline };
        let (late, ran) = (Arc::clone(&late), Arc::clone(&ran));
        // Timers are up to 50 µs late (timer slack), so the callers give up in the middle of this.
        let over = deadline + micros(number % 149);
        let work = move |_: &mut State| {
            ran.fetch_add(1, SeqCst);
            while Instant::now() < over {
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
            Err(Error::Late { .. }) => reported_late += 1,
            Err(Error::Unrun { .. }) => unrun += 1,
            // Unrun jobs stay in the queue until the worker has skipped them.
            Err(Error::Busy { full: Full::Queue(_), .. }) => thread::yield_now(),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(pool.stop(FAR));
    assert!(
        in_time > 0 && reported_late > 0,
        "{in_time} in time, {reported_late} late, {unrun} unrun"
    );
    assert_eq!(late.load(SeqCst), reported_late);
    assert_eq!(ran.load(SeqCst), in_time + reported_late);
    let totals = lane(&pool, Lane::Control).totals;
    let count = |n: usize| u64::try_from(n).unwrap();
    assert_eq!(totals.finished, count(in_time + reported_late));
    assert_eq!((totals.late, totals.unrun), (count(reported_late), count(unrun)));
    assert_eq!(totals.panicked, 0);
}
