//! The load: Status over kept-alive connections, a thread each, the next request after the answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::sample::Sample;

/// The guest that is asked for: the one that libvirt's test driver has.
pub(crate) const GUEST: &str = "test";
/// What every contender answers.
pub(crate) const ANSWER: &str =
    "{\"result\":{\"guest\":{\"id\":\"test\",\"state\":\"running\"}},\"error\":null,\"id\":1}\n";
const QUESTION: &str = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}"#;

/// Unmeasured requests of each connection: they open what is opened when first needed.
const WARM_UP: usize = 20;
/// Longer than any answer may take.
const LATE: Duration = Duration::from_secs(10);

/// Asks for the guest's state for so long; the CPU time is left to the caller.
///
/// Each connection has its first answers before the next is opened: of connections that come at
/// once rouille's own server may leave all but the first four unserved until those are closed.
pub(crate) fn run(address: SocketAddr, connections: usize, length: Duration) -> Sample {
    let open = |_| {
        let mut connection = Connection::open(address).expect("the server takes connections");
        for _ in 0..WARM_UP {
            connection.ask();
        }
        connection
    };
    let open: Vec<_> = (0..connections).map(open).collect();
    let barrier = Barrier::new(connections + 1);
    let barrier = &barrier;
    thread::scope(|scope| {
        let call = |mut connection: Connection| {
            scope.spawn(move || {
                barrier.wait();
                connection.ask_for(length)
            })
        };
        let callers: Vec<_> = open.into_iter().map(call).collect();
        barrier.wait();
        let begin = Instant::now();
        let latencies: Vec<Vec<Duration>> =
            callers.into_iter().map(|caller| caller.join().expect("a whole load")).collect();
        let elapsed = begin.elapsed();
        let latencies = latencies.concat();
        let answered = latencies.len() + connections * WARM_UP;
        Sample { latencies, elapsed, cpu: Duration::ZERO, answered }
    })
}

/// A kept-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects; `None` where nobody listens (yet).
    pub(crate) fn open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).expect("TCP has this option");
        stream.set_read_timeout(Some(LATE)).expect("a time above zero");
        // The orchestrator's Go client writes these headers.
        let request = format!(
            "POST /_mistify_RPC_ HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Go-http-client/1.1\r\n\
             Content-Length: {}\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n\
             {QUESTION}",
            QUESTION.len()
        );
        Some(Self { stream, request: request.into_bytes(), buffer: vec![0; 4096] })
    }

    /// One request, in one write, and its answer, which must be [`ANSWER`].
    pub(crate) fn ask(&mut self) {
        self.stream.write_all(&self.request).expect("the server reads");
        let mut filled = 0;
        loop {
            let count = self.stream.read(&mut self.buffer[filled..]).expect("an answer in time");
            assert_ne!(count, 0, "the server ends the connection");
            filled += count;
            let answer = &self.buffer[..filled];
            let Some(body) = body(answer) else { continue };
            if body.len() < ANSWER.len() {
                continue;
            }
            let text = String::from_utf8_lossy(answer);
            assert!(answer.starts_with(b"HTTP/1.1 200 ") && body == ANSWER.as_bytes(), "{text}");
            return;
        }
    }

    fn ask_for(&mut self, length: Duration) -> Vec<Duration> {
        let (begin, mut latencies) = (Instant::now(), Vec::new());
        let mut asked = begin;
        while asked.duration_since(begin) < length {
            self.ask();
            let answered = Instant::now();
            latencies.push(answered.duration_since(asked));
            asked = answered;
        }
        latencies
    }
}

/// What follows the head. Every contender names the length of the same body, so it is not read.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(&answer[end + 4..])
}
