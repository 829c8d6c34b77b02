//! A guest's networks: one for each NIC, named by its MAC (contract section 5.2).

use std::collections::BTreeSet;

use log::info;

use crate::config::BridgeType;
use crate::guest::check::is_mac;
use crate::guest::domain::VirDomain;
use crate::guest::network::{NetworkDefinition, NetworkMark};
use crate::guest::wire::Nic;
use crate::journal::Step;
use crate::libvirt::{Code, Connection, Error, Network};
use crate::ops;
use crate::ops::disks::domain_uses::{DomainUse, all_uses};
use crate::ops::networks::nat;
use crate::ops::transaction::Transaction;

/// Makes and starts the NIC's network, and sets its autostart. The transaction records each change before it is made.
///
/// An existing network of that name is adopted if it has the wanted settings and belongs to no other guest; else
/// libvirt's own error says that the name is taken. `domain` is the uuid of the guest's domain.
pub(in crate::ops) fn ensure(
    connection: &Connection,
    (id, domain): (&str, &str),
    nic: &Nic,
    bridge_type: BridgeType,
    transaction: &mut Transaction,
) -> Result<(), ops::Error> {
    nat::ensure(connection, nic, bridge_type)?;
    let wanted = NetworkDefinition::for_nic(nic, bridge_type, id, domain);
    let mut is_new = false;
    let network = match network_state(connection, &wanted, id)? {
        NetworkState::Ours(network) => network,
        // libvirt refuses the definition, with a better error.
        NetworkState::Taken => connection.define_network(&wanted.network_xml())?,
        NetworkState::Absent => {
            transaction.record(Step::NetworkDefined(nic.mac.clone()))?;
            is_new = true;
            connection.define_network(&wanted.network_xml())?
        }
    };
    // After the network: the reservation is removed together with it.
    nat::reserve(connection, nic, bridge_type)?;
    network.set_autostart()?;
    if network.is_active()? {
        return Ok(());
    }
    if !is_new {
        transaction.record(Step::NetworkStarted(nic.mac.clone()))?;
    }
    match network.create() {
        Err(error) if error.code == Code::OPERATION_INVALID && network.is_active()? => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// The network that exists under a wanted name.
pub(in crate::ops) enum NetworkState {
    /// No network exists.
    Absent,
    /// The network has the wanted settings and belongs to no other guest.
    Ours(Network),
    /// The network has other settings, or belongs to another guest.
    Taken,
}

/// Looks up the network that the guest `id` wants.
pub(in crate::ops) fn network_state(
    connection: &Connection,
    wanted: &NetworkDefinition,
    id: &str,
) -> Result<NetworkState, Error> {
    match connection.lookup_network_by_name(&wanted.name) {
        Ok(network) if is_ours(connection, &network, wanted, id)? => {
            Ok(NetworkState::Ours(network))
        }
        Ok(_) => Ok(NetworkState::Taken),
        Err(error) if error.code == Code::NO_NETWORK => Ok(NetworkState::Absent),
        Err(error) => Err(error),
    }
}

/// Returns whether an existing network has the wanted settings and belongs to no other guest.
fn is_ours(
    connection: &Connection,
    network: &Network,
    wanted: &NetworkDefinition,
    id: &str,
) -> Result<bool, Error> {
    let Ok(found) = NetworkDefinition::from_xml(&network.xml()?) else { return Ok(false) };
    if !wanted.same_connection(&found) {
        return Ok(false);
    }
    let domain = wanted.owner.as_ref().map_or("", |mark| &mark.domain);
    if found.owner.as_ref().is_some_and(|mark| !domain.is_empty() && mark.domain == domain) {
        return Ok(true);
    }
    let (own, others): (Vec<_>, Vec<_>) =
        all_uses(connection)?.into_iter().partition(|user| user.name == id);
    let Some(mark) = &found.owner else {
        // The original agent left no mark: the domains that use the network decide.
        return Ok(!others.iter().any(|other| other.may_have_network(&found.name)));
    };
    let is_plugged_in =
        |users: &[DomainUse]| users.iter().any(|user| user.has_network(&found.name));
    Ok(!others.iter().any(|other| other.owns_network(mark))
        // A guest that was renamed or defined again has its network under a former mark.
        && (is_plugged_in(&own) || (mark.guest == id && !is_plugged_in(&others))))
}

/// Stops a network that was started for a guest, unless a running domain of `users` uses it. Succeeds if the network is
/// stopped or missing.
pub(in crate::ops) fn stop_unused(
    connection: &Connection,
    name: &str,
    users: &[DomainUse],
) -> Result<(), Error> {
    match users.iter().any(|user| user.runs && user.may_have_network(name)) {
        true => Ok(()),
        false => stop(connection, name),
    }
}

fn stop(connection: &Connection, name: &str) -> Result<(), Error> {
    match connection.lookup_network_by_name(name) {
        Ok(network) => stop_if_active(&network),
        Err(error) if error.code == Code::NO_NETWORK => Ok(()),
        Err(error) => Err(error),
    }
}

fn stop_if_active(network: &Network) -> Result<(), Error> {
    if !network.is_active()? {
        return Ok(());
    }
    match network.destroy() {
        Err(error) if error.code == Code::OPERATION_INVALID && !network.is_active()? => Ok(()),
        outcome => outcome,
    }
}

/// Removes the reservation of a NIC, then stops and undefines its network; returns `false` if no such network exists.
pub(in crate::ops) fn remove(connection: &Connection, name: &str) -> Result<bool, Error> {
    nat::release(connection, name)?;
    let network = match connection.lookup_network_by_name(name) {
        Ok(network) => network,
        Err(error) if error.code == Code::NO_NETWORK => return Ok(false),
        Err(error) => return Err(error),
    };
    stop_if_active(&network)?;
    match network.undefine() {
        Err(error) if error.code == Code::NO_NETWORK => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// The result of removing a guest's networks.
#[derive(Debug, Default)]
pub(in crate::ops) struct Removal {
    /// The number of removed networks.
    pub(in crate::ops) removed: usize,
    /// The names of the networks that libvirt did not remove, and the errors.
    pub(in crate::ops) left: Vec<(String, Error)>,
}

/// Removes the networks of these names, except the networks that a domain of `users` uses. A network that cannot be
/// removed does not prevent the others.
///
/// # Errors
/// If libvirt does not answer.
pub(in crate::ops) fn remove_all(
    connection: &Connection,
    id: &str,
    names: &BTreeSet<String>,
    users: &[DomainUse],
    matching: OwnerMatch,
) -> Result<Removal, Error> {
    let mut removal = Removal::default();
    for name in names {
        let found = present(connection, id, name, users, matching);
        let outcome = found.and_then(|found| match found {
            Some(Use::Unused) => remove(connection, name),
            Some(Use::Used) => {
                info!("keeping network {name}: another guest uses it; guest={id:?}");
                Ok(false)
            }
            // Another tool may have removed the network of the NIC; its reservation remains.
            None if !users.iter().any(|user| user.may_have_network(name)) => {
                nat::release(connection, name).map(|()| false)
            }
            None => Ok(false),
        });
        match outcome {
            Ok(removed) => removal.removed += usize::from(removed),
            Err(error) if error.connection_lost() => return Err(error),
            Err(error) => removal.left.push((name.clone(), error)),
        }
    }
    Ok(removal)
}

/// Which networks may belong to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum OwnerMatch {
    /// Networks with its mark.
    Only,
    /// Also networks without a mark that look like the original agent's.
    OrOriginal,
}

/// Whether a domain uses a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Use {
    /// A domain uses it, or may use it.
    Used,
    /// No domain uses it.
    Unused,
}

/// Returns whether a domain of `users` uses the network of this name; `None` if the network does not exist or cannot be
/// the guest's. Without an id the owner is unknown.
///
/// The name of a guest's network is a MAC address. Either its mark names none of `users`, the other domains, or it has
/// no mark and looks like the original's networks (contract section 5.2). Any other network is never removed, whatever
/// a request names. So a network whose maker is gone is removed with the last guest that is connected to it. The caller
/// passes names from the guest's definition, and networks whose mark has the guest's id.
pub(in crate::ops) fn present(
    connection: &Connection,
    id: &str,
    name: &str,
    users: &[DomainUse],
    matching: OwnerMatch,
) -> Result<Option<Use>, Error> {
    if id.is_empty() || !is_mac(name) {
        return Ok(None);
    }
    let network = match connection.lookup_network_by_name(name) {
        Ok(network) => network,
        Err(error) if error.code == Code::NO_NETWORK => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_used = match NetworkDefinition::from_xml(&network.xml()?) {
        // Without a mark only the domains tell whose a network is, and an unreadable domain may use it.
        Ok(NetworkDefinition { owner: None, is_for_guest: true, .. })
            if matching == OwnerMatch::OrOriginal =>
        {
            users.iter().any(|user| user.may_have_network(name))
        }
        Ok(NetworkDefinition { owner: Some(mark), .. }) if !is_of_others(&mark, id, users) => {
            match matching {
                OwnerMatch::OrOriginal if mark.guest == id => {
                    users.iter().any(|user| user.has_network(name))
                }
                // One of the users may be a new guest of this id.
                _ => users.iter().any(|user| user.may_have_network(name)),
            }
        }
        _ => {
            info!("keeping network {name}: it is not this guest's; guest={id:?}");
            return Ok(None);
        }
    };
    Ok(Some(if is_used { Use::Used } else { Use::Unused }))
}

/// Returns whether a network was made for another domain than the guest's. A mark without a uuid and with the guest's
/// id may be the guest's, even if another domain has that id by now.
fn is_of_others(mark: &NetworkMark, id: &str, users: &[DomainUse]) -> bool {
    let is_old_and_own = mark.domain.is_empty() && mark.guest == id;
    !is_old_and_own && users.iter().any(|user| user.owns_network(mark))
}

/// Returns the mark of a network; `None` if the network does not exist or has no mark.
pub(in crate::ops) fn mark_of(
    connection: &Connection,
    name: &str,
) -> Result<Option<NetworkMark>, Error> {
    match connection.lookup_network_by_name(name) {
        Ok(network) => {
            Ok(NetworkDefinition::from_xml(&network.xml()?).ok().and_then(|found| found.owner))
        }
        Err(error) if error.code == Code::NO_NETWORK => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the networks that a domain's interfaces name and that exist.
pub(in crate::ops) fn nic_networks(
    connection: &Connection,
    domain: &VirDomain,
) -> Result<Vec<NetworkDefinition>, Error> {
    let mut found = Vec::new();
    for interface in &domain.devices.interfaces {
        match connection.lookup_network_by_name(&interface.source.network) {
            Ok(network) => found.extend(NetworkDefinition::from_xml(&network.xml()?).ok()),
            Err(error) if error.code == Code::NO_NETWORK => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
