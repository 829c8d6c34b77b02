//! Calls that outlive their request: taken, carried out, shown, cancelled, and kept over the end of
//! the agent, however it comes.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use mistify_libvirt::config::JobLimits;
use mistify_libvirt::os::peer::Share;
use mistify_libvirt::pool::{CallClass, CallShare, Lane};
use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM, Reply};
use crate::harness::in_process::InProcess;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::support::{Scratch, signal, wait_for, wait_until};

/// Longer than a loaded machine needs for what takes seconds.
const SOON: Duration = Duration::from_secs(90);
/// Random kills of one test.
const KILLS: u64 = 12;

/// The answer of `/rpc`, if one comes.
fn try_rpc(address: SocketAddr, method: &str, params: &Value) -> Option<Value> {
    let call = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 });
    let body = call.to_string();
    let request = format!(
        "POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut bytes).ok()?;
    let whole = bytes.windows(4).any(|four| four == b"\r\n\r\n");
    whole.then(|| serde_json::from_slice(&Reply::parse(&bytes).body).expect("JSON"))
}

/// The result of a call that has to succeed.
fn rpc(address: SocketAddr, method: &str, params: &Value) -> Value {
    let mut answer = try_rpc(address, method, params).expect("an answer");
    assert_eq!(answer["error"], Value::Null, "{method} {params}: {answer}");
    answer["result"].take()
}

/// The error of a call that has to fail.
fn error(address: SocketAddr, method: &str, params: &Value) -> Value {
    let mut answer = try_rpc(address, method, params).expect("an answer");
    assert_eq!(answer["result"], Value::Null, "{method} {params}: {answer}");
    answer["error"].take()
}

fn start(address: SocketAddr, method: &str, guest: &Value) -> String {
    let mut answer = rpc(address, method, &json!({ "guest": guest, "async": true }));
    assert_eq!(&answer["guest"], guest, "{method}");
    let members = answer.as_object().expect("an object").len();
    assert_eq!(members, 2, "the guest and the job: {answer}");
    answer["job"].take().as_str().expect("an id").to_owned()
}

fn get(address: SocketAddr, id: &str) -> Value {
    rpc(address, "Job.Get", &json!({ "id": id }))
}

fn state(address: SocketAddr, id: &str) -> String {
    get(address, id)["state"].as_str().expect("a state").to_owned()
}

/// Waits for a job's end; the job.
pub(crate) fn ended(address: SocketAddr, id: &str) -> Value {
    wait_for("the job ends", SOON, || {
        let job = get(address, id);
        (job["state"] != "queued" && job["state"] != "running").then_some(job)
    })
}

fn is_in(address: SocketAddr, id: &str, wanted: &str) {
    wait_until(&format!("the job is {wanted}"), SOON, || state(address, id) == wanted);
}

fn test_guest(owner: &str) -> Value {
    json!({ "id": "test", "metadata": { "owner": owner } })
}

fn no_jobs(address: SocketAddr) {
    assert_eq!(rpc(address, "Job.List", &json!({})), json!({ "jobs": [] }));
}

