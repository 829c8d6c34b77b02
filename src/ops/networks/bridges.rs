//! The bridges of the host, to which NICs are connected.

use crate::config::{BridgeType, HostConfig, Nat};
use crate::guest::domain::VirDomain;
use crate::guest::network::NetworkDefinition;
use crate::guest::wire::Guest;
use crate::libvirt::{Code, Connection, Error};
use crate::ops;
use crate::os::links;

/// Returns a warning for each bridge that a NIC of the guest names and the host does not have. Such a guest can be
/// defined, but cannot start. The agent itself creates the bridge of its network with NAT.
pub(in crate::ops) fn warnings(guest: &Guest, host: &HostConfig) -> Vec<String> {
    let names = guest.nics.iter().enumerate().map(|(index, nic)| (index, nic.network.as_str()));
    let is_own =
        |bridge: &str| bridge == Nat::BRIDGE && matches!(host.bridge_type, BridgeType::Nat(_));
    let missing = names
        .filter(|(_, bridge)| !bridge.is_empty() && !is_own(bridge) && is_missing(bridge, host));
    let warning = |(index, bridge)| {
        format!(
            "nics[{index}].network: bridge {bridge} does not exist; the guest cannot start before you create it"
        )
    };
    missing.map(warning).collect()
}

/// Returns whether this host has no bridge of this name. libvirt at a URI that is not local may see other bridges; the
/// answer is then `false`.
pub fn is_missing(bridge: &str, host: &HostConfig) -> bool {
    let is_local = ["qemu:///system", "qemu:///session"].contains(&host.libvirt_uri.as_str());
    is_local && !links::exists(bridge)
}

/// Returns the MAC address and the bridge of each NIC of a domain. A NIC is missing if its network has no bridge or no
/// longer exists.
///
/// # Errors
/// Errors of libvirt.
///
/// # Blocking
/// Two round trips for each NIC.
pub fn of_domain(
    connection: &Connection,
    domain: &VirDomain,
) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    for interface in &domain.devices.interfaces {
        let mac = interface.mac.address.clone();
        if !interface.source.bridge.is_empty() {
            found.push((mac, interface.source.bridge.clone()));
            continue;
        }
        match connection.lookup_network_by_name(&interface.source.network) {
            Ok(network) => {
                let network = NetworkDefinition::from_xml(&network.xml()?).unwrap_or_default();
                // libvirt creates the bridges of its own networks.
                found.extend(network.is_for_guest.then_some((mac, network.bridge)));
            }
            Err(error) if error.code == Code::NO_NETWORK => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Adds the missing bridge to the error of a start, if libvirt's message names one.
pub(in crate::ops) fn name_missing(
    connection: &Connection,
    domain: &VirDomain,
    host: &HostConfig,
    cause: ops::Error,
) -> ops::Error {
    let ops::Error::Libvirt(error) = &cause else { return cause };
    let is_named = |bridge: &str| names(&error.message, bridge) && is_missing(bridge, host);
    let bridges = of_domain(connection, domain).unwrap_or_default();
    match bridges.into_iter().find(|(_, bridge)| is_named(bridge)) {
        Some((mac, bridge)) => {
            let (guest, cause) = (domain.name.clone(), Box::new(cause));
            ops::Error::BridgeMissing { guest, mac, bridge, cause }
        }
        None => cause,
    }
}

/// Returns whether a message of libvirt contains the whole name of a bridge. Messages about Open vSwitch do not quote
/// it.
fn names(message: &str, bridge: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    message.split(|c: char| !is_of_name(c)).any(|word| word == bridge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_named_by_its_whole_name() {
        let linux = "Cannot get interface MTU on 'br10': No such device";
        assert!(names(linux, "br10") && !names(linux, "br1"));
        assert!(names("Unable to add port vnet0 to OVS bridge ovs-br.1: failed", "ovs-br.1"));
    }

    #[test]
    fn the_bridge_of_the_own_network_is_no_warning() {
        let mut host =
            HostConfig { libvirt_uri: "qemu:///system".to_owned(), ..HostConfig::default() };
        host.bridge_type = BridgeType::Nat(Nat::parse("192.168.77.0/24").unwrap());
        let nics = r#"{"nics": [{"network": "mistify0"}, {"network": "nosuch0"}]}"#;
        let warned = warnings(&serde_json::from_str(nics).unwrap(), &host);
        assert!(warned.len() == 1 && warned[0].contains("bridge nosuch0 does not"), "{warned:?}");
    }
}
