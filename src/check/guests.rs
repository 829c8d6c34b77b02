//! What guests run on: libvirt.

use crate::check::Finding;
use crate::config::Config;
use crate::libvirt::{self, Code, Connection, Error, version_text};

/// The oldest that the agent is made for, as libvirt counts.
const OLDEST: u64 = 8_000_000;

pub(super) fn libvirt(config: &Config) -> Vec<Finding> {
    let uri = &config.host.libvirt_uri;
    let ask = || {
        let connection = Connection::open(uri)?;
        takes_changes(&connection)?;
        connection.lib_version()
    };
    let asked = libvirt::start()
        .map_err(|error| error.to_string())
        .and_then(|_| ask().map_err(|error| error.to_string()));
    vec![match asked {
        Ok(version) if version < OLDEST => Finding::fail(
            "libvirt",
            format!("{uri}: version {}", version_text(version)),
            format!("install libvirt {} or later", version_text(OLDEST)),
        ),
        Ok(version) => Finding::ok("libvirt", format!("{uri}: version {}", version_text(version))),
        Err(error) => Finding::fail(
            "libvirt",
            format!("{uri}: {error}"),
            "start libvirtd or virtqemud, and add this user to the group libvirt, which may use \
             the read-write socket",
        ),
    }]
}

/// Whether libvirt takes changes. A definition without content changes nothing: a connection that may write
/// refuses its XML, a read-only one (`libvirt-sock-ro`, say) the call.
///
/// # Errors
/// libvirt's refusal of any change.
fn takes_changes(connection: &Connection) -> Result<(), Error> {
    match connection.define_domain("<domain/>") {
        Err(error) if [Code::OPERATION_DENIED, Code::ACCESS_DENIED].contains(&error.code) => {
            Err(error)
        }
        _ => Ok(()),
    }
}
