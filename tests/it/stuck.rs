//! Guests whose emulator hangs: their own calls end at their deadline, everybody else's go on, and
//! too many of them end the agent, to be started again.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use mistify_libvirt::config::Config;
use mistify_libvirt::guest::wire::{Disk, Guest, GuestMetricsRequest, GuestRequest};
use mistify_libvirt::ops::{Error, Libvirt};
use mistify_libvirt::pool::{self, Job, Lane, LaneSnapshot};
use serde_json::json;

use crate::agent::{Agent, call_text};
use crate::skip::require;
use crate::stack::{BlockDevice, Stack};
use crate::support::{AtEnd, signal, wait_until};

/// Longer than a loaded machine needs for what takes seconds.
const SOON: Duration = Duration::from_secs(60);
/// How long a call may take that is to be late.
const SHORT: Duration = Duration::from_secs(2);
/// How long all other calls may take: for ever, beside what they need.
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
    let lanes = agent.pool().snapshot().lanes;
    lanes.into_iter().find(|snapshot| snapshot.lane == lane).expect("every lane has figures")
}

fn guest(id: &str) -> Option<Guest> {
    let disk = Disk { device: "vda".to_owned(), ..Disk::default() };
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
fn stuck_workers_are_replaced_as_long_as_libvirt_answers() {
    let agent = agent("test:///default");
    let (hold, release) = bounded::<()>(0);
    thread::scope(|scope| {
        for number in 0..4 {
            let (agent, release) = (&agent, release.clone());
            scope.spawn(move || {
                let job = Job { what: format!("stuck {number}"), deadline: Instant::now() + SHORT };
                let outcome = agent.pool().run(Lane::Read, job, None, move |_| {
                    // Ends when the test drops the other side.
                    let _ = release.recv();
                });
                assert!(matches!(outcome, Err(pool::Error::Late { .. })), "{outcome:?}");
            });
        }
    });
    wait_until("all four are written off", SOON, || lane(&agent, Lane::Read).stuck == 4);
    assert_eq!(lane(&agent, Lane::Read).workers, 4);
    assert_eq!(state(&agent, "test").expect("the lane goes on"), "running");

    drop(hold);
    wait_until("all four have returned", SOON, || lane(&agent, Lane::Read).stuck == 0);
    assert_eq!(lane(&agent, Lane::Read).workers, 4);
    assert!(agent.stop(SOON), "no thread is left");
}

#[test]
fn storage_that_is_late_is_not_libvirts_and_stays() {
    crate::cost::slow("waits for deadlines");
    let agent = agent("test:///default");
    let (hold, release) = bounded::<()>(0);
    for lane in [Lane::Storage, Lane::Read] {
        let release = release.clone();
        let job = Job { what: "slow".to_owned(), deadline: Instant::now() + SHORT };
        let outcome = agent.pool().run(lane, job, None, move |_| {
            // Ends when the test drops the other side.
            let _ = release.recv();
        });
        assert!(matches!(outcome, Err(pool::Error::Late { .. })), "{outcome:?}");
    }
    wait_until("the read is written off", SOON, || lane(&agent, Lane::Read).stuck == 1);
    let storage = lane(&agent, Lane::Storage);
    assert_eq!((storage.stuck, storage.running), (0, 1));
    drop(hold);
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
fn a_stopped_qemu_costs_nobody_else_anything_and_is_cured_by_poweroff() {
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
        wait_until("its worker is written off", SOON, || lane(&agent, Lane::Read).stuck == 1);
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
    // Twice is the aim, and for the benchmark to say; a call that met the stuck one would not have ended.
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

/// Sends a call that nobody waits for. Its connection has to stay open: of a caller that is gone the
/// kernel does not tell who it was.
fn send(agent: &Agent, method: &str, id: &str) -> Option<TcpStream> {
    let params = json!({
        "guest": { "id": id, "disks": [{ "device": "vda" }] },
        "args": { "mistify.timeout": "1" },
    });
    // The agent may have ended, which is what is waited for.
    let mut stream = TcpStream::connect(agent.address()).ok()?;
    stream.write_all(call_text(method, &params).as_bytes()).ok()?;
    Some(stream)
}

/// Whether a child of ours has ended; it stays for its status to be asked.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('Z'))
}

#[test]
fn one_stuck_worker_too_many_ends_the_agent_with_status_75_and_no_guest() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let ids = ["hung-1", "hung-2", "hung-3"];
    let mut devices = Vec::new();
    for id in ids {
        let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
        stack.boot("qemu", id, &disk);
        devices.push(disk);
    }
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let pids = ids.map(|id| stack.qemu_pid(id).expect("it runs"));
    pids.iter().for_each(|&pid| signal(pid, "STOP"));

    // Three calls of each guest make nine, one more than may be stuck.
    let mut last = Instant::now();
    let (mut rounds, mut callers) = (0, Vec::new());
    wait_until("the agent ends", SOON, || {
        if rounds == 0 || last.elapsed() > SHORT {
            (rounds, last) = (rounds + 1, Instant::now());
            for id in ids {
                let verbs = ["DiskMetrics", "CPUMetrics", "Shutdown"];
                callers.extend(verbs.map(|verb| send(&agent, verb, id)));
            }
        }
        has_ended(agent.pid())
    });
    wait_until("it has said why", SOON, || agent.log().contains(" and 8 more are stuck "));
    let log = agent.log();
    assert_eq!(log.matches(" is stuck, another takes its place").count(), 8, "{log}");
    assert_eq!(agent.wait().code(), Some(75));

    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    for (id, pid) in ids.into_iter().zip(pids) {
        assert_eq!(agent.state(id), "running", "guests outlive the agent");
        assert_eq!(stack.qemu_pid(id), Some(pid));
    }
}
