//! The events of the host, numbered and stored in a ring for all listeners.
//!
//! A writer adds an event to the ring without waiting for listeners; each listener reads from its own position. A
//! listener that is slower than the ring gets a gap.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use crate::config::EventLimits;
use crate::libvirt::DomainChange;
use crate::os::clock;
use crate::os::peer::Share;
use crate::pool::{QuotaExceeded, Slots, Timer};
use crate::threads::panic_text;

/// An event: a change of a guest or of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Number of the event, one more than that of the previous event. The first number after a start of
    /// the agent is the time of the start in microseconds since 1970, so that numbers grow over restarts.
    pub seq: u64,
    /// Time at which the agent received the event, in RFC 3339 format and UTC.
    pub time: String,
    /// Id of the guest. Absent for an event of the whole host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub guest: String,
    /// Kind of the event, with the members of that kind.
    #[serde(flatten)]
    pub what: EventKind,
}

/// The kinds of events. The member `event` has the name of the kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// libvirt reports a change in the life of the domain: it was defined, started, suspended, resumed,
    /// stopped or undefined, for example.
    Lifecycle {
        /// The change, such as `started`. The words are those of `virsh event`.
        state: &'static str,
        /// The cause of the change, such as `booted`.
        detail: &'static str,
    },
    /// The guest's system rebooted.
    Reboot,
    /// A disk of the guest had an I/O error.
    IoError {
        /// Path of the disk's source on the host.
        source: String,
        /// Name of the disk in the guest, such as `vda`; libvirt's alias of a disk that it does not list.
        device: String,
        /// Reaction of the emulator: `none`, `pause` or `report`.
        action: &'static str,
        /// Cause of the error: `enospc` if the host's storage is full. Absent for any other cause.
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// The guest's watchdog device fired.
    Watchdog {
        /// Reaction of the emulator, such as `reset`, `poweroff` or `pause`.
        action: &'static str,
    },
    /// The guest agent in the guest started or ended, or its guest did; or the addresses changed that the agent knows
    /// of the guest.
    Agent {
        /// Whether the guest agent can answer: `connected` or `disconnected`; `addresses` if addresses changed.
        state: &'static str,
    },
    /// The guest released a device, and libvirt has detached it.
    DeviceRemoved {
        /// Name of the disk in the guest, such as `vda`, or MAC address of the NIC; libvirt's alias of
        /// another device.
        device: String,
    },
    /// The guest's memory balloon changed its size.
    Balloon {
        /// Memory of the guest after the change, in KiB.
        memory_kib: u64,
    },
    /// The guest did not start when the host started.
    AutostartFailed {
        /// Why not.
        error: String,
    },
    /// A CreateGuest or Create of this agent succeeded.
    Created,
    /// A Delete of this agent succeeded.
    Deleted,
    /// A job ended.
    Job {
        /// Id of the job.
        job: String,
        /// Final state of the job: `done`, `failed` or `cancelled`.
        state: &'static str,
    },
    /// The guest's emulator does not answer.
    Stuck,
    /// The guest's emulator answers again, or has ended.
    Unstuck,
    /// The agent has subscribed to libvirt's events. It has no events from the time before, so a client
    /// that caches states must query them again.
    Connected,
    /// The connection on which the agent received libvirt's events has closed.
    Disconnected,
    /// The agent lost events of libvirt because they arrived faster than it stored them.
    Missed {
        /// Number of lost events.
        count: u64,
    },
}

impl EventKind {
    /// Its name, as in `event`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lifecycle { .. } => "lifecycle",
            Self::Reboot => "reboot",
            Self::IoError { .. } => "io-error",
            Self::Watchdog { .. } => "watchdog",
            Self::Agent { .. } => "agent",
            Self::DeviceRemoved { .. } => "device-removed",
            Self::Balloon { .. } => "balloon",
            Self::AutostartFailed { .. } => "autostart-failed",
            Self::Created => "created",
            Self::Deleted => "deleted",
            Self::Job { .. } => "job",
            Self::Stuck => "stuck",
            Self::Unstuck => "unstuck",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Missed { .. } => "missed",
        }
    }
}

