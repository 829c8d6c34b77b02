//! Events of the host, as callers receive them: by WaitEvents, and as a stream.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack, guest_xml};
use crate::harness::support::{AtEnd, signal, wait_until};

/// Longer than a loaded machine needs for what takes a second or two.
const SOON: Duration = Duration::from_secs(90);

/// WaitEvents with these parameters.
fn wait(agent: &Agent, params: &Value) -> Value {
    let answer = agent.call_with("WaitEvents", params);
    assert_eq!(answer["error"], Value::Null, "{params}");
    answer["result"].clone()
}

/// All events after `after`, from one call to the next, until each of these is among them.
fn await_events(agent: &Agent, mut after: u64, awaited: &[&dyn Fn(&Value) -> bool]) -> Vec<Value> {
    let (mut received, began) = (Vec::new(), Instant::now());
    while !awaited.iter().all(|it| received.iter().any(it)) {
        assert!(began.elapsed() < SOON, "{received:?}\n{}", agent.log());
        let page = wait(agent, &json!({ "after": after, "timeout": 10 }));
        received.extend(page["events"].as_array().expect("events").iter().cloned());
        after = page["next"].as_u64().expect("a number");
    }
    received
}

/// An agent that receives libvirt's events, and the number of its first event.
fn agent_at(uri: &str) -> (Agent, u64) {
    let agent = Agent::start(&["--libvirt-uri", uri]);
    let first = agent.receives_events();
    (agent, first)
}

fn is(event: &Value, guest: &str, name: &str, state: &str) -> bool {
    event["guest"] == guest && event["event"] == name && event["state"].as_str() == Some(state)
}

/// A listener to `/events`.
struct Listener(BufReader<TcpStream>);

impl Listener {
    fn start(agent: &Agent, path: &str, headers: &str) -> Self {
        Self::start_with(agent, "HTTP/1.1", path, headers)
    }

    fn start_with(agent: &Agent, version: &str, path: &str, headers: &str) -> Self {
        let mut stream = agent.connect();
        let head = format!("GET {path} {version}\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).expect("the agent reads");
        stream.set_read_timeout(Some(SOON)).expect("more than no time");
        let mut this = Self(BufReader::new(stream));
        assert_eq!(this.line(), Some(format!("{version} 200 OK")));
        let head: Vec<_> = std::iter::from_fn(|| this.line().filter(|it| !it.is_empty())).collect();
        assert!(head.contains(&"Content-Type: text/event-stream".to_owned()), "{head:?}");
        let in_chunks = head.contains(&"Transfer-Encoding: chunked".to_owned());
        assert_eq!(in_chunks, version == "HTTP/1.1", "{head:?}");
        this
    }

    /// One line, none at the end of the stream.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.0.read_line(&mut line).expect("a line in time");
        (count > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event: its kind and its data. Lines of chunks and comments are passed over.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut kind = String::new();
        loop {
            let line = self.line()?;
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut kind);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((kind, serde_json::from_str(data).expect("JSON")));
            }
        }
    }

    fn until(&mut self, done: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (_, event) = self.next().expect("it goes on");
            if done(&event) {
                return event;
            }
        }
    }
}

