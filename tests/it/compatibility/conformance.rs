//! The recorded answers of the original agent, replayed; the classes stand in
//! `tests/conformance/README.md`.

use std::io::Write;

use serde::Deserialize;
use serde_json::Value;

use crate::harness::agent::{Agent, Reply};

const CASES: &str = include_str!("../../conformance/cases.jsonl");

#[derive(Deserialize)]
struct Case {
    name: String,
    class: String,
    request: Message,
    response: Message,
    #[serde(default)]
    ignore_json: Vec<String>,
    #[serde(default)]
    status_only: bool,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    method: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    status: u16,
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_b64: Option<String>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(each, _)| each.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn body(&self) -> Vec<u8> {
        match (&self.body, &self.body_b64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(text)) => from_base64(text),
            (None, None) => Vec::new(),
        }
    }
}

#[test]
fn recorded_answers_are_given_by_default() {
    replay(&[]);
}

/// Under this flag section 9 of the contract leaves no disk source out.
#[test]
fn recorded_answers_are_given_with_any_disk_path() {
    replay(&["--allow-disk-path", "/"]);
}

fn replay(flags: &[&str]) {
    let agent = Agent::start(&[&["--libvirt-uri", "test:///default"], flags].concat());
    let (mut compared, mut wrong) = (0, Vec::new());
    for line in CASES.lines() {
        let case: Case = serde_json::from_str(line).expect("a case a line");
        // Accidents are sent too: later cases rest on what they leave.
        let reply = send(&agent, &case.request);
        if case.class == "accident" {
            continue;
        }
        compared += 1;
        if let Some(difference) = difference(&case, &reply) {
            wrong.push(format!("{}: {difference}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 100, "only {compared} cases");
    agent.end();
}

fn send(agent: &Agent, request: &Message) -> Reply {
    let mut stream = agent.connect();
    let (method, path, body) = (&request.method, &request.path, request.body());
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", agent.address());
    head += "Connection: close\r\n";
    for (name, value) in &request.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let body = if request.header("transfer-encoding").is_some() {
        [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()
    } else {
        head += &format!("Content-Length: {}\r\n", body.len());
        body
    };
    stream.write_all(&[head.as_bytes(), b"\r\n", &body].concat()).expect("the agent reads");
    Reply::read(&mut stream)
}

fn difference(case: &Case, reply: &Reply) -> Option<String> {
    let recorded = &case.response;
    if reply.status != recorded.status {
        return Some(format!("status {} instead of {}", reply.status, recorded.status));
    }
    let empty = recorded.body().is_empty() && reply.body.is_empty();
    let kind = |kind: Option<&str>| kind.unwrap_or_default().to_lowercase().replace(' ', "");
    let (expected, found) =
        (kind(recorded.header("content-type")), kind(reply.header("content-type")));
    // A compressed answer says less of its type, and compression is optional.
    if recorded.header("content-encoding").is_none() && !empty && expected != found {
        return Some(format!("content type {found} instead of {expected}"));
    }
    if case.status_only || case.request.method == "HEAD" {
        return None;
    }
    let (expected, found) = (recorded.body(), &reply.body);
    let same = match case.class.as_str() {
        "http-text" => expected.is_empty() == found.is_empty(),
        _ if expected == *found => true,
        class => match (comparable(&expected, case, class), comparable(found, case, class)) {
            (Some(expected), Some(found)) => expected == found,
            _ => false,
        },
    };
    let texts = (String::from_utf8_lossy(&expected), String::from_utf8_lossy(found));
    (!same).then(|| format!("body\n  recorded {}\n  found    {}", texts.0, texts.1))
}

/// The body as JSON, without what differs from moment to moment or, for libvirt's texts, its words.
fn comparable(body: &[u8], case: &Case, class: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    for path in &case.ignore_json {
        wipe(&mut value, &path.split('.').collect::<Vec<_>>());
    }
    if class == "libvirt-text" && value["error"].is_string() {
        value["error"] = Value::from("a text of libvirt");
    }
    Some(value)
}

fn wipe(value: &mut Value, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else {
        *value = Value::from("ignored");
        return;
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if *first == "*" || first == name {
                    wipe(member, rest);
                }
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                if *first == "*" || *first == index.to_string() {
                    wipe(element, rest);
                }
            }
        }
        _ => {}
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in text.bytes().filter_map(|b| ALPHABET.iter().position(|&each| each == b)) {
        bits = bits << 6 | u32::try_from(digit).expect("below 64");
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).expect("masked"));
        }
    }
    bytes
}

#[test]
fn a_difference_is_seen() {
    let line = CASES.lines().find(|line| line.contains("\"echo_minimal\"")).expect("recorded");
    let case: Case = serde_json::from_str(line).expect("a case");
    let reply = |status, body: &str| Reply {
        status,
        headers: vec![("content-type".into(), "application/json; charset=utf-8".into())],
        body: body.into(),
    };
    let right = String::from_utf8(case.response.body()).expect("text");
    assert_eq!(difference(&case, &reply(200, &right)), None);
    assert!(difference(&case, &reply(400, &right)).is_some());
    assert!(difference(&case, &reply(200, &right.replace("running", "shutoff"))).is_some());
    assert!(difference(&case, &reply(200, "")).is_some());
}
