//! Names of pools, datasets and snapshots: checked once against an allow-list, trusted afterwards.
//!
//! A component has ASCII letters, digits and `-_.:`, does not start with `-`, and is neither `.` nor `..`. So no name
//! leaves its pool, looks like an option, or needs quoting, and every name is also a safe path below `/dev/zvol` and
//! below a directory.

use std::fmt;

/// The maximum length of a full name in bytes, snapshot included: ZFS's own limit, 256 with the terminating NUL.
const NAME_BYTES_MAX: usize = 255;
/// The maximum length of a pool's name in bytes, or of a dataset used as one, so that every name in it fits.
const POOL_BYTES_MAX: usize = 100;
/// The last component of the name of a guest's seed.
pub(super) const SEED: &str = "seed";

/// The reason why a text is not a valid name. `Display` is the wire text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName {
    /// The expected kind: `pool`, `dataset`, `snapshot`, `id`.
    pub kind: &'static str,
    /// The text.
    pub text: String,
    /// The fault of the text.
    pub why: &'static str,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid argument: {} {:?} {}", self.kind, self.text, self.why)
    }
}

impl std::error::Error for InvalidName {}

/// One component of a dataset's name: a guest's id or an image's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

impl Id {
    /// Checks an id from outside.
    ///
    /// # Errors
    /// The fault of the id.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        check_component(text).and_then(|()| within(text.len())).map_err(|why| InvalidName {
            kind: "id",
            text: text.to_owned(),
            why,
        })?;
        Ok(Self(text.to_owned()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a pool, or of a dataset used as one. All other names are below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolName(String);

impl PoolName {
    /// Checks the name of a pool, such as `tank`, or of a dataset, such as `tank/mistify`: components, the first of
    /// which starts with a letter.
    ///
    /// # Errors
    /// The fault of the name.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let bad = |why| InvalidName { kind: "pool", text: text.to_owned(), why };
        for component in text.split('/') {
            check_component(component).map_err(bad)?;
        }
        if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(bad("does not begin with a letter"));
        }
        if text.len() > POOL_BYTES_MAX {
            return Err(bad("is too long"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the dataset of a name relative to the pool, such as `guests/web-1/disk-0`.
    ///
    /// # Errors
    /// The fault of the name.
    pub fn dataset(&self, relative: &str) -> Result<Dataset, InvalidName> {
        let bad = |why| InvalidName { kind: "dataset", text: relative.to_owned(), why };
        for component in relative.split('/') {
            check_component(component).map_err(bad)?;
        }
        let full = format!("{}/{relative}", self.0);
        within(full.len()).map_err(bad)?;
        Ok(Dataset { full, pool_bytes: self.0.len() })
    }

    /// Returns the dataset of a full name, such as `mistify/guests/web-1/disk-0`.
    ///
    /// # Errors
    /// The fault of the name; also if it is in another pool, or is the pool itself.
    pub fn full_dataset(&self, full: &str) -> Result<Dataset, InvalidName> {
        self.dataset(self.relative("dataset", full)?)
    }

    /// Returns the snapshot of a name relative to the pool, such as `guests/web-1@monday`.
    ///
    /// # Errors
    /// The fault of the name.
    pub fn snapshot(&self, relative: &str) -> Result<SnapshotName, InvalidName> {
        let (dataset, name) = relative.split_once('@').ok_or_else(|| InvalidName {
            kind: "snapshot",
            text: relative.to_owned(),
            why: "has no @",
        })?;
        self.dataset(dataset)?.snapshot(name)
    }

    /// Returns the snapshot of a full name, such as `mistify/guests/web-1@monday`.
    ///
    /// # Errors
    /// The fault of the name; also if it is in another pool, or of the pool itself.
    pub fn full_snapshot(&self, full: &str) -> Result<SnapshotName, InvalidName> {
        self.snapshot(self.relative("snapshot", full)?)
    }

    /// Returns the file system of the images.
    pub fn images(&self) -> Dataset {
        self.known("images")
    }

    /// Returns the file system of the guests' volumes.
    pub fn guests(&self) -> Dataset {
        self.known("guests")
    }

    /// Returns the volume of an image.
    ///
    /// # Errors
    /// If the name is too long.
    pub fn image(&self, id: &Id) -> Result<Dataset, InvalidName> {
        self.dataset(&format!("images/{id}"))
    }

    /// Returns the file system of a guest.
    ///
    /// # Errors
    /// If the name is too long.
    pub fn guest(&self, id: &Id) -> Result<Dataset, InvalidName> {
        self.dataset(&format!("guests/{id}"))
    }

    /// Returns the volume of the guest's disk with this index.
    ///
    /// # Errors
    /// If the name is too long.
    pub fn guest_disk(&self, id: &Id, index: usize) -> Result<Dataset, InvalidName> {
        self.dataset(&format!("guests/{id}/disk-{index}"))
    }

    /// Returns the volume of a guest's seed, `<pool>/guests/<id>/seed`.
    ///
    /// # Errors
    /// If the name is too long.
    pub fn guest_seed(&self, id: &Id) -> Result<Dataset, InvalidName> {
        self.dataset(&format!("guests/{id}/{SEED}"))
    }

    fn known(&self, component: &str) -> Dataset {
        Dataset { full: format!("{}/{component}", self.0), pool_bytes: self.0.len() }
    }

    fn relative<'t>(&self, kind: &'static str, full: &'t str) -> Result<&'t str, InvalidName> {
        let rest = full.strip_prefix(self.as_str()).and_then(|rest| rest.strip_prefix('/'));
        rest.ok_or_else(|| InvalidName { kind, text: full.to_owned(), why: "is not in the pool" })
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The full name of a file system or volume below the pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dataset {
    /// `<pool>/<component>[/<component>...]`, checked, at most 255 bytes.
    full: String,
    /// Length of the pool's name, after which `full` has a `/`.
    pool_bytes: usize,
}

impl Dataset {
    /// Returns the full name, as `zfs` and answers use it.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// Returns the name without the pool, as requests use it.
    pub fn relative(&self) -> &str {
        &self.full[self.pool_bytes + 1..]
    }

    /// Returns the last component.
    pub fn last(&self) -> &str {
        self.full.rsplit('/').next().unwrap_or(&self.full)
    }

    /// Returns whether the name is that of a guest's seed.
    pub fn is_seed(&self) -> bool {
        self.last() == SEED
    }

    /// Returns the parent dataset; `None` if it is the pool itself.
    pub fn parent(&self) -> Option<Self> {
        let (full, _) = self.full.rsplit_once('/')?;
        let below_pool = full.len() > self.pool_bytes;
        below_pool.then(|| Self { full: full.to_owned(), pool_bytes: self.pool_bytes })
    }

    /// Returns whether this is below `other`, compared by component.
    pub fn is_below(&self, other: &Self) -> bool {
        self.full.strip_prefix(&other.full).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Returns the snapshot of this dataset with this name.
    ///
    /// # Errors
    /// The fault of the name.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotName, InvalidName> {
        let full = format!("{}@{name}", self.full);
        let bad = |why| InvalidName { kind: "snapshot", text: name.to_owned(), why };
        check_component(name).and_then(|()| within(full.len())).map_err(bad)?;
        Ok(SnapshotName { dataset: self.clone(), full })
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

/// The full name of a snapshot below the pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    dataset: Dataset,
    /// `<dataset>@<name>`, checked, at most 255 bytes.
    full: String,
}

impl SnapshotName {
    /// Returns the full name, as `zfs` and answers use it.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// Returns the dataset of the snapshot.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Returns the part after `@`.
    pub fn name(&self) -> &str {
        &self.full[self.dataset.full.len() + 1..]
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

fn check_component(text: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    match text {
        "" => Err("has an empty component"),
        "." | ".." => Err("has a component . or .."),
        _ if text.starts_with('-') => Err("has a component that begins with -"),
        _ if !text.bytes().all(allowed) => Err("has characters other than letters, digits, -_.:"),
        _ => Ok(()),
    }
}

fn within(bytes: usize) -> Result<(), &'static str> {
    if bytes > NAME_BYTES_MAX { Err("is too long") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn pool() -> PoolName {
        PoolName::parse("tank").unwrap()
    }

    #[test]
    fn dataset_parents_end_at_the_store_root() {
        let root = PoolName::parse("tank/images/store").unwrap();
        let disk = root.dataset("guests/web-1/disk-0").unwrap();
        let above: Vec<_> = std::iter::successors(disk.parent(), Dataset::parent).collect();
        let above: Vec<&str> = above.iter().map(Dataset::as_str).collect();
        assert_eq!(above, ["tank/images/store/guests/web-1", "tank/images/store/guests"]);
    }

    #[test]
    fn the_layout_of_existing_hosts_is_built() {
        let (pool, id) = (pool(), Id::parse("web-1").unwrap());
        assert_eq!(pool.guests().as_str(), "tank/guests");
        assert_eq!(pool.image(&id).unwrap().as_str(), "tank/images/web-1");
        let disk = pool.guest_disk(&id, 12).unwrap();
        assert_eq!(disk.as_str(), "tank/guests/web-1/disk-12");
        assert_eq!((disk.relative(), disk.last()), ("guests/web-1/disk-12", "disk-12"));
        assert_eq!(disk.parent(), Some(pool.guest(&id).unwrap()));
        assert_eq!(pool.guests().parent(), None);
        let sub = PoolName::parse("tank/hosts/a").unwrap();
        let disk = sub.guest_disk(&id, 0).unwrap();
        assert_eq!(disk.as_str(), "tank/hosts/a/guests/web-1/disk-0");
        assert_eq!(disk.relative(), "guests/web-1/disk-0");
        assert_eq!(sub.guests().parent(), None);
        assert!(
            sub.full_dataset("tank/guests/a").is_err() && sub.full_dataset("tank/hosts/a").is_err()
        );
        let snapshot = pool.full_snapshot("tank/guests/web-1@a:b").unwrap();
        assert_eq!((snapshot.dataset().relative(), snapshot.name()), ("guests/web-1", "a:b"));
    }

    #[test]
    fn invalid_name_is_refused() {
        for text in ["", "/", "a/", "/a", "a//b", ".", "a/..", "../a", "-r", "a/-r", "a@b", "a#b"] {
            assert!(pool().dataset(text).is_err(), "{text:?}");
        }
        for text in ["a%b", "a b", "a\0", "a\nb", "a\tb", "ä", "a,b", "a=b", "$(a)"] {
            assert!(pool().dataset(text).is_err(), "{text:?}");
            assert!(Id::parse(text).is_err(), "{text:?}");
        }
        assert!(Id::parse("a/b").is_err());
        for text in ["a", "a@", "@a", "a@b@c", "a@b/c", "a@-b", "a@.."] {
            assert!(pool().snapshot(text).is_err(), "{text:?}");
        }
        for text in
            ["", "1tank", "-tank", "/tank", "tank/", "tank//a", "tank/../a", "tank/-a", "t ank"]
        {
            assert!(PoolName::parse(text).is_err(), "{text:?}");
        }
        for text in ["tank", "tank2/a", "other/a", "tank/", "/tank/a"] {
            assert!(pool().full_dataset(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_longest_name_is_255_bytes_with_its_snapshot() {
        let longest = "a".repeat(255 - "tank/".len());
        assert_eq!(pool().dataset(&longest).unwrap().as_str().len(), 255);
        assert!(pool().dataset(&format!("{longest}a")).is_err());
        assert!(pool().snapshot(&format!("{longest}@a")).is_err());
        assert!(pool().snapshot(&format!("{}@a", &longest[2..])).is_ok());
        assert!(PoolName::parse(&"a".repeat(101)).is_err());
    }

    #[test]
    fn below_compares_path_components() {
        let dataset = |text: &str| pool().dataset(text).unwrap();
        assert!(dataset("guests/a/b").is_below(&dataset("guests/a")));
        assert!(!dataset("guests/ab").is_below(&dataset("guests/a")));
        assert!(!dataset("guests/a").is_below(&dataset("guests/a")));
    }

    /// Generates texts from valid pieces of names, from invalid ones, and from any character.
    fn texts() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("..".to_owned()),
            Just("-".to_owned()),
            Just("/".to_owned()),
            Just("@".to_owned()),
            "[a-z0-9._:-]{1,4}",
            any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_text_leaves_the_pool_or_becomes_an_option(text in texts()) {
            let snapshot = pool().snapshot(&text).ok();
            let datasets = [
                pool().dataset(&text).ok(),
                pool().full_dataset(&text).ok(),
                pool().full_dataset(&format!("tank/{text}")).ok(),
                snapshot.map(|snapshot| snapshot.dataset().clone()),
                Id::parse(&text).ok().and_then(|id| pool().guest_disk(&id, 0).ok()),
            ];
            for dataset in datasets.into_iter().flatten() {
                let full = dataset.as_str();
                prop_assert!(full.len() < 256 && full.starts_with("tank/"), "{full}");
                let mut parts = Path::new(full).components();
                prop_assert!(parts.all(|part| matches!(part, Component::Normal(_))), "{full}");
                prop_assert_eq!(full.split('/').count(), Path::new(full).components().count());
                prop_assert!(full.split('/').all(|part| !part.starts_with('-')), "{full}");
                prop_assert!(!full.contains(['@', '#', '%', ' ', '\t', '\n', '\0', ',', '=']));
            }
        }

        #[test]
        fn accepted_name_is_kept_as_written(text in texts()) {
            if let Ok(dataset) = pool().dataset(&text) {
                prop_assert_eq!(dataset.relative(), &text);
                prop_assert_eq!(pool().full_dataset(dataset.as_str()).unwrap(), dataset);
            }
            if let Ok(snapshot) = pool().snapshot(&text) {
                prop_assert_eq!(snapshot.as_str(), format!("tank/{text}"));
            }
        }
    }
}
