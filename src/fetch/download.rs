//! Downloads into a draft, whose content nobody else can change afterwards.

use std::error::Error;
use std::fs::File;
use std::io::{self, Seek};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::FetchRequest;
use super::request::{Cancellation, ask};
use crate::config::fixed::{FETCH_ORDER, IMPORT_MEMORY_BYTES};
use crate::import::{self, time_for};
use crate::os::confine::AccessScope;
use crate::os::disk::room;
use crate::os::files::{self, WriterState};
use crate::os::program::{Ended, Program};
use crate::storage::{MIB, Volumes};

/// Part of every distribution's coreutils.
const SHA256SUM: &str = "/usr/bin/sha256sum";
/// The hexadecimal digits of a SHA-256 sum.
const SUM_DIGITS: usize = 64;
/// The minimum size of a download: image sizes are in MiB.
const BYTES_MIN: u64 = MIB;

/// A download into a store's directory of drafts.
pub struct Download<'d> {
    /// The store.
    pub volumes: &'d dyn Volumes,
    /// The image service of this process: a host, and its port if that is not 80.
    pub service: Option<&'d str>,
    /// The number of concurrent downloads, which share the free space.
    pub sharers: u64,
    /// The deadline for querying the store's free space.
    pub deadline: Instant,
    /// Cancels the download.
    pub cancellation: &'d Cancellation,
}

impl Download<'_> {
    /// Fetches a URL into a draft.
    ///
    /// # Errors
    /// The cause of the failure, in one line; also if the draft does not fit. No draft remains.
    ///
    /// # Blocking
    /// As [`ask`].
    pub fn run(&self, url: String) -> Result<File, Box<dyn Error>> {
        let (directory, bytes_max) = self.room()?;
        let draft = files::nameless(&directory)
            .map_err(|error| format!("cannot create a file in {}: {error}", directory.display()))?;
        ask(&FetchRequest { url, bytes_max }, self.service, &draft, self.cancellation)?;
        Ok(own(draft)?)
    }

    /// Returns the directory of drafts, and the maximum size of a draft there.
    fn room(&self) -> Result<(PathBuf, u64), Box<dyn Error>> {
        let (directory, free_bytes, usable_bytes) = match self.volumes.drafts()? {
            Some(directory) => {
                let free_bytes = self.volumes.usage(self.deadline)?.free_bytes;
                // The image is a copy on the same file system as the draft.
                (directory, free_bytes, free_bytes / 2)
            }
            None => {
                let directory = files::temporary();
                let room = room(&directory).map_err(|error| {
                    format!("cannot read the free space of {}: {error}", directory.display())
                })?;
                (directory, room.free_bytes, room.free_bytes / 10 * 9)
            }
        };
        match usable_bytes / self.sharers.max(1) {
            bytes_max @ BYTES_MIN.. => Ok((directory, bytes_max)),
            _ => {
                let name = directory.display();
                Err(format!("cannot store an image in {name}: {free_bytes} bytes are free").into())
            }
        }
    }
}

/// Returns the content, after the fetcher can no longer change it.
fn own(draft: File) -> io::Result<File> {
    match files::writer_state(draft, FETCH_ORDER)? {
        WriterState::Alone(content) => Ok(content),
        WriterState::Unknown(content) => import::copy_aside(&content),
        WriterState::Open => Err(io::Error::other("the fetcher still has the file open")),
    }
}

/// Computes the SHA-256 sum of a file in hexadecimal digits with `sha256sum`.
///
/// # Errors
/// If that program does not exist, fails, or prints something else.
///
/// # Blocking
/// As long as reading the file takes, with the limits of an import.
pub fn sha256(content: &File, kill: Duration) -> Result<String, Box<dyn Error>> {
    let mut input = content.try_clone()?;
    input.rewind()?;
    let bytes = content.metadata()?.len();
    let mut command = Command::new(SHA256SUM);
    command.stdin(input).stdout(Stdio::piped());
    let program = Program {
        command,
        scope: AccessScope::Files(&[]),
        memory_bytes: IMPORT_MEMORY_BYTES,
        file_bytes: 0,
        time: time_for(bytes),
        kill,
        is_unwanted: &|| false,
    };
    let mut said = Vec::new();
    let ended = program.run(&mut |bytes| {
        let room = SUM_DIGITS.saturating_sub(said.len());
        said.extend(bytes.iter().take(room));
    });
    let cannot_run = |error| format!("cannot run {SHA256SUM} (package coreutils): {error}");
    let Ended { status, first_error_line } = ended.map_err(cannot_run)?;
    (&*content).rewind()?;
    match String::from_utf8(said) {
        Ok(sum) if status.success() && is_sum(&sum) => Ok(sum),
        _ => Err(format!("{SHA256SUM} failed: {status}: {first_error_line}").into()),
    }
}

