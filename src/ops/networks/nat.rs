//! The agent's own network with NAT and DHCP, for hosts without a bridge. The agent makes it when a NIC first needs it,
//! and never removes it. It makes and removes the reservation of a NIC together with the NIC's network.

use crate::config::{BridgeType, Nat};
use crate::guest::nat::{NatNetwork, host_xml, network_xml};
use crate::guest::wire::Nic;
use crate::guest::wire::verbs::PlanStep;
use crate::libvirt::{Code, Connection, Error, Network, Reservation};
use crate::ops;
use crate::ops::hypervisor::definition::unreadable;

const NETWORK: &str = Nat::NETWORK;

/// Returns the addresses of the agent's own network, if a NIC is connected to it.
fn of_nic(nic: &Nic, bridge_type: BridgeType) -> Option<Nat> {
    match bridge_type {
        BridgeType::Nat(nat) if nic.network == Nat::BRIDGE => Some(nat),
        _ => None,
    }
}

/// Makes and starts the agent's own network if a NIC is connected to it, and sets its autostart.
///
/// # Errors
/// [`ops::Error::Taken`] for a network of that name of another maker, or with other addresses; errors of libvirt, such
/// as that dnsmasq is not installed.
pub(in crate::ops) fn ensure(
    connection: &Connection,
    nic: &Nic,
    bridge_type: BridgeType,
) -> Result<(), ops::Error> {
    let Some(nat) = of_nic(nic, bridge_type) else { return Ok(()) };
    let network = match find(connection)? {
        Some(network) => network,
        None => match connection.define_network(&network_xml(nat)) {
            Ok(network) => network,
            // Another call may have defined it meanwhile.
            Err(refused) => find(connection)?.ok_or(refused)?,
        },
    };
    // Fails for a network that is not this agent's.
    reservations(&network, nat)?;
    network.set_autostart()?;
    if network.is_active()? {
        return Ok(());
    }
    match network.create() {
        Err(error) if error.code == Code::OPERATION_INVALID && network.is_active()? => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Reserves the `address` of a NIC in DHCP, if it has one.
///
/// # Errors
/// [`ops::Error::Taken`] if another NIC has the address; errors of libvirt.
pub(super) fn reserve(
    connection: &Connection,
    nic: &Nic,
    bridge_type: BridgeType,
) -> Result<(), ops::Error> {
    let (false, Some(nat)) = (nic.address.is_empty(), of_nic(nic, bridge_type)) else {
        return Ok(());
    };
    let Some(network) = find(connection)? else { return Ok(()) };
    match change(&reservations(&network, nat)?, nic)? {
        Some((change, host)) => Ok(network.reserve(change, &host)?),
        None => Ok(()),
    }
}

/// Returns the change that reserves the `address` of a NIC, and the XML of the reservation; `None` if it is reserved
/// already.
///
/// # Errors
/// [`ops::Error::Taken`] if another NIC has the address.
fn change(
    hosts: &[(String, String)],
    nic: &Nic,
) -> Result<Option<(Reservation, String)>, ops::Error> {
    let address = nic.address.split('/').next().unwrap_or_default();
    if address.is_empty() {
        return Ok(None);
    }
    let is_own = |mac: &str| mac.eq_ignore_ascii_case(&nic.mac);
    match hosts.iter().find(|(_, reserved)| reserved == address) {
        Some((mac, _)) if is_own(mac) => return Ok(None),
        Some((mac, _)) => {
            return Err(ops::Error::Taken(format!(
                "address {address} is reserved for NIC {mac}; detach that NIC, or if no guest has it, run \
                 virsh net-update {NETWORK} delete ip-dhcp-host \"<host mac='{mac}'/>\" --live --config"
            )));
        }
        None => {}
    }
    let has_another = hosts.iter().any(|(mac, _)| is_own(mac));
    let change = if has_another { Reservation::Modify } else { Reservation::Add };
    Ok(Some((change, host_xml(&nic.mac, address))))
}

/// Removes the reservation of the NIC with this MAC address, if the agent's own network has one.
///
/// # Errors
/// Errors of libvirt.
pub(in crate::ops) fn release(connection: &Connection, mac: &str) -> Result<(), Error> {
    let Some(network) = find(connection)? else { return Ok(()) };
    let found = NatNetwork::from_xml(&network.xml()?).unwrap_or_default();
    if found.made_with.is_empty() {
        return Ok(());
    }
    let own = found.hosts.into_iter().find(|(host, _)| host.eq_ignore_ascii_case(mac));
    own.map_or(Ok(()), |(mac, ip)| network.reserve(Reservation::Remove, &host_xml(&mac, &ip)))
}

/// Returns the steps that would make or start the network for one of these NICs, and the errors of their reservations.
///
/// # Errors
/// Errors of libvirt.
pub(in crate::ops) fn plan(
    connection: &Connection,
    nics: &[Nic],
    bridge_type: BridgeType,
) -> Result<(Vec<PlanStep>, Vec<ops::Error>), ops::Error> {
    let (mut steps, mut refused) = (Vec::new(), Vec::new());
    let connected = || nics.iter().filter_map(|nic| of_nic(nic, bridge_type).map(|nat| (nic, nat)));
    let Some((_, nat)) = connected().next() else { return Ok((steps, refused)) };
    let step = |what, xml| PlanStep { what, name: NETWORK.into(), xml, ..PlanStep::default() };
    let network = find(connection)?;
    if network.is_none() {
        steps.push(step("define network", network_xml(nat)));
    }
    match network.as_ref().map(|network| reservations(network, nat)) {
        Some(Err(taken @ ops::Error::Taken(_))) => return Ok((steps, vec![taken])),
        Some(hosts) => {
            let hosts = hosts?;
            refused.extend(connected().filter_map(|(nic, _)| change(&hosts, nic).err()));
        }
        None => {}
    }
    if !network.is_some_and(|network| network.is_active().unwrap_or_default()) {
        steps.push(step("start network", String::new()));
    }
    Ok((steps, refused))
}

fn find(connection: &Connection) -> Result<Option<Network>, Error> {
    match connection.lookup_network_by_name(NETWORK) {
        Ok(network) => Ok(Some(network)),
        Err(error) if error.code == Code::NO_NETWORK => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the reservations of the agent's own network.
///
/// # Errors
/// [`ops::Error::Taken`] for a network of another maker, or with other addresses; errors of libvirt.
fn reservations(network: &Network, nat: Nat) -> Result<Vec<(String, String)>, ops::Error> {
    let found = NatNetwork::from_xml(&network.xml()?).map_err(unreadable)?;
    let whose = match found.made_with.as_str() {
        "" => "is not this agent's",
        made_with if made_with != nat.to_string() => "has other addresses",
        _ => return Ok(found.hosts),
    };
    Err(ops::Error::Taken(format!(
        "cannot provide {nat}: network {NETWORK} exists and {whose}; remove it by virsh net-destroy and net-undefine"
    )))
}
