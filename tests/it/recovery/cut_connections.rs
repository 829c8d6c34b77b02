//! Many callers on a real libvirtd whose connections are cut at random.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::agent::{Agent, call_text, read_result};
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Random, Scratch, wait_until};

const GUESTS: usize = 100;
const CALLERS: usize = 16;
/// Longer than a loaded machine needs for one verb of one guest.
const SOON: Duration = Duration::from_secs(300);
/// One connection in so many is cut before its answer.
const CUT_ONE_IN: u64 = 3;

/// Sends a call, and cuts the connection at random: before its last byte, after it, or in the middle
/// of the answer. The answer, if it was not cut.
fn call(agent: &Agent, random: &Random, method: &str, guest: &Value) -> Option<Value> {
    let text = call_text(method, &json!({ "guest": guest }));
    let is_cut = random.below(CUT_ONE_IN) == 0;
    let mut stream = agent.connect();
    if is_cut && random.below(2) == 0 {
        let length = usize::try_from(random.below(text.len() as u64)).expect("a length");
        stream.write_all(&text.as_bytes()[..length]).ok()?;
        return None;
    }
    stream.write_all(text.as_bytes()).ok()?;
    if is_cut {
        if random.below(2) == 0 {
            // A caller that reads only a part of the answer.
            let _ = stream.read(&mut [0; 10]);
        }
        let _ = stream.shutdown(Shutdown::Both);
        return None;
    }
    read_result(&mut stream)
}

/// Calls until there is an answer that is no refusal for lack of room.
fn insist(agent: &Agent, random: &Random, method: &str, guest: &Value) -> Value {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        match call(agent, random, method, guest) {
            Some(answer) if !answer["error"].as_str().is_some_and(is_busy) => return answer,
            _ => thread::yield_now(),
        }
    }
    panic!("{method} {guest} is not answered within {SOON:?}");
}

fn is_busy(error: &str) -> bool {
    error.starts_with("busy: ")
}

#[test]
fn creates_cut_off_at_random_leave_nothing() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let directory = Scratch::new();
    let storage = format!("directory:{}", directory.path().display());
    let flags = ["--libvirt-uri", &stack.uri(), "--bridge-type", "linux", "--storage", &storage];
    // So that no call is late because the machine is loaded.
    let patient = ["--deadline-read", "240", "--deadline-change", "240"];
    let agent = Agent::start(&[&flags[..], &patient].concat());
    let everything = || {
        stack.virsh_ok(&["list", "--all", "--name"])
            + &stack.virsh_ok(&["net-list", "--all", "--name"])
    };
    let before = everything();
    let (random, next) = (Random::new(7), AtomicUsize::new(0));
    let live = |number: usize| {
        let guest = json!({
            "id": format!("cut-{number}"), "type": "qemu", "memory": 16, "cpu": 1,
            "nics": [{ "network": "mistify0", "mac": format!("02:00:00:00:75:{number:02x}") }],
            "disks": [{ "size": 1 }],
        });
        let made = insist(&agent, &random, "CreateGuest", &guest)["result"]["guest"].take();
        let ran = insist(&agent, &random, "Run", &made)["result"]["guest"].take();
        assert_eq!(ran["state"], "running", "cut-{number}");
        let measured = insist(&agent, &random, "CPUMetrics", &ran);
        assert_eq!(measured["result"]["type"], "cpu", "{measured}");
        let deleted = insist(&agent, &random, "Delete", &made);
        // The one whose answer was cut off did it.
        let again = deleted["error"].as_str().is_some_and(|error| error.starts_with("[Code-42] "));
        assert!(again || deleted["error"].is_null(), "{deleted}");
    };
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= GUESTS {
                        return;
                    }
                    live(number);
                }
            });
        }
    });
    wait_until("what was cut off is over", SOON, || everything() == before);
    let left = || std::fs::read_dir(directory.path().join("guests")).expect("a directory").count();
    wait_until("no volume is left", SOON, || left() == 0);
    agent.end();
}
