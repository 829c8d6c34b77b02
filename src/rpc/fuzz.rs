//! Properties of requests that hold for every input.

use std::str;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::envelope::{Id, Lookup};
use super::json;
use super::v1::{self, Request, answers};
use crate::guest::wire::GuestRequest;
use crate::guest::wire::images::{ImageRequest, SnapshotRequest, VolumeRequest};
use crate::guest::wire::metrics::GuestMetricsRequest;

/// Decodes the bytes as a request, as a bare parameter, and as parts of a request.
pub(crate) fn decode(data: &[u8]) {
    let mut asked = Vec::new();
    let outcome = v1::decode(data, |service, method| {
        asked.push((service.to_owned(), method.to_owned()));
        Lookup::Found(())
    });
    match outcome {
        Ok(request) => {
            let [(service, method)] = &asked[..] else { panic!("asked once: {asked:?}") };
            assert!(!service.contains('.') && !method.contains('.'));
            known(&request);
        }
        Err(refusal) => {
            assert!(refusal.text.starts_with("rpc: "), "{}", refusal.text);
            assert!(!refusal.text.contains(['\n', '\r']), "one line: {}", refusal.text);
        }
    }
    if let Ok(request) = v1::decode_bare::<SnapshotRequest>(data) {
        round_trip(&request);
    }
    if let Ok(text) = str::from_utf8(data) {
        within(text);
    }
}

/// Checks a valid request: its id is returned as it was written, and its parameter is the one that
/// is read.
fn known(request: &Request<()>) {
    if let Some(id) = &request.id {
        answers(id, "a \"line\"\n<of> text");
    }
    let Some(params) = request.params() else { return };
    read_again::<GuestRequest>(params);
    read_again::<GuestMetricsRequest>(params);
    read_again::<ImageRequest>(params);
    read_again::<VolumeRequest>(params);
}

fn read_again<T>(params: &RawValue)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    match serde_json::from_str::<T>(params.get()) {
        Ok(params) => round_trip(&params),
        Err(error) => assert!(v1::unfit(&error).text.starts_with("rpc: ")),
    }
}

/// Checks that a written value is read again, from bytes that are safe in HTML and on one line.
fn round_trip<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut out = Vec::new();
    json::write(&mut out, value).expect("it has a form in JSON");
    assert!(!out.iter().any(|byte| b"<>&\n\r\0".contains(byte)));
    let read: T = serde_json::from_slice(&out).expect("what is written is read");
    assert_eq!(read, *value);
}

/// Checks that an answer is one line of JSON with exactly these members.
fn answers(id: &Id, text: &str) {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Answer<'a> {
        #[serde(borrow)]
        result: &'a RawValue,
        #[serde(borrow)]
        error: &'a RawValue,
        #[serde(borrow)]
        id: &'a RawValue,
    }
    let success = answers::encode_success(&|out| json::write(out, &text), id);
    let failure = answers::encode_error(text, id);
    for (answer, is_success) in [(success, true), (failure, false)] {
        let (end, line) = answer.split_last().expect("it is not empty");
        assert!(*end == b'\n' && !line.contains(&b'\n'));
        let answer: Answer<'_> = serde_json::from_slice(line).expect("it is JSON");
        assert_eq!(answer.id.get(), id.as_json());
        let (said, other) = match is_success {
            true => (answer.result, answer.error),
            false => (answer.error, answer.result),
        };
        assert_eq!(other.get(), "null");
        assert_eq!(serde_json::from_str::<String>(said.get()).expect("a string"), text);
    }
    assert_eq!(json::compact(id.as_json()), id.as_json(), "nothing more to take out");
    assert!(!id.as_json().contains(['<', '>', '&', '\u{2028}', '\u{2029}']));
}

/// Checks a text that is JSON by itself as the id and the parameter of a request.
fn within(text: &str) {
    let (Ok(value), Ok(raw)) =
        (serde_json::from_str::<Value>(text), serde_json::from_str::<&RawValue>(text))
    else {
        return;
    };
    let envelope = format!(r#"{{"method":"Libvirt.Status","params":[{text}],"id":{text}}}"#);
    let Ok(request) = v1::decode(envelope.as_bytes(), |_, _| Lookup::Found(())) else {
        panic!("refused: {envelope}");
    };
    let params = request.params().map_or("null", RawValue::get);
    let params: Value = serde_json::from_str(params).expect("any JSON is a value");
    assert_eq!(params, value, "the parameter is what was sent");
    match request.id {
        Some(id) => assert_eq!(id.as_json(), json::compact(raw.get())),
        None => assert_eq!(value, Value::Null, "null is no id"),
    }
}
