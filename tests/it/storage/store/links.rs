//! Links in a directory store, and directories in it or on its way that others can change.
//!
//! Only root and the agent's user can make the first; a store of an older version, or one below a directory
//! that another user may write to, can have them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mistify_libvirt::config::{HostConfig, StorageLimits, Store};
use mistify_libvirt::os::resolve::TrustedUsers;
use mistify_libvirt::storage::{
    self, Dataset, Error, Id, ImageSource, InUse, Maker, NewerSnapshots, Recursion, StoredVolume,
    VolumeSelection, VolumeSpec,
};

use super::bench::{Bench, soon, write};
use crate::harness::support::{Scratch, files_below};

/// A store, and a directory beside it with files that nobody is to touch.
struct Trap {
    bench: Bench,
    outside: PathBuf,
}

impl Trap {
    fn new() -> Self {
        let bench = Bench::on_directory();
        let outside = bench.scratch.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("disk-0"), "secret".repeat(1000)).unwrap();
        Self { bench, outside }
    }

    fn store(&self, relative: &str) -> PathBuf {
        self.bench.scratch.path().join("store").join(relative)
    }

    /// Replaces an entry of the store by a link.
    fn link(&self, relative: &str, target: &Path) {
        let path = self.store(relative);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        symlink(target, path).unwrap();
    }

    fn dataset(&self, relative: &str) -> Dataset {
        self.bench.store.pool().dataset(relative).unwrap()
    }

    /// A volume of this guest, `disk-0`.
    fn volume(&self, guest: &Id) -> StoredVolume {
        let volume = self.bench.make(&VolumeSpec { image: None, ..self.bench.wanted(guest, 0) });
        write(&volume, "content");
        volume
    }

    /// Checks that the directory outside is as it was.
    fn is_untouched(&self) {
        let mut found = Vec::new();
        files_below(&self.outside, &mut found);
        let secret = self.outside.join("disk-0");
        assert_eq!(found, [secret.display().to_string()]);
        assert_eq!(fs::read_to_string(secret).unwrap(), "secret".repeat(1000));
    }
}

/// Checks that a call was refused because of this link.
fn is_refused<T: std::fmt::Debug>(outcome: Result<T, Error>, link: &Path) {
    let error = outcome.expect_err("a link is on the way");
    let why = format!("{} is a symbolic link", link.display());
    assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
    assert!(error.to_string().ends_with(&why), "{error}");
}

#[test]
fn a_link_in_place_of_a_guest_is_not_followed() {
    let trap = Trap::new();
    let (store, guest) = (&trap.bench.store, trap.bench.id("linked"));
    let relative = format!("guests/{guest}");
    trap.link(&relative, &trap.outside);
    let (link, none) = (trap.store(&relative), InUse::default());
    let disk = trap.dataset(&format!("{relative}/disk-0"));
    let monday = disk.snapshot("monday").unwrap();
    let wanted = trap.bench.wanted(&guest, 1);

    is_refused(store.delete(&disk, Recursion::Below, &none, soon()), &link);
    is_refused(store.delete(&trap.dataset(&relative), Recursion::Below, &none, soon()), &link);
    is_refused(store.destroy_guest(&guest, VolumeSelection::Anyones, &none, soon()), &link);
    is_refused(store.destroying_guest(&guest, &none, soon()), &link);
    is_refused(store.grow(&disk, 8, soon()), &link);
    is_refused(store.volume(&disk, soon()), &link);
    is_refused(store.plan(std::slice::from_ref(&wanted), soon()), &link);
    is_refused(store.set_maker(&disk, &Maker::call(), soon()), &link);
    is_refused(store.create_snapshot(&monday, Recursion::Itself, &Maker::call(), soon()), &link);
    is_refused(store.snapshots(Some(&disk), soon()), &link);
    is_refused(store.delete_snapshot(&monday, Recursion::Itself, soon()), &link);
    is_refused(store.rollback(&monday, NewerSnapshots::Destroy, soon()), &link);
    is_refused(store.send(&monday, soon()).map(drop), &link);
    trap.is_untouched();
    assert_eq!(store.volumes(None, soon()).unwrap(), [], "a list has no links");
}

#[test]
fn link_created_after_the_plan_is_not_followed() {
    let trap = Trap::new();
    let (store, guest) = (&trap.bench.store, trap.bench.id("late"));
    let planned = store.plan(&[trap.bench.wanted(&guest, 1)], soon()).unwrap().remove(0);
    trap.link(&format!("guests/{guest}"), &trap.outside);
    let link = trap.store(&format!("guests/{guest}"));
    is_refused(store.make(&planned, soon()), &link);
    let made = planned.to_make().unwrap();
    is_refused(store.take_back(&[made], &InUse::default(), soon()), &link);
    trap.is_untouched();
}

