//! Starts domains, on another VNC port if their own is in use.

use log::warn;

use crate::config::HostConfig;
use crate::guest::consoles::with_console_log;
use crate::guest::displays::with_chosen_vnc_port;
use crate::guest::domain::VirDomain;
use crate::guest::paths::{console_log, is_console_log};
use crate::guest::state::State;
use crate::libvirt::{Code, Connection, Domain, Error, XmlKind};
use crate::ops;
use crate::ops::disks::sources;
use crate::ops::guests::saved_memory::is_saved;
use crate::ops::hypervisor::definition::described;
use crate::ops::networks::bridges;

/// Starts a domain that is off, if the paths of its disks are still allowed; its definition may be old.
///
/// If a start of another caller is under way, waits for it and succeeds. That caller may have been a killed agent.
///
/// # Errors
/// A disk at a path that is not allowed; any error that keeps the emulator from starting, with the names of missing
/// disks.
///
/// # Blocking
/// As [`Domain::create`] and [`sources::judge_start`].
pub(in crate::ops) fn start(
    connection: &Connection,
    domain: &Domain,
    host: &HostConfig,
) -> Result<(), ops::Error> {
    let definition = described(domain, XmlKind::Inactive)?;
    sources::judge_start(&definition, host)?;
    use_own_console_log(connection, domain, &definition, host)?;
    let started = start_on_its_port(connection, domain);
    started.map_err(|error| {
        let error = bridges::name_missing(connection, &definition, host, error.into());
        sources::name_missing(&definition, error)
    })
}

/// Gives a renamed or cloned guest its own console log. Its definition names the log of its former name or of its
/// original, and virtlogd opens a log only once: one of the two guests could not start.
fn use_own_console_log(
    connection: &Connection,
    domain: &Domain,
    definition: &VirDomain,
    host: &HostConfig,
) -> Result<(), ops::Error> {
    let log = &definition.devices.console_log;
    let Some(own) = console_log(&definition.name, host) else { return Ok(()) };
    // libvirt restores saved memory only with its own XML.
    if *log == own || !is_console_log(log) || is_saved(domain)? {
        return Ok(());
    }
    if let Some(changed) = with_console_log(&domain.xml(XmlKind::Definition)?, log, &own) {
        connection.define_domain(&changed)?;
    }
    Ok(())
}

/// Starts a domain, and retries with a VNC port that libvirt chooses.
///
/// A port in use keeps the emulator from starting, with an error text of libvirt or qemu. So a start that fails inside
/// the driver is tried again with a port of libvirt's choice: if that succeeds, the port was the cause. Only the
/// running domain has that port; the definition does not change.
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
    // libvirt restores saved memory only with its own XML.
    if is_saved(domain).unwrap_or(true) || connection.create_domain(&chosen).is_err() {
        return Err(refused);
    }
    warn!("VNC port is taken; libvirt chose another; guest={:?}: {refused}", domain.name()?);
    Ok(())
}
