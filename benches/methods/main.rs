//! The figures of every method: the time and cost of a call, by guests and by connections.
//!
//!     tests/install-deps.sh bench
//!     cargo bench --bench methods                   about six minutes; needs root
//!     BENCH_QUICK=1 cargo bench --bench methods     with few guests in a minute, for trying it out
//!
//! **Reads** (Status, CPUMetrics, DiskMetrics, NicMetrics, AllMetrics, `/metrics`) are asked for at
//! 1, 8 and 64 connections, on libvirt's test driver and on a real libvirtd with 1, 20 and 50
//! guests, which the requests name in turn. On libvirtd, a C program that makes the same libvirt
//! calls takes turns with the agent (the limit). So does Debian's exporter with `/metrics`, at one
//! connection: it has no more in practice. On the test driver, two servers with a constant answer
//! take turns with the agent: one of one thread (the floor) and one of rouille.
//!
//! **Changes** (CreateGuest, Run, Reboot, Restart, Poweroff, Delete, Create, Shutdown) need a guest in the right state.
//! So guests pass through a life in phases, all of them through one before the next; each is called once in a phase, at
//! 1, 8 and 64 connections. On qemu these are few calls, because without KVM an emulator needs most of a second of
//! processor time to start: they have a median and a maximum, and no p99; Run and Create of many guests at once measure
//! the host. The guests of a life have a blank disk, which is a volume of the agent, and never boot: Reboot and
//! Shutdown return after the request to their guest. No C program is compared with them: libvirt's part of a change is
//! the same, and the largest part.
//!
//! The bed's guests are booted, halted and running, on qemu without KVM. A proxy between an agent and libvirtd counts
//! every round trip, while no time is measured. With 64 connections most changes wait for their turn in the agent
//! (`pool.changes`, `pool.calls_waiting`). A caller that gets `busy` retries after 1 ms, 2, 4 and so on up to 64; the
//! latency counts from the first attempt.

mod changes;
#[expect(dead_code, reason = "other benchmarks use more of it")]
#[path = "../common/mod.rs"]
mod common;
mod reads;
mod trips;

// The tests' bed; it names its parts by `super::`.
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/boot_sector.rs"]
mod boot_sector;
#[path = "../../tests/it/harness/call_counter.rs"]
mod call_counter;
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

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::bed::Bed;
use crate::common::calls::Program;
use crate::common::constant::Constant;
use crate::common::http::{self, Answer};
use crate::common::report::{Aim, Report};
use crate::common::sample::{Sample, float};
use crate::common::server::{Server, mib};
use crate::common::{host, scrape};
use crate::skip::Skip;

/// The numbers of connections that call at once.
const CONNECTIONS: [usize; 3] = [1, 8, MANY];
/// The largest number of connections, which takes a while to open.
const MANY: usize = 64;
/// Options of the agents here. Deadlines are long, so that a busy machine can be measured too.
const FLAGS: [&str; 6] =
    ["--bridge-type", "linux", "--deadline-read", "60", "--deadline-change", "240"];
const TEST_DRIVER: [&str; 2] = ["--libvirt-uri", "test:///default"];
/// `/metrics` among the methods.
const METRICS: &str = "/metrics";

/// How much is measured.
struct Plan {
    /// The numbers of guests on the real libvirtd, fewest first.
    guests: [usize; 3],
    /// Turns of each contender, and the length of one; at [`MANY`] connections one is as long as all.
    rounds: usize,
    round: Duration,
    /// Guests that each connection leads through a life, on the test driver and on qemu.
    lives: usize,
    lives_on_qemu: usize,
    /// Starts of the agent, of which the median counts.
    starts: usize,
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some(server) = arguments.first().and_then(|word| Constant::from_argument(word)) {
        return server.serve();
    }
    // `cargo bench` passes this word; `cargo test --all-targets` runs this too, and must not take minutes.
    if !arguments.iter().any(|word| word == "--bench") {
        println!("nothing to test here; the benchmark is `cargo bench --bench methods`");
        return;
    }
    let plan = if env::var_os("BENCH_QUICK").is_some() {
        let round = Duration::from_millis(50);
        Plan { guests: [1, 2, 4], rounds: 1, round, lives: 1, lives_on_qemu: 1, starts: 2 }
    } else {
        let round = Duration::from_millis(250);
        Plan { guests: [1, 20, 50], rounds: 2, round, lives: 4, lives_on_qemu: 3, starts: 10 }
    };
    let host = host::describe();
    let busy_before = host::busy_percent();
    let mut report = Report::default();
    on_test_driver(&plan, &mut report);
    if let Err(Skip(why)) = on_qemu(&plan, &mut report) {
        report.note(format!("Not measured on qemu: {why}."));
    }
    let busy_after = host::busy_percent();
    let host = format!("{host} {}", host::other_work(busy_before, busy_after));
    println!("{host}\n\n{report}");
    println!("\nAs JSON: {}", report.write_json_among_all("methods", &host).display());
}

