//! What is measured of guests: on real qemu, each test on a stack of its own.

mod dist;
mod idle;
mod late;
mod shape;
mod stopped;
mod stuck;
mod trips;
mod values;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::agent::Agent;
use crate::harness::cost::slow;
use crate::harness::pid_namespace::Inside;
use crate::harness::skip::Skip;
use crate::harness::stack::{BlockDevice, Stack, measured_guest_xml};
use crate::harness::support::{poll, signal, wait_until};

/// Longer than a loaded machine needs for what takes a second or two.
const SOON: Duration = Duration::from_secs(60);

/// A stack and its guests, each with a disk that it writes to and an interface.
struct Bed {
    guests: Vec<String>,
    /// Freed after the stack.
    stack: Stack,
    _disk: BlockDevice,
}

impl Bed {
    fn new(guests: usize) -> Result<Self, Skip> {
        let (stack, disk) = (Stack::start()?, BlockDevice::bootable(1 << 20)?);
        slow("waits for real guest boots");
        let guests: Vec<String> = (0..guests).map(|index| format!("g-{index}")).collect();
        for (index, name) in guests.iter().enumerate() {
            let made = stack.with_xml("create", &measured_guest_xml(name, index, disk.path()));
            assert!(made.status.success(), "{made:?}");
        }
        for name in &guests {
            wait_until("the guest writes to its disk", SOON, || stack.writes(name) > 0);
        }
        Ok(Self { guests, stack, _disk: disk })
    }

    fn signal(&self, guest: &str, name: &str) {
        signal(self.stack.qemu_pid(guest).expect("it runs"), name);
    }
}

impl Inside {
    fn scrape(&self) -> Scrape {
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

/// One scrape's values by series, as in `libvirt_up` or `x_total{domain="a",tier="b"}`, and when it was
/// asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scrape(BTreeMap<String, f64>, Instant);

impl Scrape {
    /// What is answered with this text to a question of `asked`.
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

    /// The age of a guest's values.
    pub(crate) fn age(&self, guest: &str, tier: &str) -> Option<f64> {
        let series =
            format!("mistify_guest_sample_age_seconds{{domain=\"{guest}\",tier=\"{tier}\"}}");
        self.get(&series)
    }

    /// Whether a guest's values are of a sample that began after `since`, however long the answer took.
    pub(crate) fn is_newer(&self, guest: &str, tier: &str, since: Instant) -> bool {
        let time = self.1.saturating_duration_since(since).as_secs_f64();
        self.age(guest, tier).is_some_and(|age| age < time)
    }

    /// Whether no slow sample is under way, nor will be for some seconds: the last one, of all these guests,
    /// began a short while ago, and no call is late.
    fn is_at_rest(&self, guests: &[String]) -> bool {
        let is_young = |guest: &String| self.age(guest, "slow").is_some_and(|age| age < 10.0);
        guests.iter().all(is_young) && self.value("mistify_metrics_calls_late") == 0.0
    }

    fn stuck(&self, guest: &str) -> Option<f64> {
        self.get(&format!("mistify_guest_stuck_seconds{{domain=\"{guest}\"}}"))
    }

    fn left_out(&self, guest: &str, why: &str) -> bool {
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

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
