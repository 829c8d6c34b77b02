//! The JSON-RPC 1.0 envelope (contract section 3): decodes requests and encodes outcomes.
//!
//! Invalid requests are refused here with status 400; the caller supplies the table of methods.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::JSON_DEPTH_MAX;
use crate::guest::members::members;
use crate::rpc::json::{self, Writer};

/// A request with a valid envelope.
#[derive(Clone, Debug)]
pub struct Request<M> {
    /// The result of the lookup.
    pub method: M,
    /// The id to repeat in the answer; a request without one is a notification: the method runs and
    /// the answer is empty.
    pub id: Option<Id>,
    /// The first element of `params`, unless that is absent or `null`.
    params: Option<Box<RawValue>>,
}

impl<M> Request<M> {
    /// Returns the parameter of the method, as it was written; an absent one is empty.
    pub fn params(&self) -> Option<&RawValue> {
        self.params.as_deref()
    }
}

/// Returns the refusal of a parameter that does not fit its method.
pub(super) fn unfit(error: &serde_json::Error) -> Refusal {
    ill_formed(&format_args!("params[0]: {}", without_place(error)))
}

/// Returns the error text of a part of a request without its position, which counts from the start
/// of that part and would mislead.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = error.to_string();
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// A request's `id`, ready to be written into the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(
    // Well-formed, compact JSON.
    String,
);

impl Id {
    /// Takes the id as it was written, in well-formed JSON.
    pub(super) fn new(raw: &RawValue) -> Self {
        Self(json::compact(raw.get()))
    }

    /// Returns the id as JSON.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// A request refused before any method ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The body of the answer.
    pub text: String,
}

impl Refusal {
    /// The HTTP status of the answer.
    pub const STATUS: u16 = 400;
}

/// The result of looking up a service and a method in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<M> {
    /// The method.
    Found(M),
    /// There is no such service.
    NoService,
    /// The service has no such method.
    NoMethod,
}

/// Decodes the first JSON value of `body` as a request; `lookup` is called with the parts of the
/// method's name before and after the dot.
///
/// # Errors
/// A [`Refusal`] for the first of these errors: the body is not a request, the method's name does
/// not have two parts, the service or the method does not exist, `params` is missing or not an
/// array.
pub fn decode<M>(
    body: &[u8],
    lookup: impl FnOnce(&str, &str) -> Lookup<M>,
) -> Result<Request<M>, Refusal> {
    let text = without_lone_surrogates(String::from_utf8_lossy(body));
    check_depth(&text).map_err(|why| ill_formed(&why))?;
    // Reads one value and ignores everything after it.
    let envelope = Option::deserialize(&mut serde_json::Deserializer::from_str(&text));
    let envelope: Envelope<'_> = envelope.map_err(|e| ill_formed(&e))?.unwrap_or_default();
    let method = find_method(&envelope.method, lookup)?;
    let Some(params) = envelope.params else {
        return refuse("rpc: method request ill-formed: missing params field".to_owned());
    };
    let first = serde_json::from_str(params.get());
    let FirstElement(first) = first.map_err(|_| ill_formed(&"params: expected an array"))?;
    let id = envelope.id.map(Id::new);
    Ok(Request { method, id, params: first.map(ToOwned::to_owned) })
}

/// Decodes the first JSON value of `body` as a parameter that stands alone, without an envelope.
///
/// # Errors
/// If it does not fit `T`.
pub fn decode_bare<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refusal> {
    let text = without_lone_surrogates(String::from_utf8_lossy(body));
    check_depth(&text).map_err(|why| ill_formed(&why))?;
    let value = Option::deserialize(&mut serde_json::Deserializer::from_str(&text));
    Ok(value.map_err(|e| ill_formed(&e))?.unwrap_or_default())
}

/// Returns the answer of a method that succeeded, with the result of the writer.
pub(super) fn encode_success(write: Writer<'_>, id: &Id) -> Vec<u8> {
    // The answer is mostly the request's guest again, so the buffer rarely grows.
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"result\":");
    if let Err(error) = write(&mut out) {
        return encode_error(&format!("cannot write the answer as JSON: {error}"), id);
    }
    out.extend_from_slice(b",\"error\":null,\"id\":");
    finish(out, id)
}

