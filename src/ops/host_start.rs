//! Starts guests when the host starts, in the order of their `start_order`, and reports those that did not start.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use crate::config::fixed::{START_DELAY_MAX, START_LIBVIRT, WAIT_LIBVIRT};
use crate::events::What;
use crate::guest::state::State;
use crate::guest::wire::{Guest, GuestRequest};
use crate::libvirt::{Connection, Domain};
use crate::ops::lifecycle::condition;
use crate::ops::metadata::Stored;
use crate::ops::{Error, Libvirt};
use crate::os::files::read_own;
use crate::pool::Lane;
use crate::sorted::OrderBy;

/// The file in the state directory with the id of the boot whose guests were started.
const FILE: &str = "boot";
/// The kernel's id of this boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const BOOT_ID_BYTES: u64 = 64;

/// A guest and its part in the start and the stop of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scheduled {
    pub(super) id: String,
    /// Its place; 0 for none.
    pub(super) order: u64,
    /// Pause after its start.
    pub(super) delay: Duration,
    /// Time to shut down; none where the guest sets none.
    pub(super) stop_timeout: Option<Duration>,
    pub(super) is_active: bool,
    /// libvirt was to start it, and could not.
    has_failed: bool,
}

impl Scheduled {
    /// A domain; none that this agent did not make, unless libvirt could not start it. Up to five round trips.
    fn of(domain: &Domain) -> Result<Option<Self>, Error> {
        let kept = Stored::read(domain)?.metadata.guest;
        let is_active = domain.is_active()?;
        let has_failed = || -> Result<bool, Error> {
            let condition = condition(domain)?;
            let is_failed = condition.state == State::Shutoff && condition.reason == "failed";
            Ok(is_failed && domain.autostart()?)
        };
        let has_failed = !is_active && has_failed()?;
        let (is_ours, kept) = (kept.is_some(), kept.unwrap_or_default());
        let seconds = |time: Option<u64>| time.map(Duration::from_secs);
        Ok((is_ours || has_failed).then_some(Self {
            id: domain.name()?,
            order: kept.start_order.unwrap_or(0),
            delay: seconds(kept.start_delay_s).unwrap_or_default().min(START_DELAY_MAX),
            stop_timeout: seconds(kept.stop_timeout_s),
            is_active,
            has_failed,
        }))
    }
}

/// The guests that the agent has made, and those that libvirt could not start. One that libvirt does not describe is
/// passed over.
pub(super) fn scheduled(connection: &Connection) -> Result<Vec<Scheduled>, Error> {
    let mut all = Vec::new();
    for domain in connection.list_domains()? {
        match Scheduled::of(&domain) {
            Ok(found) => all.extend(found),
            Err(error) if error.connection_lost() => return Err(error),
            Err(error) => {
                warn!("cannot read a guest's start_order; guest={:?}: {error}", domain.name())
            }
        }
    }
    Ok(all)
}

/// The thread that starts guests, `guest-start`: once for each boot of the host, as the file in the state directory
/// says. A restart of the agent starts no guest.
pub struct HostStart {
    agent: Arc<Libvirt>,
    file: PathBuf,
    boot: Vec<u8>,
}

impl HostStart {
    /// Starts the thread, where guests of this boot have not been started. On a host that has no such file yet there
    /// are none.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(agent: &Arc<Libvirt>) -> io::Result<()> {
        let Some(folder) = &agent.state_dir else { return Ok(()) };
        let file = folder.join(FILE);
        let boot = match fs::read(BOOT_ID) {
            Ok(boot) => boot,
            Err(error) => {
                warn!("cannot read {BOOT_ID}; no guest is started: {error}");
                return Ok(());
            }
        };
        let started = read_own(&file, BOOT_ID_BYTES);
        let start = Self { agent: Arc::clone(agent), file, boot };
        match started {
            Ok(started) if started == start.boot => {
                info!("no guest is started: this boot's were before")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => start.note(),
            Ok(_) | Err(_) => {
                let thread = thread::Builder::new().name("guest-start".to_owned());
                thread.spawn(move || start.run())?;
            }
        }
        Ok(())
    }

    fn run(self) {
        if let Some(mut guests) = self.guests() {
            guests.order_by(&|a, b| (a.order, &a.id).cmp(&(b.order, &b.id)));
            for guest in &guests {
                if self.agent.events().is_closed() {
                    // The next agent of this boot goes on.
                    return;
                }
                self.start_guest(guest);
            }
            self.note();
        }
    }

    /// The guests, as soon as libvirt tells of them; none where it does not, or the agent stops.
    fn guests(&self) -> Option<Vec<Scheduled>> {
        let until = Instant::now() + START_LIBVIRT;
        loop {
            let deadline = Instant::now() + self.agent.deadlines().change;
            let found = self.agent.read(Lane::Read, "HostStart", "guests", deadline, scheduled);
            match found {
                Ok(guests) => return Some(guests),
                Err(_) if self.agent.events().is_closed() => return None,
                Err(why) if Instant::now() >= until => {
                    error!("cannot start guests: {why}");
                    return None;
                }
                Err(why) => debug!("guests are not started yet: {why}"),
            }
            self.rest("", WAIT_LIBVIRT);
        }
    }

    /// Starts a guest that has a place in the order, and pauses as it says.
    fn start_guest(&self, guest: &Scheduled) {
        if guest.has_failed && guest.order == 0 {
            self.failed(&guest.id, "libvirt could not start it; the log of libvirtd says why");
        }
        if guest.order == 0 || guest.is_active {
            return;
        }
        let named = Guest { id: guest.id.clone(), ..Guest::default() };
        let request = GuestRequest { guest: Some(named), ..GuestRequest::default() };
        match self.agent.run(request) {
            Ok(_) => {
                info!(
                    "started a guest with the host; guest={:?} start_order={}",
                    guest.id, guest.order
                );
                self.rest(&guest.id, guest.delay);
            }
            Err(why) => self.failed(&guest.id, &why.to_string()),
        }
    }

    fn failed(&self, id: &str, why: &str) {
        error!("a guest did not start with the host; guest={id:?}: {why}");
        self.agent.events().note(id, What::AutostartFailed { error: why.to_owned() });
    }

    /// Waits this long, or until the agent stops.
    fn rest(&self, id: &str, time: Duration) {
        let (events, until) = (self.agent.events(), Instant::now() + time);
        while Instant::now() < until && !events.is_closed() {
            events.wait(events.last(), Some(id), 1, until);
        }
    }

    /// Notes that the guests of this boot were started.
    fn note(&self) {
        let new = self.file.with_extension("new");
        if let Err(error) = fs::write(&new, &self.boot).and_then(|()| fs::rename(&new, &self.file))
        {
            warn!("cannot write {}: {error}", self.file.display());
        }
    }
}
