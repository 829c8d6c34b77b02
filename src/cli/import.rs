//! `image import`: a raw or qcow2 disk, or a zfs stream, becomes an image of the store. Each may be
//! compressed with gzip, xz or zstd, where that program is installed.

use std::cell::Cell;
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use serde_json::Value;

use crate::config::Config;
use crate::os::files;
use crate::storage::{self, Id, ImageSource, MIB};

/// Reads the formats of disks; part of every distribution's qemu.
const QEMU_IMG: &str = "/usr/bin/qemu-img";
/// Where a stream of `zfs send` has its mark, in the byte order of who sent it.
const ZFS_MARK_AT: usize = 8;
const ZFS_MARK: u64 = 0x2_f5ba_cbac;
/// Progress is told this often from beginning to end.
const PROGRESS_STEPS: u64 = 20;

/// Brings `file` in as the image `id`, tells progress on standard error and the image on standard
/// output.
///
/// # Errors
/// One line that says what is wrong. Nothing of the image is left then.
///
/// # Blocking
/// As long as reading and writing takes.
pub fn run(config: &Config, file: &Path, id: &str) -> Result<(), String> {
    let failed = |why: &dyn ToString| format!("import {}: {}", file.display(), why.to_string());
    let id = Id::parse(id).map_err(|error| failed(&error))?;
    let volumes = storage::open(&config.host, &config.storage).map_err(|error| failed(&error))?;
    // Absolute, and so without a `-` or a protocol such as `nbd:` in front.
    let path = fs::canonicalize(file).map_err(|error| failed(&error))?;
    let content = File::open(&path).map_err(|error| failed(&error))?;
    let (path, content) = match compression_of(&content).map_err(|error| failed(&error))? {
        None => (path, content),
        Some(compression) => decompress(content, compression).map_err(|error| failed(&error))?,
    };

    let format = Format::of(&path, &content).map_err(|error| failed(&error))?;
    if matches!(format, Format::Qcow2 { .. }) {
        check(&path).map_err(|error| failed(&error))?;
    }
    let progress = Progress::new(format.size_bytes());
    let mut fill = |target: &Path| convert(&path, target, &progress);
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
fn compression_of(mut content: &File) -> io::Result<Option<&'static Compression>> {
    let mut start = Vec::new();
    content.take(16).read_to_end(&mut start)?;
    content.rewind()?;
    Ok(COMPRESSIONS.iter().find(|it| start.starts_with(it.magic)))
}

/// Decompresses a file into one without a name in `$TMPDIR`, or `/var/tmp`, which is gone when it is
/// closed. The path is good for this process and its children as long as the file is open.
fn decompress(packed: File, compression: &Compression) -> Result<(PathBuf, File), String> {
    let Compression { name, program, .. } = compression;
    let remedy = format!("the file is compressed with {name}; decompress it first");
    let Some(program) = program.filter(|program| Path::new(program).exists()) else {
        return Err(remedy);
    };
    let folder = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let file =
        files::nameless(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let output = file.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").args(["-d", "-c"]);
    let ended = command.stdin(packed).stdout(output).output();
    let ended = ended.map_err(|error| format!("{program}: {error}"))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let said = said.lines().next().unwrap_or_default();
        return Err(format!("cannot decompress it with {name}: {}: {said}", ended.status));
    }
    let path = PathBuf::from(format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()));
    (&file).rewind().map_err(|error| error.to_string())?;
    Ok((path, file))
}

/// Checks a qcow2 file (`qemu-img check`): a download that broke off has clusters beyond its end, which
/// would be read as zeroes.
fn check(path: &Path) -> Result<(), String> {
    let mut command = qemu_img();
    command.args(["check", "-f", "qcow2", "--output=json"]).arg(path);
    let output = command.output().map_err(|error| format!("{QEMU_IMG}: {error}"))?;
    match output.status.code() {
        // 3: clusters that nothing uses, which harms no data.
        Some(0 | 3) => Ok(()),
        _ => {
            let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let corruptions = found["corruptions"].as_u64().unwrap_or_default();
            let errors = found["check-errors"].as_u64().unwrap_or_default();
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or_default();
            Err(match corruptions + errors {
                0 => format!("{QEMU_IMG} check: {}: {said}", output.status),
                found => format!("the qcow2 file is damaged or incomplete: {found} errors"),
            })
        }
    }
}

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
enum Format {
    /// A disk as it is.
    Raw {
        /// Its size.
        size_bytes: u64,
    },
    /// qemu's own format.
    Qcow2 {
        /// The size of the disk in it.
        size_bytes: u64,
    },
    /// What `zfs send` wrote.
    ZfsStream {
        /// The size of the stream.
        size_bytes: u64,
    },
}

impl Format {
    fn of(path: &Path, mut content: &File) -> Result<Self, String> {
        let error = |error: io::Error| error.to_string();
        let mut start = Vec::new();
        content.take(16).read_to_end(&mut start).map_err(error)?;
        content.rewind().map_err(error)?;
        if is_zfs_stream(&start) {
            let size_bytes = content.metadata().map_err(error)?.len();
            return Ok(Self::ZfsStream { size_bytes });
        }
        let mut info = qemu_img();
        info.args(["info", "--output=json"]).arg(path);
        let lacks = |error| format!("{QEMU_IMG} (Debian's qemu-utils): {error}");
        let output = info.output().map_err(lacks)?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Self::from_info(&output.stdout)
    }

