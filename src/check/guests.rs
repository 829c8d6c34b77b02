//! Checks libvirt, and what it offers to guests.

use crate::check::Finding;
use crate::config::Config;
use crate::guest::capabilities::{Capabilities, modern_machine};
use crate::guest::check::machine::unavailable;
use crate::guest::wire::Guest;
use crate::libvirt::{self, Code, Connection, Error, FLOOR, version_text};
use crate::ops::CommittedMemory;

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
        Ok(version) if version < FLOOR => Finding::fail(
            "libvirt",
            format!("{uri}: version {}", version_text(version)),
            format!("install libvirt {} or later", version_text(FLOOR)),
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

/// Checks the features of new guests: CreateGuest refuses what is missing here.
pub(super) fn machines(config: &Config) -> Vec<Finding> {
    let Ok(connection) = Connection::open(&config.host.libvirt_uri) else {
        return vec![Finding::warn("guests", "not known: libvirt does not answer", "see libvirt")];
    };
    let machine = modern_machine(std::env::consts::ARCH).unwrap_or_default();
    let of = |kind| connection.domain_capabilities(kind, machine);
    let offer = match of("kvm").or_else(|_| of("qemu")).map(|xml| Capabilities::from_xml(&xml)) {
        Ok(Ok(offer)) => offer,
        Ok(Err(error)) => {
            return vec![Finding::warn("guests", error.to_string(), "upgrade libvirt")];
        }
        Err(error) if error.code == Code::NO_SUPPORT => {
            return vec![Finding::ok("guests", "profile classic: libvirt's driver has no other")];
        }
        Err(error) => {
            let seen = format!("neither kvm nor qemu can be used: {error}");
            return vec![Finding::warn("guests", seen, "install qemu-system-x86")];
        }
    };
    let profile = config.host.profile.name();
    let wants = [
        ("UEFI", Guest { firmware: "uefi".into(), ..Guest::default() }),
        ("Secure Boot", Guest { firmware: "uefi-secure".into(), ..Guest::default() }),
        ("TPM", Guest { tpm: true, ..Guest::default() }),
    ];
    let mut seen = format!("profile {profile}, {} of {}", offer.machine, offer.kind);
    for (name, guest) in wants {
        match unavailable(&guest, &offer).first() {
            None => seen += &format!(", {name}"),
            Some(missing) => seen += &format!("; no {name}: {}", missing.plain()),
        }
    }
    let mut found = vec![Finding::ok("guests", seen)];
    found.extend(memory(&connection));
    found
}

/// Compares the memory that guests may use with that of the host.
fn memory(connection: &Connection) -> Option<Finding> {
    let committed = match CommittedMemory::ask(connection) {
        Ok(committed) => committed?,
        Err(error) => return Some(Finding::warn("memory", error.to_string(), "see libvirt")),
    };
    let CommittedMemory { guests_mib, host_mib } = committed;
    let seen = format!("running guests may use {guests_mib} MiB; the host has {host_mib} MiB");
    Some(match committed.is_too_much() {
        true => Finding::warn("memory", seen, "stop guests, or give them less by SetMemory"),
        false => Finding::ok("memory", seen),
    })
}

/// Checks whether libvirt accepts changes, by a definition without content, which changes nothing: libvirt
/// refuses its XML on a connection that may write, and the call itself on a read-only one
/// (`libvirt-sock-ro`, for example).
///
/// # Errors
/// libvirt's refusal of every change.
fn takes_changes(connection: &Connection) -> Result<(), Error> {
    match connection.define_domain("<domain/>") {
        Err(error) if [Code::OPERATION_DENIED, Code::ACCESS_DENIED].contains(&error.code) => {
            Err(error)
        }
        _ => Ok(()),
    }
}
