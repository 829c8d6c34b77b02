//! Runs `qemu-img` with a qcow2 file as its standard input, and no access to other files.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Progress, time_for};
use crate::config::fixed::IMPORT_MEMORY_BYTES;
use crate::os::confine::{Access, AccessScope};
use crate::os::disk::open_device;
use crate::os::program::{Ended, Program};

/// Part of every distribution's qemu.
const QEMU_IMG: &str = "/usr/bin/qemu-img";
/// The maximum of stored output from a check, in bytes: a check prints some 500.
const REPORT_BYTES: usize = 64 * 1024;
/// Opens the descriptor of standard input again: the same file, whatever its path refers to now. The driver `file`
/// accepts no other protocol, and a backing file in the header is not opened.
const SOURCE: &str = r#"json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"/proc/self/fd/0"}}"#;

/// An opened qcow2 file.
pub(super) struct Qcow2<'f> {
    pub(super) content: &'f File,
    /// The virtual size of the disk.
    pub(super) size_bytes: u64,
    /// The time from SIGKILL to the end of `qemu-img`.
    pub(super) kill: Duration,
}

impl Qcow2<'_> {
    /// Checks the file (`qemu-img check`): an incomplete download has clusters beyond its end, which would read as
    /// zeroes.
    ///
    /// # Errors
    /// The fault of the file, or the error of `qemu-img`.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut report = Vec::new();
        let arguments = ["check", "--output=json", SOURCE].map(Path::new);
        let ended = self.run(&arguments, None, &mut |bytes| {
            let room = REPORT_BYTES.saturating_sub(report.len());
            report.extend(bytes.iter().take(room));
        });
        let cannot_run = |error| format!("cannot run {QEMU_IMG} (package qemu-utils): {error}");
        let Ended { status, first_error_line } = ended.map_err(cannot_run)?;
        // 3: leaked clusters, which damage no data.
        if matches!(status.code(), Some(0 | 3)) {
            return Ok(());
        }
        let found: Value = serde_json::from_slice(&report).unwrap_or_default();
        let corruptions = found["corruptions"].as_u64().unwrap_or_default();
        let errors = found["check-errors"].as_u64().unwrap_or_default();
        Err(match corruptions.saturating_add(errors) {
            0 => format!("{QEMU_IMG} check failed: {status}: {first_error_line}"),
            found => format!("the qcow2 file is damaged or incomplete: {found} errors"),
        })
    }

    /// Writes the disk to a device or file of its size that contains only zeroes.
    ///
    /// # Errors
    /// The error of `qemu-img`, or of starting it.
    pub(super) fn convert(&self, target: &Path, progress: &Progress<'_>) -> io::Result<()> {
        let to = open_device(File::options().read(true).write(true), target)?;
        let arguments =
            ["convert", "-p", "-n", "--target-is-zero", "-O", "raw", SOURCE].map(Path::new);
        let mut percents = Percents { word: Vec::new(), progress };
        let arguments = [&arguments[..], &[target]].concat();
        let ended = self.run(&arguments, Some(&to), &mut |bytes| percents.take(bytes))?;
        if ended.status.success() {
            return Ok(());
        }
        let Ended { status, first_error_line } = ended;
        Err(io::Error::other(format!("{QEMU_IMG} convert failed: {status}: {first_error_line}")))
    }

    fn run(
        &self,
        arguments: &[&Path],
        target: Option<&File>,
        output: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Ended> {
        let mut command = Command::new(QEMU_IMG);
        let stdin = self.content.try_clone()?;
        command.args(arguments).stdin(stdin).stdout(Stdio::piped());
        let mut files = vec![(self.content, Access::Read)];
        files.extend(target.map(|target| (target, Access::ReadWrite)));
        let bytes = self.size_bytes.max(self.content.metadata()?.len());
        let (file_bytes, time, kill) = (self.size_bytes, time_for(bytes), self.kill);
        let (scope, memory_bytes) = (AccessScope::Files(&files), IMPORT_MEMORY_BYTES);
        let is_unwanted = &|| false;
        Program { command, scope, memory_bytes, file_bytes, time, kill, is_unwanted }.run(output)
    }
}

/// Parses the progress that `qemu-img -p` prints: `    (12.34/100%)`, each after a carriage return.
struct Percents<'p> {
    /// The output since the last carriage return.
    word: Vec<u8>,
    progress: &'p Progress<'p>,
}

impl Percents<'_> {
    /// More than the length of any such word; the rest of a longer one is discarded.
    const WORD_BYTES: usize = 64;

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\r' => self.end_word(),
                _ if self.word.len() < Self::WORD_BYTES => self.word.push(*byte),
                _ => {}
            }
        }
    }

    fn end_word(&mut self) {
        let text = String::from_utf8_lossy(&self.word);
        let percent = text.trim().strip_prefix('(').and_then(|text| text.split('.').next());
        if let Some(percent) = percent.and_then(|percent| percent.parse::<u64>().ok()) {
            self.progress.report(self.progress.size_bytes.saturating_mul(percent) / 100);
        }
        self.word.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn percents_become_bytes() {
        let reported = Cell::new(0);
        let report = |done_bytes, _| reported.set(done_bytes);
        let progress = Progress::new(1000, &report);
        let mut percents = Percents { word: Vec::new(), progress: &progress };
        percents.take(b"    (0.00/100%)\r    (49.");
        percents.take(b"99/100%)\r");
        assert_eq!(reported.get(), 490);
        percents.take(&[b'x'; 1000]);
        percents.take(b"garbage\r    (100.00/100%)\r\n");
        assert_eq!(reported.get(), 1000);
    }
}
