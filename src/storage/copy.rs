//! Sparse copies of raw disks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::os::disk::{begin_write_out, next_data};

/// The size of one read, in bytes.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Copies the first `bytes` of `from` to the same offsets in `to`, which must read as zeroes. Skips
/// holes and blocks of zeroes. Calls `step` with the progress in bytes; an error from `step` ends
/// the copy.
///
/// # Blocking
/// Blocks as long as the disks take.
pub(crate) fn copy(
    from: &File,
    to: &File,
    bytes: u64,
    step: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        let Some(data) = next_data(from, at)? else { break };
        at = data.start;
        let end = data.end.min(bytes);
        while at < end {
            let chunk = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let chunk = &mut buffer[..chunk];
            let length = u64::try_from(chunk.len()).map_err(io::Error::other)?;
            from.read_exact_at(chunk, at)?;
            if chunk.iter().any(|byte| *byte != 0) {
                to.write_all_at(chunk, at)?;
                // Without this, the sync at the end takes as long as the copy, and delays other guests meanwhile.
                let _ = begin_write_out(to, at..at + length);
            }
            at += length;
            step(at)?;
        }
    }
    step(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::{env, fs, process};

    use super::*;

    fn file(name: &str) -> (PathBuf, File) {
        let path = env::temp_dir().join(format!("mistify-copy-{name}-{}", process::id()));
        let mut options = File::options();
        let file = options.create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        (path, file)
    }

    #[test]
    fn a_copy_is_equal_and_sparse() {
        let (from_path, from) = file("from");
        let (to_path, to) = file("to");
        let size = 20 * 1024 * 1024 + 7;
        from.set_len(size).unwrap();
        to.set_len(size).unwrap();
        from.write_all_at(&[1; 5000], 0).unwrap();
        from.write_all_at(&[0; 2 * CHUNK_BYTES], 4 << 20).unwrap();
        from.write_all_at(b"end", size - 3).unwrap();
        let mut seen = Vec::new();
        copy(&from, &to, size, &mut |at| {
            seen.push(at);
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read(&from_path).unwrap(), fs::read(&to_path).unwrap());
        assert!(to.metadata().unwrap().blocks() < from.metadata().unwrap().blocks());
        assert!(seen.is_sorted() && seen.last() == Some(&size), "{seen:?}");

        let stopped = copy(&from, &to, size, &mut |_| Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::TimedOut);
        fs::remove_file(from_path).unwrap();
        fs::remove_file(to_path).unwrap();
    }
}
