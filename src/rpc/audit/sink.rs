//! The file that the audit goes to.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use log::{error, info};
use parking_lot::Mutex;

use crate::config::fixed::LOG_INTERVAL;
use crate::os::files;

/// Nobody else reads what guests and users there are.
const FILE_MODE: u32 = 0o600;

/// The file.
///
/// What cannot be written is logged and costs the line, not the call: it has been carried out by
/// then, and an answer that says otherwise would be wrong. Nor are calls refused before they run as
/// long as the file cannot be written: on a host whose disk is full the calls that make room are
/// changing ones. A line outlives the agent's end, but is not forced to the disk.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    /// Held to take or replace it, never over a write.
    file: Mutex<Arc<File>>,
    /// Whether the last line is there in part.
    is_torn: AtomicBool,
    /// When a failure was last logged, and how many came since.
    failed: Mutex<Option<(Instant, u64)>>,
}

impl Sink {
    /// # Errors
    /// As [`Audit::open`](super::Audit::open).
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(Arc::new(open(path)?)),
            is_torn: AtomicBool::new(false),
            failed: Mutex::default(),
        })
    }

    /// As [`Audit::reopen`](super::Audit::reopen).
    pub(super) fn reopen(&self) {
        let path = self.path.display();
        match open(&self.path) {
            Ok(file) => {
                *self.file.lock() = Arc::new(file);
                self.is_torn.store(false, Ordering::Relaxed);
                info!("audit log {path}: opened anew");
            }
            Err(why) => error!("open audit log {path} anew: {why}"),
        }
    }

    /// Appends a line by one write, so that lines of several threads do not mix.
    pub(super) fn write(&self, line: &[u8]) {
        let file = Arc::clone(&self.file.lock());
        let repaired;
        let mut bytes = line;
        if self.is_torn.swap(false, Ordering::Relaxed) {
            repaired = [b"\n", line].concat();
            bytes = &repaired;
        }
        let written = loop {
            match (&*file).write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        match written {
            Ok(count) if count == bytes.len() => {}
            Ok(count) => {
                self.is_torn.store(true, Ordering::Relaxed);
                self.log_failure(&format!("{count} of {} bytes written", bytes.len()));
            }
            Err(error) => {
                // What was torn before still is.
                self.is_torn.fetch_or(bytes.len() > line.len(), Ordering::Relaxed);
                self.log_failure(&error.to_string());
            }
        }
    }

    fn log_failure(&self, why: &str) {
        let mut failed = self.failed.lock();
        let since = match &mut *failed {
            Some((at, count)) if at.elapsed() < LOG_INTERVAL => {
                *count += 1;
                return;
            }
            before => before.replace((Instant::now(), 0)).map_or(0, |(_, count)| count),
        };
        drop(failed);
        let path = self.path.display();
        error!("write audit log {path}: {why}; {since} more lines lost since the last such line");
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = files::straight(options.append(true).create(true).mode(FILE_MODE)).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let path = env::temp_dir().join(format!("mistify-torn-{}", process::id()));
        fs::write(&path, "{\"ti").unwrap();
        let sink = Sink::open(&path).unwrap();
        sink.is_torn.store(true, Ordering::Relaxed);
        sink.write(b"one\n");
        sink.write(b"two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"ti\none\ntwo\n");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_what_is_torn_stays_so() {
        let sink = Sink {
            path: "/dev/null".into(),
            // For reading alone.
            file: Mutex::new(Arc::new(File::open("/dev/null").unwrap())),
            is_torn: AtomicBool::new(true),
            failed: Mutex::default(),
        };
        for _ in 0..3 {
            sink.write(b"lost\n");
        }
        assert!(sink.is_torn.load(Ordering::Relaxed));
        assert_eq!(sink.failed.lock().map(|(_, count)| count), Some(2), "the first was logged");
    }
}
