//! Claims about volumes.

use std::time::{Duration, Instant};

use mistify_libvirt::storage::{
    AdoptionRule, CreatedVolume, Error, InUse, MIB, Maker, PlannedVolume, Recursion,
    RetentionCause, Space, StoredVolume, VolumeSelection, VolumeSpec,
};

use super::bench::{Bench, Holder, begins_with, soon, write};

pub(crate) fn a_blank_volume_has_its_size_its_owner_and_a_device(bench: &Bench) {
    let guest = bench.id("web");
    let made = bench.make(&bench.wanted(&guest, 0));
    assert_eq!((made.size_bytes, made.size_mib()), (8 * MIB, 8));
    assert_eq!(made.owner.as_deref(), Some(guest.as_str()));
    assert_eq!(made.origin, None);
    bench.check_device(&made);
    assert!(begins_with(&made.device, "\0\0\0\0"));
    assert_eq!(bench.store.volume(&made.name, soon()).unwrap(), made);
    let guests = bench.store.pool().guest(&guest).unwrap();
    assert_eq!(bench.store.volumes(Some(&guests), soon()).unwrap(), [made]);
    bench.clean_up(&guest);
}

pub(crate) fn the_same_volume_again_is_adopted_with_its_content(bench: &Bench) {
    let (guest, image) = (bench.id("web"), bench.id("image"));
    bench.image(&image, "from the image");
    let blank = bench.wanted(&guest, 0);
    let clone = VolumeSpec { image: Some(image.clone()), ..bench.wanted(&guest, 1) };
    for wanted in [&blank, &clone] {
        let made = bench.make(wanted);
        write(&made, "mine");
        let plans = bench.store.plan(std::slice::from_ref(wanted), soon()).unwrap();
        assert_eq!(plans[0].size_mib(), 8);
        for found in [plans[0].found.clone().unwrap(), bench.make(wanted)] {
            // ZFS may have counted it by now.
            assert_eq!(StoredVolume { is_written: made.is_written, ..found }, made);
        }
        assert!(begins_with(&made.device, "mine"));
    }
    bench.clean_up(&guest);
    bench.store.delete_image(&image, soon()).unwrap();
}

pub(crate) fn what_was_written_just_now_is_not_adopted(bench: &Bench) {
    let (guest, image) = (bench.id("web"), bench.id("image"));
    bench.image(&image, "from the image");
    for (index, image) in [None, Some(image.clone())].into_iter().enumerate() {
        let wanted =
            VolumeSpec { image, adoption: AdoptionRule::Unwritten, ..bench.wanted(&guest, index) };
        let made = bench.make(&wanted);
        assert_eq!(bench.make(&wanted), made);
        write(&made, "mine");
        let error = bench.store.provision(&wanted, soon()).unwrap_err();
        assert!(error.to_string().contains("it contains data"), "{error}");
        assert!(begins_with(&made.device, "mine"));
    }
    bench.clean_up(&guest);
    bench.store.delete_image(&image, soon()).unwrap();
}

