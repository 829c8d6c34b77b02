//! libvirt's notifications: changes of domains, and the end of the connection.
//!
//! libvirt calls back on the thread of its event loop, which all connections need: a callback copies its notification
//! into a bounded channel and returns. Notifications that do not fit are counted.

use std::ffi::{c_char, c_int, c_ulonglong, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use crate::libvirt::connection::Connection;
use crate::libvirt::error::{Code, Error, check_int};
use crate::libvirt::strings::copy_borrowed;
use crate::sorted::Table;
use crate::sys;

/// A notification of libvirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A domain changed.
    Domain {
        /// The name.
        name: String,
        /// The change.
        change: DomainChange,
    },
    /// The connection has ended: no more notifications follow.
    Closed,
}

/// A change of a domain. The words are libvirt's own, as virsh prints them; `unknown` stands for values of a libvirt
/// that is newer than this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainChange {
    /// The domain was defined, started, paused, stopped or undefined (`virDomainEventType` and its details).
    Lifecycle {
        /// For example `started`.
        event: &'static str,
        /// For example `booted`.
        detail: &'static str,
    },
    /// The domain's system rebooted.
    Reboot,
    /// A disk failed (`virConnectDomainEventIOErrorReasonCallback`).
    IoError {
        /// The disk's source on the host.
        source: String,
        /// libvirt's alias of the disk, for example `virtio-disk0`.
        device: String,
        /// The action: `none`, `pause` or `report`.
        action: &'static str,
        /// The reason: `enospc`, or empty.
        reason: String,
    },
    /// The watchdog expired.
    Watchdog {
        /// The action, for example `reset`.
        action: &'static str,
    },
    /// The guest agent opened or closed its end of the channel (`virConnectDomainEventAgentLifecycleCallback`).
    Agent {
        /// `connected` or `disconnected`.
        state: &'static str,
    },
    /// A device was attached.
    DeviceAdded,
    /// The guest released a detached device.
    DeviceRemoved {
        /// libvirt's alias of the device.
        device: String,
    },
    /// The balloon has changed the domain's memory.
    Balloon {
        /// The new memory, in KiB.
        memory_kib: u64,
    },
}

impl DomainChange {
    /// Returns whether the domain's devices may have changed.
    pub fn is_of_definition(&self) -> bool {
        matches!(self, Self::Lifecycle { .. } | Self::DeviceAdded | Self::DeviceRemoved { .. })
    }
}

/// The channel for notifications of callbacks.
#[derive(Clone, Debug)]
pub struct EventSink {
    sender: Sender<Notification>,
    missed: Arc<AtomicU64>,
}

impl EventSink {
    /// Returns a sink that sends to this channel, and counts notifications that do not fit.
    pub fn new(sender: Sender<Notification>, missed: Arc<AtomicU64>) -> Self {
        Self { sender, missed }
    }

