//! A guest whose emulator hangs, and a libvirtd that does.

use std::time::{Duration, Instant};

use mistify_libvirt::libvirt::{self, Connection, Groups};
use serde_json::json;

use super::{Bed, Inside, SOON, Scrape, median, scrape, time};
use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::support::{poll, wait_for, wait_until};

/// Longer than a loaded machine needs until a metric names a stuck guest: two slow samples.
pub(super) const NAMED: Duration = Duration::from_secs(150);
/// The same for what comes with the sample after the next.
const SAMPLED: Duration = Duration::from_secs(150);
const GUESTS: usize = 20;

/// How long a scrape takes, and beside it the bare call that it cannot do without: a busy machine
/// slows both down.
#[derive(Debug)]
struct Pace {
    scrape: Duration,
    call: Duration,
}

impl Pace {
    fn of(bed: &Bed, agent: &Agent) -> Self {
        libvirt::start().expect("libvirt is there");
        let connection = Connection::open(&bed.stack.uri()).expect("it answers");
        let (mut scrapes, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..101 {
            scrapes.push(time(|| drop(scrape(agent))));
            calls.push(time(|| drop(connection.all_stats(Groups::OWN))));
        }
        Self { scrape: median(scrapes), call: median(calls) }
    }

    /// Within twice that of before: by the clock, or beside the bare call where the machine is
    /// busier now than it was then.
    fn is_within_twice(&self, before: &Self) -> bool {
        let ratio = |pace: &Self| pace.scrape.as_secs_f64() / pace.call.as_secs_f64();
        self.scrape <= 2 * before.scrape || ratio(self) <= 2.0 * ratio(before)
    }
}

/// What holds with one stopped guest among others. `hangs` is whether the agent cannot see
/// that it is stopped, and so lets a call hang on it.
fn one_stopped(bed: &Bed, agent: &Agent, stuck: &str, other: &str, hangs: bool) {
    let until = |what: &str, limit: Duration, done: &dyn Fn(&Scrape) -> bool| {
        let found = poll(limit, || Some(scrape(agent)).filter(|scrape| done(scrape)));
        found.unwrap_or_else(|| panic!("{what}: {:#?}\n{}", scrape(agent), agent.log()))
    };
    let running: Vec<_> =
        bed.guests.iter().filter(|guest| bed.stack.qemu_pid(guest).is_some()).collect();
    until("all have slow values", SOON, &|scrape| {
        running.iter().all(|guest| scrape.age(guest, "slow").is_some())
    });
    let before = Pace::of(bed, agent);
    // Right after a slow sample: one under way would hang on the guest, while the next sees that it is stopped.
    let taken = |scrape: &Scrape| scrape.value("mistify_metrics_samples_total{tier=\"slow\"}");
    let so_far = taken(&scrape(agent));
    until("another slow sample", SAMPLED, &|scrape| taken(scrape) > so_far);
    bed.signal(stuck, "STOP");
    let named = time(|| drop(until("it is named", NAMED, &|scrape| scrape.stuck(stuck).is_some())));
    // Measured again where the machine has other work: an agent that waits for the stopped one is slow each
    // time.
    let what = format!("scrapes as quick as before, {before:?}");
    let pace = || Some(Pace::of(bed, agent)).filter(|pace| pace.is_within_twice(&before));
    let during = wait_for(&what, SAMPLED, pace);
    println!(
        "hangs: {hangs}; named after {named:?}; {before:?} before, {during:?} with it stopped"
    );

    // The others are asked on; it is left out, and its fast values stay fresh.
    let now = Instant::now();
    until("it is left out", SAMPLED, &|scrape| {
        let age = |guest: &str| scrape.age(guest, "slow").expect("its last values are kept");
        let is_older = |guest: &str| guest == stuck || age(guest) + 10.0 < age(stuck);
        let is_apart = scrape.left_out(stuck, "stuck") && scrape.is_newer(stuck, "fast", now);
        is_apart && running.iter().all(|guest| is_older(guest))
    });
    // On a loaded machine others are late for a while, and a call may have been on its way to the
    // guest when that was stopped.
    until("the call that asks it, and no other, is late", SOON, &|scrape| {
        let late = scrape.value("mistify_metrics_calls_late");
        late == 1.0 || (late == 0.0 && !hangs)
    });
    let stopped = agent.ok("Shutdown", &json!({ "id": other }));
    assert_eq!(stopped["guest"]["id"], other);
    wait_until("another guest is off", SOON, || bed.stack.qemu_pid(other).is_none());

    let since = Instant::now();
    bed.signal(stuck, "CONT");
    let before = ended(&scrape(agent));
    let back = until("it is back", SAMPLED, &|scrape| {
        let is_new = scrape.is_newer(stuck, "slow", since);
        is_new && scrape.stuck(stuck).is_none() && !scrape.left_out(stuck, "stuck")
    });
    println!("hangs: {hangs}; back after {:?}", since.elapsed());
    // The one that waited for it, and the next.
    assert!(ended(&back) <= before + 2.0, "{before} before, {back:?}");
}

#[test]
fn one_hung_guest_of_twenty_hides_no_other() {
    let Some(bed) = require("qemu", Bed::new(GUESTS)) else { return };
    let agent = Inside::start(&bed.stack, &["--metrics-max-age", "0"]);
    one_stopped(&bed, &agent.agent, &bed.guests[7], &bed.guests[3], false);
    drop(agent);
    // This agent runs outside the stack and sees none of its processes.
    let agent = Agent::start(&["--libvirt-uri", &bed.stack.uri(), "--metrics-max-age", "0"]);
    one_stopped(&bed, &agent, &bed.guests[8], &bed.guests[4], true);
}

/// Slow samples that have ended in any way.
fn ended(scrape: &Scrape) -> f64 {
    let late = scrape.value("mistify_metrics_samples_late_total");
    scrape.value("mistify_metrics_samples_total{tier=\"slow\"}") - late
}

#[test]
fn hung_guest_metrics_are_a_young_sample_or_late() {
    let Some(bed) = require("qemu", Bed::new(1)) else { return };
    let guest = bed.guests[0].as_str();
    let agent = Inside::start(&bed.stack, &[]);
    let seen =
        agent.scrape_until("a slow sample", SOON, |scrape| scrape.age(guest, "slow").is_some());
    bed.signal(guest, "STOP");
    let params = json!({
        "guest": { "id": guest, "disks": [{ "device": "vda" }] },
        "args": { "mistify.timeout": "1" },
    });
    for verb in ["DiskMetrics", "CPUMetrics", "DiskMetrics"] {
        let answer = agent.agent.call_with(verb, &params);
        assert!(answer["error"].is_null(), "{verb}: {answer}");
        if verb == "DiskMetrics" {
            let writes = "libvirt_domain_block_stats_write_requests_total";
            let writes =
                seen.value(&format!("{writes}{{domain=\"{guest}\",target_device=\"vda\"}}"));
            assert_eq!(answer["result"]["disk"]["vda"]["write_ops"].as_f64(), Some(writes));
        } else {
            assert_eq!(answer["result"]["cpu"].as_array().map(Vec::len), Some(1), "{answer}");
        }
    }
    agent.agent.logged("answered from a sample");
    // A disk that no sample knows has no stand-in.
    let unknown = json!({
        "guest": { "id": guest, "disks": [{ "device": "vdz" }] },
        "args": { "mistify.timeout": "1" },
    });
    let error = agent.agent.call_with("DiskMetrics", &unknown)["error"].clone();
    assert!(error.as_str().is_some_and(|error| error.starts_with("deadline: ")), "{error}");
    bed.signal(guest, "CONT");
}

#[test]
fn stopped_libvirtd_keeps_scrapes_quick_with_ages() {
    let Some(bed) = require("qemu", Bed::new(2)) else { return };
    let guest = bed.guests[0].as_str();
    let agent = Inside::start(&bed.stack, &[]);
    agent.scrape_until("a slow sample", SOON, |scrape| scrape.age(guest, "slow").is_some());
    bed.stack.signal_libvirtd("STOP");
    agent.scrape_until("libvirt is down and the values are old", SOON, |scrape| {
        let is_old = |tier| scrape.age(guest, tier).is_some_and(|age| age > 3.0);
        scrape.value("libvirt_up") == 0.0 && is_old("fast") && is_old("slow")
    });
    // A loaded machine delays some scrapes; an agent that waits for libvirt, all of them.
    let mut quick = 0;
    wait_until("scrapes are quick", SOON, || {
        quick += u32::from(time(|| drop(agent.scrape())) < Duration::from_millis(500));
        quick == 5
    });
    let since = Instant::now();
    bed.stack.signal_libvirtd("CONT");
    agent.scrape_until("it answers again", SOON, |scrape| {
        let is_new = |tier| scrape.is_newer(guest, tier, since);
        scrape.value("libvirt_up") == 1.0 && is_new("fast") && is_new("slow")
    });
}

#[test]
fn a_restarted_libvirtd_is_asked_again() {
    let Some(bed) = require("qemu", Bed::new(1)) else { return };
    let guest = bed.guests[0].as_str();
    let agent = Inside::start(&bed.stack, &["--metrics-max-age", "0"]);
    agent.scrape_until("a slow sample", SOON, |scrape| scrape.age(guest, "slow").is_some());
    bed.stack.signal_libvirtd("KILL");
    agent.scrape_until("down", SOON, |scrape| scrape.value("libvirt_up") == 0.0);
    let since = Instant::now();
    bed.stack.start_libvirtd();
    agent.scrape_until("up", SOON, |scrape| {
        scrape.value("libvirt_up") == 1.0 && scrape.is_newer(guest, "fast", since)
    });
}

#[test]
fn a_driver_without_emulators_has_none_that_hang() {
    let agent = Agent::on_test_driver();
    let has_slow_sample = || {
        let text = agent.request("GET", "/metrics", &[], b"").text();
        let age = "mistify_guest_sample_age_seconds{domain=\"test\",tier=\"slow\"}";
        text.contains(age).then_some(text)
    };
    let text = wait_for("a slow sample", SOON, has_slow_sample);
    assert!(!text.contains("mistify_guest_stuck_seconds{"), "{text}");
    let answer = agent.call_with("WaitEvents", &json!({ "after": 0, "timeout": 0 }));
    let events = answer["result"]["events"].as_array().expect("events");
    assert!(events.iter().all(|event| event["event"] != "stuck"), "{answer}");
}
