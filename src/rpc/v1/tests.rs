use proptest::prelude::*;

use super::answers::{encode_error, encode_success};
use super::*;
use crate::config::JSON_DEPTH_MAX;
use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::rpc::json;

fn lookup(service: &str, method: &str) -> Lookup<String> {
    match (service, method) {
        ("Libvirt", "Status" | "Create") => Lookup::Found(method.to_owned()),
        ("Libvirt", _) => Lookup::NoMethod,
        _ => Lookup::NoService,
    }
}

fn decoded(body: &str) -> Request<String> {
    decode(body.as_bytes(), lookup).unwrap()
}

/// Reads the parameter as the methods do.
fn params(request: &Request<String>) -> Result<GuestRequest, Refusal> {
    let Some(params) = request.params() else { return Ok(GuestRequest::default()) };
    serde_json::from_str(params.get()).map_err(|error| unfit(&error))
}

fn refusal(body: &str) -> String {
    decode(body.as_bytes(), lookup).and_then(|request| params(&request).map(drop)).unwrap_err().text
}

/// Returns the answer of Status on a host where every guest runs.
fn status(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let request = decode(body, lookup)?;
    let params = params(&request)?;
    let Some(id) = request.id else { return Ok(Vec::new()) };
    let Some(mut guest) = params.guest.filter(|guest| !guest.id.is_empty()) else {
        return Ok(encode_error("invalid argument", &id));
    };
    if guest.id == "nope" {
        return Ok(encode_error("[Code-42] [Domain-12] Domain not found", &id));
    }
    guest.state = "running".into();
    let answer = GuestResponse { guest: Some(guest), ..Default::default() };
    Ok(encode_success(&|out| json::write(out, &answer), &id))
}

/// The recorded cases about the envelope; the README beside them explains them.
const RECORDED: &str = include_str!("../../../tests/golden/envelope-cases.jsonl");

#[test]
fn answers_are_those_of_the_original_byte_for_byte() {
    for line in RECORDED.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let body = match &case["body_bytes"] {
            serde_json::Value::Null => case["body"].as_str().unwrap().as_bytes().to_vec(),
            bytes => serde_json::from_value(bytes.clone()).unwrap(),
        };
        let (code, text) = match status(&body) {
            Ok(answer) => (200, String::from_utf8(answer).unwrap()),
            Err(refusal) => (Refusal::STATUS, refusal.text),
        };
        assert_eq!(code, case["status"], "{line}");
        match case["answer"].as_str() {
            Some(answer) => assert_eq!(text, answer, "{line}"),
            None => assert!(!text.is_empty(), "{line}"),
        }
    }
    assert!(RECORDED.lines().count() > 40);
}

