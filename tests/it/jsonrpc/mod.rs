//! JSON-RPC 2.0 at `/rpc`, and what `rpc.discover` says of it.

mod batches;
mod calls;
mod discover;
mod spec;

use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::{Agent, Reply};
use crate::support::wait_until;

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

/// Waits until AllMetrics has something to answer with: a loaded machine may take longer for the first
/// sample than the agent waits for it.
fn wait_for_a_sample(agent: &Agent) {
    let body = request("Libvirt.AllMetrics", &json!({})).to_string();
    let has_one = || answer(agent, &body)["result"].is_object();
    wait_until("there is a sample", Duration::from_secs(60), has_one);
}

/// The test driver's own guest.
fn test_guest() -> Value {
    json!({ "guest": { "id": "test" } })
}
