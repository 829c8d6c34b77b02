//! Answers whose length is not known.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mistify_libvirt::config::HttpLimits;
use mistify_libvirt::http::Reason;
use rouille::{Response, ResponseBody};

use super::{Client, GET, PATIENCE, SHORT, Service, patient, serve, wait_until};

fn stream(body: impl Read + Send + 'static) -> Response {
    Response { data: ResponseBody::from_reader(body), ..Response::text("") }
}

/// Returns everything up to the end of the connection.
fn rest(client: &mut Client) -> String {
    let mut bytes = std::mem::take(&mut client.received);
    client.stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A body that is read as the test sends its pieces.
struct Fed(Receiver<&'static str>);

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.recv_timeout(PATIENCE).map_err(io::Error::other)? {
            "fail" => Err(io::Error::other("the disk is gone")),
            "panic" => panic!("the reader is broken"),
            piece => {
                buffer[..piece.len()].copy_from_slice(piece.as_bytes());
                Ok(piece.len())
            }
        }
    }
}

fn fed(limits: HttpLimits) -> (Service, Sender<&'static str>) {
    let (feed, fed) = unbounded();
    let service = serve(limits, move |request| match request.raw_url() {
        "/plain" => Response::text("plain"),
        _ => stream(Fed(fed.clone())),
    });
    (service, feed)
}

const GET_PLAIN: &str = "GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn stream_is_sent_in_chunks_and_ends_its_connection() {
    let (service, feed) = fed(patient());
    let mut client = service.connect();
    client.send(GET);
    let head = client.head();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!((head.header("content-length"), head.header("connection")), (None, Some("close")));
    for piece in ["hello", "streamed world"] {
        feed.send(piece).unwrap();
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        while client.received.len() < chunk.len() {
            client.receive();
        }
        assert_eq!(client.received.drain(..).collect::<Vec<_>>(), chunk.as_bytes());
    }
    feed.send("").unwrap();
    assert_eq!(rest(&mut client), "0\r\n\r\n");
}

#[test]
fn a_long_stream_arrives_whole() {
    crate::harness::cost::slow("streams 40 MiB");
    const BYTES: u64 = 40 * 1024 * 1024;
    let limits = HttpLimits { response_bytes: 1_000, ..patient() };
    let service = serve(limits, |_| stream(io::repeat(b'x').take(BYTES)));
    let mut client = service.connect();
    client.send(GET);
    client.head();
    let body = rest(&mut client);
    assert!(body.ends_with("\r\n0\r\n\r\n"));
    let count = body.bytes().filter(|byte| *byte == b'x').count();
    assert_eq!(u64::try_from(count), Ok(BYTES));
}

#[test]
fn a_stream_that_breaks_off_has_no_last_chunk() {
    for end in ["fail", "panic"] {
        let (service, feed) = fed(patient());
        let mut client = service.connect();
        client.send(GET);
        feed.send("begun").unwrap();
        feed.send(end).unwrap();
        client.head();
        assert_eq!(rest(&mut client), "5\r\nbegun\r\n", "{end}");
        service.wait_for_connections(0);
    }
}

#[test]
fn streams_cost_no_handler_and_are_bounded() {
    let limits = HttpLimits { handlers: 1, streams: 2, ..patient() };
    let (service, feed) = fed(limits);
    let mut clients = [service.connect(), service.connect()];
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.head().status, 200);
    }
    assert_eq!(service.connect().ask(GET_PLAIN).body, "plain");
    let mut third = service.connect();
    let refusal = third.ask(GET);
    assert_eq!((refusal.status, refusal.body.as_str()), (503, "busy: too many streams"));
    assert!(third.is_closed());
    assert_eq!(service.refused(Reason::Busy), 1);

    feed.send("").unwrap();
    wait_until(|| {
        let mut client = service.connect();
        client.send(GET);
        client.head().status == 200
    });
}

#[test]
fn http_1_0_caller_is_refused_a_stream() {
    let (service, _feed) = fed(patient());
    let answer = service.connect().ask("GET / HTTP/1.0\r\n\r\n");
    assert!(answer.head.starts_with("HTTP/1.0 505 "), "{}", answer.head);
    assert_eq!(answer.body, "a streamed answer needs HTTP/1.1");
}

#[test]
fn a_caller_that_takes_nothing_of_a_stream_is_cut_off() {
    let limits = HttpLimits { stream_progress: SHORT, ..patient() };
    let service = serve(limits, |_| stream(io::repeat(b'x')));
    let mut client = service.connect();
    client.send(GET);
    wait_until(|| service.running.counters().requests == 1);
    service.wait_for_connections(0);
}

#[test]
fn a_caller_that_leaves_ends_its_stream() {
    let service = serve(patient(), |_| stream(io::repeat(b'x')));
    let mut client = service.connect();
    client.send(GET);
    client.head();
    drop(client);
    service.wait_for_connections(0);
}

#[test]
fn a_stop_waits_for_the_end_of_a_stream() {
    let (service, feed) = fed(patient());
    let mut client = service.connect();
    client.send(GET);
    client.head();
    let address = service.address;
    let running = service.running;
    let stopping = thread::spawn(move || running.stop(PATIENCE));
    wait_until(|| std::net::TcpStream::connect(address).is_err());
    feed.send("last").unwrap();
    feed.send("").unwrap();
    assert_eq!(rest(&mut client), "4\r\nlast\r\n0\r\n\r\n");
    assert!(stopping.join().unwrap());
}

#[test]
fn a_stop_waits_for_no_listener_that_reads_nothing() {
    // Longer than the stop waits.
    let limits = HttpLimits { stream_progress: 3 * PATIENCE, ..patient() };
    let reads = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&reads);
    let service = serve(limits, move |_| {
        let body = Counted(io::repeat(b'x'), Arc::clone(&counted));
        Response {
            headers: vec![("Content-Type".into(), "text/event-stream".into())],
            ..stream(body)
        }
    });
    let mut client = service.connect();
    client.send(GET);
    client.head();
    // More than the sockets hold is never read: from then on the stream waits for the listener.
    let before = Cell::new(0);
    wait_until(|| {
        let now = reads.load(Ordering::SeqCst);
        now > 0 && before.replace(now) == now
    });
    assert!(service.running.stop(PATIENCE), "all is served before the time is over");
}

/// Counts its reads.
struct Counted(io::Repeat, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.read(buffer)
    }
}
