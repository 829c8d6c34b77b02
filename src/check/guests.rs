//! What guests run on: libvirt.

use crate::check::Finding;
use crate::config::Config;
use crate::libvirt::{self, Connection};

/// The oldest that the agent is made for, as libvirt counts.
const OLDEST: u64 = 8_000_000;

pub(super) fn libvirt(config: &Config) -> Vec<Finding> {
    let uri = &config.host.libvirt_uri;
    let words = |version: u64| {
        format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
    };
    let ask = || Connection::open(uri)?.lib_version();
    let asked = libvirt::start()
        .map_err(|error| error.to_string())
        .and_then(|_| ask().map_err(|error| error.to_string()));
    vec![match asked {
        Ok(version) if version < OLDEST => Finding::fail(
            "libvirt",
            format!("{uri}: version {}", words(version)),
            format!("the agent wants {} or later", words(OLDEST)),
        ),
        Ok(version) => Finding::ok("libvirt", format!("{uri}: version {}", words(version))),
        Err(error) => Finding::fail(
            "libvirt",
            format!("{uri}: {error}"),
            "start libvirtd (or virtqemud), and let this user call it: the group libvirt",
        ),
    }]
}
