//! The figures of guests: the costs and gains of the profile `modern` beside `classic`.
//!
//!     tests/install-deps.sh bench
//!     cargo bench --bench guests                     about twenty minutes; needs root
//!     BENCH_GUESTS=changes,boots cargo bench ...     some of its parts: changes, boots, memory, agents, logins,
//!                                                    files, zvols
//!     BENCH_QUICK=1 cargo bench --bench guests       one round without files and zvols, for trying it out
//!
//! The guests run on a private libvirtd, with qemu's emulation of processors (TCG). The contenders of each
//! figure take turns, or boot at once, so that the ratios hold on a machine with other work. The figures are
//! the latency of CreateGuest, Run and GuestInfo, the time from Run to the login prompt and from `create` to SSH, the
//! memory of the emulator by `max_cpu`, and the throughput of a disk: in a file in a Debian guest, and on a ZFS volume
//! in the small Linux. For the throughput, a domain that `virt-install` defines is the third contender. Without qemu,
//! the image or `virt-install`, the report names the missing part.

mod agents;
mod boots;
mod changes;
mod debian;
mod disks;
mod logins;
mod memory;
mod world;
mod zvols;

#[expect(dead_code, reason = "other benchmarks use more of it")]
#[path = "../common/mod.rs"]
mod common;

// The tests' bed; it names its parts by `super::`.
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/boot_sector.rs"]
mod boot_sector;
#[path = "../../tests/it/harness/cost.rs"]
mod cost;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/linux.rs"]
mod linux;
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
use std::process::Command;
use std::time::Duration;

use crate::common::host;
use crate::common::report::{Aim, Report};
use crate::common::sample::Sample;
use crate::skip::Skip;
use crate::world::World;
use crate::zvols::IN_LAB;

/// The profiles that are compared: the default first.
const PROFILES: [&str; 2] = ["modern", "classic"];

/// How much is measured.
struct Plan {
    /// Lives of a guest with each profile, from CreateGuest to Delete.
    lives: usize,
    /// Boots of the small Linux with each profile.
    boots: usize,
    /// Turns of GuestInfo of all guests.
    agents: usize,
    /// Turns of each disk with each pattern, and the length of one.
    disks: usize,
    turn: Duration,
    /// The parts that are measured.
    parts: String,
}

impl Plan {
    fn new() -> Self {
        let (turn, disks) = (Duration::from_secs(5), 3);
        let parts = env::var("BENCH_GUESTS");
        if env::var_os("BENCH_QUICK").is_some() {
            let parts = parts.unwrap_or_else(|_| "changes,boots,memory,agents,logins".to_owned());
            return Self { lives: 3, boots: 1, agents: 10, disks: 1, turn, parts };
        }
        let parts =
            parts.unwrap_or_else(|_| "changes,boots,memory,agents,logins,files,zvols".to_owned());
        Self { lives: 15, boots: 3, agents: 200, disks, turn, parts }
    }

    fn has(&self, part: &str) -> bool {
        self.parts.split(',').any(|word| word == part)
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some((IN_LAB, rest)) =
        arguments.split_first().map(|(first, rest)| (first.as_str(), rest))
    {
        return zvols::measure_in_lab(rest);
    }
    // `cargo bench` passes this word; `cargo test --all-targets` runs this too, and must not take minutes.
    if !arguments.iter().any(|word| word == "--bench") {
        println!("nothing to test here; the benchmark is `cargo bench --bench guests`");
        return;
    }
    let (plan, host) = (Plan::new(), host::describe());
    let busy_before = host::busy_percent();
    let mut report = Report::default();
    if let Err(Skip(why)) = measure(&plan, &mut report) {
        report.note(format!("Not measured: {why}."));
    }
    let busy_after = host::busy_percent();
    let host = format!("{host} {} {}", emulator(), host::other_work(busy_before, busy_after));
    println!("{host}\n\n{report}");
    println!("\nAs JSON: {}", report.write_json_among_all("guests", &host).display());
}

/// # Errors
/// Why a part cannot run here; the parts before it are in the report.
fn measure(plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let world = World::new()?;
    if plan.has("changes") {
        changes::measure(&world, plan, report);
    }
    if plan.has("boots") {
        boots::measure(&world, plan, report)?;
    }
    if plan.has("memory") {
        memory::measure(&world, report)?;
    }
    if plan.has("agents") {
        agents::measure(&world, plan, report)?;
    }
    if plan.has("logins") {
        logins::measure(plan, report)?;
    }
    if plan.has("files") {
        disks::measure(&world, plan, report)?;
    }
    if plan.has("zvols") {
        zvols::measure(&world, plan, report)?;
    }
    Ok(())
}

/// The version of qemu, as a sentence.
fn emulator() -> String {
    let output = Command::new("qemu-system-x86_64").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
    format!("{}, without KVM.", line.split(" (").next().unwrap_or_default())
}

/// Durations as a sample, which has their median.
fn sample(latencies: Vec<Duration>) -> Sample {
    Sample { latencies, ..Sample::default() }
}

/// Writes the ratio of the first of two medians to the second.
fn compare(report: &mut Report, what: &str, medians: [f64; 2], aim: Aim) {
    report.claim(format!("{what}, times classic's"), medians[0] / medians[1], "", aim);
}
