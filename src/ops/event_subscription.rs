//! Receives libvirt's events, and serves them to callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use log::{debug, info};
use parking_lot::Mutex;

use crate::events::{EventKind, EventPage, EventSlot, Events};
use crate::guest::device_xml::{AddressSources, aliases, limits};
use crate::guest::limits::Limits;
use crate::guest::wire::events::EventsRequest;
use crate::libvirt::{
    Connection, Domain, DomainChange, EventSink, Notification, Subscription, XmlKind,
};
use crate::ops::disks::path_uses::PathUses;
use crate::ops::guest_agent::clocks::Clocks;
use crate::ops::guest_agent::freezes::Freezes;
use crate::ops::guest_agent::turns::GuestAgents;
use crate::ops::waiting_calls::{Step, Steps, Wait};
use crate::ops::{Core, Error, Opener};
use crate::pool::current;
use crate::sorted::Table;

/// Writes libvirt's events into the ring, on the thread `libvirt-events`, with a connection of its own. The thread
/// ends when this value is dropped.
pub(super) struct EventListener {
    /// Dropping it ends the thread.
    _stop: Sender<()>,
}

struct Thread {
    events: Arc<Events>,
    opener: Arc<Opener>,
    targets: EventTargets,
    stop: Receiver<()>,
}

/// The parts of the agent that receive changes beside the ring.
pub(super) struct EventTargets {
    pub(super) limits: Arc<GuestLimits>,
    pub(super) uses: Arc<PathUses>,
    pub(super) agents: Arc<GuestAgents>,
    pub(super) freezes: Arc<Freezes>,
    pub(super) clocks: Clocks,
}

/// The limits of the running guests. The agent reads them when a guest starts or gets a device, and when SetLimits
/// changes them.
#[derive(Debug, Default)]
pub(super) struct GuestLimits(Mutex<Table<String, Vec<(String, Limits)>>>);

impl GuestLimits {
    /// Returns the limits of all guests.
    pub(super) fn all(&self) -> Table<String, Vec<(String, Limits)>> {
        self.0.lock().clone()
    }

    /// Stores the limits of a guest from its live XML. If that is unreadable, the known limits stay.
    pub(super) fn read(&self, guest: &str, xml: &str) {
        match limits(xml) {
            Ok(found) if found.is_empty() => drop(self.0.lock().remove(guest)),
            Ok(found) => drop(self.0.lock().insert(guest.to_owned(), found)),
            Err(error) => debug!("cannot read limits; guest={guest:?}: {error}"),
        }
    }
}

impl EventListener {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub(super) fn start(
        events: &Arc<Events>,
        opener: &Arc<Opener>,
        targets: EventTargets,
    ) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let (events, opener) = (Arc::clone(events), Arc::clone(opener));
        let thread = Thread { events, opener, targets, stop: stopped };
        thread::Builder::new().name("libvirt-events".to_owned()).spawn(move || thread.run())?;
        Ok(Self { _stop: stop })
    }
}

impl Thread {
    fn run(self) {
        let limits = self.events.limits().clone();
        let (mut is_logged, mut is_same) = (false, false);
        loop {
            // A new channel discards late events of a former connection.
            let (sender, notifications) = bounded(limits.backlog);
            let missed = Arc::new(AtomicU64::new(0));
            match self.subscribe(EventSink::new(sender, Arc::clone(&missed))) {
                Ok(subscription) => {
                    is_logged = false;
                    self.targets.uses.begin();
                    self.events.note("", EventKind::Connected);
                    self.events.set_subscribed(Some(is_same));
                    let goes_on = self.listen(subscription.connection(), &notifications, &missed);
                    self.targets.uses.end();
                    // If the connection is alive, only events were missed, and the next subscription is to the same
                    // libvirt.
                    is_same = subscription.connection().is_alive();
                    self.events.set_subscribed(None);
                    drop(subscription);
                    self.events.note("", EventKind::Disconnected);
                    if !goes_on {
                        return;
                    }
                }
                Err(why) if is_logged => debug!("cannot subscribe to libvirt's events: {why}"),
                Err(why) => {
                    info!("event subscription failed; retrying: {why}");
                    is_logged = true;
                }
            }
            if !self.pause(limits.pause) {
                return;
            }
        }
    }

    fn subscribe(&self, sink: EventSink) -> Result<Subscription, Error> {
        // No caller waits: with an expired deadline the opener waits as long as a working libvirt may take.
        Ok(self.opener.open(Instant::now())?.subscribe(sink)?)
    }

    /// Forwards events until the connection ends; returns `false` if the agent ends.
    fn listen(
        &self,
        connection: &Connection,
        notifications: &Receiver<Notification>,
        missed: &AtomicU64,
    ) -> bool {
        let mut devices = Devices::of_all(connection, &self.targets);
        self.targets.clocks.wake();
        loop {
            select! {
                recv(notifications) -> notification => match notification {
                    Ok(Notification::Domain { name, change }) => {
                        if change.is_of_definition() {
                            self.targets.uses.changed(&name);
                        }
                        if let DomainChange::Agent { state } = &change {
                            self.targets.agents.is_connected(&name, *state == "connected");
                            self.targets.freezes.look(&name, false);
                        }
                        let change = devices.named(connection, &name, change);
                        if let DomainChange::Lifecycle { event, .. } = &change {
                            self.targets.freezes.look(&name, *event == "stopped");
                        }
                        self.targets.clocks.changed(&name, &change);
                        if let Some(what) = EventKind::of_domain(change) {
                            self.events.note(&name, what);
                        }
                    }
                    Ok(Notification::Closed) | Err(_) => return true,
                },
                recv(self.stop) -> _ => return false,
            }
            // The channel has room again. The end of the connection may be among the missed events.
            let count = missed.swap(0, Ordering::Relaxed);
            if count > 0 {
                self.events.note("", EventKind::Missed { count });
                return true;
            }
        }
    }

