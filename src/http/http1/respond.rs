//! Encoding of responses.

use std::borrow::Cow;
use std::io::{self, Read};
use std::time::SystemTime;

use crate::http::http_stats::{Reason, Refusal};
use crate::os::clock;

use super::head;
use super::request::{Persistence, Version};

/// A response of this type ends only when its listener disconnects or the agent stops.
pub(in crate::http) const EVENT_STREAM: &str = "text/event-stream";
/// The response that a caller with `Expect: 100-continue` waits for.
pub(in crate::http) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A response as it is sent.
pub(in crate::http) struct Encoded {
    pub(in crate::http) bytes: Vec<u8>,
    pub(in crate::http) persistence: Persistence,
    /// A body of unknown length: it follows, and the connection is closed after it.
    pub(in crate::http) stream: Option<Streamed>,
}

/// A body that is sent while it is produced.
pub(crate) struct Streamed {
    pub(in crate::http) body: Box<dyn Read + Send>,
    pub(in crate::http) kind: Kind,
    /// Whether it is sent in chunks, which HTTP/1.0 does not have.
    pub(in crate::http) in_chunks: bool,
}

/// The kinds of streams, which have separate limits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Kind {
    /// Ends when the whole content is sent.
    Content,
    /// Lasts as long as its listener stays connected, and is mostly idle.
    Events,
}

/// Whether the caller wants the body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Wanted {
    /// Head and body.
    All,
    /// The same head without the body, for HEAD.
    Head,
}

/// Why a response was not encoded.
#[derive(Debug)]
pub(in crate::http) enum EncodeError {
    /// The budget has no room for the response.
    NoRoom,
    /// The handler's response cannot be sent.
    Unusable(io::Error),
}

impl From<io::Error> for EncodeError {
    fn from(error: io::Error) -> Self {
        Self::Unusable(error)
    }
}

/// Returns the bytes that a response with such a body takes: as the handler made it, and as it is sent.
pub(in crate::http) const fn room_of(body_bytes: usize) -> usize {
    2 * body_bytes
}

/// Encodes a handler's response. The front sets length, date and connection. A body of unknown length
/// is left to be streamed. `reserve` is called with the bytes that the response takes, before the body
/// is copied.
///
/// # Errors
/// When the memory budget has no room; when the body cannot be read, or is longer than
/// `body_bytes_max`.
///
/// # Blocking
/// As long as the body's reader blocks.
pub(in crate::http) fn encode(
    response: rouille::Response,
    wanted: Wanted,
    (version, persistence): (Version, Persistence),
    body_bytes_max: usize,
    reserve: impl FnOnce(usize) -> bool,
) -> Result<Encoded, EncodeError> {
    let status = match response.status_code {
        status @ 200..=599 => status,
        status => Err(io::Error::other(format!("{status} is not a final status")))?,
    };
    let (reader, length) = response.data.into_reader_and_size();
    let has_body = !matches!(status, 204 | 304);
    let in_chunks = version == Version::Http11;
    let chunked = in_chunks.then_some(CHUNKED);
    let (body, framing, stream) = match (wanted, length) {
        _ if !has_body => (Vec::new(), None, None),
        (Wanted::Head, None) => (Vec::new(), chunked, None),
        (Wanted::All, None) => {
            let is_type = |(name, value): &(Cow<'_, str>, Cow<'_, str>)| {
                name.eq_ignore_ascii_case("content-type") && value == EVENT_STREAM
            };
            let is_events = response.headers.iter().any(is_type);
            let kind = if is_events { Kind::Events } else { Kind::Content };
            (Vec::new(), chunked, Some(Streamed { body: reader, kind, in_chunks }))
        }
        (Wanted::Head, Some(length)) => (Vec::new(), Some(sized(length)), None),
        (Wanted::All, Some(length)) => {
            if !reserve(room_of(length.min(body_bytes_max))) {
                return Err(EncodeError::NoRoom);
            }
            let body = read_body(reader, length, body_bytes_max)?;
            let framing = sized(body.len());
            (body, Some(framing), None)
        }
    };

    let mut head = String::with_capacity(256 + body.len());
    push_status(&mut head, version, status);
    let mut persistence = if stream.is_some() { Persistence::Close } else { persistence };
    for (name, value) in &response.headers {
        match name.to_ascii_lowercase().as_str() {
            "content-length" | "transfer-encoding" | "date" => {}
            "connection" if value.eq_ignore_ascii_case("close") => persistence = Persistence::Close,
            "connection" => {}
            _ if head::is_token(name.as_bytes()) && is_value(value) => {
                push_header(&mut head, name, value)
            }
            _ => log::warn!("malformed response header left out: name={name:?}"),
        }
    }
    if let Some((name, value)) = framing {
        push_header(&mut head, name, &value);
    }
    push_end(&mut head, persistence);
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    Ok(Encoded { bytes, persistence, stream })
}

