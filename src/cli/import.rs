//! `image import`: a raw or qcow2 disk, or a zfs stream, becomes an image of the store. Each may be
//! compressed with gzip, xz or zstd, where that program is installed.
//!
//! The file may be another user's, who swaps it or writes into it meanwhile. So it is opened once, its
//! format is read from that descriptor, and each program that reads it gets the descriptor and is confined
//! to it ([`crate::os::confine`]). A qcow2 file that others can write to is copied first: its header, which
//! may name other files, is checked in the copy.

mod helper;
mod qemu_img;

use std::cell::Cell;
use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use self::helper::{Ended, Helper, time_for};
use self::qemu_img::Qcow2;
use crate::config::Config;
use crate::os::disk::{clone_file, room};
use crate::os::resolve::{Trusted, changed_by, open_foreign};
use crate::os::service::agent_user;
use crate::os::{confine, files};
use crate::storage::copy::copy;
use crate::storage::format::{Format, first_bytes};
use crate::storage::{self, Id, Image, ImageSource, MIB};

/// Progress is told this often from beginning to end.
const PROGRESS_STEPS: u64 = 20;
/// Deflate makes a file at most so many times smaller.
const RATIO_MAX: u64 = 1032;

/// Brings `file` in as the image `id`, tells progress on standard error and the image on standard
/// output.
///
/// # Errors
/// One line that says what is wrong. Nothing of the image is left then.
///
/// # Blocking
/// As long as reading and writing takes; `qemu-img` and the decompressors have a limit.
pub fn run(config: &Config, file: &Path, id: &str) -> Result<(), String> {
    let image =
        import(config, file, id).map_err(|error| format!("import {}: {error}", file.display()))?;
    println!("{} {} MiB {}", image.id, image.size_mib(), image.snapshot);
    Ok(())
}

fn import(config: &Config, file: &Path, id: &str) -> Result<Image, Box<dyn Error>> {
    let id = Id::parse(id)?;
    let trusted = Trusted::with_agent(agent_user()?);
    let volumes = storage::open(&config.host, &config.storage, trusted)?;
    let kill = config.storage.kill;
    let content = open(file, trusted)?;
    let mut content = match compression_of(&content)? {
        None => content,
        Some(compression) => decompress(content, compression, kill)?,
    };

    let mut format = Format::of(&content)?;
    // Its header could change after it was read, to name files that `qemu-img` opens.
    let is_qcow2 = matches!(format, Format::Qcow2 { .. });
    if is_qcow2 && changed_by(&content.metadata()?, trusted).is_some() {
        content = copy_aside(&content)?;
        format = Format::of(&content)?;
    }
    let qcow2 = Qcow2 { content: &content, size_bytes: format.size_bytes(), kill };
    if matches!(format, Format::Qcow2 { .. }) {
        if !confine::has_landlock()? {
            eprintln!("import {}: without Landlock, qemu-img is not confined", file.display());
        }
        qcow2.check()?;
    }
    let progress = Progress::new(format.size_bytes());
    let mut fill = |target: &Path| qcow2.convert(target, &progress);
    let source = match format {
        Format::Raw { .. } => ImageSource::Raw(&content),
        Format::ZfsStream { .. } => ImageSource::ZfsStream(&content),
        Format::Qcow2 { size_bytes } => ImageSource::Filled { size_bytes, fill: &mut fill },
    };
    Ok(volumes.import_image(&id, source, &mut |done_bytes| progress.tell(done_bytes))?)
}

