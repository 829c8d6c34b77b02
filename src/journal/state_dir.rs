//! The default directory for the agent's persistent state.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

const NAME: &str = "mistify-libvirt";
const ROOT: u32 = 0;

/// Returns the first directory from systemd, else the host's for root, else the user's. Ignores
/// relative paths; returns `None` if none is left.
pub fn default_state_dir(
    environment: impl Fn(&str) -> Option<OsString>,
    user: u32,
) -> Option<PathBuf> {
    let first = |name| {
        let list = environment(name)?;
        env::split_paths(&list).next().filter(|path| path.is_absolute())
    };
    let absolute = |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(given) = first("STATE_DIRECTORY") {
        return Some(given);
    }
    if user == ROOT {
        return Some(PathBuf::from("/var/lib").join(NAME));
    }
    let states = absolute("XDG_STATE_HOME");
    let states = states.or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(states.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)], user: u32) -> Option<PathBuf> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        default_state_dir(|name| find(name).map(|(_, value)| value.into()), user)
    }

    #[test]
    fn state_dir_prefers_systemd_then_root_then_user() {
        let all = [("STATE_DIRECTORY", "/a:/b"), ("XDG_STATE_HOME", "/x"), ("HOME", "/home/me")];
        assert_eq!(chosen(&all, 0), Some("/a".into()));
        assert_eq!(chosen(&all, 1000), Some("/a".into()));
        assert_eq!(chosen(&all[1..], 0), Some("/var/lib/mistify-libvirt".into()));
        assert_eq!(chosen(&all[1..], 1000), Some("/x/mistify-libvirt".into()));
        let home = "/home/me/.local/state/mistify-libvirt";
        assert_eq!(chosen(&all[2..], 1000), Some(home.into()));
    }

    #[test]
    fn empty_or_relative_variable_is_ignored() {
        let odd = [("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "x"), ("HOME", "")];
        assert_eq!(chosen(&odd, 0), Some("/var/lib/mistify-libvirt".into()));
        assert_eq!(chosen(&odd, 1000), None);
    }
}
