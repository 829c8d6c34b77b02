//! Properties that hold for any output of the `zfs` command.

use std::collections::BTreeSet;

use super::delegation::granted;
use super::listing::{self, Kind};
use super::survey::Survey;

/// Parses the text as a listing, whose first line is the dataset to remove, and as permissions. Each destroyed dataset
/// was selected, is below the root, and is no origin of a remaining one; all others are reported.
pub(crate) fn zfs_output(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let has = granted(&text, "tank", |_| true);
    assert!(has.iter().all(|name| text.contains(name)));
    let Ok(mut entries) = listing::parse(&text) else { return };
    assert_eq!(entries.len(), text.lines().count());
    let Some(root) = entries.first().map(|entry| entry.name.clone()) else { return };
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.dedup_by(|a, b| a.name == b.name);
    let is_of_root = |name: &str| {
        name.strip_prefix(&root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    for whose in [None, entries.iter().find_map(|entry| entry.owner.as_deref())] {
        let chosen = |entry: &listing::Entry| whose.is_none() || entry.owner.as_deref() == whose;
        let survey = Survey::of(&root, &entries, chosen, |_| None);
        let find = |name: &str| entries.iter().find(|entry| entry.name == name);
        let doomed: BTreeSet<&str> = survey.doomed.iter().map(String::as_str).collect();
        assert_eq!(doomed.len(), survey.doomed.len(), "each once");
        for name in &survey.doomed {
            let entry = find(name).expect("it was listed");
            assert!(entry.kind == Kind::Volume && chosen(entry), "{name}");
            assert!(is_of_root(name), "{name} is not below {root}");
        }
        for snapshot in entries.iter().filter(|entry| entry.kind == Kind::Snapshot) {
            if !doomed.contains(snapshot.dataset()) {
                continue;
            }
            assert_eq!(snapshot.holds, 0, "{} is held", snapshot.name);
            let all_go = snapshot.clones.iter().all(|clone| doomed.contains(clone.as_str()));
            assert!(all_go, "{} has clones that stay", snapshot.name);
            assert!(survey.with_snapshots.contains(snapshot.dataset()));
        }
        for entry in entries.iter().filter(|entry| entry.kind == Kind::Volume) {
            let is_left = survey.left.iter().any(|left| left.name == entry.name);
            let is_foreign = survey.foreign.contains(&entry.name);
            let ways = [doomed.contains(entry.name.as_str()), is_left, is_foreign];
            let expected = usize::from(is_of_root(&entry.name));
            assert_eq!(ways.iter().filter(|is| **is).count(), expected, "{}", entry.name);
        }
    }
}
