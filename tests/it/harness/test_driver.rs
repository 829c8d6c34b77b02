//! The agent inside the test's own process, on libvirt's test driver: all connections of a process
//! share the driver's state, so that a test can read and change that state without the agent. Tests
//! of this process run in parallel: each test needs its own names and MACs.

use std::sync::Arc;

use mistify_libvirt::libvirt::Connection;
use mistify_libvirt::ops::Libvirt;
use mistify_libvirt::os::peer::{Caller, Origin};
use mistify_libvirt::rpc::{self, Answer, CallContext, Service};
use serde_json::{Value, json};

/// The test driver; its state belongs to the process.
const URI: &str = "test:///default";

/// An agent and a connection beside it.
pub(crate) struct Local {
    agent: Libvirt,
    pub(crate) libvirt: Connection,
}

impl Local {
    pub(crate) fn new() -> Self {
        let agent = Libvirt::new(URI, "mistify", 1).expect("threads can be started");
        Self { agent, libvirt: Connection::open(URI).expect("it is built in") }
    }

    /// Calls `Libvirt.<method>` with this guest; returns the result, or the error's text.
    pub(crate) fn call(&self, method: &str, guest: &Value) -> Result<Value, String> {
        let params = json!([{ "guest": guest }]);
        let request = json!({ "method": format!("Libvirt.{method}"), "params": params, "id": 1 });
        let caller = Caller { origin: Origin::Socket, peer: None };
        let by = CallContext { caller: &caller, audit: &Arc::default(), inbound: None };
        let body = request.to_string();
        let answer = match rpc::answer_here(&self.agent, Service::Libvirt, body.as_bytes(), by) {
            Answer::Result(bytes) => bytes,
            other => panic!("{method}: {other:?}"),
        };
        let mut answer: Value = serde_json::from_slice(&answer).expect("the answer is JSON");
        match answer["error"].as_str() {
            None => Ok(answer["result"].take()),
            Some(error) => Err(error.to_owned()),
        }
    }

    /// Returns the guest in the answer of a call that must succeed.
    pub(crate) fn ok(&self, method: &str, guest: &Value) -> Value {
        let answer = self.call(method, guest);
        answer.unwrap_or_else(|error| panic!("{method} {guest}: {error}"))["guest"].take()
    }
}
