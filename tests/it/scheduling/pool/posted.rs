//! Jobs that nobody waits for: their answer is handed on, once.

use parking_lot::Mutex;

use super::*;

/// An answer, and the name of the thread that handed it on.
type Answered<T> = (Result<T, Error>, String);

/// Posts a job, and where its answer comes out.
fn post<T: Send + 'static>(
    pool: &Pool<State>,
    job: Job,
    work: impl FnOnce(&mut State) -> T + Send + 'static,
) -> Receiver<Answered<T>> {
    let (answers, answered) = unbounded();
    pool.post(pool.caller_slot().unwrap(), Lane::Read, job, work, move |answer| {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        answers.send((answer, thread)).unwrap();
    });
    answered
}

/// The answer, and that no second one comes: the closure that would send it is gone.
fn only<T>(answered: &Receiver<Answered<T>>) -> Answered<T> {
    let answer = answered.recv_timeout(FAR).unwrap();
    assert!(answered.recv_timeout(FAR).is_err(), "a second answer, or a closure that is kept");
    answer
}

fn one_worker() -> PoolLimits {
    PoolLimits { read_workers: 1, ..limits() }
}

#[test]
fn worker_delivers_the_answer_after_freeing_its_slot() {
    let pool = Arc::new(pool(&limits()));
    let (answers, answered) = unbounded();
    let seen = Arc::clone(&pool);
    let slot = pool.caller_slot().unwrap();
    assert_eq!(pool.snapshot().callers.callers, 1);
    pool.post(
        slot,
        Lane::Read,
        job("Status web-1"),
        |_| 7,
        move |answer| {
            answers.send((answer, seen.snapshot().callers.callers)).unwrap();
        },
    );
    assert_eq!(answered.recv_timeout(FAR).unwrap(), (Ok(7), 0));
    let (answer, thread) = only(&post(&pool, job("Status web-1"), |_| 8));
    assert_eq!(answer, Ok(8));
    assert!(thread.starts_with("read-"), "{thread}");
    until("both are finished", || lane(&pool, Lane::Read).totals.finished == 2);
}

/// Posts a job that is late, and runs on until its block is dropped.
fn post_late(pool: &Pool<State>) -> (Receiver<Answered<()>>, Block) {
    let attempt = |wait_ms: u64| {
        let (block, work) = block();
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        let answered = post(pool, Job { name: "late".into(), deadline }, work);
        match only(&answered) {
            (Err(Error::Late { what, .. }), thread) => {
                assert_eq!((what.as_str(), thread.as_str()), ("late", "pool-clock"));
                ControlFlow::Break((answered, block.wait_until_running()))
            }
            // The machine was so busy that no worker came in time.
            (Err(Error::Unrun { .. }), _) => ControlFlow::Continue(()),
            other => panic!("{other:?}"),
        }
    };
    match (4..14).try_for_each(|power| attempt(1 << power)) {
        ControlFlow::Break(late) => late,
        ControlFlow::Continue(()) => panic!("no worker took the job"),
    }
}

#[test]
fn clock_answers_late_and_later_result_is_dropped() {
    let pool = pool(&one_worker());
    let (answered, block) = post_late(&pool);
    assert_eq!(pool.snapshot().callers.callers, 0, "its slot is free");
    let read = lane(&pool, Lane::Read);
    assert_eq!((read.running, read.totals.late, read.totals.finished), (1, 1, 0));
    assert!(pool.late_answers().try_recv().is_ok(), "the watch of stuck workers is woken");
    assert_eq!(pool.overdue().len(), 1);
    drop(block);
    until("it is over", || lane(&pool, Lane::Read).totals.finished == 1);
    assert!(answered.try_recv().is_err());
    assert_eq!(only(&post(&pool, job("another"), |_| ())).0, Ok(()));
}

#[test]
fn job_queued_past_its_deadline_is_late_unstarted() {
    let pool = pool(&one_worker());
    let (block, work) = block();
    let first = post(&pool, job("first"), work);
    let block = block.wait_until_running();
    let ran = Arc::new(AtomicBool::new(false));
    let runs = Arc::clone(&ran);
    let answered = post(&pool, soon("second"), move |_| runs.store(true, SeqCst));
    let (answer, thread) = only(&answered);
    assert_eq!(thread, "pool-clock");
    assert!(matches!(answer, Err(Error::Unrun { lane: Lane::Read, .. })), "{answer:?}");
    let read = lane(&pool, Lane::Read);
    assert_eq!((read.queued, read.totals.unrun), (0, 1));
    drop(block);
    assert_eq!(only(&first).0, Ok(()));
    assert_eq!(only(&post(&pool, job("third"), |_| ())).0, Ok(()));
    assert!(!ran.load(SeqCst));
}