    /// Sends without waiting or logging, because this blocks libvirt's event loop.
    fn send(&self, notification: Notification) {
        if self.sender.try_send(notification).is_err() {
            // Relaxed: a counter that orders no other memory.
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The sinks of all subscriptions, by number. libvirt gets numbers instead of pointers: some drivers never report that
/// they have released a pointer, and may or may not use it after an error.
static SINKS: Mutex<Table<usize, EventSink>> = Mutex::new(Table::new());

/// A connection that sends notifications for all its domains, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    /// The key in [`SINKS`], unique in this process.
    number: usize,
    callbacks: Vec<c_int>,
    connection: Connection,
}

impl Connection {
    /// Subscribes to notifications of all domains (`virConnectDomainEventRegisterAny`) and of the connection's end
    /// (`virConnectRegisterCloseCallback`). A driver whose connections never end, such as the test driver, does not
    /// notify of an end.
    ///
    /// # Errors
    /// The error of libvirt, for example if the driver has no events.
    ///
    /// # Blocking
    /// One round trip for each of the eight event types.
    pub fn subscribe(self, sink: EventSink) -> Result<Subscription, Error> {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        SINKS.lock().insert(number, sink);
        let mut subscription = Subscription { number, callbacks: Vec::new(), connection: self };
        subscription.register_close()?;
        for (id, callback) in callbacks() {
            subscription.register(id, callback)?;
        }
        Ok(subscription)
    }
}

impl Subscription {
    /// Returns the connection of the subscription.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    fn register_close(&self) -> Result<(), Error> {
        let (raw, opaque) = (self.connection.raw.as_ptr(), self.opaque());
        // SAFETY: the connection is live; the callback uses the opaque as a number.
        let registered =
            unsafe { sys::virConnectRegisterCloseCallback(raw, Some(closed), opaque, None) };
        match check_int(registered, "virConnectRegisterCloseCallback") {
            Err(error) if error.code != Code::NO_SUPPORT => Err(error),
            _ => Ok(()),
        }
    }

    fn register(
        &mut self,
        id: sys::virDomainEventID,
        callback: sys::virConnectDomainEventGenericCallback,
    ) -> Result<(), Error> {
        let (raw, opaque) = (self.connection.raw.as_ptr(), self.opaque());
        let id = c_int::try_from(id).unwrap_or(-1);
        // SAFETY: the connection is live, NULL stands for all domains; `callbacks` pairs each id with a function of the
        // type that libvirt calls for it, which uses the opaque as a number.
        let registered = unsafe {
            sys::virConnectDomainEventRegisterAny(raw, ptr::null_mut(), id, callback, opaque, None)
        };
        self.callbacks.push(check_int(registered, "virConnectDomainEventRegisterAny")?);
        Ok(())
    }

    fn opaque(&self) -> *mut c_void {
        ptr::without_provenance_mut(self.number)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        SINKS.lock().remove(&self.number);
        let raw = self.connection.raw.as_ptr();
        // An error here means that the daemon is gone; a late callback finds no sink.
        for callback in self.callbacks.drain(..) {
            // SAFETY: the connection is live, the callback registered with it once.
            let _ = unsafe { sys::virConnectDomainEventDeregisterAny(raw, callback) };
        }
        // SAFETY: as above.
        let _ = unsafe { sys::virConnectUnregisterCloseCallback(raw, Some(closed)) };
    }
}

/// Returns the subscribed event types, each with its callback, cast to libvirt's generic type.
fn callbacks() -> [(sys::virDomainEventID, sys::virConnectDomainEventGenericCallback); 8] {
    /// Like libvirt's `VIR_DOMAIN_EVENT_CALLBACK`: libvirt calls a function of the event's own type.
    macro_rules! generic {
        ($function:ident: $type:ty) => {{
            let function: $type = $function;
            // SAFETY: both are pointers to functions; libvirt casts this one back by its id.
            Some(unsafe { std::mem::transmute::<$type, Generic>(function) })
        }};
    }
    [
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, generic!(lifecycle: Lifecycle)),
        (sys::VIR_DOMAIN_EVENT_ID_REBOOT, Some(reboot)),
        (sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, generic!(io_error: IoError)),
        (sys::VIR_DOMAIN_EVENT_ID_WATCHDOG, generic!(watchdog: Watchdog)),
        (sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, generic!(agent: AgentLifecycle)),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, generic!(device_added: DeviceEvent)),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, generic!(device_removed: DeviceEvent)),
        (sys::VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, generic!(balloon: Balloon)),
    ]
}

type Conn = sys::virConnectPtr;
type Dom = sys::virDomainPtr;
type Generic = unsafe extern "C" fn(Conn, Dom, *mut c_void);
type Lifecycle = unsafe extern "C" fn(Conn, Dom, c_int, c_int, *mut c_void) -> c_int;
type IoError = unsafe extern "C" fn(
    Conn,
    Dom,
    *const c_char,
    *const c_char,
    c_int,
    *const c_char,
    *mut c_void,
);
type Watchdog = unsafe extern "C" fn(Conn, Dom, c_int, *mut c_void);
type AgentLifecycle = unsafe extern "C" fn(Conn, Dom, c_int, c_int, *mut c_void);
type DeviceEvent = unsafe extern "C" fn(Conn, Dom, *const c_char, *mut c_void);
type Balloon = unsafe extern "C" fn(Conn, Dom, c_ulonglong, *mut c_void);

