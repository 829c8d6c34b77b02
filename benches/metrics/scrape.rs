//! One who scrapes, over a connection that is kept as Prometheus keeps it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str;
use std::time::{Duration, Instant};

use crate::bed::GUESTS;

/// Longer than any answer may take.
const LATE: Duration = Duration::from_secs(30);
/// What both exporters tell of every guest with an interface.
const OF_EACH_GUEST: &str = "libvirt_domain_interface_stats_receive_bytes_total{";
/// How the agent names the time of its last fast sample.
const FAST_SAMPLE: &str = "mistify_metrics_sample_seconds{tier=\"fast\"} ";

/// Scrapes one address.
pub(crate) struct Scraper {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// Of Prometheus' own, but it does not ask for gzip: the agent does without.
    request: Vec<u8>,
}

/// One answer.
pub(crate) struct Scrape {
    /// From the request to the whole answer.
    pub(crate) took: Duration,
    text: String,
}

impl Scraper {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Prometheus/2.42.0\r\n\
             Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\
             X-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"
        );
        Self { address, stream: None, request: request.into_bytes() }
    }

    /// Whether somebody is there and answers.
    pub(crate) fn is_answered(&mut self) -> bool {
        self.stream = TcpStream::connect(self.address).ok();
        self.stream.is_some() && self.ask().is_some()
    }

    /// One scrape, which has to tell of all guests.
    pub(crate) fn scrape(&mut self) -> Scrape {
        let begin = Instant::now();
        // The other side closes a connection that is idle for long.
        let answer = self.ask().or_else(|| {
            self.stream = None;
            self.ask()
        });
        let took = begin.elapsed();
        let answer = answer.expect("an answer");
        let text = String::from_utf8(answer.body()).expect("metrics are UTF-8");
        let told = text.lines().filter(|line| line.starts_with(OF_EACH_GUEST)).count();
        assert_eq!(told, GUESTS, "{text}");
        Scrape { took, text }
    }

    /// `None` when the connection turns out to be closed.
    fn ask(&mut self) -> Option<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.address).expect("it listens"),
        };
        stream.set_nodelay(true).expect("TCP has this option");
        stream.set_read_timeout(Some(LATE)).expect("a time above zero");
        stream.write_all(&self.request).ok()?;
        let answer = Answer::read(&mut stream)?;
        self.stream = Some(stream);
        Some(answer)
    }
}

impl Scrape {
    /// How long the fast sample took that the agent answered from.
    pub(crate) fn fast_sample(&self) -> Option<Duration> {
        let seconds = self.text.lines().find_map(|line| line.strip_prefix(FAST_SAMPLE))?;
        Some(Duration::from_secs_f64(seconds.parse().expect("seconds")))
    }

    /// Slow samples that the agent has taken so far.
    pub(crate) fn slow_samples(&self) -> Option<f64> {
        let series = "mistify_metrics_samples_total{tier=\"slow\"} ";
        let count = self.text.lines().find_map(|line| line.strip_prefix(series))?;
        Some(count.parse().expect("a count"))
    }
}

/// An answer as it came.
struct Answer {
    bytes: Vec<u8>,
    body_at: usize,
    length: Length,
}

#[derive(Clone, Copy)]
enum Length {
    Bytes(usize),
    Chunked,
}

impl Answer {
    fn read(stream: &mut TcpStream) -> Option<Self> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 64 * 1024]);
        let mut head = None;
        loop {
            let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
            bytes.extend_from_slice(&buffer[..count]);
            head = head.or_else(|| read_head(&bytes));
            let Some((body_at, length)) = head else { continue };
            let is_whole = match length {
                Length::Bytes(count) => bytes.len() >= body_at + count,
                Length::Chunked => bytes.ends_with(b"\r\n0\r\n\r\n"),
            };
            if is_whole {
                return Some(Self { bytes, body_at, length });
            }
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut rest = &self.bytes[self.body_at..];
        if let Length::Bytes(count) = self.length {
            return rest[..count].to_vec();
        }
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
}

/// Where the body begins and how long it is, once the head is there.
fn read_head(bytes: &[u8]) -> Option<(usize, Length)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = str::from_utf8(&bytes[..end]).expect("a head is text");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let length = fields.find_map(|(name, value)| match name.to_ascii_lowercase().as_str() {
        "content-length" => Some(Length::Bytes(value.parse().expect("a length"))),
        "transfer-encoding" => Some(Length::Chunked),
        _ => None,
    });
    Some((end + 4, length.expect("an answer names its length")))
}