impl EventKind {
    /// Returns the event for a change of a domain; `None` for a change that concerns only the agent.
    pub(crate) fn of_domain(change: DomainChange) -> Option<Self> {
        Some(match change {
            DomainChange::DeviceAdded => return None,
            DomainChange::Lifecycle { event, detail } => Self::Lifecycle { state: event, detail },
            DomainChange::Reboot => Self::Reboot,
            DomainChange::IoError { source, device, action, reason } => {
                Self::IoError { source, device, action, reason }
            }
            DomainChange::Watchdog { action } => Self::Watchdog { action },
            DomainChange::Agent { state } => Self::Agent { state },
            DomainChange::DeviceRemoved { device } => Self::DeviceRemoved { device },
            DomainChange::Balloon { memory_kib } => Self::Balloon { memory_kib },
        })
    }
}

/// The ring, and the waiting listeners.
pub struct Events {
    state: Mutex<State>,
    /// Signals a new event, or that there will be none.
    changed: Condvar,
    /// The slots of the waiting callers.
    slots: Slots,
    limits: EventLimits,
}

struct State {
    ring: VecDeque<Arc<Event>>,
    /// The number of the next event.
    next: u64,
    /// The number of libvirt daemons that the agent has connected to, and whether it receives events now.
    connections: u64,
    is_subscribed: bool,
    /// Set when there will be no more events.
    closed: bool,
    waiters: Vec<Waiter>,
    listeners_so_far: u64,
}

/// A listener that waits without a thread.
struct Waiter {
    listener: WaiterId,
    after: u64,
    guest: Option<String>,
    then: Box<dyn FnOnce() + Send>,
    /// Calls the listener at its deadline.
    timer: Option<Timer>,
}

/// The number of a listener that waits without a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaiterId(u64);

/// The slot of a waiting caller, which is free again when this is dropped.
pub struct EventSlot {
    events: Arc<Events>,
    caller: Share,
}

impl Drop for EventSlot {
    fn drop(&mut self) {
        self.events.slots.give_back(self.caller);
    }
}

/// The events after the last event that a listener knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventPage {
    /// The events, oldest first.
    pub events: Vec<Arc<Event>>,
    /// What to ask for next: events after this one.
    pub next: u64,
    /// Whether there were others in between that are not kept any more.
    pub gap: bool,
}

