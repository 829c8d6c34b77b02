//! The backing files of a disk: from libvirt for a running domain, else from the qcow2 files themselves.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::guest::domain::{Disk, RAW};
use crate::os::disk::open_device;
use crate::os::files;
use crate::os::paths::resolved;

/// The longest chain of qcow2 files that the agent follows (libvirt allows 200).
const CHAIN_MAX: usize = 200;

/// The backing files of a disk's source.
pub(in crate::ops) struct Chain {
    /// From the top down.
    pub(in crate::ops) files: Vec<PathBuf>,
    /// Whether the chain is complete: `false` if a file could not be read or understood, or has a format whose backing
    /// files the agent does not read.
    pub(super) is_whole: bool,
}

impl Chain {
    /// Returns the backing files of a disk. libvirt names them for a running domain; for a domain that is off, the
    /// qcow2 files do. A backing file is read as qcow2 only if the file above it says so: a guest can write anything
    /// into a raw disk.
    pub(in crate::ops) fn of(disk: &Disk) -> Self {
        if disk.is_unnamed() {
            return Self { files: Vec::new(), is_whole: false };
        }
        if !disk.source.backing.is_empty() {
            let files = disk.source.backing.iter().map(PathBuf::from).collect();
            return Self { files, is_whole: true };
        }
        let mut chain = Self { files: Vec::new(), is_whole: true };
        let mut top = Some((PathBuf::from(disk.source.path()), disk.driver.kind.clone()));
        while let Some((file, format)) = top.take() {
            match format.as_str() {
                "" | RAW => {}
                QCOW2 if chain.files.len() < CHAIN_MAX => match Backing::of(&file) {
                    Ok(Some(Backing { path, format })) => {
                        chain.files.push(path.clone());
                        top = Some((path, format));
                    }
                    Ok(None) => {}
                    Err(_) => chain.is_whole = false,
                },
                // The agent cannot read the backing files of other formats.
                _ => chain.is_whole = false,
            }
        }
        chain
    }
}

const QCOW2: &str = "qcow2";

/// The backing file that a qcow2 file names.
struct Backing {
    path: PathBuf,
    /// Its format, as the file above it states; empty if that file states none.
    format: String,
}

impl Backing {
    /// Reads the header of a qcow2 file (docs/interop/qcow2.txt of qemu). Returns `None` if the file has no backing
    /// file, is not a qcow2 file, or does not exist.
    ///
    /// # Errors
    /// If the file cannot be read, has its data in another file, or names a backing file that is not a file.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        // qemu's own limit for the first cluster, which holds the header.
        const HEAD_BYTES_MAX: u64 = 64 * 1024;
        const MAGIC: &[u8] = b"QFI\xfb";
        let real = resolved(path);
        let mut head = Vec::new();
        let read = fs::metadata(&real).and_then(|found| {
            if !found.is_file() && !found.file_type().is_block_device() {
                return Ok(0);
            }
            let file = open_device(files::straight(OpenOptions::new().read(true)), &real)?;
            file.take(HEAD_BYTES_MAX).read_to_end(&mut head)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(_) if !head.starts_with(MAGIC) => Ok(None),
            Ok(_) => Self::named_in(&head, path).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        }
    }

