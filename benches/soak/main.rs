//! All operations at once for a long time, and a check of what remains.
//!
//!     make soak MINUTES=60                as root; the seed is printed
//!     make soak MINUTES=60 SEED=12345     the same calls and faults again, if time allows
//!
//! On a libvirtd and qemu of its own, with volumes in a directory: four orchestrators call every
//! method at random for two guests each (guests boot, have two volumes, a NIC and a screen), by
//! both paths, some in batches, and are cut off now and then; one scrapes, two listen to events.
//! Meanwhile an emulator or libvirtd is stopped and goes on, or libvirtd is killed or ended and
//! started again.
//!
//! For the first quarter of the time the agent itself is killed (SIGKILL) and started again, too.
//! Then it runs without interruption: its figures are read after a third of that time and at the
//! end, each time at rest, which takes a minute or two beyond the given time. They must not have
//! grown, no object may remain, and no impossible event may have occurred: a panic, an agent that
//! ends by itself, an invalid answer, a guest that is lost or that exists after its Delete. The
//! exit status is 1 otherwise.

mod callers;
#[expect(dead_code, reason = "the benchmarks use more of it")]
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod totals;
mod world;

// The tests' bed; it names its parts by `super::`.
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/agent.rs"]
mod agent;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/harness/boot_sector.rs"]
mod boot_sector;
#[path = "../../tests/it/harness/cost.rs"]
mod cost;
#[path = "../../tests/it/harness/pid_namespace.rs"]
mod pid_namespace;
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
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mistify_libvirt::config::{EventLimits, JobLimits};
use serde_json::json;

use crate::agent::Agent;
use crate::common::host;
use crate::common::report::{Aim, Report};
use crate::common::sample::float;
use crate::common::server::mib;
use crate::faults::Faults;
use crate::skip::Skip;
use crate::support::AtEnd;
use crate::world::{GUESTS, Vitals, World};

const CALLERS: usize = 4;
const LISTENERS: usize = 2;
/// Seeds of one period of work: each thread has its own.
const SEEDS: u64 = 16;
/// Guests that each thread makes and deletes between two checks of the number of events.
const LIVES: usize = 50;
/// The maximum of the memory at the end, and of its growth, in MiB.
const MEMORY_MIB: f64 = 14.0;
const GROWTH_MIB: f64 = 1.0;
/// The interval of the checks that the agent runs.
const LOOK: Duration = Duration::from_secs(1);
/// Rows of the table of memory over time, for each period of work.
const ROWS: u32 = 10;

/// The length and the seed of a run.
struct Plan {
    length: Duration,
    seed: u64,
}

impl Plan {
    /// Reads the plan from the environment; `None` without `SOAK_MINUTES`.
    fn read() -> Option<Self> {
        let number = |name| -> Option<u64> {
            let text = env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
        };
        let minutes = number("SOAK_MINUTES")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = number("SOAK_SEED").unwrap_or(now.as_secs() % 1_000_000);
        Some(Self { length: Duration::from_secs(60 * minutes), seed })
    }
}

fn main() -> ExitCode {
    let is_asked = env::args().any(|word| word == "--bench");
    let Some(plan) = Plan::read().filter(|_| is_asked) else {
        println!("nothing to do here; the soak is `make soak MINUTES=60`");
        return ExitCode::SUCCESS;
    };
    let host = host::describe();
    let host = format!("{host} {} minutes, seed {}.", plan.length.as_secs() / 60, plan.seed);
    println!("{host}");
    let report = match soak(&plan) {
        Ok(report) => report,
        Err(Skip(why)) => {
            println!("nothing can soak here: {why}");
            return ExitCode::FAILURE;
        }
    };
    println!("\n{report}\nAs JSON: {}", report.write_json("soak", &host).display());
    if report.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak(plan: &Plan) -> Result<Report, Skip> {
    let (world, mut report) = (World::new()?, Report::default());
    let mut run =
        Run { world: &world, report: &mut report, seed: plan.seed, begin: Instant::now() };
    run.work(plan.length / 4, Faults::All);
    world.delete_all();
    world.kill_agent();
    fill_rings(&world);
    run.work(plan.length / 4, Faults::ButKills);
    world.delete_all();
    let early = world.at_rest();
    run.work(plan.length / 2, Faults::ButKills);
    world.delete_all();
    let late = world.at_rest();
    world.end();
    let left = world.left_over();
    judge(&world, &early, &late, &left, &mut report);
    Ok(report)
}

/// The state of a run.
struct Run<'a> {
    world: &'a World,
    report: &'a mut Report,
    seed: u64,
    begin: Instant,
}