unsafe extern "C" fn lifecycle(
    _: Conn,
    domain: Dom,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let (event, detail) = lifecycle_words(event, detail);
    // SAFETY: libvirt keeps the domain alive for the call.
    unsafe { send_change(domain, opaque, DomainChange::Lifecycle { event, detail }) }
    0
}

unsafe extern "C" fn reboot(_: Conn, domain: Dom, opaque: *mut c_void) {
    // SAFETY: as in `lifecycle`.
    unsafe { send_change(domain, opaque, DomainChange::Reboot) }
}

unsafe extern "C" fn io_error(
    _: Conn,
    domain: Dom,
    source: *const c_char,
    device: *const c_char,
    action: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's strings, or NULL, which live until this function returns.
    let [source, device, reason] =
        [source, device, reason].map(|text| unsafe { copy_borrowed(text) }.unwrap_or_default());
    let action = word(&["none", "pause", "report"], action);
    let change = DomainChange::IoError { source, device, action, reason };
    // SAFETY: as in `lifecycle`.
    unsafe { send_change(domain, opaque, change) }
}

unsafe extern "C" fn watchdog(_: Conn, domain: Dom, action: c_int, opaque: *mut c_void) {
    let actions = ["none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi"];
    let change = DomainChange::Watchdog { action: word(&actions, action) };
    // SAFETY: as in `lifecycle`.
    unsafe { send_change(domain, opaque, change) }
}

unsafe extern "C" fn agent(_: Conn, domain: Dom, state: c_int, _: c_int, opaque: *mut c_void) {
    // virConnectDomainEventAgentLifecycleState counts from 1.
    let change =
        DomainChange::Agent { state: word(&[UNKNOWN, "connected", "disconnected"], state) };
    // SAFETY: as in `lifecycle`.
    unsafe { send_change(domain, opaque, change) }
}

unsafe extern "C" fn device_added(_: Conn, domain: Dom, _: *const c_char, opaque: *mut c_void) {
    // SAFETY: as in `lifecycle`.
    unsafe { send_change(domain, opaque, DomainChange::DeviceAdded) }
}

unsafe extern "C" fn device_removed(
    _: Conn,
    domain: Dom,
    device: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's string, which lives until this function returns.
    let device = unsafe { copy_borrowed(device) }.unwrap_or_default();
    // SAFETY: as in `lifecycle`.
    unsafe { send_change(domain, opaque, DomainChange::DeviceRemoved { device }) }
}

unsafe extern "C" fn balloon(_: Conn, domain: Dom, memory_kib: c_ulonglong, opaque: *mut c_void) {
    // SAFETY: as in `lifecycle`.
    unsafe { send_change(domain, opaque, DomainChange::Balloon { memory_kib }) }
}

unsafe extern "C" fn closed(_: Conn, _: c_int, opaque: *mut c_void) {
    send(opaque, Notification::Closed);
}

/// # Safety
/// `domain` is live during the call.
unsafe fn send_change(domain: Dom, opaque: *mut c_void, change: DomainChange) {
    // SAFETY: live by the caller's promise.
    let name = unsafe { sys::virDomainGetName(domain) };
    // SAFETY: the domain's own string, which lives as long as it.
    let name = unsafe { copy_borrowed(name) };
    send(opaque, Notification::Domain { name: name.unwrap_or_default(), change });
}

/// Sends a notification to the sink with the number in `opaque`; drops it after the end of the subscription.
fn send(opaque: *mut c_void, notification: Notification) {
    let sink = SINKS.lock().get(&opaque.addr()).cloned();
    if let Some(sink) = sink {
        sink.send(notification);
    }
}