/// The lines of an audit log.
fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the file is there");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[test]
fn create_as_a_job_has_the_result_of_the_call() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let directory = Scratch::new();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (store, audit) = (format!("directory:{}", at("store")), at("audit"));
    let agent = Agent::start(&[
        "--libvirt-uri",
        &stack.uri(),
        "--bridge-type",
        "linux",
        "--storage",
        &store,
        "--audit-log",
        &audit,
    ]);
    let address = agent.address();
    let guest = json!({
        "id": "job-create", "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "name": "eth0", "network": "mistify0", "model": "virtio", "address": "",
                   "netmask": "", "gateway": "", "mac": "02:00:00:00:76:01", "vlans": null }],
        "disks": [{ "bus": "", "device": "", "size": 1, "volume": "", "image": "", "source": "" }],
    });
    let id = start(address, "Libvirt.CreateGuest", &guest);
    let job = ended(address, &id);
    assert_eq!((&job["id"], &job["state"]), (&json!(id), &json!("done")), "{job}");
    let about = (&job["method"], &job["guest"]);
    assert_eq!(about, (&json!("Libvirt.CreateGuest"), &json!("job-create")));
    // The volume, the network, the domain.
    assert_eq!(job["progress"], json!({ "steps": 3, "step": "domain" }));
    let times = ["created", "started", "ended"].map(|name| job[name].as_str().expect("a time"));
    assert!(times.is_sorted(), "{times:?}");
    let again = rpc(address, "Libvirt.CreateGuest", &json!({ "guest": guest }));
    assert_eq!(job["result"], again, "as the call itself answers");

    // On the old path by the word in `args`.
    let args = json!({ "mistify.async": "true" });
    let params = json!({ "guest": { "id": "job-create" }, "args": args });
    let answer = agent.call_with("Delete", &params);
    let id = answer["result"]["job"].as_str().expect("an id").to_owned();
    assert_eq!(
        answer,
        json!({ "result": { "guest": { "id": "job-create" }, "job": id }, "error": null, "id": 1 })
    );
    let job = ended(address, &id);
    assert_eq!(job["result"], json!({ "guest": { "id": "job-create" } }), "{job}");
    assert!(!stack.virsh(&["dominfo", "job-create"]).status.success(), "it is gone");

    let failed = ended(address, &start(address, "Libvirt.Run", &json!({ "id": "job-create" })));
    let call = error(address, "Libvirt.Run", &json!({ "guest": { "id": "job-create" } }));
    assert_eq!((&failed["state"], &failed["error"]), (&json!("failed"), &call), "{failed}");
    assert_eq!(failed["error"]["code"], -32001);
    agent.end();

    // A line for each job when it has ended, with its id and whose it was.
    let lines = lines(directory.path().join("audit").as_path());
    let line = |of: &str| {
        let found = lines.iter().filter(|line| line["job"] == of).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "{lines:?}");
        found[0].clone()
    };
    let delete = line(&id);
    assert_eq!((&delete["method"], &delete["outcome"]), (&json!("Libvirt.Delete"), &json!("ok")));
    assert_eq!((&delete["guest"], &delete["uid"]), (&json!("job-create"), &json!(0)));
    assert!(delete["address"].as_str().is_some_and(|it| it.starts_with("127.0.0.1:")));
    let run = line(failed["id"].as_str().expect("an id"));
    assert_eq!((&run["outcome"], &run["method"]), (&json!("error"), &json!("Libvirt.Run")));
}

#[test]
fn every_guest_change_can_be_a_job_with_its_answer() {
    let agent = InProcess::start(&InProcess::config());
    let on = json!({ "guest": { "id": "test" }, "autostart": true, "async": true });
    let mut answer = rpc(agent.address, "Libvirt.SetAutostart", &on);
    let id = answer["job"].take();
    assert_eq!(answer["guest"], json!({ "id": "test" }));
    let after = agent.agent.core.events().last();
    let job = ended(agent.address, id.as_str().expect("an id"));
    // The test driver may refuse to start its guest with the host: a job and a direct call get the same answer.
    let direct = json!({ "guest": { "id": "test" }, "autostart": true });
    let direct = try_rpc(agent.address, "Libvirt.SetAutostart", &direct).expect("an answer");
    let member = if job["state"] == "done" { "result" } else { "error" };
    assert_eq!(job[member], direct[member], "{job}");
    // Job.Get shows the end of a job before the event is sent.
    let ends = wait_for("the job's end is reported", SOON, || {
        let page = agent.agent.core.events().wait(0, Some("test"), 100, Instant::now());
        let events = serde_json::to_value(&page.events).expect("JSON");
        let mut ends = events.as_array().expect("events").clone();
        ends.retain(|event| event["event"] == "job");
        (!ends.is_empty()).then_some(ends)
    });
    assert_eq!(ends.len(), 1, "{ends:?} after {after}");
    assert_eq!((&ends[0]["job"], &ends[0]["state"]), (&id, &job["state"]));
    agent.end();
}

