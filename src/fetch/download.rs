//! A download, from the draft that it goes into to content that nobody else can change.

use std::error::Error;
use std::fs::File;
use std::io::{self, Seek};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::order::{Order, ask};
use crate::config::fixed::{FETCH_ORDER, IMPORT_MEMORY_BYTES};
use crate::import::{self, time_for};
use crate::os::confine::Reach;
use crate::os::disk::room;
use crate::os::files::{self, Settled};
use crate::os::program::{Ended, Program};
use crate::storage::Volumes;

/// Part of every distribution's coreutils.
const SHA256SUM: &str = "/usr/bin/sha256sum";
/// The hexadecimal digits of a SHA-256 sum.
const SUM_DIGITS: usize = 64;
/// Of the space that is free for a draft, the tenths that it may take.
const TENTHS: u64 = 9;

/// Fetches what is at a URL into a draft of the store. `service` is the host that may have a private address and
/// speak http.
///
/// # Errors
/// What keeps it from coming, in one line; when there is no place for a draft. Nothing is left then.
///
/// # Blocking
/// As [`ask`].
pub fn download(
    volumes: &dyn Volumes,
    url: String,
    service: Option<String>,
) -> Result<File, Box<dyn Error>> {
    let directory = volumes.drafts()?.unwrap_or_else(files::temporary);
    let at = |error: io::Error| format!("{}: {error}", directory.display());
    let draft = files::nameless(&directory).map_err(at)?;
    let bytes_max = room(&directory).map_err(at)?.free_bytes / 10 * TENTHS;
    ask(&Order { url, service, bytes_max }, &draft)?;
    Ok(own(draft)?)
}

/// The content, when who fetched it can change it no more.
fn own(draft: File) -> io::Result<File> {
    match files::settled(draft, FETCH_ORDER)? {
        Settled::Alone(content) => Ok(content),
        Settled::Unknown(content) => import::copy_aside(&content),
        Settled::Open => Err(io::Error::other("who fetched it keeps it open")),
    }
}

/// The SHA-256 sum of a file in hexadecimal digits, by `sha256sum`.
///
/// # Errors
/// When that program is not there, fails, or says something else.
///
/// # Blocking
/// As long as the file takes to be read, with the limits of an import.
pub fn sha256(content: &File, kill: Duration) -> Result<String, Box<dyn Error>> {
    let mut input = content.try_clone()?;
    input.rewind()?;
    let bytes = content.metadata()?.len();
    let mut command = Command::new(SHA256SUM);
    command.stdin(input).stdout(Stdio::piped());
    let program = Program {
        command,
        reach: Reach::Files(&[]),
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
    let lacks = |error| format!("{SHA256SUM} (Debian's coreutils): {error}");
    let Ended { status, first_error_line } = ended.map_err(lacks)?;
    (&*content).rewind()?;
    match String::from_utf8(said) {
        Ok(sum) if status.success() && is_sum(&sum) => Ok(sum),
        _ => Err(format!("{SHA256SUM}: {status}: {first_error_line}").into()),
    }
}

/// Whether a text is a SHA-256 sum in hexadecimal digits.
pub fn is_sum(text: &str) -> bool {
    text.len() == SUM_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_draft_is_its_owners_when_no_other_can_write() {
        let draft = files::nameless(&env::temp_dir()).unwrap();
        draft.write_all_at(b"content", 0).unwrap();
        let other = draft.try_clone().unwrap();
        let patience = Duration::from_millis(50);
        assert!(matches!(files::settled(draft, patience).unwrap(), Settled::Open));
        let Settled::Alone(mut reader) = files::settled(other, patience).unwrap() else {
            panic!("nobody else has it")
        };
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(reader.write_all_at(b"x", 0).is_err());
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
