//! Properties of JSON-RPC 2.0 that hold for every input.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::config::BATCH_CALLS_MAX;
use crate::ops::Libvirt;
use crate::os::peer::{Caller, Origin};
use crate::rpc::json::{self, Writer};
use crate::rpc::target::Target;
use crate::rpc::v2::{self, errors::TABLE};
use crate::rpc::{Answer, Answered, Audit, CallContext, Message};

/// The members of a `GuestRequest`.
const KNOWN: &[&str] = &["guest", "args"];

/// Reads the bytes as a body. A request must be what another JSON reader sees in the body, and the
/// parameters of a method must be those that were sent. Answers must be JSON of the specification's
/// form, on one line, in the order of their calls and with their ids; notifications have none.
pub(crate) fn calls(data: &[u8]) {
    static AGENT: OnceLock<Libvirt> = OnceLock::new();
    let agent = AGENT.get_or_init(|| {
        Libvirt::new("test:///default", "mistify", 1).expect("the test driver is there")
    });
    let caller = Caller { origin: Origin::Socket, peer: None };
    let audit = Arc::new(Audit::default());
    let dispatcher =
        Dispatcher { agent, by: CallContext { caller: &caller, audit: &audit, inbound: None } };
    for port in [Service::Libvirt, Service::ImageStore] {
        let ids = v2::message(data, |message| body(dispatcher, port, message));
        // No method is called: this test is not about the methods.
        let Some(ids) = ids.unwrap_or_else(|_| Some(vec!["null".to_owned()])) else { continue };
        let answers = answers(dispatcher, port, data).map(|line| {
            assert!(!line.contains(&b'\n'), "one line");
            String::from_utf8(line).expect("it is text")
        });
        let Some(answers) = answers else {
            assert!(ids.is_empty(), "no answer to {ids:?}");
            continue;
        };
        let answers: Vec<&RawValue> = match answers.starts_with('[') {
            true => serde_json::from_str(&answers).expect("they are JSON"),
            false => vec![serde_json::from_str(&answers).expect("it is JSON")],
        };
        let answered: Vec<&str> = answers.into_iter().map(answer).collect();
        assert_eq!(answered, ids);
    }
}

/// Returns the answer to a body that calls no method.
fn answers(dispatcher: Dispatcher<'_>, port: Service, data: &[u8]) -> Option<Vec<u8>> {
    match v2::read(dispatcher, port, data) {
        Message::Answered(Answered { answer: Answer::Result(line), .. }) => Some(line),
        Message::Answered(_) => None,
        Message::Document(port, id) => discover::answer(port, id.as_ref()),
        Message::Batch(members) => {
            v2::batch::carry_out(dispatcher, port, &members, Ok(None), Instant::now())
        }
        Message::Call(call) => panic!("no method is called: {}", call.callee.full_name()),
    }
}

/// Reads the requests in a body; returns the ids of its answers, unless it calls a method.
fn body(dispatcher: Dispatcher<'_>, port: Service, message: &RawValue) -> Option<Vec<String>> {
    let members: Vec<&RawValue> = match message.get().starts_with('[') {
        true => serde_json::from_str(message.get()).expect("its JSON was read"),
        false => vec![message],
    };
    if !(1..=BATCH_CALLS_MAX).contains(&members.len()) {
        return Some(vec!["null".to_owned()]);
    }
    let ids: Vec<Option<Vec<String>>> =
        members.iter().map(|member| request(dispatcher, port, member)).collect();
    ids.into_iter().collect::<Option<Vec<_>>>().map(|ids| ids.concat())
}

/// Returns the id of the answer to a request, if it gets one; `None` if it calls a method.
fn request(dispatcher: Dispatcher<'_>, port: Service, message: &RawValue) -> Option<Vec<String>> {
    let read = MethodCall::read(dispatcher, port, message, Instant::now());
    // This reader refuses numbers beyond f64 and text that is nested too deeply.
    if let Ok(value) = serde_json::from_str::<Value>(message.get()) {
        same(port, &value, &read);
    }
    let call = match read {
        Ok(call) => call,
        Err(answered) => return Some(answered.iter().map(|it| id(it)).collect()),
    };
    let failed = call.fail(&Failure::new(Kind::Internal, "a \"line\"\n<of> text"));
    let write: Writer<'_> = &|out| json::write(out, &"a \"line\"\n<of> text");
    let succeeded = call.encoder().answer(Ok(write), &Target::default());
    let ids = |answer: &Option<Vec<u8>>| answer.iter().map(|it| id(it)).collect::<Vec<_>>();
    let expected: Vec<String> = call.id.iter().map(|id| id.as_json().to_owned()).collect();
    assert_eq!((ids(&failed), ids(&succeeded)), (expected.clone(), expected.clone()));
    if let Called::Method(_) = call.called {
        parameters(&call);
        return None;
    }
    Some(expected)
}

