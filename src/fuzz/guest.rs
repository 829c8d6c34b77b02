//! Guests to XML, and XML of domains and networks.

use std::cell::OnceCell;
use std::str;

use crate::config::{BridgeType, HostConfig, VncListen};
use crate::guest::check::{check_definition, check_definition_with_networks};
use crate::guest::displays::with_chosen_vnc_port;
use crate::guest::domain::{Graphics, SourceKind, VirDomain};
use crate::guest::network::NetworkDefinition;
use crate::guest::same::{same_as_domain, same_guest};
use crate::guest::wire::Guest;
use crate::guest::xml::Element;
use crate::libvirt::{Code, Connection, XmlKind};

/// Parses a byte with the properties of the host, and a guest as JSON. An accepted guest equals the
/// guest in its XML, for this agent and for libvirt, and so do its networks.
pub(super) fn guest_to_xml(data: &[u8]) {
    let Some((bits, json)) = data.split_first() else { return };
    let Ok(mut guest) = serde_json::from_slice::<Guest>(json) else { return };
    let is = |bit: u8| bits & (1 << bit) != 0;
    if is(0) {
        guest.complete(true);
    }
    let host = HostConfig {
        bridge_type: if is(1) { BridgeType::Linux } else { BridgeType::OpenVSwitch },
        vnc: if is(2) { VncListen::Tcp } else { VncListen::Socket },
        nwfilter: is(3).then(|| "clean-traffic".to_owned()),
        ..HostConfig::default()
    };
    if check_definition(&guest, &host).is_err() {
        return;
    }
    let file_or_block = if is(4) { SourceKind::File } else { SourceKind::Block };
    let model = VirDomain::for_guest(&guest, &host, &[file_or_block]);
    let xml = model.domain_xml();
    let read = VirDomain::from_xml(&xml).expect("what is written is read");
    assert_eq!(read, model);
    let kept = read.metadata.guest.expect("the request is kept");
    assert!(kept == guest && same_guest(&kept, &guest));
    if check_definition_with_networks(&guest, &host).is_ok() {
        let networks: Vec<NetworkDefinition> = guest
            .nics
            .iter()
            .map(|nic| NetworkDefinition::for_nic(nic, host.bridge_type, &guest.id, ""))
            .collect();
        for network in &networks {
            assert_eq!(NetworkDefinition::from_xml(&network.network_xml()).as_ref(), Ok(network));
        }
        // If the guest was completed, and its memory does not overflow.
        let is_itself = same_as_domain(&guest, &model, &networks);
        let is_whole = is(0) && guest.memory_mib.checked_mul(1024).is_some();
        assert!(is_itself || !is_whole, "{guest:?}");
    }
    to_libvirt(guest, &host);
}

thread_local! {
    static LIBVIRT: OnceCell<Connection> = const { OnceCell::new() };
}

/// Defines the guest in libvirt, if libvirt accepts it: its parser is independent of this agent's.
fn to_libvirt(guest: Guest, host: &HostConfig) {
    let model = VirDomain::for_guest(&Guest { kind: "test".to_owned(), ..guest }, host, &[]);
    LIBVIRT.with(|connection| {
        let connection = connection.get_or_init(|| {
            crate::libvirt::start().expect("libvirt is there");
            Connection::open("test:///default").expect("the test driver is there")
        });
        let domain = match connection.define_domain(&model.domain_xml()) {
            Ok(domain) => domain,
            Err(error) => {
                assert_ne!(error.code, Code::XML_DETAIL, "not XML: {error:?}");
                return;
            }
        };
        let xml = domain.xml(XmlKind::Inactive).expect("it has XML");
        let read = VirDomain::from_xml(&xml).expect("libvirt's XML is read");
        // Undefines before the assertions, so that the next input does not find the domain.
        domain.undefine().expect("it is off");
        assert_eq!(read.name, model.name);
        assert_eq!(read.metadata, model.metadata);
        let paths = |domain: &VirDomain| -> Vec<String> {
            domain.devices.disks.iter().map(|disk| disk.source.path().to_owned()).collect()
        };
        assert_eq!(paths(&read), paths(&model));
        let networks = |domain: &VirDomain| -> Vec<String> {
            domain.devices.interfaces.iter().map(|it| it.source.network.clone()).collect()
        };
        assert_eq!(networks(&read), networks(&model));
        assert_eq!(read.vcpu, model.vcpu);
    });
}

/// Parses the text as XML of a domain and of a network. Parsed data is the same after it is written
/// and parsed again, and automatic VNC ports change nothing but a display's port.
pub(super) fn live_xml(data: &[u8]) {
    let Ok(xml) = str::from_utf8(data) else { return };
    for root in ["domain", "network"] {
        let Ok(element) = Element::from_xml(xml, root) else { continue };
        assert!(depth(&element) <= 256);
        if is_plain(&element) {
            assert_eq!(Element::from_xml(&element.to_xml(), root), Ok(element));
        }
    }
    if let Ok(network) = NetworkDefinition::from_xml(xml) {
        // The written XML has the form of a guest's network, whatever was parsed.
        let expected =
            NetworkDefinition { uuid: String::new(), is_for_guest: true, ..network.clone() };
        assert_eq!(NetworkDefinition::from_xml(&network.network_xml()), Ok(expected));
    }
    let Ok(domain) = VirDomain::from_xml(xml) else { return };
    let again = |domain: &VirDomain| {
        VirDomain::from_xml(&domain.domain_xml()).expect("what is written is read")
    };
    let once = again(&domain);
    assert_eq!(again(&once), once, "nothing more gets lost");
    let identity = |domain: &VirDomain| {
        (
            domain.name.clone(),
            domain.uuid.clone(),
            domain.memory_kib,
            (domain.vcpu, domain.vcpu_max),
        )
    };
    assert_eq!(identity(&once), identity(&domain));
    assert_eq!(once.metadata, domain.metadata);
    assert_eq!(once.devices.disks, domain.devices.disks);
    if let Some(changed) = with_chosen_vnc_port(xml) {
        let without_display = |xml: &str| {
            let mut domain = VirDomain::from_xml(xml).expect("a display changes nothing else");
            domain.devices.graphics = Graphics::default();
            domain
        };
        assert_eq!(without_display(&changed), without_display(xml));
        assert_eq!(with_chosen_vnc_port(&changed), None, "all are left to libvirt");
    }
}

fn depth(element: &Element) -> usize {
    1 + element.children.iter().map(depth).max().unwrap_or(0)
}

/// Returns whether no part has a namespace, because namespaces are not written.
fn is_plain(element: &Element) -> bool {
    element.namespace.is_empty()
        && !element.attributes.iter().any(|(name, _)| name.contains(':'))
        && element.children.iter().all(is_plain)
}
