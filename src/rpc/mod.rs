//! JSON in, JSON out: the envelope, the table of methods, and the texts of errors. The only room
//! that knows the shape of answers.

pub mod envelope;
pub mod json;

use std::time::Instant;

use log::info;
use serde_json::{Value, json};

use crate::guest::wire::{GuestMetricsRequest, GuestMetricsResponse, GuestRequest, GuestResponse};
use crate::ops::{Error, Libvirt};
use crate::os::memory;
use crate::pool::LaneSnapshot;
use crate::rpc::envelope::{Lookup, Refusal, Request};

/// A request beyond this leaves so much free memory behind that it is worth giving back: a guest of
/// common size takes 2 KiB.
const LARGE_BYTES: usize = 8 * 1024;

/// What goes back for one request.
#[derive(Debug)]
pub enum Answer {
    /// A result or a method's error: status 200 with this body.
    Result(Vec<u8>),
    /// The request was a notification: status 200 and no body.
    Nothing,
    /// The request could not be understood: status 400 with this line.
    Refused(String),
}

/// A method: its request and its answer are of one of two kinds.
#[derive(Clone, Copy)]
enum Method {
    Guest(fn(&Libvirt, GuestRequest) -> Result<GuestResponse, Error>),
    Metrics(fn(&Libvirt, GuestMetricsRequest) -> Result<GuestMetricsResponse, Error>),
}

/// The methods of the service `Libvirt` (contract section 5); letters count.
const METHODS: [(&str, Method); 12] = [
    ("CreateGuest", Method::Guest(Libvirt::create_guest)),
    ("Create", Method::Guest(Libvirt::create)),
    ("Delete", Method::Guest(Libvirt::delete)),
    ("Restart", Method::Guest(Libvirt::restart)),
    ("Reboot", Method::Guest(Libvirt::reboot)),
    ("Poweroff", Method::Guest(Libvirt::poweroff)),
    ("Shutdown", Method::Guest(Libvirt::shutdown)),
    ("Run", Method::Guest(Libvirt::run)),
    ("Status", Method::Guest(Libvirt::status)),
    ("CPUMetrics", Method::Metrics(Libvirt::cpu_metrics)),
    ("DiskMetrics", Method::Metrics(Libvirt::disk_metrics)),
    ("NicMetrics", Method::Metrics(Libvirt::nic_metrics)),
];

/// Carries out the request in `body`.
///
/// # Blocking
/// Up to the deadline of the method that it calls.
pub fn answer(agent: &Libvirt, body: &[u8]) -> Answer {
    let outcome = envelope::decode(body, lookup).and_then(|request| call(agent, &request));
    let answer = outcome.unwrap_or_else(|refusal| Answer::Refused(refusal.text));
    if body.len() > LARGE_BYTES {
        memory::give_back();
    }
    answer
}

/// Figures of the pool for `/healthz`; from memory.
pub fn pool_figures(agent: &Libvirt) -> Value {
    let snapshot = agent.pool().snapshot();
    let lane = |lane: &LaneSnapshot| {
        let oldest = lane
            .oldest
            .as_ref()
            .map(|oldest| json!({ "what": oldest.what, "age_seconds": oldest.age.as_secs_f64() }));
        let (queued, running) = (lane.queued, lane.running);
        let body = json!({
            "workers": lane.workers, "queued": queued, "running": running, "oldest": oldest,
        });
        (lane.lane.to_string(), body)
    };
    Value::Object(snapshot.lanes.iter().map(lane).collect())
}

fn lookup(service: &str, method: &str) -> Lookup<(&'static str, Method)> {
    if service != "Libvirt" {
        return Lookup::NoService;
    }
    METHODS.into_iter().find(|(name, _)| *name == method).map_or(Lookup::NoMethod, Lookup::Found)
}

fn call(agent: &Libvirt, request: &Request<(&'static str, Method)>) -> Result<Answer, Refusal> {
    let (name, method) = request.method;
    let began = Instant::now();
    Ok(match method {
        Method::Guest(verb) => {
            let params: GuestRequest = request.params()?;
            let guest = params.guest.as_ref().map(|guest| guest.id.clone());
            finish(request, name, guest, began, verb(agent, params))
        }
        Method::Metrics(verb) => {
            let params: GuestMetricsRequest = request.params()?;
            let guest = params.guest.as_ref().map(|guest| guest.id.clone());
            finish(request, name, guest, began, verb(agent, params))
        }
    })
}

/// Logs the outcome, one line a call, and writes it.
fn finish<T: serde::Serialize>(
    request: &Request<(&'static str, Method)>,
    method: &str,
    guest: Option<String>,
    began: Instant,
    outcome: Result<T, Error>,
) -> Answer {
    let ms = began.elapsed().as_secs_f64() * 1000.0;
    let guest = guest.unwrap_or_default();
    match &outcome {
        Ok(_) => info!("Libvirt.{method} guest={guest:?} ms={ms:.3} ok"),
        Err(error) => info!("Libvirt.{method} guest={guest:?} ms={ms:.3} error={error}"),
    }
    let Some(id) = &request.id else { return Answer::Nothing };
    Answer::Result(match outcome {
        Ok(result) => envelope::encode_success(&result, id),
        Err(error) => envelope::encode_error(&error_text(&error), id),
    })
}

/// What a caller reads in `error` (contract section 9, "Error strings").
fn error_text(error: &Error) -> String {
    match error {
        Error::Libvirt(error) => {
            format!("[Code-{}] [Domain-{}] {}", error.code.raw(), error.domain.raw(), error.message)
        }
        // In libvirt's words for it: VIR_ERR_OPERATION_FAILED from VIR_FROM_DOMAIN.
        Error::Exists { id, uuid } => format!(
            "[Code-9] [Domain-20] operation failed: domain '{id}' already exists with uuid {uuid}"
        ),
        Error::Step { step, cause, left } if left.is_empty() => {
            format!("{} ({step}; undone)", error_text(cause))
        }
        Error::Step { step, cause, left } => {
            format!("{} ({step}; left behind: {})", error_text(cause), left.join(", "))
        }
        Error::NoGuest
        | Error::Unfit(_)
        | Error::Invalid(_)
        | Error::Storage(_)
        | Error::VolumesLeft(_)
        | Error::Pool(_) => error.to_string(),
    }
}
