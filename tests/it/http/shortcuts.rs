//! Requests that the front begins itself, and requests that are answered later, by any thread.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, bounded, unbounded};
use mistify_libvirt::config::HttpLimits;
use mistify_libvirt::http::{Front, Responder};
use mistify_libvirt::rpc::Inbound;
use rouille::Response;

use super::{GET, PATIENCE, Service, any_port, patient, wait_until};

/// A service whose front begins what begins with `/short`, and hands the responders of these out here. It panics at
/// `/short/panic`. `/short/block` goes on by a handler, as does a request that is not short. A handler has `/wait` until
/// `/short/go-on` has come.
fn serve(limits: HttpLimits) -> (Service, Receiver<Responder>) {
    let mut front = Front::bind(&[any_port()], limits).unwrap();
    let address = front.local_addresses()[0];
    let (responders, taken) = unbounded();
    let (go_on, may_go_on) = unbounded();
    front.begin_short(Arc::new(|request| request.target.starts_with("/short")));
    let handler = move |request: &rouille::Request, responder: Responder| {
        let target = request.raw_url().to_owned();
        assert_ne!(target, "/short/panic", "on purpose");
        if target == "/short/go-on" {
            go_on.send(()).unwrap();
        }
        if target.starts_with("/short") && target != "/short/block" {
            return responders.send(responder).unwrap();
        }
        let may_go_on = may_go_on.clone();
        responder.on_handler(move |responder| {
            if target == "/wait" {
                may_go_on.recv_timeout(PATIENCE).unwrap();
            }
            let thread = thread::current().name().unwrap_or_default().to_owned();
            let is_handler =
                thread.strip_prefix("http-").is_some_and(|it| it.parse::<u8>().is_ok());
            assert!(is_handler, "{thread}");
            responder.send(Response::text(format!("handler {target}")));
        });
    };
    let running = front.start(Arc::new(handler)).unwrap();
    (Service { running, address }, taken)
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn next(taken: &Receiver<Responder>) -> Responder {
    taken.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn shortcut_answers_any_thread_and_handler_the_rest() {
    let (service, taken) = serve(patient());
    let mut client = service.connect();
    for _ in 0..3 {
        client.send(get("/short"));
        thread::scope(|scope| scope.spawn(|| next(&taken).send(Response::text("later"))).join())
            .unwrap();
        let answer = client.answer();
        assert_eq!((answer.status, answer.body.as_str()), (200, "later"));
        assert_eq!(client.ask(get("/long")).body, "handler /long");
        assert_eq!(client.ask(get("/short/block")).body, "handler /short/block");
    }
    assert_eq!(service.running.counters().requests, 9, "each is counted once");
}

#[test]
fn shortcut_answers_while_every_handler_is_busy() {
    let (service, taken) = serve(HttpLimits { handlers: 1, ..patient() });
    let mut waits = service.connect();
    waits.send(get("/wait"));
    wait_until(|| service.running.counters().requests == 1);
    let mut client = service.connect();
    client.send(get("/short"));
    next(&taken).send(Response::text("now"));
    assert_eq!(client.answer().body, "now");
    // The only handler has been at work until now.
    client.send(get("/short/go-on"));
    next(&taken).send(Response::text("gone on"));
    assert_eq!(client.answer().body, "gone on");
    assert_eq!(waits.answer().body, "handler /wait");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (service, taken) = serve(patient());
    let mut client = service.connect();
    client.send([get("/short/1"), get("/2"), get("/short/3")].concat());
    let first = next(&taken);
    assert!(taken.is_empty(), "one request of a connection at a time");
    first.send(Response::text("1"));
    assert_eq!(client.answer().body, "1");
    assert_eq!(client.answer().body, "handler /2");
    next(&taken).send(Response::text("3"));
    assert_eq!(client.answer().body, "3");
}

#[test]
fn front_sends_the_rest_of_a_partial_write() {
    let (service, taken) = serve(patient());
    let mut client = service.connect();
    client.send(get("/short"));
    let long = "x".repeat(HttpLimits::default().response_bytes);
    next(&taken).send(Response::text(long.clone()));
    assert!(client.answer().body == long);
    assert_eq!(client.ask(GET).status, 200);
}

#[test]
fn unsent_reply_is_an_empty_500() {
    let (service, taken) = serve(patient());
    let mut client = service.connect();
    client.send(get("/short"));
    drop(next(&taken));
    let answer = client.answer();
    assert_eq!((answer.status, answer.body.as_str()), (500, ""));
    assert_eq!(client.ask(GET).status, 200, "the connection goes on");
    assert_eq!(service.running.counters().panics, 0);
}

#[test]
fn a_panic_on_the_fronts_thread_is_500() {
    let (service, _taken) = serve(patient());
    let mut client = service.connect();
    assert_eq!(client.ask(get("/short/panic")).status, 500);
    assert_eq!(client.ask(get("/short/block")).body, "handler /short/block");
    assert_eq!(service.running.counters().panics, 1);
}

#[test]
fn an_answer_that_cannot_be_sent_is_500() {
    let (service, taken) = serve(patient());
    let mut client = service.connect();
    client.send(get("/short"));
    next(&taken).send(Response::text("").with_status_code(99));
    assert_eq!(client.answer().status, 500);
}

#[test]
fn disconnected_caller_costs_nothing() {
    let (service, taken) = serve(patient());
    let mut client = service.connect();
    client.send(get("/short"));
    let reply = next(&taken);
    drop(client);
    reply.send(Response::text("x".repeat(1 << 20)));
    service.wait_for_connections(0);
    assert_eq!(service.status_of(GET), 200);
}

#[test]
fn a_stop_waits_for_a_reply_and_closes_after_it() {
    let (service, taken) = serve(patient());
    let mut client = service.connect();
    client.send(get("/short"));
    let reply = next(&taken);
    let (address, running) = (service.address, service.running);
    let (report, stopped) = bounded(1);
    thread::spawn(move || report.send(running.stop(PATIENCE)));
    wait_until(|| std::net::TcpStream::connect(address).is_err());
    assert!(stopped.is_empty());
    reply.send(Response::text("last"));
    let answer = client.answer();
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("last", Some("close")));
    drop(client);
    assert_eq!(stopped.recv_timeout(PATIENCE), Ok(true));
}
