//! The permissions that a pool delegates: the output of `zfs allow`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::storage::{Error, ZfsStore};

/// The permissions that an agent without root needs on its pool and below, as `own-user.conf` grants them.
pub const PERMISSIONS: [&str; 19] = [
    "create",
    "destroy",
    "mount",
    "snapshot",
    "clone",
    "promote",
    "rename",
    "rollback",
    "hold",
    "release",
    "send",
    "receive",
    "userprop",
    "volsize",
    "volblocksize",
    "refreservation",
    "compression",
    "mountpoint",
    "readonly",
];

/// The title of permissions for a dataset and everything below it.
const BELOW: &str = "Local+Descendent permissions:";

/// A holder of permissions on a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantee<'a> {
    /// A user, by name in the user database.
    User(&'a str),
    /// The members of a group.
    Group(&'a str),
    /// All users.
    Everyone,
}

impl ZfsStore {
    /// Returns those of [`PERMISSIONS`] that the selected grantees lack on the pool and everything below it.
    ///
    /// # Errors
    /// As every method of [`Volumes`](crate::storage::Volumes).
    ///
    /// # Blocking
    /// Blocks as long as one `zfs allow`.
    pub fn permissions_lacking(
        &self,
        is_selected: impl Fn(Grantee<'_>) -> bool,
        deadline: Instant,
    ) -> Result<Vec<&'static str>, Error> {
        let text = self.zfs.succeed(&["allow", self.pool.as_str()], deadline)?;
        let has = granted(&text, self.pool.as_str(), is_selected);
        Ok(PERMISSIONS.into_iter().filter(|name| !has.contains(*name)).collect())
    }
}

/// Returns the permissions on the pool itself and below it for the selected grantees. For a dataset in a pool, `zfs
/// allow` also shows the permissions of the parent datasets, each under the name of its dataset.
pub(super) fn granted<'t>(
    text: &'t str,
    pool: &str,
    is_selected: impl Fn(Grantee<'_>) -> bool,
) -> BTreeSet<&'t str> {
    let (mut title, mut sets, mut granted) = ("", BTreeMap::new(), BTreeSet::new());
    let mut is_above = false;
    for line in text.lines() {
        let Some(entry) = line.strip_prefix('\t') else {
            match line.strip_prefix("---- Permissions on ") {
                Some(rest) => is_above = rest.split(' ').next() != Some(pool),
                // Permissions of a parent dataset for its descendants also apply here.
                None if is_above && line == "Descendent permissions:" => title = BELOW,
                None => title = line,
            }
            continue;
        };
        let mut words = entry.split(' ');
        let (who, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (who, names) = match (title, who) {
            ("Permission sets:", set) => {
                sets.insert(set, name);
                continue;
            }
            (BELOW, "everyone") => (Grantee::Everyone, name),
            (BELOW, "user") => (Grantee::User(name), words.next().unwrap_or_default()),
            (BELOW, "group") => (Grantee::Group(name), words.next().unwrap_or_default()),
            _ => continue,
        };
        if is_selected(who) {
            granted.extend(names.split(','));
        }
    }
    // Sets may contain sets, which is not needed here.
    let of_sets = sets.iter().filter(|(set, _)| granted.contains(*set));
    let of_sets: Vec<_> = of_sets.flat_map(|(_, names)| names.split(',')).collect();
    granted.extend(of_sets);
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `zfs allow tank` of OpenZFS 2.1.11.
    const TEXT: &str = include_str!("../../../tests/golden/zfs-allow.txt");

    #[test]
    fn rights_here_and_below_include_sets_and_groups() {
        let of = |user: &'static str, group: &'static str| {
            let is_selected = move |who: Grantee<'_>| {
                [Grantee::Everyone, Grantee::User(user), Grantee::Group(group)].contains(&who)
            };
            granted(TEXT, "tank", is_selected)
                .into_iter()
                .filter(|name| !name.starts_with('@'))
                .collect()
        };
        let named: Vec<&str> = of("nobody", "");
        let expected = [
            "clone", "create", "destroy", "mount", "receive", "rename", "snapshot", "userprop",
            "volsize",
        ];
        assert_eq!(named, expected, "neither what is local nor what is below alone");
        let of_group: Vec<&str> = of("other", "disk");
        assert_eq!(of_group, ["hold", "receive", "release", "send"]);
        let of_everyone: Vec<&str> = of("other", "other");
        assert_eq!(of_everyone, ["receive"]);
    }

    #[test]
    fn parent_datasets_grant_rights_below() {
        let own = "---- Permissions on tank/sub -----\nDescendent permissions:\n\tuser nobody send\n\
                   Local permissions:\n\tuser nobody hold\n";
        let text = format!("{own}{TEXT}");
        let is_selected = |who: Grantee<'_>| who == Grantee::User("nobody");
        let all = granted(&text, "tank/sub", is_selected);
        assert!(all.contains("readonly") && all.contains("create"), "{all:?}");
        assert!(!all.contains("promote"), "tank alone: {all:?}");
        assert!(!all.contains("send") && !all.contains("hold"), "not on both: {all:?}");
        assert!(!granted(TEXT, "tank", is_selected).contains("readonly"));
    }

    #[test]
    fn the_permissions_are_those_that_own_user_conf_gives() {
        let file = include_str!("../../../dist/own-user.conf");
        let line = file.lines().find(|line| line.contains("zfs allow ")).expect("it says so");
        let names = line.split("zfs allow ").nth(1).and_then(|rest| rest.split(' ').nth(1));
        assert_eq!(names.unwrap().split(',').collect::<Vec<_>>(), PERMISSIONS);
    }
}