#[test]
fn call_answered_at_once_is_no_job() {
    let agent = Agent::on_test_driver();
    let address = agent.address();
    let with = |word: Value, value: Value| {
        let mut params = json!({ "guest": test_guest("nobody") });
        params[word.as_str().expect("a name")] = value;
        error(address, "Libvirt.SetMetadata", &params)
    };
    for (word, value, why) in [
        ("async", json!("true"), "Invalid params: async must be true or false, not \"true\""),
        ("async", json!(1), "Invalid params: async must be true or false, not 1"),
        ("Async", json!(true), "Invalid params: unknown parameter \"Async\""),
        (
            "args",
            json!({ "mistify.async": "yes" }),
            "invalid argument: args: mistify.async must be \"true\" or \"false\", not \"yes\"",
        ),
        (
            "args",
            json!({ "mistify.async": "true", "mistify.timeout": "x" }),
            "invalid argument: args: mistify.timeout must be from 1 to 3600 seconds, not \"x\"",
        ),
    ] {
        let found = with(json!(word), value);
        let message = found["message"].as_str().unwrap_or_default();
        assert!(found["code"] == -32602 && message.starts_with(why), "{why}: {found}");
    }
    for params in [
        json!({ "async": true }),
        json!({ "guest": { "metadata": {} }, "async": true }),
        json!({ "guest": { "id": 1 }, "async": true }),
        json!({ "guest": { "id": "test" }, "async": true, "more": 1 }),
    ] {
        assert_eq!(error(address, "Libvirt.SetMetadata", &params)["code"], -32602, "{params}");
    }
    // Reads answer at once as it is, and some changes are for no job.
    let read = json!({ "guest": { "id": "test" }, "async": true });
    for method in ["Libvirt.Status", "Libvirt.Trim", "Libvirt.SetPassword"] {
        let found = error(address, method, &read);
        assert_eq!(found["code"], -32602, "{method}: {found}");
    }
    let found = error(address, "Libvirt.Status", &read);
    assert_eq!(found["message"], "Invalid params: this method takes no async");
    let args = json!({ "guest": { "id": "test" }, "args": { "mistify.async": "true" } });
    let answer = agent.call_with("Status", &args);
    assert_eq!(answer["error"], "invalid argument: args: this method takes no mistify.async");
    // On the old path `async` is an unknown member, which is ignored.
    let own = json!({ "guest": test_guest("old"), "async": true });
    let answer = agent.call_with("SetMetadata", &own);
    assert_eq!(answer["result"], json!({ "guest": test_guest("old") }));
    for not_wanted in [json!(false), json!(null)] {
        let params = json!({ "guest": test_guest("now"), "async": not_wanted });
        let answer = rpc(address, "Libvirt.SetMetadata", &params);
        assert_eq!(answer, json!({ "guest": test_guest("now") }));
    }
    no_jobs(address);
    for (params, code) in [
        (json!({ "state": "Running" }), -32602),
        (json!({ "limit": 1001 }), -32602),
        (json!({ "after": "x" }), -32001),
    ] {
        assert_eq!(error(address, "Job.List", &params)["code"], code, "{params}");
    }
    for method in ["Job.Get", "Job.Cancel"] {
        assert_eq!(error(address, method, &json!({ "id": "1" }))["code"], -32001);
        assert_eq!(error(address, method, &json!({}))["code"], -32001);
    }
    agent.end();
}

