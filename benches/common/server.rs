//! Servers as processes: the agent, Debian's exporter and the constant ones.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::constant::Constant;
use super::http::{self, Answer, Connection};
use super::process;
use crate::skip::Skip;
use crate::stack::{Stack, child_of};
use crate::support::{Scratch, wait_for, wait_until};

/// The agent's program, built as it is released.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_mistify-libvirt");
/// Debian's exporter: unpacked by `tests/install-deps.sh bench`, or installed.
const EXPORTERS: [&str; 2] = [
    concat!(env!("CARGO_TARGET_TMPDIR"), "/exporter/usr/bin/prometheus-libvirt-exporter"),
    "/usr/bin/prometheus-libvirt-exporter",
];
/// Longer than a loaded machine needs to start a server.
const START: Duration = Duration::from_secs(60);
/// Between two attempts to connect to a server that starts.
const RETRY: Duration = Duration::from_micros(100);

/// A running server; killed on drop.
pub(crate) struct Server {
    child: Child,
    /// The process of the server; in a stack, the child of `child`.
    pid: u32,
    address: SocketAddr,
    /// The agent's directory for its state and its disks.
    _state: Option<Scratch>,
}

impl Server {
    /// An agent on this host, with these flags, and with disks in a directory unless a flag names the pool. Its
    /// log is that of a host in service: warnings.
    pub(crate) fn agent(flags: &[&str]) -> Self {
        let server = Self::spawn_agent(flags);
        wait_for("the agent listens", START, || Connection::open(server.address));
        server
    }

    /// An agent in the stack's namespaces of processes and files, and in the host's network.
    pub(crate) fn agent_inside(stack: &Stack, flags: &[&str]) -> Self {
        let (command, address, state) = agent(stack.command_outside_network(AGENT), flags);
        Self::inside(command, address, Some(state))
    }

    /// Debian's exporter, in the same namespaces.
    ///
    /// # Errors
    /// If the exporter is missing.
    pub(crate) fn exporter(stack: &Stack) -> Result<Self, Skip> {
        let program = EXPORTERS.into_iter().find(|path| Path::new(path).exists());
        let why = "no prometheus-libvirt-exporter: tests/install-deps.sh bench";
        let program = program.ok_or_else(|| Skip(why.to_owned()))?;
        let address = process::free_address();
        let mut command = stack.command_outside_network(program);
        command.args(["--libvirt.uri", "qemu:///system"]);
        command.args(["--web.listen-address", &address.to_string()]);
        Ok(Self::inside(command, address, None))
    }

    /// The original agent, if `BENCH_ORIGINAL` is the path of its program.
    pub(crate) fn original() -> Option<Self> {
        let program = env::var_os("BENCH_ORIGINAL")?;
        let address = process::free_address();
        let mut command = Command::new(program);
        command.args(["-p", &address.port().to_string()]).stdin(Stdio::null());
        let child = command.spawn().expect("the program of BENCH_ORIGINAL starts");
        let server = Self { pid: child.id(), child, address, _state: None };
        wait_for("the original listens", START, || Connection::open(server.address));
        Some(server)
    }

    /// A constant-answer server.
    pub(crate) fn constant(kind: Constant) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program has a path"))
            .arg(kind.argument())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("standard output was piped");
        BufReader::new(output).read_line(&mut line).expect("it prints its address");
        let (pid, address) = (child.id(), line.trim().parse().expect("an address"));
        Self { child, pid, address, _state: None }
    }

    /// Returns the time from an agent's exec to the expected answer (`is_it`) to a request.
    pub(crate) fn time_to_answer(
        flags: &[&str],
        request: impl FnOnce(SocketAddr) -> Vec<u8>,
        is_it: impl Fn(&Answer<'_>) -> bool,
    ) -> Duration {
        let begin = Instant::now();
        let server = Self::spawn_agent(flags);
        let request = request(server.address);
        let mut connection = loop {
            match Connection::open(server.address) {
                Some(connection) => break connection,
                None => thread::sleep(RETRY),
            }
        };
        while !is_it(&connection.exchange(&request).expect("an answer")) {
            thread::sleep(RETRY);
        }
        begin.elapsed()
    }

    fn spawn_agent(flags: &[&str]) -> Self {
        let (mut command, address, state) = agent(Command::new(AGENT), flags);
        let child = command.spawn().expect("the agent starts");
        Self { pid: child.id(), child, address, _state: Some(state) }
    }

    fn inside(mut command: Command, address: SocketAddr, state: Option<Scratch>) -> Self {
        let child = command.stdin(Stdio::null()).spawn().expect("nsenter starts");
        let server = Self { pid: child_of(child.id()), child, address, _state: state };
        let request = super::scrape::request(address);
        wait_until("it answers", START, || {
            Connection::open(address).is_some_and(|mut it| it.exchange(&request).is_some())
        });
        server
    }

    /// Returns the listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls a method of the agent for a guest, which must succeed; returns the result.
    pub(crate) fn ask(&self, method: &str, guest: &Value) -> Value {
        let mut connection = Connection::open(self.address).expect("it listens");
        let request = http::call(self.address, method, &json!({ "guest": guest }));
        let answer = connection.exchange(&request).expect("an answer");
        let mut body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(answer.status == 200 && body["error"].is_null(), "{method}: {}", answer.text());
        body["result"].take()
    }

    /// Returns the server's CPU time since its start.
    pub(crate) fn cpu(&self) -> Duration {
        process::cpu(self.pid)
    }

    /// Returns the server's memory.
    pub(crate) fn memory(&self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.expect("status counts memory in kB")
        };
        Memory { resident_kib: kib("VmRSS:"), anonymous_kib: kib("RssAnon:") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of nsenter does not end the server. The server may have ended by itself.
        let kill = format!("kill -s KILL {} 2>/dev/null", self.pid);
        let _ = Command::new("/bin/sh").args(["-c", &kill]).status();
        let _ = self.child.wait();
    }
}

/// Returns the command of an agent, its listening address, and its state directory.
fn agent(mut command: Command, flags: &[&str]) -> (Command, SocketAddr, Scratch) {
    let (state, address) = (Scratch::new(), process::free_address());
    command.args(["--config", "/dev/null", "--port", &address.port().to_string()]);
    if !flags.contains(&"--zpool") {
        let store = format!("directory:{}", state.path().join("store").display());
        command.args(["--storage", &store]);
    }
    command.args(flags).stdin(Stdio::null());
    command.env("STATE_DIRECTORY", state.path()).env_remove("RUST_LOG");
    (command, address, state)
}

/// A process's memory, in KiB.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// All pages, including those of libraries that other processes share.
    pub(crate) resident_kib: u64,
    /// Stacks and heap.
    pub(crate) anonymous_kib: u64,
}

/// Converts KiB to MiB, to a hundredth.
pub(crate) fn mib(size_kib: u64) -> f64 {
    f64::from(u32::try_from(size_kib * 100 / 1024).expect("less than 40 TiB")) / 100.0
}
