//! Runs a program once, confined, with limits and a deadline: for programs that read data of others, such as
//! `qemu-img`, the decompressors and `curl`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::confine::{AccessScope, Confinement};
use super::poll::{Interest, PollSet};

/// The interval of checks of the deadline, and of an end that the pipes do not show.
const LOOK: Duration = Duration::from_millis(50);
/// The size of one read, in bytes.
const CHUNK_BYTES: usize = 4096;
/// The maximum of stored error output, in bytes, for its first line.
const ERROR_BYTES: usize = 4096;

/// The result of a program.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The first line of its standard error.
    pub(crate) first_error_line: String,
}

/// A program to run once.
pub(crate) struct Program<'f> {
    /// The command with its arguments and inputs. A standard output that is not redirected must be piped.
    pub(crate) command: Command,
    /// The resources that it may access besides inherited ones.
    pub(crate) scope: AccessScope<'f>,
    /// The maximum address space, in bytes.
    pub(crate) memory_bytes: u64,
    /// The maximum size of a written file, in bytes.
    pub(crate) file_bytes: u64,
    /// The limit of its elapsed time and processor time.
    pub(crate) time: Duration,
    /// The time from SIGKILL to its end.
    pub(crate) kill: Duration,
    /// Returns whether the result is no longer needed, checked every [`LOOK`]. The program is then killed.
    pub(crate) is_unwanted: &'f dyn Fn() -> bool,
}

impl Program<'_> {
    /// Runs the program to its end; `output` receives its piped standard output.
    ///
    /// # Errors
    /// If it cannot be confined or started, or does not end in time. It is then killed.
    ///
    /// # Blocking
    /// Up to `time` and `kill`.
    pub(crate) fn run(self, output: &mut dyn FnMut(&[u8])) -> io::Result<Ended> {
        let Self { mut command, scope, memory_bytes, file_bytes, time, kill, is_unwanted } = self;
        command.env_clear().env("LC_ALL", "C").stderr(Stdio::piped());
        // Each arena of malloc takes 64 MiB of the address space, and the default is 8 for each processor.
        command.env("MALLOC_ARENA_MAX", "2");
        Confinement { scope, memory_bytes, file_bytes, cpu: time }.apply(&mut command)?;
        let mut running = Running { child: command.spawn()?, kill };
        running.watch(Instant::now() + time, output, is_unwanted)?.ok_or_else(
            || match is_unwanted() {
                true => io::Error::other("cancelled and killed"),
                false => {
                    let said = format!("timed out after {} s and was killed", time.as_secs());
                    io::Error::new(io::ErrorKind::TimedOut, said)
                }
            },
        )
    }
}

/// A running program, which is killed if it is dropped before its end.
struct Running {
    child: Child,
    kill: Duration,
}

impl Running {
    /// Waits for the end; returns `None` if the deadline passed or the result is no longer needed.
    fn watch(
        &mut self,
        deadline: Instant,
        output: &mut dyn FnMut(&[u8]),
        is_unwanted: &dyn Fn() -> bool,
    ) -> io::Result<Option<Ended>> {
        let mut stdout = self.child.stdout.take().map(|it| File::from(OwnedFd::from(it)));
        let mut stderr = self.child.stderr.take().map(|it| File::from(OwnedFd::from(it)));
        let mut said = Vec::new();
        let mut keep = |bytes: &[u8]| {
            let room = ERROR_BYTES.saturating_sub(said.len());
            said.extend(bytes.iter().take(room));
        };
        let mut ended = None;
        // Reads the outputs once more after the end, for the last bytes.
        while ended.is_none() && Instant::now() < deadline && !is_unwanted() {
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
            // Fails only if it has ended meanwhile.
            let _ = self.child.kill();
            thread::sleep(LOOK.min(self.kill));
        }
    }
}

/// An output, `None` at its end, and the function that receives it.
type Output<'a> = (&'a mut Option<File>, &'a mut dyn FnMut(&[u8]));

/// Reads once from each output that is ready within `pause`; returns whether one was.
fn drain(outputs: [Output<'_>; 2], pause: Duration) -> io::Result<bool> {
    let mut set = PollSet::default();
    let indexes = outputs.each_ref().map(|(file, _)| match file {
        Some(file) => set.add(file, Interest::Read),
        None => set.skip(),
    });
    set.wait(Some(pause))?;
    let mut chunk = [0; CHUNK_BYTES];
    let mut any_ready = false;
    for ((pipe, take), index) in outputs.into_iter().zip(indexes) {
        let Some(file) = pipe.as_mut().filter(|_| set.is_ready(index)) else { continue };
        any_ready = true;
        match file.read(&mut chunk)? {
            0 => *pipe = None,
            count => take(chunk.get(..count).unwrap_or_default()),
        }
    }
    Ok(any_ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str, time: Duration) -> Program<'static> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        Program {
            command,
            scope: AccessScope::Files(&[]),
            memory_bytes: 1 << 31,
            file_bytes: 1 << 20,
            time,
            kill: Duration::from_secs(10),
            is_unwanted: &|| false,
        }
    }

    #[test]
    fn outputs_and_status_are_those_of_the_program() {
        let mut received = Vec::new();
        let program = program("echo a; echo b >&2; echo c >&2; exit 3", Duration::from_secs(60));
        let ended = program.run(&mut |bytes| received.extend_from_slice(bytes)).unwrap();
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
            let error = program(script, Duration::from_secs(1)).run(&mut |_| {}).err().unwrap();
            assert_eq!(error.to_string(), "timed out after 1 s and was killed", "{script}");
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    }
}
