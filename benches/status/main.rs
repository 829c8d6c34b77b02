//! The figures of docs/performance.md: the cost of the agent, beside the same work without it.
//!
//!     cargo bench --bench status                   about two minutes; needs a C compiler
//!     BENCH_QUICK=1 cargo bench --bench status     the same in seconds, for trying it out
//!
//! Every contender is a separate process under the same load, and compared contenders take turns, so that the ratios
//! are valid on a busy machine, where absolute figures are not. With `BENCH_ORIGINAL=PROGRAM` the original agent is one
//! of them on the test driver. The part on qemu has the requirements of the tests' stack, and is skipped if they are
//! not met.

#[expect(dead_code, reason = "other benchmarks use more of it")]
#[path = "../common/mod.rs"]
mod common;
mod load;

// The tests' bed; it names its parts by `super::`.
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/boot_sector.rs"]
mod boot_sector;
#[path = "../../tests/it/harness/cost.rs"]
mod cost;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/skip.rs"]
mod skip;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/stack.rs"]
mod stack;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::common::calls::{Calls, Program};
use crate::common::constant::{Constant, GUEST};
use crate::common::host;
use crate::common::report::{Aim, Report};
use crate::common::sample::{Sample, float};
use crate::common::server::{AGENT, Server, mib};
use crate::load::Asked;
use crate::skip::Skip;
use crate::stack::{BlockDevice, Stack};

/// The name of the constant-answer server of one thread: the floor under any server.
const FLOOR: &str = "one thread, constant answer (floor)";
const TEST_DRIVER: &str = "test:///default";
/// Longer than an agent needs to start all its threads.
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

/// The figures of one contender with this number of connections.
struct Row {
    contender: &'static str,
    connections: usize,
    /// Requests per second.
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    /// CPU time of the contender's process per request.
    cpu_us: f64,
}

/// The name of a contender, and the function that runs one round with a number of connections for a time.
type Contender<'a> = (&'static str, &'a dyn Fn(usize, Duration) -> Sample);

impl Row {
    fn new(contender: &'static str, connections: usize, mut sample: Sample) -> Self {
        Self {
            contender,
            connections,
            rate: sample.rate(),
            p50_us: sample.percentile_us(50),
            p99_us: sample.percentile_us(99),
            cpu_us: sample.cpu_us(),
        }
    }
}

fn write_rows(report: &mut Report, rows: impl IntoIterator<Item = Row>) {
    for Row { contender, connections, rate, p50_us, p99_us, cpu_us } in rows {
        let cells = [
            ("connections", float(connections)),
            ("requests/s", rate.round()),
            ("p50 µs", p50_us.round()),
            ("p99 µs", p99_us.round()),
            ("CPU µs per request", cpu_us.round()),
        ];
        report.row(contender, &cells);
    }
}

impl Plan {
    /// Runs the contenders in turns.
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

