//! A guest's networks: one for each NIC, named by its MAC (contract section 5.2).

use std::collections::BTreeSet;

use log::info;

use crate::config::BridgeType;
use crate::guest::check::is_mac;
use crate::guest::network::Network as Wiring;
use crate::guest::wire::Nic;
use crate::journal::Step;
use crate::libvirt::{Code, Connection, Error, Network};
use crate::ops;
use crate::ops::domains::uses_of_others;
use crate::ops::steps::Steps;

/// Sees to it that the NIC's network is there, starts with libvirtd, and runs now. What is changed
/// is noted before.
///
/// A network of that name is taken over when it is what would be made and no other guest has it;
/// else libvirt's own words say that the name is taken.
pub(super) fn ensure(
    connection: &Connection,
    id: &str,
    nic: &Nic,
    bridge_type: BridgeType,
    steps: &mut Steps,
) -> Result<(), ops::Error> {
    let wanted = Wiring::for_nic(nic, bridge_type, id);
    let mut is_new = false;
    let network = match standing(connection, &wanted, id)? {
        Standing::Ours(network) => network,
        Standing::Taken => connection.define_network(&wanted.network_xml())?,
        Standing::Absent => {
            steps.note(Step::NetworkDefined(nic.mac.clone()))?;
            is_new = true;
            connection.define_network(&wanted.network_xml())?
        }
    };
    network.set_autostart()?;
    if network.is_active()? {
        return Ok(());
    }
    if !is_new {
        steps.note(Step::NetworkStarted(nic.mac.clone()))?;
    }
    match network.create() {
        Err(error) if error.code == Code::OPERATION_INVALID && network.is_active()? => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// What there is under the name of a network that is wanted.
pub(super) enum Standing {
    /// Nothing.
    Absent,
    /// What would be made, and no other guest's.
    Ours(Network),
    /// Something else, or another guest's.
    Taken,
}

/// Looks for the network that the guest `id` wants.
pub(super) fn standing(
    connection: &Connection,
    wanted: &Wiring,
    id: &str,
) -> Result<Standing, Error> {
    match connection.lookup_network_by_name(&wanted.name) {
        Ok(network) if is_ours(connection, &network, wanted, id)? => Ok(Standing::Ours(network)),
        Ok(_) => Ok(Standing::Taken),
        Err(error) if error.code == Code::NO_NETWORK => Ok(Standing::Absent),
        Err(error) => Err(error),
    }
}

/// Whether an existing network is what would be made, and no other guest's.
fn is_ours(
    connection: &Connection,
    network: &Network,
    wanted: &Wiring,
    id: &str,
) -> Result<bool, Error> {
    let Ok(found) = Wiring::from_xml(&network.xml()?) else { return Ok(false) };
    Ok(wanted.same_wiring(&found)
        && match &found.owner {
            Some(owner) => owner == id,
            // The original agent left no mark: the domains that use it tell whose it is.
            None => {
                let others = uses_of_others(connection, id)?;
                !others.iter().any(|other| other.may_have_network(&found.name))
            }
        })
}

/// Stops a network; one that is off or gone is a success.
pub(super) fn stop(connection: &Connection, name: &str) -> Result<(), Error> {
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

/// Stops and undefines a network; `false` where there is none of that name.
pub(super) fn remove(connection: &Connection, name: &str) -> Result<bool, Error> {
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

/// Removes the networks of those names, but for the ones that other guests use; answers how many
/// there were.
pub(super) fn remove_all(
    connection: &Connection,
    id: &str,
    names: &BTreeSet<String>,
) -> Result<usize, Error> {
    let mut removed = 0;
    for (name, is_used) in present(connection, id, names)? {
        if is_used {
            info!("guest {id}: network {name} stays, another guest uses it");
        } else if remove(connection, name)? {
            removed += 1;
        }
    }
    Ok(removed)
}

/// The networks of those names that are there and may be the guest's, and whether guests other than `id`
/// use each. Without an id nothing says whose they would be: then there are none.
///
/// A guest's network is named by a MAC address. It has this guest's mark, or none and the form of the
/// original's networks (contract section 5.2); any other network is never removed, whatever a request
/// calls it.
pub(super) fn present<'n>(
    connection: &Connection,
    id: &str,
    names: &'n BTreeSet<String>,
) -> Result<Vec<(&'n str, bool)>, Error> {
    let mut present = Vec::new();
    for name in names.iter().filter(|name| !id.is_empty() && is_mac(name)) {
        match connection.lookup_network_by_name(name) {
            Ok(network) => match Wiring::from_xml(&network.xml()?) {
                Ok(found) if found.may_be_of(id) => {
                    present.push((name.as_str(), found.owner.is_some()))
                }
                _ => info!("guest {id}: network {name} stays: it is not this guest's"),
            },
            Err(error) if error.code == Code::NO_NETWORK => {}
            Err(error) => return Err(error),
        }
    }
    if present.is_empty() {
        return Ok(Vec::new());
    }
    let others = uses_of_others(connection, id)?;
    // Without a mark only the domains tell whose a network is, and one that cannot be read may have it.
    let is_used = |(name, is_marked)| match is_marked {
        true => others.iter().any(|other| other.has_network(name)),
        false => others.iter().any(|other| other.may_have_network(name)),
    };
    Ok(present.into_iter().map(|seen| (seen.0, is_used(seen))).collect())
}

/// Whether a network carries our mark for this guest.
pub(super) fn marked_for(connection: &Connection, name: &str, id: &str) -> Result<bool, Error> {
    match connection.lookup_network_by_name(name) {
        Ok(network) => {
            Ok(Wiring::from_xml(&network.xml()?)
                .is_ok_and(|found| found.owner.as_deref() == Some(id)))
        }
        Err(error) if error.code == Code::NO_NETWORK => Ok(false),
        Err(error) => Err(error),
    }
}
