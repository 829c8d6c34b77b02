//! The device of a volume: waits for it, and verifies its volume.
//!
//! udev creates the link below `/dev/zvol` some time after `zfs create` returns, and removes the link of a destroyed
//! volume some time after the volume. So the link is trusted only if the device behind it reports the volume's name.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::debug;

use crate::os::disk;
use crate::os::watch::{Event, Watch};
use crate::storage::{Dataset, Error};

/// The directory of device nodes and udev's links.
const DEVICES: &str = "/dev";
/// The interval of checks without an event: for a device whose link existed before it.
const LOOK: Duration = Duration::from_millis(100);
/// The unit of sizes in the kernel.
const SECTOR_BYTES: u64 = 512;

/// Returns the link that udev creates.
pub(super) fn path(volume: &Dataset) -> PathBuf {
    Path::new(DEVICES).join("zvol").join(volume.as_str())
}

/// Returns the dataset's full name for the path of its link.
pub(super) fn name_at(path: &Path) -> Option<&str> {
    path.strip_prefix(DEVICES).ok()?.strip_prefix("zvol").ok()?.to_str()
}

/// Waits for the volume's own device of at least this size, and returns its size in bytes.
pub(super) fn wait(volume: &Dataset, bytes_min: u64, limit: Duration) -> Result<u64, Error> {
    let (path, begin) = (path(volume), Instant::now());
    let look = || {
        let bytes = size(&path, volume).filter(|bytes| *bytes >= bytes_min)?;
        debug!("{} appeared after {} us", path.display(), begin.elapsed().as_micros());
        Some(bytes)
    };
    let watched = |error| Error::io(format!("watch for {}", path.display()), error);
    let watch = Watch::new().map_err(watched)?;
    loop {
        if let Some(bytes) = look() {
            return Ok(bytes);
        }
        for directory in path.ancestors().skip(1).take_while(|it| it.starts_with(DEVICES)) {
            // A missing directory will appear in its parent; a directory that cannot be watched is still checked.
            let _ = watch.add(directory, Event::Entries);
        }
        // Checks again, for a device that appeared before the watch.
        if let Some(bytes) = look() {
            return Ok(bytes);
        }
        let waited = begin.elapsed();
        if waited >= limit {
            return Err(Error::NoDevice { path, waited });
        }
        watch.wait(LOOK.min(limit - waited)).map_err(watched)?;
    }
}

/// Returns the size of the device behind the link, if it is the volume's own.
fn size(path: &Path, volume: &Dataset) -> Option<u64> {
    // Opened only after it is known to be a block device, and never with O_CREAT.
    let real = fs::canonicalize(path).ok()?;
    let block = fs::metadata(&real).ok()?.file_type().is_block_device();
    let name = disk::zvol_name(&File::open(block.then_some(&real)?).ok()?).ok()?;
    if name != volume.as_str() {
        return None;
    }
    let sectors = Path::new("/sys/class/block").join(real.file_name()?).join("size");
    let sectors: u64 = fs::read_to_string(sectors).ok()?.trim().parse().ok()?;
    sectors.checked_mul(SECTOR_BYTES)
}
