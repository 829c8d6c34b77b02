//! Starts guests when the host starts, in the order of their `start_order`, and reports those that did not start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use log::{debug, error, info, warn};

use crate::config::fixed::{START_DELAY_MAX, START_LIBVIRT, WAIT_LIBVIRT};
use crate::events::EventKind;
use crate::guest::state::State;
use crate::guest::wire::{Guest, GuestRequest};
use crate::libvirt::{Connection, Domain};
use crate::ops::guests::lifecycle::condition;
use crate::ops::metadata::Stored;
use crate::ops::{Error, Libvirt};
use crate::os::files::read_own;
use crate::pool::Lane;
use crate::sorted::OrderBy;

/// The file in the state directory.
const FILE: &str = "boot";
/// The kernel's id of this boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The size limit, with a line for each guest. A larger file is not read, and then no guest is started.
const FILE_BYTES: u64 = 1024 * 1024;
/// The number of a guest's events to check before its start.
const EVENTS_PAGE: usize = 256;

/// A guest, and its role in the start and the stop of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scheduled {
    pub(in crate::ops) id: String,
    /// Its `start_order`; 0 for none.
    pub(super) order: u64,
    /// The pause after its start.
    pub(super) delay: Duration,
    /// Its time limit to shut down; `None` if the guest sets none.
    pub(super) stop_timeout: Option<Duration>,
    pub(in crate::ops) is_active: bool,
    /// libvirt's own autostart failed for it.
    has_failed: bool,
}

impl Scheduled {
    /// Reads a domain. Returns `None` for a domain that this agent did not make, unless libvirt failed to start it. Up
    /// to five round trips.
    fn of(domain: &Domain) -> Result<Option<Self>, Error> {
        let stored = Stored::read(domain)?.metadata.guest;
        let is_active = domain.is_active()?;
        let has_failed = || -> Result<bool, Error> {
            let condition = condition(domain)?;
            let is_failed = condition.state == State::Shutoff && condition.reason == "failed";
            Ok(is_failed && domain.autostart()?)
        };
        let has_failed = !is_active && has_failed()?;
        let (is_ours, stored) = (stored.is_some(), stored.unwrap_or_default());
        let seconds = |time: Option<u64>| time.map(Duration::from_secs);
        Ok((is_ours || has_failed).then_some(Self {
            id: domain.name()?,
            order: stored.start_order.unwrap_or(0),
            delay: seconds(stored.start_delay_s).unwrap_or_default().min(START_DELAY_MAX),
            stop_timeout: seconds(stored.stop_timeout_s),
            is_active,
            has_failed,
        }))
    }
}

/// Returns the guests that the agent has made, those that libvirt failed to start, and the ids of running guests that
/// libvirt does not describe.
///
/// # Errors
/// Errors of libvirt.
///
/// # Blocking
/// Up to five round trips for each guest.
pub(super) fn scheduled(connection: &Connection) -> Result<(Vec<Scheduled>, Vec<String>), Error> {
    let (mut all, mut unknown) = (Vec::new(), Vec::new());
    for domain in connection.list_domains()? {
        match Scheduled::of(&domain) {
            Ok(found) => all.extend(found),
            Err(error) if error.connection_lost() => return Err(error),
            Err(error) => {
                let name = domain.name().unwrap_or_default();
                warn!("cannot read the start_order of a guest; guest={name:?}: {error}");
                if domain.id().is_some() {
                    unknown.push(name);
                }
            }
        }
    }
    Ok((all, unknown))
}

/// The thread that starts guests, `guest-start`.
///
/// It runs once for each boot of the host, as recorded in a file in the state directory. The file has the boot's id,
/// and the ids of the guests to start, one a line. The thread removes each id before it starts the guest. Therefore a
/// restart of the agent starts no guest again.
pub struct HostStart {
    agent: Arc<Libvirt>,
    file: PathBuf,
    boot: String,
}

