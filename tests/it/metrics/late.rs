//! Calls that hang on emulators, with limits short enough to see their ends: an agent in the tests'
//! own process, which sees no process of the stack and so does not know who is stopped.

use std::time::{Duration, Instant};

use mistify_libvirt::config::{Config, HostConfig, MetricsConfig};
use mistify_libvirt::guest::wire::metrics::{GuestMetricsRequest, GuestMetricsResponse};
use mistify_libvirt::guest::wire::{Guest, GuestDisk};
use mistify_libvirt::metrics::Format;
use mistify_libvirt::ops::{Error, Libvirt};
use mistify_libvirt::pool;

use super::{Bed, SOON, Scrape};
use crate::harness::skip::require;
use crate::harness::support::{poll, wait_until};

fn limits() -> MetricsConfig {
    MetricsConfig {
        max_age: Duration::ZERO,
        slow_interval: Duration::from_secs(2),
        slow_late: Duration::from_millis(500),
        ..MetricsConfig::default()
    }
}

struct Own(Libvirt);

impl Own {
    fn start(bed: &Bed, metrics: MetricsConfig) -> Self {
        let host = HostConfig { libvirt_uri: bed.stack.uri(), ..HostConfig::default() };
        let config = Config { host, metrics, ..Config::default() };
        Self(Libvirt::with_config(&config).expect("threads"))
    }

    fn scrape(&self) -> Scrape {
        let asked = Instant::now();
        Scrape::of(asked, &self.0.telemetry.metrics_text(Format::Prometheus, Vec::new()))
    }

    fn scrape_until(&self, what: &str, done: impl Fn(&Scrape) -> bool) -> Scrape {
        let found = poll(SOON, || Some(self.scrape()).filter(&done));
        found.unwrap_or_else(|| panic!("{what}: {:#?}", self.scrape()))
    }

    fn all_have_slow_values(&self, bed: &Bed) {
        self.scrape_until("all have slow values", |scrape| {
            bed.guests.iter().all(|guest| scrape.age(guest, "slow").is_some())
        });
    }

    /// DiskMetrics with a deadline of a second.
    fn disk(&self, guest: &str) -> Result<GuestMetricsResponse, Error> {
        let disk = GuestDisk { device: "vda".to_owned(), ..GuestDisk::default() };
        let guest = Guest { id: guest.to_owned(), disks: vec![disk], ..Guest::default() };
        let args = [("mistify.timeout".to_owned(), "1".to_owned())].into();
        self.0.disk_metrics(GuestMetricsRequest { guest: Some(guest), args, ..Default::default() })
    }
}

fn reads(guest: &str) -> String {
    let labels = format!("{{domain=\"{guest}\",target_device=\"vda\"}}");
    format!("libvirt_domain_block_stats_read_bytes_total{labels}")
}

#[test]
fn hung_guest_keeps_young_values_and_loses_old_ones() {
    let Some(bed) = require("qemu", Bed::new(2)) else { return };
    let (stuck, other) = (bed.guests[0].as_str(), bed.guests[1].as_str());
    let (keep, stand_in) = (Duration::from_secs(15), Duration::from_secs(6));
    let agent = Own::start(&bed, MetricsConfig { keep, stand_in, ..limits() });
    agent.all_have_slow_values(&bed);
    bed.signal(stuck, "STOP");
    let age = |scrape: &Scrape| scrape.age(stuck, "slow");
    let began = Instant::now();
    let answer = agent.disk(stuck);
    let seen = age(&agent.scrape()).expect("its values are kept");
    // The usual case; a machine that took this long gets the other result.
    if began.elapsed() + Duration::from_secs(3) < stand_in {
        let answer = answer.expect("the sample is young");
        assert!(answer.disk["vda"].write_ops > 0, "{answer:?}");
    }
    assert!(seen > 0.9, "{seen}");

    agent.scrape_until("too old to stand in", |scrape| {
        age(scrape).is_none_or(|age| age > stand_in.as_secs_f64())
    });
    let error = agent.disk(stuck).expect_err("the sample is old");
    let is_late = |error: &Error| {
        let Error::Pool(error) = error else { return false };
        matches!(error, pool::Error::Late { .. } | pool::Error::Overdue { .. })
    };
    assert!(is_late(&error), "{error:?}");

    let gone = agent.scrape_until("its values go", |scrape| {
        assert!(age(scrape).is_none_or(|age| age < keep.as_secs_f64()), "{scrape:?}");
        assert_eq!(scrape.get(&reads(stuck)).is_some(), age(scrape).is_some());
        age(scrape).is_none()
    });
    assert!(gone.stuck(stuck).is_some(), "{gone:?}");
    assert!(gone.get(&reads(other)).is_some() && gone.age(other, "slow").is_some());
    bed.signal(stuck, "CONT");
    agent.scrape_until("they are back", |scrape| scrape.get(&reads(stuck)).is_some());
}

#[test]
fn hung_emulators_are_found_and_others_still_sampled() {
    let Some(bed) = require("qemu", Bed::new(5)) else { return };
    let (stuck, others) = bed.guests.split_at(3);
    let agent = Own::start(&bed, limits());
    agent.all_have_slow_values(&bed);
    stuck.iter().for_each(|guest| bed.signal(guest, "STOP"));
    // On a loaded machine one of the others may be busy with an earlier call, and be named for a moment;
    // and the call that asks them may be late for a moment.
    agent.scrape_until("all three are named, and no other", |scrape| {
        let is_named = |guest: &String| scrape.stuck(guest).is_some();
        stuck.iter().all(is_named) && !others.iter().any(is_named)
    });
    agent.scrape_until("all three are left out, with a late call for each", |scrape| {
        let is_out = |guest: &String| scrape.left_out(guest, "stuck");
        let late = scrape.value("mistify_metrics_calls_late");
        stuck.iter().all(is_out) && !others.iter().any(is_out) && late == 3.0
    });
    let least = |of: &[String], scrape: &Scrape| {
        let ages = of.iter().map(|guest| scrape.age(guest, "slow").expect("known"));
        ages.fold(f64::INFINITY, f64::min)
    };
    agent.scrape_until("the others are young", |it| least(others, it) + 5.0 < least(stuck, it));

    let is_back = |scrape: &Scrape, guest: &str, since| {
        scrape.is_newer(guest, "slow", since) && scrape.stuck(guest).is_none()
    };
    let (first, rest) = stuck.split_first().expect("three");
    let since = Instant::now();
    bed.signal(first, "CONT");
    agent.scrape_until("one is back while the others hang", |scrape| {
        is_back(scrape, first, since) && rest.iter().all(|guest| scrape.stuck(guest).is_some())
    });
    let since = Instant::now();
    rest.iter().for_each(|guest| bed.signal(guest, "CONT"));
    agent.scrape_until("all are back", |scrape| {
        stuck.iter().all(|guest| is_back(scrape, guest, since))
            && scrape.value("mistify_metrics_calls_late") == 0.0
    });
    wait_until("none is left out", SOON, || {
        let scrape = agent.scrape();
        stuck.iter().all(|guest| !scrape.left_out(guest, "stuck"))
    });
}
