//! The agent as systemd has it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::os::{process, users};

const ROOT: u32 = 0;

/// The user that the agent runs as: as its unit says where systemd has one, else who asks.
///
/// # Errors
/// When nobody has the name that the unit gives: what to tell.
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

/// The user in what `systemctl show` says of a unit, empty for root; none where there is no unit.
fn user_of_unit(says: &str) -> Option<&str> {
    let value = |name: &str| says.lines().find_map(|line| line.strip_prefix(name));
    value("LoadState=").filter(|state| *state == "loaded")?;
    value("User=").or(Some(""))
}

/// Whether systemd runs this host.
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
