//! Shows the elapsed time of a call on the terminal.

use std::io::{self, IsTerminal, Write};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// The interval of updates; a call that ends before is not shown.
const STEP: Duration = Duration::from_secs(1);

/// Writes the elapsed time to standard error until it is dropped; writes nothing if that is no
/// terminal.
pub(super) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    pub(super) fn of(what: String) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let (stop, stopped) = bounded::<()>(0);
        let began = Instant::now();
        let work = move || {
            let mut has_printed = false;
            while stopped.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
                // If the terminal is closed, no user sees the progress.
                let _ = write!(io::stderr(), "\r{what}: {} s", began.elapsed().as_secs());
                has_printed = true;
            }
            if has_printed {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        };
        // Without a thread no progress is shown.
        Self(thread::Builder::new().spawn(work).ok().map(|thread| (stop, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // The thread cannot panic, so its result is ignored.
            let _ = thread.join();
        }
    }
}
