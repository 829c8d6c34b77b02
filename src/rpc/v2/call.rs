//! One request: from JSON to a method, and its outcome to JSON.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::discover;
use super::errors::{Failure, Kind};
use crate::ops::Error;
use crate::rpc::envelope::{Id, Lookup, Refusal, without_place};
use crate::rpc::subject::Subject;
use crate::rpc::table::Entry;
use crate::rpc::{Asked, Desk, Params, json, lookup};

/// A request that names a method.
pub(super) struct Call<'a> {
    desk: Desk<'a>,
    callee: Callee,
    params: Option<&'a RawValue>,
    /// Without one it is a notification, which is never answered.
    id: Option<Id>,
}

enum Callee {
    Method(Entry),
    Discover,
}

impl Callee {
    fn find(desk: Desk<'_>, name: &str) -> Option<Self> {
        if name == discover::METHOD {
            return Some(Self::Discover);
        }
        let (service, method) = name.split_once('.')?;
        match lookup(desk.service, service, method) {
            Lookup::Found(entry) => Some(Self::Method(entry)),
            Lookup::NoService | Lookup::NoMethod => None,
        }
    }
}

impl<'a> Call<'a> {
    /// Reads a request that arrived then.
    ///
    /// # Errors
    /// Its answer, if it gets one, where it is none or names no method.
    pub(super) fn read(
        desk: Desk<'a>,
        message: &'a RawValue,
        began: Instant,
    ) -> Result<Self, Option<Vec<u8>>> {
        let invalid = |why: &str, id| Err(Some(Failure::new(Kind::Request, why).answer(id)));
        let members: Result<BTreeMap<String, &RawValue>, _> = serde_json::from_str(message.get());
        let Ok(members) = members else { return invalid("a request is an object", None) };
        let id = members.get("id").map(|id| is_id(id).then(|| Id::new(id)));
        let name = members.get("method").and_then(|name| text(name));
        let callee = name.as_deref().and_then(|name| Callee::find(desk, name));
        let params = members.get("params").copied();
        let fault = if id == Some(None) {
            Some("id is neither a string, a number nor null")
        } else if members.get("jsonrpc").and_then(|it| text(it)).as_deref() != Some("2.0") {
            Some("jsonrpc is not \"2.0\"")
        } else if name.is_none() {
            Some("method is no string")
        } else if !params.is_none_or(|params| params.get().starts_with(['[', '{'])) {
            Some("params are neither an array nor an object")
        } else {
            None
        };
        let id = id.flatten();
        if let Some(why) = fault {
            if let Some(Callee::Method(entry)) = callee {
                desk.refused(entry, why, began);
            }
            return invalid(why, id.as_ref());
        }
        let Some(callee) = callee else {
            let name = name.unwrap_or_default();
            return Err(id.map(|id| Failure::new(Kind::Method, name).answer(Some(&id))));
        };
        Ok(Self { desk, callee, params, id })
    }

    /// Carries it out; its answer, if it gets one.
    ///
    /// # Blocking
    /// Up to the deadline of its method.
    pub(super) fn carry_out(&self, began: Instant) -> Option<Vec<u8>> {
        let outcome = match self.callee {
            Callee::Method(entry) => self.desk.dispatch(self, entry, began),
            Callee::Discover => object(self.params)
                .and_then(|params| check_names(params, &[]))
                .map(|()| self.success(&discover::document(self.desk.service))),
        };
        outcome.unwrap_or_else(|refusal| self.refuse(Kind::Params, refusal.text, began))
    }

    /// Answers that its method is not called, and writes that down.
    pub(super) fn refuse(&self, kind: Kind, why: String, began: Instant) -> Option<Vec<u8>> {
        if let Callee::Method(entry) = self.callee {
            self.desk.refused(entry, &why, began);
        }
        self.fail(&Failure::new(kind, why))
    }

    /// The answer of this failure.
    pub(super) fn fail(&self, failure: &Failure) -> Option<Vec<u8>> {
        self.id.as_ref().map(|id| failure.answer(Some(id)))
    }

    /// The name of its method, with the service's.
    pub(super) fn name(&self) -> String {
        match self.callee {
            Callee::Method((name, ..)) => self.desk.service.full_name(name),
            Callee::Discover => discover::METHOD.to_owned(),
        }
    }

    fn success(&self, result: &impl Serialize) -> Option<Vec<u8>> {
        let id = self.id.as_ref()?;
        // The answer is mostly the request's guest again, so this is rarely grown.
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"result\":");
        if let Err(error) = json::write(&mut out, result) {
            let why = format!("answer without a JSON form: {error}");
            return self.fail(&Failure::new(Kind::Internal, why));
        }
        out.extend_from_slice(b",\"id\":");
        out.extend_from_slice(id.as_json().as_bytes());
        out.push(b'}');
        Some(out)
    }
}

impl Asked for Call<'_> {
    type Answer = Option<Vec<u8>>;

    fn params<P: Params>(&self) -> Result<P, Refusal> {
        let Some(object) = object(self.params)? else { return Ok(P::default()) };
        check_names(Some(object), P::NAMES)?;
        serde_json::from_str(object.get()).map_err(|error| Refusal { text: without_place(&error) })
    }

    fn answer<R: Serialize>(&self, outcome: Result<R, Error>, subject: &Subject) -> Self::Answer {
        match outcome {
            Ok(result) => self.success(&result),
            Err(error) => self.fail(&Failure::of(&error, subject)),
        }
    }
}

/// The request's object, by position or by name; none where that is absent or `null`.
fn object(params: Option<&RawValue>) -> Result<Option<&RawValue>, Refusal> {
    let Some(params) = params else { return Ok(None) };
    if params.get().starts_with('{') {
        return Ok(Some(params));
    }
    let elements: Vec<&RawValue> = serde_json::from_str(params.get())
        .map_err(|error| Refusal { text: without_place(&error) })?;
    match elements[..] {
        [] => Ok(None),
        [one] => Ok(Some(one).filter(|one| one.get() != "null")),
        _ => refuse(format!("{} parameters by position, there is one", elements.len())),
    }
}

/// Checks that an object's members have these names.
fn check_names(object: Option<&RawValue>, known: &[&str]) -> Result<(), Refusal> {
    let Some(object) = object else { return Ok(()) };
    let members: BTreeMap<String, IgnoredAny> = serde_json::from_str(object.get())
        .map_err(|error| Refusal { text: without_place(&error) })?;
    match members.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => refuse(format!("{name:?} is unknown, known are {known:?}")),
        None => Ok(()),
    }
}

fn refuse<T>(text: String) -> Result<T, Refusal> {
    Err(Refusal { text })
}

/// Whether a request may have this as its id.
fn is_id(raw: &RawValue) -> bool {
    raw.get() == "null"
        || raw.get().starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'))
}

/// The text of a string.
fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}
