//! A disk of the state directory that hangs: it costs the calls that write to it their time, and no other call.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use mistify_libvirt::config::{HttpLimits, PoolLimits};
use mistify_libvirt::os::peer::Share;
use mistify_libvirt::pool::{CallClass, CallShare};
use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM, Reply};
use crate::harness::fault_libraries::faults;
use crate::harness::in_process::InProcess;
use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for what takes no time.
const SOON: Duration = Duration::from_secs(60);

/// An agent whose calls of one function hang as long as the file `blocker` exists.
struct Hanging {
    agent: Agent,
    state: PathBuf,
    blocker: PathBuf,
    _directory: Scratch,
}

impl Hanging {
    fn start(call: &str, below: &str, deadline_s: &str) -> Self {
        let directory = Scratch::new();
        let (state, blocker) = (directory.path().join("state"), directory.path().join("hangs"));
        let mut command = Command::new(PROGRAM);
        let part = state.join(below).display().to_string();
        command.env("LD_PRELOAD", faults()).env("FAULT", format!("{call}:5:*:{part}"));
        command.env("FAULT_WHILE", &blocker);
        let state_dir = state.display().to_string();
        let flags = ["--libvirt-uri", "test:///default", "--deadline-change", deadline_s];
        let agent = Agent::run(command, &[&flags[..], &["--state-dir", &state_dir]].concat());
        Self { agent, state, blocker, _directory: directory }
    }

    fn hang(&self) {
        fs::write(&self.blocker, "").expect("scratch is writable");
    }

    fn go_on(&self) {
        fs::remove_file(&self.blocker).expect("it is there");
    }

    /// Sends a call, whose answer is read later.
    fn send(&self, method: &str, params: &Value) -> TcpStream {
        let call = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 });
        let body = call.to_string();
        let mut stream = self.agent.connect();
        stream.set_read_timeout(Some(SOON)).expect("more than no time");
        let head = "POST /rpc HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                    Content-Type: application/json\r\n";
        let length = body.len();
        let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    }

    fn call(&self, method: &str, params: &Value) -> Value {
        answer(self.send(method, params))
    }
}

fn answer(mut stream: TcpStream) -> Value {
    serde_json::from_slice(&Reply::read(&mut stream).body).expect("JSON")
}

fn as_job(guest: &str) -> Value {
    json!({ "guest": { "id": guest }, "async": true })
}

#[test]
fn a_hung_state_disk_leaves_handlers_to_others() {
    let hanging = Hanging::start("fsync", "jobs", "300");
    let accepted = hanging.call("Libvirt.SetMetadata", &as_job("test"));
    let job = json!({ "id": accepted["result"]["job"] });
    let is_done = || hanging.call("Job.Get", &job)["result"]["state"] == "done";
    wait_until("the job is done", SOON, is_done);

    hanging.hang();
    let callers = HttpLimits::default().handlers + 10;
    let sent = (0..callers)
        .map(|index| hanging.send("Libvirt.SetMetadata", &as_job(&format!("guest-{index}"))));
    let sent: Vec<TcpStream> = sent.collect();
    let hanging_writes = || {
        let names = fs::read_dir(hanging.state.join("jobs")).expect("it is there");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".new")).count()
    };
    wait_until("a write hangs", SOON, || hanging_writes() > 0);

    for _ in 0..20 {
        assert!(is_done());
        assert_eq!(hanging.call("Job.List", &json!({}))["result"]["jobs"][0]["id"], job["id"]);
        let test = json!({ "guest": { "id": "test" } });
        assert_eq!(hanging.call("Libvirt.Describe", &test)["error"], Value::Null);
    }
    // Handlers took the calls above after all of those that want to write.
    let writes = hanging_writes();
    assert!(writes <= PoolLimits::default().job_files, "{writes} handlers wait for the disk");
    hanging.go_on();
    let answers: Vec<Value> = sent.into_iter().map(answer).collect();
    let accepted = answers.iter().filter(|answer| answer["result"]["job"].is_string()).count();
    assert!(accepted > 4, "{answers:?}");
    hanging.agent.end();
}

