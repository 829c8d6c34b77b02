//! The figures of the README: what the agent costs beside the same work without it.
//!
//!     cargo bench --bench status                   about two minutes; needs a C compiler
//!     BENCH_QUICK=1 cargo bench --bench status     the same in seconds, for trying it out
//!
//! Every contender is a process of its own under the same load, and those that are compared take
//! turns, so that the ratios hold on a machine that has other work, where absolute figures do not.
//! The part on qemu needs what the tests' stack needs, and is left out where that is missing.

mod calls;
mod constant;
mod host;
mod load;
mod report;
mod sample;
mod server;

// The tests' bed; it names its parts by `crate::`.
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/boot_sector.rs"]
mod boot_sector;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/skip.rs"]
mod skip;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/stack.rs"]
mod stack;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/support.rs"]
mod support;

use std::env;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::calls::{Calls, Program};
use crate::constant::Constant;
use crate::report::{Report, Row};
use crate::sample::Sample;
use crate::server::{AGENT, Server};
use crate::skip::Skip;
use crate::stack::{BlockDevice, Stack};

/// The name of the constant-answer server of one thread: the floor under any.
const FLOOR: &str = "one thread, constant answer (floor)";
const TEST_DRIVER: &str = "test:///default";
/// After its start an agent has all its threads long before this is over.
const SETTLE: Duration = Duration::from_millis(500);

/// How much is measured.
struct Plan {
    /// Turns of each contender, and the length of one.
    rounds: usize,
    round: Duration,
    /// Requests between the two readings of the memory.
    requests: usize,
    /// Starts of the agent, of which the median counts.
    starts: usize,
}

/// A name, and what does one round with so many connections for so long.
type Contender<'a> = (&'static str, &'a dyn Fn(usize, Duration) -> Sample);

