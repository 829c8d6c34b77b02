//! The libvirt network of a NIC: one per NIC, named by its MAC address (contract section 5.2).

use crate::config::BridgeType;
use crate::guest::GUEST_NAMESPACE;
use crate::guest::domain::PORT_GROUP;
use crate::guest::wire::Nic;
use crate::guest::xml::{Element, Error};
use crate::guest::xml_values::number;

/// The parts of a libvirt network that the agent uses, see <https://libvirt.org/formatnetwork.html>.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkDefinition {
    /// Name: the MAC address of the NIC.
    pub name: String,
    /// libvirt's own identifier; empty before libvirt has assigned one.
    pub uuid: String,
    /// Name of its bridge.
    pub bridge: String,
    /// Whether the bridge is an Open vSwitch bridge.
    pub openvswitch: bool,
    /// VLAN tags of the port group, in order.
    pub vlans: Vec<i64>,
    /// The guest that this agent made it for; `None` for networks of the original agent.
    pub owner: Option<NetworkMark>,
    /// Whether it uses a bridge of the host and has the port group of guests' networks.
    pub is_for_guest: bool,
}

/// The mark of the guest that a network was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkMark {
    /// The guest's id at that time.
    pub guest: String,
    /// Uuid of the guest's domain, which a renamed guest keeps; empty in marks of older agents.
    pub domain: String,
}

impl NetworkDefinition {
    /// Builds the network of a guest's `nic` on a host with bridges of this type. `domain` is the uuid of the guest's
    /// domain.
    pub fn for_nic(nic: &Nic, bridge_type: BridgeType, guest: &str, domain: &str) -> Self {
        Self {
            name: nic.mac.clone(),
            uuid: String::new(),
            bridge: nic.network.clone(),
            openvswitch: bridge_type == BridgeType::OpenVSwitch,
            vlans: nic.vlans.clone().unwrap_or_default(),
            owner: Some(NetworkMark { guest: guest.to_owned(), domain: domain.to_owned() }),
            is_for_guest: true,
        }
    }

    /// Returns whether both have the same name, bridge and VLAN tags, regardless of their owners.
    pub fn same_connection(&self, other: &Self) -> bool {
        self.name == other.name
            && self.bridge == other.bridge
            && self.openvswitch == other.openvswitch
            && self.vlans == other.vlans
    }

    /// Returns the XML that defines the network (the owner's `NetworkXML`). It has no `<vlan>` without VLAN tags,
    /// because libvirt refuses an empty one. libvirt makes a trunk of several tags by itself.
    pub fn network_xml(&self) -> String {
        let owner = self.owner.as_ref().map(|owner| {
            let mark = Element::new("mistify:owner")
                .with("xmlns:mistify", GUEST_NAMESPACE)
                .with("guest", &owner.guest)
                .with_nonempty("domain", &owner.domain);
            Element::new("metadata").containing([mark])
        });
        let virtual_port =
            self.openvswitch.then(|| Element::new("virtualport").with("type", "openvswitch"));
        let tags = self.vlans.iter().map(|tag| Element::new("tag").with("id", &tag.to_string()));
        let vlan = Element::new("vlan").containing(tags);
        let vlan = Some(vlan).filter(|vlan| !vlan.children.is_empty());
        Element::new("network")
            .containing([Element::new("name").holding(&self.name)])
            .containing(owner)
            .containing([
                Element::new("forward").with("mode", "bridge"),
                Element::new("bridge").with("name", &self.bridge),
            ])
            .containing(virtual_port)
            .containing([Element::new("portgroup").with("name", PORT_GROUP).containing(vlan)])
            .to_xml()
    }

