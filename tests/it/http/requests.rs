//! Requests and their answers on connections where all goes well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mistify_libvirt::config::HttpLimits;
use mistify_libvirt::http::Reason;
use rouille::Response;

use super::{GET, echo, patient, serve};

#[test]
fn keep_alive_connection_answers_successive_requests() {
    let service = serve(patient(), echo);
    let mut client = service.connect();
    for index in 0..3 {
        let answer = client.ask(format!("GET /{index} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!((answer.status, &answer.body), (200, &format!("GET /{index} ")));
        assert_eq!(answer.header("connection"), None);
        assert!(answer.header("date").unwrap().ends_with(" GMT"));
    }
    assert_eq!(service.running.counters().requests, 3);
    assert_eq!(service.running.counters().connections, 1);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let service = serve(patient(), echo);
    let mut client = service.connect();
    let request =
        |index| format!("POST /{index} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab");
    client.send((0..100).map(request).collect::<String>());
    for index in 0..100 {
        assert_eq!(client.answer().body, format!("POST /{index} ab"));
    }
}

#[test]
fn connection_closes_when_request_or_version_asks() {
    let service = serve(patient(), echo);
    let closing = [
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ];
    for request in closing {
        let mut client = service.connect();
        let answer = client.ask(request);
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.is_closed());
    }
    let mut client = service.connect();
    for _ in 0..2 {
        let answer = client.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let service = serve(patient(), |_| Response::text("hello"));
    let mut client = service.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.head().header("content-length"), Some("5"));
    assert_eq!(client.ask(GET).body, "hello", "nothing lies between the two answers");
}

#[test]
fn chunked_bodies_arrive_whole() {
    let service = serve(patient(), echo);
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: t\r\n\r\n";
    let mut client = service.connect();
    assert_eq!(client.ask(format!("{head}{body}")).body, "POST / abcde");
    // Byte by byte, on the same connection.
    for byte in head.bytes().chain(body.bytes()) {
        client.send([byte]);
    }
    assert_eq!(client.answer().body, "POST / abcde");
}

#[test]
fn a_caller_that_waits_for_it_is_told_to_continue() {
    let service = serve(patient(), echo);
    let mut client = service.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.head().head, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.ask("ab").body, "POST / ab");
    let other = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: x\r\n\r\n";
    assert_eq!(client.ask(other).status, 417);
}

#[test]
fn refusals_are_sentences_and_end_the_connection() {
    let service = serve(patient(), echo);
    let mut client = service.connect();
    // The second request must not be taken for one: nobody knows where the first ends.
    let answer = client
        .ask(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +3\r\n\r\n{GET}"));
    assert_eq!((answer.status, answer.body.as_str()), (400, "malformed Content-Length"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed());
    assert_eq!(service.refused(Reason::Malformed), 1);
    assert_eq!(service.running.counters().requests, 0);
}

#[test]
fn each_kind_of_refusal_has_its_status() {
    let service = serve(patient(), echo);
    let post = |header: &str| format!("POST / HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n");
    assert_eq!(service.status_of(post("Content-Length: x")), 400);
    assert_eq!(service.status_of(GET.replace("localhost", "evil.example")), 403);
    assert_eq!(service.status_of(post("Content-Length: 1099511627776")), 413);
    assert_eq!(service.status_of(format!("GET /{}", "x".repeat(20_000))), 414);
    assert_eq!(service.status_of(post("Content-Encoding: gzip\r\nContent-Length: 20")), 415);
    assert_eq!(service.status_of(post("Content-Encoding: identity")), 200);
    assert_eq!(service.status_of(post("Transfer-Encoding: gzip, chunked")), 501);
    assert_eq!(service.status_of(post(&"A: b\r\n".repeat(5_000))), 431);
    assert_eq!(service.status_of("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n"), 505);
    assert_eq!(service.status_of("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(service.status_of(GET), 200, "and the front lives on");
}

#[test]
fn an_answer_has_the_version_of_its_request() {
    let service = serve(patient(), echo);
    let answered = |request: String| service.connect().ask(request).head;
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        for (status, headers) in [
            (200, "Host: localhost"),
            (403, "Host: evil.example"),
            (413, "Host: localhost\r\nContent-Length: 1099511627776"),
            (400, "Host: localhost\r\nContent-Length: x"),
        ] {
            let head = answered(format!("POST / {version}\r\n{headers}\r\n\r\n"));
            assert!(head.starts_with(&format!("{version} {status} ")), "{headers}: {head}");
        }
    }
}

#[test]
fn a_handler_sees_each_request_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let service = serve(patient(), move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        echo(request)
    });
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = service.connect();
            thread::spawn(move || {
                for _ in 0..200 {
                    assert_eq!(client.ask(GET).status, 200);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 1_600);
}

#[test]
fn large_answers_are_complete_on_many_connections() {
    let service = serve(HttpLimits { handlers: 4, ..patient() }, |request| {
        let length: usize = request.raw_url()[1..].parse().unwrap();
        let body = (0..length).map(|index| b'a' + u8::try_from(index % 23).unwrap()).collect();
        Response::from_data::<_, Vec<u8>>("a/b", body)
    });
    let clients: Vec<_> = (0..8_usize)
        .map(|index| {
            let mut client = service.connect();
            thread::spawn(move || {
                for round in 0..10 {
                    let length = 500_000 + index * 1_000 + round;
                    let body = client
                        .ask(format!("GET /{length} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
                        .body;
                    assert_eq!(body.len(), length);
                    let is_right = |(at, byte)| usize::from(byte - b'a') == at % 23;
                    assert!(body.bytes().enumerate().all(is_right));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}
