//! Changes of others in the directory of a directory store between two calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;
use std::time::Instant;

use mistify_libvirt::config::StorageLimits;
use mistify_libvirt::storage::{
    Dataset, DirectoryStore, Error, Id, ImageSource, InUse, Maker, NewerSnapshots, PoolName,
    Recursion, StoredVolume, VolumeSelection, VolumeSpec, Volumes,
};

use super::bench::{Bench, Holder, begins_with, soon, write};
use crate::harness::skip::{Skip, require};
use crate::harness::support::files_below;

fn path(bench: &Bench, name: &Dataset) -> PathBuf {
    bench.scratch.path().join("store").join(name.relative())
}

/// A file that is a mount point, so that it cannot be removed.
struct Mounted(PathBuf);

impl Mounted {
    fn on_itself(file: &Path) -> Result<Self, Skip> {
        let mount = Command::new("mount").arg("--bind").args([file, file]).output();
        let mount = mount.map_err(|error| Skip(format!("mount does not start: {error}")))?;
        match mount.status.success() {
            true => Ok(Self(file.to_owned())),
            false => Err(Skip(String::from_utf8_lossy(&mount.stderr).trim().to_owned())),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "{}", self.0.display());
    }
}

/// Returns all objects in the store.
fn everything(bench: &Bench) -> Vec<String> {
    let mut found = Vec::new();
    files_below(&bench.scratch.path().join("store"), &mut found);
    found.sort();
    found
}

#[test]
fn directory_in_place_of_a_disk_is_no_volume() {
    let bench = Bench::on_directory();
    let guest = bench.id("folder");
    let wanted = bench.wanted(&guest, 0);
    fs::create_dir_all(path(&bench, &wanted.volume).join("others")).unwrap();
    let error = bench.store.plan(&[wanted], soon()).unwrap_err();
    assert!(matches!(&error, Error::Differs { what, .. } if *what == ["it is not a volume"]));
}

#[test]
fn file_created_after_the_plan_is_not_overwritten() {
    let bench = Bench::on_directory();
    let guest = bench.id("late");
    let wanted = bench.wanted(&guest, 0);
    let planned = bench.store.plan(slice::from_ref(&wanted), soon()).unwrap().remove(0);
    let disk = path(&bench, &wanted.volume);
    fs::create_dir_all(disk.parent().unwrap()).unwrap();
    fs::write(&disk, "precious").unwrap();
    let before = everything(&bench);
    let error = bench.store.make(&planned, soon()).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(fs::read_to_string(&disk).unwrap(), "precious");
    assert_eq!(everything(&bench), before);
}

#[test]
fn file_in_place_of_guest_directory_stays() {
    let bench = Bench::on_directory();
    let guest = bench.id("file");
    let directory = path(&bench, &bench.store.pool().guest(&guest).unwrap());
    fs::create_dir_all(directory.parent().unwrap()).unwrap();
    fs::write(&directory, "precious").unwrap();
    let error = bench.store.provision(&bench.wanted(&guest, 0), soon()).unwrap_err();
    assert!(error.to_string().contains(&directory.display().to_string()), "{error}");
    assert_eq!(fs::read_to_string(&directory).unwrap(), "precious");
}

#[test]
fn an_undo_keeps_the_properties_of_another_call() {
    let bench = Bench::on_directory();
    let guest = bench.id("shared");
    let of_call = |index| VolumeSpec { owner: None, ..bench.wanted(&guest, index) };
    let planned = bench.store.plan(&[of_call(0)], soon()).unwrap().remove(0);
    bench.store.make(&planned, soon()).unwrap();
    // Another call has written the properties of a volume that it is about to make.
    let path = path(&bench, &of_call(1).volume);
    let properties = path.with_file_name(format!("{}#", path.file_name().unwrap().display()));
    fs::write(&properties, "{}").unwrap();
    let made = planned.to_make().unwrap();
    bench.store.take_back(&[made], &InUse::default(), soon()).unwrap();
    assert!(properties.exists());
}