impl Events {
    /// Makes a ring without events.
    pub fn new(limits: &EventLimits) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let next = u64::try_from(since_1970.as_micros()).unwrap_or(0).max(1);
        let state = State {
            ring: VecDeque::new(),
            next,
            connections: 0,
            is_subscribed: false,
            closed: false,
            waiters: Vec::new(),
            listeners_so_far: 0,
        };
        let (changed, slots) = (Condvar::new(), Slots::new(limits.waiting));
        Self { state: Mutex::new(state), changed, slots, limits: limits.clone() }
    }

    /// Returns the limits.
    pub fn limits(&self) -> &EventLimits {
        &self.limits
    }

    /// Stores an event of a guest, or of the host if `guest` is empty, and wakes the waiting listeners. Does not
    /// block.
    pub fn note(&self, guest: &str, what: EventKind) {
        let time = clock::rfc3339_utc(SystemTime::now());
        let mut state = self.state.lock();
        let event = Event { seq: state.next, time, guest: guest.to_owned(), what };
        state.next += 1;
        if state.ring.len() >= self.limits.stored {
            state.ring.pop_front();
        }
        state.ring.push_back(Arc::new(event));
        let is_awaited = !state.waiters.is_empty();
        drop(state);
        self.changed.notify_all();
        if is_awaited {
            // A gap completes a wait, too.
            self.call_where(|waiter, oldest| {
                waiter.after + 1 < oldest || waiter.guest.as_deref().is_none_or(|it| it == guest)
            });
        }
    }

    /// Returns the number of the last event.
    pub fn last(&self) -> u64 {
        self.state.lock().next - 1
    }

    /// Sets whether the agent receives libvirt's events from now on, and from which libvirt: `true` for the same one
    /// as before, `false` for another, `None` for no events.
    pub(crate) fn set_subscribed(&self, is_same: Option<bool>) {
        let mut state = self.state.lock();
        state.connections += u64::from(is_same == Some(false));
        state.is_subscribed = is_same.is_some();
        drop(state);
        self.changed.notify_all();
    }

    /// Returns the number of the libvirt whose events the agent receives; `None` if it receives none until `deadline`.
    /// The same number before and after a call means the same libvirt.
    ///
    /// # Blocking
    /// Up to `deadline`; not after [`Events::close`].
    pub fn subscription(&self, deadline: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        while !state.is_subscribed && !state.closed {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.is_subscribed.then_some(state.connections)
    }

    /// Returns at most `most` events after `after`, of one guest if one is named. If there are none, waits for new
    /// ones until `deadline`.
    ///
    /// 0 stands for the oldest stored event. A number beyond the last event, as after the clock was set back, is
    /// unknown: then all stored events are returned, with a gap before them.
    ///
    /// # Blocking
    /// Up to `deadline`; not after [`Events::close`].
    pub fn wait(
        &self,
        after: u64,
        guest: Option<&str>,
        most: usize,
        deadline: Instant,
    ) -> EventPage {
        let mut state = self.state.lock();
        loop {
            let page = state.page(after, guest, most);
            if !page.events.is_empty() || page.gap || state.closed {
                return page;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return state.page(after, guest, most);
            }
        }
    }

    /// Takes a slot for a waiting caller.
    ///
    /// # Errors
    /// When this caller, or all callers together, hold as many slots as [`EventLimits::waiting`] allows.
    pub fn place(self: &Arc<Self>, caller: Share) -> Result<EventSlot, QuotaExceeded> {
        self.slots.take(caller)?;
        Ok(EventSlot { events: Arc::clone(self), caller })
    }

    /// Calls `then` once there is an event after `after`, of one guest if one is named, or at [`Events::close`]. If
    /// there is one already, calls `then` at once and returns `None`; otherwise the thread that adds the event calls
    /// it later. `then` must not block.
    pub(crate) fn call_later(
        &self,
        after: u64,
        guest: Option<String>,
        then: Box<dyn FnOnce() + Send>,
    ) -> Option<WaiterId> {
        let mut state = self.state.lock();
        let page = state.page(after, guest.as_deref(), 1);
        if !page.events.is_empty() || page.gap || state.closed {
            drop(state);
            then();
            return None;
        }
        let listener = WaiterId(state.listeners_so_far);
        state.listeners_so_far += 1;
        state.waiters.push(Waiter { listener, after, guest, then, timer: None });
        Some(listener)
    }

    /// Sets the timer of a listener. The timer is dropped as soon as the listener is called.
    pub(crate) fn set_timer(&self, listener: WaiterId, timer: Timer) {
        let mut state = self.state.lock();
        let waiter = state.waiters.iter_mut().find(|waiter| waiter.listener == listener);
        let unused = match waiter {
            Some(waiter) => waiter.timer.replace(timer),
            None => Some(timer),
        };
        drop(state);
        drop(unused);
    }

    /// Returns the number of listeners that wait without a thread.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiters.len()
    }

    /// Calls a listener now, if it was not called before.
    pub(crate) fn call_now(&self, listener: WaiterId) {
        self.call_where(|waiter, _| waiter.listener == listener);
    }

    /// Calls the listeners that `is_due` selects by the number of the oldest stored event. A panic ends that call alone.
    fn call_where(&self, is_due: impl Fn(&Waiter, u64) -> bool) {
        let mut state = self.state.lock();
        let oldest = state.oldest();
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.waiters).into_iter().partition(|it| is_due(it, oldest));
        state.waiters = rest;
        drop(state);
        for Waiter { then, .. } in due {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(then)) {
                log::error!("a call that waited for an event panicked: {}", panic_text(payload));
            }
        }
    }

    /// Ends all waits, now and later: the agent stops.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        self.call_where(|_, _| true);
    }

    /// Returns whether [`Events::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
}

