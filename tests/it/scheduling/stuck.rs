//! Guests with a hung emulator: their own calls end at their deadline, all other calls continue, and with too many of
//! them calls get `busy`.

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use mistify_libvirt::config::Config;
use mistify_libvirt::guest::wire::events::EventsRequest;
use mistify_libvirt::guest::wire::metrics::GuestMetricsRequest;
use mistify_libvirt::guest::wire::{Guest, GuestDisk, GuestRequest};
use mistify_libvirt::ops::{Error, Libvirt};
use mistify_libvirt::pool::{self, Job, JobName, Lane, LaneSnapshot};

use crate::cli::blocked_log::start_log;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::support::{AtEnd, signal, test_path, wait_for, wait_until};

/// Longer than a loaded machine needs for what takes seconds.
const SOON: Duration = Duration::from_secs(60);
/// The deadline of a call that must be late.
const SHORT: Duration = Duration::from_secs(2);
/// The deadline of all other calls: far more than they need.
const READ: Duration = Duration::from_secs(300);
/// Longer than a loaded machine needs for one call, and far from [`READ`].
const QUICK: Duration = Duration::from_secs(60);

/// An agent inside this process, for its figures.
fn agent(uri: &str) -> Libvirt {
    let mut config = Config::default();
    config.host.libvirt_uri = uri.to_owned();
    config.deadlines.read = READ;
    Libvirt::with_config(&config).expect("threads")
}

fn lane(agent: &Libvirt, lane: Lane) -> LaneSnapshot {
    let lanes = agent.core.pool().snapshot().lanes;
    lanes.into_iter().find(|snapshot| snapshot.lane == lane).expect("every lane has figures")
}

fn guest(id: &str) -> Option<Guest> {
    let disk = GuestDisk { device: "vda".to_owned(), ..GuestDisk::default() };
    Some(Guest { id: id.to_owned(), disks: vec![disk], ..Guest::default() })
}

fn state(agent: &Libvirt, id: &str) -> Result<String, Error> {
    let request = GuestRequest { guest: guest(id), ..GuestRequest::default() };
    agent.status(request).map(|answer| answer.guest.expect("Status answers a guest").state)
}

fn poweroff(agent: &Libvirt, id: &str) -> Result<String, Error> {
    let request = GuestRequest { guest: guest(id), ..GuestRequest::default() };
    agent.poweroff(request).map(|answer| answer.guest.expect("Poweroff answers a guest").state)
}

/// A question about this guest that may take [`SHORT`].
fn short(id: &str) -> GuestMetricsRequest {
    let args = [("mistify.timeout".to_owned(), SHORT.as_secs().to_string())].into();
    GuestMetricsRequest { guest: guest(id), args, ..GuestMetricsRequest::default() }
}

fn disk_metrics(agent: &Libvirt, id: &str) -> Result<(), Error> {
    agent.disk_metrics(short(id)).map(drop)
}

fn cpu_metrics(agent: &Libvirt, id: &str) -> Result<(), Error> {
    agent.cpu_metrics(short(id)).map(drop)
}

#[test]
fn hung_workers_are_replaced_while_libvirt_answers() {
    let agent = agent("test:///default");
    let (hung, release) = bounded::<()>(0);
    thread::scope(|scope| {
        for number in 0..4 {
            let (agent, release) = (&agent, release.clone());
            scope.spawn(move || {
                let job = Job {
                    name: JobName::new("stuck", number.to_string()),
                    deadline: Instant::now() + SHORT,
                };
                let outcome = agent.core.pool().run(Lane::Read, job, None, move |_| {
                    // Ends when the test drops the other side.
                    let _ = release.recv();
                });
                assert!(matches!(outcome, Err(pool::Error::Late { .. })), "{outcome:?}");
            });
        }
    });
    wait_until("all four are abandoned", SOON, || lane(&agent, Lane::Read).stuck == 4);
    assert_eq!(lane(&agent, Lane::Read).workers, 4);
    assert_eq!(state(&agent, "test").expect("the lane goes on"), "running");

    drop(hung);
    wait_until("all four have returned", SOON, || lane(&agent, Lane::Read).stuck == 0);
    assert_eq!(lane(&agent, Lane::Read).workers, 4);
    assert!(agent.stop(SOON), "no thread is left");
}