    /// Parses the backing file from the header; the outer `None` means that the header does not tell.
    fn named_in(head: &[u8], path: &Path) -> Option<Option<Self>> {
        const FORMAT: u32 = 0xe279_2aca;
        // Incompatible feature bit 2: the guest's data is in another file, which the header may not name.
        const DATA_FILE: u32 = 1 << 2;
        // qemu's own limit.
        const NAME_BYTES_MAX: usize = 1023;
        let word = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let is_version_2 = word(4)? < 3;
        if !is_version_2 && word(76)? & DATA_FILE != 0 {
            return None;
        }
        let at =
            usize::try_from(word(8)?).ok()?.checked_shl(32)? | usize::try_from(word(12)?).ok()?;
        let size = usize::try_from(word(16)?).ok()?;
        if at == 0 || size == 0 {
            return Some(None);
        }
        if size > NAME_BYTES_MAX {
            return None;
        }
        let name = String::from_utf8(head.get(at..at.checked_add(size)?)?.to_vec()).ok()?;
        let name = name.strip_prefix("file:").unwrap_or(&name);
        // qemu takes a name with a colon before its first slash as a protocol's (`path_has_protocol`).
        if name.split('/').next().is_some_and(|start| start.contains(':')) {
            return None;
        }
        // In version 2 the extensions start at byte 72; later versions state the offset.
        let mut next = if is_version_2 { 72 } else { usize::try_from(word(100)?).ok()? };
        let mut format = String::new();
        while let (Some(extension), Some(length)) = (word(next), word(next + 4)) {
            let length = usize::try_from(length).ok()?;
            let data = head.get(next + 8..(next + 8).checked_add(length)?).unwrap_or_default();
            match extension {
                0 => break,
                FORMAT => format = String::from_utf8_lossy(data).into_owned(),
                _ => {}
            }
            next = (next + 8).checked_add(length.next_multiple_of(8))?;
        }
        Some(Some(Self { path: path.parent().unwrap_or(Path::new("/")).join(name), format }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the header of a qcow2 file with the backing file `name` of this format.
    fn qcow2(name: &str, format: &str) -> Vec<u8> {
        let length = |text: &str| u32::try_from(text.len()).unwrap().to_be_bytes();
        let mut head = b"QFI\xfb\0\0\0\x02".to_vec();
        head.extend(256_u64.to_be_bytes());
        head.extend(length(name));
        head.resize(72, 0);
        head.extend(0xe279_2aca_u32.to_be_bytes());
        head.extend(length(format));
        head.extend(format.as_bytes());
        head.resize(256, 0);
        head.extend(name.as_bytes());
        head
    }

    fn files_of(disk: &Disk) -> Vec<PathBuf> {
        Chain::of(disk).files
    }

    #[test]
    fn a_chain_is_followed_as_its_files_say() {
        let directory = std::env::temp_dir().join(format!("mistify-chain-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = |name: &str| directory.join(name);
        fs::write(path("top"), qcow2("middle", "qcow2")).unwrap();
        fs::write(path("middle"), qcow2(path("base").to_str().unwrap(), "raw")).unwrap();
        // A guest that writes a header into its raw disk adds nothing to the chain.
        fs::write(path("base"), qcow2("victim", "qcow2")).unwrap();
        fs::write(path("loop"), qcow2("loop", "qcow2")).unwrap();
        let mut disk = Disk::default();
        disk.source.file = path("top").display().to_string();
        disk.driver.kind = "qcow2".to_owned();
        assert_eq!(files_of(&disk), [path("middle"), path("base")]);
        disk.driver.kind = "raw".to_owned();
        assert!(files_of(&disk).is_empty(), "raw bytes are no head");
        disk.driver.kind = "qcow2".to_owned();
        disk.source.file = path("loop").display().to_string();
        assert_eq!(files_of(&disk).len(), CHAIN_MAX);
        disk.source.file = "/dev/null".to_owned();
        assert!(files_of(&disk).is_empty());
        for (name, content) in [("raw", &b"no head"[..]), ("absent", b"")] {
            if !content.is_empty() {
                fs::write(path(name), content).unwrap();
            }
            disk.source.file = path(name).display().to_string();
            assert!(Chain::of(&disk).is_whole, "{name}");
        }
        disk.source.backing = vec!["/by/libvirt".to_owned()];
        assert_eq!(files_of(&disk), [PathBuf::from("/by/libvirt")]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_chain_of_an_unknown_format_is_not_whole() {
        let mut disk = Disk::default();
        disk.source.file = "/absent".to_owned();
        for (format, is_whole) in [
            ("", true),
            ("raw", true),
            ("qcow2", true),
            ("qcow", false),
            ("qed", false),
            ("vmdk", false),
            ("vpc", false),
        ] {
            format.clone_into(&mut disk.driver.kind);
            assert_eq!(Chain::of(&disk).is_whole, is_whole, "{format}");
        }
    }

    #[test]
    fn a_chain_that_leaves_the_files_is_not_whole() {
        let path = std::env::temp_dir().join(format!("mistify-odd-{}", std::process::id()));
        let mut disk = Disk::default();
        disk.source.file = path.display().to_string();
        disk.driver.kind = "qcow2".to_owned();
        let is_whole = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            Chain::of(&disk).is_whole
        };
        for (name, format, expected) in [
            ("/base", "raw", true),
            ("file:/base", "raw", true),
            ("dir/a:b", "raw", true),
            ("/base", "qed", false),
            ("json:{\"driver\":\"raw\"}", "raw", false),
            ("host_device:/dev/zvol/tank/guests/a/disk-0", "raw", false),
            ("nbd://host/base", "raw", false),
            ("file:file:/base", "raw", false),
        ] {
            assert_eq!(is_whole(&qcow2(name, format)), expected, "{name} {format}");
        }
        // Version 3, whose header has 104 bytes, with and without an external data file.
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.resize(104, 0);
        head[103] = 104;
        assert!(is_whole(&head));
        head[79] = 1 << 2;
        assert!(!is_whole(&head), "its data lies elsewhere");
        let mut no_text = qcow2("/base", "raw");
        no_text[256] = 0xff;
        assert!(!is_whole(&no_text), "a name that is no text");
        assert!(!is_whole(b"QFI\xfb\0\0"), "a head that ends too early");
        fs::remove_file(&path).unwrap();
    }
}
