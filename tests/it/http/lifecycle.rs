//! From the bind to the stop.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mistify_libvirt::config::SocketConfig;
use mistify_libvirt::config::fixed::FIRST_REQUEST;
use mistify_libvirt::http::{Front, Responder, Running};
use rouille::{Response, ResponseBody};

use super::{
    GET, GET_GATE, PATIENCE, SHORT, Service, any_port, echo, gated, patient, serve, wait_until,
};

#[test]
fn an_address_in_use_is_named() {
    let first = Front::bind(&[any_port()], patient()).unwrap();
    let address = first.local_addresses()[0];
    let error = Front::bind(&[any_port(), address], patient()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}: address in use"));
}

#[test]
fn every_address_is_served() {
    let front = Front::bind(&[any_port(), any_port()], patient()).unwrap();
    let addresses = front.local_addresses();
    let running = front
        .start(Arc::new(|request: &_, responder: Responder| responder.send(echo(request))))
        .unwrap();
    let mut service = Service { running, address: addresses[0] };
    assert_eq!(service.status_of(GET), 200);
    service.address = addresses[1];
    assert_eq!(service.status_of(GET), 200);
}

#[test]
fn stop_completes_started_requests_and_takes_no_new() {
    let (service, gate) = gated(patient());
    let (address, mut idle) = (service.address, service.connect());
    assert_eq!(idle.ask(GET).status, 200);
    let mut in_flight = service.connect();
    in_flight.send(GET_GATE);
    let mut half_sent = service.connect();
    half_sent.send(&GET[..20]);
    // The second is known to have started once a later request on a later connection is answered.
    gate.wait_for_request();
    assert_eq!(service.status_of(GET), 200);

    let running = service.running;
    let (report, stopped) = bounded(1);
    thread::spawn(move || report.send(running.stop(PATIENCE)));
    assert!(idle.is_closed());
    wait_until(|| TcpStream::connect(address).is_err());
    assert!(stopped.is_empty(), "it waits for the two requests");

    let answer = half_sent.ask(&GET[20..]);
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    gate.open.send(()).unwrap();
    let answer = in_flight.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    drop((half_sent, in_flight));
    assert_eq!(stopped.recv_timeout(PATIENCE), Ok(true));
}

#[test]
fn a_stop_gives_up_at_its_deadline() {
    let (service, gate) = gated(patient());
    let mut client = service.connect();
    client.send(GET_GATE);
    gate.wait_for_request();
    assert!(!service.running.stop(SHORT));
    gate.open.send(()).unwrap();
    assert_eq!(client.answer().status, 200, "the socket lives as long as its handler");
}

/// Calls over a new connection each time, until a connection fails: returns how many calls were answered, and how many
/// cut off. A call that this thread sent later than [`FIRST_REQUEST`] may be cut off, and then does not count.
fn call_until_refused<S: Read + Write>(connect: impl Fn() -> io::Result<S>) -> [u32; 2] {
    let mut calls = [0; 2];
    loop {
        let begin = Instant::now();
        let Ok(mut stream) = connect() else { return calls };
        let mut status = [0; 12];
        let sent = stream.write_all(GET.as_bytes());
        let is_prompt = begin.elapsed() < FIRST_REQUEST;
        let received = sent.and_then(|()| stream.read_exact(&mut status));
        let is_answered = received.is_ok() && &status == b"HTTP/1.1 200";
        if is_answered || is_prompt {
            calls[usize::from(!is_answered)] += 1;
        }
    }
}

/// Stops the service under four who call it all the time.
fn stop_under_load<S: Read + Write>(running: Running, connect: impl Fn() -> io::Result<S> + Sync) {
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| call_until_refused(&connect))).collect();
        wait_until(|| running.counters().requests > 20);
        assert!(running.stop(PATIENCE));
        for caller in callers {
            let [answered, cut] = caller.join().unwrap();
            assert_eq!(cut, 0, "{answered} were answered");
        }
    });
}

#[test]
fn stop_cuts_off_no_connected_caller() {
    crate::harness::cost::slow("stops a front again and again");
    for _ in 0..40 {
        let service = serve(patient(), echo);
        let address = service.address;
        // Who comes too late is not refused before the kernel has tried once more, after a second.
        stop_under_load(service.running, || TcpStream::connect_timeout(&address, SHORT));
    }
}

#[test]
fn stop_serves_callers_connected_to_its_socket() {
    let path = std::env::temp_dir().join(format!("mistify-stop-{}", std::process::id()));
    for _ in 0..40 {
        let mut front = Front::bind(&[], patient()).unwrap();
        front.bind_unix(&SocketConfig { path: path.clone(), group: None }).unwrap();
        let running = front
            .start(Arc::new(|request: &_, responder: Responder| responder.send(echo(request))))
            .unwrap();
        stop_under_load(running, || UnixStream::connect(&path));
    }
}

#[test]
fn stop_waits_1_s_for_first_request_of_connections() {
    // On a loaded machine the caller may send later than that; then the test tries again.
    wait_until(is_answered_within_a_second_of_the_stop);
}

/// Whether a caller sent its request within [`FIRST_REQUEST`] of a stop; if so, it gets its answer.
fn is_answered_within_a_second_of_the_stop() -> bool {
    let service = serve(patient(), echo);
    let (mut caller, mut silent, mut idle) =
        (service.connect(), service.connect(), service.connect());
    assert_eq!(idle.ask(GET).status, 200);
    service.wait_for_connections(3);
    // That second begins with the stop, however long they were silent before.
    thread::sleep(FIRST_REQUEST);
    let begin = Instant::now();
    let stopping = thread::spawn(move || service.running.stop(PATIENCE));
    assert!(idle.is_closed(), "it stops");

    let sent = caller.stream.write_all(GET.as_bytes());
    let is_prompt = begin.elapsed() < FIRST_REQUEST;
    if is_prompt {
        sent.unwrap();
        let answer = caller.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(caller.is_closed());
    }
    assert!(silent.is_closed());
    drop(caller);
    assert!(stopping.join().unwrap());
    assert!(begin.elapsed() < PATIENCE / 2, "who says nothing is not waited for until the end");
    is_prompt
}

/// An empty body whose end waits for a message.
struct LateBody {
    started: Sender<()>,
    open: Receiver<()>,
}

impl Read for LateBody {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.started.send(()).unwrap();
        self.open
            .recv_timeout(PATIENCE)
            .map_or_else(|error| Err(io::Error::other(error)), |()| Ok(0))
    }
}

#[test]
fn stop_closes_connections_promised_another_request() {
    let ((started, is_started), (open, opened)) = (unbounded(), unbounded());
    let service = serve(patient(), move |_| {
        let body = LateBody { started: started.clone(), open: opened.clone() };
        Response { data: ResponseBody::from_reader_and_size(body, 0), ..Response::text("") }
    });
    let mut client = service.connect();
    client.send(GET);
    is_started.recv_timeout(PATIENCE).unwrap();
    let address = service.address;
    let running = service.running;
    let stopping = thread::spawn(move || running.stop(PATIENCE));
    wait_until(|| TcpStream::connect(address).is_err());
    open.send(()).unwrap();
    assert_eq!(client.answer().header("connection"), None, "it was decided before the stop");
    assert!(client.is_closed());
    assert!(stopping.join().unwrap());
}
