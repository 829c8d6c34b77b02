//! At and over each limit, in bytes, in number and in time.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use mistify_libvirt::config::HttpLimits;
use mistify_libvirt::http::Reason;
use rouille::{Response, ResponseBody};

use super::{GET, GET_GATE, MOMENT, PATIENCE, SHORT, echo, gated, patient, serve, wait_until};

#[test]
fn body_at_the_limit_is_accepted_but_no_byte_more() {
    let limits = HttpLimits { body_bytes: 200_000, ..patient() };
    let service = serve(limits, echo);
    let post = |length: usize| {
        let body = "b".repeat(length);
        format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let mut client = service.connect();
    assert_eq!(client.ask(post(200_000)).body.len(), "POST / ".len() + 200_000);
    // The refusal comes before the body is read, and reaches a caller that still sends.
    let answer = client.ask(post(200_001));
    assert_eq!((answer.status, answer.body.as_str()), (413, "the request's body is too large"));
    assert!(client.is_closed());
}

#[test]
fn refused_caller_may_finish_sending() {
    let service = serve(HttpLimits { linger: PATIENCE, ..patient() }, echo);
    let mut client = service.connect();
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n";
    assert_eq!(client.ask(head).status, 413);
    assert!(client.is_closed(), "the server has said all");
    // A socket that was closed would answer the first of these with a reset.
    for _ in 0..200 {
        client.send([b'x'; 10_000]);
    }
    assert_eq!(service.running.counters().connections, 1);
    drop(client);
    service.wait_for_connections(0);
}

#[test]
fn refused_caller_is_closed_after_a_time() {
    let service = serve(HttpLimits { linger: SHORT, ..patient() }, echo);
    let mut client = service.connect();
    assert_eq!(client.ask("x\r\n\r\n").status, 400);
    service.wait_for_connections(0);
}

#[test]
fn endless_head_is_refused_and_no_longer_read() {
    let service = serve(HttpLimits { linger_bytes: 300_000, ..patient() }, echo);
    let mut client = service.connect();
    let mut sent = 0;
    let piece = [b'x'; 10_000];
    while client.stream.write_all(&piece).is_ok() {
        sent += piece.len();
        assert!(sent < 100_000_000, "somebody goes on reading");
    }
    wait_until(|| service.refused(Reason::Head) == 1);
    service.wait_for_connections(0);
}

#[test]
fn a_slow_request_is_late_while_others_are_served() {
    // The connection stays open until this thread has read the answer.
    let limits = HttpLimits { request: SHORT, linger: PATIENCE, ..patient() };
    let service = serve(limits, echo);
    let mut slow = service.connect();
    let mut other = service.connect();
    let begin = Instant::now();
    // Byte by byte, so that every byte is progress and only the whole is late.
    let mut head = std::iter::repeat(GET.bytes().next().unwrap());
    while service.refused(Reason::Late) == 0 {
        slow.send([head.next().unwrap()]);
        assert_eq!(other.ask(GET).status, 200);
        assert!(begin.elapsed() < PATIENCE);
    }
    assert!(begin.elapsed() >= SHORT);
    let answer = slow.answer();
    assert_eq!((answer.status, answer.body.as_str()), (408, "the request did not arrive in time"));
    assert!(slow.is_closed());
}

#[test]
fn missing_body_is_late() {
    let service = serve(HttpLimits { request: SHORT, ..patient() }, echo);
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(service.status_of(head), 408);
}

#[test]
fn idle_connection_is_closed_silently() {
    let service = serve(HttpLimits { idle: MOMENT, ..patient() }, echo);
    let mut fresh = service.connect();
    let mut used = service.connect();
    let begin = Instant::now();
    used.ask(GET);
    assert!(fresh.is_closed());
    assert!(used.is_closed());
    assert!(begin.elapsed() >= MOMENT);
    service.wait_for_connections(0);
}

#[test]
fn request_longer_than_the_idle_time_is_answered() {
    let (service, gate) = gated(HttpLimits { idle: MOMENT, ..patient() });
    let mut slow = service.connect();
    slow.send(GET_GATE);
    gate.wait_for_request();
    // A connection that is opened later is closed as idle; so the idle time of `slow` is over, too.
    assert!(service.connect().is_closed());
    gate.open.send(()).unwrap();
    assert_eq!(slow.answer().status, 200);
    assert_eq!(slow.ask(GET).status, 200, "and the idle time begins anew");
}

#[test]
fn connections_over_the_limit_get_an_answer() {
    let limits = HttpLimits { connections: 256, ..patient() };
    let service = serve(limits, echo);
    let mut kept: Vec<_> = (0..256).map(|_| service.connect()).collect();
    for client in &mut kept {
        // None of them is idle, whether the front has read this yet or not.
        client.send(&GET[..20]);
    }
    let mut over: Vec<_> = (0..44).map(|_| service.connect()).collect();
    for client in &mut over {
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
        assert!(client.is_closed());
    }
    assert_eq!(service.refused(Reason::Busy), 44);
    for client in &mut kept {
        assert_eq!(client.ask(&GET[20..]).status, 200);
    }
    drop((kept, over));
    service.wait_for_connections(0);
    assert_eq!(service.status_of(GET), 200, "the places are free again");
}

/// A front where an idle connection gives its place at once.
fn evicting() -> HttpLimits {
    HttpLimits { idle_before_eviction: Duration::ZERO, ..patient() }
}

#[test]
fn recently_used_connection_keeps_its_place() {
    let limits = HttpLimits { connections: 2, idle_before_eviction: PATIENCE, ..patient() };
    let service = serve(limits, echo);
    let (mut used, mut new) = (service.connect(), service.connect());
    assert_eq!(used.ask(GET).status, 200);
    assert_eq!(service.status_of(GET), 503);
    for client in [&mut used, &mut new] {
        assert_eq!(client.ask(GET).status, 200);
    }
}

#[test]
fn new_connection_takes_the_place_of_the_longest_idle() {
    let service = serve(HttpLimits { connections: 3, ..evicting() }, echo);
    let mut clients: Vec<_> = (0..3).map(|_| service.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(GET).status, 200);
        // A handler records the time after it has sent its answer. The pause keeps the order even if a handler has to
        // wait for a processor.
        thread::sleep(Duration::from_millis(200));
    }
    // From now on the second is the longest idle.
    assert_eq!(clients[0].ask(GET).status, 200);
    let mut new = service.connect();
    assert_eq!(new.ask(GET).status, 200);
    assert!(clients.remove(1).is_closed());
    clients.push(new);
    for client in &mut clients {
        assert_eq!(client.ask(GET).status, 200);
    }
    assert_eq!(service.refused(Reason::Busy), 0);
    service.wait_for_connections(3);
}