pub(crate) fn other_volume_of_that_name_is_refused_with_reason(bench: &Bench) {
    let (guest, image) = (bench.id("web"), bench.id("image"));
    bench.image(&image, "");
    let there = bench.wanted(&guest, 0);
    let made = bench.make(&there);
    for (wanted, what) in [
        (VolumeSpec { size_mib: 9, ..there.clone() }, "size is 8388608 bytes, not 9437184"),
        (VolumeSpec { owner: None, ..there.clone() }, "not none"),
        (VolumeSpec { image: Some(image.clone()), ..there.clone() }, "origin is none, not "),
    ] {
        let error = bench.store.provision(&wanted, soon()).unwrap_err();
        assert!(matches!(&error, Error::Differs { volume, .. } if *volume == made.name), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let directory = VolumeSpec { volume: made.name.parent().unwrap(), ..there };
    let error = bench.store.provision(&directory, soon()).unwrap_err();
    assert!(error.to_string().contains("it is not a volume"), "{error}");
    bench.clean_up(&guest);
    bench.store.delete_image(&image, soon()).unwrap();
}

pub(crate) fn clone_has_the_image_content_and_its_size_or_more(bench: &Bench) {
    let (guest, image) = (bench.id("web"), bench.id("image"));
    let imported = bench.image(&image, "from the image");
    let sizes = [(0, 4), (2, 4), (4, 4), (16, 16)];
    for (index, (asked, got)) in sizes.into_iter().enumerate() {
        let space = if index == 2 { Space::Sparse } else { Space::Reserved };
        let wanted = VolumeSpec {
            image: Some(image.clone()),
            size_mib: asked,
            space,
            ..bench.wanted(&guest, index)
        };
        let made = bench.make(&wanted);
        assert_eq!(made.size_mib(), got, "asked for {asked}");
        assert_eq!(made.origin, Some(imported.snapshot.to_string()));
        assert_eq!(bench.store.volume(&made.name, soon()).unwrap(), made);
        bench.check_device(&made);
        assert!(begins_with(&made.device, "from the image"));
        write(&made, "changed");
        assert!(begins_with(&made.device, "changed"));
    }
    bench.clean_up(&guest);
    bench.store.delete_image(&image, soon()).unwrap();
}

pub(crate) fn plan_changes_nothing_and_unknown_image_is_missing(bench: &Bench) {
    let guest = bench.id("web");
    let plans = bench.store.plan(&[bench.wanted(&guest, 0)], soon()).unwrap();
    assert_eq!((plans[0].size_mib(), &plans[0].found), (8, &None));
    assert!(!plans[0].parent_found && bench.is_gone(&guest));

    let unknown = VolumeSpec { image: Some(bench.id("no")), ..bench.wanted(&guest, 1) };
    let error = bench.store.plan(&[bench.wanted(&guest, 0), unknown], soon()).unwrap_err();
    assert_eq!(error.to_string(), "not found");
    let empty = VolumeSpec { size_mib: 0, ..bench.wanted(&guest, 0) };
    assert!(matches!(bench.store.plan(&[empty], soon()), Err(Error::Invalid(_))));
    assert!(bench.is_gone(&guest));
}

pub(crate) fn oversized_volume_is_refused_before_any_change(bench: &Bench) {
    let guest = bench.id("web");
    let free_mib = bench.store.usage(soon()).unwrap().free_bytes / MIB;
    // Each fits, both do not.
    let half = |index| VolumeSpec { size_mib: free_mib * 2 / 3, ..bench.wanted(&guest, index) };
    let error = bench.store.plan(&[half(0), half(1)], soon()).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    assert_eq!(error.to_string(), "no space left on device");
    assert!(bench.is_gone(&guest));

    let sparse =
        VolumeSpec { size_mib: free_mib * 2, space: Space::Sparse, ..bench.wanted(&guest, 0) };
    assert_eq!(bench.make(&sparse).size_mib(), free_mib * 2);
    bench.clean_up(&guest);
}

pub(crate) fn reservation_takes_space_and_sparse_volume_none(bench: &Bench) {
    let guest = bench.id("web");
    // Other tests use the store as well, but not this much.
    let free = || bench.store.usage(soon()).unwrap().free_bytes;
    let large = |index, space| VolumeSpec { size_mib: 1024, space, ..bench.wanted(&guest, index) };
    let before = free();
    bench.make(&large(0, Space::Sparse));
    assert!(free() + 512 * MIB > before);
    bench.make(&large(1, Space::Reserved));
    assert!(free() + 512 * MIB < before);
    bench.clean_up(&guest);
    assert!(free() + 512 * MIB > before);
}

fn made_by(plans: &[PlannedVolume]) -> Vec<CreatedVolume> {
    plans.iter().filter_map(PlannedVolume::to_make).collect()
}

pub(crate) fn undo_removes_new_volumes_and_keeps_existing_ones(bench: &Bench) {
    let guest = bench.id("web");
    let wanted = [bench.wanted(&guest, 0), bench.wanted(&guest, 1)];
    let plans = bench.store.plan(&wanted, soon()).unwrap();
    for plan in &plans {
        bench.store.make(plan, soon()).unwrap();
    }
    bench.snapshot(&wanted[0].volume, "between");
    let removal = bench.store.take_back(&made_by(&plans), &InUse::default(), soon()).unwrap();
    assert_eq!((removal.destroyed.len(), removal.left), (2, vec![]));
    assert!(bench.is_gone(&guest), "the parent, which was made along, is gone as well");
    assert_eq!(
        bench.store.take_back(&made_by(&plans), &InUse::default(), soon()).unwrap().destroyed,
        [""; 0]
    );

    let there = bench.make(&wanted[0]);
    write(&there, "mine");
    let plans = bench.store.plan(&wanted, soon()).unwrap();
    for plan in &plans {
        bench.store.make(plan, soon()).unwrap();
    }
    let removal = bench.store.take_back(&made_by(&plans), &InUse::default(), soon()).unwrap();
    assert_eq!(removal.destroyed, [wanted[1].volume.to_string()]);
    assert_eq!(bench.all_of(&guest), [there.name.to_string()]);
    assert!(begins_with(&there.device, "mine"));
    bench.clean_up(&guest);
}

pub(crate) fn a_volume_taken_back_leaves_its_neighbour(bench: &Bench) {
    let guest = bench.id("web");
    let of_call = |index| {
        let maker = Some(Maker::call());
        VolumeSpec { owner: None, maker, ..bench.wanted(&guest, index) }
    };
    let plans = bench.store.plan(&[of_call(0)], soon()).unwrap();
    bench.store.make(&plans[0], soon()).unwrap();
    let neighbour = bench.make(&of_call(1));
    for _ in 0..2 {
        let removal = bench.store.take_back(&made_by(&plans), &InUse::default(), soon()).unwrap();
        assert_eq!(removal.left, []);
        assert_eq!(bench.store.volume(&neighbour.name, soon()).unwrap(), neighbour);
    }
    bench.clean_up(&guest);
    let plans = bench.store.plan(&[of_call(0)], soon()).unwrap();
    bench.store.make(&plans[0], soon()).unwrap();
    bench.store.take_back(&made_by(&plans), &InUse::default(), soon()).unwrap();
    assert!(bench.is_gone(&guest), "the parent was made with it");
}

pub(crate) fn guest_volumes_are_deleted_with_their_snapshots(bench: &Bench) {
    let (guest, other) = (bench.id("web"), bench.id("other"));
    let nothing = bench
        .store
        .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
        .unwrap();
    assert_eq!(nothing.complete().unwrap(), [""; 0]);
    for index in [0, 1] {
        bench.make(&bench.wanted(&guest, index));
        bench.snapshot(&bench.disk(&guest, index), "monday");
    }
    // By mark and by name, each alone, they are not the guest's.
    bench.make(&VolumeSpec { owner: Some(other.clone()), ..bench.wanted(&guest, 2) });
    let named = bench.store.pool().dataset(&format!("guests/{guest}/backup")).unwrap();
    bench.make(&VolumeSpec { volume: named.clone(), ..bench.wanted(&guest, 3) });
    bench.make(&bench.wanted(&other, 0));

    let removal = bench
        .store
        .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
        .unwrap();
    let mut destroyed = removal.destroyed.clone();
    destroyed.sort();
    assert_eq!(destroyed, [0, 1].map(|index| bench.disk(&guest, index).to_string()));
    let foreign = [named.to_string(), bench.disk(&guest, 2).to_string()];
    assert_eq!(bench.all_of(&guest), foreign);
    assert!(foreign.iter().all(|name| removal.foreign.contains(name)), "{removal:?}");
    assert_eq!(removal.left, []);

    bench.clean_up(&guest);
    assert_eq!(bench.all_of(&other), [bench.disk(&other, 0).to_string()]);
    let removal = bench
        .store
        .destroy_guest(&other, VolumeSelection::Marked, &InUse::default(), soon())
        .unwrap();
    assert_eq!(removal.complete().unwrap(), [bench.disk(&other, 0).to_string()]);
    assert!(bench.is_gone(&other));
}

pub(crate) fn open_volume_stays_with_its_snapshots_and_reader(bench: &Bench) {
    let guest = bench.id("web");
    let open = bench.make(&bench.wanted(&guest, 0));
    bench.make(&bench.wanted(&guest, 1));
    bench.snapshot(&open.name, "monday");
    let holder = Holder::of(&open);
    let deadline = Instant::now() + Duration::from_secs(5);
    let removal = bench
        .store
        .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), deadline)
        .unwrap();
    assert_eq!(removal.destroyed, [bench.disk(&guest, 1).to_string()], "the rest is done");
    let [left] = &removal.left[..] else { panic!("{removal:?}") };
    assert_eq!(
        (left.name.as_str(), &left.why),
        (open.name.as_str(), &RetentionCause::Open(vec![holder.name()]))
    );
    assert_eq!(bench.all_of(&guest), [open.name.to_string(), format!("{}@monday", open.name)]);
    drop(holder);
    let removal = bench
        .store
        .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
        .unwrap();
    assert_eq!(removal.complete().unwrap(), [open.name.to_string()]);
    assert!(bench.is_gone(&guest));
}

