//! Callers that are allowed, or not, and mean ill, with an allowed caller beside them. Its latency is
//! printed and no claim: that is for the benchmark.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{NOBODY, ON_TEST_DRIVER, PYTHON, SOON, World, setpriv};
use crate::harness::agent::Agent;
use crate::harness::cost::slow;
use crate::harness::skip::require;
use crate::harness::support::{poll, signal, wait_until};

const ATTACK: &str = include_str!("attack.py");
/// Each may have 256 connections, all others than root 1,000 together.
const ATTACKERS: [u32; 4] = [64001, 64002, 64003, 64004];
const CONNECTIONS_OF_OTHERS: usize = 1000;
/// The agent's idle limit (`http.idle`); what takes longer is not its doing.
const IDLE: Duration = Duration::from_secs(120);
const KEPT_CALLS: usize = 2000;
const FRESH_CALLS: usize = 1000;
/// What one connection may make the agent hold: a head, what is read at once, and a small body.
const CONNECTION_BYTES: u64 = 16 * 1024 + 2 * 64 * 1024;

/// A process that attacks, killed on drop.
struct Attack {
    child: Child,
    /// Connections that it has made.
    made: Arc<AtomicU64>,
}

impl Attack {
    fn start(kind: &str, uid: u32, address: &str, connections: usize) -> Self {
        slow("attacks, then waits for the idle limit of 120 s");
        let mut command = setpriv(uid);
        command.args([PYTHON, "-c", ATTACK, kind, address, &connections.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = lines.next().and_then(Result::ok);
        assert_eq!(ready.as_deref(), Some("ready"), "{kind}");
        let made = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&made);
        thread::spawn(move || {
            for count in lines.map_while(|line| line.ok()?.parse().ok()) {
                seen.store(count, Ordering::Relaxed);
            }
        });
        Self { child, made }
    }

    fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        // It may have failed, which the test has seen.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One Status.
fn call(stream: &mut TcpStream) {
    let body = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}"#;
    let head = "POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).expect("it reads");
    let (mut answer, mut length) = ([0; 4096], 0);
    while !answer[..length].ends_with(b"\"id\":1}\n") {
        let count = stream.read(&mut answer[length..]).expect("it answers");
        assert_ne!(count, 0, "closed: {}", String::from_utf8_lossy(&answer));
        length += count;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

/// Calls on one connection and on one each, and makes sure that each is answered. The time that 99 of 100
/// stay under.
fn measure(agent: &Agent) -> [Duration; 2] {
    let p99 = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() * 99 / 100]
    };
    let timed = |mut call: Box<dyn FnMut() + '_>| {
        let begin = Instant::now();
        call();
        begin.elapsed()
    };
    let mut kept = agent.connect();
    kept.set_nodelay(true).expect("a socket");
    let on_one = (0..KEPT_CALLS).map(|_| timed(Box::new(|| call(&mut kept)))).collect();
    let fresh = || call(&mut agent.connect());
    let on_each = (0..FRESH_CALLS).map(|_| timed(Box::new(fresh))).collect();
    [p99(on_one), p99(on_each)]
}

/// What the agent has in memory, in bytes.
fn resident(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux has it");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

/// The value of a series of the agent's metrics.
fn series(agent: &Agent, name: &str) -> f64 {
    let text = agent.request("GET", "/metrics", &[], b"").text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
}

fn open(agent: &Agent) -> f64 {
    series(agent, "mistify_http_connections{listener=\"main\"}")
}

/// Withstands these users, each with so many connections of that kind; `is_under_way` says that
/// the attack is what it is meant to be.
fn withstand(
    kind: &str,
    uids: &[u32],
    connections: usize,
    is_under_way: impl Fn(&Agent, &[Attack]) -> bool,
) {
    let Some(_world) = require("users", World::new()) else { return };
    let mut flags = ON_TEST_DRIVER.map(str::to_owned).to_vec();
    for uid in ATTACKERS {
        flags.extend(["--allow-user".to_owned(), uid.to_string()]);
    }
    let agent = Agent::start(&flags);
    let address = agent.address().to_string();
    let calm = measure(&agent);
    let before = resident(&agent);

    let attacks: Vec<_> =
        uids.iter().map(|uid| Attack::start(kind, *uid, &address, connections)).collect();
    wait_until("the attack is under way", SOON, || is_under_way(&agent, &attacks));
    let troubled = measure(&agent);
    wait_until("the attack goes on", SOON, || is_under_way(&agent, &attacks));
    let grown = resident(&agent).saturating_sub(before);
    let made: u64 = attacks.iter().map(Attack::made).sum();
    let [kept, fresh] = [0, 1].map(|at| troubled[at].as_secs_f64() / calm[at].as_secs_f64());
    println!(
        "{kind} by {} users: p99 kept and fresh {troubled:?}, calm {calm:?}: {kept:.1} and {fresh:.1} \
         times that; {made} connections, grown by {} KiB",
        uids.len(),
        grown / 1024
    );
    let bound = (uids.len() * connections.max(128)) as u64 * CONNECTION_BYTES;
    assert!(grown < bound, "{grown} bytes");

    // Stopped, they close nothing: that is left to the agent.
    for attack in &attacks {
        signal(attack.child.id(), "STOP");
    }
    let begin = Instant::now();
    wait_until("all of theirs are gone", IDLE + SOON, || open(&agent) <= 1.0);
    println!("{kind}: all gone after {:?}", begin.elapsed());
    drop(attacks);
    agent.end();
}

/// So many connections of others are open.
fn held(count: usize) -> impl Fn(&Agent, &[Attack]) -> bool {
    let count = f64::from(u32::try_from(count).expect("few"));
    move |agent, _| open(agent) >= count
}

/// More connections are made all the time.
fn renewed() -> impl Fn(&Agent, &[Attack]) -> bool {
    |_, attacks| {
        let before: Vec<_> = attacks.iter().map(Attack::made).collect();
        let go_on = || attacks.iter().zip(&before).all(|(attack, before)| attack.made() > *before);
        poll(SOON, || go_on().then_some(())).is_some()
    }
}

#[test]
fn slow_heads_cost_others_nothing() {
    withstand("heads", &ATTACKERS[..2], 64, held(128));
}

#[test]
fn slow_bodies_cost_others_nothing() {
    withstand("bodies", &ATTACKERS[..2], 64, held(128));
}

#[test]
fn idle_connections_are_closed_and_delay_no_other() {
    withstand("idle", &ATTACKERS[..2], 64, held(128));
}

#[test]
fn heads_without_end_cost_others_nothing() {
    withstand("endless", &ATTACKERS[..1], 32, renewed());
}

#[test]
fn a_thousand_connects_a_second_cost_others_nothing() {
    withstand("connects", &ATTACKERS[..1], 0, renewed());
}

#[test]
fn rejected_connections_do_not_delay_others() {
    withstand("connects", &[NOBODY], 0, renewed());
}

#[test]
fn garbage_behind_requests_costs_others_nothing() {
    withstand("garbage", &ATTACKERS[..1], 16, renewed());
}

#[test]
fn connections_beyond_the_limits_do_not_delay_others() {
    let full = held(CONNECTIONS_OF_OTHERS);
    // Each of their idle connections gives way to another of the same user.
    let is_replaced = |attack: &Attack| attack.made() > 560;
    withstand("hold", &ATTACKERS, 280, move |agent, attacks| {
        full(agent, attacks) && attacks.iter().all(is_replaced)
    });
}
