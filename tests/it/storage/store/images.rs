//! Claims about images.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use mistify_libvirt::storage::{Error, ImageSource, MIB, VolumeSpec};

use super::bench::{Bench, begins_with, soon};

pub(crate) fn a_raw_file_becomes_an_image_and_goes_again(bench: &Bench) {
    let (id, store) = (bench.id("image"), &bench.store);
    let path = bench.scratch.path().join("raw");
    let raw = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    raw.set_len(6 * MIB + 512).unwrap();
    raw.write_all_at(b"begin", 0).unwrap();
    raw.write_all_at(b"end", 6 * MIB + 509).unwrap();
    let mut seen = Vec::new();
    let image = store.import_image(&id, ImageSource::Raw(&raw), &mut |at| seen.push(at)).unwrap();
    assert_eq!((image.size_mib(), &image.id), (6, &id));
    assert!(image.size_bytes >= 6 * MIB + 512);
    assert_eq!(image.volume, store.pool().image(&id).unwrap());
    assert_eq!(image.snapshot.dataset(), &image.volume);
    assert_eq!(seen.last(), Some(&(6 * MIB + 512)));
    assert_eq!(store.image(&id, soon()).unwrap(), image);
    assert!(store.images(soon()).unwrap().contains(&image));

    let device = store.volume(&image.volume, soon()).unwrap().device;
    assert!(begins_with(&device, "begin"));
    let mut end = [0; 3];
    File::open(&device).unwrap().read_exact_at(&mut end, 6 * MIB + 509).unwrap();
    assert_eq!(&end, b"end");

    store.delete_image(&id, soon()).unwrap();
    assert!(!store.images(soon()).unwrap().contains(&image));
    assert_eq!(store.delete_image(&id, soon()).unwrap_err().to_string(), "not found");
    assert_eq!(store.image(&id, soon()).unwrap_err().to_string(), "not found");
}

pub(crate) fn an_import_that_fails_leaves_nothing(bench: &Bench) {
    let (id, store) = (bench.id("image"), &bench.store);
    let mut wrote = false;
    let source = ImageSource::Filled {
        size_bytes: 4 * MIB,
        fill: &mut |path| {
            let device = File::options().write(true).open(path)?;
            device.write_all_at(b"half", 0)?;
            wrote = true;
            Err(io::Error::other("the file ends too early"))
        },
    };
    let error = store.import_image(&id, source, &mut |_| {}).unwrap_err();
    assert!(error.to_string().ends_with("the file ends too early"), "{error}");
    assert!(wrote);
    let empty = ImageSource::Filled { size_bytes: 0, fill: &mut |_| Ok(()) };
    let error = store.import_image(&id, empty, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    let volume = store.pool().image(&id).unwrap();
    assert_eq!(store.volume(&volume, soon()).unwrap_err().to_string(), "not found");
    assert_eq!(store.snapshots(Some(&volume), soon()).unwrap_err().to_string(), "not found");
    bench.image(&id, "whole");
    store.delete_image(&id, soon()).unwrap();
}

pub(crate) fn a_second_import_of_an_id_is_refused(bench: &Bench) {
    let id = bench.id("image");
    let image = bench.image(&id, "first");
    let source = ImageSource::Filled {
        size_bytes: MIB,
        fill: &mut |_| panic!("nothing is written over an image"),
    };
    let error = bench.store.import_image(&id, source, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(bench.store.image(&id, soon()).unwrap(), image);
    bench.store.delete_image(&id, soon()).unwrap();
}

pub(crate) fn the_newest_snapshot_of_an_image_is_cloned(bench: &Bench) {
    let (guest, id) = (bench.id("web"), bench.id("image"));
    let image = bench.image(&id, "first");
    let clone = |index| VolumeSpec { image: Some(id.clone()), ..bench.wanted(&guest, index) };
    let first = bench.make(&clone(0));
    bench.snapshot(&image.volume, "a-newer-one");
    let newest = format!("{}@a-newer-one", image.volume);
    assert_eq!(bench.make(&clone(1)).origin, Some(newest));
    assert_eq!(bench.make(&clone(0)), bench.store.volume(&first.name, soon()).unwrap());
    bench.clean_up(&guest);
    bench.store.delete_image(&id, soon()).unwrap();
}

pub(crate) fn no_image_is_deleted_while_it_is_imported(bench: &Bench) {
    let (id, store) = (bench.id("image"), &bench.store);
    let mut deleted = None;
    let source = ImageSource::Filled {
        size_bytes: MIB,
        fill: &mut |path| {
            deleted = Some(store.delete_image(&id, soon()));
            File::options().write(true).open(path)?.write_all_at(b"whole", 0)
        },
    };
    let image = store.import_image(&id, source, &mut |_| {}).unwrap();
    assert!(deleted.unwrap().is_err());
    assert!(begins_with(&store.volume(&image.volume, soon()).unwrap().device, "whole"));
    store.delete_image(&id, soon()).unwrap();
}

pub(crate) fn of_two_imports_of_an_id_the_second_is_refused(bench: &Bench) {
    let (id, store) = (bench.id("image"), &bench.store);
    let mut while_first_runs = None;
    let first = ImageSource::Filled {
        size_bytes: MIB,
        fill: &mut |path| {
            File::options().write(true).open(path)?.write_all_at(b"first", 0)?;
            let source = ImageSource::Filled {
                size_bytes: MIB,
                fill: &mut |path| {
                    File::options().write(true).open(path)?.write_all_at(b"second", 0)
                },
            };
            while_first_runs = Some(store.import_image(&id, source, &mut |_| {}));
            Ok(())
        },
    };
    let image = store.import_image(&id, first, &mut |_| {}).unwrap();
    let second = while_first_runs.unwrap();
    assert!(matches!(second, Err(Error::Busy { .. } | Error::Exists { .. })), "{second:?}");
    let device = store.volume(&image.volume, soon()).unwrap().device;
    assert!(begins_with(&device, "first"));
    let guest = bench.id("web");
    let clone = bench.make(&VolumeSpec { image: Some(id.clone()), ..bench.wanted(&guest, 0) });
    assert!(begins_with(&clone.device, "first"));
    bench.clean_up(&guest);
    store.delete_image(&id, soon()).unwrap();
}