fn on_test_driver(plan: &Plan, report: &mut Report) {
    let agent = Server::agent(&[&TEST_DRIVER[..], &FLAGS].concat());
    // The guest's NIC differs from the NICs of the lives below.
    let guest = guest("test", "read", 0xFFFF);
    let guest = agent.ask("CreateGuest", &guest)["guest"].take();
    let guest = agent.ask("Run", &guest)["guest"].take();
    reads::on_test_driver(plan, &agent, &[guest], report);
    for connections in CONNECTIONS {
        let phases = changes::live(&agent, "test", connections, plan.lives, || Duration::ZERO);
        for phase in phases {
            let who = format!("{}, test driver", phase.method);
            write_row(report, who, connections, phase.sample);
        }
    }
}

/// # Errors
/// Why no private libvirtd can run here, or that the exporter is missing.
fn on_qemu(plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let mut bed = Bed::new(plan.guests[0])?;
    let program = Program::compile();
    trips::count(&bed, report);
    for guests in plan.guests {
        bed.grow(guests);
        let agent = Server::agent_inside(&bed.stack, &FLAGS);
        let asked = bed.guests.iter().enumerate().map(|(index, id)| as_run(&agent, id, index));
        reads::on_qemu(plan, &bed, &agent, (&program, &asked.collect::<Vec<_>>()), report)?;
        for connections in CONNECTIONS {
            let each = if connections == 1 { plan.lives_on_qemu } else { 1 };
            let libvirtd = || bed.cpu().libvirtd;
            for phase in changes::live(&agent, "qemu", connections, each, libvirtd) {
                phase.write_row(report, guests, connections);
            }
        }
        let memory = agent.memory();
        let (anonymous, resident) = (mib(memory.anonymous_kib), mib(memory.resident_kib));
        let what = format!("{guests} guests: anonymous memory after all of this");
        report.claim(what, anonymous, "MiB", Aim::None);
        report.claim("... resident memory", resident, "MiB", Aim::None);
        let start = plan.start_ms(&bed.stack.uri());
        report.claim("... exec to ready", start, "ms", Aim::AtMost(50.0));
    }
    Ok(())
}

impl Plan {
    /// Returns the turns of each contender at this number of connections, and the length of one.
    fn turns(&self, connections: usize) -> (usize, Duration) {
        match connections {
            MANY => (1, self.round * u32::try_from(self.rounds).expect("a few")),
            _ => (self.rounds, self.round),
        }
    }

    /// Returns the median time from exec until the agent is ready for changes, in ms.
    fn start_ms(&self, libvirt_uri: &str) -> f64 {
        eprintln!("{} starts", self.starts);
        let request = |address: SocketAddr| {
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
        };
        let is_ready = |answer: &Answer<'_>| answer.status == 200;
        let flags = ["--libvirt-uri", libvirt_uri];
        let start = |_| Server::time_to_answer(&flags, request, is_ready);
        let latencies = (0..self.starts).map(start).collect();
        Sample { latencies, ..Sample::default() }.percentile_us(50) / 1000.0
    }
}

/// Returns a call of a method for a guest, or a scrape.
fn request(address: SocketAddr, method: &str, guest: &Value) -> Vec<u8> {
    match method {
        METRICS => scrape::request(address),
        _ => http::call(address, method, &json!({ "guest": guest })),
    }
}

/// Returns whether this is the answer of a successful call, or of a scrape.
fn is_right(answer: &Answer<'_>) -> bool {
    let is_success = || answer.body.ends_with(b",\"error\":null,\"id\":1}\n");
    answer.status == 200 && (is_success() || answer.body.starts_with(b"# "))
}

/// Returns a guest with a volume and a NIC of its own.
fn guest(kind: &str, name: &str, number: usize) -> Value {
    let mac = format!("02:00:00:01:{:02x}:{:02x}", number / 256, number % 256);
    json!({
        "id": format!("{name}-{number}"), "type": kind, "memory": 16, "cpu": 1,
        "nics": [{ "name": "eth0", "network": "mistify0", "model": "rtl8139", "mac": mac }],
        "disks": [{ "size": 1 }],
    })
}

/// Returns one of the bed's guests as Run answers it.
fn as_run(agent: &Server, id: &str, index: usize) -> Value {
    let asked = json!({
        "id": id, "disks": [{ "device": "vda" }],
        "nics": [{ "name": "eth0", "mac": format!("02:00:00:00:40:{index:02x}") }],
    });
    agent.ask("Run", &asked)["guest"].take()
}

/// Writes the row of a contender without a libvirtd: libvirt runs in its own process, or it calls none.
fn write_row(report: &mut Report, who: String, connections: usize, mut sample: Sample) {
    let cells = [
        ("connections", float(connections)),
        ("calls", float(sample.latencies.len())),
        ("calls/s", sample.rate().round()),
        ("p50 µs", sample.percentile_us(50).round()),
        ("p99 µs", sample.percentile_us(99).round()),
        ("busy", float(sample.refused)),
        ("own CPU s per 1,000", sample.cpu_us() / 1000.0),
    ];
    report.row(who, &cells);
}
