//! How jobs and the pool end otherwise: panics, stop, drop.

use super::*;

#[test]
fn panic_costs_job_and_state_and_frees_the_lock() {
    let pool = pool(&limits());
    let count = |state: &mut State| state.replace(state.get() + 1);
    pool.run(Lane::Control, job("before"), None, count).unwrap();
    let late_ran = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&late_ran);

    let lock = pool.lock_guest("web-1", far()).unwrap();
    let panicked = pool.run_or_else(
        Lane::Control,
        job("bad"),
        Some(&lock),
        |_| panic!("on purpose"),
        move |_, ()| set.store(true, SeqCst),
    );
    assert_eq!(panicked, Err(Error::Panicked { what: "bad".to_owned() }));
    drop(lock);

    assert_eq!(pool.snapshot().callers.locks_held, 0);
    assert_eq!(pool.run(Lane::Control, job("after"), None, count), Ok(0), "a new state");
    assert!(!late_ran.load(SeqCst));
    assert_eq!(lane(&pool, Lane::Control).totals.panicked, 1);
}

#[test]
fn late_job_that_panics_frees_the_lock_without_undo() {
    let pool = pool(&limits());
    let undone = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&undone);
    let undo = move || set.store(true, SeqCst);
    drop(run_late(&pool, "web-1", || panic!("on purpose"), undo));
    pool.lock_guest("web-1", far()).unwrap();
    until("the panic is counted", || lane(&pool, Lane::Control).totals.panicked == 1);
    assert!(!undone.load(SeqCst));
}

#[test]
fn panic_in_a_late_handler_frees_lock_and_costs_state() {
    let pool = pool(&limits());
    let count = |state: &mut State| state.replace(state.get() + 1);
    pool.run(Lane::Control, job("before"), None, count).unwrap();
    drop(run_late(&pool, "web-1", || (), || panic!("on purpose")));
    pool.lock_guest("web-1", far()).unwrap();
    assert_eq!(pool.run(Lane::Control, job("after"), None, count), Ok(0), "a new state");
    assert_eq!(lane(&pool, Lane::Control).totals.panicked, 1);
}

/// A state whose making and dropping panic on request.
struct Odd<'a>(&'a AtomicBool);

impl Drop for Odd<'_> {
    fn drop(&mut self) {
        assert!(!self.0.load(SeqCst), "on purpose: drop");
    }
}

#[test]
fn panic_in_making_or_dropping_state_kills_no_worker() {
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
fn stop_completes_jobs_and_refuses_new_ones() {
    let pool = pool(&limits());
    thread::scope(|scope| {
        let (first, work) = block();
        let verb = scope.spawn(|| {
            let lock = pool.lock_guest("web-1", far())?;
            pool.run(Lane::Control, job("first step"), Some(&lock), work)?;
            pool.run(Lane::Storage, job("second step"), Some(&lock), |_| ())
        });
        let first = first.wait_until_running();
        let queued = scope.spawn(|| pool.run(Lane::Control, job("queued"), None, |_| 7));
        let waiter = scope.spawn(|| pool.lock_guest("web-1", far()).map(drop));
        until("one waits for the lock", || pool.snapshot().callers.locks_waiting == 1);
        until("one is queued", || lane(&pool, Lane::Control).queued == 1);

        let stop = scope.spawn(|| pool.stop(FAR));
        assert_eq!(waiter.join().unwrap(), Err(Error::Stopping));
        assert_eq!(pool.run(Lane::Read, job("new"), None, |_| ()), Err(Error::Stopping));
        assert_eq!(pool.lock_guest("web-2", far()).map(drop), Err(Error::Stopping));

        drop(first);
        assert_eq!(verb.join().unwrap(), Ok(()));
        assert_eq!(queued.join().unwrap(), Ok(7));
        assert!(stop.join().unwrap());
    });
    assert!(pool.snapshot().lanes.iter().all(|lane| lane.workers == 0 && lane.running == 0));
}

#[test]
fn stop_leaves_a_hung_job_after_its_grace() {
    let pool = pool(&limits());
    let block = run_late(&pool, "web-1", || (), || ());
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
fn stop_does_not_wait_for_a_read_that_hangs() {
    let pool = pool(&limits());
    let (release, hang) = bounded::<()>(0);
    let run = |_| {
        let hang = hang.clone();
        pool.run(Lane::Read, soon("hangs"), None, move |_: &mut State| hang.recv())
    };
    // Where the machine is so busy that no worker comes in time, once more.
    let late = (0..100).map(run).find(|it| !matches!(it, Err(Error::Unrun { .. })));
    assert!(matches!(late, Some(Err(Error::Late { .. }))), "{late:?}");
    let began = Instant::now();
    assert!(!pool.stop(10 * FAR));
    assert!(began.elapsed() < FAR, "{:?}", began.elapsed());
    drop(release);
}

#[test]
fn dropped_pool_leaves_hung_job_and_its_late_handler() {
    let pool = pool(&limits());
    let (undone, wait_undone) = unbounded();
    let block = run_late(&pool, "web-1", || (), move || undone.send(()).unwrap());
    drop(pool);
    drop(block);
    wait_undone.recv_timeout(FAR).unwrap();
}
