//! One caller's flood of batches: what it costs the agent, and how long others wait meanwhile.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::{ON_TEST_DRIVER, SOON, World, client, setpriv};
use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::support::wait_until;

const USER: &str = "64001";
/// What the whole flood may cost.
const PROCESSOR: Duration = Duration::from_secs(3);
const PEAK_BYTES: u64 = 120 * 1024 * 1024;
/// What a question for the agent's health may take meanwhile, or so many times what it takes before, where
/// the machine is short of time.
const HEALTH: Duration = Duration::from_millis(500);
const TIMES_CALM: u32 = 10;
const CALM_CALLS: usize = 50;
/// `USER_HZ`, the unit of times in `/proc`: it is the same on every Linux.
const TICKS_PER_S: u64 = 100;

/// What a process has used so far.
struct Used {
    processor: Duration,
    peak_bytes: u64,
}

impl Used {
    fn by(agent: &Agent) -> Self {
        let file = |name| fs::read_to_string(format!("/proc/{}/{name}", agent.pid()));
        let (stat, status) = (file("stat").expect("it runs"), file("status").expect("it runs"));
        // The name before them is in brackets, and may have blanks.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|it| it.parse::<u64>().expect("ticks")).sum();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is told");
        let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        Self {
            processor: Duration::from_millis(ticks * 1000 / TICKS_PER_S),
            peak_bytes: peak_kib * 1024,
        }
    }
}

/// Asks for the agent's health until the flood is over; the longest that an answer took.
fn slowest_health(agent: &Agent, mut is_over: impl FnMut() -> bool) -> Duration {
    let mut slowest = Duration::ZERO;
    wait_until("the flood is over", SOON, || {
        let begin = Instant::now();
        assert_eq!(agent.request("GET", "/healthz", &[], b"").status, 200);
        slowest = slowest.max(begin.elapsed());
        is_over()
    });
    slowest
}

/// What a series of the agent's main front says; none while there is no room for the answer.
fn series(agent: &Agent, name: &str) -> Option<f64> {
    let reply = agent.request("GET", "/metrics", &[], b"");
    let text = (reply.status == 200).then(|| reply.text())?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split(' ').next_back()?.parse().ok())
}

/// Withstands 320 KB of one allowed user: 64 connections, each with a batch of 64 `rpc.discover`. `then` is
/// asked in the end.
fn withstand(how: &str, then: impl FnOnce(&Agent)) {
    let Some(_world) = require("users", World::new()) else { return };
    let agent = Agent::start(&[&ON_TEST_DRIVER[..], &["--allow-user", USER]].concat());
    let address = agent.address().to_string();
    let mut calls = 0..CALM_CALLS;
    let calm = slowest_health(&agent, || calls.next().is_none());
    let before = Used::by(&agent);
    let slowest = thread::scope(|scope| {
        let flood = scope.spawn(|| client(setpriv(0), &["flood", &address, USER, how]));
        let is_quiet =
            || series(&agent, "mistify_http_connections{").is_some_and(|open| open <= 1.0);
        let slowest = slowest_health(&agent, || flood.is_finished() && is_quiet());
        assert_eq!(flood.join().expect("it ends"), "64");
        slowest
    });
    let after = Used::by(&agent);
    let processor = after.processor.saturating_sub(before.processor);
    println!(
        "{how}: {processor:?} of a processor, {} KiB at the peak, {} KiB before, health within \
         {slowest:?}, {calm:?} before",
        after.peak_bytes / 1024,
        before.peak_bytes / 1024
    );
    assert!(processor < PROCESSOR, "{processor:?} of a processor");
    assert!(after.peak_bytes < PEAK_BYTES, "{} bytes at the peak", after.peak_bytes);
    assert!(slowest < HEALTH.max(TIMES_CALM * calm), "health took {slowest:?}, {calm:?} before");
    then(&agent);
    agent.end();
}

#[test]
fn batches_of_callers_that_left_cost_little() {
    withstand("leave", |_| {});
}

#[test]
fn bodies_of_others_leave_memory_for_roots_changes() {
    let Some(_world) = require("users", World::new()) else { return };
    let users = ["64001", "64002", "64003", "64004"].map(|user| ["--allow-user", user]).concat();
    let agent = Agent::start(&[&ON_TEST_DRIVER[..], &users].concat());
    let address = agent.address().to_string();
    let change = r#"{"method":"Libvirt.Run","params":[{"guest":{"id":"test"}}],"id":1}"#;
    // Two take what they can, a third the crumbs, and a fourth gets nothing.
    let words = [
        &["fill", &address, "64001", "45", "1000000", "fill", &address, "64002", "45", "1000000"][..],
        &["fill", &address, "64003", "60", "60000", "full", &address, "64004", change],
        &["post", &address, "0", change],
    ];
    // On a slow machine the first bodies have their 10 s before the last ones fill the memory: then once more.
    wait_until("the bodies fill the memory", SOON, || {
        let answers = client(setpriv(0), &words.concat());
        let answers: Vec<&str> = answers.lines().collect();
        assert_eq!((&answers[..3], answers[4]), (&["45", "45", "60"][..], "200"), "root is served");
        answers[3] == "503"
    });
    agent.end();
}

#[test]
fn batches_with_unread_answers_cost_little() {
    withstand("stay", |agent| {
        let json = [("Content-Type", "application/json")];
        let call = br#"{"jsonrpc":"2.0","method":"rpc.discover","id":1}"#;
        assert_eq!(agent.request("POST", "/rpc", &json, call).status, 200);
    });
}
