//! The head of a request: httparse parses it; this module interprets it and refuses what is not
//! supported.
//!
//! A head that two programs could frame differently is refused, so that a proxy in front of the
//! agent always sees the same requests as the agent.

use std::mem::MaybeUninit;

use crate::config::HttpLimits;
use crate::config::fixed::HEADERS_MAX;
use crate::fetch::is_uri;
use crate::http::http_stats::{Reason, Refusal};

use super::request::{BODY_TOO_LARGE, Persistence, Request, Version};

const HEAD_TOO_LARGE: Refusal =
    Refusal { reason: Reason::Head, sentence: "the request's head is too large" };
const CODING: Refusal =
    Refusal { reason: Reason::Coding, sentence: "unsupported Transfer-Encoding; use chunked" };
const ENCODING: Refusal = Refusal {
    reason: Reason::Encoding,
    sentence: "unsupported Content-Encoding; send the body uncompressed",
};
const TARGET_TOO_LONG: Refusal =
    Refusal { reason: Reason::Target, sentence: "the request's target is too long" };
const CODING_NOT_LAST: Refusal =
    Refusal::malformed("chunked must be the last transfer coding, once");
const LENGTH: Refusal = Refusal::malformed("malformed Content-Length");
const TARGET: Refusal = Refusal::malformed("malformed request target");

/// A complete and valid head.
pub(crate) struct Head {
    /// The request, with an empty body.
    pub(in crate::http) request: Request,
    pub(super) framing: Framing,
    /// The caller waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// The length of the head in bytes.
    pub(super) length: usize,
}

/// How the end of the body is determined.
#[derive(Clone, Copy)]
pub(super) enum Framing {
    /// By a length in bytes, within the limit.
    Sized(usize),
    Chunked,
}

/// Parses a head at the beginning of `bytes`; returns `None` while the head is incomplete.
///
/// # Errors
/// The refusal of a head that is malformed, contradicts itself or is over a limit.
pub(crate) fn parse(bytes: &[u8], limits: &HttpLimits) -> Result<Option<Head>, Refusal> {
    // The limit is applied first, so that the result does not depend on how the bytes arrive.
    let bytes = bytes.get(..limits.head_bytes).unwrap_or(bytes);
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let slots = slots.get_mut(..limits.headers.min(HEADERS_MAX)).unwrap_or_default();
    let mut raw = httparse::Request::new(&mut []);
    match raw.parse_with_uninit_headers(bytes, slots) {
        Ok(httparse::Status::Complete(length)) => interpret(&raw, length, limits).map(Some),
        Ok(httparse::Status::Partial) if bytes.len() >= limits.head_bytes => {
            // A request line without an end that already has its target.
            let is_target = !bytes.contains(&b'\n') && bytes.contains(&b' ');
            Err(if is_target { TARGET_TOO_LONG } else { HEAD_TOO_LARGE })
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(explain(error, bytes)),
    }
}

fn explain(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal { reason: Reason::Head, sentence: "the request has too many headers" }
        }
        httparse::Error::HeaderName => Refusal::malformed("malformed header name"),
        httparse::Error::HeaderValue => Refusal::malformed("malformed header value"),
        httparse::Error::Version if names_a_version(bytes) => {
            Refusal { reason: Reason::Version, sentence: "use HTTP/1.0 or HTTP/1.1" }
        }
        _ => Refusal::malformed("malformed request line"),
    }
}

/// Returns whether the first line is complete and ends with HTTP/1.0.
pub(super) fn names_http_1_0(bytes: &[u8]) -> bool {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    lines.next().is_some() && first.trim_ascii_end().ends_with(b" HTTP/1.0")
}

/// Returns whether the third word starts like an HTTP version; if its first digit is not 1, that
/// digit is enough. Called only after httparse has refused that word, which it does at the first
/// wrong byte: no byte after that one may count.
fn names_a_version(bytes: &[u8]) -> bool {
    let version = bytes.split(|byte| *byte == b' ').nth(2).unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some([b'1', b'.', minor, ..]) => minor.is_ascii_digit(),
        Some([major, ..]) => major.is_ascii_digit() && *major != b'1',
        _ => false,
    }
}

