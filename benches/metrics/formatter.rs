//! The time to write the metrics of many guests, copied from samples of real ones.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mistify_libvirt::config::MetricsConfig;
use mistify_libvirt::libvirt::{self, Connection};
use mistify_libvirt::metrics::{self, AgentStats, Fast, Format, Sampler, Slow, View};
use mistify_libvirt::pool::{CallerSnapshot, Lane, LaneSnapshot, PoolSnapshot, Totals};

use crate::common::bed::Bed;
use crate::common::report::{Aim, Report};
use crate::common::sample::{Sample, float};
use crate::support::{Scratch, wait_for};

/// Further figures of the balloon, which a guest without its driver does not report.
const OF_A_BALLOON: [&str; 8] = [
    "unused",
    "available",
    "usable",
    "disk_caches",
    "swap_in",
    "swap_out",
    "major_fault",
    "minor_fault",
];
const SOME: usize = 100;
const MANY: usize = 1000;
/// Longer than a loaded machine needs for a sample.
const SOON: Duration = Duration::from_secs(60);

/// Writes the metrics of 100 and 1,000 guests, each copied from one of the bed's.
pub(crate) fn measure(bed: &Bed, turns: usize, report: &mut Report) {
    let (seen, own) = (recorded(bed), own());
    let (some, many) = (multiplied(&seen, SOME), multiplied(&seen, MANY));
    let (mut of_some, mut of_many) = (Sample::default(), Sample::default());
    let mut bytes = 0;
    for _ in 0..turns {
        for (view, sample) in [(&some, &mut of_some), (&many, &mut of_many)] {
            let begin = Instant::now();
            let text = metrics::write(view, &own, &[], Format::Prometheus);
            sample.latencies.push(begin.elapsed());
            bytes = text.len();
        }
    }
    let (some_ms, many_ms) =
        (of_some.percentile_us(50) / 1000.0, of_many.percentile_us(50) / 1000.0);
    // The same words in each run, so that runs can be compared.
    report.claim(format!("writing {MANY} guests: p50"), many_ms, "ms", Aim::AtMost(10.0));
    report.claim("... as a text of", float(bytes / 1024), "KiB", Aim::None);
    report.claim(format!("... {SOME} guests: p50"), some_ms, "ms", Aim::None);
    let what = "... the former times the latter, which is 10 where it is linear";
    report.claim(what, many_ms / some_ms, "", Aim::AtMost(12.0));
}

/// Returns a view of the bed's guests from the agent's own sampler, with both tiers.
fn recorded(bed: &Bed) -> View {
    libvirt::start().expect("libvirt can be used");
    // The sampler runs outside the stack's namespace, so it needs the pids that the emulators have here.
    let pids = Scratch::new();
    for name in &bed.guests {
        let pid = bed.stack.qemu_pid(name).expect("it runs").to_string();
        fs::write(pids.path().join(format!("{name}.pid")), pid).expect("scratch is writable");
    }
    let limits = MetricsConfig {
        pid_dir: pids.path().to_owned(),
        max_age: Duration::ZERO,
        ..MetricsConfig::default()
    };
    let uri = bed.stack.uri();
    let open = move |_| Connection::open(&uri).map_err(|error| error.to_string());
    let sampler = Sampler::start(&limits, Arc::new(open), Arc::new(Vec::new), Arc::new(|_, _| {}));
    let sampler = sampler.expect("the system gives threads");
    wait_for("both tiers and the devices", SOON, || {
        let view = sampler.view();
        let is_whole = view.guests().count() == bed.guests.len()
            && view.guests().all(|guest| {
                let slow = guest.slow.is_some_and(|slow| !slow.disks.is_empty());
                slow && guest.fast.cpu.is_some() && !guest.fast.devices.is_empty()
            });
        is_whole.then_some(view)
    })
}

/// Returns the view with this number of guests, with the further figures of the balloon.
fn multiplied(seen: &View, guests: usize) -> View {
    let originals: Vec<_> = seen.guests().collect();
    let (mut fast, mut slow) = (BTreeMap::new(), BTreeMap::new());
    for (number, guest) in originals.iter().cycle().take(guests).enumerate() {
        let name = format!("guest-{number}");
        fast.insert(name.clone(), guest.fast.clone());
        let mut asked = guest.slow.expect("it was asked").clone();
        let figures = OF_A_BALLOON.into_iter().zip(1_000_000..);
        asked.balloon.extend(figures.map(|(field, figure)| (field.to_owned(), figure)));
        slow.insert(name, asked);
    }
    let at = seen.fast.as_ref().expect("it was sampled").at;
    let mut view = seen.clone();
    view.fast = Some(Arc::new(Fast { at, guests: fast }));
    view.slow = Arc::new(Slow { guests: slow, ..Slow::clone(&seen.slow) });
    view
}

/// Returns the statistics of an idle agent.
fn own() -> AgentStats {
    let lane = |lane| LaneSnapshot {
        lane,
        workers: 4,
        queued: 0,
        held_back: 0,
        running: 0,
        stuck: 0,
        oldest: None,
        totals: Totals::default(),
    };
    let callers = CallerSnapshot {
        callers: 0,
        locks_held: 0,
        locks_waiting: 0,
        calls_waiting: 0,
        waits_refused: 0,
        waits_late: 0,
    };
    let lanes = [Lane::Control, Lane::Read, Lane::Urgent, Lane::Storage].map(lane);
    AgentStats {
        pool: PoolSnapshot { lanes, callers },
        calls: BTreeMap::new(),
        open_intents: 0,
        leftovers: 0,
        libvirt_version: None,
        listeners: Vec::new(),
        log_lines_dropped: 0,
        audit_lines_dropped: 0,
        storage: None,
        limits: Default::default(),
        volumes: Arc::default(),
        inside: Vec::new(),
    }
}