#[test]
fn full_front_closes_an_idle_connection_of_the_caller() {
    let service = serve(HttpLimits { connections: 3, ..evicting() }, echo);
    let mut clients: Vec<_> = (0..3).map(|_| service.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(GET).status, 200);
    }
    assert_eq!(service.status_of(GET), 200);
    assert!(clients[0].is_closed());
    assert_eq!(clients[1].ask(GET).status, 200);
}

#[test]
fn busy_connections_keep_their_places() {
    let (service, gate) = gated(HttpLimits { connections: 2, ..evicting() });
    let (mut answering, mut sending) = (service.connect(), service.connect());
    answering.send(GET_GATE);
    gate.wait_for_request();
    sending.send(&GET[..20]);
    assert_eq!(service.status_of(GET), 503);
    assert_eq!(service.refused(Reason::Busy), 1);
    gate.open.send(()).unwrap();
    assert_eq!(answering.answer().status, 200);
    assert_eq!(sending.ask(&GET[20..]).status, 200);
    // The front learns from a handler that a connection is idle, which may be after its answer arrived.
    wait_until(|| service.status_of(GET) == 200);
}

#[test]
fn a_slow_reader_of_a_large_answer_holds_no_handler() {
    let limits = HttpLimits { handlers: 1, ..patient() };
    // Far more than sockets buffer.
    let large = 12 * 1024 * 1024;
    let service = serve(limits, move |request| match request.raw_url() {
        "/large" => Response::from_data("a/b", vec![b'x'; large]),
        _ => Response::text("small"),
    });
    let mut slow = service.connect();
    // The next request lies behind it, and is answered after it.
    slow.send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    slow.send(GET);
    wait_until(|| service.running.counters().requests == 1);
    assert_eq!(service.connect().ask(GET).body, "small");
    let answer = slow.answer();
    assert_eq!(answer.body.len(), large);
    assert_eq!(slow.answer().body, "small");
}

#[test]
fn a_caller_that_does_not_read_is_cut_off() {
    let limits = HttpLimits { write: SHORT, ..patient() };
    let service = serve(limits, |_| Response::from_data("a/b", vec![b'x'; 12 * 1024 * 1024]));
    let mut client = service.connect();
    client.send(GET);
    wait_until(|| service.running.counters().requests == 1);
    service.wait_for_connections(0);
}

/// A front whose connections together may hold so many bytes, of which an answer has 1,000 from the
/// start.
fn holding(bytes: usize) -> HttpLimits {
    let (held_bytes, held_per_caller_bytes) = (bytes, bytes);
    HttpLimits { held_bytes, held_per_caller_bytes, answer_bytes: 1_000, ..patient() }
}

