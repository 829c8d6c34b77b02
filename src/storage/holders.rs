//! Finds the processes that have a device or file open, from `/proc`, and waits for them to close it.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use crate::os::watch::{Event, Watch};

/// The interval of checks without an event: a process may use another node of the same device.
const LOOK: Duration = Duration::from_millis(100);

/// Returns the other processes that have the file behind `path` open, as in `qemu-system-x86 (4711)`. Without root's
/// rights, only processes of the same user are visible.
pub(super) fn holders(path: &Path) -> Vec<String> {
    let Ok(wanted) = fs::metadata(path) else { return Vec::new() };
    let wanted = Inode::of(&wanted);
    let own = std::process::id().to_string();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        let is_process = pid.bytes().all(|byte| byte.is_ascii_digit());
        if !is_process || pid == own || is_starting(&process.path(), &own) {
            continue;
        }
        // A process may end, or belong to another user: then it is not visible.
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut opened = files.flatten().filter_map(|file| fs::metadata(file.path()).ok());
        if opened.any(|file| Inode::of(&file) == wanted) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} ({pid})", name.trim()));
        }
    }
    found
}

/// Returns whether a process is a child of the process `own` before its exec. Until then it has all files of its
/// parent, and its command line.
fn is_starting(process: &Path, own: &str) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // proc_pid_stat(5): the name in parentheses, which may contain blanks, then the state and the parent.
    let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
    let command = |process: &Path| fs::read(process.join("cmdline")).ok();
    parent == Some(own) && command(process) == command(Path::new("/proc/self"))
}

/// Waits until no other process has the file open; returns the processes that still do at the end of `patience`.
pub(super) fn wait_closed(path: &Path, patience: Instant) -> Result<(), Vec<String>> {
    loop {
        let who = holders(path);
        if who.is_empty() {
            return Ok(());
        }
        if Instant::now() >= patience {
            return Err(who);
        }
        wait_a_moment(Some(path), patience);
    }
}

/// Waits briefly for another process to close the file.
pub(super) fn wait_a_moment(path: Option<&Path>, patience: Instant) {
    let limit = LOOK.min(patience.saturating_duration_since(Instant::now()));
    let outcome = Watch::new().and_then(|watch| {
        if let Some(path) = path {
            // A removed file cannot be watched; then this is a pause.
            let _ = watch.add(path, Event::Close);
        }
        watch.wait(limit)
    });
    if let Err(error) = outcome {
        warn!("cannot watch {path:?}: {error}");
        thread::sleep(limit);
    }
}

/// The identity of an opened file: for a device its number, because guests' emulators have their own nodes in a private
/// `/dev`.
#[derive(PartialEq, Eq)]
enum Inode {
    Device(u64),
    File(u64, u64),
}

impl Inode {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(metadata.rdev())
        } else {
            Self::File(metadata.dev(), metadata.ino())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};
    use std::{env, process};

    use super::*;

    #[test]
    fn a_process_that_has_the_file_open_is_named() {
        let path = env::temp_dir().join(format!("mistify-holders-{}", process::id()));
        let file = File::create(&path).unwrap();
        assert_eq!(holders(&path), [""; 0], "this process does not count");
        let mut child = Command::new("/bin/cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(file))
            .spawn()
            .unwrap();
        assert_eq!(holders(&path), [format!("cat ({})", child.id())]);
        assert!(wait_closed(&path, Instant::now()).is_err());
        let stdin = child.stdin.take();
        let other = thread::spawn(move || drop(stdin));
        assert_eq!(wait_closed(&path, Instant::now() + Duration::from_secs(20)), Ok(()));
        other.join().unwrap();
        child.wait().unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(holders(&path), [""; 0]);
    }
}