pub(crate) fn a_volume_grows_with_its_content_and_never_shrinks(bench: &Bench) {
    let (guest, image) = (bench.id("web"), bench.id("image"));
    let made = bench.make(&bench.wanted(&guest, 0));
    write(&made, "mine");
    let grown = bench.store.grow(&made.name, 24, soon()).unwrap();
    assert_eq!((grown.size_mib(), &grown.device), (24, &made.device));
    assert_eq!(bench.store.volume(&made.name, soon()).unwrap(), grown);
    assert!(begins_with(&made.device, "mine"));
    assert_eq!(bench.store.grow(&made.name, 24, soon()).unwrap(), grown);
    let error = bench.store.grow(&made.name, 8, soon()).unwrap_err();
    let expected = format!("invalid argument: cannot shrink volume {} from 24 to 8 MiB", made.name);
    assert_eq!(error.to_string(), expected);
    let free_mib = bench.store.usage(soon()).unwrap().free_bytes / MIB;
    let error = bench.store.grow(&made.name, free_mib * 2, soon()).unwrap_err();
    assert_eq!(error.to_string(), "no space left on device");
    assert_eq!(bench.store.volume(&made.name, soon()).unwrap(), grown);

    let absent = bench.store.grow(&bench.disk(&guest, 9), 8, soon()).unwrap_err();
    assert_eq!(absent.to_string(), "not found");
    let image = bench.image(&image, "");
    assert!(matches!(bench.store.grow(&image.volume, 64, soon()), Err(Error::Invalid(_))));
    bench.store.delete_image(&image.id, soon()).unwrap();
    bench.clean_up(&guest);
}