impl HostStart {
    /// Starts the thread, if guests of this boot remain to be started. Without the file, no guest is started in this
    /// boot.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub fn start(agent: &Arc<Libvirt>) -> io::Result<()> {
        let Some(directory) = agent.core.state_dir() else { return Ok(()) };
        let file = directory.join(FILE);
        let boot = match fs::read_to_string(BOOT_ID) {
            Ok(boot) => boot.trim().to_owned(),
            Err(error) => {
                warn!("cannot read {BOOT_ID}; no guest is started: {error}");
                return Ok(());
            }
        };
        let known =
            read_own(&file, FILE_BYTES).map(|text| String::from_utf8_lossy(&text).into_owned());
        let start = Self { agent: Arc::clone(agent), file, boot };
        let pending = match known {
            Ok(text) => match text.split_once('\n').unwrap_or((&text, "")) {
                (boot, "") if boot == start.boot => {
                    info!("no guest is started: this boot's were before");
                    return Ok(());
                }
                (boot, pending) if boot == start.boot => {
                    Some(pending.lines().map(str::to_owned).collect())
                }
                _ => None,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                start.note(&[]);
                return Ok(());
            }
            Err(error) => {
                error!("cannot read {}; no guest is started: {error}", start.file.display());
                return Ok(());
            }
        };
        let thread = thread::Builder::new().name("guest-start".to_owned());
        thread.spawn(move || start.run(pending)).map(drop)
    }

    /// Starts these guests, or all guests after a new boot.
    fn run(self, pending: Option<Vec<String>>) {
        let is_new = pending.is_none();
        let seen = self.agent.core.events().last();
        let Some(mut guests) = self.guests() else { return };
        guests.order_by(&|a, b| (a.order, &a.id).cmp(&(b.order, &b.id)));
        if is_new {
            for guest in guests.iter().filter(|guest| guest.has_failed && guest.order == 0) {
                self.failed(&guest.id, "libvirt could not start it; the log of libvirtd says why");
            }
        }
        guests.retain(|guest| {
            let is_pending = pending.as_ref().is_none_or(|pending| pending.contains(&guest.id));
            guest.order > 0 && is_pending
        });
        while !guests.is_empty() {
            if self.agent.core.events().is_closed() {
                // The next agent of this boot continues.
                return;
            }
            let guest = guests.remove(0);
            // The next agent would start a guest again that is still in the file, whatever its operator did meanwhile.
            if !self.note(&guests) {
                error!("no further guest is started, as {} cannot be written", self.file.display());
                return;
            }
            self.start_guest(&guest, seen);
        }
        self.note(&[]);
    }

    /// Returns the guests as soon as libvirt answers; `None` if it does not in time, or the agent stops.
    fn guests(&self) -> Option<Vec<Scheduled>> {
        let until = Instant::now() + START_LIBVIRT;
        loop {
            let deadline = Instant::now() + self.agent.core.deadlines().change;
            let found =
                self.agent.core.read(Lane::Read, "HostStart", "guests", deadline, scheduled);
            match found {
                Ok((guests, _)) => return Some(guests),
                Err(_) if self.agent.core.events().is_closed() => return None,
                Err(why) if Instant::now() >= until => {
                    error!("cannot start guests: {why}");
                    self.note(&[]);
                    return None;
                }
                Err(why) => debug!("guests are not started yet: {why}"),
            }
            self.rest("", WAIT_LIBVIRT);
        }
    }

    /// Starts a guest, unless it has run since the host started, and then pauses for its `start_delay`.
    fn start_guest(&self, guest: &Scheduled, seen: u64) {
        let events = self.agent.core.events();
        let page = events.wait(seen, Some(&guest.id), EVENTS_PAGE, Instant::now());
        let has_run = page.events.iter().any(|event| {
            matches!(event.what, EventKind::Lifecycle { state: "started" | "resumed", .. })
        });
        if guest.is_active || has_run {
            return;
        }
        let named = Guest { id: guest.id.clone(), ..Guest::default() };
        let request = GuestRequest { guest: Some(named), ..GuestRequest::default() };
        match self.agent.guests.run(request) {
            Ok(_) => {
                let (id, order) = (&guest.id, guest.order);
                info!("started a guest with the host; guest={id:?} start_order={order}");
                self.rest(&guest.id, guest.delay);
            }
            Err(why) => self.failed(&guest.id, &why.to_string()),
        }
    }

    fn failed(&self, id: &str, why: &str) {
        error!("a guest did not start with the host; guest={id:?}: {why}");
        self.agent.core.events().note(id, EventKind::AutostartFailed { error: why.to_owned() });
    }

    /// Waits for this time, or until the agent stops.
    fn rest(&self, id: &str, time: Duration) {
        let (events, until) = (self.agent.core.events(), Instant::now() + time);
        while Instant::now() < until && !events.is_closed() {
            events.wait(events.last(), Some(id), 1, until);
        }
    }

    /// Writes which guests of this boot remain to be started; returns whether the write succeeded.
    fn note(&self, pending: &[Scheduled]) -> bool {
        let mut text = format!("{}\n", self.boot);
        pending.iter().for_each(|guest| text += &format!("{}\n", guest.id));
        let new = self.file.with_extension("new");
        let written = fs::write(&new, &text).and_then(|()| fs::rename(&new, &self.file));
        written.inspect_err(|error| warn!("cannot write {}: {error}", self.file.display())).is_ok()
    }
}