#[test]
fn failed_or_late_copy_leaves_not_even_a_directory() {
    let bench = Bench::on_directory();
    let (guest, id) = (bench.id("copy"), bench.id("image"));
    let image = bench.image(&id, "the image");
    let wanted = VolumeSpec { image: Some(id), size_mib: 0, ..bench.wanted(&guest, 0) };
    let planned = bench.store.plan(&[wanted], soon()).unwrap().remove(0);
    let before = everything(&bench);
    // A file system that shares blocks has made it before it looks at the clock.
    match bench.store.make(&planned, Instant::now()) {
        Ok(_) => bench.clean_up(&guest),
        Err(error) => assert!(matches!(error, Error::Late { .. }), "{error}"),
    }
    assert_eq!(everything(&bench), before);
    let at = image.snapshot.to_string();
    let gone = before.iter().find(|it| it.ends_with(at.rsplit('/').next().unwrap())).unwrap();
    fs::remove_file(gone).unwrap();
    let before = everything(&bench);
    let error = bench.store.make(&planned, soon()).unwrap_err();
    assert!(matches!(&error, Error::NotFound { name } if *name == at), "{error}");
    assert_eq!(everything(&bench), before);
}

#[test]
fn damaged_properties_are_named_and_destroy_nothing() {
    let bench = Bench::on_directory();
    let guest = bench.id("damaged");
    let volume = bench.make(&bench.wanted(&guest, 0));
    write(&volume, "precious");
    let beside = everything(&bench).into_iter().find(|it| it.ends_with("disk-0#")).unwrap();
    let kept = fs::read(&beside).unwrap();
    for damage in ["", "{", "[]", "{\"owner\":1}"] {
        fs::write(&beside, damage).unwrap();
        let named = |error: Error| {
            let text = error.to_string();
            assert!(text.contains(&beside), "{damage:?}: {text}");
        };
        named(bench.store.volume(&volume.name, soon()).unwrap_err());
        named(bench.store.plan(&[bench.wanted(&guest, 0)], soon()).unwrap_err());
        named(
            bench
                .store
                .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
                .unwrap_err(),
        );
        assert!(begins_with(&volume.device, "precious"));
    }
    fs::write(&beside, kept).unwrap();
    let found = bench.store.volume(&volume.name, soon()).unwrap();
    assert_eq!(found, StoredVolume { is_written: true, ..volume });
    bench.clean_up(&guest);
}

#[test]
fn open_image_or_volume_is_not_deleted_or_copied() {
    let bench = Bench::on_directory();
    let (guest, id) = (bench.id("open"), bench.id("open-image"));
    let image = bench.image(&id, "the image");
    let open = Holder::of_device(&path(&bench, &image.volume));
    let error = bench.store.delete_image(&id, Instant::now()).unwrap_err();
    let name = open.name();
    assert!(matches!(&error, Error::Busy { holders, .. } if *holders == [name]), "{error}");
    assert_eq!(bench.store.image(&id, soon()).unwrap(), image);
    drop(open);
    bench.store.delete_image(&id, soon()).unwrap();

    let volume = bench.make(&bench.wanted(&guest, 0));
    let open = Holder::of(&volume);
    let before = everything(&bench);
    let monday = volume.name.snapshot("monday").unwrap();
    match bench.store.create_snapshot(&monday, Recursion::Itself, &Maker::call(), Instant::now()) {
        // The file system shares blocks, and what is shared is of one moment.
        Ok(_) => {}
        Err(error) => {
            let name = open.name();
            assert!(matches!(&error, Error::Busy { holders, .. } if *holders == [name]), "{error}");
            assert_eq!(everything(&bench), before);
        }
    }
    drop(open);
    bench.clean_up(&guest);
}

#[test]
fn unused_store_has_no_images_nor_has_an_empty_file() {
    let bench = Bench::on_directory();
    let (pool, root) = (PoolName::parse("tank").unwrap(), bench.scratch.path().join("new"));
    let store = DirectoryStore::new(pool, root, StorageLimits::default());
    assert_eq!(store.images(soon()).unwrap(), []);
    let empty = bench.scratch.path().join("empty");
    fs::write(&empty, "").unwrap();
    let empty = fs::File::open(&empty).unwrap();
    let error = store.import_image(&bench.id("none"), ImageSource::Raw(&empty), &mut |_| {});
    assert!(error.unwrap_err().to_string().ends_with(" is empty"));
    assert_eq!(store.images(soon()).unwrap(), []);
}

