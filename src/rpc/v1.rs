//! JSON-RPC 1.0, as the original agent speaks it (contract section 3): reads requests and writes answers.
//!
//! Invalid requests are refused here with status 400.

pub(super) mod answers;

use std::fmt;

use log::warn;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::guest::members::members;
use crate::rpc::as_job::Execution;
use crate::rpc::call::{Call, EncodedRequest};
use crate::rpc::dispatch::Dispatcher;
use crate::rpc::encoder::Encoder;
use crate::rpc::envelope::{
    Id, Lookup, Refusal, check_depth, without_lone_surrogates, without_place,
};
use crate::rpc::table::{Callee, Method, Service};
use crate::rpc::{Answer, Answered};

/// A request with a valid envelope.
#[derive(Clone, Debug)]
pub(super) struct Request<M> {
    /// The result of the lookup.
    pub(super) method: M,
    /// The id to repeat in the answer; a request without one is a notification: the method runs and
    /// the answer is empty.
    pub(super) id: Option<Id>,
    /// The first element of `params`, unless that is absent or `null`.
    params: Option<Box<RawValue>>,
}

impl<M> Request<M> {
    /// Returns the parameter of the method, as it was written; an absent one is empty.
    pub(super) fn params(&self) -> Option<&RawValue> {
        self.params.as_deref()
    }
}

/// Returns the refusal of a parameter that does not fit its method.
pub(super) fn unfit(error: &serde_json::Error) -> Refusal {
    ill_formed(&format_args!("params[0]: {}", without_place(error)))
}

/// Reads a request.
///
/// # Errors
/// The answer to an invalid request.
pub(super) fn read(
    dispatcher: Dispatcher<'_>,
    service: Service,
    body: &[u8],
) -> Result<Call, Answered> {
    let began = dispatcher.by.arrived();
    let mut named = None;
    let request = decode(body, |name, method| {
        let found = Callee::find(service, name, method);
        if let Lookup::Found(callee) = found {
            named = Some(callee);
        }
        found
    });
    let call = request.and_then(|request| Call::read(&request, request.method, began));
    call.map_err(|refusal| {
        if let Some(callee) = named {
            dispatcher.refused(callee, &refusal.text, began);
        }
        let method = named.map(Callee::full_name);
        Answered { method, answer: Answer::Refused(refusal.text) }
    })
}

impl EncodedRequest for Request<Callee> {
    fn params(&self, _: &[&str]) -> Result<Option<&RawValue>, Refusal> {
        Ok(Request::params(self))
    }

    /// Unknown members are ignored, as by the original (contract section 9).
    fn unknown(&self, callee: Callee, members: &[String]) -> Result<(), Refusal> {
        // A poll would log the same every few seconds.
        if matches!(callee.entry.2, Method::Status(_) | Method::Metrics(_)) {
            return Ok(());
        }
        for member in members {
            let method = callee.entry.0;
            warn!(method; "ignoring a member of the request: {member}");
        }
        Ok(())
    }

    fn is_strict(&self) -> bool {
        false
    }

    fn unfit(&self, error: &serde_json::Error) -> Refusal {
        unfit(error)
    }

    fn execution(&self) -> Result<Execution<'_>, Refusal> {
        Ok(Execution::Now)
    }

    fn encoder(&self) -> Encoder {
        Encoder::V1(self.id.clone())
    }
}

/// Decodes the first JSON value of `body` as a request; `lookup` is called with the parts of the
/// method's name before and after the dot.
///
/// # Errors
/// A [`Refusal`] for the first of these errors: the body is not a request, the method's name does
/// not have two parts, the service or the method does not exist, `params` is missing or not an
/// array.
pub(super) fn decode<M>(
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
pub(super) fn decode_bare<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refusal> {
    let text = without_lone_surrogates(String::from_utf8_lossy(body));
    check_depth(&text).map_err(|why| ill_formed(&why))?;
    let value = Option::deserialize(&mut serde_json::Deserializer::from_str(&text));
    Ok(value.map_err(|e| ill_formed(&e))?.unwrap_or_default())
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