#[test]
fn guest_jobs_are_ordered_bounded_and_cancellable() {
    let mut config = InProcess::config();
    config.jobs = JobLimits { queued: 4, queued_per_guest: 3, ..JobLimits::default() };
    let agent = InProcess::start(&config);
    let address = agent.address;
    // All tests in this process share the test driver and its own guest.
    let owned = |owner: &str| json!({ "id": "job-order", "metadata": { "owner": owner } });
    let guest = json!({ "id": "job-order", "type": "test", "memory": 32, "cpu": 1 });
    rpc(address, "Libvirt.CreateGuest", &json!({ "guest": guest }));
    let busy = agent.occupy(Lane::Control);
    let first = start(address, "Libvirt.SetMetadata", &owned("first"));
    is_in(address, &first, "running");
    let step = json!({ "steps": 0, "step": "SetMetadata job-order" });
    wait_until("it says what it is at", SOON, || get(address, &first)["progress"] == step);
    let waits: Vec<String> = ["second", "third", "fourth"]
        .map(|owner| start(address, "Libvirt.SetMetadata", &owned(owner)))
        .into();
    let full = json!({ "guest": owned("fifth"), "async": true });
    let refused = error(address, "Libvirt.SetMetadata", &full);
    assert_eq!((&refused["code"], &refused["data"]["retryable"]), (&json!(-32005), &json!(true)));
    assert_eq!(refused["message"], "busy: 3 jobs wait for job-order");
    // Another guest's does not wait for them: it runs, and waits for the lane.
    let other = start(address, "Libvirt.SetMetadata", &json!({ "id": "job-other" }));
    is_in(address, &other, "running");
    let one_more = start(address, "Libvirt.SetMetadata", &json!({ "id": "job-other" }));
    let full = json!({ "guest": { "id": "job-other" }, "async": true });
    assert_eq!(error(address, "Libvirt.SetMetadata", &full)["message"], "busy: 4 jobs wait");

    let queued = rpc(address, "Job.List", &json!({ "state": "queued", "guest": "job-order" }));
    let ids = queued["jobs"].as_array().expect("jobs").iter().map(|job| job["id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), waits, "in order");
    let page = rpc(address, "Job.List", &json!({ "guest": "job-order", "limit": 1 }));
    assert_eq!((&page["jobs"][0]["id"], &page["next"]), (&json!(first), &json!(first)));
    let cancelled = rpc(address, "Job.Cancel", &json!({ "id": waits[1] }));
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(rpc(address, "Job.Cancel", &json!({ "id": waits[1] })), cancelled, "twice");
    let refused = error(address, "Job.Cancel", &json!({ "id": first }));
    assert_eq!(refused["code"], -32003, "{refused}");

    drop(busy);
    let order: Vec<Value> =
        [&first, &waits[0], &waits[2]].map(|id| ended(address, id)).into_iter().collect();
    assert!(order.iter().all(|job| job["state"] == "done"), "{order:?}");
    for (before, after) in order.iter().zip(&order[1..]) {
        assert!(before["ended"].as_str() <= after["started"].as_str(), "{order:?}");
    }
    let described = rpc(address, "Libvirt.Describe", &json!({ "guest": { "id": "job-order" } }));
    let stored = &described["Metadata"]["UserMetadata"]["Parameters"][0]["Value"];
    assert_eq!(stored, "fourth", "the last one counts");
    assert_eq!(ended(address, &one_more)["error"]["code"], -32001);
    assert_eq!(error(address, "Job.Cancel", &json!({ "id": first }))["code"], -32003);
    rpc(address, "Libvirt.Delete", &json!({ "guest": guest }));
    agent.end();
}

#[test]
fn jobs_wait_for_their_turn_instead_of_busy() {
    let mut config = InProcess::config();
    config.pool.control_workers = 2;
    config.pool.changes = 2;
    let agent = InProcess::start(&config);
    let share = |guest: &str| CallShare {
        class: CallClass::Change,
        user: Share::User(0),
        guest: guest.into(),
    };
    let busy = ["one", "other"].map(|guest| agent.agent.core.pool().permit(&share(guest)));
    let ids = ["test", "job-a", "job-b", "job-c", "job-d", "job-e"]
        .map(|guest| start(agent.address, "Libvirt.SetMetadata", &json!({ "id": guest })));
    let step = json!({ "steps": 0, "step": "wait for a permit of the pool" });
    for id in &ids {
        wait_until("it waits", SOON, || get(agent.address, id)["progress"] == step);
    }
    drop(busy);
    // More of them than there are permits.
    let jobs = ids.map(|id| ended(agent.address, &id));
    assert_eq!(jobs[0]["state"], "done", "{jobs:?}");
    assert!(jobs[1..].iter().all(|job| job["error"]["code"] == -32001), "{jobs:?}");
    agent.end();
}

#[test]
fn deadline_counts_from_the_start_of_the_job() {
    crate::harness::cost::slow("waits for deadlines of 6 s");
    let mut config = InProcess::config();
    config.jobs.at_once = 1;
    let agent = InProcess::start(&config);
    let address = agent.address;
    let lock =
        agent.agent.core.pool().lock_guest("test", Instant::now() + SOON).expect("nobody has it");
    let slow = |guest: &str, seconds: &str| {
        let args = json!({ "mistify.timeout": seconds });
        let params = json!({ "guest": { "id": guest }, "async": true, "args": args });
        rpc(address, "Libvirt.Reset", &params)["job"].as_str().expect("an id").to_owned()
    };
    // The second waits for the first alone: at most one job runs.
    let (first, second) = (slow("test", "6"), slow("nobody", "5"));
    let job = ended(address, &first);
    assert_eq!(job["error"]["code"], -32006, "it never ran: {job}");
    // Its 5 s would have passed while it waited for the first.
    assert_eq!(ended(address, &second)["error"]["code"], -32001);
    drop(lock);
    agent.end();
}

#[test]
fn outcomes_survive_a_restart_and_are_shown() {
    let directory = Scratch::new();
    let state_dir = directory.path().join("state").display().to_string();
    let flags = ["--libvirt-uri", "test:///default", "--state-dir", &state_dir];
    let agent = Agent::start(&flags);
    let id = start(agent.address(), "Libvirt.SetMetadata", &test_guest("alice"));
    let job = ended(agent.address(), &id);
    agent.end();
    let agent = Agent::start(&flags);
    assert_eq!(get(agent.address(), &id), job);
    agent.signal("KILL");
    agent.wait();
    let agent = Agent::start(&flags);
    assert_eq!(get(agent.address(), &id), job);
    let port = agent.address().port().to_string();
    let asked = |method: &str, params: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["--config", "/dev/null", "--port", &port, "call", method, params]);
        command.output().expect("it starts")
    };
    let shown = asked("Job.Get", &json!({ "id": id }).to_string());
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown, job);
    let refused = asked("Job.Cancel", &json!({ "id": id }).to_string());
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains(&format!("cannot cancel job {id}: it is done")), "{words}");
    agent.end();
}