/// Opens a regular file for reading; the only time that its path is used.
fn open(file: &Path, trusted: Trusted) -> io::Result<File> {
    let content = open_foreign(&std::path::absolute(file)?, trusted)?;
    match content.metadata()?.is_file() {
        true => Ok(content),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Copies a file into one without a name, which nobody else can open.
fn copy_aside(content: &File) -> io::Result<File> {
    let (file, bytes) = (nameless()?, content.metadata()?.len());
    if !clone_file(content, &file)? {
        copy(content, &file, bytes, &mut |_| Ok(()))?;
        file.set_len(bytes)?;
    }
    Ok(file)
}

/// A file without a name in `$TMPDIR`, or `/var/tmp`, which is gone when it is closed.
fn nameless() -> io::Result<File> {
    let directory = temporary();
    files::nameless(&directory)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
}

fn temporary() -> PathBuf {
    env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// How a file is compressed: the name, its first bytes, and the program that decompresses it to standard
/// output, where there is one.
struct Compression {
    name: &'static str,
    magic: &'static [u8],
    program: Option<&'static str>,
}

/// By the formats' own documents (RFC 1952, the xz and zstd formats, and so on).
const COMPRESSIONS: [Compression; 7] = [
    Compression { name: "gzip", magic: b"\x1f\x8b", program: Some("/usr/bin/gzip") },
    Compression { name: "xz", magic: b"\xfd7zXZ\0", program: Some("/usr/bin/xz") },
    Compression { name: "zstd", magic: b"\x28\xb5\x2f\xfd", program: Some("/usr/bin/zstd") },
    Compression { name: "bzip2", magic: b"BZh", program: None },
    Compression { name: "lz4", magic: b"\x04\x22\x4d\x18", program: None },
    Compression { name: "zip", magic: b"PK\x03\x04", program: None },
    Compression { name: "7-Zip", magic: b"7z\xbc\xaf\x27\x1c", program: None },
];

/// How a file is compressed; `None` for one that is not, by its first bytes.
fn compression_of(content: &File) -> io::Result<Option<&'static Compression>> {
    let start = first_bytes(content)?;
    Ok(COMPRESSIONS.iter().find(|it| start.starts_with(it.magic)))
}

/// Decompresses a file into one without a name. The program reads its standard input, writes its standard
/// output, and opens nothing. It gets nine tenths of the space that is free, as a small file can become any
/// size.
fn decompress(packed: File, compression: &Compression, kill: Duration) -> Result<File, String> {
    let Compression { name, program, .. } = compression;
    let remedy = format!("the file is compressed with {name}; decompress it first");
    let Some(program) = program.filter(|program| Path::new(program).exists()) else {
        return Err(remedy);
    };
    let text = |error: io::Error| error.to_string();
    let file = nameless().map_err(text)?;
    let file_bytes = room(&temporary()).map_err(text)?.free_bytes / 10 * 9;
    let output = file.try_clone().map_err(text)?;
    let packed_bytes = packed.metadata().map_err(text)?.len();
    let time = time_for(packed_bytes.saturating_mul(RATIO_MAX));
    let mut command = Command::new(program);
    command.args(["-d", "-c"]).stdin(packed).stdout(output);
    if *name == "xz" {
        // Each thread of xz has a stack and buffers of its own, beyond the limit of memory on a large host.
        command.arg("-T1");
    }
    let ended = Helper { command, files: &[], file_bytes, time, kill }.run(&mut |_| {});
    let Ended { status, first_error_line } =
        ended.map_err(|error| format!("{program}: {error}"))?;
    if status.signal() == Some(libc::SIGXFSZ) {
        let directory = temporary();
        return Err(format!("it does not fit into {} when decompressed", directory.display()));
    }
    if !status.success() {
        return Err(format!("cannot decompress it with {name}: {status}: {first_error_line}"));
    }
    (&file).rewind().map_err(text)?;
    Ok(file)
}

/// Lines on standard error.
struct Progress {
    size_bytes: u64,
    told: Cell<u64>,
}

impl Progress {
    fn new(size_bytes: u64) -> Self {
        Self { size_bytes, told: Cell::new(0) }
    }

    fn tell(&self, done_bytes: u64) {
        let step_bytes = (self.size_bytes / PROGRESS_STEPS).max(1);
        let step = done_bytes / step_bytes;
        if step > self.told.replace(step) {
            eprintln!("{} of {} MiB", done_bytes / MIB, self.size_bytes.div_ceil(MIB));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;
    use crate::os::process;

    #[test]
    fn a_file_that_others_can_write_is_known() {
        let (file, own) = (files::nameless(&env::temp_dir()).unwrap(), Trusted::own());
        let can_change = |trusted| changed_by(&file.metadata().unwrap(), trusted).is_some();
        for (mode, can) in [(0o600, false), (0o644, false), (0o620, true), (0o602, true)] {
            file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(can_change(own), can, "{mode:o}");
        }
        if process::user() == 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::fchown(&file, Some(65534), None).unwrap();
            assert!(can_change(own));
            assert!(!can_change(Trusted::with_agent(65534)));
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
            assert!(open(Path::new(path), Trusted::own()).is_err(), "{path}");
        }
        assert!(open(Path::new("/bin/cat"), Trusted::own()).is_ok(), "behind links of root's");
    }
}
