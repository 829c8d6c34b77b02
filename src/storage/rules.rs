//! Decisions that both stores share. Pure data.

use super::name::SEED;
use super::types::{AdoptionRule, CloneOrigin, Maker, StoredVolume, VolumeSpec};
use super::{Dataset, Error, PoolName, bytes_of, round_up};

/// Returns the size of a requested volume: its own, or the image's if that is larger.
pub(super) fn size_bytes(
    wanted: &VolumeSpec,
    origin: Option<&CloneOrigin>,
    unit: u64,
) -> Result<u64, Error> {
    let size_bytes = bytes_of(wanted.size_mib)?;
    match origin {
        None if size_bytes == 0 => {
            Err(Error::Invalid(format!("volume {} must have an image or a size", wanted.volume)))
        }
        // An image's size need not be whole MiB, and is only rounded when the clone is larger.
        Some(origin) if size_bytes <= origin.size_bytes => Ok(origin.size_bytes),
        _ => Ok(round_up(size_bytes, unit)),
    }
}

/// Checks that an existing volume matches the requested one.
pub(super) fn adopt(
    found: &StoredVolume,
    wanted: &VolumeSpec,
    origin: Option<&CloneOrigin>,
    size_bytes: u64,
) -> Result<(), Error> {
    let mut what = Vec::new();
    if found.size_bytes != size_bytes {
        what.push(format!("size is {} bytes, not {size_bytes}", found.size_bytes));
    }
    // Any snapshot of the image: the image may have a newer one since.
    let is = found.origin.as_deref().map(dataset_of);
    let should_be = origin.map(|origin| origin.snapshot.dataset().as_str());
    if is != should_be {
        what.push(format!("origin is {}, not {}", or_none(is), or_none(should_be)));
    }
    let (is, should_be) = (found.owner.as_deref(), wanted.owner.as_ref().map(|id| id.as_str()));
    if is != should_be && !(wanted.unmarked && is.is_none()) {
        what.push(format!("owner is {}, not {}", or_none(is), or_none(should_be)));
    }
    what.extend(not_adopted(found, &wanted.adoption));
    if what.is_empty() {
        return Ok(());
    }
    Err(Error::Differs { volume: wanted.volume.clone(), what })
}

/// Returns why a volume is not adopted though its name, size, origin and owner match.
fn not_adopted(found: &StoredVolume, adoption: &AdoptionRule) -> Option<String> {
    if !adoption.only_unwritten(found) {
        return None;
    }
    match found.maker.as_ref().and_then(Maker::domain_uuid) {
        Some(uuid) => Some(format!("it belongs to the domain with uuid {uuid}")),
        None if found.is_written => Some("it contains data, and no domain names it".to_owned()),
        None => None,
    }
}

/// Returns the number of bytes by which a volume has to grow; `None` if it has the size already. `unit` is the
/// granularity of its size, 0 for any size.
pub(super) fn growth(
    volume: &StoredVolume,
    size_mib: u64,
    unit: u64,
) -> Result<Option<u64>, Error> {
    let size_bytes = round_up(bytes_of(size_mib)?, unit);
    // The wire's size is rounded down: a caller may request the reported size.
    if size_mib == volume.size_mib() || size_bytes == volume.size_bytes {
        return Ok(None);
    }
    size_bytes.checked_sub(volume.size_bytes).map(Some).ok_or_else(|| {
        let (name, has) = (&volume.name, volume.size_mib());
        Error::Invalid(format!("cannot shrink volume {name} from {has} to {size_mib} MiB"))
    })
}

/// Returns whether the agent gives this name to a disk or the seed of this guest.
pub(super) fn is_disk_of(volume: &str, guest: &Dataset) -> bool {
    let own = volume.strip_prefix(guest.as_str()).and_then(|it| it.strip_prefix('/'));
    own.is_some_and(|own| match own.strip_prefix("disk-") {
        Some(number) => !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()),
        None => own == SEED,
    })
}

/// Returns whether libvirt gives this name to a file on top of such a disk: the snapshot `s1` of `disk-0` is in
/// `disk-0.s1`.
pub(super) fn is_overlay_of(volume: &str, guest: &Dataset) -> bool {
    volume.rsplit_once('.').is_some_and(|(disk, _)| {
        // The next snapshot replaces the part after the dot; other tools append to it.
        is_disk_of(disk, guest) || is_overlay_of(disk, guest)
    })
}

/// Checks that a dataset is below `guests/`, the only place where the agent destroys datasets.
pub(super) fn below_guests(dataset: &Dataset, pool: &PoolName) -> Result<(), Error> {
    let guests = pool.guests();
    if dataset.is_below(&guests) {
        return Ok(());
    }
    Err(Error::Invalid(format!("{dataset} is not below {guests}")))
}