/// Checks that the request is what another reader sees.
fn same(port: Service, value: &Value, read: &Result<MethodCall<'_>, Option<Vec<u8>>>) {
    let member = |name: &str| value.get(name);
    let is_id = |it: &Value| it.is_string() || it.is_number() || it.is_null();
    let is_request = member("jsonrpc") == Some(&Value::from("2.0"))
        && member("params").is_none_or(|it| it.is_array() || it.is_object() || it.is_null())
        && member("id").is_none_or(is_id);
    let name = member("method").and_then(Value::as_str);
    let known = name.is_some_and(|name| {
        let mut methods = port.at_port().iter().flat_map(|service| {
            service.method_names().map(|method| format!("{}.{method}", service.name()))
        });
        name == discover::METHOD || methods.any(|method| method == name)
    });
    match read {
        Ok(call) => {
            assert!(is_request && known, "{value}");
            assert_eq!(name, Some(&*call.name()));
            assert_eq!(call.id.is_some(), member("id").is_some(), "{value}");
            let id = call.id.as_ref().map(|id| serde_json::from_str(id.as_json()).expect("JSON"));
            assert_eq!(id.as_ref(), member("id"));
        }
        Err(Some(answer)) => {
            assert!(!is_request || (!known && (name.is_none() || member("id").is_some())));
            let id: Value = serde_json::from_str(&id(answer)).expect("JSON");
            let sent = member("id").filter(|it| is_id(it));
            assert_eq!(&id, sent.unwrap_or(&Value::Null));
        }
        Err(None) => {
            assert!(is_request && name.is_some() && !known && member("id").is_none(), "{value}");
        }
    }
}

/// Checks the parameters of a method's call, and when it runs.
fn parameters(call: &MethodCall<'_>) {
    let (Ok(params), execution) = (call.params(KNOWN), call.execution()) else { return };
    let sent = call.params.map(|sent| serde_json::from_str::<Value>(sent.get()));
    let Ok(sent) = sent.transpose() else { return };
    let sent = match &sent {
        Some(Value::Array(elements)) => elements.first(),
        other => other.as_ref(),
    };
    let read = params.map(|params| serde_json::from_str::<Value>(params.get()).expect("as sent"));
    assert_eq!(read.as_ref(), sent.filter(|sent| !sent.is_null()));
    let names = || read.as_ref().and_then(Value::as_object).into_iter().flat_map(|it| it.keys());
    let is_async = |name: &String| name == ASYNC;
    assert!(names().all(|name| KNOWN.contains(&name.as_str()) || is_async(name)));
    assert!(!names().any(is_async) || call.may_be_job());
    let wanted = read.as_ref().and_then(|read| read.get(ASYNC));
    match execution {
        Ok(Execution::Later) => assert_eq!(wanted, Some(&Value::Bool(true))),
        Ok(Execution::Now) => {
            assert!(wanted.is_none_or(|it| matches!(it, Value::Null | Value::Bool(false))));
        }
        Ok(Execution::ByJob(job)) => panic!("it is of no job: {job}"),
        Err(_) => assert!(wanted.is_some_and(|it| !it.is_boolean() && !it.is_null())),
    }
}

/// Returns the id of an answer, which is JSON on one line.
fn id(line: &[u8]) -> String {
    assert!(!line.contains(&b'\n'));
    answer(serde_json::from_slice(line).expect("it is JSON")).to_owned()
}

/// Returns the id of an answer, which has exactly these members.
fn answer(answer: &RawValue) -> &str {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Answer<'a> {
        jsonrpc: String,
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        error: Option<Error>,
        #[serde(borrow)]
        id: &'a RawValue,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Error {
        code: i32,
        message: String,
    }
    let answer: Answer<'_> = serde_json::from_str(answer.get()).expect("it is an answer");
    assert_eq!(answer.jsonrpc, "2.0");
    assert!(answer.result.is_some() != answer.error.is_some(), "one of them");
    if let Some(Error { code, message }) = answer.error {
        let row = TABLE.iter().find(|row| row.code == code).expect("it is in the table");
        assert!(message.starts_with(&format!("{}: ", row.name)), "{message}");
    }
    answer.id.get()
}
