//! Requests that no caller should send; `tests/malformed/make.py` says where what is expected of
//! each comes from.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use crate::harness::agent::{Agent, Reply};
use crate::harness::cost::slow;

const REQUESTS: &str = include_str!("../../malformed/requests.jsonl");
const GOOD: &str = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}"#;

/// The bytes of a request: a character a byte.
fn bytes(send: &Value) -> Vec<u8> {
    let byte = |c| u8::try_from(u32::from(c)).expect("a byte");
    let text =
        |text: &Value| -> Vec<u8> { text.as_str().expect("a text").chars().map(byte).collect() };
    let piece = |piece: &Value| match piece.as_array() {
        None => text(piece),
        Some(pair) => {
            let times = usize::try_from(pair[1].as_u64().expect("a number")).expect("few");
            text(&pair[0]).repeat(times)
        }
    };
    send.as_array().expect("pieces").iter().flat_map(piece).collect()
}

/// Returns everything that the agent sends for these bytes until it ends the connection.
fn exchange(agent: &Agent, bytes: &[u8]) -> Vec<u8> {
    let mut stream = agent.connect();
    // An agent that has refused the request need not read the rest.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it ends the connection in good order");
    answer
}

/// How the answer is not the expected one.
fn difference(expected: &Value, answer: &[u8]) -> Option<String> {
    if expected == "closed" {
        return (!answer.is_empty()).then(|| "an answer".to_owned());
    }
    if answer.is_empty() {
        return Some("closed".to_owned());
    }
    let reply = Reply::parse(answer);
    let length = reply.header("content-length").and_then(|length| length.parse().ok());
    let says_of_origins = |name: &str| name.starts_with("access-control-");
    if expected.as_u64() != Some(u64::from(reply.status)) {
        Some(reply.status.to_string())
    } else if reply.headers.iter().any(|(name, _)| says_of_origins(name)) {
        Some("leave for web pages".to_owned())
    } else if !reply.body.is_empty() && length != Some(reply.body.len()) {
        Some("more than one answer".to_owned())
    } else if reply.status == 200 && !reply.text().contains(r#""error":"invalid argument""#) {
        Some(reply.text())
    } else {
        None
    }
}

/// A call that is in order, on a connection that stays.
fn call(stream: &mut TcpStream) {
    let head = "POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{GOOD}", GOOD.len());
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = [0; 4096];
    let mut length = 0;
    while !answer[..length].ends_with(b"\"id\":1}\n") {
        let count = stream.read(&mut answer[length..]).expect("it answers");
        assert_ne!(count, 0, "closed");
        length += count;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn malformed_requests_are_refused_between_good_ones() {
    slow("sends thousands of requests");
    let agent = Agent::on_test_driver();
    let mut good = agent.connect();
    let (mut sent, mut wrong) = (HashSet::new(), Vec::new());
    let mut classes = BTreeMap::new();
    for line in REQUESTS.lines() {
        let case: Value = serde_json::from_str(line).expect("a case a line");
        let (bytes, class) = (bytes(&case["send"]), case["class"].to_string());
        let answer = exchange(&agent, &bytes);
        if let Some(found) = difference(&case["expect"], &answer) {
            let start = bytes[..bytes.len().min(300)].escape_ascii();
            wrong.push(format!(
                "{found} for {} ({class}, {}): {start}",
                case["expect"], case["rule"]
            ));
        }
        call(&mut good);
        assert!(sent.insert(bytes), "twice: {line}");
        *classes.entry(class).or_insert(0) += 1;
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), sent.len(), wrong.join("\n"));
    assert!(sent.len() >= 1000, "only {}", sent.len());
    println!("{} requests: {classes:?}", sent.len());
    assert_eq!(agent.log().matches("ERROR").count(), 0, "{}", agent.log());
    agent.end();
}
