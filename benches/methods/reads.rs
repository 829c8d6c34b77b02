//! Methods that change nothing: called again and again, in turns with programs that do the same
//! without the agent.

use std::time::Duration;

use serde_json::Value;

use crate::common::bed::Bed;
use crate::common::calls::{Calls, Program};
use crate::common::constant::Constant;
use crate::common::load::{self, Repeat};
use crate::common::report::{Aim, Report};
use crate::common::sample::{Sample, float};
use crate::common::scrape;
use crate::common::server::Server;
use crate::skip::Skip;
use crate::{CONNECTIONS, METRICS, Plan, is_right, request, write_row};

pub(crate) const READS: [&str; 6] =
    ["Status", "CPUMetrics", "DiskMetrics", "NicMetrics", "AllMetrics", METRICS];
/// The reads of one guest, and the C program's calls for the same.
const BESIDE: [(&str, Calls); 4] = [
    ("Status", Calls::LookupAndState),
    ("CPUMetrics", Calls::LookupAndCpu),
    ("DiskMetrics", Calls::LookupAndDisk),
    ("NicMetrics", Calls::LookupAndNic),
];
/// The number of connections for the comparison with the C program: at one, HTTP dominates; at 64,
/// the wait for a turn does.
const COMPARED_AT: usize = 8;
/// Scrapes of Debian's exporter in a turn of its own; each may take a tenth of a second.
const SCRAPES: usize = 10;

/// One contender in all its turns.
#[derive(Default)]
struct Run {
    sample: Sample,
    libvirtd: Duration,
}

/// Lets an agent on the test driver take turns with servers that answer a constant.
pub(crate) fn on_test_driver(plan: &Plan, agent: &Server, guests: &[Value], report: &mut Report) {
    let [rouille, floor] = [Constant::Rouille, Constant::Floor].map(Server::constant);
    let mut status_rates = Vec::new();
    for connections in CONNECTIONS {
        let mut contenders: Vec<(String, &Server, &str)> = READS
            .map(|method| (format!("{method}, test driver"), agent, method))
            .into_iter()
            .collect();
        contenders.push(("rouille, constant answer".to_owned(), &rouille, "Status"));
        // It serves one connection after the other.
        if connections == 1 {
            contenders.push(("one thread, constant answer".to_owned(), &floor, "Status"));
        }
        let mut samples = vec![Sample::default(); contenders.len()];
        let (rounds, length) = plan.turns(connections);
        for _ in 0..rounds {
            for (sample, (who, server, method)) in samples.iter_mut().zip(&contenders) {
                eprintln!("{connections} connection(s): {who}");
                sample.add(round(server, method, guests, connections, length));
            }
        }
        status_rates.push(samples[0].rate());
        for (sample, (who, ..)) in samples.into_iter().zip(contenders) {
            write_row(report, who, connections, sample);
        }
    }
    if let [_, few, many] = status_rates[..] {
        let what = "test driver: Status/s at 64 connections, times those at 8";
        report.claim(what, many / few, "", Aim::AtLeast(0.8));
    }
}

/// Lets an agent on a real libvirtd take turns with the C program and Debian's exporter.
///
/// # Errors
/// If the exporter is missing.
pub(crate) fn on_qemu(
    plan: &Plan,
    bed: &Bed,
    agent: &Server,
    (program, guests): (&Program, &[Value]),
    report: &mut Report,
) -> Result<(), Skip> {
    let exporter = Server::exporter(&bed.stack)?;
    let (uri, names) = (bed.stack.uri(), names(guests));
    let count = guests.len();
    let by_agent = |method, connections, length| {
        let before = bed.cpu();
        let sample = round(agent, method, guests, connections, length);
        Run { sample, libvirtd: bed.cpu().since(before).libvirtd }
    };
    for connections in CONNECTIONS {
        let mut runs = READS.map(|_| Run::default());
        let mut by_c = BESIDE.map(|_| Sample::default());
        let mut exported = Run::default();
        let (rounds, length) = plan.turns(connections);
        for _ in 0..rounds {
            eprintln!("{count} guest(s), {connections} connection(s)");
            for (run, method) in runs.iter_mut().zip(READS) {
                run.add(by_agent(method, connections, length));
            }
            for (sample, (_, calls)) in by_c.iter_mut().zip(BESIDE) {
                sample.add(program.round(calls, (&uri, &names), connections, length));
            }
            if connections == 1 {
                exported.add(scrapes(bed, &exporter));
            }
        }
        if connections == COMPARED_AT {
            for ((method, _), (run, sample)) in BESIDE.iter().zip(runs.iter().zip(&by_c)) {
                let ratio = run.sample.rate() / sample.rate();
                let what = format!("{count} guests, 8 connections: {method}/s, times C's");
                report.claim(what, ratio, "", Aim::AtLeast(0.6));
            }
        }
        if connections == 1 {
            compare_scrapes(report, count, &mut runs[READS.len() - 1], &mut exported);
            exported.write_row(report, "Debian's exporter", count, connections);
        }
        for (run, method) in runs.into_iter().zip(READS) {
            run.write_row(report, &format!("{method}, qemu"), count, connections);
        }
        for (sample, (method, _)) in by_c.into_iter().zip(BESIDE) {
            let who = format!("C: {method}'s calls, {count} guests");
            write_row(report, who, connections, sample);
        }
    }
    Ok(())
}

