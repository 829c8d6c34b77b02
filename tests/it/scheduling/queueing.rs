//! Calls wait for a permit up to their deadline, and none gets `busy` for that reason.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;
use mistify_libvirt::config::PoolLimits;
use mistify_libvirt::guest::wire::{Guest, GuestRequest};
use mistify_libvirt::os::peer::Share;
use mistify_libvirt::pool::Lane;
use serde_json::{Value, json};

use crate::harness::agent::{Agent, call_text, read_result};
use crate::harness::in_process::InProcess;
use crate::harness::skip::{Skip, require};
use crate::harness::stack::{BlockDevice, Stack, guest_xml};
use crate::harness::support::{Scratch, signal, wait_until};

/// Sends one call on each of many connections, which are all open before the first byte, and prints how many
/// of the answers begin with which text: `ok`, or the first words of the error.
const CLIENT: &str = include_str!("queueing.py");
/// Rounds of a hundred calls at once, as the orchestrator asks for the metrics of a guest.
const GO_CLIENT: &str = include_str!("queueing.go");
const GO_CALLS: usize = 500;
const GO_NIC: &str = "02:00:00:00:29:01";
/// Longer than a loaded machine takes.
const SOON: Duration = Duration::from_secs(120);

fn answers(agent: &Agent, connections: usize, call: &str) -> Value {
    let client = r#"ulimit -n 4096 && exec python3 -c "$0" "$@""#;
    let mut command = Command::new("bash");
    command.args([
        "-c",
        client,
        CLIENT,
        &agent.address().to_string(),
        &connections.to_string(),
        call,
    ]);
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The answers to as many calls at once, each on a thread.
fn at_once(agent: &Agent, count: usize, method: &str, params: &Value) -> Vec<Option<Value>> {
    thread::scope(|scope| {
        let calls: Vec<_> =
            (0..count).map(|_| scope.spawn(|| agent.try_call_with(method, params))).collect();
        calls.into_iter().map(|call| call.join().expect("it is answered")).collect()
    })
}

fn assert_all_succeed(answers: &[Option<Value>]) {
    for answer in answers {
        let answer = answer.as_ref().expect("each is answered");
        assert_eq!(answer["error"], Value::Null, "{answer}");
    }
}

#[test]
fn a_thousand_connections_are_all_answered() {
    let agent = Agent::start(&["--libvirt-uri", "test:///default"]);
    for method in ["Reboot", "Status", "Describe"] {
        assert_eq!(answers(&agent, 1000, method), json!({ "ok": 1000 }), "{method}");
    }
    let waited = agent.request("GET", "/metrics", &[], b"").text();
    assert!(waited.contains("\nmistify_calls_waiting 0\n"), "{waited}");
    agent.end();
}

#[test]
fn a_users_polls_do_not_wait_for_all_of_anothers() {
    let inside = InProcess::start(&InProcess::config());
    let agent = &inside.agent;
    let occupied = inside.occupy(Lane::Read);
    let (answer, answered) = unbounded();
    let poll = |user: u32, id: &str| {
        let guest = Guest { id: id.to_owned(), ..Guest::default() };
        let question = agent
            .guests
            .status_question(GuestRequest { guest: Some(guest), ..GuestRequest::default() });
        let question = question.expect("it names a guest");
        let posting = agent.core.may_post(&question).expect("there is room");
        let answer = answer.clone();
        agent.core.post(Share::User(user), posting, question, move |_| answer.send(user).unwrap());
    };
    let polls = PoolLimits::default().polls;
    for number in 0..4 * polls {
        poll(1, &format!("guest-{number}"));
    }
    poll(2, "test");
    assert_eq!(inside.queued(Lane::Read), polls, "the others wait for their turn");
    // One worker is released, so that the polls are answered in the order of their turns.
    occupied.send(()).expect("the workers wait for it");
    let order: Vec<u32> =
        (0..=4 * polls).map(|_| answered.recv_timeout(SOON).expect("each is answered")).collect();
    let place = order.iter().position(|user| *user == 2).expect("it is among them");
    // First the polls that the lane had, then each user in turn.
    assert_eq!(place, polls + 1, "{order:?}");
    drop(occupied);
    inside.end();
}

#[test]
fn simultaneous_changes_of_one_guest_all_succeed() {
    let agent = Agent::start(&["--libvirt-uri", "test:///default"]);
    let params = json!({ "guest": { "id": "test" } });
    assert_all_succeed(&at_once(&agent, 64, "Reboot", &params));
    agent.end();
}

#[test]
fn batches_of_one_caller_wait_for_each_other() {
    let agent = Agent::start(&["--libvirt-uri", "test:///default"]);
    let call = json!({ "jsonrpc": "2.0", "method": "Libvirt.Reboot", "params": { "guest": { "id": "test" } }, "id": 1 });
    let batch = Value::from(vec![call; 16]).to_string();
    let json = [("Content-Type", "application/json")];
    thread::scope(|scope| {
        let batches: Vec<_> = (0..24)
            .map(|_| scope.spawn(|| agent.request("POST", "/rpc", &json, batch.as_bytes())))
            .collect();
        for batch in batches {
            let reply = batch.join().expect("it is answered");
            let answers: Value = serde_json::from_slice(&reply.body).expect("JSON");
            let answers = answers.as_array().expect("a batch's answers").clone();
            assert_eq!(answers.len(), 16);
            assert!(answers.iter().all(|answer| answer["error"].is_null()), "{answers:?}");
        }
    });
    agent.end();
}

#[test]
fn call_that_waits_too_long_names_the_cause() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "waited-for", &disk);
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let qemu = stack.qemu_pid("waited-for").expect("it runs");
    signal(qemu, "STOP");

    let params = json!({ "guest": { "id": "waited-for" }, "args": { "mistify.timeout": "3" } });
    // More than there are threads for requests: if these waited on threads, some would say 6 s and more.
    for answer in at_once(&agent, 150, "Suspend", &params) {
        let error =
            answer.expect("each is answered")["error"].as_str().unwrap_or_default().to_owned();
        let is_in_time = ["3 s", "4 s", "5 s"].iter().any(|waited| error.contains(waited));
        assert!(error.starts_with("deadline: ") && is_in_time, "{error}");
    }

    signal(qemu, "CONT");
    wait_until("it can be changed again", SOON, || {
        agent.call("Suspend", &json!({ "id": "waited-for" }))["error"].is_null()
    });
    agent.ok("Delete", &json!({ "id": "waited-for" }));
}

