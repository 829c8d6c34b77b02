//! The agent as a process: the real program on a port of its own, and a plain client.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Scratch, poll, signal, wait_for, wait_until};

/// Longer than a loaded machine needs to start the agent.
const START: Duration = Duration::from_secs(60);
/// Longer than any call of these tests may take.
const ANSWER: Duration = Duration::from_secs(300);
/// The lines of an agent's log that a failed test shows.
const LOG_LINES: usize = 200;

/// The agent's writer threads; each may wait for the next one.
const WRITERS: [&str; 3] = ["audit-names", "audit-writer", "log-writer"];

/// The agent's program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_mistify-libvirt");

/// A running agent; killed on drop.
pub(crate) struct Agent {
    child: Child,
    address: SocketAddr,
    log: Log,
    /// Its state directory, unless a flag names another.
    _state: Scratch,
}

/// The agent's standard error, in a file: a line that the agent's writer has written can be read at once.
/// A pipe would show it only after a reader thread had run.
struct Log(Scratch);

impl Log {
    fn path(&self) -> PathBuf {
        self.0.path().join("log")
    }

    fn read(&self) -> String {
        let bytes = fs::read(self.path()).expect("the log can be read");
        // A line that is being written is not there yet.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

/// Copies the program, by a separate process. If this process wrote the file, a child that another test starts
/// meanwhile could inherit the open file, and a program that is open for writing does not start (ETXTBSY).
pub(crate) fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(PROGRAM).arg(to).status().expect("cp starts");
    assert!(copied.success(), "{}", to.display());
}

impl Agent {
    /// Starts an agent on libvirt's test driver, whose state belongs to the agent's process.
    pub(crate) fn on_test_driver() -> Self {
        Self::start(&["--libvirt-uri", "test:///default"])
    }

    /// Starts an agent with these flags, on a port that the system chooses, with its log at info.
    pub(crate) fn start<S: AsRef<OsStr>>(flags: &[S]) -> Self {
        Self::start_in(None, flags)
    }

    /// Starts an agent with a variable in its environment.
    pub(crate) fn start_in<S: AsRef<OsStr>>(variable: Option<(&str, &str)>, flags: &[S]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.envs(variable);
        Self::run(command, flags)
    }

    /// Starts an agent from a shell, which runs `script` first.
    pub(crate) fn start_after<S: AsRef<OsStr>>(script: &str, flags: &[S]) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!(r#"{script}; exec "$0" "$@""#), PROGRAM]);
        Self::run(shell, flags)
    }

    /// Starts an agent by this command, which passes its arguments on.
    pub(crate) fn run<S: AsRef<OsStr>>(command: Command, flags: &[S]) -> Self {
        Self::try_run(command, flags).unwrap_or_else(|log| panic!("it does not start: {log}"))
    }

    /// Starts an agent by this command; returns the log of an agent that ends before it listens.
    pub(crate) fn try_run<S: AsRef<OsStr>>(
        mut command: Command,
        flags: &[S],
    ) -> Result<Self, String> {
        let (state, log) = (Scratch::new(), Log(Scratch::new()));
        let mut child = command
            .args(["--config", "/dev/null", "--port", "0", "--log-level", "info"])
            .env("STATE_DIRECTORY", state.path())
            .args(flags)
            .stdin(Stdio::null())
            .stderr(File::create(log.path()).expect("the log can be created"))
            .spawn()
            .expect("the agent starts");
        let address = wait_for("the agent listens", START, || {
            if child.try_wait().expect("it is our child").is_some() {
                return Some(None);
            }
            let text = log.read();
            let line = text.lines().find(|line| line.contains("listening on "))?;
            line.split("listening on ").nth(1)?.split(['"', ',']).next()?.parse().ok().map(Some)
        });
        match address {
            Some(address) => Ok(Self { child, address, log, _state: state }),
            None => Err(log.read()),
        }
    }

    /// Returns the listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the pid of the agent.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the log so far, with the lines of all answered calls; for a line that no answer follows, use
    /// [`Self::logged`].
    pub(crate) fn log(&self) -> String {
        self.wait_for_writers();
        self.log.read()
    }

