//! What the envelopes of both versions share: ids, refusals, and checks of JSON before a parser reads it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::config::JSON_DEPTH_MAX;
use crate::rpc::json;

/// A request's `id`, ready to be written into the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id(
    // Well-formed, compact JSON.
    String,
);

impl Id {
    /// Takes the id as it was written, in well-formed JSON.
    pub(super) fn new(raw: &RawValue) -> Self {
        Self(json::compact(raw.get()))
    }

    /// Returns the id as JSON.
    pub(super) fn as_json(&self) -> &str {
        &self.0
    }
}

/// A request refused before any method ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The body of the answer.
    pub(super) text: String,
}

impl Refusal {
    /// The HTTP status of the answer.
    pub(super) const STATUS: u16 = 400;
}

/// The result of looking up a service and a method in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup<M> {
    /// The method.
    Found(M),
    /// There is no such service.
    NoService,
    /// The service has no such method.
    NoMethod,
}

/// Returns the error text of a part of a request without its position, which counts from the start
/// of that part and would mislead.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = error.to_string();
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
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