    /// Returns the median time from exec to the first answer, in ms.
    fn start_ms(&self, libvirt_uri: &str) -> f64 {
        eprintln!("{} starts: {libvirt_uri}", self.starts);
        let flags = ["--libvirt-uri", libvirt_uri];
        let start = |_| Server::time_to_answer(&flags, load::request, load::is_answer);
        let latencies = (0..self.starts).map(start).collect();
        Sample { latencies, ..Sample::default() }.percentile_us(50) / 1000.0
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some(server) = arguments.first().and_then(|word| Constant::from_argument(word)) {
        return server.serve();
    }
    // `cargo bench` passes this word; `cargo test --all-targets` runs this too, and must not take minutes.
    if !arguments.iter().any(|word| word == "--bench") {
        println!("nothing to test here; the benchmark is `cargo bench --bench status`");
        return;
    }
    let (round, requests, starts) = match env::var_os("BENCH_QUICK") {
        None => (Duration::from_millis(500), 500_000, 20),
        Some(_) => (Duration::from_millis(50), 20_000, 5),
    };
    let plan = Plan { rounds: 6, round, requests, starts };

    let host = host::describe();
    let busy_before = host::busy_percent();
    let mut report = Report::default();
    let program = Program::compile();
    on_test_driver(&plan, &program, &mut report);
    if let Some(original) = Server::original() {
        beside_original(&plan, &Asked::new(original), &mut report);
    }
    if let Err(Skip(why)) = on_qemu(&plan, &program, &mut report) {
        report.note(format!("Not measured on qemu: {why}."));
    }
    let bytes = fs::metadata(AGENT).expect("cargo built it").len();
    let size = mib(bytes.div_ceil(1024));
    report.claim("the program's size", size, "MiB", Aim::AtMost(4.0));
    report.claim("packages that it is made of", float(packages()), "packages", Aim::None);
    let busy_after = host::busy_percent();
    let host = format!("{host} {}", host::other_work(busy_before, busy_after));
    println!("{host}\n\n{report}");
    println!("\nAs JSON: {}", report.write_json_among_all("status", &host).display());
}

/// Measures the agent on libvirt's test driver, whose calls cost next to nothing, beside servers that
/// make no call; and the agent's memory before and after.
fn on_test_driver(plan: &Plan, program: &Program, report: &mut Report) {
    let agent = Asked::new(Server::agent(&["--libvirt-uri", TEST_DRIVER]));
    thread::sleep(SETTLE);
    let idle = agent.server.memory();
    let [rouille, floor] = [Constant::Rouille, Constant::Floor].map(constant);
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
    let (served, used) = (agent.served(), agent.server.memory());

    let beyond = one[0].p50_us - one[2].p50_us;
    let what = "test driver, 1 connection: p50 beyond the floor";
    report.claim(what, beyond, "µs", Aim::AtMost(60.0));
    let what = "test driver, 16 connections: requests/s, times rouille's";
    report.claim(what, many[0].rate / many[1].rate, "", Aim::AtLeast(0.8));
    let p99 = many[0].p99_us / 1000.0;
    report.claim("test driver, 16 connections: p99", p99, "ms", Aim::AtMost(5.0));
    let what = "test driver, 16 connections: CPU per request";
    report.claim(what, many[0].cpu_us, "µs", Aim::AtMost(60.0));
    let what = "test driver, 1 connection: CPU per request";
    report.claim(what, one[0].cpu_us, "µs", Aim::AtMost(60.0));
    report.claim("... of the floor, which asks nobody", one[2].cpu_us, "µs", Aim::None);
    report.claim("... of rouille's constant answer", one[1].cpu_us, "µs", Aim::None);
    let anonymous = mib(idle.anonymous_kib);
    report.claim("anonymous memory, idle", anonymous, "MiB", Aim::AtMost(6.0));
    let growth = mib(used.anonymous_kib.saturating_sub(idle.anonymous_kib));
    let after = format!("... grown by, after {served} requests");
    report.claim(&after, growth, "MiB", Aim::AtMost(1.0));
    report.claim("resident memory, idle", mib(idle.resident_kib), "MiB", Aim::None);
    let bare = program.resident_kib((TEST_DRIVER, GUEST));
    let what = "... beyond a C program's with one connection open";
    let beyond = mib(idle.resident_kib) - mib(bare);
    report.claim(what, beyond, "MiB", Aim::AtMost(6.0));
    let growth = mib(used.resident_kib.saturating_sub(idle.resident_kib));
    let after = format!("resident memory grown by, after {served} requests");
    report.claim(after, growth, "MiB", Aim::None);
    let start = plan.start_ms(TEST_DRIVER);
    report.claim("test driver: exec to first answer", start, "ms", Aim::AtMost(50.0));
    write_rows(report, one);
    write_rows(report, many);
}

/// Measures the agent on libvirt's test driver beside the original, which is faster with one connection.
fn beside_original(plan: &Plan, original: &Asked, report: &mut Report) {
    let agent = Asked::new(Server::agent(&["--libvirt-uri", TEST_DRIVER]));
    thread::sleep(SETTLE);
    let by_agent = |connections, length| agent.round(connections, length);
    let by_original = |connections, length| original.round(connections, length);
    for connections in [1, 16] {
        let pair = plan.race(
            connections,
            [("agent, beside the original", &by_agent), ("the original", &by_original)],
        );
        let what = format!("test driver, {connections} connection(s): p50, times the original's");
        report.claim(&what, pair[0].p50_us / pair[1].p50_us, "", Aim::None);
        let what = format!("... {connections} connection(s): requests/s, times the original's");
        report.claim(&what, pair[0].rate / pair[1].rate, "", Aim::None);
        write_rows(report, pair);
    }
}

/// Measures the agent on a real libvirtd with a running guest, beside a C program that makes the same calls.
///
/// # Errors
/// Why no private libvirtd can run here.
fn on_qemu(plan: &Plan, program: &Program, report: &mut Report) -> Result<(), Skip> {
    let stack = Stack::start()?;
    let disk = BlockDevice::bootable(1 << 20)?;
    stack.boot("qemu", GUEST, &disk);
    let uri = stack.uri();
    let agent = Asked::new(Server::agent(&["--libvirt-uri", &uri]));
    let floor = constant(Constant::Floor);
    let by_agent = |connections, length| agent.round(connections, length);
    let asked = (uri.as_str(), GUEST);
    let by_c = |threads, length| program.round(Calls::LookupAndState, asked, threads, length);
    let by_c_state = |threads, length| program.round(Calls::State, asked, threads, length);
    let by_floor = |connections, length| floor.round(connections, length);
    let three: [Contender<'_>; 3] = [
        ("agent, qemu", &by_agent),
        ("C: lookup and state, as Status", &by_c),
        ("C: state alone", &by_c_state),
    ];

    let one = plan.race(1, [three[0], three[1], three[2], (FLOOR, &by_floor)]);
    let beyond = one[0].p50_us - one[1].p50_us - one[3].p50_us;
    let what = "qemu, 1 connection: p50 beyond C's and the floor";
    report.claim(what, beyond, "µs", Aim::AtMost(60.0));
    let beyond = one[0].p50_us - one[2].p50_us - one[3].p50_us;
    report.claim("... beyond C's with the state alone and the floor", beyond, "µs", Aim::None);
    let what = "qemu, 1 connection: CPU per request";
    report.claim(what, one[0].cpu_us, "µs", Aim::AtMost(60.0));
    report.claim("... of C's, with the state alone", one[2].cpu_us, "µs", Aim::None);
    report.claim("... of the floor", one[3].cpu_us, "µs", Aim::None);
    write_rows(report, one);
    let eight = plan.race(8, [three[0], three[1]]);
    let what = "qemu, 8 connections: requests/s, times C's";
    report.claim(what, eight[0].rate / eight[1].rate, "", Aim::AtLeast(0.6));
    write_rows(report, eight);
    let (served, used) = (agent.served(), mib(agent.server.memory().anonymous_kib));
    let what = format!("qemu: anonymous memory after {served} requests");
    report.claim(what, used, "MiB", Aim::None);
    let start = plan.start_ms(&uri);
    report.claim("qemu: exec to first answer", start, "ms", Aim::AtMost(50.0));
    Ok(())
}

/// Returns the number of packages in the normal dependencies, including this one.
fn packages() -> usize {
    let words = ["tree", "--locked", "--edges", "normal", "--prefix", "none", "--no-dedupe"];
    let tree = Command::new(env!("CARGO"))
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(tree.status.success(), "{tree:?}");
    let lines = String::from_utf8_lossy(&tree.stdout);
    lines.lines().collect::<BTreeSet<_>>().len()
}

fn constant(kind: Constant) -> Asked {
    Asked::new(Server::constant(kind))
}
