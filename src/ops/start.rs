//! Starting a domain; on another VNC port where its own is taken.

use log::warn;

use crate::config::HostConfig;
use crate::guest::consoles::with_console_log;
use crate::guest::displays::with_chosen_vnc_port;
use crate::guest::domain::VirDomain;
use crate::guest::paths::{console_log, is_console_log};
use crate::guest::state::State;
use crate::libvirt::{Code, Connection, Domain, Error, XmlKind};
use crate::ops::saved::is_saved;
use crate::ops::{self, bridges, described, disks};

/// Starts a domain that is off, if its disks lie where they may: they are judged by its own
/// definition, however old that is. Somebody else's start that is under way is waited for, and is a success: it may
/// be that of an agent which was killed.
///
/// # Errors
/// A disk that may not be there; what keeps the emulator from starting, with the disks that are not
/// there.
///
/// # Blocking
/// As [`Domain::create`] and [`disks::judge_start`].
pub(super) fn start(
    connection: &Connection,
    domain: &Domain,
    host: &HostConfig,
) -> Result<(), ops::Error> {
    let definition = described(domain, XmlKind::Inactive)?;
    disks::judge_start(&definition, host)?;
    use_own_console_log(connection, domain, &definition, host)?;
    let started = start_on_its_port(connection, domain);
    started.map_err(|error| {
        let error = bridges::name_missing(connection, &definition, host, error.into());
        disks::name_missing(&definition, error)
    })
}

/// Gives a renamed or cloned guest a console log of its own. Its definition names that of the guest which it
/// was or was copied from, and virtlogd opens a log once: one of the two could not start.
fn use_own_console_log(
    connection: &Connection,
    domain: &Domain,
    definition: &VirDomain,
    host: &HostConfig,
) -> Result<(), ops::Error> {
    let log = &definition.devices.console_log;
    let Some(own) = console_log(&definition.name, host) else { return Ok(()) };
    // Saved memory is not started with another XML than its own.
    if *log == own || !is_console_log(log) || is_saved(domain)? {
        return Ok(());
    }
    if let Some(changed) = with_console_log(&domain.xml(XmlKind::Definition)?, log, &own) {
        connection.define_domain(&changed)?;
    }
    Ok(())
}

/// A display's port that something else has keeps the emulator from starting, in words that are
/// libvirt's or qemu's own. So a start that fails inside the driver is tried once more with a port
/// of libvirt's choice: where that works, the port was the cause. Only what runs has that port: the
/// definition does not change.
fn start_on_its_port(connection: &Connection, domain: &Domain) -> Result<(), Error> {
    match domain.create() {
        Err(refused) if refused.code == Code::INTERNAL_ERROR && !refused.connection_lost() => {
            start_on_chosen_port(connection, domain, refused)
        }
        Err(refused) if refused.code == Code::OPERATION_INVALID && has_started(domain)? => Ok(()),
        outcome => outcome,
    }
}

fn has_started(domain: &Domain) -> Result<bool, Error> {
    let (state, _) = domain.state()?;
    Ok(matches!(State::from_code(state), State::Running | State::Paused))
}

fn start_on_chosen_port(
    connection: &Connection,
    domain: &Domain,
    refused: Error,
) -> Result<(), Error> {
    let definition = domain.xml(XmlKind::Definition)?;
    let Some(chosen) = with_chosen_vnc_port(&definition) else { return Err(refused) };
    // Saved memory is not started with another XML than its own.
    if is_saved(domain).unwrap_or(true) || connection.create_domain(&chosen).is_err() {
        return Err(refused);
    }
    warn!("VNC port is taken; libvirt chose another; guest={:?}: {refused}", domain.name()?);
    Ok(())
}
