//! The output of `zfs send` as a reader.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::command::RunningCommand;
use crate::os::poll::PollSet;

/// The size of one read from standard error, in bytes.
const ERROR_CHUNK_BYTES: usize = 4096;

/// The standard output of a command. A read fails if no data arrives for too long, and the last read
/// also if the command failed. Dropping the stream kills the command.
#[derive(Debug)]
pub(super) struct Stream {
    running: RunningCommand,
    progress: Duration,
    succeeded: bool,
}

impl Stream {
    pub(super) fn new(running: RunningCommand, progress: Duration) -> Self {
        Self { running, progress, succeeded: false }
    }

    fn late(&self) -> io::Error {
        let limit = self.progress.as_secs();
        let why = format!("deadline: {} printed nothing for {limit} s", self.running.command);
        io::Error::new(io::ErrorKind::TimedOut, why)
    }

    /// Waits for the first byte of standard output or its end.
    fn wait(&mut self) -> io::Result<()> {
        let end = Instant::now() + self.progress;
        let mut set = PollSet::default();
        loop {
            set.clear();
            let stdout = self.running.stdout.add_to(&mut set);
            let stderr = self.running.stderr.add_to(&mut set);
            set.wait(Some(end.saturating_duration_since(Instant::now())))?;
            if set.is_ready(stderr) {
                self.running.stderr.read_on(&mut [0; ERROR_CHUNK_BYTES])?;
            }
            if set.is_ready(stdout) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(self.late());
            }
        }
    }

    /// Ends the stream, which is complete only if the command succeeded.
    fn finish(&mut self) -> io::Result<usize> {
        let end = Instant::now() + self.progress;
        while !self.succeeded {
            match self.running.wait_briefly()? {
                Some(status) if status.success() => self.succeeded = true,
                Some(status) => {
                    self.running.stderr.read_on(&mut [0; ERROR_CHUNK_BYTES])?;
                    let stderr = String::from_utf8_lossy(&self.running.stderr.start);
                    let (command, stderr) = (&self.running.command, stderr.trim());
                    let why = format!("{command} failed: {status}: {stderr}");
                    return Err(io::Error::other(why));
                }
                None if Instant::now() >= end => return Err(self.late()),
                None => {}
            }
        }
        Ok(0)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.running.stdout.file.is_some() && !buffer.is_empty() {
            self.wait()?;
        }
        let Some(file) = &mut self.running.stdout.file else { return self.finish() };
        let count = file.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            self.running.stdout.file = None;
            return self.finish();
        }
        Ok(count)
    }
}
