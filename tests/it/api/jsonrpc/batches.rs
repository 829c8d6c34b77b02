//! Batches: side by side, in order, and bounded.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mistify_libvirt::events::EventKind;
use mistify_libvirt::pool::Lane;
use serde_json::{Value, json};

use super::{answer, post, request, test_guest};
use crate::harness::agent::{Agent, Reply};
use crate::harness::in_process::InProcess;
use crate::harness::support::{AtEnd, Scratch, wait_for, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// So many calls, numbered by their ids.
fn batch(count: usize, method: &str, params: &Value) -> Value {
    let call = |id| json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": id });
    (0..count).map(call).collect()
}

/// Posts this and returns the connection, whose answer is still to come.
fn send(address: SocketAddr, batch: &Value) -> TcpStream {
    let body = batch.to_string();
    let mut stream = TcpStream::connect(address).expect("the front takes connections");
    let head = format!(
        "POST /rpc HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("the front reads");
    stream
}

fn receive(mut stream: impl Read) -> Vec<Value> {
    serde_json::from_slice(&Reply::read(&mut stream).body).expect("an array")
}

fn ids(answers: &[Value]) -> Vec<u64> {
    answers.iter().map(|answer| answer["id"].as_u64().expect("a number")).collect()
}

#[test]
fn batch_calls_run_in_parallel_with_ordered_answers() {
    let inside = InProcess::start(&InProcess::config());
    let occupied = inside.occupy(Lane::Control);
    let mut calls = batch(12, "Libvirt.Status", &test_guest());
    for (index, method) in [(1, "Libvirt.Run"), (4, "Libvirt.Reboot"), (7, "Libvirt.Run")] {
        // Each names a guest of its own, so that none waits for a guest lock and all are in the lane's queue.
        calls[index]["method"] = json!(method);
        calls[index]["params"]["guest"]["id"] = json!(format!("nobody-{index}"));
    }
    calls[10].as_object_mut().expect("a call").remove("id");
    let stream = send(inside.address, &calls);
    wait_until("all changes of the batch wait at once", PATIENCE, || {
        inside.queued(Lane::Control) == 3
    });
    drop(occupied);
    let answers = receive(stream);
    assert_eq!(ids(&answers), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]);
    for answer in &answers {
        let is_change = [1, 4, 7].contains(&answer["id"].as_u64().expect("a number"));
        assert_eq!(answer["error"]["code"] == json!(-32001), is_change, "{answer}");
        assert_eq!(answer["result"]["guest"]["state"] == json!("running"), !is_change, "{answer}");
    }
    inside.end();
}

#[test]
fn batch_runs_8_calls_at_once_none_past_the_deadline() {
    crate::harness::cost::slow("waits for a deadline of 5 s");
    let mut config = InProcess::config();
    // Longer than a loaded machine needs to begin 8 calls.
    config.deadlines.change = Duration::from_secs(5);
    let inside = InProcess::start(&config);
    let occupied = inside.occupy(Lane::Control);
    let calls: Value = (0..20)
        .map(|id| {
            let params = json!({ "guest": { "id": format!("nobody-{id}") } });
            json!({ "jsonrpc": "2.0", "method": "Libvirt.Run", "params": params, "id": id })
        })
        .collect();
    let (over, most) = (&AtomicBool::new(false), &AtomicBool::new(false));
    let answers = thread::scope(|scope| {
        let stream = send(inside.address, &calls);
        let watch = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                assert!(inside.queued(Lane::Control) <= 8);
                most.fetch_or(inside.queued(Lane::Control) == 8, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let end = AtEnd(over);
        let answers = receive(stream);
        drop(end);
        watch.join().expect("never more than 8");
        answers
    });
    assert!(most.load(Ordering::SeqCst), "8 at once");
    assert_eq!(ids(&answers), (0..20).collect::<Vec<_>>());
    let is_unrun = |answer: &&Value| {
        assert_eq!(answer["error"]["code"], -32006, "{answer}");
        answer["error"]["message"]
            == "deadline: not run: the other calls of the batch took too long"
    };
    assert_eq!(answers.iter().filter(is_unrun).count(), 12);
    drop(occupied);
    inside.end();
}

/// Changes of so many guests that are not there, each of which waits for the control lane.
fn changes(prefix: &str, count: usize) -> Value {
    let call = |id| {
        let params = json!({ "guest": { "id": format!("{prefix}-{id}") } });
        json!({ "jsonrpc": "2.0", "method": "Libvirt.Run", "params": params, "id": id })
    };
    (0..count).map(call).collect()
}

#[test]
fn batch_begins_no_call_once_its_caller_has_left() {
    let scratch = Scratch::new();
    let mut config = InProcess::config();
    config.audit.log = Some(scratch.path().join("audit"));
    let inside = InProcess::start(&config);
    let occupied = inside.occupy(Lane::Control);
    let stream = send(inside.address, &changes("nobody", 20));
    wait_until("8 calls have begun", PATIENCE, || inside.queued(Lane::Control) == 8);
    drop(stream);
    drop(occupied);
    let outcomes = || {
        let text = fs::read_to_string(scratch.path().join("audit")).expect("it is there");
        // The last may be written just now.
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.collect::<Vec<Value>>()
    };
    wait_until("each call is in the audit", PATIENCE, || outcomes().len() == 20);
    let outcomes = outcomes();
    let count = |outcome| outcomes.iter().filter(|line| line["outcome"] == outcome).count();
    assert_eq!((count("error"), count("refused")), (8, 12), "{outcomes:?}");
    let refused = outcomes.iter().find(|line| line["outcome"] == "refused").expect("12 of them");
    assert_eq!(refused["error"], "not run: the caller has disconnected");
    assert_eq!(inside.counters().abandoned, 1, "one request");
    inside.end();
}

#[test]
fn batches_of_one_caller_leave_the_pool_to_others() {
    let inside = InProcess::start(&InProcess::config());
    let occupied = inside.occupy(Lane::Control);
    let batch = |index| send(inside.address, &changes(&format!("nobody-{index}"), 8));
    let streams: Vec<_> = (0..12).map(batch).collect();
    wait_until("4 batches run, on 11 threads, and 8 wait", PATIENCE, || {
        let waiting = inside.agent.core.pool().snapshot().callers.calls_waiting;
        (inside.queued(Lane::Control), waiting) == (11, 8)
    });
    let other = send(inside.address, &changes("other", 1)[0]);
    wait_until("another call gets in", PATIENCE, || inside.queued(Lane::Control) == 12);
    drop(occupied);
    for stream in streams {
        let answers = receive(stream);
        assert_eq!(ids(&answers), (0..8).collect::<Vec<_>>());
        assert!(answers.iter().all(|it| it["error"]["code"] == -32001), "{answers:?}");
    }
    let answer: Value = serde_json::from_slice(&Reply::read(&mut &other).body).expect("JSON");
    assert_eq!(answer["error"]["code"], -32001, "{answer}");
    inside.end();
}

#[test]
fn calls_that_wait_for_events_hold_no_handler() {
    let mut config = InProcess::config();
    config.http.handlers = 1;
    let inside = InProcess::start(&config);
    let call = |method: &str, params: Value| {
        let call = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 });
        send(inside.address, &call)
    };
    let wait = json!({ "guest": "waited-for", "timeout": 50 });
    let waiting: Vec<_> = (0..4).map(|_| call("Libvirt.WaitEvents", wait.clone())).collect();
    wait_until("all four wait", PATIENCE, || inside.agent.core.events().waiting() == 4);
    let listed = Reply::read(&mut call("Libvirt.List", json!({})));
    assert!(listed.text().contains("\"result\""), "{listed:?}");
    inside.agent.core.events().note("waited-for", EventKind::Created);
    for mut stream in waiting {
        let answer = Reply::read(&mut stream);
        assert!(answer.text().contains("\"event\":\"created\""), "{answer:?}");
    }
    assert_eq!(inside.agent.core.events().waiting(), 0);
    inside.end();
}

