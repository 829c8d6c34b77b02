//! What only real ZFS does: clones that depend, holds, streams, and what a call costs in processes.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use mistify_libvirt::config::StorageLimits;
use mistify_libvirt::storage::{
    Error, ImageSource, InUse, Maker, PoolName, Recursion, RetentionCause, Space, VolumeSelection,
    VolumeSpec, Volumes, ZfsStore,
};

use super::bench::{Bench, begins_with, soon, write};
use crate::harness::support::{Scratch, wait_until};

/// What the tests themselves say to zfs.
fn zfs(words: &[&str]) -> String {
    let output = Command::new("zfs").args(words).env("LC_ALL", "C").output().expect("zfs runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "zfs {words:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn value(property: &str, name: &str) -> String {
    zfs(&["get", "-Hp", "-o", "value", property, name]).trim().to_owned()
}

#[test]
fn a_clone_elsewhere_keeps_its_origin_and_is_named() {
    let Some(bench) = Bench::on_zpool() else { return };
    let (guest, other) = (bench.id("web"), bench.id("other"));
    let kept = bench.make(&bench.wanted(&guest, 0)).name;
    bench.make(&bench.wanted(&guest, 1));
    bench.make(&bench.wanted(&other, 0));
    bench.snapshot(&kept, "monday");
    let clone = bench.disk(&other, 7).to_string();
    zfs(&["clone", &format!("{kept}@monday"), &clone]);

    let removal = bench
        .store
        .destroy_guest(&guest, VolumeSelection::Anyones, &InUse::default(), soon())
        .unwrap();
    assert_eq!(removal.destroyed, [bench.disk(&guest, 1).to_string()]);
    assert_eq!(removal.left[0].why, RetentionCause::Clones(vec![clone.clone()]));
    let error = removal.complete().unwrap_err();
    let text = format!("cannot destroy datasets: {kept} has clones: {clone}");
    assert_eq!(error.to_string(), text);
    let snapshot = kept.snapshot("monday").unwrap();
    assert_eq!(bench.all_of(&guest), [kept.to_string(), snapshot.to_string()]);
    let error = bench.store.delete_snapshot(&snapshot, Recursion::Itself, soon());
    assert!(matches!(error, Err(Error::HasClones { .. })), "{error:?}");

    bench.clean_up(&other);
    bench.clean_up(&guest);
}

#[test]
fn a_hold_keeps_its_volume_with_all_its_snapshots() {
    let Some(bench) = Bench::on_zpool() else { return };
    let guest = bench.id("web");
    let held = bench.make(&bench.wanted(&guest, 0)).name;
    bench.snapshot(&held, "before");
    bench.snapshot(&held, "held");
    zfs(&["hold", "keep", &format!("{held}@held")]);
    let removal = bench
        .store
        .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
        .unwrap();
    assert_eq!(removal.left[0].why, RetentionCause::Held(format!("{held}@held")));
    assert_eq!(bench.all_of(&guest).len(), 3);
    zfs(&["release", "keep", &format!("{held}@held")]);
    bench.clean_up(&guest);
}

#[test]
fn an_image_with_clones_is_not_deleted() {
    let Some(bench) = Bench::on_zpool() else { return };
    let (guest, id) = (bench.id("web"), bench.id("image"));
    bench.image(&id, "content");
    let clone = bench.make(&VolumeSpec { image: Some(id.clone()), ..bench.wanted(&guest, 0) });
    let error = bench.store.delete_image(&id, soon()).unwrap_err();
    let clones = vec![clone.name.to_string()];
    assert!(
        matches!(&error, Error::HasClones { clones: named, .. } if *named == clones),
        "{error}"
    );
    bench.clean_up(&guest);
    bench.store.delete_image(&id, soon()).unwrap();
}

#[test]
fn volumes_are_compressed_marked_and_never_mounted() {
    let Some(bench) = Bench::on_zpool() else { return };
    let (guest, id) = (bench.id("web"), bench.id("image"));
    bench.image(&id, "content");
    let blank = bench.wanted(&guest, 0);
    let clone = |index| VolumeSpec { image: Some(id.clone()), ..bench.wanted(&guest, index) };
    let grown = VolumeSpec { size_mib: 32, ..clone(2) };
    for wanted in [&blank, &clone(1), &grown] {
        let name = bench.make(wanted).name.to_string();
        assert_eq!(value("compression", &name), "lz4");
        assert_eq!(value("io.mistify:owner", &name), guest.as_str());
        let size: u64 = value("volsize", &name).parse().unwrap();
        assert!(value("refreservation", &name).parse::<u64>().unwrap() >= size, "{name}");
    }
    for (index, wanted) in [(3, blank.clone()), (4, clone(4))] {
        let volume = bench.disk(&guest, index);
        let name = bench.make(&VolumeSpec { volume, space: Space::Sparse, ..wanted }).name;
        assert_eq!(value("refreservation", name.as_str()), "0");
    }
    let directory = bench.store.pool().guest(&guest).unwrap();
    assert_eq!(value("mountpoint", directory.as_str()), "none");
    // The reservation grows along.
    bench.store.grow(&blank.volume, 64, soon()).unwrap();
    assert!(value("refreservation", blank.volume.as_str()).parse::<u64>().unwrap() >= 64 << 20);
    bench.clean_up(&guest);
    bench.store.delete_image(&id, soon()).unwrap();
}

#[test]
fn sent_snapshot_becomes_an_image_unless_broken() {
    let Some(bench) = Bench::on_zpool() else { return };
    let (guest, id) = (bench.id("web"), bench.id("image"));
    let made = bench.make(&bench.wanted(&guest, 0));
    write(&made, "sent along");
    bench.snapshot(&made.name, "golden");
    let path = bench.scratch.path().join("stream");
    let mut stream = bench.store.send(&made.name.snapshot("golden").unwrap(), soon()).unwrap();
    std::io::copy(&mut stream, &mut File::create(&path).unwrap()).unwrap();
    let length = fs::metadata(&path).unwrap().len();

    let mut last = 0;
    let file = File::open(&path).unwrap();
    let image = bench.store.import_image(&id, ImageSource::ZfsStream(&file), &mut |at| last = at);
    let image = image.unwrap();
    assert_eq!((image.size_mib(), image.snapshot.name()), (8, "golden"));
    assert!(last <= length);
    let clone = bench.make(&VolumeSpec { image: Some(id.clone()), ..bench.wanted(&guest, 1) });
    assert!(begins_with(&clone.device, "sent along"));
    bench.clean_up(&guest);
    bench.store.delete_image(&id, soon()).unwrap();

    File::options().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    for (path, what) in [(path, "half a stream"), ("/etc/passwd".into(), "no stream")] {
        let source = File::open(path).unwrap();
        let source = ImageSource::ZfsStream(&source);
        let error = bench.store.import_image(&id, source, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Failed { .. }), "{what}: {error}");
        let volume = bench.store.pool().image(&id).unwrap();
        assert!(bench.store.volume(&volume, soon()).is_err(), "{what}");
    }
}

#[test]
fn a_link_to_another_volume_is_not_believed() {
    let Some(bench) = Bench::on_zpool() else { return };
    let (guest, other) = (bench.id("web"), bench.id("other"));
    let [made, stale] = [&guest, &other].map(|guest| bench.make(&bench.wanted(guest, 0)));
    let plans = bench.store.plan(&[bench.wanted(&guest, 0)], soon()).unwrap();
    // As udev leaves it behind for a while when a volume is destroyed and its number used again.
    settle();
    let target = fs::read_link(&made.device).unwrap();
    fs::remove_file(&made.device).unwrap();
    symlink(fs::canonicalize(&stale.device).unwrap(), &made.device).unwrap();
    let error = bench.store.make(&plans[0], Instant::now() + Duration::from_secs(2)).unwrap_err();
    assert!(matches!(&error, Error::NoDevice { path, .. } if *path == made.device), "{error}");
    fs::remove_file(&made.device).unwrap();
    symlink(target, &made.device).unwrap();
    assert_eq!(bench.store.make(&plans[0], soon()).unwrap(), made);
    bench.clean_up(&guest);
    bench.clean_up(&other);
}

/// Waits until udev has nothing to do.
fn settle() {
    assert!(Command::new("udevadm").arg("settle").status().unwrap().success());
}

#[test]
fn a_device_is_seen_as_soon_as_its_link_is_made() {
    let Some(bench) = Bench::on_zpool() else { return };
    let guest = bench.id("web");
    let made = bench.make(&bench.wanted(&guest, 0));
    let plans = bench.store.plan(&[bench.wanted(&guest, 0)], soon()).unwrap();
    assert_eq!(plans[0].found.as_ref(), Some(&made));
    let target = fs::read_link(&made.device).unwrap();
    let look = || {
        let begin = Instant::now();
        assert_eq!(bench.store.make(&plans[0], soon()).unwrap(), made);
        begin.elapsed()
    };
    let wait = || {
        fs::remove_file(&made.device).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| bench.store.make(&plans[0], soon()).unwrap());
            wait_until("it watches", Duration::from_secs(60), is_watching);
            symlink(&target, &made.device).unwrap();
            let begin = Instant::now();
            assert_eq!(waiter.join().unwrap(), made);
            begin.elapsed()
        })
    };
    // This machine may be emulated: its own look is the measure. It may be busy for a while, too, and a
    // store that does not watch is late each time.
    wait_until("it is seen as soon as that", Duration::from_secs(300), || {
        let (look, wait) = (median(look), median(wait));
        println!("a look: {look:?}, from the link to the answer: {wait:?}");
        wait < Duration::from_millis(20) + 2 * look
    });
    bench.clean_up(&guest);
}

