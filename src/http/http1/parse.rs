//! The framing of HTTP/1: makes requests from bytes, without sockets.
//!
//! ```text
//! head --sized--> body ------------------------------> request
//!   '--chunked--> size -> data -> size -> ... -> trailer -^
//! ```
//! The same bytes give the same requests and the same refusal, however they are split.

use crate::config::HttpLimits;
use crate::http::http_stats::{Reason, Refusal};

use super::head::{self, Framing};
use super::request::{BODY_TOO_LARGE, Request, Version};

/// Memory that a connection keeps for reading while it is idle.
const BUFFER_BYTES_RETAINED: usize = 4096;

const CHUNK: Refusal = Refusal::malformed("malformed chunk");
const TRAILER: Refusal = Refusal::malformed("malformed trailer");

/// Splits a connection's bytes into requests as they arrive.
#[derive(Default)]
pub struct Parser {
    /// Received bytes that are not yet part of a request.
    buffer: Vec<u8>,
    /// The request whose head is complete.
    pending: Option<Pending>,
    /// Whether the last request head, complete or not, is HTTP/1.0.
    is_http_1_0: bool,
}

impl Parser {
    /// Adds received bytes.
    ///
    /// The buffer has no limit of its own: the caller must call [`Parser::next`] until it returns
    /// no request before it adds more. Then less than a head is left in the buffer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete request; `None` when more bytes are needed. `judge` is called once
    /// for each request, when its head is complete and before its body is read.
    ///
    /// # Errors
    /// The refusal of the received bytes, or that of `judge`. The bytes after a refused request
    /// have no meaning: the connection must be closed.
    pub fn next(
        &mut self,
        limits: &HttpLimits,
        judge: impl FnOnce(&Request) -> Result<(), Refusal>,
    ) -> Result<Option<Request>, Refusal> {
        let mut rest = self.buffer.as_slice();
        if self.pending.is_none() {
            skip_empty_lines(&mut rest);
            self.is_http_1_0 = head::names_http_1_0(rest);
        }
        let next = advance(&mut self.pending, &mut rest, limits, judge);
        let used = self.buffer.len() - rest.len();
        self.buffer.drain(..used);
        if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_BYTES_RETAINED {
            self.buffer = Vec::new();
        }
        next
    }

    /// Returns the HTTP version of the caller's last request, even if that was refused.
    pub fn version(&self) -> Version {
        if self.is_http_1_0 { Version::Http10 } else { Version::Http11 }
    }

    /// Returns whether a part of a request has arrived.
    pub fn has_started(&self) -> bool {
        self.pending.is_some() || !self.buffer.is_empty()
    }

    /// Returns the memory, in bytes, of the part of the body that has arrived.
    pub fn body_capacity(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.request.body.capacity())
    }

    /// Returns whether the caller waits for `100 Continue` now. It is `true` at most once per
    /// request.
    pub fn take_expectation(&mut self) -> bool {
        let nothing_after_the_head = self.buffer.is_empty();
        match &mut self.pending {
            Some(pending) if nothing_after_the_head && pending.request.body.is_empty() => {
                std::mem::take(&mut pending.expects_continue)
            }
            _ => false,
        }
    }
}

fn advance(
    pending: &mut Option<Pending>,
    rest: &mut &[u8],
    limits: &HttpLimits,
    judge: impl FnOnce(&Request) -> Result<(), Refusal>,
) -> Result<Option<Request>, Refusal> {
    let mut current = match pending.take() {
        Some(current) => current,
        None => {
            if rest.is_empty() {
                return Ok(None);
            }
            let Some(head) = head::parse(rest, limits)? else { return Ok(None) };
            *rest = rest.get(head.length..).unwrap_or_default();
            judge(&head.request)?;
            Pending::new(head)
        }
    };
    while current.body != Body::Complete {
        match current.step(rest, limits)? {
            Some(body) => current.body = body,
            None => {
                *pending = Some(current);
                return Ok(None);
            }
        }
    }
    Ok(Some(current.request))
}

/// Old clients send an empty line after a body. It starts no request, so a connection that sends
/// nothing else is idle and has the deadline of an idle connection.
fn skip_empty_lines(rest: &mut &[u8]) {
    while let Some(after) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
        *rest = after;
    }
}

