//! What is measured of guests: on real qemu, each test on a stack of its own.

mod dist;
mod idle;
mod late;
mod shape;
mod stopped;
mod stuck;
mod trips;
mod values;

use std::time::{Duration, Instant};

use crate::harness::cost::slow;
use crate::harness::pid_namespace::Inside;
use crate::harness::scrape::{Scrape, scrape};
use crate::harness::skip::Skip;
use crate::harness::stack::{BlockDevice, Stack, measured_guest_xml};
use crate::harness::support::{signal, wait_until};

/// Longer than a loaded machine needs for what takes a second or two.
const SOON: Duration = Duration::from_secs(60);

/// A stack and its guests, each with a disk that it writes to and an interface.
struct Bed {
    guests: Vec<String>,
    stack: Stack,
    /// Freed after the stack.
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

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
