//! Detects the format of a file from its first bytes. No program opens the file for that: `qemu-img info` would follow
//! file names in the header of a format.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The offset of the magic number in a stream of `zfs send`, in the sender's byte order.
const ZFS_MARK_AT: usize = 8;
const ZFS_MARK: u64 = 0x2_f5ba_cbac;
/// The number of bytes to inspect: the longest relevant header is that of qcow2, with 104.
const START_BYTES: usize = 512;
/// A bit in qcow2's incompatible features: the content is in another file.
const QCOW2_DATA_FILE: u64 = 1 << 2;

/// The names of the accepted formats.
const RAW: &str = "raw";
const QCOW2: &str = "qcow2";
const ZFS_STREAM: &str = "zfs stream";
/// An encrypted disk.
const LUKS: &str = "luks";

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A raw disk.
    Raw {
        /// The size of the disk.
        size_bytes: u64,
    },
    /// qemu's own format, without a backing file.
    Qcow2 {
        /// The virtual size of the disk.
        size_bytes: u64,
    },
    /// The output of `zfs send`.
    ZfsStream {
        /// The size of the stream.
        size_bytes: u64,
    },
}

/// Rejected formats: qemu's name, and the offset and bytes of the signature.
const OTHERS: [(&str, usize, &[u8]); 13] = [
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    (LUKS, 0, b"LUKS\xba\xbe"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
    ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
];

impl Format {
    /// Detects the format of a file; the file position stays unchanged.
    ///
    /// # Errors
    /// If the file cannot be read, or its format is not accepted.
    pub(crate) fn of(content: &File) -> Result<Self, String> {
        let start = first_bytes(content).map_err(|error| error.to_string())?;
        let size_bytes = content.metadata().map_err(|error| error.to_string())?.len();
        Self::from_start(&start, size_bytes)
    }

    /// Detects the format from the first bytes of a file and its size.
    fn from_start(start: &[u8], size_bytes: u64) -> Result<Self, String> {
        match name(start) {
            ZFS_STREAM => Ok(Self::ZfsStream { size_bytes }),
            QCOW2 => Self::qcow2(start),
            RAW => Ok(Self::Raw { size_bytes }),
            other => Err(format!("the format is {other}, not raw, qcow2 or a zfs stream")),
        }
    }

    /// Reads a header of qcow2 (docs/interop/qcow2.txt of qemu). It is read only once: later writes by the file's owner
    /// change neither the limits of `qemu-img` nor the size of the image.
    fn qcow2(start: &[u8]) -> Result<Self, String> {
        let number = |at: usize| {
            let bytes = start.get(at..).and_then(|rest| rest.first_chunk::<8>());
            bytes.map(|bytes| u64::from_be_bytes(*bytes)).ok_or("the qcow2 header is incomplete")
        };
        let version = number(4)? >> 32;
        let (backing_file_at, size_bytes) = (number(8)?, number(24)?);
        let features = match version {
            2 => 0,
            3 => number(72)?,
            _ => return Err(format!("qcow2 version {version} is not supported")),
        };
        // Either would include files that the request does not name.
        if backing_file_at != 0 || features & QCOW2_DATA_FILE != 0 {
            return Err("the disk needs another file".to_owned());
        }
        match size_bytes {
            0 => Err("the size of the disk is 0".to_owned()),
            size_bytes => Ok(Self::Qcow2 { size_bytes }),
        }
    }

    pub(crate) fn size_bytes(self) -> u64 {
        match self {
            Self::Raw { size_bytes }
            | Self::Qcow2 { size_bytes }
            | Self::ZfsStream { size_bytes } => size_bytes,
        }
    }
}

/// Reads the first bytes of a file, as many as are inspected; the file position stays unchanged.
pub(crate) fn first_bytes(content: &File) -> io::Result<Vec<u8>> {
    let mut start = vec![0; START_BYTES];
    let mut read = 0;
    while let Some(rest) = start.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match content.read_at(rest, u64::try_from(read).map_err(io::Error::other)?) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(read);
    Ok(start)
}

/// Returns the name of a format from the first bytes of a disk.
fn name(start: &[u8]) -> &'static str {
    let has = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|it| it.starts_with(magic));
    match OTHERS.iter().find(|(_, at, magic)| has(*at, magic)) {
        _ if is_zfs_stream(start) => ZFS_STREAM,
        Some((name, ..)) => name,
        None if has(0, b"QFI\xfb") => QCOW2,
        None => RAW,
    }
}

/// Returns the format of a disk that qemu would have to translate for the guest. `None` for a raw disk with any
/// content, for example an encrypted one, which its guest decrypts.
///
/// # Errors
/// If the disk cannot be read.
pub(crate) fn container_of(disk: &File) -> io::Result<Option<&'static str>> {
    const CONTAINERS: [&str; 8] = [QCOW2, "qcow", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"];
    Ok(Some(name(&first_bytes(disk)?)).filter(|name| CONTAINERS.contains(name)))
}

fn is_zfs_stream(start: &[u8]) -> bool {
    let mark = start.get(ZFS_MARK_AT..).and_then(|rest| rest.first_chunk());
    mark.is_some_and(|mark| {
        [u64::from_le_bytes(*mark), u64::from_be_bytes(*mark)].contains(&ZFS_MARK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn zfs_stream_is_recognized_in_both_byte_orders() {
        for mark in [ZFS_MARK.to_le_bytes(), ZFS_MARK.to_be_bytes()] {
            assert!(is_zfs_stream(&[&[0; 8], &mark[..]].concat()));
            assert!(!is_zfs_stream(&mark));
        }
        assert!(!is_zfs_stream(&[0; 16]) && !is_zfs_stream(b"short"));
    }

    /// Returns the header that `qemu-img create -f qcow2` of qemu 7.2 writes for 1 MiB, with one number changed.
    fn header(at: usize, value: u64) -> Vec<u8> {
        let mut header = vec![0; 112];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        header[24..32].copy_from_slice(&MIB.to_be_bytes());
        header[at..at + 8].copy_from_slice(&value.to_be_bytes());
        header
    }

    #[test]
    fn first_bytes_are_accepted_or_refused() {
        let format = |start: &[u8]| Format::from_start(start, 7);
        assert_eq!(format(b""), Ok(Format::Raw { size_bytes: 7 }));
        assert_eq!(format(&[0; 512]), Ok(Format::Raw { size_bytes: 7 }));
        let qcow2 = Ok(Format::Qcow2 { size_bytes: MIB });
        assert_eq!(format(&header(24, MIB)), qcow2);
        assert_eq!(format(&header(72, 1)), qcow2, "a dirty bit");
        let old = [b"QFI\xfb\0\0\0\x02", &header(24, MIB)[8..72]].concat();
        assert_eq!(format(&old), qcow2);
        let at_64 = [&[0; 64][..], b"\x7f\x10\xda\xbe"].concat();
        for (start, why) in [
            (b"KDMV".to_vec(), "the format is vmdk, not raw, qcow2 or a zfs stream"),
            (at_64, "the format is vdi, "),
            (b"QFI\xfb\0\0\0\x01".to_vec(), "the format is qcow, "),
            (b"QFI\xfb\0\0\0\x03".to_vec(), "the qcow2 header is incomplete"),
            (header(4, 4 << 32), "qcow2 version 4 is not supported"),
            (header(24, 0), "the size of the disk is 0"),
            (header(8, 0x210), "the disk needs another file"),
            (header(72, 4), "the disk needs another file"),
        ] {
            let error = format(&start).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
