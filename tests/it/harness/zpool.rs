//! A pool of real ZFS volumes in the virtual machine of `tests/lab`, and the volumes of a guest there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, iter};

use super::agent::Agent;
use super::boot_sector::boot_sector;
use super::cost::slow;
use super::skip::Skip;
use super::support::{poll, wait_until};

/// The libvirtd of the virtual machine.
pub(crate) const LIBVIRT: &str = "qemu:///system";
/// Longer than the emulated machine needs for work of a second or two.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A pool: the pool of the virtual machine, or a pool for one test, which is destroyed on drop.
pub(crate) struct Pool {
    pub(crate) name: String,
    /// The file of a pool for one test.
    pub(crate) file: Option<PathBuf>,
}

impl Pool {
    /// Returns the pool of the virtual machine.
    ///
    /// # Errors
    /// Outside the lab.
    pub(crate) fn shared() -> Result<Self, Skip> {
        match env::var("MISTIFY_TEST_ZPOOL") {
            Ok(name) => {
                slow("runs in an emulated machine");
                Ok(Self { name, file: None })
            }
            Err(_) => Err(Skip("MISTIFY_TEST_ZPOOL names no pool: make test-lab".to_owned())),
        }
    }

    /// Makes a pool for one test, on a sparse file of `mib` (64 or more).
    pub(crate) fn own(mib: u64) -> Result<Self, Skip> {
        Self::shared()?;
        let name = fresh("pool");
        let path = Path::new("/var/tmp").join(&name);
        File::create(&path).and_then(|file| file.set_len(mib << 20)).expect("there is room");
        run("zpool", &["create", &name, path.to_str().expect("UTF-8")]);
        Ok(Self { name, file: Some(path) })
    }

    /// Starts an agent with this pool on the virtual machine's libvirtd, with Linux bridges.
    pub(crate) fn agent(&self) -> Agent {
        Agent::start(&["--zpool", &self.name, "--bridge-type", "linux"])
    }

    /// Returns a guest's name that no other test has, and the dataset of the guest's volumes.
    pub(crate) fn directory(&self) -> Directory {
        let guest = fresh("guest");
        Directory { dataset: format!("{}/guests/{guest}", self.name), guest }
    }

    /// Fills the pool with a file, and returns its path.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = Path::new("/").join(&self.name).join("filler");
        let mut file = File::create(&path).expect("the pool is mounted");
        // Random bytes, because ZFS may compress others; read once, because that takes time.
        let mut noise = vec![0; 1 << 20];
        File::open("/dev/urandom").and_then(|mut r| r.read_exact(&mut noise)).expect("there is");
        for bytes in [1 << 20, 4096] {
            let error = iter::repeat_with(|| file.write_all(&noise[..bytes])).find_map(Result::err);
            assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
        }
        path
    }

    /// Lists the datasets and snapshots of the pool with their properties, one a line.
    pub(crate) fn listing(&self) -> String {
        listing(&self.name)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        // The virtual machine is discarded after the tests, so an error here does no harm.
        quietly("zpool", &["destroy", "-f", &self.name]);
        let _ = fs::remove_file(file);
    }
}

/// The name of a guest and the dataset of its volumes; both are destroyed on drop.
pub(crate) struct Directory {
    pub(crate) guest: String,
    pub(crate) dataset: String,
}

impl Directory {
    /// Returns the name of the guest's n-th volume.
    pub(crate) fn volume(&self, index: usize) -> String {
        format!("{}/disk-{index}", self.dataset)
    }

    /// Returns a MAC address that no other guest of these tests has.
    pub(crate) fn mac(&self) -> String {
        let number = self.guest.rsplit('-').next().and_then(|number| number.parse::<u16>().ok());
        let [high, low] = number.expect("fresh").to_be_bytes();
        format!("02:00:00:30:{high:02x}:{low:02x}")
    }

    /// Makes the n-th volume without the agent, bootable and with `mib` MiB; returns its device.
    pub(crate) fn make_bootable(&self, index: usize, mib: u64) -> PathBuf {
        let volume = self.volume(index);
        zfs(&["create", "-p", "-s", "-V", &format!("{mib}M"), &volume]);
        let device = device(&volume);
        wait_until("udev makes the link", SOON, || is_block_device(&device));
        // Never `create`: that would make a regular file if the device has disappeared.
        let mut file = OpenOptions::new().write(true).open(&device).expect("the device is there");
        file.write_all(&boot_sector()).expect("the volume has a first sector");
        file.sync_all().expect("it is written");
        device
    }

    /// Lists the guest's datasets and snapshots with their properties, one a line; empty if there are none.
    pub(crate) fn listing(&self) -> String {
        listing(&self.dataset)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        quietly("virsh", &["destroy", &self.guest]);
        quietly("virsh", &["undefine", &self.guest]);
        // A volume is busy while udev examines it after its last close.
        poll(SOON, || {
            let output = quietly("zfs", &["destroy", "-r", &self.dataset]);
            let gone = String::from_utf8_lossy(&output.stderr).contains("does not exist");
            (gone || output.status.success()).then_some(())
        });
    }
}

/// Returns a name that no other test of this process has.
pub(crate) fn fresh(word: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{word}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Returns the device of a volume.
pub(crate) fn device(volume: &str) -> PathBuf {
    Path::new("/dev/zvol").join(volume)
}

pub(crate) fn is_block_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// Lists a dataset and its descendants by name; empty if there is no such dataset.
pub(crate) fn listing(dataset: &str) -> String {
    let facts = "name,type,origin,volsize,io.mistify:owner";
    let output = quietly("zfs", &["list", "-Hp", "-t", "all", "-r", "-o", facts, dataset]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the zfs commands that have changed a pool.
pub(crate) fn history(pool: &str) -> Vec<String> {
    let text = run("zpool", &["history", pool]);
    let commands = text.lines().filter_map(|line| line.split_once(' ').map(|(_, it)| it));
    commands.filter(|it| it.starts_with("zfs ")).map(str::to_owned).collect()
}

/// Runs a zfs command that must succeed; returns its standard output.
pub(crate) fn zfs(arguments: &[&str]) -> String {
    run("zfs", arguments)
}

/// Makes a pool write its pending data, so that its counters are up to date.
pub(crate) fn zpool_sync(pool: &str) {
    run("zpool", &["sync", pool]);
}

/// Runs a virsh command that must succeed; returns its standard output.
pub(crate) fn virsh(arguments: &[&str]) -> String {
    run("virsh", &[&["-q"], arguments].concat())
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = quietly(program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program with any exit status.
pub(crate) fn quietly(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{program} starts: {error}"))
}
