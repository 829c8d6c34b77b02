//! Which path means what, and the codes and texts of contract section 2.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use log::{Level, info, log_enabled};
use rouille::{Request, Response, ResponseBody};

use crate::http::responses::{JSON, NOSNIFF, is_read, not_found, only_read, text};
use crate::http::{Handler, Shortcut, Tallies, Waiting, events, health, page, scrape};
use crate::ops::Libvirt;
use crate::os::peer::Caller;
use crate::rpc::{self, Answer, Asking, Audit, Behalf, Download, Inbound, Service};

/// Where the orchestrator calls.
const RPC_PATH: &str = "/_mistify_RPC_";
/// Where everybody else calls: JSON-RPC 2.0.
const RPC_V2_PATH: &str = "/rpc";
/// A poll beyond this is left to a handler, so that the front does not read long ones: that of a guest
/// of common size takes 2 KiB.
const SHORT_BYTES: usize = 4 * 1024;
/// Where it fetches the content of snapshots from.
const DOWNLOAD_PATH: &str = "/snapshots/download";

/// What a front is given: every request to this service of the agent goes through here. The counts
/// of all fronts are shown among the metrics.
pub fn handler(
    agent: Arc<Libvirt>,
    audit: Arc<Audit>,
    service: Service,
    tallies: Tallies,
) -> Handler {
    Arc::new(move |request, context| {
        let by = Behalf { caller: context.caller(), audit: &audit, inbound: Some(context) };
        route(&agent, service, &tallies, request, by)
    })
}

/// Answers requests for the agent's health, and posts short calls of methods that are one question to libvirt.
/// A worker answers these.
pub fn shortcut(agent: Arc<Libvirt>, service: Service) -> Shortcut {
    Arc::new(move |request, caller, take| {
        if request.target != RPC_PATH {
            return health::take_health(&agent, request, take);
        }
        let header = |name: &str| {
            let mut headers = request.headers.iter();
            headers.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
        };
        if request.method != "POST"
            || request.body.len() > SHORT_BYTES
            || !is_json(header("Content-Type"))
        {
            return;
        }
        let log = log_enabled!(Level::Info).then(|| Processed {
            began: Instant::now(),
            url: request.target.clone(),
            user_agent: header("User-Agent").unwrap_or_default().to_owned(),
            client: client(caller),
        });
        rpc::post(&agent, service, caller.share(), &request.body, || {
            let reply = take();
            move |answered| {
                let method = answered.method.as_deref().unwrap_or_default();
                let response = respond(answered.answer);
                reply.send(match &log {
                    Some(log) => log.response(method, response),
                    None => response,
                });
            }
        });
    })
}

/// Has calls wait for their permits in the agent's pool.
pub fn waiting(agent: Arc<Libvirt>) -> Waiting {
    Arc::new(move |Asking { share, deadline }, then| {
        agent.pool().permit_later(share, deadline, then);
    })
}

fn route(
    agent: &Libvirt,
    service: Service,
    tallies: &Tallies,
    request: &Request,
    by: Behalf<'_>,
) -> Response {
    match request.url().as_str() {
        RPC_PATH => processed(request, by, |method| call(agent, service, request, by, method)),
        RPC_V2_PATH => {
            processed(request, by, |method| call_v2(agent, service, request, by, method))
        }
        DOWNLOAD_PATH if service == Service::ImageStore => {
            processed(request, by, |_| download(agent, request, by))
        }
        events::PATH if is_read(request) => events::stream(agent.events(), request),
        health::HEALTHZ if is_read(request) => health::healthz(agent),
        health::READYZ if is_read(request) => health::readyz(agent),
        scrape::PATH if is_read(request) => scrape::scrape(agent, tallies, request, by.inbound),
        // It is about guests, which the image store's port knows nothing of.
        page::PATH | page::PATH_WITHOUT_SLASH if service == Service::ImageStore => not_found(),
        page::PATH if is_read(request) => page::page(),
        page::PATH_WITHOUT_SLASH if is_read(request) => Response::redirect_308(page::PATH),
        health::HEALTHZ | health::READYZ | events::PATH | scrape::PATH => only_read(),
        page::PATH | page::PATH_WITHOUT_SLASH => only_read(),
        _ => not_found(),
    }
}

/// Answers, and logs that. `answer` says which method was called, where it could be understood.
fn processed(
    request: &Request,
    by: Behalf<'_>,
    answer: impl FnOnce(&mut String) -> Response,
) -> Response {
    let began = by.inbound.map_or_else(Instant::now, Inbound::arrived);
    let mut method = String::new();
    let response = answer(&mut method);
    if by.inbound.is_some_and(Inbound::is_parked) || !log_enabled!(Level::Info) {
        return response;
    }
    let processed = Processed {
        began,
        url: request.raw_url().to_owned(),
        user_agent: request.header("User-Agent").unwrap_or_default().to_owned(),
        client: client(by.caller),
    };
    processed.response(&method, response)
}