    /// Reads what `qemu-img info --output=json` says.
    fn from_info(json: &[u8]) -> Result<Self, String> {
        let info: Value = serde_json::from_slice(json).map_err(|e| format!("{QEMU_IMG}: {e}"))?;
        let size_bytes = info["virtual-size"].as_u64().ok_or("the disk has no size")?;
        // Either would bring in files that nobody named.
        let data_file = &info["format-specific"]["data"]["data-file"];
        if !info["backing-filename"].is_null() || !data_file.is_null() {
            return Err("the disk needs another file".to_owned());
        }
        match info["format"].as_str() {
            Some("raw") => Ok(Self::Raw { size_bytes }),
            Some("qcow2") => Ok(Self::Qcow2 { size_bytes }),
            other => Err(format!(
                "the format is {}, not raw, qcow2 or a zfs stream",
                other.unwrap_or("unknown")
            )),
        }
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::Raw { size_bytes }
            | Self::Qcow2 { size_bytes }
            | Self::ZfsStream { size_bytes } => *size_bytes,
        }
    }
}

fn is_zfs_stream(start: &[u8]) -> bool {
    let mark = start.get(ZFS_MARK_AT..).and_then(|rest| rest.first_chunk());
    mark.is_some_and(|mark| {
        [u64::from_le_bytes(*mark), u64::from_be_bytes(*mark)].contains(&ZFS_MARK)
    })
}

/// `qemu-img` as every command here is run.
fn qemu_img() -> Command {
    let mut command = Command::new(QEMU_IMG);
    command.env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Writes the disk in a qcow2 file to a device or file of its size, all zeroes.
fn convert(path: &Path, target: &Path, progress: &Progress) -> io::Result<()> {
    let mut child = qemu_img()
        .args(["convert", "-p", "-n", "--target-is-zero", "-f", "qcow2", "-O", "raw"])
        .args([path, target])
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(output) = child.stdout.take() {
        tell_percents(BufReader::new(output), progress);
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    // What was wrong it said on standard error.
    Err(io::Error::other(format!("{QEMU_IMG} convert: {status}")))
}

/// Tells the progress that `qemu-img -p` prints: `    (12.34/100%)`, each after a carriage return.
fn tell_percents(mut output: impl BufRead, progress: &Progress) {
    let mut word = Vec::new();
    loop {
        word.clear();
        // An output that cannot be read is one without progress: the status says what became of it.
        match output.by_ref().take(64).read_until(b'\r', &mut word) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&word);
        let percent = text.trim().strip_prefix('(').and_then(|text| text.split('.').next());
        if let Some(percent) = percent.and_then(|percent| percent.parse::<u64>().ok()) {
            progress.tell(progress.size_bytes.saturating_mul(percent) / 100);
        }
    }
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
    use super::*;

    #[test]
    fn a_zfs_stream_is_known_by_its_mark_in_either_byte_order() {
        for mark in [ZFS_MARK.to_le_bytes(), ZFS_MARK.to_be_bytes()] {
            assert!(is_zfs_stream(&[&[0; 8], &mark[..]].concat()));
            assert!(!is_zfs_stream(&mark));
        }
        assert!(!is_zfs_stream(&[0; 16]) && !is_zfs_stream(b"short"));
    }

    #[test]
    fn what_qemu_img_says_is_taken_or_refused() {
        let format = |json: &str| Format::from_info(json.as_bytes());
        let raw = r#"{"virtual-size":1048576,"filename":"a","format":"raw"}"#;
        assert_eq!(format(raw), Ok(Format::Raw { size_bytes: MIB }));
        let qcow2 = r#"{"virtual-size":1048576,"format":"qcow2","format-specific":
            {"type":"qcow2","data":{"compat":"1.1","corrupt":false}}}"#;
        assert_eq!(format(qcow2), Ok(Format::Qcow2 { size_bytes: MIB }));
        for (json, why) in [
            (r#"{"virtual-size":1,"format":"vmdk"}"#, "the format is vmdk"),
            (r#"{"format":"raw"}"#, "the disk has no size"),
            (
                r#"{"virtual-size":1,"format":"qcow2","backing-filename":"/etc/shadow"}"#,
                "the disk needs another file",
            ),
            (
                r#"{"virtual-size":1,"format":"qcow2",
                    "format-specific":{"data":{"data-file":"/etc/shadow"}}}"#,
                "the disk needs another file",
            ),
            ("", QEMU_IMG),
        ] {
            let error = format(json).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn percents_become_bytes() {
        let progress = Progress::new(1000);
        tell_percents(&b"    (0.00/100%)\r    (49.99/100%)\r"[..], &progress);
        assert_eq!(progress.told.get(), 490 / 50);
        tell_percents(&b"garbage\r    (100.00/100%)\r\n"[..], &progress);
        assert_eq!(progress.told.get(), PROGRESS_STEPS);
    }
}