/// A guest whose emulator hangs, so that a job stays at it, and another that waits for that one.
struct Hung {
    stack: Stack,
    directory: Scratch,
    _disk: BlockDevice,
}

impl Hung {
    fn new() -> Option<Self> {
        let stack = require("qemu", Stack::start())?;
        let disk = require("qemu", BlockDevice::bootable(1 << 20))?;
        stack.boot("qemu", "hung", &disk);
        Some(Self { stack, directory: Scratch::new(), _disk: disk })
    }

    fn agent(&self) -> Agent {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        Agent::start(&[
            "--libvirt-uri",
            &self.stack.uri(),
            "--state-dir",
            &at("state"),
            "--audit-log",
            &at("audit"),
            // A stop waits that long for a call that hangs.
            "--deadline-change",
            "20",
        ])
    }

    fn tell_qemu(&self, name: &str) {
        signal(self.stack.qemu_pid("hung").expect("it runs"), name);
    }

    /// A Suspend that runs, up to this deadline, and a Resume that waits.
    fn jobs(&self, agent: &Agent, seconds: &str) -> [String; 2] {
        self.tell_qemu("STOP");
        let address = agent.address();
        let args = json!({ "mistify.timeout": seconds });
        let params = json!({ "guest": { "id": "hung" }, "async": true, "args": args });
        let answer = rpc(address, "Libvirt.Suspend", &params);
        let runs = answer["job"].as_str().expect("an id").to_owned();
        is_in(address, &runs, "running");
        let waits = start(address, "Libvirt.Resume", &json!({ "id": "hung" }));
        assert_eq!(state(address, &waits), "queued");
        [runs, waits]
    }
}

