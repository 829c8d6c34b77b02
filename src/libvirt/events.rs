//! libvirt's process-wide state: initialised once, silent on stderr, with a running event loop.

use std::env;
use std::ffi::{c_int, c_ulong, c_void};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::OnceLock;
use std::thread;

use log::{error, warn};

use crate::config::fixed::TURN_FAILED_PAUSE;
use crate::libvirt::error::{Error, check_int};
use crate::libvirt::event_loop::EventLoop;
use crate::os::epoll::Batch;
use crate::sys;

/// The oldest supported version of libvirt, as libvirt's number: 8.0.0.
pub const FLOOR: u64 = 8_000_000;

/// The loop for libvirt's functions below, which take no argument for it.
static EVENTS: OnceLock<EventLoop> = OnceLock::new();

/// Initialises libvirt for the whole process, and returns the version of the library.
///
/// Registers and runs the event loop in a separate thread (`libvirt-loop`) for the life of the process: libvirt
/// requires the registration before the first open, and a loop that never stops while connections live
/// (`virEventRegisterImpl`). It sleeps without events or due timers. Further calls return the result of the first one.
///
/// # Errors
/// If libvirt cannot be initialised, is older than [`FLOOR`], or the thread cannot be started.
///
/// # Blocking
/// Not on any daemon.
pub fn start() -> Result<u64, StartError> {
    static STARTED: OnceLock<Result<u64, StartError>> = OnceLock::new();
    STARTED.get_or_init(start_once).clone()
}

/// Keeps the log of libvirt's library off standard error, where a slow reader would block libvirt's threads: a warning
/// about a connection without keepalive would block the event loop. Does not change an environment that sets the log
/// output. Must be called before other threads start.
pub fn quiet_log() {
    let says_where = ["LIBVIRT_LOG_OUTPUTS", "LIBVIRT_DEBUG"];
    if says_where.into_iter().all(|name| env::var_os(name).is_none()) {
        // SAFETY: the caller ensures that there is only one thread, so that no other thread reads the environment
        // meanwhile.
        unsafe { env::set_var("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null") }
    }
}

/// The reason why this process cannot use libvirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// A call of the initialisation failed.
    Call(Error),
    /// The library is older than [`FLOOR`]; with its version as libvirt's number.
    TooOld(u64),
    /// The system refused the event loop or its thread; with its error.
    Loop(String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(error) => write!(f, "cannot initialize libvirt: {error}"),
            Self::TooOld(version) => {
                let (major, minor) = (version / 1_000_000, version / 1000 % 1000);
                write!(f, "cannot use libvirt {major}.{minor}: 8.0 or later is required")
            }
            Self::Loop(why) => write!(f, "cannot start libvirt's event loop: {why}"),
        }
    }
}

impl std::error::Error for StartError {}

fn start_once() -> Result<u64, StartError> {
    // SAFETY: no arguments; libvirt's documentation requires it before virSetErrorFunc.
    let initialized = unsafe { sys::virInitialize() };
    check_int(initialized, "virInitialize").map_err(StartError::Call)?;
    // SAFETY: the function is `extern "C"`, lives forever and ignores its arguments. NULL here would not silence
    // libvirt but make it print on stderr.
    unsafe { sys::virSetErrorFunc(ptr::null_mut(), Some(say_nothing)) }
    let version = young_enough(library_version().map_err(StartError::Call)?)?;
    let refused = |error: io::Error| StartError::Loop(error.to_string());
    let new = EventLoop::new().map_err(refused)?;
    // Empty before, because this runs once.
    let events = EVENTS.get_or_init(|| new);
    // SAFETY: all six follow their types' contracts, which `event_loop` describes; this runs before the first open,
    // once, by the OnceLock of `start`.
    unsafe {
        sys::virEventRegisterImpl(
            Some(add_handle),
            Some(update_handle),
            Some(remove_handle),
            Some(add_timer),
            Some(update_timer),
            Some(remove_timer),
        );
    }
    let work = || run_events(events);
    thread::Builder::new().name("libvirt-loop".to_owned()).spawn(work).map_err(refused)?;
    Ok(version)
}

fn young_enough(version: u64) -> Result<u64, StartError> {
    if version < FLOOR { Err(StartError::TooOld(version)) } else { Ok(version) }
}

fn library_version() -> Result<u64, Error> {
    let mut version: c_ulong = 0;
    // SAFETY: the out-pointer is live; NULL for the driver's version is allowed by the header.
    let found = unsafe { sys::virGetVersion(&raw mut version, ptr::null(), ptr::null_mut()) };
    check_int(found, "virGetVersion")?;
    Ok(version)
}

/// Replaces libvirt's printing of errors: they reach the log once, through [`Error`].
unsafe extern "C" fn say_nothing(_data: *mut c_void, _error: sys::virErrorPtr) {}

fn run_events(events: &EventLoop) {
    let (mut batch, mut failing) = (Batch::default(), false);
    loop {
        match events.turn(&mut batch) {
            Ok(()) if failing => {
                failing = false;
                warn!("libvirt's event loop recovered");
            }
            Ok(()) => {}
            Err(why) => {
                if !failing {
                    error!("libvirt's event loop failed; retrying: {why}");
                }
                failing = true;
                thread::sleep(TURN_FAILED_PAUSE);
            }
        }
    }
}

/// Calls the loop; returns `refused` if it panics, because a panic must not reach C.
fn on_loop<T>(refused: T, work: impl FnOnce(&EventLoop) -> T) -> T {
    let Some(events) = EVENTS.get() else { return refused };
    panic::catch_unwind(AssertUnwindSafe(|| work(events))).unwrap_or(refused)
}

unsafe extern "C" fn add_handle(
    fd: c_int,
    wanted: c_int,
    callback: sys::virEventHandleCallback,
    data: *mut c_void,
    free: sys::virFreeCallback,
) -> c_int {
    on_loop(-1, |events| events.add_handle(fd, wanted, callback, data, free))
}

unsafe extern "C" fn update_handle(watch: c_int, wanted: c_int) {
    on_loop((), |events| events.update_handle(watch, wanted));
}

unsafe extern "C" fn remove_handle(watch: c_int) -> c_int {
    on_loop(-1, |events| events.remove_handle(watch))
}

unsafe extern "C" fn add_timer(
    every_ms: c_int,
    callback: sys::virEventTimeoutCallback,
    data: *mut c_void,
    free: sys::virFreeCallback,
) -> c_int {
    on_loop(-1, |events| events.add_timer(every_ms, callback, data, free))
}

unsafe extern "C" fn update_timer(timer: c_int, every_ms: c_int) {
    on_loop((), |events| events.update_timer(timer, every_ms));
}

unsafe extern "C" fn remove_timer(timer: c_int) -> c_int {
    on_loop(-1, |events| events.remove_timer(timer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_old_library_is_refused_with_a_message() {
        assert_eq!(young_enough(8_000_000), Ok(8_000_000));
        let refused = young_enough(7_010_000).unwrap_err();
        assert_eq!(refused.to_string(), "cannot use libvirt 7.10: 8.0 or later is required");
    }
}
