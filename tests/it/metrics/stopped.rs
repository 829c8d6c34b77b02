//! Guests whose emulators are stopped, and guests that a verb is changing: none of them is asked.

use std::thread;
use std::time::{Duration, Instant};

use mistify_libvirt::config::MetricsConfig;
use serde_json::json;

use super::stuck::NAMED;
use super::{Bed, Inside, SOON, Scrape, scrape};
use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::support::{poll, wait_until};

/// More than there may be calls that are late.
const STOPPED: usize = 6;

#[test]
fn stopped_guests_are_named_and_others_still_sampled() {
    let Some(bed) = require("qemu", Bed::new(STOPPED + 1)) else { return };
    let (awake, stopped) = bed.guests.split_first().expect("guests");
    let agent = Inside::start(&bed.stack, &["--metrics-max-age", "0"]);
    // A call on its way would hang on the guests that are stopped next.
    agent.scrape_until("all have slow values", NAMED, |scrape| scrape.is_at_rest(&bed.guests));

    let since = Instant::now();
    stopped.iter().for_each(|guest| bed.signal(guest, "STOP"));
    let named = agent.scrape_until("all are named, by a new sample", NAMED, |scrape| {
        let is_named = |guest: &String| scrape.stuck(guest).is_some();
        let is_asked = scrape.is_newer(awake, "slow", since) && !scrape.left_out(awake, "stuck");
        stopped.iter().all(is_named) && is_asked && !is_named(awake)
    });
    assert!(stopped.iter().all(|guest| named.left_out(guest, "stuck")), "{named:?}");
    // Again, and no call has hung on any of them.
    let interval = MetricsConfig::default().slow_interval;
    agent.scrape_until("the next one", interval + SOON, |scrape| {
        let age = scrape.age(awake, "slow").expect("it is known");
        age + 5.0 < scrape.age(&stopped[0], "slow").expect("it is kept") - interval.as_secs_f64()
    });
    no_call_hangs(&agent.agent);

    // One goes on, while the others do not.
    let since = Instant::now();
    bed.signal(&stopped[0], "CONT");
    let is_back = |scrape: &Scrape, guest: &str| {
        scrape.is_newer(guest, "slow", since) && scrape.stuck(guest).is_none()
    };
    let back = agent.scrape_until("it is back", interval + SOON, |it| is_back(it, &stopped[0]));
    assert!(stopped[1..].iter().all(|guest| back.stuck(guest).is_some()), "{back:?}");
    stopped[1..].iter().for_each(|guest| bed.signal(guest, "CONT"));
    agent.scrape_until("all are back", interval + SOON, |scrape| {
        stopped.iter().all(|guest| is_back(scrape, guest) && !scrape.left_out(guest, "stuck"))
    });
}

/// None of the calls for slow samples is late, or one that a loaded machine has made late returns: one that
/// hung on a stopped emulator would not.
fn no_call_hangs(agent: &Agent) {
    wait_until("no call hangs", SOON, || scrape(agent).value("mistify_metrics_calls_late") == 0.0);
}

#[test]
fn shutdown_of_a_stopped_guest_completes_on_resume() {
    let Some(bed) = require("qemu", Bed::new(1)) else { return };
    let guest = bed.guests[0].as_str();
    let agent = Inside::start(&bed.stack, &["--metrics-max-age", "0"]);
    agent.scrape_until("a slow sample", SOON, |scrape| scrape.age(guest, "slow").is_some());
    bed.signal(guest, "STOP");
    agent.scrape_until("it is named", NAMED, |scrape| scrape.stuck(guest).is_some());

    let params = json!({ "guest": { "id": guest }, "args": { "mistify.timeout": "2" } });
    let late = agent.agent.call_with("Shutdown", &params)["error"].clone();
    assert!(late.as_str().is_some_and(|error| error.starts_with("deadline: ")), "{late}");
    bed.signal(guest, "CONT");
    wait_until("it is off", SOON, || bed.stack.qemu_pid(guest).is_none());
}

#[test]
fn guest_under_change_is_omitted_and_named() {
    let Some(bed) = require("qemu", Bed::new(2)) else { return };
    let (changing, other) = (bed.guests[0].as_str(), bed.guests[1].as_str());
    // This agent runs outside the stack and sees no processes there: only the verb keeps it from asking.
    let uri = bed.stack.uri();
    let flags = ["--libvirt-uri", &uri, "--metrics-max-age", "0", "--deadline-change", "600"];
    let agent = Agent::start(&flags);
    let until = |what: &str, limit: Duration, done: &dyn Fn(&Scrape) -> bool| {
        let found = poll(limit, || Some(scrape(&agent)).filter(|scrape| done(scrape)));
        found.unwrap_or_else(|| panic!("{what}: {:#?}\n{}", scrape(&agent), agent.log()))
    };
    // As above.
    until("both have slow values", NAMED, &|scrape| scrape.is_at_rest(&bed.guests));
    bed.signal(changing, "STOP");
    thread::scope(|scope| {
        let since = Instant::now();
        let shutdown = scope.spawn(|| agent.ok("Shutdown", &json!({ "id": changing })));
        let out = until("it is left out", NAMED, &|scrape| scrape.left_out(changing, "changing"));
        no_call_hangs(&agent);
        bed.signal(changing, "CONT");
        assert_eq!(out.value("mistify_keys_held"), 1.0);
        assert!(!out.left_out(other, "changing") && !out.left_out(changing, "stuck"), "{out:?}");
        assert_eq!((out.stuck(changing), out.stuck(other)), (None, None));
        let (old, new) = (out.age(changing, "slow"), out.age(other, "slow"));
        assert!(new.is_some_and(|age| age < since.elapsed().as_secs_f64()), "{new:?}");
        assert!(old > new, "{old:?} {new:?}");
        shutdown.join().expect("it succeeds");
    });
    wait_until("it is off", SOON, || bed.stack.qemu_pid(changing).is_none());
    let interval = MetricsConfig::default().slow_interval;
    until("it is gone from those left out", interval + SOON, &|scrape| {
        !scrape.left_out(changing, "changing")
    });
}