fn interpret(
    raw: &httparse::Request<'_, '_>,
    length: usize,
    limits: &HttpLimits,
) -> Result<Head, Refusal> {
    // All three are set in a complete head.
    let method = raw.method.unwrap_or_default();
    let target = raw.path.unwrap_or_default();
    let is_http_1_1 = raw.version == Some(1);

    let mut fields = Fields::default();
    for header in raw.headers.iter() {
        fields.note(header.name, header.value)?;
    }
    if fields.hosts > 1 || (is_http_1_1 && fields.hosts == 0) {
        return Err(Refusal::malformed("a request needs exactly one Host header"));
    }
    if fields.expects_other && is_http_1_1 {
        let sentence = "unsupported Expect; only 100-continue is supported";
        return Err(Refusal { reason: Reason::Expectation, sentence });
    }
    let framing = fields.framing(is_http_1_1, limits)?;

    let (target, authority) = origin_form(method, target)?;
    let added_host = authority.filter(|_| fields.hosts == 0);
    let headers = raw.headers.iter().map(|header| {
        let value = match authority {
            // RFC 9112, section 3.2.2: the authority in the target stands above Host.
            Some(authority) if is(header.name, "host") => authority.to_owned(),
            _ => String::from_utf8_lossy(header.value).into_owned(),
        };
        (header.name.to_owned(), value)
    });
    let request = Request {
        method: method.to_owned(),
        target,
        headers: headers.chain(added_host.map(|it| ("Host".to_owned(), it.to_owned()))).collect(),
        body: Vec::new(),
        persistence: match (is_http_1_1, fields.close, fields.keep_alive) {
            (_, true, _) | (false, false, false) => Persistence::Close,
            (true, false, _) => Persistence::Implied,
            (false, false, true) => Persistence::Asked,
        },
        version: if is_http_1_1 { Version::Http11 } else { Version::Http10 },
    };
    let expects_continue = fields.expects_continue && is_http_1_1;
    Ok(Head { request, framing, expects_continue, length })
}

/// Returns the path and query of a target, and its authority if it has one.
fn origin_form<'a>(method: &str, target: &'a str) -> Result<(String, Option<&'a str>), Refusal> {
    if method == "CONNECT" {
        return Err(Refusal::malformed("CONNECT is not supported: this is not a proxy"));
    }
    if !is_uri(target, b"-._~!$&'()*+,;=:@/?[]") {
        return Err(TARGET);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target.to_owned(), None));
    }
    let (scheme, rest) = target.split_once("://").ok_or(TARGET)?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is(scheme, "http") || authority.is_empty() || authority.contains('@') {
        return Err(TARGET);
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((format!("{slash}{path}"), Some(authority)))
}

/// The headers that concern framing and the connection.
#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    /// Transfer codings, where `true` is chunked.
    codings: Vec<bool>,
    expects_continue: bool,
    expects_other: bool,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    fn note(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        if is(name, "host") {
            self.hosts += 1;
        } else if is(name, "content-length") {
            let length = content_length(value)?;
            if self.length.is_some_and(|before| before != length) {
                return Err(LENGTH);
            }
            self.length = Some(length);
        } else if is(name, "transfer-encoding") {
            let codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            self.codings.extend(codings.map(|coding| coding.eq_ignore_ascii_case(b"chunked")));
        } else if is(name, "content-encoding") {
            let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            if !codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
            {
                return Err(ENCODING);
            }
        } else if is(name, "expect") {
            let known = value.eq_ignore_ascii_case(b"100-continue");
            self.expects_continue |= known;
            self.expects_other |= !known;
        } else if is(name, "connection") {
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    fn framing(&self, is_http_1_1: bool, limits: &HttpLimits) -> Result<Framing, Refusal> {
        match (self.codings.as_slice(), self.length) {
            ([], None) => Ok(Framing::Sized(0)),
            ([], Some(length)) => match usize::try_from(length) {
                Ok(length) if length <= limits.body_bytes => Ok(Framing::Sized(length)),
                _ => Err(BODY_TOO_LARGE),
            },
            (_, Some(_)) => Err(Refusal::malformed("Content-Length with Transfer-Encoding")),
            // HTTP/1.0 has no transfer codings: a proxy passed on a header that it did not
            // understand.
            _ if !is_http_1_1 => Err(Refusal::malformed("Transfer-Encoding in HTTP/1.0")),
            ([true], None) => Ok(Framing::Chunked),
            // RFC 9112, sections 6.1 and 6.3: otherwise the end of the body is undefined.
            ([others @ .., true], None) if !others.contains(&true) => Err(CODING),
            _ => Err(CODING_NOT_LAST),
        }
    }
}

/// Parses digits only: no sign, no list, no blank. A number over 64 bits exceeds every limit.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    // `str::parse` alone would accept a leading plus.
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(LENGTH);
    }
    let digits = std::str::from_utf8(value).map_err(|_| LENGTH)?;
    Ok(digits.parse().unwrap_or(u64::MAX))
}

/// Returns whether this can be the name of a header: letters, digits and the other characters of
/// RFC 9110.
pub(super) fn is_token(name: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(is_allowed)
}

fn is(name: &str, expected: &str) -> bool {
    name.eq_ignore_ascii_case(expected)
}