/// The header that determines where a body ends.
type Framing = (&'static str, Cow<'static, str>);

const CHUNKED: Framing = ("Transfer-Encoding", Cow::Borrowed("chunked"));

fn sized(length: usize) -> Framing {
    ("Content-Length", Cow::Owned(length.to_string()))
}

/// Encodes the response to a refused request; its connection is closed.
pub(in crate::http) fn encode_refusal(refusal: &Refusal, version: Version) -> Vec<u8> {
    let mut text = String::with_capacity(256);
    push_status(&mut text, version, refusal.reason.status());
    push_header(&mut text, "Content-Type", "text/plain; charset=utf-8");
    push_header(&mut text, "Content-Length", &refusal.sentence.len().to_string());
    if refusal.reason == Reason::Token {
        push_header(&mut text, "WWW-Authenticate", "Bearer");
    }
    if refusal.reason == Reason::Encoding {
        // RFC 9110, section 12.5.3: in a response of 415 this header lists the codings that a request
        // may have.
        push_header(&mut text, "Accept-Encoding", "identity");
    }
    push_end(&mut text, Persistence::Close);
    text.push_str(refusal.sentence);
    text.into_bytes()
}

/// Encodes status 500 with an empty body, as the original agent answers when a handler fails.
pub(in crate::http) fn encode_failure(version: Version, persistence: Persistence) -> Encoded {
    let mut text = String::with_capacity(128);
    push_status(&mut text, version, 500);
    push_header(&mut text, "Content-Length", "0");
    push_end(&mut text, persistence);
    Encoded { bytes: text.into_bytes(), persistence, stream: None }
}

fn read_body(reader: impl Read, length: usize, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(length.min(bytes_max));
    // One byte more than the limit is enough to detect a body over it.
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut body)?;
    if body.len() > bytes_max {
        return Err(io::Error::other(format!("the body is larger than {bytes_max} bytes")));
    }
    Ok(body)
}

/// Writes the status line with the caller's version, as some HTTP/1.0 clients accept no other.
fn push_status(head: &mut String, version: Version, status: u16) {
    head.push_str(match version {
        Version::Http10 => "HTTP/1.0 ",
        Version::Http11 => "HTTP/1.1 ",
    });
    head.push_str(&status.to_string());
    head.push(' ');
    head.push_str(reason_phrase(status));
    head.push_str("\r\n");
}

fn push_header(head: &mut String, name: &str, value: &str) {
    head.push_str(name);
    head.push_str(": ");
    head.push_str(value);
    head.push_str("\r\n");
}

fn push_end(head: &mut String, persistence: Persistence) {
    push_header(head, "Date", &clock::http_date(SystemTime::now()));
    match persistence {
        Persistence::Implied => {}
        Persistence::Asked => push_header(head, "Connection", "keep-alive"),
        Persistence::Close => push_header(head, "Connection", "close"),
    }
    head.push_str("\r\n");
}

/// Returns whether a value can be written without splitting the header or the response.
fn is_value(value: &str) -> bool {
    !value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t')
}

