use std::sync::Once;

use proptest::prelude::*;

use super::*;
use crate::guest::metadata::OwnedObjects;
use crate::guest::xml::tests::{assert_golden, xml_text};

/// The guest that the golden files were made from.
fn full_guest() -> wire::Guest {
    let mut guest: wire::Guest = serde_json::from_str(
        r#"{"id":"web-1","type":"test","image":"img-1","state":"create","memory":512,"cpu":2,
        "vnc":-1,"metadata":{"zeta":"1","a\tb":"<&>\"'\r\n\t\u2028 \u00e9"},
        "nics":[{"name":"eth0","network":"mistify0","model":"virtio","mac":"02:00:00:00:00:0B",
            "vlans":[7,1]},{"network":"mistify0","mac":"02:00:00:00:00:0c"}],
        "disks":[{"size":10,"volume":"mistify/guests/web-1/disk-0","image":"img-1",
            "source":"/dev/zvol/mistify/guests/web-1/disk-0"},{"source":"/srv/vm/a & b.raw"}]}"#,
    )
    .unwrap();
    guest.complete(true);
    guest
}

fn full() -> VirDomain {
    VirDomain::for_guest(
        &full_guest(),
        &HostConfig::default(),
        &[SourceKind::Block, SourceKind::File],
    )
}

fn least() -> VirDomain {
    let guest = wire::Guest {
        id: "least".into(),
        kind: "test".into(),
        memory_mib: 64,
        cpu: 1,
        ..wire::Guest::default()
    };
    VirDomain::for_guest(&guest, &HostConfig::default(), &[])
}

#[test]
fn a_new_guest_is_defined_with_the_golden_xml() {
    assert_golden("domain-full.define.xml", &full().domain_xml());
    assert_golden("domain-least.define.xml", &least().domain_xml());
}

#[test]
fn libvirt_returns_the_definition() {
    for (defined, dumped) in [
        (full(), include_str!("../../../tests/golden/domain-full.dump.xml")),
        (least(), include_str!("../../../tests/golden/domain-least.dump.xml")),
    ] {
        let mut read = VirDomain::from_xml(dumped).unwrap();
        assert!(!std::mem::take(&mut read.uuid).is_empty());
        assert_eq!(read.metadata, defined.metadata);
        // libvirt fills these in.
        read.os = defined.os.clone();
        read.hardware = defined.hardware.clone();
        for (read, defined) in read.devices.interfaces.iter_mut().zip(&defined.devices.interfaces) {
            assert!(read.mac.address.eq_ignore_ascii_case(&defined.mac.address));
            read.mac = defined.mac.clone();
            read.target = InterfaceTarget::default();
        }
        assert_eq!(read, defined);
    }
}

#[test]
fn running_qemu_guest_shows_host_devices_and_aliases() {
    let domain =
        VirDomain::from_xml(include_str!("../../../tests/golden/qemu-running.dump.xml")).unwrap();
    let [interface] = domain.devices.interfaces.as_slice() else { panic!("{domain:?}") };
    assert_eq!(interface.target.device, "vnet0");
    assert_eq!(interface.alias.name, "net0");
    assert_eq!(interface.model.kind, "virtio");
    let [disk] = domain.devices.disks.as_slice() else { panic!("{domain:?}") };
    assert_eq!((disk.source.path(), disk.target.device.as_str()), ("/tmp/disk.raw", "vda"));
    assert_eq!(domain.devices.graphics.port, "5900");
    assert_eq!((domain.memory_kib, domain.vcpu), (64 * 1024, 1));
    assert_eq!(domain.os.kind.machine, "pc-i440fx-7.2");
}

#[test]
fn no_vnc_no_display() {
    assert!(!least().domain_xml().contains("<graphics"));
}