#[test]
fn a_hanging_guest_delays_no_other_guests_metrics() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let disks = [BlockDevice::bootable(1 << 20), BlockDevice::bootable(1 << 20)];
    let [Some(first), Some(second)] = disks.map(|disk| require("qemu", disk)) else { return };
    stack.boot("qemu", "queue-hangs", &first);
    stack.boot("qemu", "queue-well", &second);
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let metrics = |id: &str| json!({ "guest": { "id": id, "disks": [{ "device": "vda" }] } });
    let qemu = stack.qemu_pid("queue-hangs").expect("it runs");
    signal(qemu, "STOP");

    thread::scope(|scope| {
        let hanging = scope.spawn(|| at_once(&agent, 100, "DiskMetrics", &metrics("queue-hangs")));
        for _ in 0..20 {
            assert_all_succeed(&at_once(&agent, 5, "DiskMetrics", &metrics("queue-well")));
        }
        for answer in hanging.join().expect("all are answered") {
            let answer = answer.expect("each is answered");
            let error = answer["error"].as_str().unwrap_or_default();
            assert!(error.starts_with("deadline: "), "{answer}");
        }
    });

    signal(qemu, "CONT");
    wait_until("it is measured again", SOON, || {
        let text = call_text("DiskMetrics", &metrics("queue-hangs"));
        let mut stream = agent.connect();
        stream.write_all(text.as_bytes()).expect("the agent reads");
        read_result(&mut stream).is_some_and(|answer| answer["error"].is_null())
    });
    for id in ["queue-hangs", "queue-well"] {
        agent.ok("Delete", &json!({ "id": id }));
    }
}