impl State {
    /// Returns the number of the oldest stored event.
    fn oldest(&self) -> u64 {
        self.ring.front().map_or(self.next, |event| event.seq)
    }

    fn page(&self, after: u64, guest: Option<&str>, most: usize) -> EventPage {
        let last = self.next - 1;
        let oldest = self.oldest();
        let gap = after != 0 && (after > last || after + 1 < oldest);
        let after = if gap { 0 } else { after };
        let skipped = usize::try_from((after + 1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        let wanted = |event: &&Arc<Event>| guest.is_none_or(|guest| event.guest == guest);
        let events: Vec<_> = self.ring.iter().skip(skipped).filter(wanted).take(most).collect();
        // The next page starts after the events of other guests, which need not be filtered again.
        let next = match events.last() {
            Some(event) if events.len() == most => event.seq,
            _ => last,
        };
        EventPage { events: events.into_iter().cloned().collect(), next, gap }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const ROOT: Share = Share::User(0);

    fn ring(stored: usize) -> Events {
        Events::new(&EventLimits { stored, ..EventLimits::default() })
    }

    /// Returns the page of this moment.
    fn look(events: &Events, after: u64, guest: Option<&str>, most: usize) -> EventPage {
        events.wait(after, guest, most, Instant::now())
    }

    fn numbers(page: &EventPage, first: u64) -> Vec<u64> {
        page.events.iter().map(|event| event.seq - first).collect()
    }

    #[test]
    fn events_are_numbered_and_readable_from_any_number() {
        let events = ring(10);
        let first = events.last() + 1;
        (0..5).for_each(|_| events.note("a", EventKind::Reboot));
        assert_eq!(events.last(), first + 4);
        let all = look(&events, 0, None, 10);
        assert_eq!(
            (numbers(&all, first), all.next, all.gap),
            (vec![0, 1, 2, 3, 4], first + 4, false)
        );
        let some = look(&events, first + 2, None, 10);
        assert_eq!((numbers(&some, first), some.next, some.gap), (vec![3, 4], first + 4, false));
        let few = look(&events, first, None, 2);
        assert_eq!((numbers(&few, first), few.next), (vec![1, 2], first + 2));
        let none = look(&events, first + 4, None, 10);
        assert_eq!((none.events.len(), none.next, none.gap), (0, first + 4, false));
    }

    #[test]
    fn lost_events_and_unknown_numbers_are_a_gap() {
        let events = ring(3);
        let first = events.last() + 1;
        (0..5).for_each(|_| events.note("a", EventKind::Reboot));
        let stored = look(&events, first + 1, None, 10);
        assert_eq!((numbers(&stored, first), stored.gap), (vec![2, 3, 4], false));
        for after in [first, 1, first + 5, u64::MAX] {
            let page = look(&events, after, None, 10);
            assert_eq!((numbers(&page, first), page.gap), (vec![2, 3, 4], true), "{after}");
        }
        assert!(!look(&events, 0, None, 10).gap, "a newcomer has lost nothing");
    }

    #[test]
    fn guest_filter_skips_events_of_other_guests() {
        let events = ring(10);
        let first = events.last() + 1;
        for guest in ["a", "b", "", "a", "b"] {
            events.note(guest, EventKind::Reboot);
        }
        let page = look(&events, 0, Some("a"), 10);
        assert_eq!((numbers(&page, first), page.next), (vec![0, 3], first + 4));
        let page = look(&events, 0, Some("a"), 1);
        assert_eq!((numbers(&page, first), page.next), (vec![0], first));
    }

    #[test]
    fn waiter_wakes_on_an_event_and_at_the_end() {
        let events = Arc::new(ring(10));
        let after = events.last();
        let waiter = |guest: Option<&'static str>| {
            let events = Arc::clone(&events);
            thread::spawn(move || events.wait(after, guest, 10, Instant::now() + PATIENCE))
        };
        let (any, other) = (waiter(None), waiter(Some("b")));
        events.note("a", EventKind::Created);
        assert_eq!(any.join().unwrap().events.len(), 1);
        events.close();
        assert_eq!(other.join().unwrap().events.len(), 0);
        let began = Instant::now();
        assert!(events.wait(events.last(), None, 10, began + PATIENCE).events.is_empty());
        assert!(began.elapsed() < PATIENCE);
    }

    #[test]
    fn a_libvirt_that_was_away_is_another() {
        let events = ring(10);
        assert_eq!(events.subscription(Instant::now()), None);
        events.set_subscribed(Some(false));
        let first = events.subscription(Instant::now());
        assert!(first.is_some());
        events.set_subscribed(None);
        assert_eq!(events.subscription(Instant::now()), None);
        events.set_subscribed(Some(true));
        assert_eq!(
            events.subscription(Instant::now()),
            first,
            "events were missed, and libvirt was there"
        );
        events.set_subscribed(None);
        events.set_subscribed(Some(false));
        assert_ne!(events.subscription(Instant::now()), first);
    }

    #[test]
    fn only_so_many_have_a_place() {
        let limits = EventLimits { waiting: 1, ..EventLimits::default() };
        let events = Arc::new(Events::new(&limits));
        let first = events.place(ROOT).unwrap();
        assert_eq!(events.place(ROOT).err(), Some(QuotaExceeded { limit: 1, is_own: false }));
        drop(first);
        assert!(events.place(ROOT).is_ok(), "its place is free");
    }

    #[test]
    fn a_later_call_comes_once() {
        let events = Arc::new(ring(10));
        let calls = Arc::new(AtomicUsize::new(0));
        let listen = |after: u64, guest: Option<&str>| {
            let calls = Arc::clone(&calls);
            let then = Box::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            events.call_later(after, guest.map(str::to_owned), then)
        };
        let so_far = || calls.load(Ordering::Relaxed);
        let after = events.last();
        let (any, other) = (listen(after, None).unwrap(), listen(after, Some("b")).unwrap());
        events.note("a", EventKind::Created);
        assert_eq!(so_far(), 1, "the one that waits for any guest");
        events.call_now(any);
        assert_eq!(so_far(), 1);
        assert_eq!((listen(after, None), so_far()), (None, 2), "the event is there");
        events.call_now(other);
        assert_eq!(so_far(), 3);
        listen(events.last(), Some("b")).unwrap();
        events.close();
        assert_eq!(so_far(), 4);
        assert_eq!((listen(events.last(), None), so_far()), (None, 5));
    }

    #[test]
    fn event_has_its_kind_as_name() {
        let events = ring(10);
        events.note("web-1", EventKind::Lifecycle { state: "started", detail: "booted" });
        events.note("", EventKind::Missed { count: 3 });
        let page = look(&events, 0, None, 10);
        let json = serde_json::to_value(&page.events).unwrap();
        let seq = page.events[0].seq;
        assert_eq!(
            json[0],
            serde_json::json!({
                "seq": seq, "time": page.events[0].time, "guest": "web-1",
                "event": "lifecycle", "state": "started", "detail": "booted",
            })
        );
        assert_eq!(json[1]["event"], "missed");
        assert_eq!(json[1].get("guest"), None);
        for event in &page.events {
            assert_eq!(serde_json::to_value(&event.what).unwrap()["event"], event.what.name());
        }
    }
}
