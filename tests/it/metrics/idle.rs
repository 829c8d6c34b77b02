//! Nobody scraping: no samples, no wake-ups.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mistify_libvirt::config::MetricsConfig;

use super::{Bed, Inside, SOON};
use crate::harness::skip::require;
use crate::harness::support::{poll, wait_until};

/// Long enough for anything that wakes up every second or two.
const LOOK: Duration = Duration::from_secs(7);

/// How often each thread has gone to sleep, by its name and number.
fn sleeps(pid: u32) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let tasks = tasks.map(|task| {
        let status = fs::read_to_string(task.expect("a task").path().join("status")).expect("it");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            line.trim().to_owned()
        };
        let name = format!("{} {}", field("Name:"), field("Pid:"));
        (name, field("voluntary_ctxt_switches:").parse().expect("a count"))
    });
    tasks.collect()
}

/// Waits until no thread wakes up for [`LOOK`], but for libvirt's own; how often that one did.
///
/// That is not for metrics: the agent's first look at libvirt leaves one worker with a connection
/// that is kept for the next call, and on each connection a keepalive goes every 2 s where nothing
/// else does, so that a libvirtd that is gone is noticed. What the test claims of that thread is
/// that it wakes up no more than before the first scrape: no connection of the metrics' is left.
fn wait_until_still(pid: u32) -> u64 {
    let end = Instant::now() + SOON;
    let split = || {
        sleeps(pid)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(thread, _)| thread.starts_with("libvirt-loop "))
    };
    loop {
        let (events, before) = split();
        // Ends early where anything happens.
        let Some(now) = poll(LOOK, || Some(split().1).filter(|now| *now != before)) else {
            return split().0.values().sum::<u64>() - events.values().sum::<u64>();
        };
        let awake = now.iter().filter(|(thread, count)| before.get(*thread) != Some(*count));
        let awake: Vec<_> = awake.map(|(thread, _)| thread).collect();
        assert!(Instant::now() < end, "these do not sleep: {awake:?}");
    }
}

#[test]
fn agent_sleeps_a_minute_after_the_last_scrape() {
    let Some(bed) = require("qemu", Bed::new(1)) else { return };
    let guest = bed.guests[0].as_str();
    let agent = Inside::start(&bed.stack, &[]);
    let before = wait_until_still(agent.pid());

    let began = Instant::now();
    // The sample had not ended when this was asked for.
    let last = Cell::new(began);
    agent.scrape_until("a slow sample", SOON, |scrape| {
        let has_ended = scrape.age(guest, "slow").is_some();
        if !has_ended {
            last.set(scrape.1);
        }
        has_ended
    });
    let scraped = began.elapsed().as_secs_f64();
    let taken =
        || Path::new(&format!("/proc/{}/task", agent.pid())).read_dir().map(Iterator::count);
    let with_query_thread = taken().expect("it runs");
    let idle = MetricsConfig::default().idle;
    wait_until("the connections are closed", idle + SOON, || {
        taken().expect("it runs") < with_query_thread
    });
    assert!(last.get().elapsed() >= idle, "{:?}", last.get().elapsed());
    // The fast tier's connection is closed a moment later.
    let is_as_before = || wait_until_still(agent.pid()) <= before + 1;
    wait_until("libvirt wakes up no more than before", SOON, is_as_before);

    let scrape = agent.scrape();
    assert_eq!(scrape.value("libvirt_up"), 1.0);
    // One in a second while it was scraped, and one now.
    let samples = scrape.value("mistify_metrics_samples_total{tier=\"fast\"}");
    assert!(samples <= scraped + 2.0, "{samples} in {scraped} s");
}
