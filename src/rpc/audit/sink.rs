//! The audit file.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use log::{error, info};

use crate::config::fixed::LOG_INTERVAL;
use crate::os::own;

/// The audit file. Only one thread writes it, and only that thread waits for its file system.
///
/// A line that cannot be written is logged and lost: its call is complete by then, so an error to
/// the caller would be wrong. Calls are not refused while the file cannot be written: on a host
/// whose disk is full, the calls that free space are changing ones. A written line outlives the
/// agent's end, but is not synced to the disk.
pub(super) struct Sink {
    path: PathBuf,
    file: Box<dyn Write + Send>,
    /// Whether the last line was written only in part.
    is_torn: bool,
    /// When a failure was last logged, and the number of failures since then.
    failed: Option<(Instant, u64)>,
}

impl Sink {
    /// # Errors
    /// As [`Audit::open`](super::Audit::open).
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(path.to_owned(), Box::new(own::open_log(path)?)))
    }

    /// Makes a sink into this open file of that path.
    pub(super) fn new(path: PathBuf, file: Box<dyn Write + Send>) -> Self {
        Self { path, file, is_torn: false, failed: None }
    }

    /// As [`Audit::reopen`](super::Audit::reopen).
    ///
    /// # Blocking
    /// As long as the file system blocks.
    pub(super) fn reopen(&mut self) {
        let path = self.path.display();
        match own::open_log(&self.path) {
            Ok(file) => {
                self.file = Box::new(file);
                self.is_torn = false;
                info!("reopened audit log {path}");
            }
            Err(why) => error!("cannot reopen audit log {path}: {why}"),
        }
    }

    /// Appends a line with a single write, so that lines of several processes do not mix; returns
    /// whether the whole line was written.
    ///
    /// # Blocking
    /// As long as the file system blocks.
    pub(super) fn write(&mut self, line: &[u8]) -> bool {
        let repaired;
        let mut bytes = line;
        if self.is_torn {
            repaired = [b"\n", line].concat();
            bytes = &repaired;
        }
        let written = loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        match written {
            Ok(count) if count == bytes.len() => {
                self.is_torn = false;
                return true;
            }
            Ok(count) => {
                self.is_torn = true;
                self.log_failure(&format!("only {count} of {} bytes were written", bytes.len()));
            }
            // A line that was torn before still is.
            Err(error) => self.log_failure(&error.to_string()),
        }
        false
    }

    fn log_failure(&mut self, why: &str) {
        let since = match &mut self.failed {
            Some((at, count)) if at.elapsed() < LOG_INTERVAL => {
                *count += 1;
                return;
            }
            before => before.replace((Instant::now(), 0)).map_or(0, |(_, count)| count),
        };
        let path = self.path.display();
        error!("cannot write audit log {path}: {why}; lost_lines={since}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::{env, fs, process};

    use super::*;

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let path = env::temp_dir().join(format!("mistify-torn-{}", process::id()));
        fs::write(&path, "{\"ti").unwrap();
        let mut sink = Sink::open(&path).unwrap();
        sink.is_torn = true;
        assert!(sink.write(b"one\n") && sink.write(b"two\n"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"ti\none\ntwo\n");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn unwritable_lines_are_counted_and_torn_lines_remain() {
        // Opened for reading only.
        let file = File::open("/dev/null").unwrap();
        let mut sink = Sink::new("/dev/null".into(), Box::new(file));
        sink.is_torn = true;
        for _ in 0..3 {
            assert!(!sink.write(b"lost\n"));
        }
        assert!(sink.is_torn);
        assert_eq!(sink.failed.map(|(_, count)| count), Some(2), "the first was logged");
    }
}