#[test]
fn display_uses_a_socket_or_a_given_or_automatic_port() {
    let graphics = |port, listen| {
        let domain = VirDomain {
            devices: Device {
                graphics: Graphics::for_guest(
                    &wire::Guest { vnc: port, ..wire::Guest::default() },
                    listen,
                ),
                ..Device::default()
            },
            ..VirDomain::default()
        };
        let xml = domain.domain_xml();
        let start = xml.find("<graphics").unwrap();
        xml[start..].split("<memballoon").next().unwrap().to_owned()
    };
    for port in [-1, 1, 5901] {
        let socket = r#"<graphics type="vnc"><listen type="socket"/></graphics>"#;
        assert_eq!(graphics(port, VncListen::Socket), socket);
    }
    let guest = wire::Guest { display: true, ..wire::Guest::default() };
    let none = VirDomain::for_guest(&guest, &HostConfig::default(), &[]).domain_xml();
    assert!(none.contains(r#"<graphics type="vnc"><listen type="none"/></graphics>"#), "{none}");
    assert_eq!(
        graphics(-1, VncListen::Tcp),
        r#"<graphics type="vnc" port="-1" autoport="yes" listen="127.0.0.1"/>"#
    );
    assert_eq!(
        graphics(5901, VncListen::Tcp),
        r#"<graphics type="vnc" port="5901" autoport="no" listen="127.0.0.1"/>"#
    );
}

#[test]
fn filter_gets_the_known_parameters_of_the_nic() {
    let host = HostConfig { nwfilter: Some("clean".into()), ..HostConfig::default() };
    let mut guest = full_guest();
    guest.nics[0].address = "10.0.0.2/24".into();
    guest.nics[0].netmask = "255.255.255.0".into();
    guest.nics[0].gateway = "10.0.0.1".into();
    let domain = VirDomain::for_guest(&guest, &host, &[]);
    let filter = |nic: usize| {
        let filter = &domain.devices.interfaces[nic].filterref;
        assert_eq!(filter.filter, "clean");
        let pairs = filter.parameters.iter().map(|p| format!("{}={}", p.name, p.value));
        pairs.collect::<Vec<_>>().join(" ")
    };
    let all = "MAC=02:00:00:00:00:0B IP=10.0.0.2 NETMASK=255.255.255.0 GATEWAY=10.0.0.1";
    assert_eq!((filter(0).as_str(), filter(1).as_str()), (all, "MAC=02:00:00:00:00:0c"));
    assert!(!full().domain_xml().contains("filterref"), "without the flag there is none");
}

#[test]
fn memory_is_read_in_every_unit_of_libvirt() {
    let kib = |unit: &str, amount: &str| {
        VirDomain::from_xml(&format!("<domain><memory{unit}>{amount}</memory></domain>"))
            .map(|domain| domain.memory_kib)
    };
    assert_eq!(kib("", "5"), Ok(5));
    assert_eq!(kib(" unit='b'", "1025"), Ok(2));
    assert_eq!(kib(" unit='KB'", "128"), Ok(125));
    assert_eq!(kib(" unit='MiB'", " 512 "), Ok(512 * 1024));
    assert_eq!(kib(" unit='G'", "1"), Ok(1024 * 1024));
    for (unit, amount) in [(" unit='TiB'", "18446744073709551615"), (" unit='x'", "1"), ("", "-1")]
    {
        assert!(matches!(kib(unit, amount), Err(crate::guest::xml::Error::Number { .. })));
    }
}

#[test]
fn libvirt_refuses_memory_that_does_not_fit() {
    let guest = wire::Guest { memory_mib: u64::MAX, ..wire::Guest::default() };
    let xml = VirDomain::for_guest(&guest, &HostConfig::default(), &[]).domain_xml();
    assert!(xml.contains(r#"<memory unit="KiB">18446744073709551615</memory>"#), "{xml}");
}

#[test]
fn a_kept_request_that_cannot_be_read_is_none() {
    let xml = "<domain><metadata><g:guest xmlns:g='http://mistify.io/xml/guest/1'>{\
        </g:guest></metadata></domain>";
    assert_eq!(VirDomain::from_xml(xml).unwrap().metadata.guest, None);
}

#[test]
fn an_unknown_element_is_passed_over() {
    let xml = "<domain type='x'><devices><disk><source><privateData/></source><target dev='a'/>\
        </disk><hub/><name>no</name></devices><q:c xmlns:q='urn:q'/><name>yes</name></domain>";
    let domain = VirDomain::from_xml(xml).unwrap();
    assert_eq!((domain.name.as_str(), domain.devices.disks.len()), ("yes", 1));
}

#[test]
fn json_has_the_owners_names_and_omissions() {
    let empty = serde_json::to_string(&VirDomain {
        devices: Device { interfaces: vec![Interface::default()], ..Device::default() },
        ..VirDomain::default()
    });
    assert_eq!(
        empty.unwrap(),
        concat!(
            r#"{"type":"","uuid":"","name":"","memory":0,"vcpu":0,"devices":{"interfaces":["#,
            r#"{"type":"","source":{},"mac":{"address":""},"model":{},"#,
            r#""filterref":{"filter":"","parameters":null},"target":{"device":""},"#,
            r#""alias":{"name":""}}],"graphics":{}},"os":{"type":{},"boot":{}},"state":"","#,
            r#""Metadata":{"Device":{"Disks":null},"UserMetadata":{"Parameters":null}}}"#
        )
    );
    let full = serde_json::to_value(full()).unwrap();
    assert_eq!(full["devices"]["disks"][1]["source"]["file"], "/srv/vm/a & b.raw");
    assert_eq!(full["devices"]["disks"][0]["target"]["bus"], "virtio");
    assert_eq!(full["Metadata"]["Device"]["Disks"][0]["Image"], "img-1");
    assert_eq!(full["Metadata"]["UserMetadata"]["Parameters"][1]["Name"], "zeta");
}

fn nic() -> impl Strategy<Value = wire::Nic> {
    let vlans = proptest::option::of(proptest::collection::vec(any::<i64>(), 0..3));
    (xml_text(), xml_text(), xml_text(), xml_text(), vlans).prop_map(
        |(name, network, model, mac, vlans)| wire::Nic {
            name,
            network,
            model,
            mac,
            vlans,
            ..wire::Nic::default()
        },
    )
}

fn disk() -> impl Strategy<Value = wire::GuestDisk> {
    (xml_text(), xml_text(), xml_text(), xml_text(), any::<u64>()).prop_map(
        |(device, volume, image, source, size_mib)| wire::GuestDisk {
            device,
            volume,
            image,
            source,
            size_mib,
            ..wire::GuestDisk::default()
        },
    )
}

proptest! {
    #[test]
    fn every_guest_survives_its_xml(
        id in xml_text(),
        kind in xml_text(),
        nics in proptest::collection::vec(nic(), 0..3),
        disks in proptest::collection::vec((disk(), any::<bool>()), 0..3),
        memory_mib: u64,
        cpu: u64,
        vnc: i64,
        tcp: bool,
        nwfilter in proptest::option::of("[a-z]{1,9}"),
        metadata in proptest::collection::btree_map(xml_text(), xml_text(), 0..3),
        volumes: bool,
        networks in proptest::collection::btree_set("[0-9a-f:]{1,17}", 0..3),
    ) {
        static COST: Once = Once::new();
        COST.call_once(|| crate::cost::slow("writes and reads 256 random guests"));
        let sources: Vec<_> = disks
            .iter()
            .map(|(_, file)| if *file { SourceKind::File } else { SourceKind::Block })
            .collect();
        let disks = disks.into_iter().map(|(disk, _)| disk).collect();
        let guest = wire::Guest {
            id, kind, nics, disks, memory_mib, cpu, vnc, metadata, ..wire::Guest::default()
        };
        let vnc = if tcp { VncListen::Tcp } else { VncListen::Socket };
        let host = HostConfig { vnc, nwfilter, ..HostConfig::default() };
        let mut domain = VirDomain::for_guest(&guest, &host, &sources);
        domain.metadata.besides = OwnedObjects { volumes, networks, instance: "i-7".to_owned() };
        prop_assert_eq!(VirDomain::from_xml(&domain.domain_xml()), Ok(domain));
    }
}
