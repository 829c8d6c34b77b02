//! Where the agent is called, and who may.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::check::Finding;
use crate::config::{CallerConfig, Config};
use crate::os::{process, users};

/// The names that the kernel has for the orchestrator's process, cut at 15 bytes.
const ORCHESTRATOR: &str = "mistify-agent";

pub(super) fn callers(config: &Config) -> Vec<Finding> {
    let CallerConfig { users, groups, any_local, .. } = &config.callers;
    let mut places: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    places.extend(config.socket.iter().map(|socket| socket.path.display().to_string()));
    let mut who = vec!["root".to_owned()];
    who.extend(users.iter().map(|user| format!("user {user}")));
    who.extend(groups.iter().map(|group| format!("group {group}")));
    let seen = format!("{}: {} may call", places.join(", "), who.join(", "));
    let mut found = vec![match any_local {
        true => Finding::warn(
            "callers",
            format!("{}: every user of this host may call", places.join(", ")),
            "name them by --allow-user instead of --allow-any-local",
        ),
        false => Finding::ok("callers", seen),
    }];
    found.extend(unknown(&config.callers));
    found.extend(orchestrators().into_iter().map(|(pid, uid)| {
        let seen = format!("{ORCHESTRATOR} (process {pid}) runs as user {uid}");
        match may_call(&config.callers, uid) {
            true => Finding::ok("callers", format!("{seen}, who may call")),
            false => Finding::fail("callers", seen, format!("give --allow-user {uid}")),
        }
    }));
    found
}

/// Names that nobody has here: the agent does not start with them.
fn unknown(callers: &CallerConfig) -> Vec<Finding> {
    let lacks = |flag: &str, name: &String, is_known: bool| {
        (!is_known).then(|| {
            Finding::fail(
                "callers",
                format!("{flag} {name}: not known here"),
                "make it, or drop it",
            )
        })
    };
    let users = callers.users.iter().filter_map(|name| {
        lacks("--allow-user", name, matches!(users::user_id(name), Ok(Some(_))))
    });
    let groups = callers.groups.iter().filter_map(|name| {
        lacks("--allow-group", name, matches!(users::group_id(name), Ok(Some(_))))
    });
    users.chain(groups).collect()
}

fn may_call(callers: &CallerConfig, uid: u32) -> bool {
    let is = |name: &String| matches!(users::user_id(name), Ok(Some(id)) if id == uid);
    let has = |name: &String, groups: &[u32]| matches!(users::group_id(name), Ok(Some(id)) if groups.contains(&id));
    uid == 0
        || uid == process::user()
        || callers.any_local
        || callers.users.iter().any(is)
        || users::groups(uid)
            .is_ok_and(|groups| callers.groups.iter().any(|name| has(name, &groups)))
}

/// Processes of the orchestrator and whose they are.
fn orchestrators() -> Vec<(String, u32)> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let is_it = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == ORCHESTRATOR)
    };
    let found = all.flatten().filter(is_it);
    // One that has just ended is none.
    let owner = |entry: fs::DirEntry| {
        Some((entry.file_name().to_string_lossy().into_owned(), entry.metadata().ok()?.uid()))
    };
    found.filter_map(owner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn root_may_call_and_a_stranger_only_where_a_flag_names_it() {
        let stranger = 3_999_999_999;
        let mut callers = CallerConfig::default();
        assert!(may_call(&callers, 0) && !may_call(&callers, stranger));
        callers.users.push(stranger.to_string());
        assert!(may_call(&callers, stranger));
        assert!(may_call(&CallerConfig { any_local: true, ..CallerConfig::default() }, stranger));
    }

    #[test]
    fn names_that_nobody_has_are_failures() {
        let name = "mistify-nobody-has-this".to_owned();
        let callers = CallerConfig {
            users: vec![name.clone()],
            groups: vec![name],
            any_local: true,
            ..CallerConfig::default()
        };
        let config = Config { callers, ..Config::default() };
        let levels: Vec<Level> = super::callers(&config).iter().map(|found| found.level).collect();
        assert_eq!(levels[..3], [Level::Warn, Level::Fail, Level::Fail]);
    }
}