#[test]
fn directory_snapshot_is_not_sent_nor_rolled_back() {
    let bench = Bench::on_directory();
    let guest = bench.id("sent");
    bench.make(&bench.wanted(&guest, 0));
    let directory = bench.store.pool().guest(&guest).unwrap();
    let monday = directory.snapshot("monday").unwrap();
    bench.store.create_snapshot(&monday, Recursion::Below, &Maker::call(), soon()).unwrap();
    let error = bench.store.send(&monday, soon()).err().unwrap();
    let why = format!("invalid argument: {monday} is not the snapshot of a volume");
    assert_eq!(error.to_string(), why);
    let before = everything(&bench);
    bench.store.rollback(&monday, NewerSnapshots::Keep, soon()).unwrap();
    assert_eq!(everything(&bench), before);
    bench.clean_up(&guest);
}

/// A guest's volume with the snapshot `s1`, whose file somebody has removed.
fn lost(bench: &Bench, guest: &Id) -> StoredVolume {
    let volume = bench.make(&bench.wanted(guest, 0));
    write(&volume, "SECRET");
    bench.snapshot(&volume.name, "s1");
    fs::remove_file(&volume.device).unwrap();
    volume
}

#[test]
fn a_new_volume_has_no_former_ones_snapshot() {
    let bench = Bench::on_directory();
    let guest = bench.id("lost");
    let former = lost(&bench, &guest);
    let volume = bench.make(&bench.wanted(&guest, 0));
    assert_eq!(bench.store.snapshots(Some(&volume.name), soon()).unwrap(), []);
    let snapshot = former.name.snapshot("s1").unwrap();
    let error = bench.store.rollback(&snapshot, NewerSnapshots::Keep, soon()).unwrap_err();
    assert_eq!(error.to_string(), "not found");
    assert!(!begins_with(&volume.device, "SECRET"));
}

#[test]
fn a_start_removes_snapshots_of_nothing() {
    let bench = Bench::on_directory();
    let (kept, gone, id) = (bench.id("kept"), bench.id("gone"), bench.id("image"));
    let volume = bench.make(&bench.wanted(&kept, 0));
    bench.snapshot(&volume.name, "s1");
    bench.snapshot(&bench.store.pool().guest(&kept).unwrap(), "s1");
    let image = bench.image(&bench.id("other"), "image");
    bench.store.prepare(soon()).unwrap();
    let before = everything(&bench);

    lost(&bench, &gone);
    let directory = path(&bench, &bench.store.pool().guest(&gone).unwrap());
    fs::remove_file(directory.join("disk-0#")).unwrap();
    let deleted = bench.image(&id, "image");
    fs::remove_file(path(&bench, &deleted.volume)).unwrap();
    bench.store.prepare(soon()).unwrap();
    fs::remove_dir(&directory).expect("it is empty");
    assert_eq!(everything(&bench), before);
    assert_eq!(bench.store.image(&image.id, soon()).unwrap(), image);
}

#[test]
fn a_volume_outlives_a_snapshot_that_stays() {
    let bench = Bench::on_directory();
    let guest = bench.id("stays");
    let volume = bench.make(&bench.wanted(&guest, 0));
    bench.snapshot(&volume.name, "s1");
    let snapshot = volume.device.with_file_name("disk-0@s1");
    let Some(mount) = require("mount", Mounted::on_itself(&snapshot)) else { return };
    let destroy = || {
        bench
            .store
            .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
            .unwrap()
    };
    let removal = destroy();
    assert_eq!(removal.left.len(), 1, "{removal:?}");
    assert!(volume.device.exists() && snapshot.exists());
    drop(mount);
    assert_eq!(destroy().left, []);
    assert!(bench.is_gone(&guest));
}
