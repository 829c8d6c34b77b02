//! The agent's own network with NAT and DHCP, for hosts without a bridge: made when a NIC first needs it, and never
//! removed. A reservation is made and removed with the network of its NIC.

use crate::config::{BridgeType, Nat};
use crate::guest::nat::{NatNetwork, host_xml, network_xml};
use crate::guest::wire::Nic;
use crate::guest::wire::verbs::PlanStep;
use crate::libvirt::{Code, Connection, Error, Network, Reservation};
use crate::ops::{self, unreadable};

const NETWORK: &str = Nat::NETWORK;

/// The addresses of the agent's own network, where a NIC is connected to it.
fn of_nic(nic: &Nic, bridge_type: BridgeType) -> Option<Nat> {
    match bridge_type {
        BridgeType::Nat(nat) if nic.network == Nat::BRIDGE => Some(nat),
        _ => None,
    }
}

/// Sees to it that the network of a NIC which is connected to it exists, starts with libvirtd, and runs now.
///
/// # Errors
/// [`ops::Error::Taken`] for a network of that name that is another maker's, or has other addresses; what libvirt
/// says, such as that dnsmasq is not installed.
pub(super) fn ensure(
    connection: &Connection,
    nic: &Nic,
    bridge_type: BridgeType,
) -> Result<(), ops::Error> {
    let Some(nat) = of_nic(nic, bridge_type) else { return Ok(()) };
    let network = match find(connection)? {
        Some(network) => network,
        None => match connection.define_network(&network_xml(nat)) {
            Ok(network) => network,
            // Another call may have been faster.
            Err(refused) => find(connection)?.ok_or(refused)?,
        },
    };
    let made_with = read(&network)?.made_with;
    if made_with != nat.to_string() {
        let whose = match made_with.as_str() {
            "" => "is not this agent's",
            _ => "has other addresses",
        };
        return Err(ops::Error::Taken(format!(
            "cannot provide {nat}: network {NETWORK} exists and {whose}; remove it by virsh net-destroy and net-undefine"
        )));
    }
    network.set_autostart()?;
    if network.is_active()? {
        return Ok(());
    }
    match network.create() {
        Err(error) if error.code == Code::OPERATION_INVALID && network.is_active()? => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Has DHCP give a NIC its `address`, where it has one.
///
/// # Errors
/// [`ops::Error::Taken`] where another NIC has the address; what libvirt says.
pub(super) fn reserve(
    connection: &Connection,
    nic: &Nic,
    bridge_type: BridgeType,
) -> Result<(), ops::Error> {
    let address = nic.address.split('/').next().unwrap_or_default();
    if address.is_empty() || of_nic(nic, bridge_type).is_none() {
        return Ok(());
    }
    let Some(network) = find(connection)? else { return Ok(()) };
    let hosts = read(&network)?.hosts;
    let is_own = |mac: &str| mac.eq_ignore_ascii_case(&nic.mac);
    match hosts.iter().find(|(_, reserved)| reserved == address) {
        Some((mac, _)) if is_own(mac) => return Ok(()),
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
    Ok(network.reserve(change, &host_xml(&nic.mac, address))?)
}

/// Removes the reservation of the NIC with this MAC address, if the agent's own network has one.
///
/// # Errors
/// What libvirt says.
pub(super) fn release(connection: &Connection, mac: &str) -> Result<(), Error> {
    let Some(network) = find(connection)? else { return Ok(()) };
    let found = NatNetwork::from_xml(&network.xml()?).unwrap_or_default();
    if found.made_with.is_empty() {
        return Ok(());
    }
    let own = found.hosts.into_iter().find(|(host, _)| host.eq_ignore_ascii_case(mac));
    own.map_or(Ok(()), |(mac, ip)| network.reserve(Reservation::Remove, &host_xml(&mac, &ip)))
}

/// The steps by which the network would be made for one of these NICs.
pub(super) fn plan(
    connection: &Connection,
    nics: &[Nic],
    bridge_type: BridgeType,
) -> Result<Vec<PlanStep>, Error> {
    let Some(nat) = nics.iter().find_map(|nic| of_nic(nic, bridge_type)) else {
        return Ok(Vec::new());
    };
    if find(connection)?.is_some() {
        return Ok(Vec::new());
    }
    let step = |what, xml| PlanStep { what, name: NETWORK.into(), xml, ..PlanStep::default() };
    Ok(vec![step("define network", network_xml(nat)), step("start network", String::new())])
}

fn find(connection: &Connection) -> Result<Option<Network>, Error> {
    match connection.lookup_network_by_name(NETWORK) {
        Ok(network) => Ok(Some(network)),
        Err(error) if error.code == Code::NO_NETWORK => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(network: &Network) -> Result<NatNetwork, ops::Error> {
    NatNetwork::from_xml(&network.xml()?).map_err(unreadable)
}