#[test]
fn an_unknown_method_wins_over_bad_params() {
    assert_eq!(
        refusal(r#"{"method":"Libvirt.Nope","params":5}"#),
        r#"rpc: can't find method "Libvirt.Nope""#
    );
    assert_eq!(refusal(r#"{"method":"x","params":5}"#), ill_formed_method("\"x\""));
}

fn ill_formed_method(quoted: &str) -> String {
    format!("rpc: service/method request ill-formed: {quoted}")
}

#[test]
fn a_method_has_exactly_one_dot() {
    assert_eq!(refusal(r#"{"method":"A.b.c"}"#), ill_formed_method("\"A.b.c\""));
    assert_eq!(refusal(r#"{"method":null}"#), ill_formed_method("\"\""));
    assert_eq!(refusal(r#"{"method":"."}"#), r#"rpc: can't find service ".""#);
    assert_eq!(refusal(r#"{"method":"Libvirt."}"#), r#"rpc: can't find method "Libvirt.""#);
}

#[test]
fn method_names_are_quoted_as_in_go() {
    assert_eq!(
        go_quoted(
            "a\"\\\u{7}\u{8}\u{c}\n\r\t\u{b}\u{0}\u{7f}é\u{a0}\u{301}\u{200b}\u{fffd}☃😀\u{e0001}<&'"
        ),
        concat!(
            r#""a\"\\\a\b\f\n\r\t\v\x00\x7fé\u00a0"#,
            "\u{301}",
            r#"\u200b"#,
            "\u{fffd}☃😀",
            r#"\U000e0001<&'""#
        )
    );
}

#[test]
fn refusals_name_the_member_and_the_expectation() {
    let params = |element: &str| {
        refusal(&format!(r#"{{"method":"Libvirt.Status","params":[{element}],"id":1}}"#))
    };
    assert_eq!(
        params(r#"{"guest":{"id":"a","memory":"512"}}"#),
        "rpc: request ill-formed: params[0]: guest: memory: invalid type: string \"512\", \
         expected u64"
    );
    assert_eq!(
        params(r#""x""#),
        "rpc: request ill-formed: params[0]: invalid type: string \"x\", expected an object"
    );
    assert_eq!(
        refusal(r#"{"method":"Libvirt.Status","params":{}}"#),
        "rpc: request ill-formed: params: expected an array"
    );
    assert_eq!(
        refusal(r#"{"method":5}"#),
        "rpc: request ill-formed: method: invalid type: integer `5`, expected a string at line 1 \
         column 11"
    );
}

#[test]
fn absent_params_are_empty() {
    for text in ["[]", "[null]", "[{}]", "[{\"guest\":null}]"] {
        let request = decoded(&format!(r#"{{"method":"Libvirt.Status","params":{text}}}"#));
        assert_eq!(params(&request), Ok(GuestRequest::default()));
    }
}

#[test]
fn a_request_without_an_id_is_a_notification() {
    for id in ["", r#","id":null"#] {
        let request = decoded(&format!(r#"{{"method":"Libvirt.Status","params":[]{id}}}"#));
        assert_eq!(request.id, None);
    }
}

#[test]
fn ids_are_echoed_as_they_were_written() {
    for (id, echoed) in [
        ("0", "0"),
        ("-3", "-3"),
        ("1.50", "1.50"),
        ("1E5", "1E5"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1e999", "1e999"),
        ("true", "true"),
        ("\"\"", "\"\""),
        ("[ ]", "[]"),
        ("{ \"z\" : 1, \"a\" : [ \"<é\u{2028}\" ] }", r#"{"z":1,"a":["\u003cé\u2028"]}"#),
        (r#""\u00e9\/""#, r#""\u00e9\/""#),
    ] {
        let request = decoded(&format!(r#"{{"id": {id} ,"params":[],"method":"Libvirt.Status"}}"#));
        assert_eq!(request.id.unwrap().as_json(), echoed);
    }
}

#[test]
fn only_the_first_value_of_the_body_is_read() {
    let first = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"a"}},{"#;
    assert!(refusal(first).starts_with("rpc: request ill-formed: params: EOF"));
    decoded(&format!("{}}} ]}} trailing", &first[..first.len()]));
}

/// Makes bodies with `value` at every place where the decoder ignores a value.
fn bodies_with(value: &str) -> [String; 5] {
    let guest = r#"{"guest":{"id":"a"}}"#;
    [
        format!(r#"{{"method":"Libvirt.Status","params":[{guest}],"id":{value}}}"#),
        format!(r#"{{"method":"Libvirt.Status","params":[{guest}],"x":{value},"id":1}}"#),
        format!(r#"{{"method":"Libvirt.Status","params":[{guest},{value}],"id":1}}"#),
        format!(r#"{{"method":"Libvirt.Status","params":[{{"guest":{{"x":{value}}}}}],"id":1}}"#),
        format!(r#"{{"method":"Libvirt.Status","params":{value},"id":1}}"#),
    ]
}

#[test]
fn deep_nesting_is_refused_and_takes_no_stack() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let worker = std::thread::Builder::new().stack_size(64 * 1024);
    let check = move || {
        for body in bodies_with(&nested(200_000)) {
            assert!(refusal(&body).ends_with("nest deeper than 10000"));
        }
        // The value inside the guest is the deepest, below four levels of its own.
        for body in &bodies_with(&nested(JSON_DEPTH_MAX - 4))[..4] {
            assert!(status(body.as_bytes()).is_ok());
        }
        let open = "[".repeat(200_000);
        assert!(decode(open.as_bytes(), lookup).is_err());
    };
    worker.spawn(check).unwrap().join().unwrap();
}

#[test]
fn deepest_accepted_nesting_is_10000() {
    let body = |depth: usize| {
        let inner = "[".repeat(depth - 1) + &"]".repeat(depth - 1);
        format!(r#"{{"method":"Libvirt.Status","params":[],"x":{inner}}}"#)
    };
    decoded(&body(10_000));
    assert!(refusal(&body(10_001)).ends_with("nest deeper than 10000"));
}

#[test]
fn brackets_in_strings_do_not_count_as_depth() {
    let image = r#"[{\"["#.repeat(JSON_DEPTH_MAX);
    let body =
        format!(r#"{{"method":"Libvirt.Status","params":[{{"guest":{{"image":"{image}"}}}}]}}"#);
    assert!(params(&decoded(&body)).is_ok());
}

#[test]
fn lone_surrogates_become_the_replacement_character() {
    for (escaped, expected) in [
        (r"a\ud800b", "a\u{fffd}b"),
        (r"a\uDFFFb", "a\u{fffd}b"),
        (r"\ud83d\ude00", "😀"),
        (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\ud83dA", "\u{fffd}A"),
        (r"\ud83d\u0041", "\u{fffd}A"),
        (r"\\ud800", r"\ud800"),
        (r"\\\ud800", "\\\u{fffd}"),
        (r"\ud800", "\u{fffd}"),
    ] {
        let text = without_lone_surrogates(format!("\"{escaped}\"").into()).into_owned();
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), expected, "{escaped}");
    }
}

#[test]
fn a_broken_escape_is_refused() {
    for escape in [r"\ud8", r"\ud8zz", r"\u+123", r"\é", "\\"] {
        let body = format!(r#"{{"method":"Libvirt.Status","params":[{{"action":"{escape}"}}]}}"#);
        assert!(refusal(&body).starts_with("rpc: request ill-formed"), "{escape}");
    }
}

#[test]
fn an_answer_without_a_json_form_is_an_error() {
    let map = std::collections::BTreeMap::from([(vec![1], 1)]);
    let answer =
        encode_success(&|out| json::write(out, &map), &Id::new(serde_json::from_str("7").unwrap()));
    assert_eq!(
        String::from_utf8(answer).unwrap(),
        concat!(
            r#"{"result":null,"error":"cannot write the answer as JSON: key must be a string","id":7}"#,
            "\n"
        )
    );
}

proptest! {
    #[test]
    fn no_body_makes_the_decoder_panic(body: Vec<u8>, text in "[\\[\\]{}\",:\\\\udD8cfé0-9a ]*") {
        // This test does not check whether it is refused.
        let _ = status(&body);
        let _ = status(text.as_bytes());
        let request = format!(r#"{{"method":"Libvirt.Status","params":[{text}],"id":{text}}}"#);
        let _ = status(request.as_bytes());
    }

    #[test]
    fn every_text_is_returned_as_sent(image: String, id: String) {
        let body = serde_json::json!({
            "method": "Libvirt.Status", "id": id,
            "params": [{"guest": {"id": "a", "image": image}}],
        });
        let answer = status(body.to_string().as_bytes()).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        prop_assert_eq!(&answer["id"], &serde_json::Value::from(id));
        let image = if image.is_empty() { serde_json::Value::Null } else { image.into() };
        prop_assert_eq!(&answer["result"]["guest"]["image"], &image);
    }
}