/// Checks that a snapshot's dataset is `guests` or below it.
pub(super) fn in_guests(dataset: &Dataset, pool: &PoolName) -> Result<(), Error> {
    if *dataset == pool.guests() { Ok(()) } else { below_guests(dataset, pool) }
}

/// Checks that a volume is not an image, which is immutable.
pub(super) fn no_image(dataset: &Dataset, pool: &PoolName) -> Result<(), Error> {
    if dataset.is_below(&pool.images()) {
        return Err(Error::Invalid(format!("{dataset} is an image")));
    }
    Ok(())
}

/// Returns the dataset in a snapshot's full name; any other name unchanged.
pub(super) fn dataset_of(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}

fn or_none(text: Option<&str>) -> &str {
    text.unwrap_or("none")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::storage::types::check_space;
    use crate::storage::{Id, MIB, PlannedVolume, PoolName, Space};

    fn wanted(image: Option<&str>, size_mib: u64) -> VolumeSpec {
        let id = |text: &str| Id::parse(text).unwrap();
        VolumeSpec {
            volume: PoolName::parse("tank").unwrap().dataset("guests/a/disk-0").unwrap(),
            image: image.map(id),
            size_mib,
            space: Space::Reserved,
            owner: Some(id("a")),
            maker: None,
            adoption: AdoptionRule::Any,
            unmarked: false,
            content: None,
        }
    }

    fn origin(size_bytes: u64) -> CloneOrigin {
        let pool = PoolName::parse("tank").unwrap();
        CloneOrigin { snapshot: pool.snapshot("images/i@s").unwrap(), size_bytes }
    }

    fn found(size_bytes: u64, origin: Option<&str>, owner: Option<&str>) -> StoredVolume {
        StoredVolume {
            name: wanted(None, 1).volume,
            size_bytes,
            device: PathBuf::new(),
            origin: origin.map(str::to_owned),
            owner: owner.map(str::to_owned),
            maker: None,
            is_written: false,
        }
    }

    #[test]
    fn a_clone_has_the_images_size_or_more() {
        let image = origin(5 * MIB + 512);
        let size = |mib| size_bytes(&wanted(Some("i"), mib), Some(&image), 8192).unwrap();
        assert_eq!(size(0), 5 * MIB + 512);
        assert_eq!(size(5), 5 * MIB + 512, "the answer's size, asked for again");
        assert_eq!(size(6), 6 * MIB);
        let unit = 16 * MIB;
        assert_eq!(size_bytes(&wanted(Some("i"), 6), Some(&image), unit).unwrap(), unit);
    }

    #[test]
    fn a_blank_volume_needs_a_size_that_can_be() {
        assert_eq!(size_bytes(&wanted(None, 7), None, 0).unwrap(), 7 * MIB);
        for mib in [0, 1 << 43, 1 << 44, u64::MAX] {
            let outcome = size_bytes(&wanted(None, mib), None, 8192);
            assert!(matches!(outcome, Err(Error::Invalid(_))), "{mib}");
        }
    }

    #[test]
    fn volume_is_adopted_if_size_origin_and_owner_match() {
        let (mark, image) = (Some("a"), origin(MIB));
        let ok = adopt(&found(MIB, None, mark), &wanted(None, 1), None, MIB);
        assert!(ok.is_ok());
        let older = found(MIB, Some("tank/images/i@older"), mark);
        assert!(adopt(&older, &wanted(Some("i"), 0), Some(&image), MIB).is_ok());

        let nobodys = VolumeSpec { unmarked: true, ..wanted(None, 1) };
        assert!(adopt(&found(MIB, None, None), &nobodys, None, MIB).is_ok());
        assert!(adopt(&found(MIB, None, Some("b")), &nobodys, None, MIB).is_err());

        let other = found(2 * MIB, Some("tank/images/j@s"), None);
        let error = adopt(&other, &wanted(Some("i"), 0), Some(&image), MIB).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot create tank/guests/a/disk-0: it exists and differs: size is 2097152 bytes, not 1048576, \
             origin is tank/images/j, not tank/images/i, owner is none, not a"
        );
    }

    #[test]
    fn new_guest_adopts_no_foreign_or_written_volume() {
        let (own, other) = (Maker::domain("u-1"), Maker::domain("u-2"));
        let adopted = |maker: Option<&Maker>, is_written, adoption| {
            let found =
                StoredVolume { maker: maker.cloned(), is_written, ..found(MIB, None, Some("a")) };
            adopt(&found, &VolumeSpec { adoption, ..wanted(None, 1) }, None, MIB).is_ok()
        };
        for (maker, is_written) in [(Some(&Maker::call()), false), (None, false)] {
            assert!(adopted(maker, is_written, AdoptionRule::Unwritten));
        }
        for (maker, is_written) in [(None, true), (Some(&Maker::call()), true), (Some(&own), false)]
        {
            assert!(!adopted(maker, is_written, AdoptionRule::Unwritten));
        }
        assert!(adopted(Some(&other), true, AdoptionRule::Any));
    }

    #[test]
    fn domain_adopts_volumes_it_names_or_created() {
        let (own, other, call) = (Maker::domain("u-1"), Maker::domain("u-2"), Maker::call());
        let device = PathBuf::from("/absent/disk-0");
        let adopted = |maker: Option<&Maker>, is_written, named: &[&str]| {
            let named = named.iter().map(PathBuf::from).collect();
            let adoption = AdoptionRule::OfDomain { maker: own.clone(), named };
            let volume = found(MIB, None, Some("a"));
            let found = StoredVolume {
                maker: maker.cloned(),
                device: device.clone(),
                is_written,
                ..volume
            };
            adopt(&found, &VolumeSpec { adoption, ..wanted(None, 1) }, None, MIB).is_ok()
        };
        assert!(adopted(Some(&own), true, &[]));
        for maker in [None, Some(&call)] {
            assert!(!adopted(maker, true, &["/absent/disk-1"]));
            assert!(adopted(maker, false, &[]));
            assert!(adopted(maker, true, &["/absent/disk-1", "/absent/./disk-0"]));
        }
        assert!(!adopted(Some(&other), false, &[]));
    }

    #[test]
    fn an_overlay_has_the_name_of_a_disk() {
        let guest = PoolName::parse("tank").unwrap().dataset("guests/a").unwrap();
        for (name, is) in [
            ("tank/guests/a/disk-0.s1", true),
            ("tank/guests/a/disk-12.s1.s2", true),
            ("tank/guests/a/disk-0", false),
            ("tank/guests/a/data.s1", false),
            ("tank/guests/a/disk-0x.s1", false),
            ("tank/guests/b/disk-0.s1", false),
        ] {
            assert_eq!(is_overlay_of(name, &guest), is, "{name}");
        }
    }

    #[test]
    fn a_volume_grows_and_never_shrinks() {
        let has = |bytes| found(bytes, None, None);
        assert_eq!(growth(&has(5 * MIB), 7, 8192).unwrap(), Some(2 * MIB));
        assert_eq!(growth(&has(5 * MIB), 5, 8192).unwrap(), None);
        assert_eq!(growth(&has(5 * MIB + 512), 5, 0).unwrap(), None, "the answer's size");
        assert_eq!(growth(&has(5 * MIB), 6, 4 * MIB).unwrap(), Some(3 * MIB));
        for mib in [0, 4, u64::MAX] {
            assert!(matches!(growth(&has(5 * MIB), mib, 0), Err(Error::Invalid(_))), "{mib}");
        }
    }

    #[test]
    fn guest_disk_is_recognized_by_its_name() {
        let guest = PoolName::parse("tank").unwrap().dataset("guests/a").unwrap();
        for name in ["tank/guests/a/disk-0", "tank/guests/a/disk-12", "tank/guests/a/seed"] {
            assert!(is_disk_of(name, &guest), "{name}");
        }
        for name in ["/seeds", "seed", "/disk-", "/disk-1a", "/disk-1/b", "b/disk-1", "/disk1", ""]
        {
            assert!(!is_disk_of(&format!("tank/guests/a{name}"), &guest), "{name}");
        }
    }

    #[test]
    fn only_datasets_below_guests_are_destroyed() {
        let pool = PoolName::parse("tank").unwrap();
        let dataset = |text: &str| pool.dataset(text).unwrap();
        assert!(below_guests(&dataset("guests/a"), &pool).is_ok());
        for outside in ["guests", "images/a", "guests2/a", "a"] {
            assert!(below_guests(&dataset(outside), &pool).is_err(), "{outside}");
            assert_eq!(in_guests(&dataset(outside), &pool).is_ok(), outside == "guests");
        }
        assert!(no_image(&dataset("images/a"), &pool).is_err());
        assert!(no_image(&dataset("guests/a"), &pool).is_ok());
    }

    #[test]
    fn space_is_required_for_missing_reserved_volumes() {
        let plan = |size_bytes, space, found| PlannedVolume {
            wanted: VolumeSpec { space, ..wanted(None, 1) },
            size_bytes,
            origin: None,
            found,
            device: PathBuf::new(),
            parent_found: true,
            made_first: None,
        };
        let there = found(900, None, None);
        let planned = [
            plan(60, Space::Reserved, None),
            plan(40, Space::Reserved, None),
            plan(900, Space::Reserved, Some(there)),
            plan(900, Space::Sparse, None),
        ];
        assert!(check_space(&planned, 100).is_ok());
        let error = check_space(&planned, 99).unwrap_err();
        assert!(matches!(error, Error::NoSpace { needed_bytes: 100, free_bytes: 99 }), "{error:?}");
        assert_eq!(error.to_string(), "no space left on device");
        let endless = plan(u64::MAX, Space::Reserved, None);
        assert!(check_space(&[endless.clone(), endless], u64::MAX - 1).is_err(), "no wrap");
    }
}
