//! The agent's health, from memory: `/healthz` and `/readyz` call neither libvirt nor the store and never block, so
//! that they answer while everything below hangs.

use std::time::{Duration, SystemTime};

use rouille::Response;
use serde_json::{Map, Value, json};

use crate::http::api::responses::JSON;
use crate::http::http1::request::Request;
use crate::journal::Summary;
use crate::libvirt::version_text;
use crate::ops::{HealthStatus, Libvirt};
use crate::os::process;
use crate::pool::{LaneSnapshot, PoolSnapshot, RunningJob};

/// The path of the agent's health.
pub(super) const HEALTHZ: &str = "/healthz";
/// The path that reports whether the agent accepts changes.
pub(super) const READYZ: &str = "/readyz";

/// Returns whether this is a request for the agent's health, by one of these paths. Such a request needs no handler and
/// no memory of the front's budget, so the front answers it while other requests occupy all of both.
pub(super) fn is_asked(request: &Request, paths: &[&str]) -> bool {
    let path = request.target.split('?').next().unwrap_or_default();
    matches!(request.method.as_str(), "GET" | "HEAD") && paths.contains(&path)
}

/// Answers `/healthz` with the last known state of libvirt, storage, pool and journal. The status is 503 while libvirt
/// does not answer: the agent can then do nothing, though it keeps trying.
///
/// Storage does not change the status: a host whose guests bring their own disks needs no store.
pub(super) fn healthz(agent: &Libvirt) -> Response {
    let seen = agent.core.libvirt_seen();
    let status = libvirt_status(&seen);
    let pool_now = agent.core.pool().snapshot();
    let (queued, running) = agent.core.jobs().counts();
    let body = json!({
        "status": status.unwrap_or("ok"),
        "host": process::host_name(),
        "version": env!("CARGO_PKG_VERSION"),
        "libvirt": libvirt(&seen),
        "storage": storage(agent),
        "pool": pool(&pool_now),
        "jobs": { "queued": queued, "running": running },
        "journal": {
            "open": agent.core.open_intents().iter().map(intent).collect::<Vec<_>>(),
            "left": agent.core.left_intents().iter().map(intent).collect::<Vec<_>>(),
        },
    });
    answer(&body, status.is_none())
}

/// Answers `/readyz`: whether the agent accepts a change now. The status is 503, with the reason, if not.
pub(super) fn readyz(agent: &Libvirt) -> Response {
    let seen = agent.core.libvirt_seen();
    let unseen = (!seen.tried).then_some("libvirt has not been queried yet");
    let why = libvirt_status(&seen).or(unseen).map(str::to_owned);
    let why = why.or_else(|| agent.core.pool().calls_refused().map(|error| error.to_string()));
    answer(&json!({ "ready": why.is_none(), "why": why }), why.is_none())
}

fn answer(body: &Value, is_good: bool) -> Response {
    let code = if is_good { 200 } else { 503 };
    Response::from_data(JSON, format!("{body}\n")).with_status_code(code)
}

/// Returns what is wrong with libvirt.
fn libvirt_status(seen: &HealthStatus) -> Option<&'static str> {
    match (seen.silent, &seen.error) {
        (true, _) => Some("libvirt does not answer"),
        (false, Some(_)) => Some("libvirt cannot be reached"),
        (false, None) => None,
    }
}

/// Returns the version of the libvirt that answered last.
pub(crate) fn version(seen: &HealthStatus) -> Option<String> {
    seen.version.map(version_text)
}

fn libvirt(seen: &HealthStatus) -> Value {
    json!({
        "answers": seen.tried.then_some(seen.error.is_none()),
        "error": seen.error,
        "since_seconds": seconds(seen.since.elapsed()),
        "version": version(seen),
    })
}

fn storage(agent: &Libvirt) -> Value {
    let Some(seen) = agent.core.storage_seen() else { return json!({ "usable": null }) };
    let usage = seen.outcome.as_ref().ok();
    json!({
        "usable": usage.is_some(),
        "error": seen.outcome.as_ref().err(),
        "free_bytes": usage.map(|usage| usage.free_bytes),
        "used_bytes": usage.map(|usage| usage.used_bytes),
        "age_seconds": seconds(seen.at.elapsed()),
    })
}

fn pool(now: &PoolSnapshot) -> Value {
    let lanes = &now.lanes;
    let sum = |count: fn(&LaneSnapshot) -> usize| lanes.iter().map(count).sum::<usize>();
    let oldest = lanes.iter().filter_map(|lane| lane.oldest.as_ref()).max_by_key(|job| job.age);
    let lane = |lane: &LaneSnapshot| {
        let body = json!({
            "workers": lane.workers,
            "queued": lane.queued,
            "running": lane.running,
            "stuck": lane.stuck,
            "oldest": job(lane.oldest.as_ref()),
        });
        (lane.lane.to_string(), body)
    };
    json!({
        "queued": sum(|lane| lane.queued),
        "running": sum(|lane| lane.running),
        "stuck": sum(|lane| lane.stuck),
        "calls_waiting": now.callers.calls_waiting,
        "oldest": job(oldest),
        "lanes": lanes.iter().map(lane).collect::<Map<_, _>>(),
    })
}

fn job(running: Option<&RunningJob>) -> Value {
    running.map_or(Value::Null, |job| json!({ "what": job.what, "age_seconds": seconds(job.age) }))
}

fn intent(open: &Summary) -> Value {
    // By the clock of the host, which may have been set back since.
    let age = SystemTime::now().duration_since(open.since).unwrap_or_default();
    json!({
        "verb": open.verb.to_string(),
        "guest": open.guest,
        "age_seconds": seconds(age),
        "why": open.why,
    })
}

/// To the millisecond: more is noise.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