pub(crate) fn only_requested_datasets_below_guests_are_deleted(bench: &Bench) {
    let (guest, image) = (bench.id("web"), bench.id("image"));
    let image = bench.image(&image, "");
    for outside in [image.volume.clone(), bench.store.pool().guests(), bench.store.pool().images()]
    {
        let error =
            bench.store.delete(&outside, Recursion::Below, &InUse::default(), soon()).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    bench.store.delete_image(&image.id, soon()).unwrap();

    let made = bench.make(&bench.wanted(&guest, 0));
    bench.snapshot(&made.name, "monday");
    let directory = made.name.parent().unwrap();
    for above in [&directory, &made.name] {
        let error =
            bench.store.delete(above, Recursion::Itself, &InUse::default(), soon()).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    assert_eq!(bench.all_of(&guest).len(), 2);
    let removal =
        bench.store.delete(&made.name, Recursion::Below, &InUse::default(), soon()).unwrap();
    assert_eq!(removal.complete().unwrap(), [made.name.to_string()]);
    bench.store.delete(&directory, Recursion::Itself, &InUse::default(), soon()).unwrap();
    assert!(bench.is_gone(&guest));
    let error =
        bench.store.delete(&made.name, Recursion::Below, &InUse::default(), soon()).unwrap_err();
    assert_eq!(error.to_string(), "not found");
}
