//! Callers that leave, handlers that panic, files that run out.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{bounded, unbounded};
use mistify_libvirt::config::{HttpLimits, SocketConfig};
use mistify_libvirt::http::{Front, Responder};
use rouille::{Request, Response, ResponseBody};

use super::{
    GET, GET_GATE, PATIENCE, SHORT, Service, any_port, echo, gated, patient, serve, wait_until,
};
use crate::harness::support::{Scratch, test_path};

#[test]
fn a_caller_that_leaves_costs_nothing_but_its_answer() {
    let (service, gate) = gated(patient());
    let mut client = service.connect();
    client.send(GET_GATE);
    gate.wait_for_request();
    drop(client);
    gate.open.send(()).unwrap();
    service.wait_for_connections(0);
    assert_eq!(service.status_of(GET), 200);
}

#[test]
fn a_caller_that_ends_its_side_still_gets_its_answer() {
    let (service, gate) = gated(patient());
    let mut client = service.connect();
    client.send(GET_GATE);
    client.stream.shutdown(Shutdown::Write).unwrap();
    gate.wait_for_request();
    gate.open.send(()).unwrap();
    assert_eq!(client.answer().status, 200);
    assert!(client.is_closed());
}

/// Keeps the one handler busy while `leave` sends a request and leaves; returns how many requests the handler got in
/// all.
fn handled_after(leave: impl FnOnce(&Service)) -> (Service, usize) {
    let (service, gate) = gated(HttpLimits { handlers: 1, ..patient() });
    let mut first = service.connect();
    first.send(GET_GATE);
    gate.wait_for_request();
    leave(&service);
    wait_until(|| service.running.counters().requests == 2);
    for _ in 0..2 {
        gate.open.send(()).unwrap();
    }
    assert_eq!(first.answer().status, 200);
    drop(first);
    service.wait_for_connections(0);
    let handled = 1 + gate.entered.try_iter().count();
    (service, handled)
}

#[test]
fn request_of_a_caller_that_has_left_never_runs() {
    let (service, handled) = handled_after(|service| {
        let mut client = service.connect();
        client.send(GET_GATE);
        wait_until(|| service.running.counters().requests == 2);
    });
    assert_eq!((handled, service.running.counters().abandoned), (1, 1));
    assert_eq!(service.status_of(GET), 200);
}

#[test]
fn request_behind_a_half_close_waits_and_runs() {
    let (sender, waits) = bounded(1);
    let (service, handled) = handled_after(|service| {
        let mut client = service.connect();
        client.send(GET_GATE);
        client.stream.shutdown(Shutdown::Write).unwrap();
        sender.send(thread::spawn(move || client.answer().status)).unwrap();
    });
    assert_eq!(waits.recv().unwrap().join().unwrap(), 200);
    assert_eq!((handled, service.running.counters().abandoned), (2, 0));
}

#[test]
fn unix_caller_that_has_left_is_not_served() {
    let directory = Scratch::new();
    let path = directory.path().join("socket");
    let mut front = Front::bind(&[any_port()], HttpLimits { handlers: 1, ..patient() }).unwrap();
    front.bind_unix(&SocketConfig { path: path.clone(), group: None }).unwrap();
    let address = front.local_addresses()[0];
    let ((enter, entered), (open, opened)) = (unbounded(), unbounded::<()>());
    let handler = move |request: &Request, responder: Responder| {
        enter.send(request.raw_url().to_owned()).unwrap();
        opened.recv_timeout(PATIENCE).unwrap();
        responder.send(echo(request));
    };
    let service = Service { running: front.start(Arc::new(handler)).unwrap(), address };
    let mut first = service.connect();
    first.send(GET_GATE);
    assert_eq!(entered.recv_timeout(PATIENCE).unwrap(), "/gate");
    let mut gone = UnixStream::connect(&path).unwrap();
    gone.write_all(b"GET /gone HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    wait_until(|| service.running.counters().requests == 2);
    drop(gone);
    let mut half = UnixStream::connect(&path).unwrap();
    half.write_all(b"GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    for _ in 0..3 {
        open.send(()).unwrap();
    }
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("GET /half "), "{answer}");
    assert_eq!(entered.try_iter().collect::<Vec<_>>(), ["/half"]);
    assert_eq!(service.running.counters().abandoned, 1);
}

#[test]
fn a_connection_that_is_reset_is_forgotten() {
    let service = serve(patient(), echo);
    let mut client = service.connect();
    client.send(GET);
    client.stream.peek(&mut [0]).unwrap();
    // With its answer unread, the close is a reset.
    drop(client);
    service.wait_for_connections(0);
    assert_eq!(service.status_of(GET), 200);
}

#[test]
fn panic_is_answered_with_500_and_the_handler_lives() {
    let limits = HttpLimits { handlers: 1, ..patient() };
    let service = serve(limits, |request| match request.raw_url() {
        "/panic" => panic!("on purpose"),
        "/body" => {
            let reader = std::iter::repeat_with(|| panic!("on purpose")).take(1);
            let data = ResponseBody::from_reader_and_size(PanicReader(Box::new(reader)), 1);
            Response { data, ..Response::text("") }
        }
        _ => echo(request),
    });
    let mut client = service.connect();
    for path in ["/panic", "/body"] {
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!((answer.status, answer.body.as_str()), (500, ""));
        assert_eq!(answer.header("content-type"), None);
    }
    assert_eq!(client.ask(GET).status, 200);
    assert_eq!(service.running.counters().panics, 2);
}

struct PanicReader(Box<dyn Iterator<Item = u8> + Send>);

impl Read for PanicReader {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Ok(usize::from(self.0.next().is_some()))
    }
}

/// Runs itself again in a process that may open few files, so that no other test suffers.
#[test]
fn running_out_of_file_descriptors_is_survived() {
    const INSIDE: &str = "TEST_FEW_FILES";
    if std::env::var_os(INSIDE).is_some() {
        return run_out_of_file_descriptors();
    }
    let status = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 60 && exec \"$0\" --exact \"$1\" --test-threads=1"])
        .arg(std::env::current_exe().unwrap())
        .arg(test_path(module_path!(), "running_out_of_file_descriptors_is_survived"))
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn run_out_of_file_descriptors() {
    let service = serve(patient(), echo);
    let mut first = service.connect();
    // A loaded machine may accept it only now, and with no file left not at all.
    service.wait_for_connections(1);
    let mut others = Vec::new();
    let error = loop {
        match TcpStream::connect(service.address) {
            Ok(stream) => others.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(24), "EMFILE");
    // Free one file for the next connect, which leaves none for its accept.
    others.pop();
    wait_until(|| TcpStream::connect(service.address).is_ok());
    assert_eq!(first.ask(GET).status, 200, "who is in is served");
    drop(others);
    assert_eq!(service.status_of(GET), 200, "and accepting goes on");

    // A stop does not close before it could take in who has connected.
    drop(first);
    service.wait_for_connections(0);
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    files.pop();
    let mut last = service.connect();
    let stopping = thread::spawn(move || service.running.stop(PATIENCE));
    thread::sleep(SHORT);
    assert!(!stopping.is_finished());
    // Sent before the front can accept the connection: it then closes one without a request after 1 s.
    last.send(GET);
    drop(files);
    assert_eq!(last.answer().status, 200);
    drop(last);
    assert!(stopping.join().unwrap());
}