#[test]
fn guest_events_are_ordered_and_filtered_by_guest() {
    let (agent, first) = agent_at("test:///default");
    let guest = json!({ "id": "heard", "memory": 64, "cpu": 1 });
    for verb in ["CreateGuest", "Run", "Poweroff", "Delete"] {
        agent.ok(verb, &guest);
    }
    // The events of the agent and those of libvirt are two sources, each in its own order.
    let is_deleted = |event: &Value| event["event"] == "deleted";
    let is_undefined = |event: &Value| is(event, "heard", "lifecycle", "undefined");
    let all = await_events(&agent, first, &[&is_deleted, &is_undefined]);
    let numbers: Vec<_> = all.iter().map(|event| event["seq"].as_u64().expect("one")).collect();
    let following: Vec<_> = (first + 1..).take(numbers.len()).collect();
    assert_eq!(numbers, following, "without a gap");
    let words = |event: &Value| {
        let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        [word("event"), word("state"), word("detail")].join(" ").trim().to_owned()
    };
    let libvirts: Vec<_> = all.iter().filter(|it| it["event"] == "lifecycle").map(words).collect();
    for (at, said) in ["defined added", "started booted", "stopped destroyed", "undefined removed"]
        .iter()
        .enumerate()
    {
        assert_eq!(libvirts[at], format!("lifecycle {said}"), "{libvirts:?}");
    }
    let ours: Vec<_> = all.iter().filter(|it| it["event"] != "lifecycle").map(words).collect();
    assert_eq!(ours, ["created", "deleted"]);
    assert!(all.iter().all(|event| event["guest"] == "heard" && event["time"].is_string()));

    // From the middle, and of another guest.
    let middle = numbers[2];
    let page = wait(&agent, &json!({ "after": middle, "guest": "heard", "timeout": 0 }));
    assert_eq!(page["events"], json!(all[3..]));
    assert_eq!(page["gap"], false);
    let page = wait(&agent, &json!({ "after": first, "guest": "other", "timeout": 0 }));
    assert_eq!(page["events"], json!([]));
    assert_eq!(page["next"], numbers[numbers.len() - 1], "what is passed over is not asked again");

    // The same as a stream, which a browser takes up again by the number of its last event.
    let from = |path: &str, headers: &str| {
        let mut listener = Listener::start(&agent, path, headers);
        (0..all.len() - 3).map(|_| listener.next().expect("it goes on").1).collect::<Vec<_>>()
    };
    assert_eq!(from(&format!("/events?after={middle}"), ""), all[3..]);
    assert_eq!(from("/events?guest=heard", &format!("Last-Event-ID: {middle}\r\n")), all[3..]);
}

#[test]
fn a_proxy_of_http_1_0_passes_events_on() {
    // As nginx asks in its default configuration, for a browser that has had no event yet.
    let (agent, first) = agent_at("test:///default");
    let mut listener = Listener::start_with(&agent, "HTTP/1.0", "/events", "Last-Event-ID: \r\n");
    agent.ok("CreateGuest", &json!({ "id": "proxied", "memory": 64, "cpu": 1 }));
    listener.until(|event| event["guest"] == "proxied");
    let path = format!("/events?after={first}");
    let next = Listener::start_with(&agent, "HTTP/1.0", &path, "").next();
    assert_eq!(next.expect("it goes on").1["seq"], first + 1);
}

#[test]
fn wait_ends_at_once_and_invalid_wait_is_refused() {
    let (agent, first) = agent_at("test:///default");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(&agent, &json!({ "guest": "late" })));
        let mut listener = Listener::start(&agent, "/events", "");
        agent.ok("CreateGuest", &json!({ "id": "late", "memory": 64, "cpu": 1 }));
        // It may begin to wait after this; then more happens.
        while !waiter.is_finished() {
            agent.ok("Run", &json!({ "id": "late" }));
            agent.ok("Poweroff", &json!({ "id": "late" }));
        }
        let page = waiter.join().expect("it answers");
        assert!(page["events"].as_array().is_some_and(|events| !events.is_empty()), "{page}");
        let received = listener.until(|event| event["guest"] == "late");
        assert!(received["seq"].as_u64() > Some(first), "without `after`, what comes: {received}");
    });
    let gap = wait(&agent, &json!({ "after": 1, "timeout": 50 }));
    assert_eq!((&gap["gap"], &gap["events"][0]["seq"]), (&json!(true), &json!(first)));
    let mut listener = Listener::start(&agent, "/events?after=1", "");
    assert_eq!(listener.next().expect("it goes on").0, "gap");

    let error = |params: &Value| agent.call_with("WaitEvents", params)["error"].to_string();
    assert!(error(&json!({ "timeout": 51 })).contains("timeout must be at most 50 seconds"));
    let refused = agent.request("GET", "/events?after=x", &[], b"");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert_eq!(agent.request("POST", "/events", &[], b"").status, 405);
    // The agent's end ends the streams, which do not delay it.
    let mut stays = Listener::start(&agent, "/events", "");
    let began = Instant::now();
    agent.signal("TERM");
    // The stream ends in order, after events that libvirt may have sent of the guest meanwhile.
    let rest: Vec<_> = std::iter::from_fn(|| stays.next()).collect();
    assert!(rest.iter().all(|(_, event)| event["guest"] == "late"), "{rest:?}");
    assert!(agent.wait().success());
    assert!(began.elapsed() < SOON);
}

