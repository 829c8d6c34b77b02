use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, thread};

use serde_json::value::RawValue;

use super::*;
use crate::os::files::{CHECKSUM_START, checksum};
use crate::os::peer::{Caller, Origin, Peer};

thread_local! {
    /// How far this test's clock is ahead.
    static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn clock() -> SystemTime {
    SystemTime::now() + AHEAD.get()
}

fn later(by: Duration) {
    AHEAD.set(AHEAD.get() + by);
}

/// A directory of jobs, removed on drop.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("mistify-jobs-{}-{number}", process::id()));
        // A killed test may have left one.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> Jobs {
        self.open_with(&JobLimits::default())
    }

    fn open_with(&self, limits: &JobLimits) -> Jobs {
        self.open_about("here", limits)
    }

    fn open_about(&self, scope: &str, limits: &JobLimits) -> Jobs {
        let (directory, aside) = (self.0.join("jobs"), self.0.join("set-aside"));
        let recovery_note =
            |job: &Job| if job.guest == "open" { "it is undone" } else { "who knows" };
        Jobs::open_by(&directory, &aside, scope.to_owned(), limits, recovery_note, clock).unwrap()
    }

    /// Returns the names in one of its directories, without the jobs' numbers.
    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(directory)).unwrap();
        let name = |name: String| name.rsplit('.').next().unwrap_or_default().to_owned();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry.unwrap().file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    fn file(&self, id: &str, kind: &str) -> PathBuf {
        self.0.join(format!("jobs/{:016}.{kind}", id.parse::<u64>().unwrap()))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Remains in the directory for temporary files do no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn request(text: &str) -> JobCall {
    let peer = Some(Peer { uid: 0, pid: Some(8) });
    JobCall { params: json(text), caller: Caller { origin: Origin::Socket, peer } }
}

fn add(jobs: &Jobs, guest: &str) -> String {
    jobs.add("Libvirt.Run", guest, request(r#"{"guest":{}}"#)).unwrap()
}

/// Takes the next job, if one may start.
fn take(jobs: &Jobs) -> Option<RunningJob> {
    jobs.take(&mut jobs.table.lock())
}

/// Starts the next job, which must exist.
fn begin(jobs: &Jobs) -> RunningJob {
    let active = take(jobs).expect("a job waits");
    jobs.may_begin(&active).unwrap();
    active
}

fn done(jobs: &Jobs, active: &RunningJob) -> Job {
    jobs.end(active, JobOutcome::Done(json(r#"{"guest":null}"#)))
}

fn states(jobs: &Jobs) -> Vec<JobState> {
    jobs.list("", 1000, |_| true).unwrap().jobs.iter().map(|job| job.state).collect()
}

fn message(job: &Job) -> String {
    let error: serde_json::Value = serde_json::from_str(job.error.as_ref().unwrap().get()).unwrap();
    error["message"].as_str().unwrap().to_owned()
}

#[test]
fn job_outcome_survives_a_restart() {
    let home = Home::new();
    let jobs = home.open();
    let id = add(&jobs, "web-1");
    assert_eq!(jobs.get(&id).unwrap().state, JobState::Queued);
    assert_eq!(home.names("jobs"), ["queued"]);
    let active = jobs.next().expect("it waits");
    jobs.may_begin(&active).unwrap();
    assert_eq!((active.id(), &*active.method), (id.clone(), "Libvirt.Run"));
    assert_eq!(active.request.params.get(), r#"{"guest":{}}"#);
    assert_eq!(active.request.caller, request("{}").caller);
    assert_eq!(home.names("jobs"), ["running"]);
    active.tracked(|| {
        reached("wait");
        let track = tracker().expect("a job is carried out here");
        thread::spawn(move || track.step("domain".to_owned())).join().unwrap();
    });
    reached("nobody's");
    let running = jobs.get(&id).unwrap();
    let progress = Progress { steps: 1, step: "domain".to_owned() };
    assert_eq!((running.state, &running.progress), (JobState::Running, &progress));
    let ended = done(&jobs, &active);
    assert_eq!(home.names("jobs"), ["ended"]);
    drop(jobs);

    let again = home.open().get(&id).unwrap();
    let text = |job: &Job| serde_json::to_string(job).unwrap();
    assert_eq!(text(&again), text(&ended));
    assert_eq!((again.state, again.progress), (JobState::Done, progress));
    assert_eq!(again.result.unwrap().get(), r#"{"guest":null}"#);
    assert!(again.created <= again.started && again.started <= again.ended);
}

#[test]
fn restart_runs_queued_jobs_and_loses_started_ones() {
    let home = Home::new();
    let jobs = home.open();
    let (ran, undone, waits) = (add(&jobs, "a"), add(&jobs, "open"), add(&jobs, "b"));
    let _left = [begin(&jobs), begin(&jobs)];
    drop(jobs);
    let jobs = home.open();
    let lost = jobs.get(&ran).unwrap();
    assert_eq!(lost.state, JobState::Lost);
    assert_eq!(message(&lost), "the agent stopped while the job ran: who knows");
    let lost = message(&jobs.get(&undone).unwrap());
    assert_eq!(lost, "the agent stopped while the job ran: it is undone");
    let active = begin(&jobs);
    assert_eq!(active.id(), waits);
    assert!(take(&jobs).is_none());
    done(&jobs, &active);
    drop(jobs);
    assert_eq!(states(&home.open()), [JobState::Lost, JobState::Lost, JobState::Done]);
    assert_eq!(home.names("set-aside"), [""; 0]);
}

#[test]
fn start_skips_jobs_queued_beyond_the_retention() {
    let home = Home::new();
    let id = add(&home.open(), "a");
    later(JobLimits::default().retention);
    let jobs = home.open();
    assert!(take(&jobs).is_none());
    assert!(message(&jobs.get(&id).unwrap()).contains("was not started"));
}

#[test]
fn job_is_kept_an_hour_and_its_id_is_not_reused() {
    let home = Home::new();
    let jobs = home.open();
    let id = add(&jobs, "a");
    later(Duration::from_secs(3000));
    done(&jobs, &begin(&jobs));
    later(Duration::from_secs(3599));
    assert_eq!(jobs.get(&id).unwrap().state, JobState::Done);
    later(Duration::from_secs(1));
    assert!(matches!(jobs.get(&id), Err(Error::Unknown { .. })));
    assert_eq!(states(&jobs), []);
    assert_eq!(home.names("jobs"), ["ended"], "Job.Get and Job.List write nothing");
    assert!(matches!(jobs.cancel(&id), Err(Error::Unknown { .. })));
    assert_eq!(home.names("jobs"), [""; 0]);
    drop(jobs);
    let jobs = home.open();
    assert!(number(&add(&jobs, "a")) > number(&id));
    done(&jobs, &begin(&jobs));
    drop(jobs);
    later(Duration::from_secs(3600));
    assert_eq!(states(&home.open()), []);
}

#[test]
fn numbers_grow_though_the_clock_is_set_back() {
    let home = Home::new();
    later(Duration::from_secs(100));
    let first = add(&home.open(), "a");
    AHEAD.set(Duration::ZERO);
    assert!(number(&add(&home.open(), "a")) > number(&first));
}

#[test]
fn of_too_many_the_one_that_ended_first_is_forgotten() {
    let home = Home::new();
    let jobs = home.open_with(&JobLimits { stored: 2, ..JobLimits::default() });
    let (a, b, c) = (add(&jobs, "a"), add(&jobs, "b"), add(&jobs, "c"));
    let (first, second, third) = (begin(&jobs), begin(&jobs), begin(&jobs));
    for active in [&second, &first, &third] {
        later(Duration::from_secs(1));
        done(&jobs, active);
    }
    assert!(jobs.get(&b).is_err());
    assert!(jobs.get(&a).is_ok() && jobs.get(&c).is_ok());
    assert_eq!(home.names("jobs"), ["ended"; 2]);
}

#[test]
fn guest_jobs_are_serial_and_other_guests_parallel() {
    let jobs = Jobs::in_memory(&JobLimits::default());
    let (first, second, other) = (add(&jobs, "a"), add(&jobs, "a"), add(&jobs, "b"));
    let running = begin(&jobs);
    assert_eq!(running.id(), first);
    assert_eq!(begin(&jobs).id(), other);
    assert!(take(&jobs).is_none());
    done(&jobs, &running);
    assert_eq!(begin(&jobs).id(), second);
}

#[test]
fn only_so_many_wait_all_together_and_of_one_guest() {
    let limits = JobLimits { queued: 3, queued_per_guest: 2, ..JobLimits::default() };
    let home = Home::new();
    let jobs = home.open_with(&limits);
    let try_add = |guest| jobs.add("Libvirt.Run", guest, request("{}"));
    for guest in ["a", "a", "b"] {
        if guest == "b" {
            let full = try_add("a").unwrap_err();
            assert_eq!(full.to_string(), "busy: 2 jobs wait for a");
        }
        try_add(guest).unwrap();
    }
    assert_eq!(try_add("c").unwrap_err().to_string(), "busy: 3 jobs wait");
    assert_eq!(home.names("jobs"), ["queued"; 3]);
    // A running job no longer counts as waiting.
    begin(&jobs);
    try_add("c").unwrap();
    assert_eq!(jobs.counts(), (3, 1));
}

#[test]
fn a_job_that_waits_can_be_cancelled_and_no_other() {
    let home = Home::new();
    let jobs = home.open();
    let (first, second) = (add(&jobs, "a"), add(&jobs, "a"));
    let active = begin(&jobs);
    let why = jobs.cancel(&first).unwrap_err().to_string();
    assert_eq!(why, format!("cannot cancel job {first}: it is running"));
    let (job, is_new) = jobs.cancel(&second).unwrap();
    assert!(is_new && job.state == JobState::Cancelled && job.started.is_empty());
    assert!(!jobs.cancel(&second).unwrap().1, "it is that already");
    done(&jobs, &active);
    assert!(take(&jobs).is_none(), "nothing waits");
    assert!(matches!(jobs.cancel(&first), Err(Error::Started { state: JobState::Done, .. })));
    for id in ["", "0", "x", "99", &format!("0{first}"), &format!("+{first}")] {
        assert!(matches!(jobs.cancel(id), Err(Error::Unknown { .. })), "{id:?}");
    }
    drop(jobs);
    assert_eq!(states(&home.open()), [JobState::Done, JobState::Cancelled]);
}

#[test]
fn next_page_starts_after_the_last_job() {
    let jobs = Jobs::in_memory(&JobLimits::default());
    let ids: Vec<String> = ["a", "b", "a", "a"].map(|guest| add(&jobs, guest)).into();
    let of_a = |after: &str, limit| {
        let page = jobs.list(after, limit, |job| job.guest == "a").unwrap();
        (page.jobs.into_iter().map(|job| job.id).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(of_a("", 2), (vec![ids[0].clone(), ids[2].clone()], ids[2].clone()));
    assert_eq!(of_a(&ids[2], 2), (vec![ids[3].clone()], String::new()));
    assert_eq!(of_a("", 3).1, "");
    assert!(jobs.list("x", 1, |_| true).is_err());
    let active = begin(&jobs);
    done(&jobs, &active);
    assert!(jobs.get(&ids[0]).unwrap().result.is_some());
    assert!(jobs.list("", 9, |_| true).unwrap().jobs[0].result.is_none());
}

#[test]
fn every_agent_exit_leaves_readable_files() {
    let home = Home::new();
    let jobs = home.open();
    let (a, b, c) = (add(&jobs, "a"), add(&jobs, "b"), add(&jobs, "c"));
    let copy = |id: &str, from, to| fs::copy(home.file(id, from), home.file(id, to)).unwrap();
    // The agent ended in the middle of each of the three writes: a job that is added, a job whose
    // start is recorded twice, as after a rename that is only partly on the disk, and a job that
    // has ended.
    fs::write(home.file("1", "new"), b"0123").unwrap();
    copy(&a, "queued", "running");
    let running = begin(&jobs);
    assert_eq!(running.id(), a);
    let active = begin(&jobs);
    copy(&b, "running", "queued");
    let queued = fs::read(home.file(&b, "queued")).unwrap();
    done(&jobs, &active);
    fs::write(home.file(&b, "running"), &queued).unwrap();
    fs::write(home.file(&b, "queued"), &queued).unwrap();
    drop(jobs);
    let jobs = home.open();
    assert_eq!(states(&jobs), [JobState::Lost, JobState::Done, JobState::Queued]);
    assert_eq!(begin(&jobs).id(), c);
    assert_eq!(home.names("jobs"), ["ended", "ended", "running"]);
    assert_eq!(home.names("set-aside"), [""; 0]);
}

#[test]
fn damaged_and_foreign_files_are_set_aside() {
    let home = Home::new();
    let jobs = home.open();
    let ids: Vec<String> = ["a", "b", "c", "d", "e"].map(|guest| add(&jobs, guest)).into();
    drop(jobs);
    let file = |index: usize| home.file(&ids[index], "queued");
    let content = fs::read_to_string(file(0)).unwrap();
    // The name of another guest, half a file, an empty file, another job's file, and entries that
    // are not job files.
    assert_eq!(content.matches(r#","a","#).count(), 1);
    fs::write(file(0), content.replace(r#","a","#, r#","z","#)).unwrap();
    OpenOptions::new().write(true).open(file(1)).unwrap().set_len(100).unwrap();
    fs::write(file(2), b"").unwrap();
    fs::copy(file(4), file(3)).unwrap();
    fs::create_dir(home.file("1", "ended")).unwrap();
    fs::write(home.0.join("jobs/notes"), b"x").unwrap();
    fs::write(home.0.join("jobs/7.queued"), b"x").unwrap();
    let jobs = home.open();
    assert_eq!(states(&jobs), [JobState::Queued]);
    assert_eq!(begin(&jobs).id(), ids[4]);
    assert_eq!(home.names("set-aside").len(), 7);
    drop(jobs);
    let other = home.open_about("elsewhere", &JobLimits::default());
    assert_eq!(states(&other), [], "names mean other things there");
    assert_eq!(home.names("set-aside").len(), 8);
}

#[test]
fn directory_among_job_files_does_not_prevent_start() {
    let home = Home::new();
    let jobs = home.open();
    let id = add(&jobs, "a");
    done(&jobs, &begin(&jobs));
    drop(jobs);
    fs::create_dir(home.file(&id, "queued")).unwrap();
    fs::create_dir(home.file("1", "new")).unwrap();
    assert_eq!(states(&home.open()), [JobState::Done]);
    assert_eq!(home.names("set-aside"), ["new", "queued"]);
}

#[test]
fn damaged_file_is_set_aside_with_its_former_state() {
    let home = Home::new();
    let jobs = home.open();
    let id = add(&jobs, "a");
    let queued = fs::read(home.file(&id, "queued")).unwrap();
    done(&jobs, &begin(&jobs));
    drop(jobs);
    fs::write(home.file(&id, "queued"), &queued).unwrap();
    fs::write(home.file(&id, "ended"), b"").unwrap();
    for _ in 0..2 {
        assert_eq!(states(&home.open()), []);
    }
    assert_eq!(home.names("set-aside"), ["ended", "queued"]);
    assert_eq!(fs::read(home.0.join(format!("set-aside/{id}.queued"))).unwrap(), queued);
}

#[test]
fn inconsistent_job_file_does_not_block_other_jobs() {
    let home = Home::new();
    let jobs = home.open();
    let (first, second) = (add(&jobs, "a"), add(&jobs, "a"));
    done(&jobs, &begin(&jobs));
    drop(jobs);
    // The record has ended, and its file name says that it waits.
    fs::rename(home.file(&first, "ended"), home.file(&first, "queued")).unwrap();
    let jobs = home.open();
    assert_eq!(home.names("set-aside"), ["queued"]);
    assert_eq!(begin(&jobs).id(), second);
}

#[test]
fn escaped_result_is_kept_or_omitted_and_job_known() {
    let limits = JobLimits { file_bytes: 1000, ..JobLimits::default() };
    for backslashes in [10, 100, 150, 248] {
        let home = Home::new();
        let jobs = home.open_with(&limits);
        let id = add(&jobs, "a");
        let result = json(&format!("\"{}\"", "\\\\".repeat(backslashes)));
        jobs.end(&begin(&jobs), JobOutcome::Done(result));
        drop(jobs);
        let job = home.open_with(&limits).get(&id).expect("it is known");
        assert_eq!((job.state, job.result.is_some()), (JobState::Done, backslashes < 150));
    }
}

#[test]
fn valid_sum_with_wrong_content_is_set_aside() {
    let home = Home::new();
    let jobs = home.open();
    let id = add(&jobs, "a");
    let path = home.file(&id, "queued");
    let whole: Vec<String> = {
        let text = fs::read_to_string(&path).unwrap();
        serde_json::from_str(text.split_once(' ').unwrap().1).unwrap()
    };
    drop(jobs);
    let line = |json: &str| {
        format!("{:016x} {json}\n", checksum(CHECKSUM_START, json.as_bytes())).into_bytes()
    };
    let with = |index: usize, text: &str| {
        let mut texts = whole.clone();
        texts[index] = text.to_owned();
        line(&serde_json::to_string(&texts).unwrap())
    };
    let of = |texts: &[String]| line(&serde_json::to_string(texts).unwrap());
    // Its own file is readable; otherwise a fault of this test would set each of the others aside.
    fs::write(&path, of(&whole)).unwrap();
    assert_eq!(states(&home.open()), [JobState::Queued]);
    let others = [
        b"\xff ".to_vec(),
        line("{}"),
        of(&[]),
        of(&whole[..5]),
        of(&whole[..13]),
        of(&whole[..whole.len() - 1]),
        with(0, "job 0"),
        with(2, "soon"),
        with(6, "flying"),
        with(10, "-1"),
        with(14, "{"),
        with(15, "here"),
    ];
    for (index, other) in others.iter().enumerate() {
        fs::write(&path, other).unwrap();
        assert_eq!(states(&home.open()), [], "{index}");
        assert_eq!(home.names("set-aside").len(), index + 1);
    }
}

#[test]
fn file_that_cannot_move_aside_prevents_no_start() {
    let home = Home::new();
    let id = add(&home.open(), "a");
    let strange = home.0.join("jobs/strange");
    fs::write(&strange, "precious").unwrap();
    for number in 0..1000 {
        let name = if number == 0 { String::new() } else { format!(".{number}") };
        fs::write(home.0.join(format!("set-aside/strange{name}")), "").unwrap();
    }
    assert_eq!(begin(&home.open()).id(), id);
    assert_eq!(fs::read_to_string(&strange).unwrap(), "precious");
}

#[test]
fn job_is_forgotten_although_its_file_remains() {
    let home = Home::new();
    let jobs = home.open();
    let id = add(&jobs, "a");
    done(&jobs, &begin(&jobs));
    fs::remove_file(home.file(&id, "ended")).unwrap();
    fs::create_dir(home.file(&id, "ended")).unwrap();
    later(JobLimits::default().retention);
    assert!(matches!(jobs.get(&id), Err(Error::Unknown { .. })));
    assert_eq!(home.names("jobs"), ["ended"]);
    assert_eq!(states(&jobs), []);
}

#[test]
fn without_disk_no_job_is_accepted_or_started() {
    let home = Home::new();
    let jobs = home.open();
    let id = add(&jobs, "a");
    fs::remove_dir_all(home.0.join("jobs")).unwrap();
    assert!(matches!(jobs.add("Libvirt.Run", "a", request("{}")), Err(Error::Io { .. })));
    assert_eq!(states(&jobs), [JobState::Queued]);
    let active = take(&jobs).unwrap();
    assert!(matches!(jobs.may_begin(&active), Err(Error::Io { .. })));
    jobs.end(&active, JobOutcome::Failed(json("{}")));
    assert_eq!(jobs.get(&id).unwrap().state, JobState::Failed);
}

#[test]
fn oversized_job_is_refused_and_result_not_stored() {
    let limits = JobLimits { request_bytes: 100, file_bytes: 1000, ..JobLimits::default() };
    let home = Home::new();
    let jobs = home.open_with(&limits);
    let long = format!("\"{}\"", "x".repeat(600));
    let why = jobs.add("Libvirt.Run", "a", request(&long)).unwrap_err().to_string();
    assert_eq!(why, "invalid argument: the job's parameters exceed 100 bytes");
    let id = add(&jobs, "a");
    jobs.end(&begin(&jobs), JobOutcome::Done(json(&long)));
    drop(jobs);
    let job = home.open_with(&limits).get(&id).unwrap();
    assert!(job.state == JobState::Done && job.result.is_none());
}

#[test]
fn oversized_error_is_not_stored_but_the_job_fails() {
    let limits = JobLimits { file_bytes: 1000, ..JobLimits::default() };
    let home = Home::new();
    let jobs = home.open_with(&limits);
    for (length, stored) in [(248, true), (249, false), (2000, false)] {
        let id = add(&jobs, "a");
        let error = json(&format!("\"{}\"", "x".repeat(length)));
        jobs.end(&begin(&jobs), JobOutcome::Failed(error.clone()));
        let job = home.open_with(&limits).get(&id).unwrap();
        assert_eq!(job.state, JobState::Failed);
        let left = job.error.expect("it has one");
        assert_eq!(left.get() == error.get(), stored, "{length}: {left}");
    }
}

#[test]
fn close_refuses_jobs_and_wakes_waiters() {
    let jobs = Jobs::in_memory(&JobLimits::default());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| jobs.next().is_none());
        jobs.close();
        assert!(waiter.join().unwrap());
    });
    assert!(matches!(jobs.add("Libvirt.Run", "a", request("{}")), Err(Error::Closed)));

    let jobs = Jobs::in_memory(&JobLimits::default());
    add(&jobs, "a");
    let active = begin(&jobs);
    add(&jobs, "b");
    jobs.close();
    assert!(jobs.next().is_none());
    assert!(!jobs.wait_for_ends(Instant::now()));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| jobs.wait_for_ends(Instant::now() + Duration::from_secs(60)));
        done(&jobs, &active);
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn caller_of_a_job_survives_its_file() {
    let peers = [None, Some(Peer { uid: 0, pid: None }), Some(Peer { uid: 7, pid: Some(8) })];
    let address = "[::1]:4711".parse().unwrap();
    for origin in [Origin::Socket, Origin::Host(address), Origin::Network(address)] {
        for peer in peers {
            let caller = Caller { origin, peer };
            let request = JobCall { params: json("[\"\\n\"]"), caller };
            let record = JobRecord::queued(7, "Libvirt.Run", "\"a\n", request, clock());
            let again = JobRecord::read(&record.texts()).unwrap();
            assert_eq!(again.texts(), record.texts());
            assert_eq!(again.request.unwrap().caller, caller);
        }
    }
    assert!(JobRecord::read(&[]).is_none());
}

#[test]
fn texts_that_would_not_be_written_so_are_not_read() {
    let record = JobRecord::queued(7, "Libvirt.Run", "a", request("{}"), clock());
    let texts = record.texts();
    assert!(JobRecord::read(&texts).is_some());
    let user = texts.len() - 2;
    // A number, a step count, a result, the parameters, the origin, the user and the process.
    let odd =
        [(0, "+1"), (8, "x"), (10, "{"), (12, ""), (14, "there"), (user, "root"), (user + 1, "+8")];
    for (index, text) in odd {
        let mut texts = texts.clone();
        texts[index] = text.to_owned();
        assert!(JobRecord::read(&texts).is_none(), "{index}: {text}");
    }
}

#[test]
fn states_are_named_as_on_the_wire() {
    for state in JobState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
    }
}
