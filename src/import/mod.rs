//! Imports a file as an image of the store: a raw or qcow2 disk, or a zfs stream. Each may be compressed with gzip, xz
//! or zstd, if that program is installed.
//!
//! The file may belong to another user, who replaces it or writes to it meanwhile. So it is opened once, its format is
//! read from that descriptor, and each program that reads it gets the descriptor and is confined to it
//! ([`crate::os::confine`]). A qcow2 file that others can write to is copied first: its header, which may name other
//! files, is checked in the copy.

mod qemu_img;

use std::cell::Cell;
use std::error::Error;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use self::qemu_img::Qcow2;
use crate::config::fixed::{
    IMPORT_MEMORY_BYTES, IMPORT_RATE_BYTES, IMPORT_TIME_BASE, IMPORT_TIME_MAX,
};
use crate::os::confine::AccessScope;
use crate::os::disk::{clone_file, room};
use crate::os::program::{Ended, Program};
use crate::os::resolve::{TrustedUsers, changed_by, open_foreign};
use crate::os::{confine, files};
use crate::storage::copy::copy;
use crate::storage::format::{Format, first_bytes};
use crate::storage::{Id, ImageSource, StoredImage, Volumes};

/// The number of progress reports from start to end.
const PROGRESS_STEPS: u64 = 20;
/// The maximum compression ratio of Deflate.
const RATIO_MAX: u64 = 1032;

/// The receiver of an import's progress, as bytes done and total bytes, and of its warnings.
pub struct ImportReporter<'t> {
    /// Called twenty times from start to end.
    pub progress: &'t dyn Fn(u64, u64),
    /// Called with one line.
    pub warn: &'t dyn Fn(&str),
}

/// Imports a file as the image `id`. `may_change` says whether others can write to the file meanwhile; `kill` is the
/// time from SIGKILL to the end of a program.
///
/// # Errors
/// The fault of the file or the store. No part of the image remains.
///
/// # Blocking
/// As long as reading and writing take; `qemu-img` and the decompressors have a time limit.
pub fn import(
    volumes: &dyn Volumes,
    content: File,
    may_change: bool,
    id: &Id,
    kill: Duration,
    reporter: &ImportReporter<'_>,
) -> Result<StoredImage, Box<dyn Error>> {
    let (mut content, may_change) = match compression_of(&content)? {
        None => (content, may_change),
        Some(compression) => (decompress(content, compression, kill)?, false),
    };

    let mut format = Format::of(&content)?;
    // The header could change after it was read, and name files that `qemu-img` opens.
    let is_qcow2 = matches!(format, Format::Qcow2 { .. });
    if is_qcow2 && may_change {
        content = copy_aside(&content)?;
        format = Format::of(&content)?;
    }
    let qcow2 = Qcow2 { content: &content, size_bytes: format.size_bytes(), kill };
    if matches!(format, Format::Qcow2 { .. }) {
        if !confine::has_landlock()? {
            (reporter.warn)("qemu-img runs unconfined: the kernel has no Landlock");
        }
        qcow2.check()?;
    }
    let progress = Progress::new(format.size_bytes(), reporter.progress);
    let mut fill = |target: &Path| qcow2.convert(target, &progress);
    let source = match format {
        Format::Raw { .. } => ImageSource::Raw(&content),
        Format::ZfsStream { .. } => ImageSource::ZfsStream(&content),
        Format::Qcow2 { size_bytes } => ImageSource::Filled { size_bytes, fill: &mut fill },
    };
    Ok(volumes.import_image(id, source, &mut |done_bytes| progress.report(done_bytes))?)
}

