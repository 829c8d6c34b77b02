//! Servers as processes: the agent and the constant ones.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::process;
use crate::common::sample::Sample;
use crate::constant::Constant;
use crate::load::{self, Connection};
use crate::support::{Scratch, wait_for};

/// The agent's program, built as it is released.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_mistify-libvirt");
/// Longer than a loaded machine needs to start a server.
const START: Duration = Duration::from_secs(20);
/// Between two attempts to connect to an agent that starts.
const RETRY: Duration = Duration::from_micros(100);

/// A server that runs; killed on drop.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Requests that it has answered.
    served: AtomicUsize,
    /// The agent's folder for its state.
    _state: Option<Scratch>,
}

impl Server {
    /// An agent for this libvirt with every flag at its default but the port. Its log is that of a
    /// host in service: warnings.
    pub(crate) fn agent(libvirt_uri: &str) -> Self {
        let server = Self::spawn_agent(libvirt_uri);
        wait_for("the agent listens", START, || Connection::open(server.address));
        server
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
        Self::new(child, line.trim().parse().expect("an address"), None)
    }

    /// How long an agent takes from its exec to its first answer to Status.
    pub(crate) fn time_to_first_answer(libvirt_uri: &str) -> Duration {
        let begin = Instant::now();
        let server = Self::spawn_agent(libvirt_uri);
        let mut connection = loop {
            match Connection::open(server.address) {
                Some(connection) => break connection,
                None => thread::sleep(RETRY),
            }
        };
        connection.ask();
        begin.elapsed()
    }

    fn spawn_agent(libvirt_uri: &str) -> Self {
        let address = process::free_address();
        let state = Scratch::new();
        let child = Command::new(AGENT)
            .env("STATE_DIRECTORY", state.path())
            .args(["--port", &address.port().to_string(), "--libvirt-uri", libvirt_uri])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .spawn()
            .expect("the agent starts");
        Self::new(child, address, Some(state))
    }

    fn new(child: Child, address: SocketAddr, state: Option<Scratch>) -> Self {
        Self { child, address, served: AtomicUsize::new(0), _state: state }
    }

    /// One round of load on it.
    pub(crate) fn round(&self, connections: usize, length: Duration) -> Sample {
        let before = process::cpu(self.child.id());
        let mut sample = load::run(self.address, connections, length);
        sample.cpu = process::cpu(self.child.id()) - before;
        self.served.fetch_add(sample.answered, Ordering::Relaxed);
        sample
    }

    /// Requests that it has answered in all rounds.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// What it has in memory.
    pub(crate) fn memory(&self) -> Memory {
        let status = self.proc_file("status");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.expect("status counts memory in kB")
        };
        Memory { resident_kib: kib("VmRSS:"), anonymous_kib: kib("RssAnon:") }
    }

    fn proc_file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).expect("it runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process's memory, in KiB.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// All pages, those of libraries that other processes have mapped too included.
    pub(crate) resident_kib: u64,
    /// Stacks and heap.
    pub(crate) anonymous_kib: u64,
}
