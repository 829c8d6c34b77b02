//! One request: from JSON to a method, and its outcome to JSON.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use serde_json::value::RawValue;

use super::answers;
use super::discover;
use super::errors::{Failure, Kind};
use crate::rpc::as_job::{ASYNC, Execution};
use crate::rpc::call::{Call, EncodedRequest};
use crate::rpc::dispatch::Dispatcher;
use crate::rpc::encoder::Encoder;
use crate::rpc::envelope::{Id, Lookup, Refusal, members, without_place};
use crate::rpc::table::{Callee, Service};

/// A request that names a method.
pub(super) struct MethodCall<'a> {
    called: Called,
    params: Option<&'a RawValue>,
    /// A request without an id is a notification, which is never answered.
    id: Option<Id>,
    /// The job that runs this call.
    job: Option<&'a str>,
}

#[derive(Clone, Copy)]
enum Called {
    Method(Callee),
    /// Lists the methods on the port of this service.
    Discover(Service),
}

impl Called {
    fn find(port: Service, name: &str) -> Option<Self> {
        if name == discover::METHOD {
            return Some(Self::Discover(port));
        }
        let (service, method) = name.split_once('.')?;
        match Callee::find(port, service, method) {
            Lookup::Found(callee) => Some(Self::Method(callee)),
            Lookup::NoService | Lookup::NoMethod => None,
        }
    }
}

impl<'a> MethodCall<'a> {
    /// Reads a request that arrived at `began`.
    ///
    /// # Errors
    /// The answer, if it gets one, to a request that is invalid or names no method.
    pub(super) fn read(
        dispatcher: Dispatcher<'_>,
        port: Service,
        message: &'a RawValue,
        began: Instant,
    ) -> Result<Self, Option<Vec<u8>>> {
        let invalid = |why: &str, id| Err(Some(Failure::new(Kind::Request, why).answer(id)));
        let Ok(members) = members(message) else { return invalid("not an object", None) };
        let id = members.get("id").map(|id| is_id(id).then(|| Id::new(id)));
        let name = members.get("method").and_then(|name| text(name));
        let called = name.as_deref().and_then(|name| Called::find(port, name));
        // Some clients write `null` for absent parameters.
        let params = members.get("params").copied().filter(|params| params.get() != "null");
        let fault = if id == Some(None) {
            Some("id must be a string, a number or null")
        } else if members.get("jsonrpc").and_then(|it| text(it)).as_deref() != Some("2.0") {
            Some("jsonrpc must be \"2.0\"")
        } else if name.is_none() {
            Some("method must be a string")
        } else if !params.is_none_or(|params| params.get().starts_with(['[', '{'])) {
            Some("params must be an array or an object")
        } else {
            None
        };
        let id = id.flatten();
        if let Some(why) = fault {
            if let Some(Called::Method(callee)) = called {
                dispatcher.refused(callee, why, began);
            }
            return invalid(why, id.as_ref());
        }
        let Some(called) = called else {
            let name = name.unwrap_or_default();
            return Err(id.map(|id| Failure::new(Kind::Method, name).answer(Some(&id))));
        };
        Ok(Self { called, params, id, job: None })
    }

    /// Makes the call of a job, which is answered with the id `null`.
    pub(super) fn of_job(callee: Callee, params: &'a RawValue, job: &'a str) -> Self {
        let (called, id) = (Called::Method(callee), Some(Id::new(RawValue::NULL)));
        Self { called, params: Some(params), id, job: Some(job) }
    }

    /// Returns the call of its method.
    ///
    /// # Errors
    /// The answer, if it gets one, where the agent answers without a call or refuses the parameters.
    pub(super) fn call(
        &self,
        dispatcher: Dispatcher<'_>,
        began: Instant,
    ) -> Result<Call, Option<Vec<u8>>> {
        let outcome = match self.called {
            Called::Method(callee) => Call::read(self, callee, began).map(Ok),
            Called::Discover(port) => object(self.params)
                .and_then(|params| self.check_names(params, &[]))
                .map(|()| Err(discover::answer(port, self.id.as_ref()))),
        };
        outcome.unwrap_or_else(|refusal| {
            Err(self.refuse(dispatcher, Kind::Params, refusal.text, began))
        })
    }

    /// Returns its id; `None` for a notification.
    pub(super) fn into_id(self) -> Option<Id> {
        self.id
    }

    /// Returns the service on whose port `rpc.discover` was called; `None` for other methods, and for parameters that it
    /// does not take.
    pub(super) fn discovers(&self) -> Option<Service> {
        let Called::Discover(port) = self.called else { return None };
        let params = object(self.params).and_then(|params| self.check_names(params, &[]));
        params.is_ok().then_some(port)
    }