    /// Reads the XML of a network (`virNetworkGetXMLDesc`).
    ///
    /// # Errors
    /// If the text is not the XML of a network, or a VLAN tag is not a number.
    pub fn from_xml(xml: &str) -> Result<Self, Error> {
        let network = Element::from_xml(xml, "network")?;
        let port_group = network
            .children_in("", "portgroup")
            .find(|group| group.attribute("name") == PORT_GROUP);
        let tags =
            port_group.into_iter().flat_map(|group| group.child("vlan").children_in("", "tag"));
        let owner = network.child("metadata").children_in(GUEST_NAMESPACE, "owner").next();
        Ok(Self {
            name: network.child("name").text.clone(),
            uuid: network.child("uuid").trimmed().to_owned(),
            bridge: network.child("bridge").attribute("name").to_owned(),
            openvswitch: network.child("virtualport").attribute("type") == "openvswitch",
            vlans: tags
                .map(|tag| number("tag id", tag.attribute("id")))
                .collect::<Result<_, _>>()?,
            owner: owner.map(|mark| NetworkMark {
                guest: mark.attribute("guest").to_owned(),
                domain: mark.attribute("domain").to_owned(),
            }),
            is_for_guest: port_group.is_some()
                && network.child("forward").attribute("mode") == "bridge",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::guest::xml::tests::{assert_golden, xml_text};

    const MAC: &str = "02:00:00:00:00:0b";

    fn nic(vlans: Option<Vec<i64>>) -> Nic {
        Nic { mac: MAC.into(), network: "mistify0".into(), vlans, ..Nic::default() }
    }

    fn golden() -> [(&'static str, NetworkDefinition, &'static str); 3] {
        let network =
            |bridge_type, vlans| NetworkDefinition::for_nic(&nic(vlans), bridge_type, "web-1", "");
        [
            (
                "network-trunk.define.xml",
                network(BridgeType::OpenVSwitch, Some(vec![7, 1])),
                include_str!("../../tests/golden/network-trunk.dump.xml"),
            ),
            (
                "network-tag.define.xml",
                network(BridgeType::OpenVSwitch, Some(vec![5])),
                include_str!("../../tests/golden/network-tag.dump.xml"),
            ),
            (
                "network-linux.define.xml",
                network(BridgeType::Linux, None),
                include_str!("../../tests/golden/network-linux.dump.xml"),
            ),
        ]
    }

    #[test]
    fn a_network_is_defined_with_the_golden_xml() {
        for (name, network, _) in golden() {
            assert_golden(name, &network.network_xml());
        }
    }

    #[test]
    fn libvirt_gives_back_the_network_that_was_defined() {
        for (_, network, dumped) in golden() {
            let read = NetworkDefinition::from_xml(dumped).unwrap();
            assert!(!read.uuid.is_empty());
            assert_eq!(NetworkDefinition { uuid: String::new(), ..read }, network);
        }
    }

    #[test]
    fn an_active_network_of_qemu_is_read_the_same() {
        let dumped = include_str!("../../tests/golden/qemu-network.dump.xml");
        let read = NetworkDefinition::from_xml(dumped).unwrap();
        let network = NetworkDefinition::for_nic(&nic(None), BridgeType::Linux, "web-1", "");
        assert!(read.same_connection(&network));
        assert_eq!(read.owner, network.owner);
    }

    #[test]
    fn a_nic_without_vlans_gets_no_vlan_element() {
        for vlans in [None, Some(Vec::new())] {
            let network =
                NetworkDefinition::for_nic(&nic(vlans), BridgeType::OpenVSwitch, "web-1", "");
            assert!(!network.network_xml().contains("<vlan"));
        }
    }

    #[test]
    fn network_identity_excludes_uuid_and_owner() {
        let network =
            NetworkDefinition::for_nic(&nic(Some(vec![1])), BridgeType::OpenVSwitch, "web-1", "");
        let other = |change: fn(&mut NetworkDefinition)| {
            let mut other = network.clone();
            change(&mut other);
            network.same_connection(&other)
        };
        assert!(other(|n| n.uuid = "u".into()));
        assert!(other(|n| n.owner = None));
        assert!(!other(|n| n.name = "x".into()));
        assert!(!other(|n| n.bridge = "x".into()));
        assert!(!other(|n| n.openvswitch = false));
        assert!(!other(|n| n.vlans = vec![1, 2]));
    }

    #[test]
    fn a_network_of_the_original_agent_has_no_owner() {
        let xml = "<network><name>02:00:00:00:00:0b</name><forward mode='bridge'/>\
            <bridge name='br0'/><portgroup name='other'><vlan><tag id='9'/></vlan></portgroup>\
            </network>";
        let network = NetworkDefinition::from_xml(xml).unwrap();
        assert_eq!((network.owner, network.vlans), (None, vec![]));
    }

    #[test]
    fn a_tag_that_is_no_number_is_an_error() {
        let xml = "<network><portgroup name='vlan-all'><vlan><tag id='x'/></vlan></portgroup>\
            </network>";
        assert_eq!(
            NetworkDefinition::from_xml(xml),
            Err(Error::Number { name: "tag id", found: "x".to_owned() })
        );
    }

    proptest! {
        #[test]
        fn every_network_survives_its_xml(
            name in xml_text(),
            bridge in xml_text(),
            owner in proptest::option::of((xml_text(), xml_text())),
            vlans in proptest::collection::vec(any::<i64>(), 0..4),
            openvswitch: bool,
        ) {
            let network =
                NetworkDefinition {
                    name,
                    uuid: String::new(),
                    bridge,
                    openvswitch,
                    vlans,
                    owner: owner.map(|(guest, domain)| NetworkMark { guest, domain }),
                    is_for_guest: true,
                };
            prop_assert_eq!(NetworkDefinition::from_xml(&network.network_xml()), Ok(network));
        }
    }
}