#[test]
fn every_metrics_call_of_a_go_client_is_answered() {
    let go = Command::new("go").arg("version").output();
    let go = go.map_err(|error| Skip(format!("go does not start: {error}")));
    if require("go", go).is_none() {
        return;
    }
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let nic = format!("<interface type='ethernet'><mac address='{GO_NIC}'/></interface></devices>");
    let xml = guest_xml("qemu", "go-metrics", disk.path()).replace("</devices>", &nic);
    let defined = stack.with_xml("define", &xml);
    assert!(defined.status.success(), "{defined:?}");
    let agent = Agent::start(&["--libvirt-uri", &stack.uri(), "--allow-disk-path", "/dev"]);
    agent.ok("Run", &json!({ "id": "go-metrics" }));
    let scratch = Scratch::new();
    let source = scratch.path().join("client.go");
    std::fs::write(&source, GO_CLIENT).expect("scratch is writable");
    let client = Command::new("go")
        .arg("run")
        .arg(&source)
        .args([
            &format!("http://{}/_mistify_RPC_", agent.address()),
            "go-metrics",
            &GO_CALLS.to_string(),
            GO_NIC,
        ])
        .env("GOCACHE", scratch.path().join("cache"))
        .env("GO111MODULE", "off")
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    assert_eq!(String::from_utf8_lossy(&client.stdout).trim(), format!("{GO_CALLS} answered"));
    agent.ok("Delete", &json!({ "id": "go-metrics" }));
}

#[test]
fn a_delete_and_a_poweroff_pass_when_changes_hang() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "pass-hangs", &disk);
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let qemu = stack.qemu_pid("pass-hangs").expect("it runs");
    signal(qemu, "STOP");

    let guest = json!({ "guest": { "id": "pass-hangs" } });
    thread::scope(|scope| {
        // All permits of the guest's changes are taken, and more wait.
        let hanging = scope.spawn(|| at_once(&agent, 8, "Suspend", &guest));
        wait_until("calls wait", SOON, || {
            let text = agent.request("GET", "/metrics", &[], b"").text();
            text.contains("\nmistify_calls_waiting 4\n")
        });
        agent.ok("Poweroff", &json!({ "id": "pass-hangs" }));
        agent.ok("Delete", &json!({ "id": "pass-hangs" }));
        for answer in hanging.join().expect("all are answered") {
            assert_ne!(answer.expect("each is answered")["error"], Value::Null);
        }
    });
}

#[test]
fn a_stop_finishes_calls_that_wait_for_their_turn() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "stop-waits", &disk);
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let qemu = stack.qemu_pid("stop-waits").expect("it runs");
    signal(qemu, "STOP");
    thread::scope(|scope| {
        let calls = scope
            .spawn(|| at_once(&agent, 8, "Suspend", &json!({ "guest": { "id": "stop-waits" } })));
        wait_until("calls wait", SOON, || {
            let text = agent.request("GET", "/metrics", &[], b"").text();
            text.contains("\nmistify_calls_waiting 4\n")
        });
        signal(agent.pid(), "TERM");
        wait_until("it stops", SOON, || agent.log().contains("finishing requests in flight"));
        signal(qemu, "CONT");
        assert_all_succeed(&calls.join().expect("all are answered"));
    });
    assert!(agent.wait().success());
    stack.virsh_ok(&["destroy", "stop-waits"]);
    stack.virsh_ok(&["undefine", "stop-waits"]);
}

#[test]
fn a_waiting_change_is_written_down_once() {
    let scratch = Scratch::new();
    let log = scratch.path().join("audit");
    let log = log.to_str().expect("UTF-8");
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--audit-log", log]);
    let params = json!({ "guest": { "id": "test" } });
    assert_all_succeed(&at_once(&agent, 100, "Reboot", &params));
    agent.end();
    let written = std::fs::read_to_string(log).expect("it is there");
    assert_eq!(written.matches("\"method\":\"Libvirt.Reboot\"").count(), 100, "{written}");
}
