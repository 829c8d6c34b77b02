//! A standard error that takes nothing: a pipe that nobody reads, a journal that hangs.

use std::env;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use mistify_libvirt::cli::{self, Log, Request};

use crate::harness::agent::{PROGRAM, Reply};
use crate::harness::support::{Scratch, signal, test_path, wait_for, wait_until};

/// Shorter than an agent waits for what runs at a stop, and longer than a loaded machine needs.
const SOON: Duration = Duration::from_secs(60);
const DROPPED: &str = "mistify_log_lines_dropped_total ";

/// A stream for a program's standard error that is full, and its other end.
fn full() -> (UnixStream, UnixStream) {
    let (mut ours, reader) = UnixStream::pair().expect("a pair of sockets");
    ours.set_nonblocking(true).expect("it is ours");
    loop {
        match ours.write(&[b'\n'; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    ours.set_nonblocking(false).expect("it is ours");
    (ours, reader)
}

/// An agent with such a standard error; killed on drop.
struct Blocked {
    child: Child,
    socket: PathBuf,
    _state: Scratch,
}

impl Blocked {
    fn start(stderr: UnixStream) -> Self {
        let state = Scratch::new();
        let socket = state.path().join("socket");
        let mut command = Command::new(PROGRAM);
        command.args(["--config", "/dev/null", "--port", "0", "--log-level", "debug"]);
        command.args(["--libvirt-uri", "test:///default", "--socket"]).arg(&socket);
        command.arg("--audit-log").arg(state.path().join("audit"));
        command.env("STATE_DIRECTORY", state.path()).stdin(Stdio::null());
        let child = command.stderr(OwnedFd::from(stderr)).spawn().expect("the agent starts");
        let this = Self { child, socket, _state: state };
        wait_until("it listens", SOON, || UnixStream::connect(&this.socket).is_ok());
        this
    }

    /// Sends one request, whose answer has to come in time.
    fn ask(&self, line: &str, headers: &str, body: &str) -> Reply {
        let mut stream = UnixStream::connect(&self.socket).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("more than no time");
        let length = body.len();
        let fixed = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let head = format!("{line} HTTP/1.1\r\n{fixed}Content-Length: {length}\r\n{headers}\r\n");
        stream.write_all((head + body).as_bytes()).expect("it reads");
        Reply::read(&mut stream)
    }

    fn call(&self, method: &str, id: &str, headers: &str) -> String {
        let guest = format!(r#"{{"id":"{id}","type":"test","memory":32,"cpu":1}}"#);
        let body = format!(r#"{{"method":"{method}","params":[{{"guest":{guest}}}],"id":1}}"#);
        self.ask("POST /_mistify_RPC_", headers, &body).text()
    }

    /// Log lines that it has dropped.
    fn dropped(&self) -> u64 {
        let text = self.ask("GET /metrics", "", "").text();
        let value = text.lines().find_map(|line| line.strip_prefix(DROPPED)).expect("the counter");
        value.parse().expect("a number")
    }

    /// Makes it log until lines are dropped.
    fn fill_queue(&self) {
        // A header that a line of the log repeats.
        let headers = format!("User-Agent: {}\r\n", "x".repeat(12 * 1024));
        wait_until("lines are dropped", SOON, || {
            self.call("Libvirt.Status", "test", &headers);
            self.dropped() > 0
        });
    }

    /// Works as with any other standard error.
    fn serves(&self) {
        assert_eq!(self.ask("GET /healthz", "", "").status, 200);
        for method in ["Libvirt.CreateGuest", "Libvirt.Run", "Libvirt.Status", "Libvirt.Delete"] {
            let answer = self.call(method, "blocked", "");
            assert!(answer.contains(r#""error":null"#), "{method}: {answer}");
        }
    }

    fn stop(&mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        wait_for("it ends", SOON, || self.child.try_wait().expect("it is our child"))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // It may have ended already, which was then the test's business.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_full_stderr_blocks_no_call_and_no_stop() {
    let (stderr, _reader) = full();
    let mut agent = Blocked::start(stderr);
    agent.serves();
    agent.fill_queue();
    agent.serves();
    assert!(agent.stop().success());
}

#[test]
fn dropped_log_lines_are_reported_later() {
    let (stderr, mut reader) = full();
    let mut agent = Blocked::start(stderr);
    agent.fill_queue();
    let reading = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    assert!(agent.stop().success());
    let text = reading.join().expect("it reads").expect("the log is text");
    let reports = text.lines().filter(|line| line.contains("WARN "));
    let reports = reports.filter_map(|line| line.split("log queue was full dropped_lines=").nth(1));
    let reported: u64 = reports.map(|lines| lines.parse::<u64>().expect("a number")).sum();
    assert!(reported > 0, "{}", text.lines().next_back().unwrap_or_default());
    assert!(
        text.contains("Terminate: finishing requests in flight"),
        "it is written up to the end"
    );
}

#[test]
fn a_closed_stderr_costs_log_lines_alone() {
    let (stderr, reader) = full();
    drop(reader);
    let mut agent = Blocked::start(stderr);
    agent.serves();
    wait_until("lost lines are counted", SOON, || agent.dropped() > 0);
    assert!(agent.stop().success());
}

#[test]
fn a_failed_start_ends_also_when_stderr_is_full() {
    let (stderr, _reader) = full();
    let state = Scratch::new();
    let mut command = Command::new(PROGRAM);
    command.args(["--config", "/dev/null", "--port", "0", "--audit-log", "/dev/null"]);
    command.env("STATE_DIRECTORY", state.path()).stdin(Stdio::null());
    let mut child = command.stderr(OwnedFd::from(stderr)).spawn().expect("the agent starts");
    let ended = wait_for("it ends", SOON, || child.try_wait().expect("it is our child"));
    assert_eq!(ended.code(), Some(1));
}

/// Starts the log of an agent in this process, for a test that runs itself as another program.
pub(crate) fn start_log() -> Log {
    let words = ["--log-level", "info"].map(Into::into);
    match cli::parse(words, |_| None, "/absent/settings") {
        Ok(Request::Do(_, settings)) => Log::start(&settings).expect("a thread"),
        other => panic!("{other:?}"),
    }
}

/// Set where this program is the one of the test below.
const PANICS: &str = "MISTIFY_TEST_PANICS";

#[test]
fn a_panic_is_one_line_of_the_log() {
    if env::var_os(PANICS).is_some() {
        let _log = start_log();
        let thread = thread::Builder::new().name("doomed".to_owned());
        let ended = thread.spawn(|| panic!("two\nlines")).expect("a thread").join();
        assert!(ended.is_err());
        return;
    }
    let mut command = Command::new(env::current_exe().expect("it runs"));
    let test = test_path(module_path!(), "a_panic_is_one_line_of_the_log");
    command.args(["--exact", &test]);
    command.env(PANICS, "1").env_remove("RUST_BACKTRACE");
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.contains("thread panicked")).expect("a line");
    assert!(line.contains(" ERROR ") && line.contains(r#"thread="doomed""#), "{line}");
    assert!(line.contains("blocked_log.rs:") && line.contains(r#"message="two\nlines""#), "{line}");
}
