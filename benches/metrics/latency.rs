//! The latency and the CPU time of scrapes, one after the other.

use std::time::{Duration, Instant};

use crate::common::bed::Bed;
use crate::common::calls::{Calls, Program};
use crate::common::report::{Aim, Report};
use crate::common::sample::{Sample, float};
use crate::common::scrape::{Scrape, Scraper};
use crate::common::server::Server;
use crate::skip::Skip;
use crate::support::wait_until;
use crate::{GUESTS, Plan};

/// Longer than a loaded machine needs for a sample.
const SOON: Duration = Duration::from_secs(60);

/// One contender in all its rounds.
#[derive(Default)]
struct Run {
    sample: Sample,
    libvirtd: Duration,
    emulators: Duration,
    /// The durations of fast samples that the agent reports.
    fast: Sample,
}

/// The name of a contender, and the function that runs one round.
type Contender<'a> = (&'static str, &'a dyn Fn(&mut Run));

/// Lets the agent, the exporter and the C program take turns.
///
/// # Errors
/// If the exporter is missing.
pub(crate) fn measure(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let fresh = Server::agent_inside(&bed.stack, &["--metrics-max-age", "0"]);
    let cached = Server::agent_inside(&bed.stack, &[]);
    let exporter = Server::exporter(&bed.stack)?;
    let program = Program::compile();
    let uri = bed.stack.uri();
    let by_c = |calls| program.round(calls, (&uri, &bed.guests[0]), 1, plan.round);
    let rounds: [Contender<'_>; 7] = [
        ("agent, a new fast sample each", &|run| scrape(&fresh, plan.round, run)),
        ("agent, a sample up to 1 s old", &|run| scrape(&cached, plan.round, run)),
        ("Debian's exporter", &|run| scrape(&exporter, plan.round, run)),
        ("C: state and interfaces", &|run| run.sample.add(by_c(Calls::BulkOwn))),
        ("C: the same with libvirt's event loop", &|run| {
            run.sample.add(by_c(Calls::BulkOwnWithEvents));
        }),
        ("C: memory, vCPUs, disks", &|run| run.sample.add(by_c(Calls::BulkMonitor))),
        ("C: all six groups", &|run| run.sample.add(by_c(Calls::BulkAll))),
    ];
    let mut runs = [(); 7].map(|()| Run::default());
    for server in [&fresh, &cached, &exporter] {
        warm_up(server);
    }
    for round in 1..=plan.rounds {
        for (run, (name, work)) in runs.iter_mut().zip(rounds) {
            eprintln!("round {round}: {name}");
            let before = bed.cpu();
            work(run);
            let used = bed.cpu().since(before);
            run.libvirtd += used.libvirtd;
            run.emulators += used.emulators;
        }
    }
    for (run, (name, _)) in runs.iter_mut().zip(rounds) {
        write_row(report, name, run);
    }
    let [fresh, cached, exporter, own, own_with_events, ..] = &mut runs;
    claim(report, fresh, cached, exporter);
    claim_fast_sample(report, fresh, own, own_with_events);
    Ok(())
}

/// Waits until the agent has a slow sample, and scrapes again: that finds the devices' counters.
fn warm_up(server: &Server) {
    let mut scraper = Scraper::new(server.address(), GUESTS);
    let has_both = |scrape: Scrape| scrape.slow_samples().is_none_or(|count| count >= 1.0);
    wait_until("a slow sample", SOON, || has_both(scraper.scrape()));
    scraper.scrape();
}

fn scrape(server: &Server, length: Duration, run: &mut Run) {
    let mut scraper = Scraper::new(server.address(), GUESTS);
    scraper.scrape();
    let (begin, cpu, before) = (Instant::now(), server.cpu(), run.sample.latencies.len());
    while begin.elapsed() < length {
        let scrape = scraper.scrape();
        run.sample.latencies.push(scrape.took);
        run.fast.latencies.extend(scrape.fast_sample());
    }
    run.sample.elapsed += begin.elapsed();
    run.sample.cpu += server.cpu() - cpu;
    run.sample.answered += run.sample.latencies.len() - before;
}

fn write_row(report: &mut Report, name: &str, run: &mut Run) {
    let each_us = |cpu: Duration| cpu.as_secs_f64() * 1e6 / float(run.sample.answered);
    let (libvirtd, emulators) = (each_us(run.libvirtd), each_us(run.emulators));
    let cells = [
        ("scrapes", float(run.sample.latencies.len())),
        ("p50 µs", run.sample.percentile_us(50).round()),
        ("p99 µs", run.sample.percentile_us(99).round()),
        ("own CPU µs each", run.sample.cpu_us().round()),
        ("libvirtd's", libvirtd.round()),
        ("emulators'", emulators.round()),
    ];
    report.row(name, &cells);
}

fn claim(report: &mut Report, fresh: &mut Run, cached: &mut Run, exporter: &mut Run) {
    for percent in [50, 99] {
        let theirs = exporter.sample.percentile_us(percent);
        let ratio = fresh.sample.percentile_us(percent) / theirs;
        let what = format!("scrape with a new fast sample: p{percent}, times the exporter's");
        report.claim(what, ratio, "", Aim::AtMost(0.1));
        let ratio = cached.sample.percentile_us(percent) / theirs;
        let what = format!("... with one up to 1 s old: p{percent}, times the exporter's");
        report.claim(what, ratio, "", Aim::AtMost(0.1));
    }
}

fn claim_fast_sample(report: &mut Report, fresh: &mut Run, own: &mut Run, with_events: &mut Run) {
    let taken = fresh.fast.percentile_us(50);
    let beyond = |bare: &mut Run| (taken - bare.sample.percentile_us(50)) / float(GUESTS);
    report.claim("fast sample: p50", taken, "µs", Aim::None);
    let what = "... beyond the bare call from C, for each guest";
    report.claim(what, beyond(own), "µs", Aim::AtMost(10.0));
    let what = "... beyond that call with libvirt's event loop, for each guest";
    report.claim(what, beyond(with_events), "µs", Aim::None);
}