#[test]
fn a_job_for_a_hung_disk_is_late_and_the_next_at_once() {
    let hanging = Hanging::start("fsync", "jobs", "2");
    hanging.hang();
    let late = hanging.call("Libvirt.SetMetadata", &as_job("test"));
    let why = late["error"]["message"].as_str().expect("an error");
    let said = "deadline: a write to the state directory did not end within 2 s";
    assert!(why.starts_with(said), "{why}");
    let next = hanging.call("Libvirt.SetMetadata", &as_job("test"));
    let why = next["error"]["message"].as_str().expect("an error");
    let said = "deadline: not started, as a write to the state directory is still running";
    assert!(why.starts_with(said), "{why}");
    hanging.go_on();
    let listed = || hanging.call("Job.List", &json!({}))["result"]["jobs"][0]["state"] == "done";
    wait_until("the late job is done", SOON, listed);
    hanging.agent.end();
}

#[test]
fn a_commit_on_a_hung_disk_ends_at_its_deadline() {
    let hanging = Hanging::start("unlink", "intents", "2");
    hanging.hang();
    let guest = json!({ "id": "g", "type": "test", "memory": 32, "cpu": 1, "nics": [] });
    let late = hanging.call("Libvirt.CreateGuest", &json!({ "guest": guest }));
    let why = late["error"]["message"].as_str().expect("an error");
    let said = "deadline: a write to the state directory did not end within 2 s";
    assert!(why.starts_with(said), "{late}");
    hanging.go_on();
    // It was done but for that write.
    wait_until("the guest is unlocked", SOON, || hanging.agent.try_call("Run", &guest).is_some());
    assert_eq!(hanging.agent.state("g"), "running");
    hanging.agent.end();
}

#[test]
fn a_delete_with_seeds_on_a_hung_disk_ends_in_time() {
    let hanging = Hanging::start("unlink", "seeds", "2");
    let guest = json!({
        "id": "g", "type": "test", "memory": 32, "cpu": 1, "nics": [],
        "credentials": { "one": "1" },
    });
    assert_eq!(
        hanging.call("Libvirt.CreateGuest", &json!({ "guest": guest }))["error"],
        Value::Null
    );
    let has_seeds = || {
        let seeds = fs::read_dir(hanging.state.join("seeds")).expect("it is there");
        seeds.count() > 0
    };
    assert!(has_seeds());
    hanging.hang();
    let by_id = json!({ "guest": { "id": "g" } });
    let late = hanging.call("Libvirt.Delete", &by_id);
    let why = late["error"]["message"].as_str().expect("an error");
    assert!(why.contains("a write to the state directory did not end within 2 s"), "{late}");
    hanging.go_on();
    wait_until("the files are removed", SOON, || !has_seeds());
    wait_until("the Delete is over", SOON, || hanging.agent.is_recovered());
    hanging.agent.end();
}

#[test]
fn cancel_waits_for_its_turn_to_write() {
    let mut config = InProcess::config();
    config.deadlines.change = Duration::from_secs(1);
    let agent = InProcess::start(&config);
    let share = CallShare { class: CallClass::JobFile, user: Share::User(0), guest: "".into() };
    let permits: Vec<_> = (0..config.pool.job_files)
        .map(|_| agent.agent.core.pool().permit(&share).expect("it is free"))
        .collect();
    let call = |method: &str| {
        let body = json!({ "jsonrpc": "2.0", "method": method, "params": { "id": "1" }, "id": 1 });
        let body = body.to_string();
        let mut stream = TcpStream::connect(agent.address).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("more than no time");
        let head = "POST /rpc HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                    Content-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).expect("it reads");
        answer(stream)["error"]["code"].clone()
    };
    let began = Instant::now();
    assert_eq!(call("Job.Cancel"), -32006);
    assert!(began.elapsed() >= config.deadlines.change);
    assert_eq!(call("Job.Get"), -32001, "it waits for nothing");
    drop(permits);
    assert_eq!(call("Job.Cancel"), -32001);
    agent.end();
}
