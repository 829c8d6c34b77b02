//! Parses the output of `zfs list -Hp`.

use super::command::shorten;
use crate::storage::rules::dataset_of;

/// The columns of every listing; [`Entry::parse`] expects them in this order. The mark is last, because it is free
/// text.
pub(super) const COLUMNS: &str = "name,type,used,available,volsize,volblocksize,refreservation,\
                                  written,logicalreferenced,userrefs,createtxg,mountpoint,origin,clones,\
                                  io.mistify:fresh,io.mistify:maker,io.mistify:owner";
/// The user property with the owner's mark.
pub(super) const OWNER: &str = "io.mistify:owner";

/// The user property with the other part of the mark: the maker.
pub(super) const MAKER: &str = "io.mistify:maker";

/// The user property with the counts of zfs for a new volume ([`Entry::counts`]).
pub(super) const FRESH: &str = "io.mistify:fresh";

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    FileSystem,
    Volume,
    Snapshot,
}

/// One line. Numbers that do not apply to its type are 0, texts `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Full name.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) used: u64,
    pub(super) available: u64,
    pub(super) volsize: u64,
    pub(super) volblocksize: u64,
    pub(super) refreservation: u64,
    pub(super) written: u64,
    /// Bytes of the referenced content, before compression (zfs: `logicalreferenced`).
    pub(super) logical: u64,
    /// Number of holds of a snapshot.
    pub(super) holds: u64,
    /// Creation order: increases with time.
    pub(super) createtxg: u64,
    /// Whether a file system has a mount point; its children would have one, too.
    pub(super) mountable: bool,
    /// Full name of the snapshot that the entry is a clone of.
    pub(super) origin: Option<String>,
    /// Full names of the clones of a snapshot.
    pub(super) clones: Vec<String>,
    /// The value of [`Entry::counts`] when the volume was made, if known.
    pub(super) fresh: Option<String>,
    /// The maker; also an inherited one.
    pub(super) maker: Option<String>,
    /// The owner's mark; also an inherited one.
    pub(super) owner: Option<String>,
}

impl Entry {
    /// Reads one line.
    ///
    /// # Errors
    /// The line, shortened.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        Self::read(line).ok_or_else(|| shorten(line))
    }

    fn read(line: &str) -> Option<Self> {
        let columns = COLUMNS.split(',').count();
        let mut values = line.splitn(columns, '\t');
        let mut next = || values.next();
        let text = |value: &str| Some(value).filter(|value| *value != "-").map(str::to_owned);
        let number = |value: &str| if value == "-" { Some(0) } else { value.parse().ok() };
        let name = next().filter(|name| !name.is_empty())?.to_owned();
        let kind = match next()? {
            "filesystem" => Kind::FileSystem,
            "volume" => Kind::Volume,
            "snapshot" => Kind::Snapshot,
            _ => return None,
        };
        let fits = match kind {
            Kind::Snapshot => {
                name.split_once('@').is_some_and(|(_, own)| !own.contains(['@', '/']))
            }
            Kind::FileSystem | Kind::Volume => !name.contains('@'),
        };
        if !fits {
            return None;
        }
        Some(Self {
            name,
            kind,
            used: number(next()?)?,
            available: number(next()?)?,
            volsize: number(next()?)?,
            volblocksize: number(next()?)?,
            refreservation: number(next()?)?,
            written: number(next()?)?,
            logical: number(next()?)?,
            holds: number(next()?)?,
            createtxg: number(next()?)?,
            mountable: !["-", "none"].contains(&next()?),
            origin: text(next()?),
            clones: match next()? {
                "-" | "" => Vec::new(),
                names => names.split(',').map(str::to_owned).collect(),
            },
            fresh: text(next()?),
            maker: text(next()?),
            owner: text(next()?),
        })
    }

    /// Returns counts that change as soon as the pool has synced a write: the written blocks, and the size of all
    /// content. Some hundred bytes at the start of a volume take no block.
    pub(super) fn counts(&self) -> String {
        format!("{}+{}", self.written, self.logical)
    }

    /// Returns the dataset of a snapshot; the name of any other entry.
    pub(super) fn dataset(&self) -> &str {
        dataset_of(&self.name)
    }
}

/// Reads a listing.
///
/// # Errors
/// The first invalid line, shortened.
pub(super) fn parse(stdout: &str) -> Result<Vec<Entry>, String> {
    stdout.lines().map(Entry::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded output of OpenZFS 2.1.11 for COLUMNS, without `logicalreferenced`, which was added later by hand.
    const VOLUME: &str = "tank/guests/web-1/disk-0\tvolume\t71303168\t7450801664\t67108864\t8192\t\
                          71303168\t0\t8192\t-\t15\t-\ttank/images/img@one\t-\t0+8192\tcall-1\tweb-1";
    const SNAPSHOT: &str = "tank/images/img@one\tsnapshot\t0\t-\t67108864\t-\t-\t12288\t8192\t0\t13\t-\t\
                            -\ttank/guests/web-1/disk-0,tank/guests/web-1/disk-2\t-\t-\t-";
    const FILE_SYSTEM: &str = "tank\tfilesystem\t421906944\t7379498496\t-\t-\t0\t24576\t12288\t-\t1\t\
                               /tank\t-\t-\t-\t-\t-";

    #[test]
    fn recorded_lines_are_read() {
        let entries = parse(&[VOLUME, SNAPSHOT, FILE_SYSTEM].join("\n")).unwrap();
        let [volume, snapshot, pool] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((volume.volsize, volume.volblocksize), (67_108_864, 8192));
        assert_eq!(volume.fresh, Some(volume.counts()));
        assert_eq!(volume.origin.as_deref(), Some("tank/images/img@one"));
        assert_eq!(
            (volume.maker.as_deref(), volume.owner.as_deref()),
            (Some("call-1"), Some("web-1"))
        );
        assert_eq!((snapshot.kind, snapshot.dataset()), (Kind::Snapshot, "tank/images/img"));
        assert_eq!(snapshot.clones, ["tank/guests/web-1/disk-0", "tank/guests/web-1/disk-2"]);
        assert_eq!(
            (pool.kind, pool.mountable, pool.owner.as_ref()),
            (Kind::FileSystem, true, None)
        );
        assert!(!volume.mountable);
    }

    #[test]
    fn a_mark_may_hold_anything_and_no_other_column_may() {
        let entry = Entry::parse(&VOLUME.replace("web-1\n", "")).unwrap();
        assert_eq!(entry.name, "tank/guests/web-1/disk-0");
        let marked = format!("{}a\tb", VOLUME.strip_suffix("web-1").unwrap());
        assert_eq!(Entry::parse(&marked).unwrap().owner.as_deref(), Some("a\tb"));
        for garbage in ["", "tank", "cannot open 'x'", &VOLUME.replace("8192", "8K")] {
            assert!(Entry::parse(garbage).is_err(), "{garbage}");
        }
        assert!(Entry::parse(&VOLUME.replace("\tvolume\t", "\tbookmark\t")).is_err());
    }

    #[test]
    fn name_unfit_for_its_kind_is_not_listed() {
        for (line, from, to) in [
            (VOLUME, "web-1/disk-0\t", "web-1@disk-0\t"),
            (VOLUME, "\tvolume\t", "\tsnapshot\t"),
            (FILE_SYSTEM, "tank\t", "tank@a\t"),
            (SNAPSHOT, "@one\t", "@one/two\t"),
            (SNAPSHOT, "@one\t", "@one@two\t"),
        ] {
            assert!(Entry::parse(&line.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