#[test]
fn health_needs_neither_a_handler_nor_room() {
    let mut config = InProcess::config();
    config.http.handlers = 1;
    config.http.held_bytes = config.http.answer_bytes + 3000;
    let inside = InProcess::start(&config);
    let occupied = inside.occupy(Lane::Control);
    let kept = send(inside.address, &changes("nobody", 1)[0]);
    wait_until("the one handler waits", PATIENCE, || inside.queued(Lane::Control) == 1);
    for (path, method) in [("/healthz", "GET"), ("/readyz?x", "GET"), ("/healthz", "HEAD")] {
        let mut stream = TcpStream::connect(inside.address).expect("the front takes connections");
        let line = format!("{method} {path} HTTP/1.1\r\n");
        let head = line + "Host: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("the front reads");
        let reply = Reply::read(&mut stream);
        // That libvirt was not asked yet is an answer as well.
        assert!([200, 503].contains(&reply.status), "{path}: {reply:?}");
        let is_json = reply.header("content-type") == Some("application/json; charset=utf-8");
        assert!(is_json, "{path}: {reply:?}");
    }
    drop(occupied);
    assert_eq!(Reply::read(&mut &kept).status, 200);
    inside.end();
}

#[test]
fn a_request_without_room_in_memory_is_busy() {
    let mut config = InProcess::config();
    config.http.handlers = 2;
    // Room for one request alone.
    config.http.held_bytes = config.http.answer_bytes + 3000;
    let inside = InProcess::start(&config);
    let occupied = inside.occupy(Lane::Control);
    let kept = send(inside.address, &changes("nobody", 1)[0]);
    wait_until("one request has its room", PATIENCE, || inside.queued(Lane::Control) == 1);
    let refused = Reply::read(&mut send(inside.address, &changes("other", 1)[0]));
    assert_eq!(refused.text(), "busy: too many bytes of requests and answers");
    drop(occupied);
    assert_eq!(Reply::read(&mut &kept).status, 200);
    inside.end();
}