/// Returns the words for a lifecycle event; each list is in the order of libvirt's enumeration of that detail.
fn lifecycle_words(event: c_int, detail: c_int) -> (&'static str, &'static str) {
    let (event, details): (_, &[&str]) = match sys::virDomainEventType::try_from(event) {
        Ok(sys::VIR_DOMAIN_EVENT_DEFINED) => {
            ("defined", &["added", "updated", "renamed", "snapshot"])
        }
        Ok(sys::VIR_DOMAIN_EVENT_UNDEFINED) => ("undefined", &["removed", "renamed"]),
        Ok(sys::VIR_DOMAIN_EVENT_STARTED) => {
            ("started", &["booted", "migrated", "restored", "snapshot", "wakeup"])
        }
        Ok(sys::VIR_DOMAIN_EVENT_SUSPENDED) => (
            "suspended",
            &[
                "paused",
                "migrated",
                "io-error",
                "watchdog",
                "restored",
                "snapshot",
                "api-error",
                "post-copy",
                "post-copy-error",
            ],
        ),
        Ok(sys::VIR_DOMAIN_EVENT_RESUMED) => {
            ("resumed", &["unpaused", "migrated", "snapshot", "post-copy", "post-copy-failed"])
        }
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED) => (
            "stopped",
            &["shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "snapshot"],
        ),
        Ok(sys::VIR_DOMAIN_EVENT_SHUTDOWN) => ("shutdown", &["finished", "guest", "host"]),
        Ok(sys::VIR_DOMAIN_EVENT_PMSUSPENDED) => ("pmsuspended", &["memory", "disk"]),
        Ok(sys::VIR_DOMAIN_EVENT_CRASHED) => ("crashed", &["panicked", "crashloaded"]),
        _ => (UNKNOWN, &[]),
    };
    (event, word(details, detail))
}

const UNKNOWN: &str = "unknown";

fn word(words: &[&'static str], number: c_int) -> &'static str {
    usize::try_from(number).ok().and_then(|index| words.get(index)).copied().unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::{Receiver, TryRecvError, bounded};

    use super::*;
    use crate::libvirt::start;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Returns a subscription to the test driver, and another connection to that driver.
    fn subscribed(
        capacity: usize,
    ) -> (Subscription, Connection, Receiver<Notification>, Arc<AtomicU64>) {
        start().unwrap();
        // All tests of this process share the driver; no other test defines the domain.
        let open = || Connection::open("test:///default").unwrap();
        let (sender, receiver) = bounded(capacity);
        let missed = Arc::new(AtomicU64::new(0));
        let subscription = open().subscribe(EventSink::new(sender, Arc::clone(&missed))).unwrap();
        (subscription, open(), receiver, missed)
    }

    fn xml(name: &str) -> String {
        format!(
            "<domain type='test'><name>{name}</name><memory>1024</memory>\
             <os><type>hvm</type></os></domain>"
        )
    }

    #[test]
    fn domain_events_arrive_until_subscription_drops() {
        let (subscription, connection, receiver, missed) = subscribed(64);
        let domain = connection.define_domain(&xml("heard")).unwrap();
        domain.create().unwrap();
        domain.destroy().unwrap();
        domain.undefine().unwrap();
        let mut words = Vec::new();
        while words.last() != Some(&("undefined", "removed")) {
            match receiver.recv_timeout(PATIENCE).unwrap() {
                Notification::Domain { name, change } if name == "heard" => {
                    let DomainChange::Lifecycle { event, detail } = change else { panic!() };
                    words.push((event, detail));
                }
                _ => {}
            }
        }
        let all = [("defined", "added"), ("started", "booted"), ("stopped", "destroyed"), words[3]];
        assert_eq!(words, all);
        assert_eq!(missed.load(Ordering::Relaxed), 0);
        drop(subscription);
        // A concurrent callback may still have a clone of the sink.
        while receiver.try_recv() != Err(TryRecvError::Disconnected) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn overflowing_events_are_counted_without_waiting() {
        let (sender, receiver) = bounded(1);
        let missed = Arc::new(AtomicU64::new(0));
        let sink = EventSink::new(sender, Arc::clone(&missed));
        sink.send(Notification::Closed);
        sink.send(Notification::Closed);
        drop(receiver);
        sink.send(Notification::Closed);
        assert_eq!(missed.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn unknown_event_is_named_unknown() {
        assert_eq!(lifecycle_words(2, 0), ("started", "booted"));
        assert_eq!(lifecycle_words(3, 8), ("suspended", "post-copy-error"));
        assert_eq!(lifecycle_words(2, 77), ("started", "unknown"));
        assert_eq!(lifecycle_words(77, 0), ("unknown", "unknown"));
        assert_eq!(lifecycle_words(-1, -1), ("unknown", "unknown"));
    }
}
