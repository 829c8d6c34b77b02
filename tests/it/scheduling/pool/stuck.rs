//! Workers that are abandoned: replaced at once, gone when their job returns.

use super::*;

/// The one job that is overdue.
fn overdue(pool: &Pool<State>) -> Overdue {
    let jobs = pool.overdue();
    let [job] = &jobs[..] else { panic!("{jobs:?}") };
    job.clone()
}

/// Workers, running, stuck.
fn figures(pool: &Pool<State>) -> (usize, usize, usize) {
    let LaneSnapshot { workers, running, stuck, .. } = lane(pool, Lane::Control);
    (workers, running, stuck)
}

fn name_of_worker(pool: &Pool<State>) -> Option<String> {
    let name = |_: &mut State| thread::current().name().map(str::to_owned);
    pool.run(Lane::Control, job("name"), None, name).unwrap()
}

#[test]
fn hung_worker_is_replaced_and_ends_with_its_job() {
    let pool = pool(&limits());
    let (undone, wait_undone) = unbounded();
    let block = run_late(&pool, "web-1", || (), move || undone.send(()).unwrap());
    let stuck = overdue(&pool);
    assert_eq!((stuck.lane, stuck.worker, stuck.name.verb.as_str()), (Lane::Control, 0, "late"));
    assert_eq!(figures(&pool), (1, 1, 0));

    assert!(pool.abandon(&stuck).unwrap());

    assert_eq!(figures(&pool), (1, 0, 1));
    assert_eq!(pool.overdue(), [], "it is judged already");
    assert_eq!(name_of_worker(&pool).as_deref(), Some("control-1"));
    assert_eq!(pool.snapshot().callers.locks_held, 1, "the lock stays with the job");
    let oldest = lane(&pool, Lane::Control).oldest.unwrap();
    assert_eq!(oldest.what, "late");
    assert!(!pool.abandon(&stuck).unwrap(), "once is enough");

    drop(block);
    wait_undone.recv_timeout(FAR).unwrap();
    until("it has returned", || figures(&pool) == (1, 0, 0));
    pool.lock_guest("web-1", far()).unwrap();
    let block = run_late(&pool, "web-2", || (), || ());
    let deadline = Instant::now() + Duration::from_millis(200);
    let second = Job { name: "second".into(), deadline };
    let unrun = pool.run(Lane::Control, second, None, |_| ());
    assert!(matches!(unrun, Err(Error::Unrun { .. })), "one worker is left: {unrun:?}");
    drop(block);
    assert!(pool.stop(FAR));
}

#[test]
fn returned_worker_is_not_abandoned() {
    let pool = pool(&limits());
    drop(run_late(&pool, "web-1", || (), || ()));
    until("it has returned", || figures(&pool).1 == 0);
    let block = run_late(&pool, "web-1", || (), || ());
    let second = overdue(&pool);
    let before = second.since.checked_sub(Duration::from_secs(1)).unwrap();
    assert!(!pool.abandon(&Overdue { since: before, ..second }).unwrap(), "another job");
    assert_eq!(figures(&pool), (1, 1, 0));
    drop(block);
    until("it has returned", || figures(&pool).1 == 0);
    assert_eq!(name_of_worker(&pool).as_deref(), Some("control-0"));
}

#[test]
fn late_answer_and_pool_end_reach_the_listener() {
    let pool = pool(&limits());
    let late = pool.late_answers();
    pool.run(Lane::Control, job("in time"), None, |_| ()).unwrap();
    assert!(late.is_empty());
    drop(run_late(&pool, "web-1", || (), || ()));
    late.recv_timeout(FAR).unwrap();
    drop(pool);
    assert!(late.recv_timeout(FAR).is_err_and(|error| error.is_disconnected()));
}

#[test]
fn overdue_or_hung_job_is_not_restarted_others_are() {
    let pool = pool(&limits());
    let may = |what: &str| pool.not_overdue(Lane::Control, &what.into());
    let block = run_late(&pool, "web-1", || (), || ());
    for _ in ["overdue", "stuck"] {
        assert!(matches!(may("late"), Err(Error::Overdue { running }) if running.what == "late"));
        assert_eq!(may("other"), Ok(()));
        assert_eq!(pool.not_overdue(Lane::Read, &"late".into()), Ok(()));
        for job in pool.overdue() {
            pool.abandon(&job).unwrap();
        }
    }
    drop(block);
    until("it may be begun again", || may("late").is_ok());
}

#[test]
fn stop_gives_a_stuck_job_its_grace_too() {
    let pool = pool(&limits());
    let block = run_late(&pool, "web-1", || (), || ());
    assert!(pool.abandon(&overdue(&pool)).unwrap());
    assert!(!pool.stop(Duration::from_millis(20)));
    drop(block);
    assert!(pool.stop(FAR));
}
