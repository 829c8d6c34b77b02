//! The paths, and the status codes and texts of contract section 2.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use log::{Level, info, log_enabled};
use rouille::{Request, Response, ResponseBody};

use crate::http::api::responses::{JSON, NOSNIFF, is_read, not_found, only_read, text};
use crate::http::api::{events, health, page, scrape};
use crate::http::{Handler, IsShort, ListenerStats, Responder};
use crate::ops::Libvirt;
use crate::os::peer::Caller;
use crate::rpc::{self, Answer, Audit, Download, Inbound, Service, Version};

/// The path of the orchestrator's calls.
const RPC_PATH: &str = "/_mistify_RPC_";
/// The path of JSON-RPC 2.0, for all other callers.
const RPC_V2_PATH: &str = "/rpc";
/// A longer call is parsed by a handler, so that the front does not parse long bodies: a call with a guest of
/// common size takes 2 KiB.
const SHORT_BYTES: usize = 4 * 1024;
/// The path from which the orchestrator downloads the content of snapshots.
const DOWNLOAD_PATH: &str = "/snapshots/download";

/// Makes the handler of a front: it routes every request to this service. `listener_stats` are the counts of all
/// fronts, for the metrics.
pub fn handler(
    agent: Arc<Libvirt>,
    audit: Arc<Audit>,
    service: Service,
    listener_stats: ListenerStats,
) -> Handler {
    Arc::new(move |request, responder| {
        let calls = || Calls { agent: Arc::clone(&agent), audit: Arc::clone(&audit), service };
        match request.url().as_str() {
            RPC_PATH => calls().answer(Version::V1, request, responder),
            RPC_V2_PATH => calls().answer(Version::V2, request, responder),
            DOWNLOAD_PATH if service == Service::ImageStore => {
                calls().download(request, responder);
            }
            _ => {
                let response = answer(&agent, service, &listener_stats, request, &responder);
                responder.send(response);
            }
        }
    })
}

/// Selects short calls and requests for the agent's health: the front itself starts these.
pub fn short() -> IsShort {
    Arc::new(|request| match request.target.as_str() {
        RPC_PATH | RPC_V2_PATH => request.method == "POST" && request.body.len() <= SHORT_BYTES,
        _ => health::is_asked(request, &[health::HEALTHZ, health::READYZ]),
    })
}

fn answer(
    agent: &Libvirt,
    service: Service,
    listener_stats: &ListenerStats,
    request: &Request,
    responder: &Responder,
) -> Response {
    match request.url().as_str() {
        events::PATH if is_read(request) => events::stream(agent.core.events(), request),
        health::HEALTHZ if is_read(request) => health::healthz(agent),
        health::READYZ if is_read(request) => health::readyz(agent),
        scrape::PATH if is_read(request) => {
            scrape::scrape(agent, listener_stats, request, responder)
        }
        // The page shows guests, which the port of the image store does not serve.
        page::PATH | page::PATH_WITHOUT_SLASH if service == Service::ImageStore => not_found(),
        page::PATH if is_read(request) => page::page(),
        page::PATH_WITHOUT_SLASH if is_read(request) => Response::redirect_308(page::PATH),
        health::HEALTHZ | health::READYZ | events::PATH | scrape::PATH => only_read(),
        page::PATH | page::PATH_WITHOUT_SLASH => only_read(),
        _ => not_found(),
    }
}

/// Returns the caller's address, for log lines.
fn client(caller: &Caller) -> String {
    let address = caller.origin.address();
    address.map_or_else(|| "unix".to_owned(), |address| address.ip().to_string())
}

/// The data of a call for the log line that the original writes for each (contract section 1).
struct Processed {
    began: Instant,
    url: String,
    user_agent: String,
    client: String,
}

impl Processed {
    /// Collects the data of this request; `None` where the log level has no such lines.
    fn of(request: &Request, responder: &Responder) -> Option<Self> {
        log_enabled!(Level::Info).then(|| Self {
            began: responder.arrived(),
            url: request.raw_url().to_owned(),
            user_agent: request.header("User-Agent").unwrap_or_default().to_owned(),
            client: client(responder.caller()),
        })
    }

    /// Logs the response, with the body's length where it is known.
    fn log(self, method: &str, response: Response) -> Response {
        let Self { began, url, user_agent, client } = self;
        let duration = began.elapsed().as_secs_f64();
        let (body, size) = response.data.into_reader_and_size();
        // A streamed response has no length yet; the log shows -1 instead.
        let length = size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1);
        info!(
            method, duration, url, status = response.status_code, size = length,
            "userAgent" = user_agent, client;
            "request processed"
        );
        let data = match size {
            Some(size) => ResponseBody::from_reader_and_size(body, size),
            None => ResponseBody::from_reader(body),
        };
        Response { data, ..response }
    }
}

/// Sends the response to a call, and logs it.
fn send(responder: Responder, processed: Option<Processed>, method: Option<&str>, it: Response) {
    responder.send(match processed {
        Some(processed) => processed.log(method.unwrap_or_default(), it),
        None => it,
    });
}