impl Run<'_> {
    /// Runs calls and faults for this time.
    fn work(&mut self, length: Duration, faults: Faults) {
        let (over, world) = (AtomicBool::new(false), self.world);
        let mut seeds = self.seed..;
        self.seed += SEEDS;
        let mut seed = || seeds.next().expect("a range without an end");
        thread::scope(|scope| {
            let end = AtEnd(&over);
            let over = &over;
            for caller in 0..CALLERS {
                let (seed, numbers) = (seed(), (caller..GUESTS).step_by(CALLERS));
                let numbers: Vec<usize> = numbers.collect();
                scope.spawn(move || callers::call(world, &numbers, seed, over));
            }
            for _ in 0..LISTENERS {
                let seed = seed();
                scope.spawn(move || callers::listen(world, seed, over));
            }
            let (scrape_seed, fault_seed) = (seed(), seed());
            scope.spawn(move || callers::scrape(world, scrape_seed, over));
            scope.spawn(move || faults::cause(world, faults, fault_seed, over));
            let (begin, mut rows) = (Instant::now(), 0);
            while begin.elapsed() < length {
                thread::sleep(LOOK.min(length.saturating_sub(begin.elapsed())));
                world.see_that_it_lives();
                if begin.elapsed() >= length / ROWS * rows {
                    rows += 1;
                    self.write_row();
                }
            }
            drop(end);
        });
    }

    fn write_row(&mut self) {
        // The agent may be starting now.
        let Some(now) = self.world.vitals() else { return };
        let cells = [
            ("anonymous MiB", mib(now.anonymous_kib)),
            ("resident MiB", mib(now.resident_kib)),
            ("threads", float(now.threads)),
            ("descriptors", float(now.descriptors.len())),
            ("calls so far", float(self.world.stats.calls())),
        ];
        let seconds = self.begin.elapsed().as_secs();
        // So that an interrupted run has shown its figures.
        eprintln!("after {seconds} s: {:.1} MiB of anonymous memory", mib(now.anonymous_kib));
        self.report.row(format!("after {seconds} s"), &cells);
    }
}

/// Runs jobs, and makes and deletes guests without disks and NICs, until the agent's rings of events and of ended jobs
/// are full: they do not grow further then.
fn fill_rings(world: &World) {
    eprintln!("filling the rings of events and jobs");
    let life = world.agent();
    let (mut guest, job) = (world::guest(0), json!({ "mistify.async": "true" }));
    world.insist("CreateGuest", &json!({ "guest": guest }));
    for number in 0..JobLimits::default().stored {
        guest["metadata"] = json!({ "n": number.to_string() });
        world.insist("SetMetadata", &json!({ "guest": guest, "args": job }));
    }
    world.delete_all();
    let fill = |number: usize| {
        let mut guest = world::guest(number);
        (guest["nics"], guest["disks"]) = (json!([]), json!([]));
        for _ in 0..LIVES {
            world.insist("CreateGuest", &json!({ "guest": guest }));
            world.insist("Delete", &json!({ "guest": guest }));
        }
    };
    let fill = &fill;
    while events(&life.agent) < EventLimits::default().stored {
        thread::scope(|scope| {
            (0..CALLERS).for_each(|number| drop(scope.spawn(move || fill(number))));
        });
    }
}

/// Returns the number of stored events.
fn events(agent: &Agent) -> usize {
    let (mut after, mut count) = (json!(0), 0);
    loop {
        let answer = agent.call_with("WaitEvents", &json!({ "after": after, "timeout": 0 }));
        let page = answer["result"]["events"].as_array().map_or(0, Vec::len);
        if page == 0 {
            return count;
        }
        count += page;
        after = answer["result"]["next"].clone();
    }
}

fn judge(world: &World, early: &Vitals, late: &Vitals, left: &[String], report: &mut Report) {
    let memory = mib(late.anonymous_kib);
    report.claim("anonymous memory at the end", memory, "MiB", Aim::AtMost(MEMORY_MIB));
    let growth = mib(late.anonymous_kib.saturating_sub(early.anonymous_kib));
    report.claim("... grown by in the long life", growth, "MiB", Aim::AtMost(GROWTH_MIB));
    for (what, before, after) in [
        ("threads", early.threads, late.threads),
        ("descriptors", early.descriptors.len(), late.descriptors.len()),
        ("connections to libvirtd", early.connections, late.connections),
    ] {
        report.claim(format!("{what} at the end"), float(after), "", Aim::None);
        let grown = float(after.saturating_sub(before));
        report.claim("... more than in the long life's early rest", grown, "", Aim::AtMost(0.0));
    }
    report.claim("left over", float(left.len()), "things", Aim::AtMost(0.0));
    let (count, shown) = world.stats.violations();
    report.claim("what cannot be", float(count), "times", Aim::AtMost(0.0));
    world.stats.write(report);
    let mut known = early.descriptors.clone();
    for what in &late.descriptors {
        match known.iter().position(|it| it == what) {
            Some(at) => drop(known.swap_remove(at)),
            None => report.note(format!("A descriptor more: {what}")),
        }
    }
    for what in shown {
        report.note(format!("What cannot be: {what}"));
    }
    for what in left {
        report.note(format!("Left over: {what}"));
    }
}
