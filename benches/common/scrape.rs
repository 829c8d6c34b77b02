//! One who scrapes, over a connection that is kept as Prometheus keeps it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::http::Connection;

/// What both exporters tell of every guest with an interface.
const OF_EACH_GUEST: &str = "libvirt_domain_interface_stats_receive_bytes_total{";
/// How the agent names the time of its last fast sample.
const FAST_SAMPLE: &str = "mistify_metrics_sample_seconds{tier=\"fast\"} ";

/// Scrapes one address.
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

/// A scrape as Prometheus sends it, but that it does not ask for gzip: the agent does without.
pub(crate) fn request(address: SocketAddr) -> Vec<u8> {
    format!(
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Prometheus/2.42.0\r\n\
         Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\
         X-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"
    )
    .into_bytes()
}

impl Scraper {
    /// Every scrape has to tell of so many guests.
    pub(crate) fn new(address: SocketAddr, guests: usize) -> Self {
        Self { address, connection: None, request: request(address), guests }
    }

    /// One scrape.
    pub(crate) fn scrape(&mut self) -> Scrape {
        let begin = Instant::now();
        // The other side closes a connection that is idle for long.
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

    /// `None` when the connection turns out to be closed.
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
