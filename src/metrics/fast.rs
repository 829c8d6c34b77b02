//! The fast tier: one bulk call that queries no emulator, and the kernel's counters.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::libvirt::Groups;
use crate::metrics::files::Files;
use crate::metrics::kernel::{self, Processes};
use crate::metrics::latest::Shared;
use crate::metrics::lazy_connection::{LazyConnection, Open, guarded};
use crate::metrics::sample::{Device, Fast, SlowGuest, fast_guest};
use crate::sorted::IntoSorted;

/// Starts the thread, which takes a sample for each request and ends when the channel of requests
/// closes.
///
/// # Errors
/// When the system cannot start a thread.
pub(super) fn start(shared: Arc<Shared>, open: Open, wanted: Receiver<()>) -> io::Result<()> {
    let limits = &shared.limits;
    let processes = Processes::new(&limits.pid_dir, limits.rare);
    let mut tier =
        Tier { connection: LazyConnection::new(open), processes, files: Files::default(), shared };
    let work = move || {
        while tier.connection.next(&wanted, tier.shared.limits.idle) {
            let outcome = guarded(|| tier.sample());
            tier.shared.fast_ended(outcome);
        }
    };
    thread::Builder::new().name("metrics-fast".to_owned()).spawn(work)?;
    Ok(())
}

struct Tier {
    connection: LazyConnection,
    processes: Processes,
    files: Files,
    shared: Arc<Shared>,
}

impl Tier {
    fn sample(&mut self) -> Result<Fast, String> {
        let (stats, at) = self.connection.read(|connection| {
            let at = Instant::now();
            Ok((connection.all_stats(Groups::OWN)?, at))
        })?;
        let slow = self.shared.slow();
        let mut guests = BTreeMap::new();
        for stats in &stats {
            let mut guest = fast_guest(stats);
            if let Some(run) = guest.run {
                guest.cpu = self.processes.cpu(&mut self.files, &stats.name, run, at);
            }
            if let Some(slow) = slow.guests.get(&stats.name) {
                guest.devices = devices(&mut self.files, slow);
            }
            guests.insert(stats.name.clone(), guest);
        }
        let names: BTreeSet<&str> = guests.keys().map(String::as_str).into_set();
        self.processes.keep(&names);
        self.files.close_unused();
        Ok(Fast { at, guests })
    }
}

/// Returns the kernel's counters of the devices behind a guest's disks.
fn devices(files: &mut Files, guest: &SlowGuest) -> BTreeMap<String, Device> {
    let disks = guest.disks.iter();
    let devices = disks.filter_map(|(target, disk)| {
        Some((target.clone(), kernel::device(files, disk.device.as_deref()?)?))
    });
    devices.into_map()
}
