//! A client that keeps its connection open and does little else, so that the figures are the
//! server's.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str;
use std::time::Duration;

use serde_json::{Value, json};

/// Longer than any answer may take.
const LATE: Duration = Duration::from_secs(300);
/// The first size of the buffer for an answer, in bytes. The buffer doubles for a longer answer.
const ROOM: usize = 16 * 1024;

/// A persistent connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One answer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: Cow<'a, [u8]>,
}

#[derive(Clone, Copy)]
enum Length {
    Bytes(usize),
    Chunked,
}

/// The head of an answer.
#[derive(Clone, Copy)]
struct Head {
    status: u16,
    body_at: usize,
    length: Length,
}

impl Connection {
    /// Connects; `None` if no server listens (yet).
    pub(crate) fn open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).expect("TCP has this option");
        stream.set_read_timeout(Some(LATE)).expect("a time above zero");
        Some(Self { stream, buffer: vec![0; ROOM] })
    }

    /// Sends a request in one write, and returns the answer; `None` if the server has closed the connection.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Option<Answer<'_>> {
        self.stream.write_all(request).ok()?;
        let (mut filled, mut head) = (0, None);
        loop {
            if filled == self.buffer.len() {
                self.buffer.resize(2 * filled, 0);
            }
            let count = self.stream.read(&mut self.buffer[filled..]).ok()?;
            if count == 0 {
                return None;
            }
            filled += count;
            head = head.or_else(|| Head::read(&self.buffer[..filled]));
            let Some(Head { status, body_at, length }) = head else { continue };
            let is_whole = match length {
                Length::Bytes(count) => filled >= body_at + count,
                Length::Chunked => self.buffer[..filled].ends_with(b"\r\n0\r\n\r\n"),
            };
            if is_whole {
                let body = &self.buffer[body_at..filled];
                let body = match length {
                    Length::Bytes(count) => Cow::Borrowed(&body[..count]),
                    Length::Chunked => Cow::Owned(joined(body)),
                };
                return Some(Answer { status, body });
            }
        }
    }
}

/// Returns a complete call of `Libvirt.<method>`, with the headers of the orchestrator's Go client.
pub(crate) fn call(address: SocketAddr, method: &str, params: &Value) -> Vec<u8> {
    let body = json!({ "method": format!("Libvirt.{method}"), "params": [params], "id": 1 });
    let body = body.to_string();
    format!(
        "POST /_mistify_RPC_ HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n\
         {body}",
        body.len()
    )
    .into_bytes()
}

impl Answer<'_> {
    /// Returns the body as text.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

impl Head {
    /// Reads a head; `None` until it is complete.
    fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = str::from_utf8(&bytes[..end]).expect("a head is text");
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        let length = fields.find_map(|(name, value)| match name {
            _ if name.eq_ignore_ascii_case("content-length") => {
                Some(Length::Bytes(value.parse().expect("a length")))
            }
            _ if name.eq_ignore_ascii_case("transfer-encoding") => Some(Length::Chunked),
            _ => None,
        });
        Some(Self {
            status: status.expect("a status"),
            body_at: end + 4,
            length: length.expect("an answer names its length"),
        })
    }
}

/// Returns the content of a chunked body.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").expect("a chunk's size");
        let size = str::from_utf8(&rest[..end]).expect("digits");
        let size = usize::from_str_radix(size, 16).expect("digits");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..][..size]);
        rest = &rest[end + 2 + size + 2..];
    }
}