/// The caller's address, for log lines.
fn client(caller: &Caller) -> String {
    let address = caller.origin.address();
    address.map_or_else(|| "unix".to_owned(), |address| address.ip().to_string())
}

/// A call, for the line that the original has for each (contract section 1).
struct Processed {
    began: Instant,
    url: String,
    user_agent: String,
    client: String,
}

impl Processed {
    /// Logs that it was answered so, with the body's length where that is known.
    fn response(&self, method: &str, response: Response) -> Response {
        let Self { began, url, user_agent, client } = self;
        let duration = began.elapsed().as_secs_f64();
        let (body, size) = response.data.into_reader_and_size();
        // What is streamed has no length yet, as HTTP says it: -1.
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

/// The verb is checked first, then the type, then what the body says. `method` is told what is
/// called.
fn call(
    agent: &Libvirt,
    service: Service,
    request: &Request,
    by: Behalf<'_>,
    method: &mut String,
) -> Response {
    let body = match body(request) {
        Ok(body) => body,
        Err(unread) => return unread,
    };
    let kind = request.header("Content-Type");
    let is_json = is_json(kind);
    match request.method() {
        "POST" => {}
        // The owner's document calls with GET; the original in truth took POST alone.
        "GET" if is_json && !body.is_empty() => {}
        other => return text(405, &format!("rpc: POST method required, received {other}")),
    }
    if !is_json {
        let kind = media_type(kind);
        return text(415, &format!("rpc: unrecognized Content-Type: {kind}"));
    }
    let answered = rpc::answer(agent, service, &body, by);
    *method = answered.method.unwrap_or_default();
    respond(answered.answer)
}

fn respond(answer: Answer) -> Response {
    match answer {
        Answer::Result(answer) => json(answer),
        Answer::Nothing => Response {
            status_code: 200,
            headers: vec![(NOSNIFF.0.into(), NOSNIFF.1.into())],
            data: ResponseBody::empty(),
            upgrade: None,
        },
        Answer::Refused(why) => text(400, &why),
    }
}

/// What JSON-RPC 2.0 has no words for, verb and type, is checked before the body; all else is
/// answered with status 200, or 204 where there is nothing to say.
fn call_v2(
    agent: &Libvirt,
    service: Service,
    request: &Request,
    by: Behalf<'_>,
    method: &mut String,
) -> Response {
    if request.method() != "POST" {
        return text(405, "method not allowed; use POST").with_additional_header("Allow", "POST");
    }
    let kind = request.header("Content-Type");
    if !is_json(kind) {
        let kind = media_type(kind);
        return text(415, &format!("unsupported Content-Type {kind:?}; use application/json"));
    }
    let body = match body(request) {
        Ok(body) => body,
        Err(unread) => return unread,
    };
    let answered = rpc::answer_v2(agent, service, &body, by);
    *method = answered.method.unwrap_or_default();
    answered.answer.map_or_else(Response::empty_204, json)
}

/// Whether the body is said to be JSON.
fn is_json(content_type: Option<&str>) -> bool {
    media_type(content_type).trim().eq_ignore_ascii_case("application/json")
}

/// What the body is said to be, without parameters.
fn media_type(content_type: Option<&str>) -> &str {
    content_type.unwrap_or_default().split(';').next().unwrap_or_default()
}

fn json(answer: Vec<u8>) -> Response {
    Response::from_data(JSON, answer).with_additional_header(NOSNIFF.0, NOSNIFF.1)
}

/// Streams a snapshot; errors have the statuses of the contract and a line that ends.
fn download(agent: &Libvirt, request: &Request, by: Behalf<'_>) -> Response {
    let refuse = |status, why: &str| {
        text(status, &format!("{why}\n")).with_additional_header(NOSNIFF.0, NOSNIFF.1)
    };
    if !matches!(request.method(), "POST" | "GET") {
        return refuse(405, "method not allowed; use POST or GET")
            .with_additional_header("Allow", "GET, POST");
    }
    let body = match body(request) {
        Ok(body) => body,
        Err(unread) => return unread,
    };
    match rpc::download(agent, &body, by) {
        Download::Stream(content) => Response {
            status_code: 200,
            headers: vec![("Content-Type".into(), "application/octet-stream".into())],
            data: ResponseBody::from_reader(content),
            upgrade: None,
        },
        Download::Refused(status, why) => refuse(status, &why),
    }
}

/// The request's body.
///
/// # Errors
/// The answer instead; the front has bounded the body, and reads from memory do not fail.
fn body(request: &Request) -> Result<Vec<u8>, Response> {
    let mut body = Vec::new();
    match request.data().map(|mut data| data.read_to_end(&mut body)) {
        Some(Err(error)) => Err(text(400, &format!("cannot read the request body: {error}"))),
        _ => Ok(body),
    }
}
