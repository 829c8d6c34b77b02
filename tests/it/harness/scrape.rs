//! The metrics of the agent, by series.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::agent::Agent;
use super::pid_namespace::Inside;
use super::support::poll;

impl Inside {
    pub(crate) fn scrape(&self) -> Scrape {
        scrape(&self.agent)
    }

    /// Scrapes until this holds.
    pub(crate) fn scrape_until(
        &self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Scrape) -> bool,
    ) -> Scrape {
        let found = poll(limit, || Some(self.scrape()).filter(&done));
        found.unwrap_or_else(|| panic!("{what}: {:#?}\n{}", self.scrape().0, self.agent.log()))
    }
}

/// The values of a scrape by series, such as `libvirt_up` or `x_total{domain="a",tier="b"}`, and the time
/// of the request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scrape(pub(crate) BTreeMap<String, f64>, pub(crate) Instant);

impl Scrape {
    /// Parses the answer to a request of the time `asked`.
    pub(crate) fn of(asked: Instant, text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let values = samples.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            (series.to_owned(), value.parse().expect("a number"))
        });
        Self(values.collect(), asked)
    }

    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    pub(crate) fn value(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("{series} in {:#?}", self.0))
    }

    /// Returns the age of a guest's values in seconds.
    pub(crate) fn age(&self, guest: &str, tier: &str) -> Option<f64> {
        let series =
            format!("mistify_guest_sample_age_seconds{{domain=\"{guest}\",tier=\"{tier}\"}}");
        self.get(&series)
    }

    /// Returns whether a guest's values come from a sample that began after `since`, however long the answer took.
    pub(crate) fn is_newer(&self, guest: &str, tier: &str, since: Instant) -> bool {
        let time = self.1.saturating_duration_since(since).as_secs_f64();
        self.age(guest, tier).is_some_and(|age| age < time)
    }

    /// Returns whether no slow sample is under way or will start within some seconds: the last one, of all these
    /// guests, began a short while ago, and no call is late.
    pub(crate) fn is_at_rest(&self, guests: &[String]) -> bool {
        let is_young = |guest: &String| self.age(guest, "slow").is_some_and(|age| age < 10.0);
        guests.iter().all(is_young) && self.value("mistify_metrics_calls_late") == 0.0
    }

    pub(crate) fn stuck(&self, guest: &str) -> Option<f64> {
        self.get(&format!("mistify_guest_stuck_seconds{{domain=\"{guest}\"}}"))
    }

    pub(crate) fn left_out(&self, guest: &str, why: &str) -> bool {
        let series = format!("mistify_guest_left_out{{domain=\"{guest}\",reason=\"{why}\"}}");
        self.get(&series).is_some()
    }
}

pub(crate) fn scrape(agent: &Agent) -> Scrape {
    let asked = Instant::now();
    let reply = agent.request("GET", "/metrics", &[], b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
    Scrape::of(asked, &reply.text())
}
