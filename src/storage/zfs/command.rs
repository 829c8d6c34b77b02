//! The `zfs` command: found, run with a deadline, with bounded output.
//!
//! Uses an absolute path, an empty environment except `LC_ALL=C`, and arguments as a list. The
//! waiting thread drains both outputs with poll(2), so that no full pipe blocks the command, and
//! checks the deadline. A command that survives SIGKILL, because the kernel blocks it, is abandoned
//! and counted.

use std::fs::File;
use std::io::{self, Read};
use std::iter;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, error};
use parking_lot::Mutex;

use crate::config::StorageLimits;
use crate::os::poll::{Interest, PollSet};
use crate::storage::zfs::former::FormerCommands;
use crate::storage::{Action, Error};

/// The directories in which distributions install the command.
const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/run/current-system/sw/bin"];
/// The interval of checks of the deadline, and of an end that the pipes do not show: another
/// process may keep the outputs of an ended command open.
const LOOK: Duration = Duration::from_millis(50);
/// The first pause between the end of both outputs and the end of the command; doubled up to
/// [`LOOK`].
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// The size of one read, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Runs `zfs`.
#[derive(Debug)]
pub(super) struct Zfs {
    /// The configured program; `None` to search for it.
    program: Option<PathBuf>,
    /// Whether the host has no store, so that no command runs.
    is_none: bool,
    pub(super) limits: StorageLimits,
    /// Commands that were killed and have not ended.
    hung: Arc<Mutex<Vec<Child>>>,
    /// The commands of a killed agent.
    former: FormerCommands,
}

/// The result of a command that ended by itself.
#[derive(Debug)]
pub(super) struct Output {
    /// The command, for errors.
    pub(super) command: String,
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    pub(super) fn failed(self) -> Error {
        let stderr = self.stderr.trim().replace('\n', "; ");
        Error::Failed { command: self.command, status: self.status.to_string(), stderr }
    }
}

impl Zfs {
    pub(super) fn new(
        program: Option<PathBuf>,
        limits: StorageLimits,
        former: FormerCommands,
    ) -> Self {
        Self { program, is_none: false, limits, hung: Arc::default(), former }
    }

    /// Returns an instance that runs nothing: every command fails with [`Error::NoStore`].
    pub(super) fn none(limits: StorageLimits) -> Self {
        Self { is_none: true, ..Self::new(None, limits, FormerCommands::none()) }
    }

    pub(super) fn is_none(&self) -> bool {
        self.is_none
    }

    /// Runs a command to its end, and returns its output with any status.
    pub(super) fn run(&self, words: &[&str], deadline: Instant) -> Result<Output, Error> {
        let limit = deadline.min(Instant::now() + self.limits.command);
        self.run_until(words, self.former.stdin(), || Instant::now() >= limit)
    }

    /// Runs a command that must succeed, and returns its standard output.
    pub(super) fn succeed(&self, words: &[&str], deadline: Instant) -> Result<String, Error> {
        let output = self.run(words, deadline)?;
        if output.status.success() { Ok(output.stdout) } else { Err(output.failed()) }
    }

    /// Runs a command until it ends, or kills it when `late` returns true.
    pub(super) fn run_until(
        &self,
        words: &[&str],
        stdin: Stdio,
        mut late: impl FnMut() -> bool,
    ) -> Result<Output, Error> {
        let begin = Instant::now();
        let mut running = self.start(words, stdin)?;
        let status = loop {
            match running.step() {
                Ok(Some(status)) => break status,
                Ok(None) if !late() => {}
                Ok(None) => {
                    return Err(Error::Late {
                        command: running.command.clone(),
                        waited: begin.elapsed(),
                    });
                }
                Err(error) => return Err(Error::io(format!("run {}", running.command), error)),
            }
        };
        let command = running.command.clone();
        debug!("{command}: {status}, {} us", begin.elapsed().as_micros());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&running.stdout.start), text(&running.stderr.start));
        if running.stdout.over {
            return Err(Error::Garbled { command, line: shorten(&stdout) });
        }
        Ok(Output { command, status, stdout, stderr })
    }

    /// Checks that no earlier command can still take effect, including those of a killed agent.
    ///
    /// # Errors
    /// [`Error::Hung`]: a command that survives SIGKILL may still take effect. [`Error::Former`]: a
    /// command of a killed agent still runs.
    ///
    /// # Blocking
    /// Up to [`StorageLimits::kill`], for commands of a killed agent.
    pub(super) fn none_hangs(&self) -> Result<(), Error> {
        let commands = self.count_hung();
        if commands > 0 {
            return Err(Error::Hung { commands });
        }
        let ended = self.former.have_ended(Instant::now() + self.limits.kill);
        match ended.map_err(|error| Error::io("lock the file of zfs commands", error))? {
            true => Ok(()),
            false => Err(Error::Former),
        }
    }

    fn count_hung(&self) -> usize {
        let mut hung = self.hung.lock();
        hung.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        hung.len()
    }

    /// Starts a command. Dropping the result before the command's end kills the command.
    pub(super) fn start(&self, words: &[&str], stdin: Stdio) -> Result<RunningCommand, Error> {
        if self.is_none {
            return Err(Error::NoStore);
        }
        let hung = self.count_hung();
        if hung >= self.limits.hung {
            return Err(Error::Hung { commands: hung });
        }
        let program = self.program.clone().or_else(find).ok_or(Error::NotInstalled)?;
        debug!("zfs {}", words.join(" "));
        // The verb and the object; all arguments would be too long for readers.
        let (verb, object) = (words.first().unwrap_or(&""), words.last().unwrap_or(&""));
        let command = format!("zfs {verb} {object}");
        let mut child = Command::new(program)
            .args(words)
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NotInstalled,
                _ => Error::io(format!("start {command}"), error),
            })?;
        let stdout = child.stdout.take().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        Ok(RunningCommand {
            command,
            stdout: Pipe::new(stdout, self.limits.output_bytes),
            stderr: Pipe::new(stderr, self.limits.error_bytes),
            child: Some(child),
            pause_at_end: FIRST_PAUSE,
            hung: Arc::clone(&self.hung),
            grace: self.limits.kill,
        })
    }
}