impl Plan {
    /// Lets the contenders take turns.
    fn race<const N: usize>(&self, connections: usize, contenders: [Contender<'_>; N]) -> [Row; N] {
        let mut samples = [(); N].map(|()| Sample::default());
        for round in 1..=self.rounds {
            for (sample, (name, run)) in samples.iter_mut().zip(contenders) {
                eprintln!("{connections} connection(s), round {round}: {name}");
                sample.add(run(connections, self.round));
            }
        }
        let mut names = contenders.iter();
        samples.map(|sample| {
            let name = names.next().map_or("", |(name, _)| name);
            Row::new(name, connections, sample)
        })
    }

    /// The median time from exec to the first answer.
    fn start_ms(&self, libvirt_uri: &str) -> f64 {
        eprintln!("{} starts: {libvirt_uri}", self.starts);
        let start = |_| Server::time_to_first_answer(libvirt_uri);
        let latencies = (0..self.starts).map(start).collect();
        Sample { latencies, ..Sample::default() }.percentile_us(50) / 1000.0
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some(server) = arguments.first().and_then(|word| Constant::from_argument(word)) {
        return server.serve();
    }
    // `cargo bench` says so; `cargo test --all-targets` runs this too, and must not take minutes.
    if !arguments.iter().any(|word| word == "--bench") {
        println!("nothing to test here; the benchmark is `cargo bench --bench status`");
        return;
    }
    let (round, requests, starts) = match env::var_os("BENCH_QUICK") {
        None => (Duration::from_millis(500), 1_000_000, 20),
        Some(_) => (Duration::from_millis(50), 20_000, 5),
    };
    let plan = Plan { rounds: 10, round, requests, starts };

    let host = host::describe();
    let busy_before = host::busy_percent();
    let mut report = Report::default();
    on_test_driver(&plan, &mut report);
    if let Err(Skip(why)) = on_qemu(&plan, &mut report) {
        report.note(format!("Not measured on qemu: {why}."));
    }
    let bytes = fs::metadata(AGENT).expect("cargo built it").len();
    report.claim("the program's size", mib(bytes.div_ceil(1024)), "at most 4 MiB");
    let busy_after = host::busy_percent();
    println!("{host} CPUs busy with other work: {busy_before} % before, {busy_after} % after.");
    println!("\n{report}");
}

/// The agent on libvirt's test driver, whose calls cost next to nothing, beside servers that call
/// nothing; and its memory before and after.
fn on_test_driver(plan: &Plan, report: &mut Report) {
    let agent = Server::agent(TEST_DRIVER);
    thread::sleep(SETTLE);
    let idle = agent.memory();
    let (rouille, floor) = (Server::constant(Constant::Rouille), Server::constant(Constant::Floor));
    let by_agent = |connections, length| agent.round(connections, length);
    let by_rouille = |connections, length| rouille.round(connections, length);
    let by_floor = |connections, length| floor.round(connections, length);
    let pair: [Contender<'_>; 2] =
        [("agent, test driver", &by_agent), ("rouille, constant answer", &by_rouille)];

    let one = plan.race(1, [pair[0], pair[1], (FLOOR, &by_floor)]);
    let many = plan.race(16, pair);
    while agent.served() < plan.requests {
        eprintln!("{} of {} requests", agent.served(), plan.requests);
        agent.round(16, plan.round);
    }
    let (served, used) = (agent.served(), agent.memory());

    let beyond = one[0].p50_us - one[2].p50_us;
    report.claim("test driver, 1 connection: p50 beyond the floor", us(beyond), "at most 60 µs");
    let ratio = format!("{:.2}", many[0].rate / many[1].rate);
    report.claim(
        "test driver, 16 connections: requests/s, times rouille's",
        ratio,
        "at least 0.80",
    );
    let p99 = ms(many[0].p99_us / 1000.0);
    report.claim("test driver, 16 connections: p99", p99, "under 5 ms");
    report.claim("test driver, 1 connection: CPU per request", us(one[0].cpu_us), "under 60 µs");
    let anonymous = mib(idle.anonymous_kib);
    report.claim("anonymous memory, idle", anonymous, "at most 6 MiB");
    let growth = mib(used.anonymous_kib.saturating_sub(idle.anonymous_kib));
    report.claim(format!("... grown by, after {served} requests"), growth, "under 1 MiB");
    report.claim("resident memory, idle", mib(idle.resident_kib), "");
    let growth = mib(used.resident_kib.saturating_sub(idle.resident_kib));
    report.claim(format!("... grown by, after {served} requests"), growth, "");
    let start = ms(plan.start_ms(TEST_DRIVER));
    report.claim("test driver: exec to first answer", start, "under 50 ms");
    report.rows(one);
    report.rows(many);
}

/// The agent on a real libvirtd with a running guest, beside a C program that makes its calls.
///
/// # Errors
/// Why there is no such libvirtd here.
fn on_qemu(plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let program = Program::compile();
    let stack = Stack::start()?;
    let disk = BlockDevice::bootable(1 << 20)?;
    stack.boot("qemu", load::GUEST, &disk);
    let uri = stack.uri();
    let agent = Server::agent(&uri);
    let floor = Server::constant(Constant::Floor);
    let by_agent = |connections, length| agent.round(connections, length);
    let by_c = |threads, length| program.round(Calls::LookupAndState, &uri, threads, length);
    let by_c_state = |threads, length| program.round(Calls::State, &uri, threads, length);
    let by_floor = |connections, length| floor.round(connections, length);
    let three: [Contender<'_>; 3] = [
        ("agent, qemu", &by_agent),
        ("C: lookup and state, as Status", &by_c),
        ("C: state alone", &by_c_state),
    ];

    let one = plan.race(1, [three[0], three[1], three[2], (FLOOR, &by_floor)]);
    let beyond = one[0].p50_us - one[1].p50_us - one[3].p50_us;
    report.claim("qemu, 1 connection: p50 beyond C's and the floor", us(beyond), "at most 60 µs");
    let beyond = one[0].p50_us - one[2].p50_us - one[3].p50_us;
    report.claim("... beyond C's with the state alone and the floor", us(beyond), "");
    report.claim("qemu, 1 connection: CPU per request", us(one[0].cpu_us), "under 60 µs");
    report.rows(one);
    for (connections, aim) in [(8, "at least 0.60"), (16, "")] {
        let rows = plan.race(connections, three);
        let ratio = format!("{:.2}", rows[0].rate / rows[1].rate);
        report.claim(format!("qemu, {connections} connections: requests/s, times C's"), ratio, aim);
        report.rows(rows);
    }
    let (served, used) = (agent.served(), mib(agent.memory().anonymous_kib));
    report.claim(format!("qemu: anonymous memory after {served} requests"), used, "");
    report.claim("qemu: exec to first answer", ms(plan.start_ms(&uri)), "under 50 ms");
    Ok(())
}

fn us(time_us: f64) -> String {
    format!("{time_us:.0} µs")
}

fn ms(time_ms: f64) -> String {
    format!("{time_ms:.1} ms")
}

fn mib(size_kib: u64) -> String {
    let hundredths = size_kib * 100 / 1024;
    format!("{}.{:02} MiB", hundredths / 100, hundredths % 100)
}
