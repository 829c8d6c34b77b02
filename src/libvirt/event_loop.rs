//! The event loop with which libvirt's connections register their sockets and keepalive timers.
//!
//! Each call on a connection removes its socket from the loop before, and adds it again after; each answer resets its
//! timer. Each of these wakes libvirt's own loop. Here the first is a change of an epoll set, and the second is
//! recorded: a thread that sleeps until a postponed time wakes once in vain. The thread is only woken for an earlier
//! timer than it knows, and for data to free.
//!
//! libvirt's requirements (`virEventRegisterImpl`): any thread may call the six functions, also from callbacks of the
//! loop. Callbacks run on the one thread of the loop, one at a time and without a lock held. The data of a callback is
//! freed after its removal, when no callback runs. A callback that was about to run may still run after its removal.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use log::error;
use parking_lot::{Mutex, MutexGuard};

use crate::os::epoll::{Batch, Epoll, Events};
use crate::os::poll::Waker;
use crate::sorted::Table;
use crate::sys;

/// The waker's number in the set; handles and timers start at 1.
const WAKER: u64 = 0;

/// libvirt's flags for a handle's events, and the kernel's.
const EVENTS: [(u32, Events); 4] = [
    (sys::VIR_EVENT_HANDLE_READABLE, Events::READ),
    (sys::VIR_EVENT_HANDLE_WRITABLE, Events::WRITE),
    (sys::VIR_EVENT_HANDLE_ERROR, Events::ERROR),
    (sys::VIR_EVENT_HANDLE_HANGUP, Events::HANGUP),
];

/// Handles, timers, and the epoll set that waits for them.
pub(super) struct EventLoop {
    epoll: Epoll,
    waker: Waker,
    state: Mutex<State>,
}

struct State {
    /// The last number of a handle or a timer; no number is used twice.
    last: c_int,
    handles: Table<c_int, Handle>,
    timers: Table<c_int, Timer>,
    /// Data of removed handles and timers, which the loop's thread must free.
    removed: Vec<Opaque>,
    sleep: Sleep,
}

/// The activity of the loop's thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    /// It will check the state before it sleeps.
    Awake,
    Until(Instant),
    /// Until an event of a handle.
    Endless,
}

/// The data of libvirt's callbacks, and the function that frees it.
struct Opaque {
    data: *mut c_void,
    free: sys::virFreeCallback,
}

// SAFETY: libvirt passes it to any thread that runs the loop; no code here dereferences it.
unsafe impl Send for Opaque {}

struct Handle {
    fd: c_int,
    /// libvirt's flags.
    wanted: c_int,
    callback: sys::virEventHandleCallback,
    opaque: Opaque,
}

struct Timer {
    /// `None`: inactive.
    every: Option<Duration>,
    due: Option<Instant>,
    callback: sys::virEventTimeoutCallback,
    opaque: Opaque,
}

impl Timer {
    /// Sets the interval in milliseconds; a negative number deactivates the timer.
    fn set(&mut self, every_ms: c_int, now: Instant) {
        self.every = u64::try_from(every_ms).ok().map(Duration::from_millis);
        self.due = self.every.map(|every| now + every);
    }
}

impl Opaque {
    /// Called once, by the loop's thread between callbacks.
    fn free(self) {
        if let Some(free) = self.free {
            // SAFETY: libvirt's own function for its own data, whose handle or timer is gone.
            unsafe { free(self.data) }
        }
    }
}

impl State {
    fn next_number(&mut self) -> Option<c_int> {
        self.last = self.last.checked_add(1)?;
        Some(self.last)
    }

    /// Returns the time of the first due timer.
    fn next_due(&self) -> Option<Instant> {
        self.timers.values().filter_map(|timer| timer.due).min()
    }

    /// Returns whether the thread sleeps beyond this time, and then marks it as awake.
    fn oversleeps(&mut self, due: Option<Instant>) -> bool {
        let late = match (self.sleep, due) {
            (Sleep::Awake, _) | (_, None) => false,
            (Sleep::Until(moment), Some(due)) => due < moment,
            (Sleep::Endless, Some(_)) => true,
        };
        if late {
            self.sleep = Sleep::Awake;
        }
        late
    }
}