fn median(sample: impl Fn() -> Duration) -> Duration {
    let mut samples: Vec<Duration> = (0..21).map(|_| sample()).collect();
    samples.sort();
    samples[10]
}

/// Whether this process has an inotify instance.
fn is_watching() -> bool {
    let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.to_string_lossy().contains("inotify"))
}

#[test]
fn missing_pool_is_named() {
    let Some(_) = super::bench::zpool() else { return };
    let pool = PoolName::parse("t-no-such-pool").unwrap();
    let store = ZfsStore::new(pool.clone(), StorageLimits::default());
    let error = store.usage(soon()).unwrap_err();
    assert_eq!(error.to_string(), format!("pool {pool} does not exist"));
}

#[test]
fn disk_and_delete_cost_one_listing_and_one_command() {
    let scratch = Scratch::new();
    let log = scratch.path().join("calls");
    let program = scratch.path().join("zfs");
    let script = format!("#!/bin/sh\necho \"$1 $2\" >>{}\nexec /sbin/zfs \"$@\"\n", log.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let Some(bench) = Bench::on_zpool_by(&program, scratch) else { return };
    let (guest, id) = (bench.id("web"), bench.id("image"));
    bench.image(&id, "content");
    let calls = || {
        let calls = fs::read_to_string(&log).unwrap();
        fs::write(&log, "").unwrap();
        calls.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    calls();
    let maker = Some(Maker::domain("6e3c9f7a-25d4-4b0e-9a3d-0d7f3a1c5b22"));
    let blank = VolumeSpec { maker, ..bench.wanted(&guest, 0) };
    bench.make(&blank);
    assert_eq!(calls(), ["list", "create"]);
    let clone = VolumeSpec { image: Some(id.clone()), volume: bench.disk(&guest, 1), ..blank };
    bench.make(&clone);
    assert_eq!(calls(), ["list", "clone"]);
    bench.make(&VolumeSpec { volume: bench.disk(&guest, 2), size_mib: 64, ..clone });
    assert_eq!(calls(), ["list", "clone"]);
    // Each more try at a volume that udev looks at is a process; so let it end first.
    settle();
    let removal = bench
        .store
        .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
        .unwrap();
    assert_eq!(removal.complete().unwrap().len(), 3);
    assert_eq!(calls(), ["list", "destroy"]);
    bench.store.delete_image(&id, soon()).unwrap();
}
