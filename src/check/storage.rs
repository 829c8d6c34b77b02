//! Checks of the store of disks.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::check::host::named;
use crate::check::{Finding, can_use};
use crate::config::fixed::CHECK_LOOK;
use crate::config::{Config, Store};
use crate::os::resolve::TrustedUsers;
use crate::os::service::agent_user;
use crate::os::{process, users};
use crate::storage::{self, Grantee, MIB, PoolName, ZfsStore};

/// Free space of the store, in percent, below which a new guest or a snapshot may be the last.
const FREE_PERCENT_MIN: u64 = 10;

/// Checks whether the store answers, and how full it is.
pub(super) fn space(config: &Config) -> Vec<Finding> {
    let name = match &config.host.store {
        Store::None => return vec![Finding::ok("storage", "not used: --zpool is empty")],
        Store::Zfs => match config.host.zpool.contains('/') {
            true => format!("dataset {}", config.host.zpool),
            false => format!("pool {}", config.host.zpool),
        },
        Store::Directory(path) => path.display().to_string(),
    };
    let agent = agent_user().unwrap_or_else(|_| process::user());
    let asked = storage::open(&config.host, &config.storage, TrustedUsers::with_agent(agent), None)
        .and_then(|store| store.usage(Instant::now() + CHECK_LOOK));
    vec![match asked {
        Ok(usage) => {
            let all = usage.free_bytes.saturating_add(usage.used_bytes);
            let (free, all_mib) = (usage.free_bytes / MIB, all / MIB);
            let seen = format!("{name}: {free} of {all_mib} MiB free");
            match usage.free_bytes / 100 * 100 < all / 100 * FREE_PERCENT_MIN {
                true => {
                    let remedy = "free space; libvirt pauses a guest whose disk gets no space";
                    Finding::warn("storage", seen, remedy)
                }
                false => Finding::ok("storage", seen),
            }
        }
        Err(why @ storage::Error::Untrusted { .. }) => Finding::fail(
            "storage",
            why.to_string(),
            format!(
                "chown it to {} and chmod go-w, or set another directory; the store must not \
                 contain links",
                named(agent)
            ),
        ),
        Err(why) => Finding::fail(
            "storage",
            format!("{name}: {why}"),
            "import or create the pool, or create the dataset with zfs create; if the agent does \
             not run as root, run zfs allow (see own-user.conf); or set --storage directory:PATH",
        ),
    }]
}

/// Checks the kernel module of ZFS: its version, and whether this user may open its device.
pub(super) fn zfs(config: &Config) -> Vec<Finding> {
    if config.host.store != Store::Zfs {
        return vec![Finding::ok("zfs", "not used")];
    }
    let device = Path::new("/dev/zfs");
    vec![match (fs::read_to_string("/sys/module/zfs/version"), can_use(device)) {
        (Err(_), _) => Finding::fail("zfs", "the zfs module is not loaded", "modprobe zfs"),
        (Ok(_), Err(error)) => {
            Finding::fail("zfs", format!("/dev/zfs: {error}"), "let the agent's user open /dev/zfs")
        }
        (Ok(version), Ok(())) => Finding::ok("zfs", format!("module {}", version.trim())),
    }]
}

/// Checks whether the agent's user has the ZFS permissions on the pool that the agent needs.
pub(super) fn permissions(config: &Config) -> Vec<Finding> {
    if config.host.store != Store::Zfs {
        return vec![Finding::ok("allowed", "not used: the store is not ZFS")];
    }
    let user = match agent_user() {
        Ok(0) => {
            let seen = "the agent runs as root, which has all permissions";
            return vec![Finding::ok("allowed", seen)];
        }
        Ok(user) => user,
        Err(why) => {
            return vec![Finding::warn(
                "allowed",
                why,
                "set User= of the unit to an existing user",
            )];
        }
    };
    let (who, pool) = (named(user), &config.host.zpool);
    let groups = users::groups(user).unwrap_or_default();
    let is_agent = |it: Grantee<'_>| match it {
        Grantee::Everyone => true,
        Grantee::User(name) => matches!(users::user_id(name), Ok(Some(id)) if id == user),
        Grantee::Group(name) => {
            matches!(users::group_id(name), Ok(Some(id)) if groups.contains(&id))
        }
    };
    let lacking = PoolName::parse(pool).map_err(|error| error.to_string()).and_then(|name| {
        let store = ZfsStore::new(name, config.storage.clone());
        let asked = store.permissions_lacking(is_agent, Instant::now() + CHECK_LOOK);
        asked.map_err(|error| error.to_string())
    });
    vec![match lacking {
        Ok(lacking) if lacking.is_empty() => {
            Finding::ok("allowed", format!("{who} has the required permissions on {pool}"))
        }
        Ok(lacking) => Finding::fail(
            "allowed",
            format!(
                "{who} lacks the permissions {} on {pool} and its descendants",
                lacking.join(", ")
            ),
            format!("zfs allow -u {user} {} {pool}", lacking.join(",")),
        ),
        Err(why) => Finding::fail("allowed", format!("{pool}: {why}"), "see zfs-allow(8)"),
    }]
}

/// Checks that no dataset of guests or images is mounted: the agent has a mount namespace of its
/// own, and a mount in one namespace is hidden from the other or held by it.
pub(super) fn mounts(config: &Config) -> Vec<Finding> {
    if config.host.store != Store::Zfs {
        return vec![Finding::ok("mounts", "not used: the store is not ZFS")];
    }
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounted(&table, &config.host.zpool);
    if mounted.is_empty() {
        return vec![Finding::ok("mounts", "no dataset of guests or images is mounted")];
    }
    let remedy = |dataset: &str| format!("zfs set mountpoint=none {dataset}");
    let found = mounted
        .iter()
        .map(|dataset| Finding::warn("mounts", format!("{dataset} is mounted"), remedy(dataset)));
    found.collect()
}

/// Returns the mounted datasets that hold guests or images of the pool.
fn mounted<'a>(table: &'a str, pool: &str) -> Vec<&'a str> {
    let ours = ["guests", "images"].map(|name| format!("{pool}/{name}"));
    let is_ours = |dataset: &str| {
        ours.iter().any(|root| {
            let rest = dataset.strip_prefix(root.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let of_line = |line: &'a str| {
        let mut words = line.split(' ');
        let (dataset, kind) = (words.next()?, words.nth(1)?);
        (kind == "zfs" && is_ours(dataset)).then_some(dataset)
    };
    table.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_pools_guests_and_images_are_found() {
        let table = "tank /tank zfs rw 0 0\ntank/guests /tank/guests zfs rw,xattr 0 0\n\
                     tank/guests/web-1 /x zfs rw 0 0\ntank/guestsroom /y zfs rw 0 0\n\
                     tank/images /z ext4 rw 0 0\nother/images /w zfs rw 0 0\n";
        assert_eq!(mounted(table, "tank"), ["tank/guests", "tank/guests/web-1"]);
        assert_eq!(mounted(table, "none"), [""; 0]);
        let table = "tank/sub/guests /x zfs rw 0 0\ntank/guests /y zfs rw 0 0\n\
                     tank/sub /z zfs rw 0 0\ntank/sub/images/a /w zfs rw 0 0\n";
        assert_eq!(mounted(table, "tank/sub"), ["tank/sub/guests", "tank/sub/images/a"]);
    }
}