impl EventLoop {
    /// Returns a loop without handles and timers.
    ///
    /// # Errors
    /// If the process or the system has no free file descriptor.
    pub(super) fn new() -> io::Result<Self> {
        let (epoll, waker) = (Epoll::new()?, Waker::new()?);
        epoll.add(waker.as_fd(), Events::READ, WAKER)?;
        let state = State {
            last: 0,
            handles: Table::new(),
            timers: Table::new(),
            removed: Vec::new(),
            sleep: Sleep::Awake,
        };
        Ok(Self { epoll, waker, state: Mutex::new(state) })
    }

    /// Waits once and runs due callbacks. Only for one thread.
    ///
    /// # Errors
    /// As [`Epoll::wait`].
    ///
    /// # Blocking
    /// Until an event of a handle, a timer or the waker.
    pub(super) fn turn(&self, batch: &mut Batch) -> io::Result<()> {
        let timeout = self.prepare_sleep();
        let waited = self.epoll.wait(batch, timeout);
        self.state.lock().sleep = Sleep::Awake;
        waited?;
        for (number, events) in batch.found() {
            match c_int::try_from(number) {
                Ok(watch) if number != WAKER => self.call_handle(watch, events),
                _ => self.waker.drain(),
            }
        }
        self.call_timers();
        Ok(())
    }

    /// Frees removed data, and returns how long to sleep.
    fn prepare_sleep(&self) -> Option<Duration> {
        loop {
            let mut state = self.state.lock();
            if state.removed.is_empty() {
                let due = state.next_due();
                state.sleep = due.map_or(Sleep::Endless, Sleep::Until);
                return due.map(|due| due.saturating_duration_since(Instant::now()));
            }
            let removed = mem::take(&mut state.removed);
            drop(state);
            removed.into_iter().for_each(Opaque::free);
        }
    }

    fn call_handle(&self, watch: c_int, happened: Events) {
        let state = self.state.lock();
        let Some(handle) = state.handles.get(&watch) else { return };
        let (fd, wanted, callback) = (handle.fd, handle.wanted, handle.callback);
        let data = handle.opaque.data;
        drop(state);
        let broken = Events::ERROR | Events::HANGUP;
        let is_ready = |flag: u32, event: Events| {
            happened.has(event) && (bits(wanted) & flag != 0 || broken.has(event))
        };
        let ready = EVENTS.iter().filter(|(flag, event)| is_ready(*flag, *event));
        let ready = ready.fold(0, |ready, (flag, _)| ready | flag);
        if let (Some(callback), true) = (callback, wanted != 0 && ready != 0) {
            // SAFETY: libvirt's own function and data; only this thread frees the data, later.
            unsafe { callback(watch, fd, number(ready), data) }
        }
    }

    fn call_timers(&self) {
        let now = Instant::now();
        let is_due = |timer: &Timer| timer.due.is_some_and(|due| due <= now);
        let state = self.state.lock();
        let due = state.timers.iter().filter(|(_, timer)| is_due(timer));
        let due: Vec<c_int> = due.map(|(number, _)| *number).collect();
        drop(state);
        for number in due {
            let mut state = self.state.lock();
            // An earlier callback may have removed or reset the timer.
            let Some(timer) = state.timers.get_mut(&number).filter(|timer| is_due(timer)) else {
                continue;
            };
            timer.due = timer.every.map(|every| now + every);
            let (callback, data) = (timer.callback, timer.opaque.data);
            drop(state);
            if let Some(callback) = callback {
                // SAFETY: libvirt's own function and data; only this thread frees the data, later.
                unsafe { callback(number, data) }
            }
        }
    }

    /// Implements `virEventAddHandleFunc`: returns the handle's number, or -1. Refuses a file that already has a
    /// handle, and one that epoll(7) does not support: libvirt's client has a handle for each socket.
    pub(super) fn add_handle(
        &self,
        fd: c_int,
        wanted: c_int,
        callback: sys::virEventHandleCallback,
        data: *mut c_void,
        free: sys::virFreeCallback,
    ) -> c_int {
        let mut state = self.state.lock();
        let (Some(file), Some(watch)) = (borrow(&fd), state.next_number()) else { return -1 };
        if let Err(why) = self.epoll.add(file, events(wanted), key(watch)) {
            error!("libvirt's event loop cannot watch file {fd}: {why}");
            return -1;
        }
        let handle = Handle { fd, wanted, callback, opaque: Opaque { data, free } };
        state.handles.insert(watch, handle);
        watch
    }