#[test]
fn nearer_deadline_is_met_while_a_farther_one_waits() {
    let pool = pool(&PoolLimits { read_workers: 2, ..limits() });
    let (far_block, work) = block();
    let far_answer = post(&pool, job("far"), work);
    let far_block = far_block.wait_until_running();
    let (near_block, work) = block();
    // Time enough for a busy machine to begin it, and much less than the other has.
    let deadline = Instant::now() + FAR / 40;
    let near = post(&pool, Job { name: "near".into(), deadline }, work);
    let near_block = near_block.wait_until_running();
    assert!(matches!(only(&near).0, Err(Error::Late { .. })));
    assert!(far_answer.try_recv().is_err(), "the other still has time");
    drop((far_block, near_block));
    assert_eq!(only(&far_answer).0, Ok(()));
}

#[test]
fn panics_of_job_and_of_receiver_are_survived() {
    let pool = pool(&one_worker());
    let (answer, _) = only(&post(&pool, job("Status web-1"), |_| -> () { panic!("on purpose") }));
    assert_eq!(answer, Err(Error::Panicked { what: "Status web-1".to_owned() }));
    let slot = pool.caller_slot().unwrap();
    pool.post(slot, Lane::Read, job("told"), |_| (), |_| panic!("on purpose, too"));
    assert_eq!(only(&post(&pool, job("after"), |_| ())).0, Ok(()));
    until("all ended", || lane(&pool, Lane::Read).totals.finished == 2);
    assert_eq!(lane(&pool, Lane::Read).totals.panicked, 1);
}

#[test]
fn a_posted_job_takes_no_callers_place() {
    let pool = pool(&limits());
    let slots: Vec<_> = (0..8).map(|_| pool.caller_slot().unwrap()).collect();
    assert_eq!(pool.snapshot().callers.callers, 8, "a stop waits for them");
    assert_eq!(pool.run(Lane::Read, job("beside"), None, |_| 7), Ok(7));
    drop(slots);
    assert_eq!(pool.snapshot().callers.callers, 0);
}

#[test]
fn a_guest_that_hangs_leaves_a_worker_to_others() {
    let pool = pool(&PoolLimits { read_workers: 4, ..limits() });
    let named = |guest: &str| Job { name: JobName::new("Status", guest), ..job("") };
    let (mut blocks, mut hanging) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let (block, work) = block();
        blocks.push(block);
        hanging.push(post(&pool, named("hangs"), work));
    }
    until("two of them run", || lane(&pool, Lane::Read).running == 2);
    for _ in 0..20 {
        assert_eq!(only(&post(&pool, named("well"), |_| 7)).0, Ok(7));
    }
    let seen = lane(&pool, Lane::Read);
    assert_eq!((seen.running, seen.queued, seen.held_back), (2, 4, 4));
    drop(blocks);
    for answer in hanging {
        assert_eq!(only(&answer).0, Ok(()), "each has its turn");
    }
}

#[test]
fn guests_that_hang_leave_a_worker_to_other_questions() {
    let pool = pool(&PoolLimits { read_workers: 4, ..limits() });
    let (mut blocks, mut hanging) = (Vec::new(), Vec::new());
    for guest in ["first", "second", "third"] {
        for _ in 0..3 {
            let (block, work) = block();
            blocks.push(block);
            let name = JobName::new("DiskMetrics", guest).of_emulator();
            hanging.push(post(&pool, Job { name, ..job("") }, work));
        }
    }
    until("all but one are taken", || lane(&pool, Lane::Read).running == 3);
    for _ in 0..20 {
        let name = JobName::new("Status", "first-of-all");
        assert_eq!(only(&post(&pool, Job { name, ..job("") }, |_| 7)).0, Ok(7));
    }
    assert_eq!(lane(&pool, Lane::Read).running, 3);
    drop(blocks);
    for answer in hanging {
        assert_eq!(only(&answer).0, Ok(()), "each has its turn");
    }
}

