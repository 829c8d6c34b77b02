//! The threads that answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use crate::rpc::Inbound;
use crate::threads::{Queue, Reservation, panic_text};

use super::context::RequestContext;
use super::exchange::{self, Answer, Exchange, Then};
use super::request::{Persistence, Request, Version};
use super::respond::{self, EncodeError, Encoded, Wanted};
use super::shared::{Job, Shared};
use super::stream;
use super::tally::{NO_ROOM, Refusal};
use super::{Handler, Waiting};

/// The address that callers over a Unix socket are given.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Answers requests until the front is gone.
pub(super) fn run(
    queue: &Arc<Queue<Job>>,
    handler: &Handler,
    waiting: Option<&Waiting>,
    shared: &Arc<Shared>,
) {
    while let Some(job) = queue.next() {
        let has_room = job.reserve(&shared.limits);
        let Job { request, arrived, permit, exchange, reservation } = job;
        let version = request.version;
        if !has_room {
            deliver(refuse(&NO_ROOM, version, shared), version, &exchange, shared, reservation);
            continue;
        }
        let context = RequestContext::new(
            &exchange,
            shared,
            &reservation,
            (arrived, permit),
            waiting.is_some(),
        );
        // Nobody would learn the outcome, that of a change above all.
        if context.is_abandoned() {
            shared.log_abandoned(&request, &exchange.caller);
            if exchange.finish(Answer::close()) {
                shared.waker.wake();
            }
            continue;
        }
        // A call that waits for a permit has done nothing yet: it is handled from the start then.
        let kept = waiting.map(|_| request.clone());
        let encoded = answer(request, &context, handler, shared);
        match (context.take_asking(), kept.zip(waiting)) {
            (Some(asking), Some((request, waiting))) => {
                drop(context);
                reservation.shrink_to(request.body.capacity());
                let queue = Arc::clone(queue);
                waiting(
                    asking,
                    Box::new(move |permit| {
                        let permit = Some(permit);
                        let job = Job { request, arrived, permit, exchange, reservation };
                        // Where the queue is closed the front is gone, and its connections with it.
                        drop(queue.put_first(job));
                    }),
                );
            }
            _ => {
                drop(context);
                deliver(encoded, version, &exchange, shared, reservation);
            }
        }
    }
}

/// Sends what the socket takes at once and leaves the rest to the front.
pub(super) fn deliver(
    encoded: Encoded,
    version: Version,
    exchange: &Arc<Exchange>,
    shared: &Arc<Shared>,
    reservation: Reservation,
) {
    let Encoded { mut bytes, mut persistence, stream } = encoded;
    if let Some(streamed) = stream {
        match stream::start(exchange, shared, bytes, streamed) {
            Ok(()) => return,
            Err(refusal) => Encoded { bytes, persistence, .. } = refuse(&refusal, version, shared),
        }
    }
    let at = Instant::now();
    let mut then = match persistence {
        Persistence::Close => Then::Close,
        Persistence::Implied | Persistence::Asked => Then::KeepOpen,
    };
    // What led to the answer is freed, and the caller may send its next request as soon as it has this.
    reservation.shrink_to(bytes.len());
    match exchange::send(&exchange.stream, &bytes) {
        Ok(sent) => drop(bytes.drain(..sent)),
        Err(error) => {
            log::debug!("{} disconnected before its response was sent: {error}", exchange.caller);
            bytes.clear();
            then = Then::Close;
        }
    }
    bytes.shrink_to_fit();
    if !reservation.grow_to(bytes.len()) {
        // A request that no handler had has reserved nothing. Its answer is short, and its caller does not
        // read.
        shared.tally.count_refusal(NO_ROOM.reason);
        (bytes, then) = (Vec::new(), Then::Close);
    }
    reservation.shrink_to(bytes.len());
    let reservation = (!bytes.is_empty()).then_some(reservation);
    if exchange.finish(Answer { at, unsent: bytes, then, reservation }) {
        shared.waker.wake();
    }
}

fn answer(
    request: Request,
    context: &RequestContext<'_>,
    handler: &Handler,
    shared: &Shared,
) -> Encoded {
    let Request { method, target, headers, body, persistence, version } = request;
    let wanted = if method == "HEAD" { Wanted::Head } else { Wanted::All };
    // rouille knows no callers without an address.
    let address = context.caller().origin.address().unwrap_or(NO_ADDRESS);
    let request = rouille::Request::fake_http_from(address, method, target, headers, body);
    // Asked after the handler, which may have taken long.
    let persistence = || if shared.is_stopping() { Persistence::Close } else { persistence };
    // What a panic leaves half-changed is the handler's own affair; of ours it sees the request,
    // of which only verb and target are read afterwards.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let response = handler(&request, context);
        let room = |bytes| context.reservation().grow_to(bytes);
        let manner = (version, persistence());
        respond::encode(response, wanted, manner, shared.limits.response_bytes, room)
    }));
    let problem = match outcome {
        Ok(Ok(encoded)) => return encoded,
        Ok(Err(EncodeError::NoRoom)) => return refuse(&NO_ROOM, version, shared),
        Ok(Err(EncodeError::Unusable(error))) => format!("unusable response: {error}"),
        Err(payload) => {
            shared.tally.count_panic();
            format!("panic: {}", panic_text(payload))
        }
    };
    log::error!("cannot answer {} {}: {problem}", request.method(), request.raw_url());
    respond::encode_failure(version, persistence())
}

/// The refusal in place of an answer.
pub(super) fn refuse(refusal: &Refusal, version: Version, shared: &Shared) -> Encoded {
    shared.tally.count_refusal(refusal.reason);
    let bytes = respond::encode_refusal(refusal, version);
    Encoded { bytes, persistence: Persistence::Close, stream: None }
}
