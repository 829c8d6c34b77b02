//! The figures of docs/performance.md: the cost of scrapes, beside Debian's exporter.
//!
//!     tests/install-deps.sh bench
//!     cargo bench --bench metrics                     about two minutes; needs root
//!     BENCH_WINDOW_S=60 cargo bench --bench metrics   the same with longer windows
//!     BENCH_QUICK=1 cargo bench --bench metrics       the same in a minute, for trying it out
//!
//! Twenty real guests idle on a libvirtd of their own. The agent, `prometheus-libvirt-exporter` and
//! a C program that makes the bulk calls take turns, so that the ratios hold on a machine that has
//! other work, where absolute figures do not. Without libvirtd, qemu or the exporter, the report
//! says so.

#[expect(dead_code, reason = "other benchmarks use more of it")]
#[path = "../common/mod.rs"]
mod common;
mod formatter;
mod latency;
mod windows;

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

use std::env;
use std::time::Duration;

use crate::common::bed::Bed;
use crate::common::host;
use crate::common::report::Report;
use crate::skip::Skip;

const GUESTS: usize = 20;

/// How much is measured.
struct Plan {
    /// Turns of each contender where scrapes come one after the other, and the length of one.
    rounds: usize,
    round: Duration,
    /// The length of a window with a scrape a second. A window with a scrape in 15 s has the multiple
    /// of 15 s that fits into it, at least one.
    window: Duration,
    /// Turns of the formatter.
    texts: usize,
}

impl Plan {
    fn new() -> Self {
        let is_quick = env::var_os("BENCH_QUICK").is_some();
        let window_s = env::var("BENCH_WINDOW_S").ok().map(|text| text.parse());
        let window_s = window_s.unwrap_or(Ok(if is_quick { 3 } else { 30 }));
        let window = Duration::from_secs(window_s.expect("BENCH_WINDOW_S is a number of seconds"));
        if is_quick {
            return Self { rounds: 1, round: Duration::from_millis(500), window, texts: 10 };
        }
        Self { rounds: 4, round: Duration::from_millis(600), window, texts: 100 }
    }
}

fn main() {
    // `cargo bench` passes this word; `cargo test --all-targets` runs this too, and must not take minutes.
    if !env::args().any(|word| word == "--bench") {
        println!("nothing to test here; the benchmark is `cargo bench --bench metrics`");
        return;
    }
    let (plan, host) = (Plan::new(), host::describe());
    let busy_before = host::busy_percent();
    let mut report = Report::default();
    if let Err(Skip(why)) = measure(&plan, &mut report) {
        report.note(format!("Not measured: {why}."));
    }
    let busy_after = host::busy_percent();
    let host = format!("{host} {GUESTS} guests. {}", host::other_work(busy_before, busy_after));
    println!("{host}\n\n{report}");
    println!("\nAs JSON: {}", report.write_json_among_all("metrics", &host).display());
}

fn measure(plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let bed = Bed::new(GUESTS)?;
    latency::measure(&bed, plan, report)?;
    windows::measure(&bed, plan, report)?;
    formatter::measure(&bed, plan.texts, report);
    Ok(())
}