#[test]
fn held_back_jobs_run_in_order_or_are_reported() {
    let pool = pool(&PoolLimits { read_workers: 2, queue: 3, ..limits() });
    let named = |deadline| Job { name: JobName::new("Status", "hangs"), deadline };
    let (block, work) = block();
    let first = post(&pool, named(far()), work);
    let block = block.wait_until_running();
    for _ in 0..5 {
        // More jobs than the queue has room for: unrun ones give way.
        let short = post(&pool, named(Instant::now() + Duration::from_millis(20)), |_| ());
        assert!(matches!(only(&short).0, Err(Error::Unrun { .. })));
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    let later: Vec<_> = (0..3)
        .map(|number| {
            let order = Arc::clone(&order);
            post(&pool, named(far()), move |_| order.lock().push(number))
        })
        .collect();
    let seen = lane(&pool, Lane::Read);
    assert_eq!((seen.queued, seen.held_back, seen.totals.unrun), (3, 3, 5));
    drop(block);
    for answer in [&first].into_iter().chain(&later) {
        assert_eq!(only(answer).0, Ok(()));
    }
    assert_eq!(*order.lock(), [0, 1, 2]);
}

#[test]
fn full_queue_is_reported_at_once() {
    let pool = pool(&PoolLimits { queue: 1, ..one_worker() });
    let (block, work) = block();
    let first = post(&pool, job("first"), work);
    let block = block.wait_until_running();
    let second = post(&pool, job("second"), |_| ());
    let (answer, _) = only(&post(&pool, job("third"), |_| ()));
    assert!(matches!(answer, Err(Error::Busy { full: Full::Queue(Lane::Read), .. })), "{answer:?}");
    drop(block);
    assert_eq!((only(&first).0, only(&second).0), (Ok(()), Ok(())));
}

#[test]
fn stop_completes_the_running_job_and_answers_queued() {
    let pool = Arc::new(pool(&one_worker()));
    let (block, work) = block();
    let first = post(&pool, job("first"), work);
    let block = block.wait_until_running();
    let second = post(&pool, job("second"), |_| ());
    assert!(!pool.stop(Duration::from_millis(20)), "one runs");
    assert_eq!(only(&second).0, Err(Error::Stopping));
    assert!(pool.caller_slot().is_none());
    drop(block);
    assert_eq!(only(&first).0, Ok(()));
    assert!(pool.stop(FAR));
}

#[test]
fn pool_end_ends_jobs_that_wait_for_the_clock() {
    let pool = pool(&one_worker());
    let (block, work) = block();
    let kept = Arc::new(());
    let held = Arc::clone(&kept);
    let slot = pool.caller_slot().unwrap();
    let deadline = Instant::now() + FAR * 100;
    let far = Job { name: "far".into(), deadline };
    pool.post(slot, Lane::Read, far, work, move |_: Result<(), Error>| drop(held));
    let block = block.wait_until_running();
    drop(pool);
    drop(block);
    until("nothing is kept of it", || Arc::strong_count(&kept) == 1);
}

#[test]
fn many_short_deadlines_are_each_answered_once() {
    crate::harness::cost::slow("posts thousands of jobs");
    let pool = pool(&PoolLimits { read_workers: 2, ..limits() });
    let (answers, answered) = unbounded();
    let (mut posted, mut ends, end) = (0_usize, [0_usize; 2], Instant::now() + 10 * FAR);
    // Until each outcome occurred a thousand times, for jobs that might have had the other.
    while ends.iter().any(|count| *count < 1000) {
        assert!(Instant::now() < end, "{ends:?}");
        ends = answered.try_iter().fold(ends, |mut ends, is_ok| {
            ends[usize::from(is_ok)] += 1;
            ends
        });
        let Some(slot) = pool.caller_slot() else { continue };
        // From 20 us to 40 ms: on a machine of any speed some of these are as long as a job takes.
        let wait = Duration::from_micros((20 + posted as u64 % 100) << (posted % 12));
        let job = Job { name: "short".into(), deadline: Instant::now() + wait };
        let answers = answers.clone();
        pool.post(
            slot,
            Lane::Read,
            job,
            |_| thread::yield_now(),
            move |answer| answers.send(answer.is_ok()).unwrap(),
        );
        posted += 1;
    }
    drop(answers);
    assert_eq!(ends.iter().sum::<usize>() + answered.iter().count(), posted);
    until("all is counted", || {
        let totals = lane(&pool, Lane::Read).totals;
        // Due jobs stay in the queue until a worker takes them, and so it may be full.
        totals.finished + totals.unrun + totals.refused == posted as u64
    });
    assert_eq!(pool.snapshot().callers.callers, 0);
}