/// Returns whether a text is a SHA-256 sum in hexadecimal digits.
pub fn is_sum(text: &str) -> bool {
    text.len() == SUM_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::{env, fs};

    use super::*;
    use crate::config::{HostConfig, StorageLimits, Store};
    use crate::os::resolve::TrustedUsers;
    use crate::storage::{self, AdoptionRule, Space, VolumeSpec};

    #[test]
    fn a_draft_is_its_owners_when_no_other_can_write() {
        let draft = files::nameless(&env::temp_dir()).unwrap();
        draft.write_all_at(b"content", 0).unwrap();
        let other = draft.try_clone().unwrap();
        assert!(matches!(files::writer_state(draft, Duration::ZERO).unwrap(), WriterState::Open));
        // A child process of a concurrent test also has the file open until its exec.
        let WriterState::Alone(mut reader) = files::writer_state(other, FETCH_ORDER).unwrap()
        else {
            panic!("nobody else has it")
        };
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(reader.write_all_at(b"x", 0).is_err());
    }

    /// Returns a directory store of this name, and its directory.
    fn store(name: &str) -> (Arc<dyn Volumes>, PathBuf) {
        let root = env::temp_dir().join(format!("mistify-{name}-{}", std::process::id()));
        crate::os::own::make_directory(&root).unwrap();
        let host = HostConfig { store: Store::Directory(root.clone()), ..HostConfig::default() };
        (storage::open(&host, &StorageLimits::default(), TrustedUsers::own(), None).unwrap(), root)
    }

    fn deadline() -> Instant {
        Instant::now() + FETCH_ORDER
    }

    /// Returns the maximum size of one of `sharers` downloads.
    fn room_of_one(volumes: &dyn Volumes, sharers: u64) -> Result<u64, String> {
        let (deadline, cancellation) = (deadline(), &Cancellation::default());
        let download = Download { volumes, service: None, sharers, deadline, cancellation };
        download.room().map(|(_, bytes)| bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn drafts_leave_room_for_copies_and_promised_bytes() {
        let (volumes, root) = store("room");
        volumes.prepare(deadline()).unwrap();
        let free_bytes = volumes.usage(deadline()).unwrap().free_bytes;
        let wanted = VolumeSpec {
            volume: volumes.pool().dataset("guests/web/disk-0").unwrap(),
            image: None,
            size_mib: free_bytes / 2 / MIB,
            space: Space::Reserved,
            owner: None,
            maker: None,
            adoption: AdoptionRule::Any,
            unmarked: false,
            content: None,
        };
        let before = room_of_one(&*volumes, 1).unwrap();
        volumes.provision(&wanted, deadline()).unwrap();
        let after = [1, 2].map(|sharers| room_of_one(&*volumes, sharers).unwrap());
        fs::remove_dir_all(root).unwrap();
        // Half, a quarter and an eighth of the free space. Other processes write to this file system meanwhile.
        for (found, part) in [(before, 2), (after[0], 4), (after[1], 8)] {
            let expected = free_bytes / part;
            assert!(found.abs_diff(expected) < expected / 4, "{found} is not {expected}");
        }
    }

    #[test]
    fn too_little_room_names_the_directory() {
        let (volumes, root) = store("no-room");
        let error = room_of_one(&*volumes, u64::MAX).unwrap_err();
        let begin = format!("cannot store an image in {}/images: ", root.display());
        assert!(error.starts_with(&begin) && error.ends_with(" bytes are free"), "{error}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_sum_is_that_of_the_whole_file() {
        let file = files::nameless(&env::temp_dir()).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        // FIPS 180-2, appendix B.1.
        let sum = sha256(&file, Duration::from_secs(10)).unwrap();
        assert_eq!(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(is_sum(&sum) && !is_sum(&sum[1..]) && !is_sum(&sum.replace('b', "g")));
    }
}
