//! The agent's systemd service.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::os::{process, users};

const ROOT: u32 = 0;

/// Returns the user of the agent: that of its unit if systemd has one, otherwise this process's.
///
/// # Errors
/// If the user in the unit does not exist; with an explanation.
///
/// # Blocking
/// As long as `systemctl` takes, some 10 ms.
pub fn agent_user() -> Result<u32, String> {
    if !is_systemd() {
        return Ok(process::user());
    }
    let asked = Command::new("systemctl")
        .args(["show", "--property=LoadState", "--property=User", "mistify-libvirt.service"])
        .stdin(Stdio::null())
        .output();
    let says = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match user_of_unit(&says.unwrap_or_default()) {
        None => Ok(process::user()),
        Some("") => Ok(ROOT),
        Some(name) => match users::user_id(name) {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(format!("the unit's user {name} does not exist")),
            Err(error) => Err(format!("cannot look up the unit's user {name}: {error}")),
        },
    }
}

/// Parses the user from the output of `systemctl show`, empty for root; `None` if the unit does not
/// exist.
fn user_of_unit(says: &str) -> Option<&str> {
    let value = |name: &str| says.lines().find_map(|line| line.strip_prefix(name));
    value("LoadState=").filter(|state| *state == "loaded")?;
    value("User=").or(Some(""))
}

/// Returns whether systemd runs this host.
pub fn is_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_user_is_its_own_or_root_and_no_unit_has_none() {
        assert_eq!(
            user_of_unit("LoadState=loaded\nUser=mistify-libvirt\n"),
            Some("mistify-libvirt")
        );
        assert_eq!(user_of_unit("LoadState=loaded\nUser=\n"), Some(""));
        assert_eq!(user_of_unit("User=\nLoadState=not-found\n"), None);
        assert_eq!(user_of_unit(""), None);
    }
}