/// A request whose body is arriving.
struct Pending {
    request: Request,
    body: Body,
    /// Bytes of chunk extensions and trailers so far: the parser ignores them, so they have a
    /// limit.
    ignored_bytes: usize,
    expects_continue: bool,
}

/// The next part of a body. The numbers are missing bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Sized(usize),
    ChunkSize,
    ChunkData(usize),
    Trailer,
    Complete,
}

impl Pending {
    fn new(head: head::Head) -> Self {
        let body = match head.framing {
            Framing::Sized(length) => Body::Sized(length),
            Framing::Chunked => Body::ChunkSize,
        };
        let expects_continue = head.expects_continue;
        Self { request: head.request, body, ignored_bytes: 0, expects_continue }
    }

    /// Takes the next part from `rest` and returns the state after it; `None` when the part is
    /// incomplete.
    fn step(&mut self, rest: &mut &[u8], limits: &HttpLimits) -> Result<Option<Body>, Refusal> {
        match self.body {
            Body::Complete | Body::Sized(0) => Ok(Some(Body::Complete)),
            Body::Sized(missing) => Ok(self.take_data(rest, missing).map(Body::Sized)),
            Body::ChunkData(0) => match rest.strip_prefix(b"\r\n") {
                Some(after) => {
                    *rest = after;
                    Ok(Some(Body::ChunkSize))
                }
                None if b"\r\n".starts_with(rest) => Ok(None),
                None => Err(CHUNK),
            },
            Body::ChunkData(missing) => Ok(self.take_data(rest, missing).map(Body::ChunkData)),
            Body::ChunkSize => match take_line(rest, limits.head_bytes)? {
                Some(line) => self.begin_chunk(line, limits).map(Some),
                None => Ok(None),
            },
            Body::Trailer => match take_line(rest, limits.head_bytes)? {
                Some([]) => Ok(Some(Body::Complete)),
                Some(line) => {
                    self.ignore(line, limits)?;
                    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
                    let is_field = name.len() < line.len() && head::is_token(name);
                    if is_field { Ok(Some(Body::Trailer)) } else { Err(TRAILER) }
                }
                None => Ok(None),
            },
        }
    }

    /// Moves up to `missing` bytes to the body and returns how many are still missing.
    fn take_data(&mut self, rest: &mut &[u8], missing: usize) -> Option<usize> {
        let (data, after) = rest.split_at_checked(missing).unwrap_or((rest, &[]));
        if data.is_empty() {
            return None;
        }
        self.request.body.extend_from_slice(data);
        *rest = after;
        Some(missing - data.len())
    }

    fn begin_chunk(&mut self, line: &[u8], limits: &HttpLimits) -> Result<Body, Refusal> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at_checked(digits).ok_or(CHUNK)?;
        if !matches!(extension.trim_ascii_start(), [] | [b';', ..]) {
            return Err(CHUNK);
        }
        self.ignore(extension, limits)?;
        let size = std::str::from_utf8(size).ok().filter(|it| !it.is_empty()).ok_or(CHUNK)?;
        // All are hexadecimal digits, so only an overflow fails.
        let size = usize::from_str_radix(size, 16).map_err(|_| BODY_TOO_LARGE)?;
        if size > limits.body_bytes.saturating_sub(self.request.body.len()) {
            return Err(BODY_TOO_LARGE);
        }
        Ok(if size == 0 { Body::Trailer } else { Body::ChunkData(size) })
    }

    fn ignore(&mut self, bytes: &[u8], limits: &HttpLimits) -> Result<(), Refusal> {
        self.ignored_bytes += bytes.len();
        let sentence = "too many chunk extensions or trailers";
        if self.ignored_bytes > limits.head_bytes {
            return Err(Refusal { reason: Reason::Head, sentence });
        }
        Ok(())
    }
}

/// Takes a line of at most `bytes_max` bytes including its end, and returns it without the end.
fn take_line<'a>(rest: &mut &'a [u8], bytes_max: usize) -> Result<Option<&'a [u8]>, Refusal> {
    let window = rest.get(..bytes_max).unwrap_or(rest);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if rest.len() >= bytes_max { Err(CHUNK) } else { Ok(None) };
    };
    let (line, after) = rest.split_at_checked(end + 1).ok_or(CHUNK)?;
    *rest = after;
    let line = line.strip_suffix(b"\r\n").ok_or(CHUNK)?;
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(CHUNK);
    }
    Ok(Some(line))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
