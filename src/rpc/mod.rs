//! JSON in, JSON out: the envelope, the table of methods, and the texts of errors. The only room
//! that knows the shape of answers.

pub mod envelope;
pub mod json;

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Instant;

use log::info;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::guest::wire::images::{ImageRequest, ImageResponse, SnapshotRequest};
use crate::guest::wire::images::{SnapshotResponse, VolumeRequest, VolumeResponse};
use crate::guest::wire::{AllGuestMetrics, Guest, GuestMetricsRequest, GuestMetricsResponse};
use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::ops::{Error, Libvirt};
use crate::os::memory;
use crate::pool;
use crate::rpc::envelope::{Lookup, Refusal, Request};
use crate::storage;

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

/// What is served on a port of its own (contract sections 5 and 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Guests.
    Libvirt,
    /// Disks, volumes, images and snapshots.
    ImageStore,
}

impl Service {
    /// The part of a method's name before the dot; letters count.
    pub fn name(self) -> &'static str {
        match self {
            Self::Libvirt => "Libvirt",
            Self::ImageStore => "ImageStore",
        }
    }

    fn methods(self) -> &'static [(&'static str, Method)] {
        match self {
            Self::Libvirt => &LIBVIRT,
            Self::ImageStore => &IMAGE_STORE,
        }
    }
}

/// A verb with what it takes and answers.
type Verb<P, R> = fn(&Libvirt, P) -> Result<R, Error>;

/// A method, by the kind of its verb.
#[derive(Clone, Copy)]
enum Method {
    Guest(Verb<GuestRequest, GuestResponse>),
    Metrics(Verb<GuestMetricsRequest, GuestMetricsResponse>),
    AllMetrics(Verb<GuestMetricsRequest, BTreeMap<String, AllGuestMetrics>>),
    Image(Verb<ImageRequest, ImageResponse>),
    Clone(Verb<ImageRequest, VolumeResponse>),
    Volume(Verb<VolumeRequest, VolumeResponse>),
    Snapshot(Verb<SnapshotRequest, SnapshotResponse>),
}

const LIBVIRT: [(&str, Method); 14] = [
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
    ("AllMetrics", Method::AllMetrics(Libvirt::all_metrics)),
    ("ResizeDisk", Method::Guest(Libvirt::resize_disk)),
];

const IMAGE_STORE: [(&str, Method); 18] = [
    ("VerifyDisks", Method::Guest(Libvirt::verify_disks)),
    ("CreateGuestDisks", Method::Guest(Libvirt::create_guest_disks)),
    ("DeleteGuestsDisks", Method::Guest(Libvirt::delete_guest_disks)),
    // The name that the original's documents have for it.
    ("DeleteGuestDisks", Method::Guest(Libvirt::delete_guest_disks)),
    ("CreateVolume", Method::Volume(Libvirt::create_volume)),
    ("GetVolume", Method::Volume(Libvirt::get_volume)),
    ("ListVolumes", Method::Volume(Libvirt::list_volumes)),
    ("DeleteDataset", Method::Volume(Libvirt::delete_dataset)),
    ("CreateSnapshot", Method::Snapshot(Libvirt::create_snapshot)),
    ("GetSnapshot", Method::Snapshot(Libvirt::get_snapshot)),
    ("ListSnapshots", Method::Snapshot(Libvirt::list_snapshots)),
    ("DeleteSnapshot", Method::Snapshot(Libvirt::delete_snapshot)),
    ("RollbackSnapshot", Method::Snapshot(Libvirt::rollback_snapshot)),
    ("ListImages", Method::Image(Libvirt::list_images)),
    ("GetImage", Method::Image(Libvirt::get_image)),
    ("CloneImage", Method::Clone(Libvirt::clone_image)),
    ("DeleteImage", Method::Image(Libvirt::delete_image)),
    ("RequestImage", Method::Image(Libvirt::request_image)),
];

/// Carries out the request in `body`, for a method of `service`.
///
/// # Blocking
/// Up to the deadline of the method that it calls.
pub fn answer(agent: &Libvirt, service: Service, body: &[u8]) -> Answer {
    let outcome = envelope::decode(body, |name, method| lookup(service, name, method))
        .and_then(|request| dispatch(agent, service, &request));
    let answer = outcome.unwrap_or_else(|refusal| Answer::Refused(refusal.text));
    if body.len() > LARGE_BYTES {
        memory::give_back();
    }
    answer
}

/// What goes back for a snapshot that is to be downloaded.
pub enum Download {
    /// Its content: status 200.
    Stream(Box<dyn Read + Send>),
    /// This status with this line.
    Refused(u16, String),
}

