//! What the claims need: a store, names that are a test's own, content.

use std::env;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mistify_libvirt::config::StorageLimits;
use mistify_libvirt::storage::{
    AdoptionRule, Dataset, DirectoryStore, Id, ImageSource, InUse, MIB, Maker, PoolName, Recursion,
    Space, StoredImage, StoredVolume, VolumeSelection, VolumeSpec, Volumes, ZfsStore,
};

use crate::harness::skip::{Skip, require};
use crate::harness::support::Scratch;

/// A store to try, and how its devices look.
pub(crate) struct Bench {
    pub(crate) store: Box<dyn Volumes>,
    /// Whether devices are block devices, and not files.
    pub(crate) block: bool,
    pub(crate) scratch: Scratch,
    number: u32,
}

impl Bench {
    pub(crate) fn on_directory() -> Self {
        let scratch = Scratch::new();
        let (pool, root) = (PoolName::parse("tank").unwrap(), scratch.path().join("store"));
        let store = Box::new(DirectoryStore::new(pool, root, limits()));
        Self::of(store, false, scratch)
    }

    /// On the real pool, if there is one.
    pub(crate) fn on_zpool() -> Option<Self> {
        crate::harness::cost::slow("runs in an emulated machine");
        let store = Box::new(ZfsStore::new(zpool()?, limits()));
        Some(Self::of(store, true, Scratch::new()))
    }

    /// On the real pool by another program.
    pub(crate) fn on_zpool_by(program: &Path, scratch: Scratch) -> Option<Self> {
        crate::harness::cost::slow("runs in an emulated machine");
        let store = ZfsStore::with_program(zpool()?, limits(), program.to_owned());
        Some(Self::of(Box::new(store), true, scratch))
    }

    fn of(store: Box<dyn Volumes>, block: bool, scratch: Scratch) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        store.prepare(soon()).expect("the store is ready");
        Self { store, block, scratch, number }
    }

    /// An id that no other test uses.
    pub(crate) fn id(&self, name: &str) -> Id {
        Id::parse(&format!("t-{}-{}-{name}", process::id(), self.number)).unwrap()
    }

    pub(crate) fn disk(&self, guest: &Id, index: usize) -> Dataset {
        self.store.pool().guest_disk(guest, index).unwrap()
    }

    /// A guest's disk of 8 MiB, blank and reserved.
    pub(crate) fn wanted(&self, guest: &Id, index: usize) -> VolumeSpec {
        VolumeSpec {
            volume: self.disk(guest, index),
            image: None,
            size_mib: 8,
            space: Space::Reserved,
            owner: Some(guest.clone()),
            maker: None,
            adoption: AdoptionRule::Any,
            unmarked: false,
            content: None,
        }
    }

    pub(crate) fn make(&self, wanted: &VolumeSpec) -> StoredVolume {
        self.store.provision(wanted, soon()).expect("the volume is made")
    }

    /// An image of 4 MiB that begins with `text`.
    pub(crate) fn image(&self, id: &Id, text: &str) -> StoredImage {
        let path = self.scratch.path().join(id.as_str());
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.unwrap();
        file.set_len(4 * MIB).unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
        file.write_all_at(b"the end", 4 * MIB - 7).unwrap();
        let source = ImageSource::Raw(&file);
        self.store.import_image(id, source, &mut |_| {}).expect("the image is imported")
    }

    /// Returns the full names of all volumes and snapshots of this guest.
    pub(crate) fn all_of(&self, guest: &Id) -> Vec<String> {
        let guest = format!("{}/", self.store.pool().guest(guest).unwrap());
        let volumes = self.store.volumes(None, soon()).unwrap();
        let snapshots = self.store.snapshots(None, soon()).unwrap();
        let names = volumes.iter().map(|volume| volume.name.to_string());
        let names = names.chain(snapshots.iter().map(|snapshot| snapshot.name.to_string()));
        names.filter(|name| name.starts_with(&guest)).collect()
    }

    /// Whether even the guest's file system is gone.
    pub(crate) fn is_gone(&self, guest: &Id) -> bool {
        let guest = self.store.pool().guest(guest).unwrap();
        self.store.volumes(Some(&guest), soon()).is_err()
    }

    pub(crate) fn clean_up(&self, guest: &Id) {
        let removal = self
            .store
            .destroy_guest(guest, VolumeSelection::Anyones, &InUse::default(), soon())
            .unwrap();
        assert_eq!(removal.left, []);
        assert!(self.is_gone(guest));
    }

    pub(crate) fn snapshot(&self, volume: &Dataset, name: &str) {
        let name = volume.snapshot(name).unwrap();
        self.store
            .create_snapshot(&name, Recursion::Itself, &Maker::call(), soon())
            .expect("the snapshot is taken");
    }

    pub(crate) fn check_device(&self, volume: &StoredVolume) {
        let kind = std::fs::metadata(&volume.device).expect("the device is there").file_type();
        assert_eq!((kind.is_block_device(), kind.is_file()), (self.block, !self.block));
    }
}

/// The pool for tests, if this machine has one.
pub(crate) fn zpool() -> Option<PoolName> {
    let named = env::var("MISTIFY_TEST_ZPOOL")
        .map_err(|_| Skip("MISTIFY_TEST_ZPOOL names no pool to make volumes in".to_owned()));
    let name = require("lab", named)?;
    Some(PoolName::parse(&name).expect("MISTIFY_TEST_ZPOOL is the name of a pool"))
}

/// Patient with a machine that is emulated, except where a test waits for the end of patience.
fn limits() -> StorageLimits {
    StorageLimits {
        device: Duration::from_secs(60),
        busy: Duration::from_secs(20),
        undo: Duration::from_secs(60),
        ..StorageLimits::default()
    }
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

pub(crate) fn write(volume: &StoredVolume, text: &str) {
    let device = File::options().write(true).open(&volume.device).expect("the device opens");
    device.write_all_at(text.as_bytes(), 0).unwrap();
    device.sync_all().unwrap();
}

/// The first bytes of a device, as many as `text` has, past all caches of this process.
pub(crate) fn begins_with(path: &Path, text: &str) -> bool {
    let mut bytes = vec![0; text.len()];
    let device = File::open(path).expect("the device opens");
    device.read_exact_at(&mut bytes, 0).unwrap();
    bytes == text.as_bytes()
}

/// A process that has the volume open until it is dropped.
pub(crate) struct Holder(Child);

impl Holder {
    pub(crate) fn of(volume: &StoredVolume) -> Self {
        Self::of_device(&volume.device)
    }

    pub(crate) fn of_device(path: &Path) -> Self {
        let device = File::open(path).expect("the device opens");
        let mut command = Command::new("/bin/cat");
        // It waits for the end of its input and has the device as its error output's place.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::from(device));
        Self(command.spawn().expect("cat starts"))
    }

    pub(crate) fn name(&self) -> String {
        format!("cat ({})", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("cat ends with its input");
    }
}
