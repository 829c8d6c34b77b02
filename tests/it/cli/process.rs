//! The program as an operator meets it: words, exit status, signals, its log.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::harness::agent::{Agent, Reply};
use crate::harness::skip::{Skip, require};
use crate::harness::support::{Scratch, signal, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn run(words: &[&str]) -> Output {
    let state = Scratch::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mistify-libvirt"));
    command.env("STATE_DIRECTORY", state.path());
    command.args(words).stdin(Stdio::null()).output().expect("the agent starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_and_version_print_to_stdout_with_status_0() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Usage: mistify-libvirt "), "{help:?}");
    assert_eq!((run(&["-h"]).stdout, help.stderr), (help.stdout, Vec::new()));
    let version = run(&["--version"]);
    let expected = concat!("mistify-libvirt ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((version.status.code(), text(&version.stdout).as_str()), (Some(0), expected));
}

#[test]
fn unknown_argument_prints_usage_with_status_2() {
    for words in [&["--nope"][..], &["word"], &["-p"], &["--port", "1", "stray"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output.stderr).contains("Usage: mistify-libvirt "), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn failed_start_is_reported_in_the_log_format() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    for (words, why) in [
        (["--port", &port], format!("cannot listen on 127.0.0.1:{port}: ")),
        (["--port", "65536"], "--port 65536: ".to_owned()),
    ] {
        let output = run(&[&words[..], &["--log-format", "json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let lines = text(&output.stderr);
        let last = lines.lines().last().expect("it says why");
        let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(last["level"], "fatal", "{last}");
        assert!(last["msg"].as_str().is_some_and(|said| said.starts_with(&why)), "{last}");
    }
}

#[test]
fn a_missing_store_is_a_warning_where_one_is_wanted() {
    let warns = |words: &[&str]| {
        let agent = Agent::start(&[&["--libvirt-uri", "test:///default"], words].concat());
        agent.logged("storage is unavailable: zfs is not installed");
        let log = agent.log();
        agent.end();
        log.lines().any(|line| line.contains(" WARN ") && line.contains("zfs is not installed"))
    };
    let has_zfs = fs::exists("/usr/sbin/zfs").expect("it can be asked");
    let absent = if has_zfs { Err(Skip("zfs is installed".to_owned())) } else { Ok(()) };
    let Some(()) = require("no-zfs", absent) else { return };
    assert!(!warns(&[]));
    assert!(warns(&["--zpool", "tank/sub"]));
}

#[test]
fn without_a_store_guests_without_disks_are_served() {
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--zpool", ""]);
    agent.ok("CreateGuest", &json!({ "id": "bare", "memory": 64, "cpu": 1 }));
    let disks = json!({ "id": "wants", "memory": 64, "cpu": 1, "disks": [{ "size": 8 }] });
    let error = agent.error("CreateGuest", &disks);
    assert!(error.contains("cannot use storage: --zpool is empty"), "{error}");
    agent.ok("Run", &json!({ "id": "test" }));
    agent.ok("Delete", &json!({ "id": "bare" }));
    assert!(!agent.log().contains("zfs"), "{}", agent.log());
    agent.end();
}

#[test]
fn invalid_configuration_is_one_line_with_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let cases: [(&[&str], &str); 7] = [
        (&["--config", "/nonexistent/file"], "/nonexistent/file: "),
        (&["--check-config", "--queue", "0"], "--queue 0: "),
        (&["--port", &port], &port),
        (&["--port", "65536"], "--port 65536"),
        (&["--listen", "256.0.0.1"], "--listen 256.0.0.1"),
        (&["--listen", "192.0.2.1"], "192.0.2.1"),
        (&["--log-level", "loud"], "--log-level loud"),
    ];
    for (words, names) in cases {
        let output = run(words);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{words:?}: {error}");
        assert!(error.starts_with("mistify-libvirt: ") && error.contains(names), "{error}");
    }
}

#[test]
fn valid_options_are_checked_silently_with_status_0() {
    let output = run(&["--check-config", "--config", "/dev/null"]);
    assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), vec![], vec![]));
}

#[test]
fn the_manual_page_has_a_valid_configuration() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/mistify-libvirt.conf.5");
    let page = fs::read_to_string(page).expect("the page");
    let (_, examples) = page.split_once(".SH EXAMPLES").expect("examples");
    let settings = examples.lines().filter(|line| line.contains(" = "));
    let settings: Vec<String> = settings.map(|line| line.replace('\\', "")).collect();
    assert!(settings.len() >= 3, "{settings:?}");
    let directory = Scratch::new();
    let file = directory.path().join("conf");
    for (ending, status) in [("", 0), ("storag = x", 1)] {
        fs::write(&file, format!("{}\n{ending}\n", settings.join("\n"))).expect("it is ours");
        let output = run(&["--check-config", "--config", file.to_str().expect("UTF-8")]);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
    }
}

#[test]
fn it_listens_on_every_address_that_is_named() {
    let mut flags = vec!["--libvirt-uri", "test:///default"];
    flags.extend(["--listen", "127.0.0.2:0", "--listen", "[::1]:0"]);
    let agent = Agent::start(&flags);
    assert!(agent.address().to_string().starts_with("127.0.0.2:"));
    wait_until("both are logged", SOON, || agent.log().matches("listening on ").count() == 2);
    assert!(agent.log().contains("listening on [::1]:"), "{}", agent.log());
    assert_eq!(agent.state("test"), "running");
}