#[test]
fn storage_that_is_late_is_not_libvirts_and_stays() {
    crate::harness::cost::slow("waits for deadlines");
    let agent = agent("test:///default");
    let (hung, release) = bounded::<()>(0);
    for lane in [Lane::Storage, Lane::Read] {
        let release = release.clone();
        let job = Job { name: "slow".into(), deadline: Instant::now() + SHORT };
        let outcome = agent.core.pool().run(lane, job, None, move |_| {
            // Ends when the test drops the other side.
            let _ = release.recv();
        });
        assert!(matches!(outcome, Err(pool::Error::Late { .. })), "{outcome:?}");
    }
    wait_until("the read is abandoned", SOON, || lane(&agent, Lane::Read).stuck == 1);
    let storage = lane(&agent, Lane::Storage);
    assert_eq!((storage.stuck, storage.running), (0, 1));
    drop(hung);
}

/// How long each of some calls took.
struct Latencies(Vec<Duration>);

impl Latencies {
    /// Asks for the state of these guests, one after the other, until `done`; every answer has to
    /// be right.
    fn measure(agent: &Libvirt, ids: &[&str], mut done: impl FnMut(usize) -> bool) -> Self {
        let mut took = Vec::new();
        while !done(took.len()) {
            for id in ids {
                let began = Instant::now();
                assert_eq!(state(agent, id).expect("its emulator does not hang"), "running");
                took.push(began.elapsed());
            }
        }
        took.sort_unstable();
        Self(took)
    }

    fn p99(&self) -> Duration {
        self.0[self.0.len() * 99 / 100]
    }
}

#[test]
fn stopped_qemu_affects_no_other_until_poweroff() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let ids = ["victim", "web-1", "web-2"];
    let disks = ids.map(|_| BlockDevice::bootable(1 << 20));
    let mut devices = Vec::new();
    for (id, disk) in ids.iter().zip(disks) {
        let Some(disk) = require("qemu", disk) else { return };
        stack.boot("qemu", id, &disk);
        devices.push(disk);
    }
    let agent = agent(&stack.uri());
    let others = ["web-1", "web-2"];
    let asked = GuestMetricsRequest { guest: guest("victim"), ..GuestMetricsRequest::default() };
    agent.disk_metrics(asked).expect("it runs");
    let calm = Latencies::measure(&agent, &others, |calls| calls >= 1000);

    let pid = stack.qemu_pid("victim").expect("it runs");
    signal(pid, "STOP");
    let over = AtomicBool::new(false);
    let troubled = thread::scope(|scope| {
        let measured = scope.spawn(|| {
            Latencies::measure(&agent, &others, |calls| calls >= 1000 && over.load(SeqCst))
        });
        let end = AtEnd(&over);
        // Polled as an orchestrator does, and more often.
        let began = Instant::now();
        let late = disk_metrics(&agent, "victim").expect_err("its emulator hangs");
        assert!(matches!(late, Error::Pool(pool::Error::Late { .. })), "{late}");
        assert!(began.elapsed() < QUICK, "{:?}", began.elapsed());
        wait_until("its worker is abandoned", SOON, || lane(&agent, Lane::Read).stuck == 1);
        for _ in 0..20 {
            let refused = disk_metrics(&agent, "victim").expect_err("its emulator hangs");
            assert!(matches!(refused, Error::Pool(pool::Error::Overdue { .. })), "{refused}");
        }
        let late = cpu_metrics(&agent, "victim").expect_err("its emulator hangs");
        assert!(matches!(late, Error::Pool(pool::Error::Late { .. })), "{late}");
        wait_until("so is the second", SOON, || lane(&agent, Lane::Read).stuck == 2);
        assert_eq!(lane(&agent, Lane::Read).workers, 4);
        drop(end);
        measured.join().expect("every answer was right")
    });
    let ratio = troubled.p99().as_secs_f64() / calm.p99().as_secs_f64();
    println!("p99 {:?}, {:?} beside the stopped one: {ratio:.2}", calm.p99(), troubled.p99());
    // The benchmark checks the aim, which is twice; a call that waited for the stuck one would not have ended.
    assert!(troubled.0.last().is_some_and(|&longest| longest < QUICK), "{:?}", troubled.0.last());

    signal(pid, "CONT");
    wait_until("both have returned", SOON, || lane(&agent, Lane::Read).stuck == 0);
    wait_until("it goes on", SOON, || disk_metrics(&agent, "victim").is_ok());

    signal(pid, "STOP");
    disk_metrics(&agent, "victim").expect_err("its emulator hangs again");
    assert_eq!(poweroff(&agent, "victim").expect("destroying needs no emulator"), "shutoff");
    wait_until("the stuck one has returned", SOON, || lane(&agent, Lane::Read).stuck == 0);
    assert_eq!(state(&agent, "victim").expect("it is free"), "shutoff");
    assert!(agent.stop(SOON), "no thread is left");
}