/// Returns the answer of a method that failed.
pub fn encode_error(text: &str, id: &Id) -> Vec<u8> {
    let mut out = b"{\"result\":null,\"error\":".to_vec();
    json::write(&mut out, &text).expect("text has a JSON form");
    out.extend_from_slice(b",\"id\":");
    finish(out, id)
}

fn finish(mut out: Vec<u8>, id: &Id) -> Vec<u8> {
    out.extend_from_slice(id.0.as_bytes());
    out.extend_from_slice(b"}\n");
    out
}

#[derive(Default)]
struct Envelope<'a> {
    method: String,
    params: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
}

members!(Envelope<'de> {
    "method" => method: value,
    "params" => params: value,
    "id" => id: value,
});

/// The first element of an array, if there is one and it is not `null`; the others are ignored.
struct FirstElement<'a>(Option<&'a RawValue>);

impl<'de> Deserialize<'de> for FirstElement<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArrayVisitor;

        impl<'de> Visitor<'de> for ArrayVisitor {
            type Value = FirstElement<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let first = array.next_element::<Option<&'de RawValue>>()?.flatten();
                while array.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstElement(first))
            }
        }

        deserializer.deserialize_seq(ArrayVisitor)
    }
}

fn find_method<M>(name: &str, lookup: impl FnOnce(&str, &str) -> Lookup<M>) -> Result<M, Refusal> {
    let parts = name.split_once('.').filter(|(_, method)| !method.contains('.'));
    let Some((service, method)) = parts else {
        return refuse(format!("rpc: service/method request ill-formed: {}", go_quoted(name)));
    };
    match lookup(service, method) {
        Lookup::Found(method) => Ok(method),
        Lookup::NoService => refuse(format!("rpc: can't find service {}", go_quoted(name))),
        Lookup::NoMethod => refuse(format!("rpc: can't find method {}", go_quoted(name))),
    }
}

fn refuse<T>(text: String) -> Result<T, Refusal> {
    Err(Refusal { text })
}

fn ill_formed(cause: &dyn fmt::Display) -> Refusal {
    Refusal { text: format!("rpc: request ill-formed: {cause}") }
}

/// Returns an object's members.
pub(super) fn members(object: &RawValue) -> Result<BTreeMap<String, &RawValue>, Refusal> {
    serde_json::from_str(object.get()).map_err(|error| Refusal { text: without_place(&error) })
}

/// Refuses text that is nested deeper than any caller's request, before a parser recurses into it.
pub(super) fn check_depth(text: &str) -> Result<(), String> {
    if text.len() <= JSON_DEPTH_MAX {
        return Ok(());
    }
    let (mut depth, mut in_string, mut after_backslash) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            b'"' if !after_backslash => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        after_backslash = byte == b'\\' && !after_backslash;
        if depth > JSON_DEPTH_MAX {
            return Err(format!("arrays and objects nest deeper than {JSON_DEPTH_MAX}"));
        }
    }
    Ok(())
}

/// Replaces each escape of a lone surrogate with the escape of U+FFFD, as Go does; serde_json
/// refuses them.
pub(super) fn without_lone_surrogates(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return text;
    }
    let mut replaced = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        replaced.push_str(before);
        let (length, lone) = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, false),
            (Some(0xd800..=0xdfff), _) => (6, true),
            // Any other escape: the backslash and the character after it.
            _ => (1 + escape.chars().nth(1).map_or(0, char::len_utf8), false),
        };
        let (escape, after) = escape.split_at(length);
        replaced.push_str(if lone { "\\ufffd" } else { escape });
        rest = after;
    }
    replaced.push_str(rest);
    Cow::Owned(replaced)
}

/// Returns the UTF-16 code unit of an escape `\uXXXX` at the start of `text`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let all_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16).ok().filter(|_| all_hex)
}

/// Returns `text` in double quotes, as Go's `%q` writes it.
fn go_quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            ' '..='~' => quoted.push(c),
            _ if code < 0x80 => quoted.push_str(&format!("\\x{code:02x}")),
            _ if is_printable(c) => quoted.push(c),
            _ if code < 0x1_0000 => quoted.push_str(&format!("\\u{code:04x}")),
            _ => quoted.push_str(&format!("\\U{code:08x}")),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns whether a non-ASCII character is printable. `escape_debug` decides, but it also escapes
/// a combining character at the start, so the check repeats it after a letter.
fn is_printable(c: char) -> bool {
    c.escape_debug().next() == Some(c) || format!("a{c}").escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests;
