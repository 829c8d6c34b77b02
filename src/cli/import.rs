//! `image import`: a raw or qcow2 disk, or a zfs stream, becomes an image of the store. Each may be
//! compressed with gzip, xz or zstd, where that program is installed.
//!
//! The file may be another user's, who swaps it or writes into it meanwhile. So it is opened once, its
//! format is read from that descriptor, and each program that reads it gets the descriptor and is confined
//! to it ([`crate::os::confine`]).

mod format;
mod helper;
mod qemu_img;

use std::cell::Cell;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use self::format::{Format, first_bytes};
use self::helper::{Helper, time_for};
use self::qemu_img::Qcow2;
use crate::config::Config;
use crate::os::{confine, files, process};
use crate::storage::{self, Id, ImageSource, MIB};

/// Progress is told this often from beginning to end.
const PROGRESS_STEPS: u64 = 20;
/// Write permission of the group and of everybody else.
const WRITABLE: u32 = 0o022;
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
    let failed = |why: &dyn ToString| format!("import {}: {}", file.display(), why.to_string());
    let id = Id::parse(id).map_err(|error| failed(&error))?;
    let volumes = storage::open(&config.host, &config.storage).map_err(|error| failed(&error))?;
    let kill = config.storage.kill;
    let content = open(file).map_err(|error| failed(&error))?;
    let content = match compression_of(&content).map_err(|error| failed(&error))? {
        None => content,
        Some(compression) => {
            decompress(content, compression, kill).map_err(|error| failed(&error))?
        }
    };

    let format = Format::of(&content).map_err(|error| failed(&error))?;
    let qcow2 = Qcow2 { content: &content, size_bytes: format.size_bytes(), kill };
    if matches!(format, Format::Qcow2 { .. }) {
        let is_confined = confine::has_landlock().map_err(|error| failed(&error))?;
        check_writers(&content, is_confined).map_err(|error| failed(&error))?;
        qcow2.check().map_err(|error| failed(&error))?;
    }
    let progress = Progress::new(format.size_bytes());
    let mut fill = |target: &Path| qcow2.convert(target, &progress);
    let source = match format {
        Format::Raw { .. } => ImageSource::Raw(&content),
        Format::ZfsStream { .. } => ImageSource::ZfsStream(&content),
        Format::Qcow2 { size_bytes } => ImageSource::Filled { size_bytes, fill: &mut fill },
    };
    let image = volumes
        .import_image(&id, source, &mut |done_bytes| progress.tell(done_bytes))
        .map_err(|error| failed(&error))?;
    println!("{} {} MiB {}", image.id, image.size_mib(), image.snapshot);
    Ok(())
}

/// Opens a regular file for reading; the only time that its path is used.
fn open(file: &Path) -> io::Result<File> {
    let path = fs::canonicalize(file)?;
    let content = files::straight(OpenOptions::new().read(true)).open(path)?;
    match content.metadata()?.is_file() {
        true => Ok(content),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Refuses a qcow2 file that another user could give a backing file or a data file after its header was
/// read, where nothing confines `qemu-img` to the file. A path that is swapped does no harm: the file is
/// open.
fn check_writers(content: &File, is_confined: bool) -> Result<(), String> {
    if is_confined {
        return Ok(());
    }
    let found = content.metadata().map_err(|error| error.to_string())?;
    if [0, process::user()].contains(&found.uid()) && found.mode() & WRITABLE == 0 {
        return Ok(());
    }
    Err("others can write to the qcow2 file, and the kernel has no Landlock to confine qemu-img; copy \
         the file as root and import the copy"
        .to_owned())
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

/// Decompresses a file into one without a name in `$TMPDIR`, or `/var/tmp`, which is gone when it is
/// closed. The program reads its standard input, writes its standard output, and opens nothing.
fn decompress(packed: File, compression: &Compression, kill: Duration) -> Result<File, String> {
    let Compression { name, program, .. } = compression;
    let remedy = format!("the file is compressed with {name}; decompress it first");
    let Some(program) = program.filter(|program| Path::new(program).exists()) else {
        return Err(remedy);
    };
    let folder = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let file =
        files::nameless(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let output = file.try_clone().map_err(|error| error.to_string())?;
    let packed_bytes = packed.metadata().map_err(|error| error.to_string())?.len();
    let time = time_for(packed_bytes.saturating_mul(RATIO_MAX));
    let mut command = Command::new(program);
    command.args(["-d", "-c"]).stdin(packed).stdout(output);
    let ended = Helper { command, files: &[], time, kill }.run(&mut |_| {});
    let ended = ended.map_err(|error| format!("{program}: {error}"))?;
    if !ended.status.success() {
        let (status, said) = (ended.status, ended.said);
        return Err(format!("cannot decompress it with {name}: {status}: {said}"));
    }
    (&file).rewind().map_err(|error| error.to_string())?;
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn without_landlock_a_qcow2_file_has_to_be_ours() {
        let file = files::nameless(&env::temp_dir()).unwrap();
        for (mode, is_ours) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            let checked = check_writers(&file, false);
            assert_eq!(checked.is_ok(), is_ours, "{mode:o}: {checked:?}");
            assert_eq!(check_writers(&file, true), Ok(()), "{mode:o}");
        }
        if process::user() == 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::fchown(&file, Some(65534), None).unwrap();
            let error = check_writers(&file, false).unwrap_err();
            assert!(error.contains("copy the file as root"), "{error}");
        }
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        for path in ["/dev/null", "/tmp", "/dev/tty"] {
            assert!(open(Path::new(path)).is_err(), "{path}");
        }
        assert!(open(Path::new("/bin/cat")).is_ok(), "behind links");
    }
}