/// Describes a command with these arguments on the named dataset.
pub(super) fn action<W: AsRef<str>>(what: &'static str, name: &str, words: &[W]) -> Action {
    let words = words.iter().map(|word| word.as_ref().to_owned());
    let command = iter::once("zfs".to_owned()).chain(words).collect();
    Action { what, name: name.to_owned(), command, ..Action::default() }
}

fn find() -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join("zfs")).find(|path| path.is_file())
}

/// Shortens a text for errors.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A started command.
#[derive(Debug)]
pub(super) struct RunningCommand {
    /// The command, for errors.
    pub(super) command: String,
    pub(super) stdout: Pipe,
    pub(super) stderr: Pipe,
    /// `None` once the command has ended or was abandoned.
    child: Option<Child>,
    pause_at_end: Duration,
    hung: Arc<Mutex<Vec<Child>>>,
    grace: Duration,
}

impl RunningCommand {
    /// Reads output for a short while; returns the status once the command has ended.
    fn step(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.stdout.file.is_none() && self.stderr.file.is_none() {
            return self.wait_briefly();
        }
        if self.drain(LOOK)? {
            return Ok(None);
        }
        let ended = self.ended()?;
        if ended.is_some() {
            // Reads output that arrived between the two checks.
            self.drain(Duration::ZERO)?;
        }
        Ok(ended)
    }

    /// Reads once from each ready output; returns whether one was ready within `pause`.
    fn drain(&mut self, pause: Duration) -> io::Result<bool> {
        let mut set = PollSet::default();
        let stdout = self.stdout.add_to(&mut set);
        let stderr = self.stderr.add_to(&mut set);
        set.wait(Some(pause))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        for (pipe, index) in [(&mut self.stdout, stdout), (&mut self.stderr, stderr)] {
            if set.is_ready(index) {
                pipe.read_on(&mut chunk)?;
            }
        }
        Ok(set.is_ready(stdout) || set.is_ready(stderr))
    }

    /// Returns the status of a command that closed its outputs, and so ends soon.
    pub(super) fn wait_briefly(&mut self) -> io::Result<Option<ExitStatus>> {
        let ended = self.ended()?;
        if ended.is_none() {
            thread::sleep(self.pause_at_end);
            self.pause_at_end = (self.pause_at_end * 2).min(LOOK);
        }
        Ok(ended)
    }

    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Err(io::ErrorKind::NotFound.into()) };
        let ended = child.try_wait()?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // Fails only if the command has ended meanwhile.
        let _ = child.kill();
        let end = Instant::now() + self.grace;
        self.pause_at_end = FIRST_PAUSE;
        while Instant::now() < end {
            if !matches!(self.wait_briefly(), Ok(None)) {
                return;
            }
        }
        if let Some(child) = self.child.take() {
            error!("{}: process {} does not end after SIGKILL", self.command, child.id());
            self.hung.lock().push(child);
        }
    }
}

/// One output of a command.
#[derive(Debug)]
pub(super) struct Pipe {
    /// `None` after its end.
    pub(super) file: Option<File>,
    /// The first bytes of the output, up to the maximum.
    pub(super) start: Vec<u8>,
    max: usize,
    /// Whether the output was longer than the maximum.
    over: bool,
}

impl Pipe {
    fn new(fd: Option<OwnedFd>, max: usize) -> Self {
        Self { file: fd.map(File::from), start: Vec::new(), max, over: false }
    }

    /// Adds the pipe to the set, and returns its index.
    pub(super) fn add_to(&self, set: &mut PollSet) -> usize {
        match &self.file {
            Some(file) => set.add(file, Interest::Read),
            None => set.skip(),
        }
    }

    /// Reads once; discards bytes above the maximum.
    pub(super) fn read_on(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let count = file.read(chunk)?;
        if count == 0 {
            self.file = None;
        }
        let stored = count.min(self.max - self.start.len());
        self.start.extend_from_slice(&chunk[..stored]);
        self.over |= stored < count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unkillable_commands_are_counted_and_block_new_ones() {
        let limits = StorageLimits { hung: 2, ..StorageLimits::default() };
        let zfs = Zfs::new(Some(PathBuf::from("/bin/echo")), limits, FormerCommands::none());
        let soon = Instant::now() + Duration::from_secs(20);
        // Running children stand for commands that survive SIGKILL.
        let sleeper = || Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        zfs.hung.lock().push(sleeper());
        assert_eq!(zfs.succeed(&["list", "tank"], soon).unwrap(), "list tank\n");
        zfs.hung.lock().push(sleeper());
        let refused = zfs.succeed(&["list", "tank"], soon).unwrap_err();
        assert!(matches!(refused, Error::Hung { commands: 2 }), "{refused:?}");
        for child in zfs.hung.lock().iter_mut() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(zfs.succeed(&["list"], soon).is_ok(), "the kernel let go of them");
        assert!(zfs.hung.lock().is_empty());
    }
}