#[test]
fn more_batches_than_threads_and_health_are_answered() {
    // So that no call is late because the machine is loaded.
    let patient = ["--deadline-read", "240", "--deadline-change", "240"];
    let agent = Agent::start(&[&["--libvirt-uri", "test:///default"][..], &patient].concat());
    let calls = batch(64, "Libvirt.Status", &test_guest());
    // More than there are handlers, fewer than one caller may have connections.
    let streams: Vec<_> = (0..48).map(|_| send(agent.address(), &calls)).collect();
    assert_eq!(agent.health().0, 200);
    for stream in streams {
        let answers = receive(stream);
        assert_eq!(ids(&answers), (0..64).collect::<Vec<_>>());
        for answer in &answers {
            assert_eq!(answer["error"], Value::Null, "{answer}");
        }
    }
    agent.end();
}

#[test]
fn oversized_batch_is_one_error_and_runs_nothing() {
    let agent = Agent::on_test_driver();
    let calls = batch(65, "Libvirt.Poweroff", &test_guest());
    let found = answer(&agent, &calls.to_string());
    assert_eq!((&found["error"]["code"], &found["id"]), (&json!(-32600), &Value::Null), "{found}");
    assert_eq!(
        found["error"]["message"],
        "Invalid Request: the batch has 65 calls; the limit is 64"
    );
    assert_eq!(agent.state("test"), "running");
    let found = answer(&agent, &batch(64, "Libvirt.Status", &test_guest()).to_string());
    assert_eq!(found.as_array().map(Vec::len), Some(64));
    agent.end();
}

#[test]
fn answers_beyond_the_batch_limit_are_separate_errors() {
    crate::harness::cost::slow("answers batches of many MiB");
    let agent = Agent::on_test_driver();
    let all = |count| {
        let reply =
            post(&agent, batch(count, "Libvirt.AllMetrics", &json!({})).to_string().as_bytes());
        assert_eq!(reply.status, 200, "the whole stays below the bound of all answers");
        reply.body
    };
    for index in 0..1000 {
        // As long as a name may be: the test driver has few figures.
        let id = format!("guest-{index:0>240}");
        agent.ok("Create", &json!({ "id": id, "type": "test", "memory": 64, "cpu": 1 }));
        if index % 50 == 0 && all(1).len() > 10 * 1024 * 1024 / 64 {
            break;
        }
    }
    let body = all(64);
    assert!(body.len() > 8 * 1024 * 1024, "{} bytes", body.len());
    let answers: Vec<Value> = serde_json::from_slice(&body).expect("an array");
    assert_eq!(ids(&answers), (0..64).collect::<Vec<_>>());
    let is_left_out = |answer: &&Value| {
        assert!(answer["error"].is_null() || answer["error"]["code"] == -32013, "{answer}");
        answer["result"].is_null()
    };
    let left_out = answers.iter().filter(is_left_out).count();
    assert!((1..64).contains(&left_out), "{left_out} of 64");
    agent.end();
}

#[test]
fn batch_waiting_for_events_uses_bounded_places() {
    let agent = Agent::start(&["--libvirt-uri", "test:///default"]);
    let stream =
        send(agent.address(), &batch(16, "Libvirt.WaitEvents", &json!({ "guest": "none" })));
    let look = request("Libvirt.WaitEvents", &json!({ "guest": "none", "timeout": 0 })).to_string();
    let busy = wait_for("all places are taken", PATIENCE, || {
        Some(answer(&agent, &look)["error"].take()).filter(Value::is_object)
    });
    assert_eq!(
        (&busy["code"], &busy["data"]["retryable"]),
        (&json!(-32005), &json!(true)),
        "{busy}"
    );
    assert_eq!(agent.request("GET", "/healthz", &[], b"").status, 200);
    let status = request("Libvirt.Status", &test_guest()).to_string();
    assert_eq!(answer(&agent, &status)["result"]["guest"]["state"], "running");
    // The agent's end ends the waits, and so the batch.
    agent.end();
    assert_eq!(ids(&receive(stream)), (0..16).collect::<Vec<_>>());
}
