//! JSON-RPC 2.0 at `/rpc`, and what `rpc.discover` says of it.

mod batches;
mod calls;
mod discover;
mod spec;

use serde_json::{Value, json};

use crate::agent::{Agent, Reply};

const PATH: &str = "/rpc";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Posts this to the agent; the whole reply.
fn post(agent: &Agent, body: &[u8]) -> Reply {
    agent.request("POST", PATH, &[JSON], body)
}

/// The answer to a body, which gets one.
fn answer(agent: &Agent, body: &str) -> Value {
    let reply = post(agent, body.as_bytes());
    assert_eq!(reply.status, 200, "{body}: {reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"), "{body}");
    serde_json::from_slice(&reply.body).expect("the answer is JSON")
}

fn request(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 7 })
}

/// The result of a call.
pub(crate) fn result(agent: &Agent, method: &str, params: &Value) -> Value {
    let mut answer = answer(agent, &request(method, params).to_string());
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(7)), "{answer}");
    assert!(answer.get("error").is_none(), "{method} {params}: {answer}");
    answer["result"].take()
}

/// The error of a call that has to fail.
pub(crate) fn error(agent: &Agent, method: &str, params: &Value) -> Value {
    let mut answer = answer(agent, &request(method, params).to_string());
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(7)), "{answer}");
    assert!(answer.get("result").is_none(), "{method} {params}: {answer}");
    answer["error"].take()
}

/// The test driver's own guest.
fn test_guest() -> Value {
    json!({ "guest": { "id": "test" } })
}