/// Occupies every worker of these lanes with a job that is late at once, until the returned sender is dropped.
fn hang(agent: &Arc<Libvirt>, lanes: &[Lane]) -> Sender<()> {
    let (hung, release) = bounded::<()>(0);
    for &lane in lanes {
        for number in 0..self::lane(agent, lane).workers {
            let (agent, release) = (Arc::clone(agent), release.clone());
            let name = JobName::new("hang", format!("{lane}-{number}"));
            thread::spawn(move || {
                let job = Job { name, deadline: Instant::now() + Duration::from_millis(100) };
                agent.core.pool().run(lane, job, None, move |_| {
                    // Ends when the test drops the other side.
                    let _ = release.recv();
                })
            });
        }
    }
    let is_full = |&which: &Lane| lane(agent, which).running + lane(agent, which).stuck > 0;
    wait_until("the workers hang", SOON, || lanes.iter().all(is_full));
    hung
}

/// An agent with two workers in each lane, of which two may be replaced.
fn small_agent(stuck_age: Duration) -> Arc<Libvirt> {
    let mut config = Config::default();
    config.host.libvirt_uri = "test:///default".to_owned();
    config.pool.control_workers = 2;
    config.pool.read_workers = 2;
    config.pool.urgent_workers = 2;
    config.pool.stuck = 2;
    config.pool.stuck_age = stuck_age;
    config.watch.pause = Duration::from_millis(50);
    Arc::new(Libvirt::with_config(&config).expect("threads"))
}

#[test]
fn too_many_calls_that_hang_are_busy_and_end_no_agent() {
    let agent = small_agent(READ);
    let first = hang(&agent, &[Lane::Read]);
    wait_until("both are replaced", SOON, || lane(&agent, Lane::Read).stuck == 2);
    assert_eq!(state(&agent, "test").expect("other workers serve"), "running");
    let second = hang(&agent, &[Lane::Read]);
    let busy = wait_for("a call is refused", SOON, || {
        let error = state(&agent, "test").err()?.to_string();
        // One that came before the others were late waits for a worker.
        Some(error).filter(|error| error.starts_with("busy: "))
    });
    assert!(busy.starts_with("busy: all 2 read workers are in calls that do not return"), "{busy}");
    assert_eq!(lane(&agent, Lane::Read).stuck, 2, "no more are replaced");
    // The other lanes serve.
    assert_eq!(poweroff(&agent, "test").expect("it runs"), "shutoff");

    drop((first, second));
    wait_until("it serves again", SOON, || state(&agent, "test").is_ok());
    wait_until("all have returned", SOON, || lane(&agent, Lane::Read).stuck == 0);
}

#[test]
fn hung_call_and_its_end_are_reported_with_the_guest() {
    let agent = small_agent(Duration::from_millis(200));
    let reported = |what: &str| {
        let request = EventsRequest { guest: "read-0".to_owned(), ..EventsRequest::default() };
        let page = agent.core.wait_events(request).expect("from memory");
        page.events.iter().any(|event| event.what.name() == what)
    };
    let hung = hang(&agent, &[Lane::Read]);
    wait_until("it is reported", SOON, || reported("stuck"));
    assert!(!reported("unstuck"));
    drop(hung);
    wait_until("its end is reported", SOON, || reported("unstuck"));
}

/// Set where this program is the agent of the test below.
const SERVES_NOBODY: &str = "MISTIFY_TEST_SERVES_NOBODY";

#[test]
fn fully_hung_agent_exits_with_status_75() {
    if env::var_os(SERVES_NOBODY).is_some() {
        let _log = start_log();
        let agent = small_agent(Duration::from_millis(200));
        let _replaced = hang(&agent, &[Lane::Read]);
        wait_until("both are replaced", SOON, || lane(&agent, Lane::Read).stuck == 2);
        let _hung = hang(&agent, &[Lane::Control, Lane::Read, Lane::Urgent]);
        wait_until("the agent ends this process", SOON, || false);
        return;
    }
    let mut command = Command::new(env::current_exe().expect("it runs"));
    let test = test_path(module_path!(), "fully_hung_agent_exits_with_status_75");
    command.args(["--exact", &test]);
    let ended = command.env(SERVES_NOBODY, "1").output().expect("it starts");
    assert_eq!(ended.status.code(), Some(75));
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(
        log.contains("all workers hang although libvirt answers; exiting"),
        "the last line is written: {log}"
    );
}