    /// Waits; returns `false` if the agent ends meanwhile.
    fn pause(&self, pause: Duration) -> bool {
        self.stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
    }
}

/// The names of running guests' devices in their requests. libvirt's events have only its aliases, and report a
/// detached device when its alias can no longer be looked up.
struct Devices<'l> {
    /// Aliases and names by guest.
    known: Table<String, Vec<(String, String)>>,
    targets: &'l EventTargets,
}

impl<'l> Devices<'l> {
    /// Reads the devices of all running guests; two round trips for each guest.
    fn of_all(connection: &Connection, targets: &'l EventTargets) -> Self {
        let mut devices = Self { known: Table::new(), targets };
        for domain in connection.list_domains().unwrap_or_default() {
            if let (Some(_), Ok(name)) = (domain.id(), domain.name()) {
                devices.read(&domain, &name);
            }
        }
        let is_running = |guest: &str| devices.known.contains_key(guest);
        targets.limits.0.lock().retain(|guest, _| is_running(guest));
        targets.agents.retain(&is_running);
        devices
    }

    /// Reads the devices of a guest. If libvirt does not answer, the known devices stay.
    fn read(&mut self, domain: &Domain, name: &str) {
        let Ok(xml) = domain.xml(XmlKind::Live) else { return };
        self.targets.limits.read(name, &xml);
        if let (Some(run), Ok(sources)) = (domain.id(), AddressSources::of(&xml)) {
            self.targets.agents.runs(name, run, sources);
        }
        if let Ok(aliases) = aliases(&xml) {
            self.known.insert(name.to_owned(), aliases);
        }
    }

    /// Replaces a known alias by its name.
    fn name(&self, guest: &str, device: &mut String) {
        let mut known = self.known.get(guest).into_iter().flatten();
        if let Some((_, name)) = known.find(|(alias, _)| alias == device) {
            name.clone_into(device);
        }
    }

    /// Returns the change of a guest, with the name of its device instead of the alias.
    fn named(
        &mut self,
        connection: &Connection,
        guest: &str,
        mut change: DomainChange,
    ) -> DomainChange {
        match &mut change {
            DomainChange::Lifecycle { event: "started", .. } | DomainChange::DeviceAdded => {
                if let Ok(domain) = connection.lookup_domain_by_name(guest) {
                    self.read(&domain, guest);
                }
            }
            DomainChange::Lifecycle { event: "stopped", .. } => {
                self.known.remove(guest);
                self.targets.limits.0.lock().remove(guest);
                self.targets.agents.forget(guest);
            }
            DomainChange::IoError { device, .. } => self.name(guest, device),
            DomainChange::DeviceRemoved { device } => {
                self.name(guest, device);
                if let Ok(domain) = connection.lookup_domain_by_name(guest) {
                    self.read(&domain, guest);
                }
            }
            _ => {}
        }
        change
    }
}

impl Core {
    /// Returns the events of this host.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Returns the events after `after`, of one guest if one is named. If there are none, waits up to `timeout` for the
    /// next. Without `after`, returns only events from now on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a longer `timeout` than [`EventLimits::wait`](crate::config::EventLimits::wait);
    /// [`Error::Listeners`] if [`EventLimits::waiting`](crate::config::EventLimits::waiting) calls wait already, or
    /// half as many of this caller.
    ///
    /// # Blocking
    /// Up to `timeout`, or [`EventLimits::wait`](crate::config::EventLimits::wait) without it.
    pub fn wait_events(&self, request: EventsRequest) -> Result<EventPage, Error> {
        self.take_steps(self.begin_wait_events(request)?, &|| false)
    }

    /// Returns the same call in steps.
    ///
    /// # Errors
    /// As [`Core::wait_events`].
    pub fn begin_wait_events(
        &self,
        request: EventsRequest,
    ) -> Result<Box<dyn Steps<EventPage>>, Error> {
        let limits = self.events.limits();
        let timeout = request.timeout.map_or(limits.wait, Duration::from_secs);
        if timeout > limits.wait {
            let most = limits.wait.as_secs();
            return Err(Error::Invalid(format!("timeout must be at most {most} seconds")));
        }
        let after = request.after.unwrap_or_else(|| self.events.last());
        let guest = Some(request.guest).filter(|guest| !guest.is_empty());
        let slot = self.events.place(current::caller()).map_err(Error::Listeners)?;
        Ok(Box::new(Waiting { after, guest, until: Instant::now() + timeout, _slot: slot }))
    }
}

/// A call of WaitEvents.
struct Waiting {
    after: u64,
    guest: Option<String>,
    until: Instant,
    _slot: EventSlot,
}

impl Steps<EventPage> for Waiting {
    fn step(&mut self, core: &Core, _: &dyn Fn() -> bool) -> Step<EventPage> {
        let (events, now) = (&core.events, Instant::now());
        let page = events.wait(self.after, self.guest.as_deref(), events.limits().page, now);
        let is_done = !page.events.is_empty() || page.gap || events.is_closed();
        match is_done || now >= self.until {
            true => Step::Done(Ok(page)),
            false => {
                let (after, guest, until) = (self.after, self.guest.clone(), self.until);
                Step::Wait(Wait { after, guest, until, not_before: None })
            }
        }
    }
}
