//! The audit as an operator has it: the log and the file of a running agent.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mistify_libvirt::config::fixed::LOG_INTERVAL;
use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM, Reply};
use crate::harness::skip::{Skip, require};
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::support::{Scratch, signal, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// Methods of both services that change nothing.
const READS: [&str; 12] = [
    "Libvirt.Status",
    "Libvirt.CPUMetrics",
    "Libvirt.DiskMetrics",
    "Libvirt.NicMetrics",
    "Libvirt.AllMetrics",
    "ImageStore.VerifyDisks",
    "ImageStore.GetVolume",
    "ImageStore.ListVolumes",
    "ImageStore.GetSnapshot",
    "ImageStore.ListSnapshots",
    "ImageStore.ListImages",
    "ImageStore.GetImage",
];
const CHANGES: [&str; 20] = [
    "Libvirt.CreateGuest",
    "Libvirt.Create",
    "Libvirt.Delete",
    "Libvirt.Restart",
    "Libvirt.Reboot",
    "Libvirt.Poweroff",
    "Libvirt.Shutdown",
    "Libvirt.Run",
    "Libvirt.ResizeDisk",
    "ImageStore.CreateGuestDisks",
    "ImageStore.DeleteGuestsDisks",
    "ImageStore.DeleteGuestDisks",
    "ImageStore.CreateVolume",
    "ImageStore.DeleteDataset",
    "ImageStore.CreateSnapshot",
    "ImageStore.DeleteSnapshot",
    "ImageStore.RollbackSnapshot",
    "ImageStore.CloneImage",
    "ImageStore.DeleteImage",
    "ImageStore.RequestImage",
];

/// An agent on the test driver with an audit log and a Unix socket.
struct Bed {
    agent: Agent,
    directory: Scratch,
}

impl Bed {
    fn new(flags: &[&str]) -> Self {
        let directory = Scratch::new();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let (log, socket, store) =
            (at("audit"), at("socket"), format!("directory:{}", at("store")));
        let mut all = vec!["--libvirt-uri", "test:///default", "--storage", &store];
        all.extend(["--audit-log", &log, "--socket", &socket]);
        all.extend(flags);
        Self { agent: Agent::start(&all), directory }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("audit")
    }

    fn lines(&self) -> Vec<Value> {
        lines(&self.agent, &self.log())
    }
}

/// The lines of an agent's audit file, each JSON, once the agent has written those of answered calls.
fn lines(agent: &Agent, path: &Path) -> Vec<Value> {
    agent.wait_for_writers();
    let text = fs::read_to_string(path).expect("the file is there");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn on_socket(path: &Path, body: &str) -> Reply {
    let mut stream = UnixStream::connect(path).expect("it listens");
    let head =
        "POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let length = body.len();
    let request = format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).expect("it reads");
    Reply::read(&mut stream)
}

#[test]
fn exactly_the_changing_methods_are_audited() {
    let bed = Bed::new(&["--image-store", "--image-store-port", "0"]);
    let listens = "image store listens on ";
    let line = bed.agent.logged(listens);
    let images = line.split(listens).nth(1).expect("see above").parse().expect("an address");
    for method in READS.iter().chain(&CHANGES) {
        let address = if method.starts_with("Libvirt.") { bed.agent.address() } else { images };
        let params = json!([{ "guest": { "id": "absent" }, "id": "absent", "dest": "x" }]);
        let body = json!({ "method": method, "params": params, "id": 1 }).to_string();
        let json = [("Content-Type", "application/json")];
        let path = "/_mistify_RPC_";
        let reply = bed.agent.request_at(address, "POST", path, &json, body.as_bytes());
        assert_eq!(reply.status, 200, "{method}: {reply:?}");
    }
    let written = bed.lines();
    let methods: Vec<_> = written.iter().map(|line| line["method"].as_str()).collect();
    let changes: Vec<_> = CHANGES.into_iter().map(Some).collect();
    assert_eq!(methods, changes);
    // So that a method that is added later is in one of the two lists.
    let counts = bed.agent.request("GET", "/metrics", &[], b"").text();
    let counted = counts.lines().filter(|line| line.starts_with("mistify_requests_total{"));
    let counted: BTreeSet<_> = counted.filter_map(|line| line.split('"').nth(1)).collect();
    assert_eq!(counted, READS.into_iter().chain(CHANGES).collect());
    for line in &written {
        let names = ["guest", "image", "dataset"];
        let named = names.iter().filter(|name| line[**name] == "absent").count();
        assert_eq!(named, 1, "{line}");
        assert!(["ok", "error"].iter().any(|outcome| line["outcome"] == *outcome), "{line}");
    }
    let log = bed.agent.log();
    let shown = log.lines().find(|line| line.contains("Libvirt.Reboot ")).expect("a line");
    assert!(
        shown.contains(r#"INFO "#) && shown.contains(r#" guest="absent" address="127.0.0.1:"#),
        "{shown}"
    );
    assert!(shown.contains(" uid=") && shown.contains(" ms="), "{shown}");
}

#[test]
fn socket_caller_is_recorded_with_its_process() {
    let bed = Bed::new(&[]);
    let guest = r#"{"id":"audited","type":"test","memory":32,"cpu":1}"#;
    let body =
        format!(r#"{{"method":"Libvirt.CreateGuest","params":[{{"guest":{guest}}}],"id":1}}"#);
    let reply = on_socket(&bed.directory.path().join("socket"), &body);
    assert!(reply.text().contains(r#""error":null"#), "{reply:?}");
    let lines = bed.lines();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&line["address"], &line["guest"]), (&json!("unix"), &json!("audited")));
    assert_eq!((&line["outcome"], &line["pid"]), (&json!("ok"), &json!(std::process::id())));
    let whoami = Command::new("id").arg("-un").output().expect("it starts");
    assert_eq!(line["user"], String::from_utf8_lossy(&whoami.stdout).trim());
    let mode = fs::metadata(bed.log()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn malformed_change_is_audited_as_refused() {
    let bed = Bed::new(&[]);
    for (body, is_audited) in [
        (r#"{"method":"Libvirt.Run","params":[{"guest":{"id":7}}],"id":1}"#, true),
        (r#"{"method":"Libvirt.Run","id":1}"#, true),
        (r#"{"method":"Libvirt.Status","params":[{"guest":7}],"id":1}"#, false),
        (r#"{"method":"Libvirt.Fly","params":[],"id":1}"#, false),
        ("{", false),
    ] {
        let before = bed.lines().len();
        assert_eq!(bed.agent.post(body.as_bytes()).status, 400, "{body}");
        let lines = bed.lines();
        assert_eq!(lines.len() - before, usize::from(is_audited), "{body}");
        if let (true, Some(line)) = (is_audited, lines.last()) {
            assert_eq!(
                (&line["method"], &line["outcome"]),
                (&json!("Libvirt.Run"), &json!("refused"))
            );
        }
    }
    // A notification has no answer, and is carried out all the same.
    let body = br#"{"method":"Libvirt.Poweroff","params":[{"guest":{"id":"test"}}]}"#;
    assert_eq!(bed.agent.post(body).status, 200);
    assert_eq!(bed.lines().last().expect("a line")["outcome"], "ok");
}

#[test]
fn signal_reopens_the_file_or_ends_an_agent_without() {
    let bed = Bed::new(&[]);
    bed.agent.error("Run", &json!({ "id": "before" }));
    let old = bed.directory.path().join("audit.1");
    for round in 0..3 {
        fs::rename(bed.log(), &old).expect("the directory is ours");
        bed.agent.error("Run", &json!({ "id": "between" }));
        assert_eq!(lines(&bed.agent, &old).len(), 2, "in the file that it has open");
        bed.agent.signal("HUP");
        wait_until("it opens the file anew", SOON, || bed.log().exists());
        let opened = || bed.agent.log().matches("reopened audit log ").count() == round + 1;
        wait_until("it says so", SOON, opened);
        bed.agent.error("Run", &json!({ "id": "after" }));
        let written = bed.lines();
        assert_eq!((written.len(), &written[0]["guest"]), (1, &json!("after")));
    }
    bed.agent.end();

    // Of a terminal that is gone, or under nohup, it is ignored from the start.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", PROGRAM]);
    let agent = Agent::run(command, &["--libvirt-uri", "test:///default"]);
    agent.signal("HUP");
    assert_eq!(agent.wait().signal(), Some(1));
}

#[test]
fn failed_reopen_is_reported_and_old_file_stays_used() {
    let bed = Bed::new(&[]);
    let old = bed.directory.path().join("audit.1");
    fs::rename(bed.log(), &old).expect("the directory is ours");
    fs::create_dir(bed.log()).expect("the directory is ours");
    bed.agent.signal("HUP");
    let said = || {
        bed.agent.log().contains(" ERROR ") && bed.agent.log().contains(" cannot reopen audit log ")
    };
    wait_until("it says so", SOON, said);
    bed.agent.error("Run", &json!({ "id": "still" }));
    assert_eq!(lines(&bed.agent, &old).len(), 1);
}

#[test]
fn impossible_audit_log_is_one_line_with_status_1() {
    let scratch = Scratch::new();
    for path in ["/dev/null", "/absent/audit", scratch.path().to_str().expect("UTF-8")] {
        let mut command = Command::new(PROGRAM);
        command.env("STATE_DIRECTORY", scratch.path()).stdin(Stdio::null());
        let output = command.args(["--port", "0", "--audit-log", path]).output();
        let output = output.expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
        let begin = format!("mistify-libvirt: cannot open --audit-log {path}: ");
        assert!(error.starts_with(&begin), "{error}");
    }
}

#[test]
fn a_full_disk_costs_lines_and_no_calls() {
    let scratch = Scratch::new();
    let directory = scratch.path().join("small");
    fs::create_dir(&directory).expect("scratch is writable");
    let place = directory.display();
    let mount = format!("mount -t tmpfs -o size=64k tmpfs {place}");
    let tried = Command::new("unshare").args(["-m", "/bin/sh", "-c", &mount]).output();
    let tried = match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Skip(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) => Err(Skip(format!("unshare does not start: {error}"))),
    };
    let Some(()) = require("mount", tried) else { return };
    let script = format!("{mount} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", &script, "sh", PROGRAM]);
    let log = directory.join("audit").display().to_string();
    let agent = Agent::run(command, &["--libvirt-uri", "test:///default", "--audit-log", &log]);
    let inside = PathBuf::from(format!("/proc/{}/root{log}", agent.pid()));

    // All of the room but some lines.
    let filler = inside.with_file_name("filler");
    let mut file = fs::File::create(&filler).expect("there is room");
    while file.write_all(&[0; 4096]).is_ok() {}
    file.set_len(48 << 10).expect("it is ours");
    drop(file);
    let written = || fs::metadata(&inside).expect("it is there").len();
    let full = || agent.log().contains("cannot write audit log");
    let (mut calls, began) = (0, Instant::now());
    while !full() && calls < 2000 {
        agent.error("Run", &json!({ "id": "absent" }));
        calls += 1;
    }
    assert!(full(), "{} bytes after {calls} calls", written());
    for _ in 0..20 {
        agent.ok("Poweroff", &json!({ "id": "test" }));
    }
    // The agent logs this once in an interval; on a loaded machine the calls may take longer than one.
    let whiles = began.elapsed().as_secs() / LOG_INTERVAL.as_secs();
    let lines = agent.log().matches("cannot write audit log").count();
    assert!((1..=1 + usize::try_from(whiles).expect("few")).contains(&lines), "{}", agent.log());
    fs::remove_file(&filler).expect("it is ours");
    agent.ok("Poweroff", &json!({ "id": "test" }));
    agent.wait_for_writers();
    let metrics = agent.request("GET", "/metrics", &[], b"").text();
    let lost =
        metrics.lines().find_map(|line| line.strip_prefix("mistify_audit_lines_dropped_total "));
    assert!(lost.and_then(|lost| lost.parse::<u32>().ok()) >= Some(20), "{lost:?}");
    let text = fs::read_to_string(&inside).expect("it is there");
    let broken = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).count();
    assert!(broken <= 1, "at most the line that it became full in: {broken}");
    let last = text.lines().last().expect("lines");
    let last: Value = serde_json::from_str(last).expect("whole again");
    assert_eq!((&last["method"], &last["outcome"]), (&json!("Libvirt.Poweroff"), &json!("ok")));
}

#[test]
fn change_past_its_deadline_is_audited_as_late() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "hanging", &disk);
    let directory = Scratch::new();
    let log = directory.path().join("audit");
    let uri = stack.uri();
    let flags = ["--libvirt-uri", &uri, "--audit-log", log.to_str().expect("UTF-8")];
    let agent = Agent::start(&flags);
    let pid = stack.qemu_pid("hanging").expect("it runs");
    signal(pid, "STOP");
    // Longer than a loaded machine needs to begin the change: one that was not started is not late.
    let params = json!({ "guest": { "id": "hanging" }, "args": { "mistify.timeout": "5" } });
    let answer = agent.call_with("Shutdown", &params);
    assert!(answer["error"].as_str().is_some_and(|it| it.starts_with("deadline: ")), "{answer}");
    signal(pid, "CONT");
    let lines = lines(&agent, &log);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(line["outcome"], "late", "{line}");
    let why = line["error"].as_str().expect("a text");
    assert!(why.starts_with("deadline: Shutdown hanging did not end within 5 s"), "{line}");
    assert!(line["ms"].as_f64().is_some_and(|ms| ms >= 5000.0), "{line}");
}