#[test]
fn a_link_in_place_of_a_dataset_is_not_followed() {
    let trap = Trap::new();
    let (store, guest) = (&trap.bench.store, trap.bench.id("deep"));
    trap.volume(&guest);
    let relative = format!("guests/{guest}/data");
    trap.link(&relative, &trap.outside);
    let (link, none) = (trap.store(&relative), InUse::default());
    let below = trap.dataset(&format!("{relative}/disk-0"));
    is_refused(store.delete(&below, Recursion::Itself, &none, soon()), &link);
    is_refused(store.delete(&trap.dataset(&relative), Recursion::Below, &none, soon()), &link);
    // The volumes beside it go, and the link stays with the directory that it is in.
    let removal = store.destroy_guest(&guest, VolumeSelection::Anyones, &none, soon()).unwrap();
    assert_eq!(removal.left, []);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    trap.is_untouched();
}

#[test]
fn a_link_in_place_of_a_volume_is_no_volume() {
    let trap = Trap::new();
    let (store, guest) = (&trap.bench.store, trap.bench.id("volume"));
    let volume = trap.volume(&guest);
    let monday = volume.name.snapshot("monday").unwrap();
    trap.link(volume.name.relative(), &trap.outside.join("disk-0"));
    let link = trap.store(volume.name.relative());
    let not_found = |error: Error| assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    not_found(store.volume(&volume.name, soon()).unwrap_err());
    not_found(store.grow(&volume.name, 64, soon()).unwrap_err());
    let error = store.plan(&[trap.bench.wanted(&guest, 0)], soon()).unwrap_err();
    assert!(matches!(&error, Error::Differs { what, .. } if *what == ["it is not a volume"]));
    is_refused(store.create_snapshot(&monday, Recursion::Itself, &Maker::call(), soon()), &link);
    let recursion = Recursion::Below;
    let above = trap.dataset(&format!("guests/{guest}")).snapshot("monday").unwrap();
    let made = store.create_snapshot(&above, recursion, &Maker::call(), soon()).unwrap();
    assert_eq!(made.len(), 1, "{made:?}");
    is_refused(store.delete(&volume.name, recursion, &InUse::default(), soon()), &link);
    trap.is_untouched();
}

#[test]
fn links_in_place_of_properties_are_not_read() {
    let trap = Trap::new();
    let (store, guest) = (&trap.bench.store, trap.bench.id("marked"));
    let volume = trap.volume(&guest);
    let properties = format!("{}#", volume.name.relative());
    let copy = trap.bench.scratch.path().join("copy");
    fs::copy(trap.store(&properties), &copy).unwrap();
    trap.link(&properties, &copy);
    let (link, none) = (trap.store(&properties), InUse::default());
    is_refused(store.volume(&volume.name, soon()), &link);
    is_refused(store.set_maker(&volume.name, &Maker::call(), soon()), &link);
    is_refused(store.destroy_guest(&guest, VolumeSelection::Marked, &none, soon()), &link);
    assert!(volume.device.exists() && copy.exists());
}

#[test]
fn a_link_in_place_of_a_snapshot_is_none() {
    let trap = Trap::new();
    let (store, guest) = (&trap.bench.store, trap.bench.id("snapshot"));
    let volume = trap.volume(&guest);
    let monday = volume.name.snapshot("monday").unwrap();
    trap.link(&format!("{}@monday", volume.name.relative()), &trap.outside.join("disk-0"));
    assert_eq!(store.snapshots(Some(&volume.name), soon()).unwrap(), []);
    let not_found = |error: Error| assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    not_found(store.send(&monday, soon()).err().unwrap());
    not_found(store.rollback(&monday, NewerSnapshots::Keep, soon()).unwrap_err());
    not_found(store.delete_snapshot(&monday, Recursion::Itself, soon()).unwrap_err());
    let error =
        store.create_snapshot(&monday, Recursion::Itself, &Maker::call(), soon()).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    trap.is_untouched();
}

#[test]
fn a_link_in_place_of_an_images_file_is_not_cloned() {
    let trap = Trap::new();
    let (store, guest, id) = (&trap.bench.store, trap.bench.id("clone"), trap.bench.id("image"));
    trap.bench.image(&id, "the image");
    let wanted =
        VolumeSpec { image: Some(id.clone()), size_mib: 0, ..trap.bench.wanted(&guest, 0) };
    let planned = store.plan(std::slice::from_ref(&wanted), soon()).unwrap().remove(0);
    for end in ["@image", ""] {
        trap.link(&format!("images/{id}{end}"), &trap.outside.join("disk-0"));
        assert_eq!(store.images(soon()).unwrap(), [], "{end}");
        let error = store.plan(std::slice::from_ref(&wanted), soon()).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{end}: {error:?}");
        let error = store.make(&planned, soon()).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{end}: {error:?}");
    }
    trap.is_untouched();
}