#[test]
fn signal_completes_running_calls_and_exits_with_0() {
    for name in ["TERM", "INT"] {
        let agent = Agent::on_test_driver();
        agent.state("test");
        // A request whose body is still on its way, and an idle connection.
        let mut busy = agent.connect();
        let body = br#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}"#;
        let head = format!(
            "POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        busy.write_all(head.as_bytes()).expect("it reads");
        let mut go_on = [0; 25];
        busy.read_exact(&mut go_on).expect("it asks for the body");
        assert_eq!(text(&go_on), "HTTP/1.1 100 Continue\r\n\r\n");
        busy.write_all(body).expect("it reads");
        let mut idle = agent.connect();

        agent.signal(name);

        let mut bytes = Vec::new();
        busy.read_to_end(&mut bytes).expect("it answers");
        assert_eq!(Reply::parse(&bytes).status, 200);
        assert_eq!(idle.read(&mut [0]).expect("closed, not cut"), 0);
        assert_eq!(agent.wait().code(), Some(0), "SIG{name}");
    }
}

#[test]
fn second_signal_does_not_wait_for_running_calls() {
    let agent = Agent::on_test_driver();
    let mut half = agent.connect();
    half.write_all(b"POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\n").expect("it reads");
    agent.signal("INT");
    agent.logged("finishing requests in flight");
    agent.signal("INT");
    assert_eq!(agent.wait().signal(), Some(2));
}

#[test]
fn it_starts_without_libvirtd_and_says_so() {
    let scratch = Scratch::new();
    let uri = format!("qemu:///system?socket={}/absent", scratch.path().display());
    let agent = Agent::start(&["--libvirt-uri", &uri]);
    let error = agent.error("Status", &json!({ "id": "web-1" }));
    assert!(error.starts_with("[Code-38] [Domain-7] Failed to connect socket to "), "{error}");
    let (status, health) = agent.health();
    assert_eq!((status, &health["libvirt"]["answers"]), (503, &json!(false)));
}

#[test]
fn every_call_logs_time_guest_method_and_duration() {
    let agent = Agent::on_test_driver();
    agent.state("test");
    agent.error("Poweroff", &json!({ "id": "two\nlines" }));
    wait_until("both are logged", SOON, || agent.log().matches(" Libvirt.").count() == 2);
    let log = agent.log();
    for (line, parts) in log.lines().filter(|line| line.contains(" Libvirt.")).zip([
        ["Libvirt.Status", "guest=\"test\"", " outcome=\"ok\""],
        ["Libvirt.Poweroff", "guest=\"two\\nlines\"", " error="],
    ]) {
        let (time, rest) = line.split_once(' ').expect("a time and the rest");
        assert!(time.ends_with('Z') && time.contains('T') && time.len() == 24, "{line}");
        assert!(rest.starts_with("INFO ") && rest.contains(" ms="), "{line}");
        assert!(parts.iter().all(|part| rest.contains(part)), "{line}");
    }
}

/// What an agent with these words and this `RUST_LOG` has logged by the end of one call.
fn logged(words: &[&str], rust_log: Option<&str>) -> String {
    let state = Scratch::new();
    // At a level that does not log its port. A port chosen beforehand could be another process's by now.
    let socket = state.path().join("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mistify-libvirt"));
    command.env("STATE_DIRECTORY", state.path());
    command.args(["--libvirt-uri", "test:///default", "--port", "0", "--socket"]).arg(&socket);
    // On a host without zfs, the agent would report that.
    command.args(["--storage", &format!("directory:{}", state.path().join("store").display())]);
    command.args(words).env_remove("RUST_LOG").stderr(Stdio::piped());
    command.envs(rust_log.map(|level| ("RUST_LOG", level)));
    let child = command.spawn().expect("the agent starts");
    let mut caller = wait_for("it listens", SOON, || UnixStream::connect(&socket).ok());
    let body = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}"#;
    let head =
        "POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let request =
        format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    caller.write_all(request.as_bytes()).expect("it reads");
    assert_eq!(Reply::read(&mut caller).status, 200);
    signal(child.id(), "TERM");
    text(&child.wait_with_output().expect("it ends").stderr)
}

#[test]
fn the_level_is_warning_then_rust_log_then_the_flag() {
    let start = logged(&[], None);
    let is_start = start.contains("mistify-libvirt started") && start.lines().count() == 1;
    assert!(is_start && !start.contains("Libvirt.Status"), "{start}");
    assert_eq!(logged(&[], Some("error")), "");
    assert!(logged(&[], Some("info")).contains("Libvirt.Status"));
    assert!(logged(&["-l", "info"], Some("error")).contains("Libvirt.Status"));
    assert_eq!(logged(&["-l", "critical"], Some("info")), "");
}

#[test]
fn libvirt_prints_nothing_to_standard_error() {
    let agent = Agent::on_test_driver();
    for _ in 0..3 {
        agent.error("Status", &json!({ "id": "nope" }));
    }
    wait_until("they are logged", SOON, || agent.log().matches(" Libvirt.").count() == 3);
    for line in agent.log().lines() {
        assert!(line.as_bytes().get(23) == Some(&b'Z'), "not a line of ours: {line}");
    }
}

#[test]
fn libvirts_log_does_not_reach_standard_error() {
    // What wants libvirt's log, and does not say where.
    let filters = Some(("LIBVIRT_LOG_FILTERS", "1:*"));
    let agent = Agent::start_in(filters, &["--libvirt-uri", "test:///default"]);
    assert_eq!(agent.state("test"), "running");
    let log = agent.end();
    // libvirt prints some lines before it reads where they go.
    let call = log.lines().find(|line| line.contains("virDomainLookupByName:"));
    assert_eq!(call, None);
}