/// Returns the customary phrase, or an empty one: no client depends on it.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rouille::{Response, ResponseBody};

    const IMPLIED: (Version, Persistence) = (Version::Http11, Persistence::Implied);

    fn text(response: Response, wanted: Wanted, persistence: Persistence) -> String {
        let encoded =
            encode(response, wanted, (Version::Http11, persistence), 100, |_| true).unwrap();
        let text = String::from_utf8(encoded.bytes).unwrap();
        // The date differs from run to run.
        let lines = text.split("\r\n").filter(|line| !line.starts_with("Date: "));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn handler_headers_precede_server_headers() {
        let response = Response::text("hello").with_additional_header("X-Thing", "a b");
        assert_eq!(
            text(response, Wanted::All, Persistence::Implied),
            "HTTP/1.1 200 OK\nContent-Type: text/plain; charset=utf-8\nX-Thing: a b\n\
             Content-Length: 5\n\nhello"
        );
    }

    #[test]
    fn head_answer_has_the_length_of_the_omitted_body() {
        let response = Response::from_data("a/b", "hello");
        assert_eq!(
            text(response, Wanted::Head, Persistence::Asked),
            "HTTP/1.1 200 OK\nContent-Type: a/b\nContent-Length: 5\nConnection: keep-alive\n\n"
        );
    }

    #[test]
    fn body_of_unknown_length_is_streamed_except_for_head() {
        let all = (Wanted::All, Version::Http11, "Connection: close\n");
        let old = (Wanted::All, Version::Http10, "Connection: close\n");
        for (wanted, version, connection) in [all, old, (Wanted::Head, Version::Http11, "")] {
            let mut response = Response::from_data("a/b", "");
            response.data = ResponseBody::from_reader(&b"hello"[..]);
            let encoded =
                encode(response, wanted, (version, Persistence::Implied), 0, |_| true).unwrap();
            assert_eq!(encoded.stream.is_some(), wanted == Wanted::All);
            let text = String::from_utf8(encoded.bytes).unwrap().replace("\r\n", "\n");
            let (head, date) = text.split_once("Date: ").unwrap();
            let expected = match version {
                Version::Http10 => "HTTP/1.0 200 OK\nContent-Type: a/b\n",
                Version::Http11 => {
                    "HTTP/1.1 200 OK\nContent-Type: a/b\nTransfer-Encoding: chunked\n"
                }
            };
            assert_eq!(head, expected);
            assert!(date.ends_with(&format!("GMT\n{connection}\n")), "{date}");
        }
    }

    #[test]
    fn a_body_has_the_length_it_turns_out_to_have() {
        let mut response = Response::from_data("a/b", "");
        response.data = ResponseBody::from_reader_and_size(&b"hello"[..], 9);
        let text = text(response, Wanted::All, Persistence::Implied);
        assert!(text.ends_with("Content-Length: 5\n\nhello"), "{text}");
    }

    #[test]
    fn no_content_has_no_length_and_no_body() {
        for status in [204, 304] {
            let response = Response::text("left over").with_status_code(status);
            let text = text(response, Wanted::All, Persistence::Close);
            assert!(!text.contains("Length"), "{text}");
            assert!(text.ends_with("Connection: close\n\n"), "{text}");
        }
    }

    #[test]
    fn a_header_cannot_split_the_answer() {
        let response = Response::text("")
            .with_additional_header("X-A", "a\r\nX-Evil: 1")
            .with_additional_header("X-B\r\nX-Evil", "1")
            .with_additional_header("X-C", "a\0")
            .with_additional_header("Content-Length", "7")
            .with_additional_header("Transfer-Encoding", "chunked");
        let text = text(response, Wanted::All, Persistence::Implied);
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\nContent-Type: text/plain; charset=utf-8\nContent-Length: 0\n\n"
        );
    }

    #[test]
    fn a_handler_can_close_the_connection() {
        let response = Response::text("").with_additional_header("Connection", "Close");
        let encoded = encode(response, Wanted::All, IMPLIED, 0, |_| true).unwrap();
        assert_eq!(encoded.persistence, Persistence::Close);
        assert!(encoded.bytes.ends_with(b"\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn oversized_body_and_invalid_status_are_errors() {
        let encode = |response| encode(response, Wanted::All, IMPLIED, 100, |_| true).is_ok();
        assert!(encode(Response::from_data("a/b", vec![0; 100])));
        assert!(!encode(Response::from_data("a/b", vec![0; 101])));
        let mut endless = Response::text("");
        endless.data = ResponseBody::from_reader_and_size(io::repeat(0), 100);
        assert!(!encode(endless));
        for status in [0, 101, 199, 600] {
            assert!(!encode(Response::text("").with_status_code(status)));
        }
    }

    #[test]
    fn answer_without_room_is_not_copied() {
        let mut wanted = Vec::new();
        let response = Response::from_data("a/b", vec![0; 70]);
        let encoded = encode(response, Wanted::All, IMPLIED, 100, |bytes| {
            wanted.push(bytes);
            false
        });
        assert!(matches!(encoded, Err(EncodeError::NoRoom)));
        assert_eq!(wanted, [140]);
    }

    #[test]
    fn every_refusal_has_a_phrase() {
        for reason in Reason::ALL {
            let bytes = encode_refusal(&Refusal { reason, sentence: "no" }, Version::Http11);
            let text = String::from_utf8(bytes).unwrap();
            let status = reason.status();
            assert!(!text.starts_with(&format!("HTTP/1.1 {status} \r\n")), "{text}");
            assert!(text.ends_with("\r\nConnection: close\r\n\r\nno"), "{text}");
            assert_eq!(text.contains("\r\nWWW-Authenticate: Bearer\r\n"), status == 401);
            assert_eq!(text.contains("\r\nAccept-Encoding: identity\r\n"), status == 415);
        }
    }
}
