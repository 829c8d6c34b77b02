//! How long a call has taken, on the terminal of whoever waits for it.

use std::io::{self, IsTerminal, Write};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// How often it is told; what ends before that is not slow.
const STEP: Duration = Duration::from_secs(1);

/// Tells on standard error, until it is dropped; nothing where that is no terminal.
pub(super) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    pub(super) fn of(what: String) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let (stop, stopped) = bounded::<()>(0);
        let began = Instant::now();
        let work = move || {
            let mut was_told = false;
            while stopped.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
                // A terminal that is gone has nobody in front of it.
                let _ = write!(io::stderr(), "\r{what}: {} s", began.elapsed().as_secs());
                was_told = true;
            }
            if was_told {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        };
        // Without a thread nothing is told.
        Self(thread::Builder::new().spawn(work).ok().map(|thread| (stop, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // It cannot panic, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}
