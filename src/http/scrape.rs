//! `GET /metrics`, on the agent's own listener and on one that serves nothing else but health.

use std::sync::Arc;

use rouille::{Request, Response};

use crate::http::routes::{is_read, not_found, only_read};
use crate::http::{Handler, Tally, health};
use crate::metrics::{Format, Listener};
use crate::ops::Libvirt;

/// Where metrics are to be had.
pub(super) const PATH: &str = "/metrics";

/// The counts of every front of the agent, with its name.
pub type Tallies = Arc<[(&'static str, Arc<Tally>)]>;

/// What the front for metrics and health alone is given.
pub(super) fn handler(agent: Arc<Libvirt>, tallies: Tallies) -> Handler {
    Arc::new(move |request, _caller| match request.url().as_str() {
        PATH if is_read(request) => scrape(&agent, &tallies, request),
        "/healthz" if is_read(request) => health::healthz(&agent),
        PATH | "/healthz" => only_read(),
        _ => not_found(),
    })
}

/// Answers a scrape, which waits shortly for a sample where the last is old.
pub(super) fn scrape(agent: &Libvirt, tallies: &Tallies, request: &Request) -> Response {
    let format = Format::accepted(request.header("Accept").unwrap_or_default());
    let listeners = tallies.iter().map(|(name, tally)| listener(name, tally)).collect();
    let text = agent.metrics_text(format, listeners);
    Response::from_data(format.content_type(), text)
}

fn listener(name: &'static str, tally: &Tally) -> Listener {
    let counters = tally.counters();
    let refused = counters.refused.iter().map(|(reason, count)| (reason.name(), *count));
    Listener {
        name,
        connections: counters.connections,
        requests: counters.requests,
        panics: counters.panics,
        denied: counters.denied,
        refused: refused.collect(),
    }
}