/// Sends the answer to a call of this method and body size. A handler's thread then returns the memory of a large
/// request to the system.
fn send_answer(
    responder: Responder,
    processed: Option<Processed>,
    (method, body_bytes): (Option<String>, usize),
    response: Response,
) {
    let may_block = responder.may_block();
    send(responder, processed, method.as_deref(), response);
    if may_block {
        rpc::give_back_after(body_bytes);
    }
}

/// Dispatches the calls of a request.
struct Calls {
    agent: Arc<Libvirt>,
    audit: Arc<Audit>,
    service: Service,
}

impl Calls {
    fn answer(self, version: Version, request: &Request, responder: Responder) {
        let processed = Processed::of(request, &responder);
        let body = match version {
            Version::V1 => call_body(request),
            Version::V2 => call_v2_body(request),
        };
        let body = match body {
            Ok(body) => body,
            Err(refusal) => return send(responder, processed, None, refusal),
        };
        let Self { agent, audit, service } = self;
        let (body_bytes, of) = (body.len(), (version, service));
        rpc::answer(&agent, &audit, of, &body, responder, move |responder, answered| {
            let response = respond(version, answered.answer);
            send_answer(responder, processed, (answered.method, body_bytes), response);
        });
    }

    /// Streams a snapshot; errors have the statuses of the contract and a text that ends with a line feed.
    fn download(self, request: &Request, responder: Responder) {
        let processed = Processed::of(request, &responder);
        if !matches!(request.method(), "POST" | "GET") {
            let refusal = refuse_download(405, "method not allowed; use POST or GET")
                .with_additional_header("Allow", "GET, POST");
            return send(responder, processed, None, refusal);
        }
        let body = match body(request) {
            Ok(body) => body,
            Err(unread) => return send(responder, processed, None, unread),
        };
        rpc::download(&self.agent, &body, responder, |responder, download| {
            let response = match download {
                Download::Stream(content) => Response {
                    status_code: 200,
                    headers: vec![("Content-Type".into(), "application/octet-stream".into())],
                    data: ResponseBody::from_reader(content),
                    upgrade: None,
                },
                Download::Refused(status, why) => refuse_download(status, &why),
            };
            send(responder, processed, None, response);
        });
    }
}

/// Returns the body of a call; checks the HTTP method first, then the content type.
///
/// # Errors
/// The response to send instead.
fn call_body(request: &Request) -> Result<Vec<u8>, Response> {
    let body = body(request)?;
    let kind = request.header("Content-Type");
    let is_json = is_json(kind);
    match request.method() {
        "POST" => {}
        // The owner's document calls with GET; in fact the original accepted POST alone.
        "GET" if is_json && !body.is_empty() => {}
        other => return Err(text(405, &format!("rpc: POST method required, received {other}"))),
    }
    if !is_json {
        let kind = media_type(kind);
        return Err(text(415, &format!("rpc: unrecognized Content-Type: {kind}")));
    }
    Ok(body)
}

fn respond(version: Version, answer: Answer) -> Response {
    match (answer, version) {
        (Answer::Result(answer), Version::V1) => json(answer),
        (Answer::Result(mut answer), Version::V2) => {
            // An answer of its own, not within a batch, is a line.
            answer.push(b'\n');
            json(answer)
        }
        (Answer::Nothing, Version::V2) => Response::empty_204(),
        (Answer::Nothing, Version::V1) => Response {
            status_code: 200,
            headers: vec![(NOSNIFF.0.into(), NOSNIFF.1.into())],
            data: ResponseBody::empty(),
            upgrade: None,
        },
        (Answer::Refused(why), _) => text(400, &why),
    }
}

/// Returns the body of a JSON-RPC 2.0 call. JSON-RPC has no errors for a wrong HTTP method or content type, so
/// these are checked before the body; every other call is answered with status 200, or 204 for an empty
/// response.
fn call_v2_body(request: &Request) -> Result<Vec<u8>, Response> {
    if request.method() != "POST" {
        let refusal = text(405, "method not allowed; use POST");
        return Err(refusal.with_additional_header("Allow", "POST"));
    }
    let kind = request.header("Content-Type");
    if !is_json(kind) {
        let kind = media_type(kind);
        let why = format!("unsupported Content-Type {kind:?}; use application/json");
        return Err(text(415, &why));
    }
    body(request)
}

/// Returns whether the content type is JSON.
fn is_json(content_type: Option<&str>) -> bool {
    media_type(content_type).trim().eq_ignore_ascii_case("application/json")
}

/// Returns the media type without parameters.
fn media_type(content_type: Option<&str>) -> &str {
    content_type.unwrap_or_default().split(';').next().unwrap_or_default()
}

fn json(answer: Vec<u8>) -> Response {
    Response::from_data(JSON, answer).with_additional_header(NOSNIFF.0, NOSNIFF.1)
}

fn refuse_download(status: u16, why: &str) -> Response {
    text(status, &format!("{why}\n")).with_additional_header(NOSNIFF.0, NOSNIFF.1)
}

/// Returns the request's body.
///
/// # Errors
/// The response to send instead. The front has bounded the body, and reads from memory do not fail.
fn body(request: &Request) -> Result<Vec<u8>, Response> {
    let mut body = Vec::new();
    match request.data().map(|mut data| data.read_to_end(&mut body)) {
        Some(Err(error)) => Err(text(400, &format!("cannot read the request body: {error}"))),
        _ => Ok(body),
    }
}