    /// Implements `virEventUpdateHandleFunc`. Does not wake the thread.
    pub(super) fn update_handle(&self, watch: c_int, wanted: c_int) {
        let mut state = self.state.lock();
        let Some(handle) = state.handles.get_mut(&watch) else { return };
        if handle.wanted == wanted {
            return;
        }
        handle.wanted = wanted;
        let changed = borrow(&handle.fd).map(|file| {
            // Under the lock, so that the set matches the state.
            self.epoll.change(file, events(wanted), key(watch))
        });
        if let Some(Err(why)) = changed {
            error!("libvirt's event loop cannot change handle {watch}: {why}");
        }
    }

    /// Implements `virEventRemoveHandleFunc`: returns 0, or -1 for an unknown handle.
    pub(super) fn remove_handle(&self, watch: c_int) -> c_int {
        let mut state = self.state.lock();
        let Some(handle) = state.handles.remove(&watch) else { return -1 };
        // Fails if libvirt has already closed the file, which removed it from the set.
        let _ = borrow(&handle.fd).map(|file| self.epoll.remove(file));
        self.free_later(state, handle.opaque)
    }

    /// Implements `virEventAddTimeoutFunc`: returns the timer's number, or -1.
    pub(super) fn add_timer(
        &self,
        every_ms: c_int,
        callback: sys::virEventTimeoutCallback,
        data: *mut c_void,
        free: sys::virFreeCallback,
    ) -> c_int {
        let mut state = self.state.lock();
        let Some(number) = state.next_number() else { return -1 };
        let opaque = Opaque { data, free };
        state.timers.insert(number, Timer { every: None, due: None, callback, opaque });
        drop(state);
        self.update_timer(number, every_ms);
        number
    }

    /// Implements `virEventUpdateTimeoutFunc`. Wakes the thread if it would sleep too long.
    pub(super) fn update_timer(&self, number: c_int, every_ms: c_int) {
        let mut state = self.state.lock();
        let Some(timer) = state.timers.get_mut(&number) else { return };
        timer.set(every_ms, Instant::now());
        let due = timer.due;
        let oversleeps = state.oversleeps(due);
        drop(state);
        if oversleeps {
            self.waker.wake();
        }
    }

    /// Implements `virEventRemoveTimeoutFunc`: returns 0, or -1 for an unknown timer.
    pub(super) fn remove_timer(&self, number: c_int) -> c_int {
        let mut state = self.state.lock();
        let Some(timer) = state.timers.remove(&number) else { return -1 };
        self.free_later(state, timer.opaque)
    }

    /// Leaves the data to the loop's thread, because a callback may be using it.
    fn free_later(&self, mut state: MutexGuard<'_, State>, opaque: Opaque) -> c_int {
        state.removed.push(opaque);
        let sleeps = mem::replace(&mut state.sleep, Sleep::Awake) != Sleep::Awake;
        drop(state);
        if sleeps {
            self.waker.wake();
        }
        0
    }
}

/// Borrows a file of libvirt by the number in its handle.
fn borrow(fd: &c_int) -> Option<BorrowedFd<'_>> {
    // SAFETY: libvirt keeps it open while it has the handle. It is only used under the loop's lock for changes of the
    // set, which refuse a closed file.
    (*fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(*fd) })
}

/// Returns a handle's number in the set.
fn key(watch: c_int) -> u64 {
    u64::try_from(watch).unwrap_or(u64::MAX)
}

fn events(wanted: c_int) -> Events {
    let wanted = EVENTS.iter().filter(|(flag, _)| bits(wanted) & flag != 0);
    wanted.fold(Events::NONE, |events, (_, event)| events | *event)
}