fn post(target: &str, length: usize) -> String {
    let head = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}");
    format!("{head}\r\n\r\n{}", "b".repeat(length))
}

const NO_ROOM: (u16, &str) = (503, "busy: too many bytes of requests and answers");

#[test]
fn requests_over_the_byte_budget_are_busy() {
    let (service, gate) = gated(holding(300_000));
    let mut first = service.connect();
    // Four times its body, and 1,000.
    first.send(post("/gate", 50_000));
    gate.wait_for_request();
    let ask = |bytes: String| {
        let answer = service.connect().ask(bytes);
        (answer.status, answer.body.len())
    };
    let busy = (NO_ROOM.0, NO_ROOM.1.len());
    assert_eq!(ask(post("/", 60_000)), busy, "room for the body, and none for its handler");
    let part = "b".repeat(159_999);
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 160000\r\n\r\n";
    let answer = service.connect().ask(format!("{head}{part}"));
    assert_eq!((answer.status, answer.body.as_str()), NO_ROOM, "before all of the body arrived");
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(service.status_of(format!("{head}27100\r\n{part}")), 503, "nor all of a chunk");
    assert_eq!(service.refused(Reason::Busy), 3);
    assert_eq!(ask(post("/", 20_000)), (200, "POST / ".len() + 20_000), "there is room for this");
    gate.open.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
    // All is free again: the largest request that there is room for gets in, time and again.
    for _ in 0..3 {
        // The last answer's bytes are free an instant after its caller has it.
        wait_until(|| ask(post("/", 74_000)).0 == 200);
        assert_eq!(ask(post("/", 75_000)), busy);
    }
}

#[test]
fn announced_bodies_take_no_room() {
    let service = serve(holding(300_000), |_| Response::text("well"));
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n";
    let mut waiting: Vec<_> = (0..20).map(|_| service.connect()).collect();
    for client in &mut waiting {
        client.send(head);
    }
    service.wait_for_connections(20);
    assert_eq!(service.status_of(post("/", 70_000)), 200);
}

#[test]
fn body_elements_use_quota_before_they_are_parsed() {
    let service = serve(holding(300_000), |_| Response::text("well"));
    let body = |text: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
    };
    assert_eq!(service.status_of(body(&"{},".repeat(1_000))), 200, "256,000 and 10,000 bytes");
    assert_eq!(service.status_of(body(&"{},".repeat(1_200))), 503, "307,200 and 11,800 bytes");
}

#[test]
fn unsent_answers_count_in_the_byte_budget() {
    // Twice an answer, as it is made and as it is sent, and a little.
    let large = 12 * 1024 * 1024;
    let service = serve(holding(2 * large + 100_000), move |request| match request.raw_url() {
        "/large" => Response::from_data("a/b", vec![b'x'; large]),
        _ => Response::text("small"),
    });
    let ask = "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut slow = service.connect();
    slow.send(ask);
    slow.receive();
    wait_until(|| service.status_of(ask) == 503);
    assert_eq!(service.connect().ask(GET).body, "small", "there is room for this");
    assert_eq!(slow.answer().body.len(), large);
    assert_eq!(slow.ask(ask).body.len(), large, "and again for that");
    slow.send(ask);
    slow.receive();
    drop(slow);
    service.wait_for_connections(0);
    assert_eq!(service.status_of(ask), 200, "what was never read is free as well");
}

#[test]
fn one_request_and_answer_of_the_largest_size_fit() {
    let limits = patient();
    let (body, large) = (limits.body_bytes, limits.response_bytes);
    let service = serve(limits, move |_| Response::from_data("a/b", vec![b'x'; large]));
    assert_eq!(service.connect().ask(post("/", body)).body.len(), large);
}

#[test]
fn an_answer_over_its_limit_is_500() {
    let limits = HttpLimits { response_bytes: 1_000, ..patient() };
    let service = serve(limits, |_| Response {
        data: ResponseBody::from_reader_and_size(std::io::repeat(b'x'), 1_000),
        ..Response::text("")
    });
    assert_eq!(service.status_of(GET), 500);
}

#[test]
fn more_requests_than_handlers_wait_for_one() {
    let (service, gate) = gated(HttpLimits { handlers: 2, ..patient() });
    let mut clients: Vec<_> = (0..20).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send(GET_GATE);
    }
    wait_until(|| service.running.counters().requests == 20);
    for _ in 0..2 {
        gate.wait_for_request();
    }
    assert!(gate.entered.is_empty(), "two are at work, and no more");
    for _ in &clients {
        gate.open.send(()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
}
