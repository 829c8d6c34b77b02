//! Selects the volumes that a removal may destroy: from a listing, before any change. Pure data.

use std::collections::{BTreeMap, BTreeSet};

use super::listing::{Entry, Kind};
use crate::sorted::IntoSorted;
use crate::sorted::OrderBy;
use crate::storage::{LeftoverVolume, RetentionCause};

/// The datasets below a root, and their planned outcome.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Full names of the volumes to destroy with their snapshots, clones before their origins.
    pub(super) doomed: Vec<String>,
    /// Full names of the datasets with snapshots, which a failed `destroy -r` would lose.
    pub(super) with_snapshots: BTreeSet<String>,
    /// Selected volumes that have to stay.
    pub(super) left: Vec<LeftoverVolume>,
    /// Full names of file systems and volumes that were not selected.
    pub(super) foreign: Vec<String>,
}

impl Survey {
    /// Evaluates a recursive listing of `root`. `chosen` selects datasets; a root that is a file system is removed with
    /// them. Entries that are not below the root are ignored. `user` returns the user of a volume, which then stays.
    pub(super) fn of(
        root: &str,
        entries: &[Entry],
        chosen: impl Fn(&Entry) -> bool,
        user: impl Fn(&Entry) -> Option<RetentionCause>,
    ) -> Self {
        let is_of_root = |entry: &&Entry| {
            let rest = entry.dataset().strip_prefix(root);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let (snapshots, mut datasets): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().filter(is_of_root).partition(|entry| entry.kind == Kind::Snapshot);
        datasets.order_by(&|a, b| b.createtxg.cmp(&a.createtxg));
        let mut survey = Self::default();
        let mut selected = BTreeSet::new();
        for entry in &datasets {
            let is_root = entry.name == root && entry.kind == Kind::FileSystem;
            if is_root || chosen(entry) {
                selected.insert(entry.name.as_str());
            } else {
                survey.foreign.push(entry.name.clone());
            }
        }
        let of_volume = datasets.iter().filter(|entry| entry.kind == Kind::Volume);
        let volumes: BTreeSet<&str> = of_volume.clone().map(|entry| entry.name.as_str()).into_set();
        let used = of_volume.filter(|entry| selected.contains(entry.name.as_str()));
        let mut staying: BTreeMap<&str, RetentionCause> =
            used.filter_map(|entry| Some((entry.name.as_str(), user(entry)?))).into_map();
        // A volume that stays keeps its origin, which may keep another one: repeated until nothing changes.
        loop {
            let before = staying.len();
            for snapshot in &snapshots {
                let dataset = snapshot.dataset();
                if !selected.contains(dataset) || staying.contains_key(dataset) {
                    continue;
                }
                // A volume's clones are volumes; a file system of that name is not removed with them.
                let may_be_removed =
                    |clone: &str| !volumes.contains(dataset) || volumes.contains(clone);
                let is_removed = |clone: &&String| {
                    let clone = clone.as_str();
                    selected.contains(clone)
                        && !staying.contains_key(clone)
                        && may_be_removed(clone)
                };
                let clones: Vec<String> =
                    snapshot.clones.iter().filter(|it| !is_removed(it)).cloned().collect();
                if !clones.is_empty() {
                    staying.insert(dataset, RetentionCause::Clones(clones));
                } else if snapshot.holds > 0 {
                    staying.insert(dataset, RetentionCause::Held(snapshot.name.clone()));
                }
            }
            if staying.len() == before {
                break;
            }
        }
        for entry in datasets.iter().filter(|entry| entry.kind == Kind::Volume) {
            let name = entry.name.as_str();
            if selected.contains(name) && !staying.contains_key(name) {
                survey.doomed.push(entry.name.clone());
            }
        }
        let with_snapshots = snapshots.iter().map(|it| it.dataset().to_owned());
        survey.with_snapshots = with_snapshots.into_set();
        let left =
            staying.into_iter().map(|(name, why)| LeftoverVolume { name: name.to_owned(), why });
        survey.left = left.collect();
        survey
    }

    /// Returns whether everything below is removed, so that one command can destroy it.
    pub(super) fn is_whole(&self) -> bool {
        self.left.is_empty() && self.foreign.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: Kind, createtxg: u64) -> Entry {
        Entry {
            name: name.to_owned(),
            kind,
            used: 0,
            available: 0,
            volsize: 0,
            volblocksize: 0,
            refreservation: 0,
            written: 0,
            logical: 0,
            holds: 0,
            createtxg,
            mountable: false,
            origin: None,
            clones: Vec::new(),
            fresh: None,
            maker: None,
            owner: None,
        }
    }

    fn snapshot(name: &str, holds: u64, clones: &[&str]) -> Entry {
        let clones = clones.iter().map(|clone| (*clone).to_owned()).collect();
        Entry { holds, clones, ..entry(name, Kind::Snapshot, 9) }
    }

    /// Returns the survey of `p/g` with three volumes, of which `p/g/c` belongs to another user.
    fn survey(snapshots: Vec<Entry>) -> Survey {
        let mut entries = vec![
            entry("p/g", Kind::FileSystem, 1),
            entry("p/g/a", Kind::Volume, 2),
            entry("p/g/b", Kind::Volume, 3),
            entry("p/g/c", Kind::Volume, 4),
        ];
        entries.extend(snapshots);
        Survey::of("p/g", &entries, |entry| entry.name != "p/g/c", |_| None)
    }

    fn left(name: &str, why: RetentionCause) -> LeftoverVolume {
        LeftoverVolume { name: name.to_owned(), why }
    }

    #[test]
    fn chosen_volumes_are_newest_first_others_foreign() {
        let survey = survey(vec![snapshot("p/g/a@s", 0, &[])]);
        assert_eq!(survey.doomed, ["p/g/b", "p/g/a"]);
        assert_eq!(survey.with_snapshots, BTreeSet::from(["p/g/a".to_owned()]));
        assert_eq!((survey.foreign.join(","), survey.left.len()), ("p/g/c".to_owned(), 0));
        assert!(!survey.is_whole());
    }

    #[test]
    fn all_below_is_whole_where_all_of_it_is_chosen() {
        let entries = [entry("p/g", Kind::FileSystem, 1), entry("p/g/a", Kind::Volume, 2)];
        assert!(Survey::of("p/g", &entries, |_| true, |_| None).is_whole());
        assert!(
            Survey::of("p/g", &entries[..1], |_| false, |_| None).is_whole(),
            "the root goes along"
        );
    }

    #[test]
    fn datasets_outside_the_root_are_untouched() {
        let names = ["p/g", "p/gh", "p/other", "q"].map(|name| entry(name, Kind::Volume, 1));
        let survey = Survey::of("p/g", &names, |_| true, |_| None);
        assert_eq!((survey.doomed, survey.foreign), (vec!["p/g".to_owned()], Vec::new()));
    }

    #[test]
    fn clone_elsewhere_keeps_its_origin_and_nothing_else() {
        let survey = survey(vec![snapshot("p/g/a@s", 0, &["p/x/y", "p/g/b"])]);
        assert_eq!(survey.doomed, ["p/g/b"]);
        assert_eq!(survey.left, [left("p/g/a", RetentionCause::Clones(vec!["p/x/y".into()]))]);
    }

    #[test]
    fn clone_deleted_as_well_keeps_nothing() {
        assert_eq!(survey(vec![snapshot("p/g/a@s", 0, &["p/g/b"])]).doomed, ["p/g/b", "p/g/a"]);
    }

    #[test]
    fn file_system_clone_keeps_its_volume() {
        let survey = survey(vec![snapshot("p/g/a@s", 0, &["p/g"])]);
        assert_eq!(survey.doomed, ["p/g/b"]);
        assert_eq!(survey.left, [left("p/g/a", RetentionCause::Clones(vec!["p/g".into()]))]);
    }

    #[test]
    fn remaining_clone_keeps_its_origin() {
        let survey =
            survey(vec![snapshot("p/g/a@s", 0, &["p/g/b"]), snapshot("p/g/b@s", 0, &["p/g/c"])]);
        assert_eq!(survey.doomed, [""; 0]);
        let clones = |clone: &str| RetentionCause::Clones(vec![clone.to_owned()]);
        assert_eq!(survey.left, [left("p/g/a", clones("p/g/b")), left("p/g/b", clones("p/g/c"))]);
    }

    #[test]
    fn a_hold_keeps_its_volume_or_file_system() {
        let survey = survey(vec![snapshot("p/g/a@s", 1, &[]), snapshot("p/g@s", 2, &[])]);
        assert_eq!(survey.doomed, ["p/g/b"]);
        let held = |name: &str| RetentionCause::Held(name.to_owned());
        assert_eq!(survey.left, [left("p/g", held("p/g@s")), left("p/g/a", held("p/g/a@s"))]);
    }
}
