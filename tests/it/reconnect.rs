//! libvirtd stopped, killed and started again under load: calls fail in clear words and soon, and
//! everything works again without a restart of the agent.

use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::agent::{Agent, Reply};
use crate::skip::require;
use crate::stack::{BlockDevice, Stack, guest_xml};
use crate::support::{poll, wait_until};

/// Longer than a loaded machine needs for what takes seconds.
const SOON: Duration = Duration::from_secs(90);
/// What the words for a silent libvirt begin with.
const SILENT: &str = "libvirt does not answer since ";
/// From libvirt's answer to the agent's.
const BACK: Duration = Duration::from_secs(2);
/// Seconds that libvirtd is stopped; longer than keepalive takes to give its connections up (8 s).
const STOPPED_S: u64 = 15;

/// As [`STOPPED_S`], or what the environment says: the promise is 60.
fn stopped() -> Duration {
    let asked = env::var("MISTIFY_TEST_STOPPED_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(STOPPED_S))
}

/// The error of one call, none for a success.
fn error(agent: &Agent, method: &str, guest: &Value) -> Option<String> {
    agent.call(method, guest)["error"].as_str().map(str::to_owned)
}

/// A call and what came of it.
#[derive(Debug)]
struct Called {
    at: Instant,
    took: Duration,
    error: Option<String>,
}

/// Calls one verb again and again until `over`.
fn load(agent: &Agent, method: &str, guest: &Value, over: &AtomicBool) -> Vec<Called> {
    let mut calls = Vec::new();
    while !over.load(SeqCst) {
        let at = Instant::now();
        let error = error(agent, method, guest);
        calls.push(Called { at, took: at.elapsed(), error });
        thread::yield_now();
    }
    calls
}

#[test]
fn a_stopped_libvirtd_under_load_fails_calls_at_once_and_is_used_again_within_2_s() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "steady", &disk);
    let uri = stack.uri();
    let agent =
        Agent::start(&["--libvirt-uri", &uri, "--deadline-read", "1", "--deadline-change", "2"]);
    let steady = json!({ "id": "steady" });
    let verbs = ["Status", "Status", "CPUMetrics", "Run", "Run"];
    // Once past keepalive's patience with connections, once within it.
    for stopped in [stopped(), Duration::from_secs(4)] {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let callers = verbs.map(|verb| {
                let (agent, steady, over) = (&agent, &steady, &over);
                scope.spawn(move || load(agent, verb, steady, over))
            });
            wait_until("all works", SOON, || {
                verbs.iter().all(|verb| error(&agent, verb, &steady).is_none())
            });
            stack.signal_libvirtd("STOP");
            let began = Instant::now();
            wait_until("it is known to be silent", SOON, || {
                error(&agent, "Status", &steady).is_some_and(|error| error.starts_with(SILENT))
            });
            // What was under way when it became known is over by then.
            let known = Instant::now() + Duration::from_secs(3);
            // The wait is the fault itself, not its end.
            thread::sleep(stopped.saturating_sub(began.elapsed()));
            stack.signal_libvirtd("CONT");
            let resumed = Instant::now();
            let works = |verb: &&str| {
                wait_until(verb, SOON, || error(&agent, verb, &steady).is_none());
                resumed.elapsed()
            };
            let back: Vec<Duration> = verbs.iter().map(works).collect();
            over.store(true, SeqCst);
            let calls: Vec<Called> =
                callers.into_iter().flat_map(|caller| caller.join().expect("answers")).collect();

            println!("stopped {stopped:?}: {} calls, back after {back:?}", calls.len());
            assert!(back.iter().all(|&back| back < BACK), "{back:?}");
            for call in calls.iter().filter(|call| call.at > known && call.at < resumed) {
                let words = call.error.as_deref().unwrap_or_default();
                let ended = call.at + call.took;
                assert!(words.starts_with(SILENT) || ended > resumed, "{call:?}");
                // Well under the shortest deadline.
                assert!(call.took < Duration::from_millis(500) || ended > resumed, "{call:?}");
            }
            let again = resumed + BACK;
            let failed = calls.iter().find(|call| call.at > again && call.error.is_some());
            assert!(failed.is_none(), "{failed:?}");
        });
    }
    let log = agent.log();
    assert!(!log.contains(" is stuck"), "nobody is written off while libvirt hangs: {log}");
    assert_eq!(log.matches("listening on").count(), 1);
    assert_eq!(error(&agent, "Poweroff", &steady), None);
    agent.end();
}