    /// Runs the call on this thread; returns its answer, if it gets one. A panic ends this call alone. The pool is
    /// responsible for state that a panic leaves half-changed, as for the handlers.
    ///
    /// # Blocking
    /// Up to the deadline of its method.
    pub(super) fn carry_out(&self, dispatcher: Dispatcher<'_>, began: Instant) -> Option<Vec<u8>> {
        let carry_out = || match self.call(dispatcher, began) {
            Ok(call) => dispatcher.wait_and_carry_out(call),
            Err(answer) => answer,
        };
        panic::catch_unwind(AssertUnwindSafe(carry_out)).unwrap_or_else(|_| {
            log::error!("{} panicked", self.name());
            self.fail(&Failure::new(Kind::Internal, "see the agent's log"))
        })
    }

    /// Answers without calling the method, and records the refusal.
    pub(super) fn refuse(
        &self,
        dispatcher: Dispatcher<'_>,
        kind: Kind,
        why: String,
        began: Instant,
    ) -> Option<Vec<u8>> {
        if let Called::Method(callee) = self.called {
            dispatcher.refused(callee, &why, began);
        }
        self.fail(&Failure::new(kind, why))
    }

    /// Refuses the call for now: the method may be called later.
    pub(super) fn refuse_busy(
        &self,
        dispatcher: Dispatcher<'_>,
        why: &str,
        began: Instant,
    ) -> Option<Vec<u8>> {
        if let Called::Method(callee) = self.called {
            dispatcher.refused(callee, why, began);
        }
        self.fail(&Failure::busy(why))
    }

    /// Returns the answer with this failure.
    pub(super) fn fail(&self, failure: &Failure) -> Option<Vec<u8>> {
        answers::fail(self.id.as_ref(), failure)
    }

    /// Returns the answer in place of one that exceeds the memory budget.
    pub(super) fn without_room(&self) -> Option<Vec<u8>> {
        let changes = matches!(self.called, Called::Method(callee) if callee.changes());
        answers::without_room(self.id.as_ref(), changes)
    }

    /// Returns the full name of its method.
    pub(super) fn name(&self) -> String {
        match self.called {
            Called::Method(callee) => callee.full_name(),
            Called::Discover(_) => discover::METHOD.to_owned(),
        }
    }

    /// Returns whether a job may be made from the request.
    fn may_be_job(&self) -> bool {
        matches!(self.called, Called::Method(callee) if callee.may_be_job())
    }

    /// Checks that all members of an object have known names.
    fn check_names(&self, object: Option<&RawValue>, known: &[&str]) -> Result<(), Refusal> {
        let Some(object) = object else { return Ok(()) };
        let members = members(object)?;
        let is_known = |name: &str| known.contains(&name) || (name == ASYNC && self.may_be_job());
        match members.keys().find(|name| !is_known(name)) {
            None => Ok(()),
            Some(name) if name == ASYNC => refuse(format!("this method takes no {ASYNC}")),
            Some(name) => refuse(format!("unknown parameter {name:?}; expected one of {known:?}")),
        }
    }
}

impl EncodedRequest for MethodCall<'_> {
    fn params(&self, known: &[&str]) -> Result<Option<&RawValue>, Refusal> {
        let object = object(self.params)?;
        // The request of a job was checked when it was accepted, by the rules of its caller's path.
        if self.job.is_none() {
            self.check_names(object, known)?;
        }
        Ok(object)
    }

    fn unknown(&self, _: Callee, members: &[String]) -> Result<(), Refusal> {
        match members.first().filter(|_| self.is_strict()) {
            Some(first) => refuse(first.clone()),
            None => Ok(()),
        }
    }

    /// A job was accepted by the rules of its caller's path.
    fn is_strict(&self) -> bool {
        self.job.is_none()
    }

    fn unfit(&self, error: &serde_json::Error) -> Refusal {
        Refusal { text: without_place(error) }
    }

    fn execution(&self) -> Result<Execution<'_>, Refusal> {
        if let Some(job) = self.job {
            return Ok(Execution::ByJob(job));
        }
        let members = object(self.params)?.map_or_else(|| Ok(BTreeMap::new()), members)?;
        match members.get(ASYNC).map(|wanted| wanted.get()) {
            None | Some("false" | "null") => Ok(Execution::Now),
            Some("true") => Ok(Execution::Later),
            Some(other) => refuse(format!("{ASYNC} must be true or false, not {other}")),
        }
    }

    fn encoder(&self) -> Encoder {
        Encoder::V2(self.id.clone())
    }
}

/// Returns the request's object, by position or by name; `None` if it is absent or `null`.
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
        _ => refuse(format!("{} parameters by position; at most one is allowed", elements.len())),
    }
}

fn refuse<T>(text: String) -> Result<T, Refusal> {
    Err(Refusal { text })
}

/// Returns whether this is a valid id of a request.
fn is_id(raw: &RawValue) -> bool {
    raw.get() == "null"
        || raw.get().starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'))
}

/// Returns the text of a JSON string.
fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}
