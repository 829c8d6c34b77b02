//! The cost of scrapes at the intervals of Prometheus.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::bed::{BackendCpu, Bed};
use crate::common::report::{Aim, Report};
use crate::common::sample::{Sample, float};
use crate::common::scrape::Scraper;
use crate::common::server::Server;
use crate::skip::Skip;
use crate::{GUESTS, Plan};

const SELDOM: Duration = Duration::from_secs(15);
const OFTEN: Duration = Duration::from_secs(1);

/// One window.
struct Window {
    length: Duration,
    sample: Sample,
    behind: BackendCpu,
    slow_samples: f64,
}

/// Measures a short window without scrapes, and for each server a window with a scrape a second and one with a scrape
/// in 15 s.
///
/// # Errors
/// If the exporter is missing.
pub(crate) fn measure(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let (agent, exporter) = (Server::agent_inside(&bed.stack, &[]), Server::exporter(&bed.stack)?);
    for server in [&agent, &exporter] {
        Scraper::new(server.address(), GUESTS).scrape();
    }
    let part = plan.window / 4;
    eprintln!("{part:?} without a scrape");
    let mut nothing = Window::of(bed, &agent, None, part);
    nothing.write_row(report, "no scrapes; the agent's connections are open");
    let times = (plan.window.as_secs() / SELDOM.as_secs()).max(1);
    let seldom = SELDOM * u32::try_from(times).expect("a few");
    for (every, length, most) in [(OFTEN, plan.window, 0.1), (SELDOM, seldom, 1.0)] {
        let seconds = every.as_secs();
        let mut take = |who: &str, server| {
            eprintln!("{length:?} of a scrape every {seconds} s: {who}");
            let mut window = Window::of(bed, server, Some(every), length);
            window.write_row(report, &format!("{who}, every {seconds} s"));
            (window.percentiles(), window.together())
        };
        let ((our_p50, our_last), ours) = take("agent", &agent);
        let ((their_p50, their_last), theirs) = take("Debian's exporter", &exporter);
        let what = format!("CPU with libvirtd's, a scrape every {seconds} s, times the exporter's");
        report.claim(what, ours / theirs, "", Aim::AtMost(most));
        let what = "... p50 of these scrapes, times the exporter's";
        report.claim(what, our_p50 / their_p50, "", Aim::AtMost(0.1));
        report.claim("... the longest", our_last / their_last, "", Aim::AtMost(0.1));
    }
    Ok(())
}

impl Window {
    fn of(bed: &Bed, server: &Server, every: Option<Duration>, length: Duration) -> Self {
        let mut scraper = Scraper::new(server.address(), GUESTS);
        // Opens the connections, and returns the number of samples so far.
        let first = every.map(|_| scraper.scrape());
        let slow_before = first.and_then(|scrape| scrape.slow_samples()).unwrap_or_default();
        let mut sample = Sample::default();
        let mut slow_after = slow_before;
        // So that the first measured scrape also has this interval before it.
        thread::sleep(every.unwrap_or_default());
        let (begin, own, behind) = (Instant::now(), server.cpu(), bed.cpu());
        let end = begin + length;
        let mut next = begin;
        while let Some(every) = every.filter(|_| next < end) {
            sleep_until(next);
            let scrape = scraper.scrape();
            sample.latencies.push(scrape.took);
            slow_after = scrape.slow_samples().unwrap_or_default();
            next += every;
        }
        sleep_until(end);
        sample.cpu = server.cpu() - own;
        sample.elapsed = begin.elapsed();
        let behind = bed.cpu().since(behind);
        Self { length: sample.elapsed, sample, behind, slow_samples: slow_after - slow_before }
    }

    /// Returns a CPU time in thousandths of a processor.
    fn share(&self, cpu: Duration) -> f64 {
        1000.0 * cpu.as_secs_f64() / self.length.as_secs_f64()
    }

    /// Returns the share of the server and libvirtd together.
    fn together(&self) -> f64 {
        self.share(self.sample.cpu + self.behind.libvirtd)
    }

    /// Returns the median and the longest latency, in µs.
    fn percentiles(&mut self) -> (f64, f64) {
        (self.sample.percentile_us(50), self.sample.percentile_us(100))
    }

    fn write_row(&mut self, report: &mut Report, name: &str) {
        let (p50, last) = self.percentiles();
        let cells = [
            ("scrapes", float(self.sample.latencies.len())),
            ("slow samples", self.slow_samples),
            ("p50 µs", p50.round()),
            ("longest µs", last.round()),
            ("own CPU ms/s", self.share(self.sample.cpu)),
            ("libvirtd's", self.share(self.behind.libvirtd)),
            ("both", self.together()),
            ("emulators'", self.share(self.behind.emulators)),
        ];
        report.row(name, &cells);
    }
}

fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}
