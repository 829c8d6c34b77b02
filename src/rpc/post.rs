//! Calls whose answer no thread waits for.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::ops::Libvirt;
use crate::os::peer::Share;
use crate::rpc::envelope::Request;
use crate::rpc::given::Params;
use crate::rpc::table::{Asks, Method};
use crate::rpc::{Answer, Answered, Asked, Callee, Doing, Service, What};
use crate::rpc::{envelope, json, lookup};

/// Has this user's call in `body` carried out if it is one question to libvirt: what `reply` gives is then
/// called with the answer, by whoever has it. For any other call, one that is to be refused, and one
/// that finds no place now nothing is done, and `reply` not called: [`answer`](crate::rpc::answer) is
/// for those. Blocks for nothing.
pub fn post<R: FnOnce(Answered) + Send + 'static>(
    agent: &Arc<Libvirt>,
    service: Service,
    user: Share,
    body: &[u8],
    reply: impl FnOnce() -> R,
) {
    let began = Instant::now();
    if !may_be_poll(service, body) {
        return;
    }
    let lookup = |name: &str, method: &str| lookup(service, name, method);
    let Ok(request) = envelope::decode(body, lookup) else { return };
    // What does not come to a question is left as it is.
    let _ = match request.method.entry.2 {
        Method::Status(_, asks) => ask(agent, (user, request), asks, began, reply),
        Method::Metrics(_, asks) => ask(agent, (user, request), asks, began, reply),
        _ => None,
    };
}

/// Whether the name of such a method is in it: others are not to be read twice.
fn may_be_poll(service: Service, body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else { return false };
    let methods = service.methods().iter();
    let mut polls =
        methods.filter(|(.., method)| matches!(method, Method::Status(..) | Method::Metrics(..)));
    polls.any(|(name, ..)| text.contains(name))
}

/// `None` where nothing is done.
fn ask<P: Params, A: Serialize + Send + 'static, R: FnOnce(Answered) + Send + 'static>(
    agent: &Arc<Libvirt>,
    (user, request): (Share, Request<Callee>),
    asks: Asks<P, A>,
    began: Instant,
    reply: impl FnOnce() -> R,
) -> Option<()> {
    let callee = request.method;
    let params: P = serde_json::from_str(request.params()?.get()).ok()?;
    let (subject, is_dry_run) = (params.subject(), params.is_dry_run());
    let question = asks(agent, params).ok()?;
    let posting = agent.may_post(&question)?;
    let doing = Doing { callee, began, what: What::Read { subject, is_dry_run } };
    let (counted_by, reply) = (Arc::clone(agent), reply());
    agent.post(user, posting, question, move |outcome| {
        let subject = doing.end(&counted_by, outcome.as_ref().err());
        let answer = match &outcome {
            Ok(result) => request.answer(Ok(&|out| json::write(out, result)), &subject),
            Err(error) => request.answer(Err(error), &subject),
        };
        let answer = answer.map_or(Answer::Nothing, Answer::Result);
        reply(Answered { method: Some(callee.full_name()), answer });
    });
    Some(())
}
