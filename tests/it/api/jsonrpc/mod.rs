//! JSON-RPC 2.0 at `/rpc`, and its description in `rpc.discover`.

mod batches;
mod calls;
pub(crate) mod discover;
mod members;
mod spec;

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, Reply};
use crate::harness::support::wait_until;

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
    let error = answer["error"].take();
    is_documented(agent, method, &error);
    error
}

/// Checks that `rpc.discover` lists the error for its method.
fn is_documented(agent: &Agent, method: &str, error: &Value) {
    let mut document =
        answer(agent, &request("rpc.discover", &json!({})).to_string())["result"].take();
    let methods = document["methods"].take();
    let Some(found) = methods.as_array().expect("methods").iter().find(|it| it["name"] == method)
    else {
        return;
    };
    let errors = document["components"]["errors"].as_object().expect("errors");
    let (name, _) =
        errors.iter().find(|(_, it)| it["code"] == error["code"]).expect("a known code");
    let reference = json!({ "$ref": format!("#/components/errors/{name}") });
    let listed = found["errors"].as_array().expect("errors");
    assert!(listed.contains(&reference), "{method} lists no {name}: {error}");
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