/// One call whose answer may be lost.
fn try_call(address: SocketAddr, method: &str, guest: &Value) -> io::Result<Value> {
    let params = json!([{ "guest": guest }]);
    let body = json!({ "method": format!("Libvirt.{method}"), "params": params, "id": 1 });
    let body = body.to_string();
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST /_mistify_RPC_ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&Reply::parse(&bytes).body)?)
}

/// An orchestrator's guest: made, run and deleted again and again, each step repeated until it
/// succeeds. A word that cannot be ends it.
fn live(agent: &Agent, guest: &Value, steps: &AtomicUsize, over: &AtomicBool) -> usize {
    let mut lives = 0;
    while !over.load(SeqCst) {
        for verb in ["CreateGuest", "Run", "Delete"] {
            let mut failed: Vec<String> = Vec::new();
            let done = poll(SOON, || {
                let Some(error) = error_of(agent, verb, guest) else { return Some(()) };
                let again = !failed.is_empty();
                failed.push(error.clone());
                failed.dedup();
                match error.get(..9).unwrap_or_default() {
                    // The first Delete went through, its answer did not.
                    "[Code-42]" if verb == "Delete" && again => return Some(()),
                    "[Code-42]" | "[Code-9] " => panic!("{verb} {guest}: {failed:?}"),
                    // A libvirtd that was killed while it started the guest may wait for its
                    // emulator for ever; destroying is the cure.
                    "[Code-68]" => drop(error_of(agent, "Poweroff", guest)),
                    _ => {}
                }
                None
            });
            assert!(done.is_some(), "{verb} {guest}: {failed:?}");
            steps.fetch_add(1, SeqCst);
        }
        lives += 1;
    }
    lives
}

fn error_of(agent: &Agent, verb: &str, guest: &Value) -> Option<String> {
    match try_call(agent.address(), verb, guest) {
        Ok(answer) => answer["error"].as_str().map(str::to_owned),
        Err(error) => Some(error.to_string()),
    }
}

#[test]
fn a_libvirtd_killed_under_load_loses_and_doubles_no_guest() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let agent = Agent::start(&["--libvirt-uri", &stack.uri(), "--bridge-type", "linux"]);
    let guests: Vec<Value> = (1..=3)
        .map(|number| {
            json!({
                "id": format!("brief-{number}"), "type": "qemu", "memory": 16, "cpu": 1,
                "nics": [{ "network": "mistify0", "model": "virtio",
                           "mac": format!("02:00:00:00:71:{number:02x}") }],
            })
        })
        .collect();
    // It is nobody's business and stays.
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let bystander = guest_xml("qemu", "bystander", disk.path());
    assert!(stack.with_xml("define", &bystander).status.success());
    let steps = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let back = Mutex::new(Vec::new());
    let lives = thread::scope(|scope| {
        let callers: Vec<_> = guests
            .iter()
            .map(|guest| {
                let (agent, steps, over) = (&agent, &steps, &over);
                scope.spawn(move || live(agent, guest, steps, over))
            })
            .collect();
        for number in 1..=5 {
            let so_far = steps.load(SeqCst);
            wait_until("some steps", SOON, || steps.load(SeqCst) >= so_far + number);
            stack.signal_libvirtd("KILL");
            stack.start_libvirtd();
            let began = Instant::now();
            let works = || error_of(&agent, "Status", &json!({ "id": "bystander" })).is_none();
            wait_until("it works again", SOON, works);
            back.lock().push(began.elapsed());
        }
        over.store(true, SeqCst);
        callers.into_iter().map(|caller| caller.join().expect("it counts")).collect::<Vec<_>>()
    });
    println!("{lives:?} lives, back after {:?}", back.lock());
    assert!(lives.iter().all(|&lives| lives > 0), "{lives:?}");
    assert!(back.lock().iter().all(|&back| back < BACK), "{back:?}");
    assert_eq!(stack.virsh_ok(&["list", "--all", "--name"]).trim(), "bystander");
    let networks = stack.virsh_ok(&["net-list", "--all", "--name"]);
    assert!(!networks.contains("02:00:00:00:71:"), "{networks}");
    for guest in &guests {
        let id = guest["id"].as_str().expect("it is a text");
        wait_until("no emulator is left", SOON, || stack.qemu_pid(id).is_none());
    }
    agent.end();
}
