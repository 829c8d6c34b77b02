//! The `zfs` commands of a former agent: the command of a killed agent continues, and can still make a volume while the
//! next agent recovers.

use std::fs::File;
use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::os::files;

/// The interval of attempts to lock.
const LOOK: Duration = Duration::from_millis(50);

/// Each command has an empty file as its standard input, on which the agent that started it holds a shared lock
/// (`flock(2)`). The command keeps that lock after the agent's end. So the file can be locked exclusively only if no
/// command of another agent runs.
#[derive(Debug)]
pub(super) struct FormerCommands {
    /// `None` for a program without a state directory.
    file: Option<File>,
    have_ended: AtomicBool,
}

impl FormerCommands {
    /// Tracks the commands of former agents, which hold locks on this file.
    ///
    /// # Errors
    /// If the file system has no locks.
    pub(super) fn new(file: File) -> io::Result<Self> {
        files::lock_shared(&file)?;
        Ok(Self { file: Some(file), have_ended: AtomicBool::new(false) })
    }

    /// Tracks no commands.
    pub(super) fn none() -> Self {
        Self { file: None, have_ended: AtomicBool::new(true) }
    }

    /// Returns the standard input for a command that reads none.
    pub(super) fn stdin(&self) -> Stdio {
        let copy = self.file.as_ref().and_then(|file| file.try_clone().ok());
        copy.map_or_else(Stdio::null, Stdio::from)
    }

    /// Waits until the commands of former agents have ended, at most until `deadline`; returns whether they have.
    ///
    /// # Errors
    /// If the file system has no locks.
    pub(super) fn have_ended(&self, deadline: Instant) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(true) };
        while !self.have_ended.load(Ordering::Relaxed) {
            // The kernel releases the shared lock even if it refuses the exclusive one, so the agent takes it again. No
            // other agent can lock the file meanwhile, because this one holds the journal's lock.
            let is_alone = files::lock(file);
            files::lock_shared(file)?;
            if is_alone? {
                self.have_ended.store(true, Ordering::Relaxed);
            } else if Instant::now() >= deadline {
                return Ok(false);
            } else {
                thread::sleep(LOOK);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::process::{self, Command};

    use super::*;

    #[test]
    fn a_command_of_a_killed_agent_is_waited_for() {
        let path = env::temp_dir().join(format!("mistify-former-{}", process::id()));
        fs::write(&path, "").unwrap();
        let open = || FormerCommands::new(File::open(&path).unwrap()).unwrap();
        let soon = || Instant::now() + Duration::from_secs(60);
        let killed = open();
        let mut command = Command::new("sleep").arg("600").stdin(killed.stdin()).spawn().unwrap();
        assert!(killed.have_ended(soon()).unwrap(), "its own command does not count");
        drop(killed);
        let next = open();
        assert!(!next.have_ended(Instant::now()).unwrap());
        // Another agent that was killed early: the next one waits for the first one's command, too.
        drop(next);
        let last = open();
        assert!(!last.have_ended(Instant::now()).unwrap());
        command.kill().unwrap();
        command.wait().unwrap();
        assert!(last.have_ended(soon()).unwrap());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn without_a_state_directory_nothing_is_awaited() {
        assert!(FormerCommands::none().have_ended(Instant::now()).unwrap());
    }
}