#[test]
fn only_so_many_calls_wait_and_the_handlers_stay_free() {
    crate::harness::cost::slow("waits for a timeout of 5 s");
    let (agent, _) = agent_at("test:///default");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..40)
            .map(|_| {
                scope.spawn(|| {
                    let mut refused = 0;
                    while !over.load(SeqCst) && refused == 0 {
                        let answer = agent.call_with("WaitEvents", &json!({ "timeout": 5 }));
                        match answer["error"].as_str() {
                            None => {}
                            Some("busy: 8 callers wait for events") => refused += 1,
                            Some(other) => panic!("{other}"),
                        }
                    }
                    refused
                })
            })
            .collect();
        // All but eight are refused, and others are answered meanwhile.
        wait_until("32 are refused", SOON, || {
            assert_eq!(agent.health().0, 200);
            callers.iter().filter(|caller| caller.is_finished()).count() == 32
        });
        over.store(true, SeqCst);
        let refused: i32 = callers.into_iter().map(|it| it.join().expect("it ends")).sum();
        assert_eq!(refused, 32);
    });
}

#[test]
fn fifty_listeners_see_a_libvirtd_stop_and_return() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let (agent, _) = agent_at(&stack.uri());
    assert!(stack.with_xml("define", &guest_xml("qemu", "seen", disk.path())).status.success());
    let mut listeners: Vec<_> =
        (0..50).map(|_| Listener::start(&agent, "/events?after=0", "")).collect();
    let silent = listeners.split_off(40);
    let all_receive = |listeners: &mut [Listener], what: &dyn Fn(&Value) -> bool| {
        listeners.iter_mut().for_each(|listener| drop(listener.until(what)));
    };
    all_receive(&mut listeners, &|event| is(event, "seen", "lifecycle", "defined"));
    stack.virsh_ok(&["start", "seen"]);
    all_receive(&mut listeners, &|event| is(event, "seen", "lifecycle", "started"));
    stack.virsh_ok(&["suspend", "seen"]);
    all_receive(&mut listeners, &|event| is(event, "seen", "lifecycle", "suspended"));

    stack.signal_libvirtd("KILL");
    all_receive(&mut listeners, &|event| event["event"] == "disconnected");
    stack.start_libvirtd();
    all_receive(&mut listeners, &|event| event["event"] == "connected");
    stack.virsh_ok(&["resume", "seen"]);
    all_receive(&mut listeners, &|event| is(event, "seen", "lifecycle", "resumed"));
    stack.virsh_ok(&["destroy", "seen"]);
    all_receive(&mut listeners, &|event| is(event, "seen", "lifecycle", "stopped"));
    assert_eq!(agent.state("seen"), "shutoff");
    // The agent ends in time though ten of them have not read a byte.
    assert_eq!(silent.len(), 10);
    agent.end();
}

#[test]
fn hung_guest_is_reported_and_so_is_its_recovery() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let (agent, first) = agent_at(&stack.uri());
    stack.boot("qemu", "hung", &disk);
    let params = json!({ "id": "hung", "disks": [{ "device": "vda" }] });
    signal(stack.qemu_pid("hung").expect("it runs"), "STOP");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = AtEnd(&over);
        scope.spawn(|| {
            while !over.load(SeqCst) {
                // It is late, or answered from a sample: what asks is what finds out.
                agent.call("DiskMetrics", &params);
                agent.request("GET", "/metrics", &[], b"");
            }
        });
        let reported = |what: &'static str| {
            move |event: &Value| event["guest"] == "hung" && event["event"] == what
        };
        await_events(&agent, first, &[&reported("stuck")]);
        signal(stack.qemu_pid("hung").expect("it runs"), "CONT");
        await_events(&agent, first, &[&reported("unstuck")]);
    });
}