#[test]
fn a_link_in_place_of_images_takes_no_import() {
    let trap = Trap::new();
    let (store, id) = (&trap.bench.store, trap.bench.id("image"));
    trap.link("images", &trap.outside);
    let link = trap.store("images");
    let raw = fs::File::open(trap.outside.join("disk-0")).unwrap();
    is_refused(store.import_image(&id, ImageSource::Raw(&raw), &mut |_| {}), &link);
    is_refused(store.prepare(soon()), &link);
    is_refused(store.image(&id, soon()), &link);
    is_refused(store.images(soon()), &link);
    is_refused(store.delete_image(&id, soon()), &link);
    trap.is_untouched();
}

#[test]
fn a_link_in_place_of_an_images_lock_takes_no_import() {
    let trap = Trap::new();
    let (store, id) = (&trap.bench.store, trap.bench.id("image"));
    let lock = format!("images/{id}%");
    trap.link(&lock, &trap.outside.join("new"));
    let raw = fs::File::open(trap.outside.join("disk-0")).unwrap();
    is_refused(store.import_image(&id, ImageSource::Raw(&raw), &mut |_| {}), &trap.store(&lock));
    trap.is_untouched();
}

#[test]
fn a_directory_that_others_can_change_is_not_used() {
    let trap = Trap::new();
    let (store, guest) = (&trap.bench.store, trap.bench.id("open"));
    let volume = trap.volume(&guest);
    let directory = format!("guests/{guest}");
    for (relative, mode, by) in [
        (directory.as_str(), 0o777, "all users"),
        (&directory, 0o1777, "all users"),
        (&directory, 0o770, "group 0"),
        ("guests", 0o777, "all users"),
        ("", 0o777, "all users"),
    ] {
        let path = trap.store(relative).components().collect::<PathBuf>();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = store.delete(&volume.name, Recursion::Below, &InUse::default(), soon());
        let said = error.unwrap_err().to_string();
        assert!(said.contains(&format!("{} can be changed by ", path.display())), "{said}");
        let who = if by == "all users" { by } else { "group " };
        assert!(said.contains(who), "{mode:o}: {said}");
        fs::set_permissions(&path, Permissions::from_mode(0o711)).unwrap();
    }
    assert_eq!(store.volume(&volume.name, soon()).unwrap().device, volume.device);
    trap.bench.clean_up(&guest);
}

/// Opens the store in a directory, as the agent does at its start; what it says against it.
fn open(root: &Path) -> Option<String> {
    let host = HostConfig { store: Store::Directory(root.to_owned()), ..HostConfig::default() };
    storage::open(&host, &StorageLimits::default(), TrustedUsers::own(), None)
        .err()
        .map(|error| error.to_string())
}

#[test]
fn a_root_that_others_can_lead_elsewhere_is_refused() {
    let scratch = Scratch::new();
    let above = scratch.path().join("above");
    let root = above.join("store");
    assert_eq!(open(&root), None, "it need not be there yet");
    fs::create_dir_all(root.join("guests")).unwrap();
    assert_eq!(open(&root), None);
    symlink(&root, scratch.path().join("link")).unwrap();
    assert_eq!(open(&scratch.path().join("link")), None, "a link of ours above the store");

    for exposed in [&above, &root, &root.join("guests")] {
        fs::set_permissions(exposed, Permissions::from_mode(0o777)).unwrap();
        let why = format!(
            "{} can be changed by all users; only root and the agent's user may own it and write to it",
            exposed.display()
        );
        for path in [&root, &scratch.path().join("link")] {
            let said = open(path).expect("it is refused");
            // Through the link the root has another name.
            let named = exposed.file_name().unwrap() == "above" || path == &root;
            assert!(said.starts_with("cannot use ") && (!named || said.ends_with(&why)), "{said}");
        }
        fs::set_permissions(exposed, Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&above, Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(open(&root), None, "what is ours in a directory with the sticky bit");
    let absent = open(&above.join("absent")).expect("whoever comes first makes it");
    assert!(absent.contains("absent can be changed by all users"), "{absent}");
    fs::set_permissions(&above, Permissions::from_mode(0o755)).unwrap();

    symlink(scratch.path(), root.join("images")).unwrap();
    let said = open(&root).expect("it is refused");
    let link = root.join("images");
    assert!(said.ends_with(&format!("{} is a symbolic link", link.display())), "{said}");
}
