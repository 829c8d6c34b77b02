//! Files of the kernel that are read repeatedly. They stay open, since opening one takes four times
//! as long as reading it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::str;

use crate::config::fixed::KERNEL_FILES;

/// More than the length of these texts: up to 17 numbers.
const BYTES_MAX: usize = 512;

/// The open files, by path.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<String, Open>);

#[derive(Debug)]
struct Open {
    file: File,
    /// Whether the file was read since the last `close_unused`.
    is_used: bool,
}

impl Files {
    /// Returns the result of `parse` for the current content of a file; `None` if the file does not
    /// exist. A file that was removed, with another in its place, can no longer be read: then the
    /// other is opened.
    pub(super) fn read<T>(&mut self, path: &str, parse: impl Fn(&str) -> T) -> Option<T> {
        let mut bytes = [0; BYTES_MAX];
        if let Some(open) = self.0.get_mut(path) {
            open.is_used = true;
            if let Ok(text) = read(&open.file, &mut bytes) {
                return Some(parse(text));
            }
            self.0.remove(path);
        }
        let file = File::open(path).ok()?;
        let parsed = parse(read(&file, &mut bytes).ok()?);
        if self.0.len() < KERNEL_FILES {
            self.0.insert(path.to_owned(), Open { file, is_used: true });
        }
        Some(parsed)
    }

    /// Closes the files that were not read since the last call of this.
    pub(super) fn close_unused(&mut self) {
        self.0.retain(|_, open| std::mem::take(&mut open.is_used));
    }
}

/// Reads a file from its start: the kernel returns the whole of these texts in one read.
fn read<'b>(file: &File, bytes: &'b mut [u8; BYTES_MAX]) -> io::Result<&'b str> {
    let length = file.read_at(bytes, 0)?;
    let text = bytes.get(..length).unwrap_or_default();
    str::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn open_file_returns_new_content() {
        let mut files = Files::default();
        let mut runs = || -> u64 {
            let run_ns = |text: &str| text.split(' ').next().unwrap().parse().unwrap();
            files.read("/proc/thread-self/schedstat", run_ns).unwrap()
        };
        let before = runs();
        let spin = (0..1_000_000_u64).fold(0, |sum: u64, n| std::hint::black_box(sum ^ n));
        assert!(runs() > before, "{spin}");
        assert_eq!(files.0.len(), 1);
    }

    #[test]
    fn missing_file_is_reported_and_not_kept_open() {
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let path = format!("/proc/{}/schedstat", child.id());
        let mut files = Files::default();
        assert!(files.read(&path, str::len).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((files.read(&path, str::len), files.0.len()), (None, 0));
    }

    #[test]
    fn unused_files_are_closed_and_open_files_bounded() {
        let mut files = Files::default();
        let path = |number| format!("/proc/self/{}schedstat", "./".repeat(number));
        for number in 0..KERNEL_FILES + 10 {
            assert!(files.read(&path(number), str::len).is_some());
        }
        assert_eq!(files.0.len(), KERNEL_FILES);
        files.close_unused();
        files.read(&path(0), str::len);
        files.close_unused();
        assert_eq!(files.0.len(), 1);
    }
}