/// Opens a regular file for reading, the only use of its path, and returns whether others can write to the file.
///
/// # Errors
/// The error of the system; a file that is not regular, or that the agent must not open for others.
pub fn open(file: &Path, trusted: TrustedUsers) -> io::Result<(File, bool)> {
    let content = open_foreign(&std::path::absolute(file)?, trusted)?;
    let metadata = content.metadata()?;
    match metadata.is_file() {
        true => Ok((content, changed_by(&metadata, trusted).is_some())),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Copies a file into one without a name, which nobody else can open.
pub(crate) fn copy_aside(content: &File) -> io::Result<File> {
    let (file, bytes) = (nameless()?, content.metadata()?.len());
    if !clone_file(content, &file)? {
        copy(content, &file, bytes, &mut |_| Ok(()))?;
        file.set_len(bytes)?;
    }
    Ok(file)
}

/// Creates a file without a name in `$TMPDIR`, or `/var/tmp`, which is removed when it is closed.
fn nameless() -> io::Result<File> {
    let directory = files::temporary();
    files::nameless(&directory).map_err(|error| {
        let why = format!("cannot create a file in {}: {error}", directory.display());
        io::Error::new(error.kind(), why)
    })
}

/// A compression format: the name, the first bytes, and the program that decompresses to standard output, if supported.
struct Compression {
    name: &'static str,
    magic: &'static [u8],
    program: Option<&'static str>,
}

/// From the specifications of the formats (RFC 1952, the xz and zstd formats, and so on).
const COMPRESSIONS: [Compression; 7] = [
    Compression { name: "gzip", magic: b"\x1f\x8b", program: Some("/usr/bin/gzip") },
    Compression { name: "xz", magic: b"\xfd7zXZ\0", program: Some("/usr/bin/xz") },
    Compression { name: "zstd", magic: b"\x28\xb5\x2f\xfd", program: Some("/usr/bin/zstd") },
    Compression { name: "bzip2", magic: b"BZh", program: None },
    Compression { name: "lz4", magic: b"\x04\x22\x4d\x18", program: None },
    Compression { name: "zip", magic: b"PK\x03\x04", program: None },
    Compression { name: "7-Zip", magic: b"7z\xbc\xaf\x27\x1c", program: None },
];

/// Returns the compression format of a file by its first bytes; `None` for an uncompressed file.
fn compression_of(content: &File) -> io::Result<Option<&'static Compression>> {
    let start = first_bytes(content)?;
    Ok(COMPRESSIONS.iter().find(|it| start.starts_with(it.magic)))
}

/// Decompresses a file into one without a name. The program reads its standard input, writes its standard output, and
/// opens nothing. It may use nine tenths of the free space, because a small file can expand to any size.
fn decompress(packed: File, compression: &Compression, kill: Duration) -> Result<File, String> {
    let Compression { name, program, .. } = compression;
    let remedy = format!("the file is compressed with {name}; decompress it first");
    let Some(program) = program.filter(|program| Path::new(program).exists()) else {
        return Err(remedy);
    };
    let text = |error: io::Error| error.to_string();
    let file = nameless().map_err(text)?;
    let file_bytes = room(&files::temporary()).map_err(text)?.free_bytes / 10 * 9;
    let output = file.try_clone().map_err(text)?;
    let packed_bytes = packed.metadata().map_err(text)?.len();
    let time = time_for(packed_bytes.saturating_mul(RATIO_MAX));
    let mut command = Command::new(program);
    command.args(["-d", "-c"]).stdin(packed).stdout(output);
    if *name == "xz" {
        // Each thread of xz has its own stack and buffers, which exceed the memory limit on a large host.
        command.arg("-T1");
    }
    let (scope, memory_bytes) = (AccessScope::Files(&[]), IMPORT_MEMORY_BYTES);
    let is_unwanted = &|| false;
    let program_run = Program { command, scope, memory_bytes, file_bytes, time, kill, is_unwanted };
    let ended = program_run.run(&mut |_| {});
    let Ended { status, first_error_line } =
        ended.map_err(|error| format!("cannot run {program}: {error}"))?;
    if status.signal() == Some(libc::SIGXFSZ) {
        let directory = files::temporary();
        let name = directory.display();
        return Err(format!("cannot decompress the file: it does not fit into {name}"));
    }
    if !status.success() {
        return Err(format!(
            "cannot decompress the file with {name}: {status}: {first_error_line}"
        ));
    }
    (&file).rewind().map_err(text)?;
    Ok(file)
}

/// Returns the time limit of a program that reads or writes this number of bytes, for elapsed time and processor time.
pub(crate) fn time_for(bytes: u64) -> Duration {
    let scaled = Duration::from_secs(bytes / IMPORT_RATE_BYTES);
    IMPORT_TIME_BASE.saturating_add(scaled).min(IMPORT_TIME_MAX)
}

/// Reports at most [`PROGRESS_STEPS`] steps of the progress.
struct Progress<'t> {
    size_bytes: u64,
    steps: Cell<u64>,
    report: &'t dyn Fn(u64, u64),
}

impl<'t> Progress<'t> {
    fn new(size_bytes: u64, report: &'t dyn Fn(u64, u64)) -> Self {
        Self { size_bytes, steps: Cell::new(0), report }
    }

    fn report(&self, done_bytes: u64) {
        let step_bytes = self.size_bytes.div_ceil(PROGRESS_STEPS).max(1);
        let step = done_bytes / step_bytes;
        if step > self.steps.replace(step) {
            (self.report)(done_bytes, self.size_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::{env, fs};

    use super::*;
    use crate::os::process;

    #[test]
    fn a_file_that_others_can_write_is_known() {
        let (file, own) = (files::nameless(&env::temp_dir()).unwrap(), TrustedUsers::own());
        let can_change = |trusted| changed_by(&file.metadata().unwrap(), trusted).is_some();
        for (mode, can) in [(0o600, false), (0o644, false), (0o620, true), (0o602, true)] {
            file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(can_change(own), can, "{mode:o}");
        }
        if process::user() == 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::fchown(&file, Some(65534), None).unwrap();
            assert!(can_change(own));
            assert!(!can_change(TrustedUsers::with_agent(65534)));
        }
    }

    #[test]
    fn progress_is_reported_twenty_times_at_most() {
        for size_bytes in [0, 1, 19, 20, 39, 41, 1000] {
            let count = Cell::new(0);
            let report = |_, _| count.set(count.get() + 1);
            let progress = Progress::new(size_bytes, &report);
            (0..=size_bytes).for_each(|done_bytes| progress.report(done_bytes));
            assert!(count.get() <= PROGRESS_STEPS, "{size_bytes} bytes: {}", count.get());
        }
    }

    #[test]
    fn a_copy_aside_has_all_bytes_and_the_length() {
        let file = files::nameless(&env::temp_dir()).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.set_len(1 << 20).unwrap();
        let copied = copy_aside(&file).unwrap();
        let mut bytes = [1; 6];
        copied.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, copied.metadata().unwrap().len()), (b"begin\0", 1 << 20));
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        for path in ["/dev/null", "/tmp", "/dev/tty"] {
            assert!(open(Path::new(path), TrustedUsers::own()).is_err(), "{path}");
        }
        assert!(open(Path::new("/bin/cat"), TrustedUsers::own()).is_ok(), "behind links of root's");
    }

    #[test]
    fn time_grows_with_the_size_up_to_a_bound() {
        assert_eq!(time_for(0), IMPORT_TIME_BASE);
        let bytes = 100 * IMPORT_RATE_BYTES;
        assert_eq!(time_for(bytes), IMPORT_TIME_BASE + Duration::from_secs(100));
        assert_eq!(time_for(u64::MAX), IMPORT_TIME_MAX);
    }
}
