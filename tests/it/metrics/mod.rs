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
use std::process::Command;
use std::time::{Duration, Instant};

use crate::agent::{Agent, PROGRAM};
use crate::skip::Skip;
use crate::stack::{BlockDevice, Stack, child_of, measured_guest_xml};
use crate::support::{poll, signal, wait_until};

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

/// An agent in the stack's world of processes and files, where libvirt and the kernel speak of the
/// same processes; its network is the tests'.
pub(crate) struct Inside {
    pub(crate) agent: Agent,
    pid: u32,
}

impl Inside {
    pub(crate) fn start(stack: &Stack, flags: &[&str]) -> Self {
        let agent = Agent::run(stack.command_outside_network(PROGRAM), flags);
        let pid = child_of(agent.pid());
        Self { agent, pid }
    }

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

impl Drop for Inside {
    fn drop(&mut self) {
        // nsenter, which the test started, does not pass its end on. It may be over already.
        let kill = format!("kill -s KILL {} 2>/dev/null", self.pid);
        let _ = Command::new("/bin/sh").args(["-c", &kill]).status();
    }
}

/// One scrape's values by series, as in `libvirt_up` or `x_total{domain="a",tier="b"}`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub(crate) fn of(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            samples
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                    (series.to_owned(), value.parse().expect("a number"))
                })
                .collect(),
        )
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

    fn stuck(&self, guest: &str) -> Option<f64> {
        self.get(&format!("mistify_guest_stuck_seconds{{domain=\"{guest}\"}}"))
    }

    fn left_out(&self, guest: &str, why: &str) -> bool {
        let series = format!("mistify_guest_left_out{{domain=\"{guest}\",reason=\"{why}\"}}");
        self.get(&series).is_some()
    }
}

pub(crate) fn scrape(agent: &Agent) -> Scrape {
    let reply = agent.request("GET", "/metrics", &[], b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
    Scrape::of(&reply.text())
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
