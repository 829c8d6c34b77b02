//! A client that scrapes, over a persistent connection like Prometheus.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::http::Connection;

/// A series that the agent and Debian's exporter have for each guest with an interface.
const OF_EACH_GUEST: &str = "libvirt_domain_interface_stats_receive_bytes_total{";
/// The agent's series with the duration of its last fast sample.
const FAST_SAMPLE: &str = "mistify_metrics_sample_seconds{tier=\"fast\"} ";

/// Scrapes one server.
pub(crate) struct Scraper {
    address: SocketAddr,
    connection: Option<Connection>,
    request: Vec<u8>,
    guests: usize,
}

/// One answer.
pub(crate) struct Scrape {
    /// From the request to the whole answer.
    pub(crate) took: Duration,
    text: String,
}

/// Returns a scrape as Prometheus sends it, but without gzip, which the agent does not support.
pub(crate) fn request(address: SocketAddr) -> Vec<u8> {
    format!(
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Prometheus/2.42.0\r\n\
         Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\
         X-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"
    )
    .into_bytes()
}

impl Scraper {
    /// Creates a scraper; each answer must have this number of guests.
    pub(crate) fn new(address: SocketAddr, guests: usize) -> Self {
        Self { address, connection: None, request: request(address), guests }
    }

    /// Scrapes once.
    pub(crate) fn scrape(&mut self) -> Scrape {
        let begin = Instant::now();
        // The server closes a connection that is idle for long.
        let text = self.ask().or_else(|| {
            self.connection = None;
            self.ask()
        });
        let took = begin.elapsed();
        let text = text.expect("an answer");
        let reported = text.lines().filter(|line| line.starts_with(OF_EACH_GUEST)).count();
        assert_eq!(reported, self.guests, "{text}");
        Scrape { took, text }
    }

    /// Returns the answer; `None` if the server has closed the connection.
    fn ask(&mut self) -> Option<String> {
        if self.connection.is_none() {
            self.connection = Some(Connection::open(self.address).expect("it listens"));
        }
        let answer = self.connection.as_mut()?.exchange(&self.request)?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Some(answer.text().into_owned())
    }
}

impl Scrape {
    /// Returns the duration of the fast sample in the agent's answer.
    pub(crate) fn fast_sample(&self) -> Option<Duration> {
        let seconds = self.text.lines().find_map(|line| line.strip_prefix(FAST_SAMPLE))?;
        Some(Duration::from_secs_f64(seconds.parse().expect("seconds")))
    }

    /// Returns the number of slow samples that the agent has taken.
    pub(crate) fn slow_samples(&self) -> Option<f64> {
        let series = "mistify_metrics_samples_total{tier=\"slow\"} ";
        let count = self.text.lines().find_map(|line| line.strip_prefix(series))?;
        Some(count.parse().expect("a count"))
    }
}
