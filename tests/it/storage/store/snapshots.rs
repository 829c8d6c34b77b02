//! Claims about snapshots.

use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use mistify_libvirt::storage::{
    Error, Maker, NewerSnapshots, Recursion, StoredSnapshot, StoredVolume,
};

use super::bench::{Bench, Holder, begins_with, soon, write};

fn names(snapshots: &[StoredSnapshot]) -> Vec<String> {
    snapshots.iter().map(|snapshot| snapshot.name.to_string()).collect()
}

pub(crate) fn an_undo_keeps_other_calls_snapshots(bench: &Bench) {
    let (guest, store) = (bench.id("web"), &bench.store);
    let made = [0, 1].map(|index| bench.make(&bench.wanted(&guest, index)));
    let [own, other] = [Maker::call(), Maker::call()];
    let names = made.each_ref().map(|volume| volume.name.snapshot("monday").unwrap());
    for (name, maker) in names.iter().zip([&own, &other]) {
        store.create_snapshot(name, Recursion::Itself, maker, soon()).unwrap();
    }
    let all = made[0].name.parent().unwrap().snapshot("monday").unwrap();
    let (since, recursion) = (SystemTime::UNIX_EPOCH, Recursion::Below);
    let removal = store.take_back_snapshots(&all, recursion, &own, since, soon()).unwrap();
    assert_eq!((removal.destroyed, removal.left), (vec![names[0].to_string()], vec![]));
    store.snapshot(&names[1], soon()).unwrap();
    bench.clean_up(&guest);
}

pub(crate) fn snapshots_are_destroyed_alone_or_recursively(bench: &Bench) {
    let (guest, store) = (bench.id("web"), &bench.store);
    let made = [0, 1].map(|index| bench.make(&bench.wanted(&guest, index)));
    let directory = made[0].name.parent().unwrap();
    let all = directory.snapshot("all").unwrap();
    let taken = store.create_snapshot(&all, Recursion::Below, &Maker::call(), soon()).unwrap();
    let [first, second] = made.each_ref().map(|volume| format!("{}@all", volume.name));
    let mut expected = vec![all.to_string(), first, second];
    assert_eq!(names(&taken), expected);

    let one = made[0].name.snapshot("a-later").unwrap();
    let taken = store.create_snapshot(&one, Recursion::Itself, &Maker::call(), soon()).unwrap();
    assert_eq!(names(&taken), [one.to_string()]);
    assert_eq!(store.snapshot(&one, soon()).unwrap(), taken[0]);
    let listed = store.snapshots(Some(&made[0].name), soon()).unwrap();
    assert_eq!(names(&listed), [expected[1].clone(), one.to_string()], "oldest first");
    expected.insert(2, one.to_string());
    assert_eq!(names(&store.snapshots(Some(&directory), soon()).unwrap()), expected);

    let error = store.create_snapshot(&one, Recursion::Itself, &Maker::call(), soon()).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let error = store.create_snapshot(&all, Recursion::Below, &Maker::call(), soon()).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let absent = made[0].name.snapshot("no").unwrap();
    let nobody = bench.disk(&guest, 9).snapshot("no").unwrap();
    for error in [
        store.create_snapshot(&nobody, Recursion::Itself, &Maker::call(), soon()).unwrap_err(),
        store.create_snapshot(&nobody, Recursion::Below, &Maker::call(), soon()).unwrap_err(),
        store.snapshot(&absent, soon()).unwrap_err(),
        store.snapshots(Some(nobody.dataset()), soon()).unwrap_err(),
        store.delete_snapshot(&absent, Recursion::Itself, soon()).unwrap_err(),
        store.delete_snapshot(&absent, Recursion::Below, soon()).unwrap_err(),
        store.rollback(&absent, NewerSnapshots::Keep, soon()).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "not found", "{error:?}");
    }

    store.delete_snapshot(&all, Recursion::Below, soon()).unwrap();
    assert_eq!(names(&store.snapshots(Some(&directory), soon()).unwrap()), [one.to_string()]);
    store.delete_snapshot(&one, Recursion::Itself, soon()).unwrap();
    assert_eq!(store.snapshots(Some(&directory), soon()).unwrap(), []);
    let outside = bench.store.pool().snapshot("images@all").unwrap();
    let error = store.delete_snapshot(&outside, Recursion::Below, soon()).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    bench.clean_up(&guest);
}

pub(crate) fn rollback_deletes_newer_snapshots_only_on_request(bench: &Bench) {
    let (guest, store) = (bench.id("web"), &bench.store);
    let made = bench.make(&bench.wanted(&guest, 0));
    write(&made, "first");
    let old = made.name.snapshot("old").unwrap();
    bench.snapshot(&made.name, "old");
    write(&made, "wrong");
    store.rollback(&old, NewerSnapshots::Keep, soon()).unwrap();
    assert!(begins_with(&made.device, "first"));

    write(&made, "later");
    bench.snapshot(&made.name, "newer");
    let error = store.rollback(&old, NewerSnapshots::Keep, soon()).unwrap_err();
    assert!(matches!(error, Error::HasNewer { .. }), "{error}");
    assert!(begins_with(&made.device, "later"));
    store.rollback(&old, NewerSnapshots::Destroy, soon()).unwrap();
    assert!(begins_with(&made.device, "first"));
    assert_eq!(names(&store.snapshots(Some(&made.name), soon()).unwrap()), [old.to_string()]);
    let found = store.volume(&made.name, soon()).unwrap();
    assert_eq!(StoredVolume { is_written: made.is_written, ..found }, made);
    bench.clean_up(&guest);
}

pub(crate) fn an_open_volume_is_not_rolled_back(bench: &Bench) {
    let guest = bench.id("web");
    let made = bench.make(&bench.wanted(&guest, 0));
    bench.snapshot(&made.name, "old");
    write(&made, "in use");
    let holder = Holder::of(&made);
    let deadline = Instant::now() + Duration::from_secs(5);
    let old = made.name.snapshot("old").unwrap();
    let error = bench.store.rollback(&old, NewerSnapshots::Keep, deadline).unwrap_err();
    let busy = format!("cannot change {}: it is in use by {}", made.name, holder.name());
    assert_eq!(error.to_string(), busy);
    assert!(begins_with(&made.device, "in use"));
    drop(holder);
    bench.clean_up(&guest);
}

pub(crate) fn a_snapshot_is_sent_as_a_stream(bench: &Bench) {
    let guest = bench.id("web");
    let made = bench.make(&bench.wanted(&guest, 0));
    write(&made, "to be found in the stream");
    bench.snapshot(&made.name, "old");
    let old = made.name.snapshot("old").unwrap();
    let mut bytes = Vec::new();
    bench.store.send(&old, soon()).unwrap().read_to_end(&mut bytes).unwrap();
    let text = b"to be found in the stream";
    assert!(bytes.windows(text.len()).any(|window| window == text), "{} bytes", bytes.len());
    // One that is dropped early ends its sender: the volume can go.
    drop(bench.store.send(&old, soon()).unwrap());
    let error = bench.store.send(&made.name.snapshot("no").unwrap(), soon()).err().unwrap();
    assert_eq!(error.to_string(), "not found");
    bench.clean_up(&guest);
}