/// Converts libvirt's events from `int`, the type in calls, to the unsigned type of their names.
fn bits(events: c_int) -> u32 {
    u32::from_ne_bytes(events.to_ne_bytes())
}

/// Converts libvirt's events from unsigned to `int`.
fn number(bits: u32) -> c_int {
    c_int::from_ne_bytes(bits.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::*;

    const LONG_MS: c_int = 60_000;

    /// The recorded callbacks of one handle or timer.
    #[derive(Default)]
    struct Seen {
        called: AtomicI32,
        events: AtomicI32,
        freed: AtomicI32,
    }

    impl Seen {
        /// Returns how often the callback was called and the data was freed.
        fn so_far(&self) -> (i32, i32) {
            (self.called.load(Ordering::SeqCst), self.freed.load(Ordering::SeqCst))
        }

        fn data(&self) -> *mut c_void {
            ptr::from_ref(self).cast_mut().cast()
        }
    }

    /// # Safety
    /// `data` is a `Seen` that lives through the call.
    unsafe fn seen<'s>(data: *mut c_void) -> &'s Seen {
        // SAFETY: the caller's promise.
        unsafe { &*data.cast::<Seen>() }
    }

    unsafe extern "C" fn on_handle(_watch: c_int, _fd: c_int, events: c_int, data: *mut c_void) {
        // SAFETY: the tests keep the registered data alive.
        let seen = unsafe { seen(data) };
        seen.events.store(events, Ordering::SeqCst);
        seen.called.fetch_add(1, Ordering::SeqCst);
    }

    unsafe extern "C" fn on_timer(_timer: c_int, data: *mut c_void) {
        // SAFETY: see above.
        unsafe { seen(data) }.called.fetch_add(1, Ordering::SeqCst);
    }

    unsafe extern "C" fn on_free(data: *mut c_void) {
        // SAFETY: see above.
        unsafe { seen(data) }.freed.fetch_add(1, Ordering::SeqCst);
    }

    fn flags(events: Events) -> c_int {
        let flags = EVENTS.iter().filter(|(_, event)| events.has(*event));
        number(flags.fold(0, |flags, (flag, _)| flags | flag))
    }

    fn handle(on: &EventLoop, file: &UnixStream, events: Events, seen: &Seen) -> c_int {
        on.add_handle(file.as_raw_fd(), flags(events), Some(on_handle), seen.data(), Some(on_free))
    }

    fn timer(on: &EventLoop, every_ms: c_int, seen: &Seen) -> c_int {
        on.add_timer(every_ms, Some(on_timer), seen.data(), Some(on_free))
    }

    /// Runs one turn that does not wait, because a timer is always due.
    fn turn(on: &EventLoop) {
        let seen = Seen::default();
        let due = timer(on, 0, &seen);
        on.turn(&mut Batch::default()).unwrap();
        on.remove_timer(due);
        on.prepare_sleep();
        on.state.lock().sleep = Sleep::Awake;
        assert_eq!(seen.so_far(), (1, 1));
    }

    #[test]
    fn handle_is_called_until_it_is_removed() {
        let (on, seen) = (EventLoop::new().unwrap(), Seen::default());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let watch = handle(&on, &ours, Events::READ, &seen);
        turn(&on);
        assert_eq!(seen.so_far(), (0, 0), "nothing to read yet");
        theirs.write_all(b"x").unwrap();
        turn(&on);
        assert_eq!((seen.so_far(), seen.events.load(Ordering::SeqCst)), ((1, 0), 1));
        on.update_handle(watch, 0);
        drop(theirs);
        turn(&on);
        assert_eq!(seen.so_far(), (1, 0), "not even for its end");
        on.update_handle(watch, flags(Events::READ));
        turn(&on);
        assert_eq!((seen.so_far(), seen.events.load(Ordering::SeqCst)), ((2, 0), 1 | 8));
        assert_eq!((on.remove_handle(watch), seen.so_far()), (0, (2, 0)));
        turn(&on);
        assert_eq!((on.remove_handle(watch), seen.so_far()), (-1, (2, 1)));
    }

    #[test]
    fn unwatchable_file_is_refused_and_its_data_kept() {
        let (on, seen) = (EventLoop::new().unwrap(), Seen::default());
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(handle(&on, &ours, Events::READ, &seen) > 0);
        assert_eq!(handle(&on, &ours, Events::READ, &seen), -1);
        assert_eq!(on.add_handle(-1, 1, Some(on_handle), seen.data(), Some(on_free)), -1);
        turn(&on);
        assert_eq!(seen.so_far(), (0, 0));
    }

    #[test]
    fn a_timer_is_called_again_and_again_until_it_rests() {
        let (on, seen) = (EventLoop::new().unwrap(), Seen::default());
        let number = timer(&on, 0, &seen);
        on.turn(&mut Batch::default()).unwrap();
        on.turn(&mut Batch::default()).unwrap();
        assert_eq!(seen.so_far(), (2, 0));
        for every_ms in [LONG_MS, -1] {
            on.update_timer(number, every_ms);
            turn(&on);
            assert_eq!(seen.so_far(), (2, 0));
        }
        on.update_timer(number, 0);
        turn(&on);
        assert_eq!((on.remove_timer(number), on.remove_timer(number)), (0, -1));
        turn(&on);
        assert_eq!(seen.so_far(), (3, 1));
    }

    /// A timer removes a later one, which is also due.
    #[test]
    fn callback_may_remove_a_later_timer() {
        static LOOP: OnceLock<EventLoop> = OnceLock::new();
        unsafe extern "C" fn remove_the_next(timer: c_int, _data: *mut c_void) {
            LOOP.get().unwrap().remove_timer(timer + 1);
        }
        let on = LOOP.get_or_init(|| EventLoop::new().unwrap());
        let seen = Seen::default();
        let first = on.add_timer(0, Some(remove_the_next), ptr::null_mut(), None);
        timer(on, 0, &seen);
        on.turn(&mut Batch::default()).unwrap();
        assert_eq!(seen.so_far(), (0, 0));
        on.remove_timer(first);
        turn(on);
        assert_eq!(seen.so_far(), (0, 1));
    }

    #[test]
    fn sleeping_loop_wakes_for_earlier_timer_or_free() {
        let (on, late, soon) = (EventLoop::new().unwrap(), Seen::default(), Seen::default());
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (of_handle, number) = (Seen::default(), timer(&on, LONG_MS, &late));
        let watch = handle(&on, &ours, Events::READ, &of_handle);
        let is_woken = || {
            let mut batch = Batch::default();
            on.epoll.wait(&mut batch, Some(Duration::ZERO)).unwrap();
            on.waker.drain();
            batch.found().any(|(number, _)| number == WAKER)
        };
        on.prepare_sleep();
        on.update_handle(watch, 0);
        on.update_handle(watch, flags(Events::READ));
        on.update_timer(number, 2 * LONG_MS);
        on.update_timer(number, -1);
        assert!(!is_woken(), "a call on a connection costs no wake");
        timer(&on, 1, &soon);
        assert!(is_woken());
        on.prepare_sleep();
        on.remove_handle(watch);
        assert!(is_woken());
        on.remove_timer(number);
        assert!(!is_woken(), "once is enough");
        on.prepare_sleep();
        assert_eq!((of_handle.so_far(), late.so_far()), ((0, 1), (0, 1)));
    }

    #[test]
    fn timer_removed_in_its_callback_is_freed_afterwards() {
        static LOOP: OnceLock<EventLoop> = OnceLock::new();
        unsafe extern "C" fn remove_itself(timer: c_int, data: *mut c_void) {
            LOOP.get().unwrap().remove_timer(timer);
            // SAFETY: the test keeps the registered data alive.
            let seen = unsafe { seen(data) };
            assert_eq!(seen.so_far(), (0, 0));
            seen.called.fetch_add(1, Ordering::SeqCst);
        }
        let on = LOOP.get_or_init(|| EventLoop::new().unwrap());
        let seen = Seen::default();
        on.add_timer(0, Some(remove_itself), seen.data(), Some(on_free));
        on.turn(&mut Batch::default()).unwrap();
        assert_eq!(seen.so_far(), (1, 0));
        turn(on);
        assert_eq!(seen.so_far(), (1, 1));
    }
}
