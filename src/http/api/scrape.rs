//! `GET /metrics`, on the agent's main listener and on a listener that serves only metrics and
//! health.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rouille::{Request, Response};

use crate::http::api::health;
use crate::http::api::responses::{is_read, not_found, only_read};
use crate::http::http_stats::NO_ROOM;
use crate::http::{Handler, HttpStats, IsShort};
use crate::metrics::{Format, Listener};
use crate::ops::Libvirt;
use crate::rpc::Inbound;

/// The path of the metrics.
pub(super) const PATH: &str = "/metrics";

/// The counts of every front of the agent, with the front's name.
pub type ListenerStats = Arc<[(&'static str, Arc<HttpStats>)]>;

/// Makes the handler of the front for metrics and health alone.
pub(crate) fn handler(agent: Arc<Libvirt>, listener_stats: ListenerStats) -> Handler {
    Arc::new(move |request, responder| {
        let response = match request.url().as_str() {
            PATH if is_read(request) => scrape(&agent, &listener_stats, request, &responder),
            health::HEALTHZ if is_read(request) => health::healthz(&agent),
            PATH | health::HEALTHZ => only_read(),
            _ => not_found(),
        };
        responder.send(response);
    })
}

/// Selects the requests that this front itself starts.
pub(crate) fn short() -> IsShort {
    Arc::new(|request| health::is_asked(request, &[health::HEALTHZ]))
}

/// The size of the last response, in bytes: the expected size of the next one.
static LAST_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Answers a scrape, which waits briefly for a new sample if the last is old.
pub(crate) fn scrape(
    agent: &Libvirt,
    listener_stats: &ListenerStats,
    request: &Request,
    inbound: &dyn Inbound,
) -> Response {
    // Reserved before the text is made: many simultaneous scrapes of many guests would fill the
    // memory.
    let expected = LAST_BYTES.load(Ordering::Relaxed);
    if !inbound.reserve_answer(expected) {
        return Response::text(NO_ROOM.sentence).with_status_code(503);
    }
    let format = Format::accepted(request.header("Accept").unwrap_or_default());
    let listeners = listener_stats.iter().map(|(name, stats)| listener(name, stats)).collect();
    let text = agent.telemetry.metrics_text(format, listeners);
    LAST_BYTES.store(text.len(), Ordering::Relaxed);
    Response::from_data(format.content_type(), text)
}

fn listener(name: &'static str, stats: &HttpStats) -> Listener {
    let counters = stats.counters();
    let refused = counters.refused.iter().map(|(reason, count)| (reason.name(), *count));
    Listener {
        name,
        connections: counters.connections,
        requests: counters.requests,
        panics: counters.panics,
        denied: counters.denied,
        abandoned: counters.abandoned,
        refused: refused.collect(),
    }
}