    /// Waits until the agent has written all lines that it has queued for its log and its audit file. Returns at once
    /// if the agent has ended.
    ///
    /// A thread that puts a line into a queue wakes the writer. So a sleeping writer has nothing to write, unless it
    /// waits for another writer that does not sleep. Therefore all must sleep at two checks.
    pub(crate) fn wait_for_writers(&self) {
        let mut seen_asleep = 0;
        let all_sleep = || {
            seen_asleep =
                if WRITERS.iter().all(|name| self.sleeps(name)) { seen_asleep + 1 } else { 0 };
            seen_asleep == 2
        };
        wait_until("its writers sleep", START, all_sleep);
    }

    /// Returns whether the agent's thread of this name sleeps, or does not exist.
    fn sleeps(&self, name: &str) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        // A thread that ends meanwhile does not count.
        let stats = tasks.into_iter().flatten().flatten();
        let mut stats = stats.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        let stat = stats.find(|stat| stat.contains(&format!("({name})")));
        // Stopped threads write nothing either.
        stat.is_none_or(|stat| {
            !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['R', 'D']))
        })
    }

    /// Waits until the agent's log contains `text`, and returns the first line with it.
    pub(crate) fn logged(&self, text: &str) -> String {
        let line = || self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
        poll(START, line).unwrap_or_else(|| panic!("{text:?} is not in the log:\n{}", self.log()))
    }

    /// Sends the agent a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for the end of the agent.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("it is our child")
    }

    /// Ends the agent with SIGTERM, and checks its exit status: under AddressSanitizer a leak is an error. Returns the
    /// whole log.
    pub(crate) fn end(mut self) -> String {
        self.signal("TERM");
        let status = self.child.wait().expect("it is our child");
        let log = self.log();
        assert!(status.success(), "{status}:\n{log}");
        log
    }

    /// Opens a connection to the agent.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Opens a connection, if the agent accepts one.
    pub(crate) fn try_connect(&self) -> Option<TcpStream> {
        TcpStream::connect(self.address).ok()
    }

    /// Calls `Libvirt.<method>` with this guest; returns the whole answer.
    pub(crate) fn call(&self, method: &str, guest: &Value) -> Value {
        self.call_with(method, &json!({ "guest": guest }))
    }

    /// Calls `Libvirt.<method>` with these parameters; returns the whole answer.
    pub(crate) fn call_with(&self, method: &str, params: &Value) -> Value {
        let request = json!({ "method": format!("Libvirt.{method}"), "params": [params], "id": 1 });
        let reply = self.post(request.to_string().as_bytes());
        assert_eq!(reply.status, 200, "{method}: {reply:?}");
        serde_json::from_slice(&reply.body).expect("the answer is JSON")
    }

    /// Calls `Libvirt.<method>` on an agent that may die meanwhile; returns the whole answer, if there is one.
    pub(crate) fn try_call(&self, method: &str, guest: &Value) -> Option<Value> {
        self.try_call_with(method, &json!({ "guest": guest }))
    }

    /// As [`Self::try_call`], with these parameters.
    pub(crate) fn try_call_with(&self, method: &str, params: &Value) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        stream.write_all(call_text(method, params).as_bytes()).ok()?;
        read_result(&mut stream)
    }

    /// Returns the result of a call that must succeed.
    pub(crate) fn ok(&self, method: &str, guest: &Value) -> Value {
        let mut answer = self.call(method, guest);
        assert_eq!(answer["error"], Value::Null, "{method} {guest}");
        answer["result"].take()
    }

    /// Returns the error of a call that must fail.
    pub(crate) fn error(&self, method: &str, guest: &Value) -> String {
        let answer = self.call(method, guest);
        assert_eq!(answer["result"], Value::Null, "{method} {guest}: {answer}");
        answer["error"].as_str().expect("a failed call has an error text").to_owned()
    }

    /// Calls a method of the image store; returns the answer, unless the agent ends before.
    pub(crate) fn try_store(&self, method: &str, request: &Value) -> Option<Value> {
        let call =
            json!({ "method": format!("ImageStore.{method}"), "params": [request], "id": 1 });
        let text = call_text(method, request);
        let head = text.split("Content-Length").next()?;
        let (body, mut stream) = (call.to_string(), connect(self.store_address()));
        let length = body.len();
        let text = format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).ok()?;
        read_result(&mut stream)
    }

    pub(crate) fn store_address(&self) -> SocketAddr {
        let line = self.logged("the image store listens on ");
        let address = line.split("listens on ").nth(1).expect("an address");
        let address = address.split([' ', ',', '"']).next().expect("an address");
        address.parse().expect("an address")
    }

    /// Calls a method of the image store; returns the error, if any.
    pub(crate) fn store_error(&self, method: &str, request: &Value) -> Option<String> {
        let answer = self.try_store(method, request).expect("the agent answers");
        answer["error"].as_str().map(str::to_owned)
    }

    /// Returns the agent's health: the status of the answer, and the JSON.
    pub(crate) fn health(&self) -> (u16, Value) {
        self.get("/healthz")
    }

    /// Returns whether the agent has no open intent.
    pub(crate) fn is_recovered(&self) -> bool {
        self.health().1["journal"]["open"] == json!([])
    }

    /// Returns the status and the JSON of a GET of this path.
    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let reply = self.request("GET", path, &[], b"");
        (reply.status, serde_json::from_slice(&reply.body).expect("JSON"))
    }

    /// Waits until the agent receives libvirt's events, on a connection of its own; returns the number of the event
    /// `connected`.
    pub(crate) fn receives_events(&self) -> u64 {
        wait_for("it hears libvirt", START, || {
            let answer = self.call_with("WaitEvents", &json!({ "after": 0, "timeout": 0 }));
            let events = answer["result"]["events"].as_array().expect("events").clone();
            events.iter().find(|event| event["event"] == "connected")?["seq"].as_u64()
        })
    }

    /// Returns the guest's state by Status.
    pub(crate) fn state(&self, id: &str) -> String {
        let answer = self.ok("Status", &json!({ "id": id }));
        answer["guest"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Posts a body to the RPC path.
    pub(crate) fn post(&self, body: &[u8]) -> Reply {
        self.request("POST", "/_mistify_RPC_", &[("Content-Type", "application/json")], body)
    }

    /// Sends one request on a connection of its own.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.request_at(self.address, method, path, headers, body)
    }

    /// Sends the request to another address of the agent.
    pub(crate) fn request_at(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut stream = connect(address);
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
        for (name, value) in headers {
            bytes += &format!("{name}: {value}\r\n");
        }
        bytes += &format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(&[bytes.as_bytes(), body].concat()).expect("the agent reads");
        Reply::read(&mut stream)
    }
}

/// Returns a complete call of `Libvirt.<method>` with these parameters, for a connection of its own.
pub(crate) fn call_text(method: &str, params: &Value) -> String {
    let call = json!({ "method": format!("Libvirt.{method}"), "params": [params], "id": 1 });
    let body = call.to_string();
    format!(
        "POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Reads the answer to a call, if it is complete at the end of the connection.
pub(crate) fn read_result(stream: &mut impl Read) -> Option<Value> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
    serde_json::from_slice(&answer[body + 4..]).ok()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the agent takes connections");
    stream.set_read_timeout(Some(ANSWER)).expect("a time limit above zero");
    stream
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The agent may have ended already, by its test.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(LOG_LINES)..];
            println!("the end of the agent's log:\n{}", end.join("\n"));
        }
    }
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Reads a connection to its end, as one answer.
    pub(crate) fn read(stream: &mut impl Read) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the agent answers and closes");
        Self::parse(&bytes)
    }

    /// Parses the bytes of one answer.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let (head, body) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 4..]);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':'));
        Self {
            status: status.expect("a status"),
            headers: headers
                .map(|(name, value)| (name.to_lowercase(), value.trim_start().to_owned()))
                .collect(),
            body: body.to_vec(),
        }
    }

    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