/// Runs one turn: the requests name all guests in turn, and each connection begins with another guest.
fn round(
    server: &Server,
    method: &str,
    guests: &[Value],
    connections: usize,
    length: Duration,
) -> Sample {
    let requests = guests.iter().map(|guest| request(server.address(), method, guest));
    let requests: Vec<_> = requests.collect();
    let of_connection = |number: usize| {
        let mut requests = requests.clone();
        requests.rotate_left(number % guests.len());
        requests
    };
    let work: Vec<_> = (0..connections).map(of_connection).collect();
    let before = server.cpu();
    let mut sample = load::run(server.address(), &work, Repeat::For(length), is_right);
    sample.cpu = server.cpu() - before;
    sample
}

fn scrapes(bed: &Bed, exporter: &Server) -> Run {
    let work = [vec![scrape::request(exporter.address()); SCRAPES]];
    let (own, before) = (exporter.cpu(), bed.cpu());
    let mut sample = load::run(exporter.address(), &work, Repeat::Once, is_right);
    sample.cpu = exporter.cpu() - own;
    Run { sample, libvirtd: bed.cpu().since(before).libvirtd }
}

/// Returns the guests and the devices of their NICs as an argument of the C program.
fn names(guests: &[Value]) -> String {
    let text = |value: &Value| value.as_str().expect("Run answers it").to_owned();
    let name =
        |guest: &Value| format!("{}/{}", text(&guest["id"]), text(&guest["nics"][0]["device"]));
    guests.iter().map(name).collect::<Vec<_>>().join(",")
}

fn compare_scrapes(report: &mut Report, guests: usize, ours: &mut Run, theirs: &mut Run) {
    let ratio = ours.sample.percentile_us(50) / theirs.sample.percentile_us(50);
    let what = format!("{guests} guests: p50 of scrapes one after the other, times the exporter's");
    report.claim(what, ratio, "", Aim::AtMost(0.1));
    let ratio = ours.together_ms() / theirs.together_ms();
    report.claim("... CPU of each with libvirtd's", ratio, "", Aim::AtMost(0.1));
}

impl Run {
    fn add(&mut self, turn: Self) {
        self.sample.add(turn.sample);
        self.libvirtd += turn.libvirtd;
    }

    /// Returns libvirtd's CPU time for each call in ms, which is s for 1,000 calls.
    fn libvirtd_ms(&self) -> f64 {
        1000.0 * self.libvirtd.as_secs_f64() / float(self.sample.answered)
    }

    /// Returns the same together with the server's CPU time.
    fn together_ms(&self) -> f64 {
        self.libvirtd_ms() + self.sample.cpu_us() / 1000.0
    }

    fn write_row(mut self, report: &mut Report, who: &str, guests: usize, connections: usize) {
        let cells = [
            ("guests", float(guests)),
            ("connections", float(connections)),
            ("calls/s", self.sample.rate().round()),
            ("p50 µs", self.sample.percentile_us(50).round()),
            ("p99 µs", self.sample.percentile_us(99).round()),
            ("busy", float(self.sample.refused)),
            ("own CPU s per 1,000", self.sample.cpu_us() / 1000.0),
            ("libvirtd's", self.libvirtd_ms()),
        ];
        report.row(who, &cells);
    }
}