/// Opens the snapshot that the request in `body` names: a `SnapshotRequest` without an envelope.
///
/// # Blocking
/// As [`Libvirt::send_snapshot`].
pub fn download(agent: &Libvirt, body: &[u8]) -> Download {
    let began = Instant::now();
    let request: SnapshotRequest = match envelope::decode_bare(body) {
        Ok(request) => request,
        Err(refusal) => return Download::Refused(Refusal::STATUS, refusal.text),
    };
    let outcome = agent.send_snapshot(&request);
    note_outcome(
        agent,
        Service::ImageStore,
        "DownloadSnapshot",
        &request.subject(),
        began,
        &outcome,
    );
    outcome.map_or_else(
        |error| {
            let status = match &error {
                Error::Storage(storage::Error::NotFound { .. }) => 404,
                Error::Refused(_) | Error::Storage(storage::Error::Invalid(_)) => 400,
                Error::Pool(pool::Error::Busy { .. } | pool::Error::Stopping) => 503,
                _ => 500,
            };
            Download::Refused(status, error_text(&error))
        },
        Download::Stream,
    )
}

fn lookup(service: Service, name: &str, method: &str) -> Lookup<(&'static str, Method)> {
    if name != service.name() {
        return Lookup::NoService;
    }
    let mut methods = service.methods().iter().copied();
    methods.find(|(name, _)| *name == method).map_or(Lookup::NoMethod, Lookup::Found)
}

fn dispatch(
    agent: &Libvirt,
    service: Service,
    request: &Request<(&'static str, Method)>,
) -> Result<Answer, Refusal> {
    match request.method.1 {
        Method::Guest(verb) => call(agent, service, request, verb),
        Method::Metrics(verb) => call(agent, service, request, verb),
        Method::AllMetrics(verb) => call(agent, service, request, verb),
        Method::Image(verb) => call(agent, service, request, verb),
        Method::Clone(verb) => call(agent, service, request, verb),
        Method::Volume(verb) => call(agent, service, request, verb),
        Method::Snapshot(verb) => call(agent, service, request, verb),
    }
}

/// Runs the verb, logs the outcome, one line a call, and writes it.
fn call<P: DeserializeOwned + Default + Subject, R: Serialize>(
    agent: &Libvirt,
    service: Service,
    request: &Request<(&'static str, Method)>,
    verb: Verb<P, R>,
) -> Result<Answer, Refusal> {
    let began = Instant::now();
    let params: P = request.params()?;
    let subject = params.subject();
    let outcome = verb(agent, params);
    note_outcome(agent, service, request.method.0, &subject, began, &outcome);
    let Some(id) = &request.id else { return Ok(Answer::Nothing) };
    Ok(Answer::Result(match outcome {
        Ok(result) => envelope::encode_success(&result, id),
        Err(error) => envelope::encode_error(&error_text(&error), id),
    }))
}

/// Logs how a call went, and counts it.
fn note_outcome<T>(
    agent: &Libvirt,
    service: Service,
    method: &'static str,
    subject: &str,
    began: Instant,
    outcome: &Result<T, Error>,
) {
    let (service, took) = (service.name(), began.elapsed());
    agent.calls().count(service, method, outcome.is_ok(), took);
    let ms = took.as_secs_f64() * 1000.0;
    match outcome {
        Ok(_) => info!("{service}.{method} {subject} ms={ms:.3} ok"),
        Err(error) => info!("{service}.{method} {subject} ms={ms:.3} error={error}"),
    }
}

/// What a request is about, for the log.
trait Subject {
    fn subject(&self) -> String;
}

fn about_guest(guest: Option<&Guest>) -> String {
    format!("guest={:?}", guest.map(|guest| guest.id.as_str()).unwrap_or_default())
}

impl Subject for GuestRequest {
    fn subject(&self) -> String {
        about_guest(self.guest.as_ref())
    }
}

impl Subject for GuestMetricsRequest {
    fn subject(&self) -> String {
        about_guest(self.guest.as_ref())
    }
}

impl Subject for ImageRequest {
    fn subject(&self) -> String {
        format!("image={:?}", self.id)
    }
}

impl Subject for VolumeRequest {
    fn subject(&self) -> String {
        format!("dataset={:?}", self.id)
    }
}

impl Subject for SnapshotRequest {
    fn subject(&self) -> String {
        format!("dataset={:?} dest={:?}", self.id, self.dest)
    }
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
        Error::Open { verb, cause } => {
            format!("{} (settle a former {verb})", error_text(cause))
        }
        Error::DisksMissing { disks, cause } => {
            format!("{} (not there: {})", error_text(cause), disks.join(", "))
        }
        Error::Step { step, cause, left } if left.is_empty() => {
            format!("{} ({step}; undone)", error_text(cause))
        }
        Error::Step { step, cause, left } => {
            format!("{} ({step}; left behind: {})", error_text(cause), left.join(", "))
        }
        Error::NoGuest
        | Error::Unfit(_)
        | Error::Invalid(_)
        | Error::Refused(_)
        | Error::InUse { .. }
        | Error::Silent { .. }
        | Error::NoSample(_)
        | Error::Storage(_)
        | Error::VolumesLeft(_)
        | Error::Left(_)
        | Error::Journal(_)
        | Error::Pool(_) => error.to_string(),
    }
}
