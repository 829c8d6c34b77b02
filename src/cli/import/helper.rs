//! The programs that read a file which somebody else wrote: `qemu-img` and the decompressors, confined and
//! with limits.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::fixed::{
    IMPORT_MEMORY_BYTES, IMPORT_RATE_BYTES, IMPORT_TIME_BASE, IMPORT_TIME_MAX,
};
use crate::os::confine::{Access, Confinement};
use crate::os::poll::{Interest, PollSet};

/// How often the deadline is looked at, and an end that the pipes do not show.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 4096;
/// What is kept of an error output, for the first line of it.
const ERROR_BYTES: usize = 4096;

/// How long a program may take that reads or writes so many bytes, by the clock and of the processor.
pub(super) fn time_for(bytes: u64) -> Duration {
    let scaled = Duration::from_secs(bytes / IMPORT_RATE_BYTES);
    IMPORT_TIME_BASE.saturating_add(scaled).min(IMPORT_TIME_MAX)
}

/// How a program ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// The first line of its standard error.
    pub(super) first_error_line: String,
}

/// A program to run once.
pub(super) struct Helper<'f> {
    /// With its arguments and inputs. A standard output that is not taken elsewhere has to be piped.
    pub(super) command: Command,
    /// What it may open beside what it inherits.
    pub(super) files: &'f [(&'f File, Access)],
    /// The largest file that it may write, in bytes.
    pub(super) file_bytes: u64,
    /// The limit of its time, by the clock and of the processor.
    pub(super) time: Duration,
    /// From SIGKILL to its end.
    pub(super) kill: Duration,
}

impl Helper<'_> {
    /// Runs the program to its end; `output` receives what it prints on a piped standard output.
    ///
    /// # Errors
    /// When it cannot be confined or started, or does not end in time. It is killed then.
    ///
    /// # Blocking
    /// Up to `time` and `kill`.
    pub(super) fn run(self, output: &mut dyn FnMut(&[u8])) -> io::Result<Ended> {
        let Self { mut command, files, file_bytes, time, kill } = self;
        command.env_clear().env("LC_ALL", "C").stderr(Stdio::piped());
        // Each arena of malloc's takes 64 MiB of the address space, and there are 8 for each processor.
        command.env("MALLOC_ARENA_MAX", "2");
        let memory_bytes = IMPORT_MEMORY_BYTES;
        let limits = Confinement { files, memory_bytes, file_bytes, cpu: time };
        limits.apply(&mut command)?;
        let mut running = Running { child: command.spawn()?, kill };
        running.watch(Instant::now() + time, output)?.ok_or_else(|| {
            let said = format!("it did not end within {} s and was killed", time.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, said)
        })
    }
}

/// A program that runs; it is killed when it is dropped before its end.
struct Running {
    child: Child,
    kill: Duration,
}

impl Running {
    /// `None` where it did not end by the deadline.
    fn watch(
        &mut self,
        deadline: Instant,
        output: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<Ended>> {
        let mut stdout = self.child.stdout.take().map(|it| File::from(OwnedFd::from(it)));
        let mut stderr = self.child.stderr.take().map(|it| File::from(OwnedFd::from(it)));
        let mut said = Vec::new();
        let mut keep = |bytes: &[u8]| {
            let room = ERROR_BYTES.saturating_sub(said.len());
            said.extend(bytes.iter().take(room));
        };
        let mut ended = None;
        // One more round after the end, for what it printed last.
        while ended.is_none() && Instant::now() < deadline {
            ended = self.child.try_wait()?;
            let pause = if ended.is_some() { Duration::ZERO } else { LOOK };
            while drain([(&mut stdout, &mut *output), (&mut stderr, &mut keep)], pause)? {
                if Instant::now() >= deadline {
                    break;
                }
            }
        }
        let said = String::from_utf8_lossy(&said);
        let said = said.lines().next().unwrap_or_default().to_owned();
        Ok(ended.map(|status| Ended { status, first_error_line: said }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let end = Instant::now() + self.kill;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            // Fails only when it has ended meanwhile.
            let _ = self.child.kill();
            thread::sleep(LOOK.min(self.kill));
        }
    }
}

/// An output, `None` at its end, and the function that receives it.
type Output<'a> = (&'a mut Option<File>, &'a mut dyn FnMut(&[u8]));

/// Reads once from each output that has something within `pause`; whether one had.
fn drain(outputs: [Output<'_>; 2], pause: Duration) -> io::Result<bool> {
    let mut set = PollSet::default();
    let indexes = outputs.each_ref().map(|(file, _)| match file {
        Some(file) => set.add(file, Interest::Read),
        None => set.skip(),
    });
    set.wait(Some(pause))?;
    let mut chunk = [0; CHUNK_BYTES];
    let mut had = false;
    for ((pipe, take), index) in outputs.into_iter().zip(indexes) {
        let Some(file) = pipe.as_mut().filter(|_| set.is_ready(index)) else { continue };
        had = true;
        match file.read(&mut chunk)? {
            0 => *pipe = None,
            count => take(chunk.get(..count).unwrap_or_default()),
        }
    }
    Ok(had)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(script: &str, time: Duration) -> Helper<'static> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        Helper { command, files: &[], file_bytes: 1 << 20, time, kill: Duration::from_secs(10) }
    }

    #[test]
    fn outputs_and_status_are_those_of_the_program() {
        let mut received = Vec::new();
        let helper = helper("echo a; echo b >&2; echo c >&2; exit 3", Duration::from_secs(60));
        let ended = helper.run(&mut |bytes| received.extend_from_slice(bytes)).unwrap();
        assert_eq!(
            (ended.status.code(), ended.first_error_line.as_str(), &received[..]),
            (Some(3), "b", &b"a\n"[..])
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let begin = Instant::now();
        for script in [
            "while :; do :; done",
            "exec >&- 2>&-; while :; do :; done",
            "yes() { while :; do echo y; done; }; yes",
        ] {
            let error = helper(script, Duration::from_secs(1)).run(&mut |_| {}).err().unwrap();
            assert_eq!(error.to_string(), "it did not end within 1 s and was killed", "{script}");
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    }

    #[test]
    fn time_grows_with_the_size_up_to_a_bound() {
        assert_eq!(time_for(0), IMPORT_TIME_BASE);
        let bytes = 100 * IMPORT_RATE_BYTES;
        assert_eq!(time_for(bytes), IMPORT_TIME_BASE + Duration::from_secs(100));
        assert_eq!(time_for(u64::MAX), IMPORT_TIME_MAX);
    }
}
