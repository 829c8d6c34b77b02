//! The XML of the agent's own network: NAT and DHCP by libvirt, with dnsmasq (<https://libvirt.org/formatnetwork.html>).

use crate::config::Nat;
use crate::guest::GUEST_NAMESPACE;
use crate::guest::xml::{Element, Error};

/// The agent's own network as libvirt has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatNetwork {
    /// The addresses that the agent created it with, such as `192.168.77.0/24`; empty for a network of another tool.
    pub made_with: String,
    /// DHCP reservations: a MAC address and its IP address.
    pub hosts: Vec<(String, String)>,
}

impl NatNetwork {
    /// Reads the XML of a network (`virNetworkGetXMLDesc`).
    ///
    /// # Errors
    /// If the text is not the XML of a network.
    pub fn from_xml(xml: &str) -> Result<Self, Error> {
        let network = Element::from_xml(xml, "network")?;
        let mark = network.child("metadata").child_in(GUEST_NAMESPACE, "nat");
        let hosts = network.child("ip").child("dhcp").children_in("", "host");
        let text = |host: &Element, name| host.attribute(name).to_owned();
        Ok(Self {
            made_with: mark.attribute("addresses").to_owned(),
            hosts: hosts.map(|host| (text(host, "mac"), text(host, "ip"))).collect(),
        })
    }
}

/// Returns the XML that defines the network with these addresses, without reservations.
pub fn network_xml(nat: Nat) -> String {
    let ((first, last), host, prefix) = (nat.range(), nat.host(), nat.prefix());
    // The text has only names and numbers, so nothing needs escaping.
    format!(
        "<network><name>{}</name><metadata><mistify:nat xmlns:mistify=\"{GUEST_NAMESPACE}\" addresses=\"{nat}\"/></metadata>\
         <forward mode=\"nat\"/><bridge name=\"{}\" stp=\"on\" delay=\"0\"/>\
         <ip address=\"{host}\" prefix=\"{prefix}\"><dhcp><range start=\"{first}\" end=\"{last}\"/></dhcp></ip></network>",
        Nat::NETWORK,
        Nat::BRIDGE,
    )
}

/// Returns the XML of a DHCP reservation of an IP address for a MAC address. Both are checked, or libvirt's own.
pub fn host_xml(mac: &str, address: &str) -> String {
    format!("<host mac=\"{mac}\" ip=\"{address}\"/>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_known_by_its_mark() {
        let xml = network_xml(Nat::parse("192.168.77.0/24").unwrap());
        for part in [
            "<forward mode=\"nat\"/>",
            "<ip address=\"192.168.77.1\" prefix=\"24\">",
            "<range start=\"192.168.77.2\" end=\"192.168.77.254\"/>",
        ] {
            assert!(xml.contains(part), "{part} in {xml}");
        }
        let read = NatNetwork::from_xml(&xml).unwrap();
        assert_eq!((read.made_with.as_str(), read.hosts.len()), ("192.168.77.0/24", 0));
        let other = "<network><name>mistify-nat</name><ip><dhcp><host mac='02:00:00:00:00:01' \
            ip='192.168.77.9'/></dhcp></ip></network>";
        let read = NatNetwork::from_xml(other).unwrap();
        assert!(read.made_with.is_empty());
        let host = ("02:00:00:00:00:01".to_owned(), "192.168.77.9".to_owned());
        assert_eq!(read.hosts, [host]);
    }
}