#[test]
fn kill_loses_the_running_job_and_keeps_the_queued() {
    let Some(hung) = Hung::new() else { return };
    let agent = hung.agent();
    let [runs, waits] = hung.jobs(&agent, "60");
    agent.signal("KILL");
    agent.wait();
    hung.tell_qemu("CONT");

    let agent = hung.agent();
    let lost = get(agent.address(), &runs);
    assert_eq!(lost["state"], "lost", "{lost}");
    let why = "the agent stopped while the job ran: outcome unknown; check the guest";
    assert_eq!(lost["error"], json!({ "message": why }));
    let job = ended(agent.address(), &waits);
    assert_eq!(job["result"]["guest"]["state"], "running", "{job}");
    agent.end();
    let lines = lines(hung.directory.path().join("audit").as_path());
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&line["job"], &line["uid"]), (&json!(waits), &json!(0)), "whose it was");
}

#[test]
fn stop_completes_the_job_and_next_start_runs_queued() {
    let Some(hung) = Hung::new() else { return };
    let agent = hung.agent();
    // Longer than a loaded machine needs until the stop.
    let [runs, waits] = hung.jobs(&agent, "10");
    agent.signal("TERM");
    // Its worker is in a call that does not return; the agent ends with success all the same.
    assert!(agent.wait().success());
    hung.tell_qemu("CONT");
    let agent = hung.agent();
    let late = get(agent.address(), &runs);
    assert_eq!((&late["state"], &late["error"]["code"]), (&json!("failed"), &json!(-32007)));
    assert_eq!(ended(agent.address(), &waits)["state"], "done");
    agent.end();
}

#[test]
fn random_kills_break_no_start_and_forget_no_job() {
    let directory = Scratch::new();
    let state_dir = directory.path().join("state").display().to_string();
    let flags = ["--libvirt-uri", "test:///default", "--state-dir", &state_dir];
    let mut left: Vec<String> = Vec::new();
    let (mut lost, mut done) = (0, 0);
    for round in 0..KILLS {
        let agent = Agent::start(&flags);
        let address = agent.address();
        for id in left.drain(..) {
            match ended(address, &id)["state"].as_str() {
                Some("done") => done += 1,
                Some("lost") => lost += 1,
                other => panic!("{id}: {other:?}"),
            }
        }
        let taken = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for caller in 0..3 {
                let taken = &taken;
                scope.spawn(move || {
                    for number in 0..20 {
                        let guest = test_guest(&format!("{caller}-{number}"));
                        let params = json!({ "guest": guest, "async": true });
                        let Some(answer) = try_rpc(address, "Libvirt.SetMetadata", &params) else {
                            return;
                        };
                        // Without an id if too many jobs wait.
                        let id = answer["result"]["job"].as_str().map(str::to_owned);
                        taken.lock().expect("no panic").extend(id);
                    }
                });
            }
            thread::sleep(Duration::from_millis(7 * round));
            agent.signal("KILL");
        });
        assert_eq!(agent.wait().code(), None);
        left = taken.into_inner().expect("no panic");
    }
    let agent = Agent::start(&flags);
    for id in &left {
        ended(agent.address(), id);
    }
    println!("of those before the last kill {done} are done and {lost} lost");
    assert!(done > 0);
    let aside = fs::read_dir(directory.path().join("state/set-aside")).expect("a directory");
    assert_eq!(aside.count(), 0);
    agent.end();
}

#[test]
fn a_job_that_waits_for_its_guests_lock_says_so() {
    let agent = InProcess::start(&InProcess::config());
    let lock =
        agent.agent.core.pool().lock_guest("test", Instant::now() + SOON).expect("nobody has it");
    let id = start(agent.address, "Libvirt.SetMetadata", &test_guest("alice"));
    let step = json!({ "steps": 0, "step": "wait for other calls to the guest" });
    wait_until("it waits for the lock", SOON, || get(agent.address, &id)["progress"] == step);
    drop(lock);
    assert_eq!(ended(agent.address, &id)["state"], "done");
    agent.end();
}
