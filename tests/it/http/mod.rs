//! The HTTP front on real sockets: what callers see.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod failures;
mod lifecycle;
mod limits;
mod polls;
mod requests;
mod shortcuts;
mod streams;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mistify_libvirt::config::HttpLimits;
use mistify_libvirt::http::{Front, Reason, Responder, Running};
use rouille::{Request, Response};

use crate::harness::support;

/// Long enough for anything that is going to happen, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_millis(100);
/// Longer than a loaded machine keeps a thread from running.
const MOMENT: Duration = Duration::from_secs(3);
const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

struct Service {
    running: Running,
    address: SocketAddr,
}

/// Limits whose times no test reaches on a loaded machine. A test sets those that it is about.
fn patient() -> HttpLimits {
    HttpLimits {
        request: PATIENCE,
        idle: PATIENCE,
        write: PATIENCE,
        stream_progress: PATIENCE,
        ..HttpLimits::default()
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn serve<H>(limits: HttpLimits, handler: H) -> Service
where
    H: Fn(&Request) -> Response + Send + Sync + 'static,
{
    let front = Front::bind(&[any_port()], limits).unwrap();
    let address = front.local_addresses()[0];
    Service {
        running: front
            .start(Arc::new(move |request: &Request, responder: Responder| {
                responder.send(handler(request))
            }))
            .unwrap(),
        address,
    }
}

/// Answers with what it was asked.
fn echo(request: &Request) -> Response {
    let mut body = Vec::new();
    request.data().unwrap().read_to_end(&mut body).unwrap();
    let line = format!("{} {} ", request.method(), request.raw_url());
    Response::text(line + &String::from_utf8(body).unwrap())
}

impl Service {
    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, received: Vec::new() }
    }

    /// Sends the bytes on a connection of their own and returns the status of the answer.
    fn status_of(&self, bytes: impl AsRef<[u8]>) -> u16 {
        let mut client = self.connect();
        client.send(bytes);
        client.answer().status
    }

    fn refused(&self, reason: Reason) -> u64 {
        let counters = self.running.counters();
        counters.refused.iter().find(|(each, _)| *each == reason).unwrap().1
    }

    fn wait_for_connections(&self, count: usize) {
        wait_until(|| self.running.counters().connections == count);
    }
}

#[track_caller]
fn wait_until(condition: impl Fn() -> bool) {
    let place = std::panic::Location::caller();
    support::wait_until(&format!("the condition at {place}"), PATIENCE, condition);
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let name = name.to_lowercase();
        self.head.lines().skip(1).find_map(|line| {
            let (each, value) = line.split_once(": ")?;
            (each.to_lowercase() == name).then_some(value)
        })
    }
}

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes);
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map_or(0, |it| it.parse().unwrap());
        while self.received.len() < length {
            self.receive();
        }
        answer.body = String::from_utf8(self.received.drain(..length).collect()).unwrap();
        answer
    }

    /// The next head alone, as after HEAD.
    fn head(&mut self) -> Answer {
        let end = loop {
            match self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.receive(),
            }
        };
        let head = String::from_utf8(self.received.drain(..end).collect()).unwrap();
        assert!(head.starts_with("HTTP/1."), "{head}");
        let status = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
        Answer { status, head, body: String::new() }
    }

    fn receive(&mut self) {
        let mut bytes = [0; 64 * 1024];
        let count = self.stream.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "closed after {:?}", String::from_utf8_lossy(&self.received));
        self.received.extend_from_slice(&bytes[..count]);
    }

    /// Whether the server ends the connection in good order, with nothing more to say.
    fn is_closed(&mut self) -> bool {
        self.received.is_empty() && self.stream.read(&mut [0]).unwrap() == 0
    }
}

/// A handler that reports when it has a request, and answers on a signal.
struct Gate {
    entered: Receiver<()>,
    open: Sender<()>,
}

fn gated(limits: HttpLimits) -> (Service, Gate) {
    let (enter, entered) = unbounded();
    let (open, opened) = unbounded::<()>();
    let service = serve(limits, move |request| {
        if request.raw_url() == "/gate" {
            enter.send(()).unwrap();
            opened.recv_timeout(PATIENCE).unwrap();
        }
        echo(request)
    });
    (service, Gate { entered, open })
}

const GET_GATE: &str = "GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n";

impl Gate {
    fn wait_for_request(&self) {
        self.entered.recv_timeout(PATIENCE).unwrap();
    }
}
