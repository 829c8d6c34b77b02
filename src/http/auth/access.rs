//! The permitted local callers: users and groups of this host.

use std::fmt;
use std::io;

use crate::config::CallerConfig;
use crate::os::peer::Share;
use crate::os::users;

/// The access rule, with names resolved to numbers. By default root and the agent's own user may
/// call.
#[derive(Clone, Debug, Default)]
pub struct Access {
    users: Vec<u32>,
    groups: Vec<u32>,
    any_local: bool,
}

/// A user or a group whose name cannot be resolved.
#[derive(Debug)]
pub struct AccessError {
    flag: &'static str,
    name: String,
    cause: Option<io::Error>,
}

// One line that contains its cause, and so without a `source`: it ends the start of the agent.
impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.flag, self.name)?;
        match &self.cause {
            None => f.write_str("not known on this host"),
            Some(cause) => write!(f, "{cause}"),
        }
    }
}

impl std::error::Error for AccessError {}

impl Access {
    /// Resolves the names.
    ///
    /// # Errors
    /// The first name that is unknown, or whose lookup fails.
    ///
    /// # Blocking
    /// As long as the lookups in the databases of users and groups take.
    pub fn new(config: &CallerConfig) -> Result<Self, AccessError> {
        let user = |name: &String| number("--allow-user", name, users::user_id);
        let group = |name: &String| number("--allow-group", name, users::group_id);
        Ok(Self {
            users: config.users.iter().map(user).collect::<Result<_, _>>()?,
            groups: config.groups.iter().map(group).collect::<Result<_, _>>()?,
            any_local: config.any_local,
        })
    }

    /// Permits everybody on this host.
    pub(crate) fn of_all() -> Self {
        Self { any_local: true, ..Self::default() }
    }

    /// Returns whether everybody on this host may call.
    pub(crate) fn is_for_all(&self) -> bool {
        self.any_local
    }

    /// Returns whether a user may call; `None` where the user's groups decide.
    pub(super) fn allows(&self, uid: u32) -> Option<bool> {
        if self.any_local || Share::User(uid).is_privileged() || self.users.contains(&uid) {
            return Some(true);
        }
        self.groups.is_empty().then_some(false)
    }

    /// Returns the groups whose members may call.
    pub(super) fn groups(&self) -> &[u32] {
        &self.groups
    }
}

/// Resolves the user or the group that an option names.
pub(in crate::http) fn number(
    flag: &'static str,
    name: &str,
    look_up: fn(&str) -> io::Result<Option<u32>>,
) -> Result<u32, AccessError> {
    let error = |cause| AccessError { flag, name: name.to_owned(), cause };
    look_up(name).map_err(|cause| error(Some(cause)))?.ok_or_else(|| error(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::process;

    const STRANGER: u32 = 3_999_999_999;

    fn access(users: &[&str], groups: &[&str]) -> Result<Access, AccessError> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (users, groups) = (names(users), names(groups));
        Access::new(&CallerConfig { users, groups, ..CallerConfig::default() })
    }

    fn may_call(access: &Access, uid: u32) -> bool {
        access.allows(uid) == Some(true)
    }

    #[test]
    fn root_own_user_and_listed_users_may_call() {
        let nobody_else = Access::default();
        for uid in [0, process::user()] {
            assert!(may_call(&nobody_else, uid));
        }
        assert!(!may_call(&nobody_else, STRANGER));
        let by_number = access(&[&STRANGER.to_string()], &[]).unwrap();
        assert!(may_call(&by_number, STRANGER) && !Share::User(STRANGER).is_privileged());
        assert!(!may_call(&by_number, STRANGER - 1));
        assert!(may_call(&Access { any_local: true, ..Access::default() }, STRANGER));
    }

    #[test]
    fn unknown_name_is_reported_with_its_flag() {
        let error = |access: Result<Access, AccessError>| access.unwrap_err().to_string();
        let name = "mistify-nobody-has-this-name";
        assert_eq!(
            error(access(&[name], &[])),
            format!("--allow-user {name}: not known on this host")
        );
        assert_eq!(
            error(access(&[], &[name])),
            format!("--allow-group {name}: not known on this host")
        );
    }

    #[test]
    fn where_groups_are_named_they_decide_about_strangers() {
        let access = access(&["7"], &["4000000000"]).unwrap();
        assert_eq!(access.groups(), [4_000_000_000]);
        assert_eq!((access.allows(STRANGER), access.allows(7)), (None, Some(true)));
        assert_eq!(Access::default().allows(STRANGER), Some(false));
    }
}
