//! The examples of the specification (<https://www.jsonrpc.org/specification>, section 7), with its
//! methods replaced by ours.

use serde_json::{Value, json};

use super::{answer, post, test_guest, wait_for_a_sample};
use crate::harness::agent::Agent;

const STATUS: &str = r#"{"guest":{"id":"test","state":"running"}}"#;

/// What stands in the examples, and what we put in its place. `"*"` is any answer.
const OURS: [(&str, &str); 12] = [
    (r#"[42, 23]"#, r#"[{"guest":{"id":"test"}}]"#),
    (r#"[23, 42]"#, r#"[{"guest":{"id":"test","cpu":2}}]"#),
    (r#"{"subtrahend": 23, "minuend": 42}"#, r#"{"guest":{"id":"test"},"action":"a"}"#),
    (r#"{"minuend": 42, "subtrahend": 23}"#, r#"{"action":"a","guest":{"id":"test"}}"#),
    (r#"[1,2,4]"#, r#"[{"guest":{"id":"test"}}]"#),
    (r#""subtract""#, r#""Libvirt.Status""#),
    (r#""sum""#, r#""Libvirt.Status""#),
    (r#""update""#, r#""Libvirt.Status""#),
    (r#""notify_hello""#, r#""Libvirt.Status""#),
    (r#""notify_sum""#, r#""Libvirt.Status""#),
    (r#""get_data""#, r#""Libvirt.AllMetrics""#),
    (r#"["hello", 5]"#, r#""*""#),
];

const EXAMPLES: [(&str, &str); 15] = [
    // With positional parameters.
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
        r#"{"jsonrpc": "2.0", "result": 19, "id": 1}"#,
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
        r#"{"jsonrpc": "2.0", "result": -19, "id": 2}"#,
    ),
    // With named ones.
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
        r#"{"jsonrpc": "2.0", "result": 19, "id": 3}"#,
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}"#,
        r#"{"jsonrpc": "2.0", "result": 19, "id": 4}"#,
    ),
    // Notifications.
    (r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#, ""),
    (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, ""),
    // A method that is not there.
    (
        r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
        r#"{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}"#,
    ),
    // Invalid JSON.
    (
        r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
        r#"{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}"#,
    ),
    // An invalid request.
    (
        r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#,
        r#"{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}"#,
    ),
    // A batch that is invalid JSON.
    (
        r#"[
          {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
          {"jsonrpc": "2.0", "method"
        ]"#,
        r#"{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}"#,
    ),
    // An empty one.
    (
        r#"[]"#,
        r#"{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}"#,
    ),
    // Batches of what is no request.
    (
        r#"[1]"#,
        r#"[{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}]"#,
    ),
    (
        r#"[1,2,3]"#,
        r#"[
          {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
          {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
          {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}
        ]"#,
    ),
    // A batch.
    (
        r#"[
          {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
          {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
          {"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": "2"},
          {"foo": "boo"},
          {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
          {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
        ]"#,
        r#"[
          {"jsonrpc": "2.0", "result": 7, "id": "1"},
          {"jsonrpc": "2.0", "result": 19, "id": "2"},
          {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
          {"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "5"},
          {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"}
        ]"#,
    ),
    // A batch of notifications.
    (
        r#"[
          {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
          {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
        ]"#,
        "",
    ),
];

/// The expected answer with our results in it.
fn expected(text: &str) -> Value {
    let mut text = text.to_owned();
    for (theirs, ours) in OURS {
        text = text.replace(theirs, ours);
    }
    let result = |number: &str| format!(r#""result": {number},"#);
    text = text.replace(&result("19"), &result(STATUS)).replace(&result("7"), &result(STATUS));
    let with_cpu = r#"{"guest":{"id":"test","cpu":2,"state":"running"}}"#;
    serde_json::from_str(&text.replace(&result("-19"), &result(with_cpu))).expect("JSON")
}

/// Whether an answer is the expected one; a message may say more than the specification's.
fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(any), _) if any == "*" => true,
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| match (name.as_str(), other.get(name)) {
                    ("message", Some(Value::String(found))) => {
                        found.starts_with(&format!("{}: ", value.as_str().unwrap_or_default()))
                    }
                    (_, found) => found.is_some_and(|found| same(value, found)),
                })
        }
        _ => expected == found,
    }
}

#[test]
fn specification_examples_are_answered_as_stated() {
    let agent = Agent::on_test_driver();
    wait_for_a_sample(&agent);
    for (sent, wanted) in EXAMPLES {
        let mut ours = sent.to_owned();
        for (theirs, replaced) in OURS {
            ours = ours.replace(theirs, replaced);
        }
        if wanted.is_empty() {
            let reply = post(&agent, ours.as_bytes());
            assert_eq!((reply.status, reply.body.len()), (204, 0), "{ours}: {reply:?}");
            assert_eq!(reply.header("content-length"), None, "{ours}");
            continue;
        }
        let (wanted, found) = (expected(wanted), answer(&agent, &ours));
        assert!(same(&wanted, &found), "{ours}\nwanted {wanted}\nfound  {found}");
    }
    agent.end();
}

#[test]
fn a_notification_is_carried_out_and_never_answered() {
    let agent = Agent::on_test_driver();
    for (method, params, state) in [
        ("Libvirt.Poweroff", test_guest(), "shutoff"),
        ("Libvirt.Run", json!([test_guest()]), "running"),
        ("Libvirt.Run", json!({ "guset": {} }), "running"),
        ("Libvirt.Run", json!({ "guest": { "id": "nobody" } }), "running"),
    ] {
        let call = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        assert_eq!(post(&agent, call.to_string().as_bytes()).status, 204, "{call}");
        assert_eq!(agent.state("test"), state, "{call}");
    }
    agent.end();
}
