use super::*;
use crate::guest::wire::GuestDisk;

fn guest() -> Guest {
    serde_json::from_str(
        r#"{"id":"web-1","type":"kvm","vnc":-1,"metadata":{"k":"v"},
            "nics":[{"mac":"02:00:00:00:00:0A","vlans":[1]},{"mac":"02:00:00:00:00:0b"}],
            "disks":[{}]}"#,
    )
    .unwrap()
}

fn refusal(change: impl FnOnce(&mut Guest)) -> String {
    let mut guest = guest();
    change(&mut guest);
    check_definition(&guest, &HostConfig::default()).unwrap_err().to_string()
}

#[test]
fn a_good_guest_passes() {
    assert_eq!(check_definition_with_networks(&guest(), &HostConfig::default()), Ok(()));
}

#[test]
fn ids_of_any_script_pass() {
    let long = "i".repeat(ID_BYTES_MAX);
    for id in ["a", "web-1.example", "a b", "gäst-☃", "a.", "a-", "0", long.as_str()] {
        assert_eq!(GuestId::parse(id).unwrap().as_str(), id);
    }
}

#[test]
fn id_unsafe_in_file_names_or_xml_is_refused() {
    for id in [
        "a/b",
        "..",
        ".a",
        "-a",
        " a",
        "a ",
        "\u{a0}a",
        "a\u{2003}",
        "a<b",
        "a>b",
        "a&b",
        "a\"b",
        "a'b",
        "a\nb",
        "a\0b",
        "a\u{7f}b",
        "a\u{85}b",
        "a\u{fffe}b",
    ] {
        assert!(matches!(GuestId::parse(id), Err(Invalid::Member { .. })), "{id:?}");
    }
    assert!(GuestId::parse(&"i".repeat(ID_BYTES_MAX + 1)).is_err());
    assert_eq!(
        refusal(|g| g.id = "a/b".into()),
        "invalid argument: id has a character that is not allowed there (U+002F)"
    );
}

#[test]
fn an_absent_id_has_the_text_of_the_original() {
    assert_eq!(refusal(|g| g.id.clear()), "invalid argument");
}

#[test]
fn a_mac_is_six_pairs() {
    assert!(is_mac("02:00:00:00:00:0a") && is_mac("02:AB:cd:00:00:0A"));
    for mac in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:0a:0b",
        "02-00-00-00-00-0a",
        "2:0:0:0:0:a",
        "02:00:00:00:00:0g",
        "02:00:00:00:00:0a ",
        "+2:00:00:00:00:0a",
    ] {
        assert!(!is_mac(mac), "{mac}");
    }
    assert_eq!(
        refusal(|g| g.nics[1].mac = "x".into()),
        "invalid argument: nics[1].mac: not a MAC address such as 02:00:00:00:00:0a"
    );
}

#[test]
fn only_create_guest_requires_distinct_macs() {
    let host = HostConfig::default();
    for (mac, text) in [
        ("", "invalid argument: nics[1].mac is missing; it names the network of the NIC"),
        ("02:00:00:00:00:0a", "invalid argument: nics[1].mac is also the MAC of another NIC"),
    ] {
        let mut guest = guest();
        guest.nics[1].mac = mac.into();
        assert_eq!(check_definition(&guest, &host), Ok(()));
        assert_eq!(check_definition_with_networks(&guest, &host).unwrap_err().to_string(), text);
    }
}

#[test]
fn every_text_is_checked_for_invalid_xml_characters() {
    let bad = || "a\u{1}".to_owned();
    assert_eq!(
        refusal(|g| g.nics[1].name = bad()),
        "invalid argument: nics[1].name has a character that XML does not allow (U+0001)"
    );
    for (member, change) in [
        ("type", (|g, s| g.kind = s) as fn(&mut Guest, String)),
        ("image", |g, s| g.image = s),
        ("state", |g, s| g.state = s),
        ("nics[0].name", |g, s| g.nics[0].name = s),
        ("nics[0].network", |g, s| g.nics[0].network = s),
        ("nics[0].model", |g, s| g.nics[0].model = s),
        ("nics[0].mac", |g, s| g.nics[0].mac = s),
        ("nics[0].address", |g, s| g.nics[0].address = s),
        ("nics[0].netmask", |g, s| g.nics[0].netmask = s),
        ("nics[0].gateway", |g, s| g.nics[0].gateway = s),
        ("nics[0].device", |g, s| g.nics[0].device = s),
        ("disks[0].bus", |g, s| g.disks[0].bus = s),
        ("disks[0].device", |g, s| g.disks[0].device = s),
        ("disks[0].volume", |g, s| g.disks[0].volume = s),
        ("disks[0].image", |g, s| g.disks[0].image = s),
        ("disks[0].source", |g, s| g.disks[0].source = s),
        ("metadata[\"k\"]", |g, s| drop(g.metadata.insert("k".into(), s))),
        ("a name in metadata", |g, s| drop(g.metadata.insert(s, String::new()))),
    ] {
        let text = refusal(|g| change(g, bad()));
        let expected =
            format!("invalid argument: {member} has a character that XML does not allow");
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[test]
fn xml_carries_all_but_a_few_characters() {
    for c in ['\t', '\n', '\r', ' ', '\u{7f}', '\u{85}', '\u{fffd}', '\u{10ffff}'] {
        assert!(xml_carries(c), "{c:?}");
    }
    for c in ['\0', '\u{1}', '\u{8}', '\u{b}', '\u{c}', '\u{1f}', '\u{fffe}', '\u{ffff}'] {
        assert!(!xml_carries(c), "{c:?}");
    }
}

#[test]
fn nics_and_disks_are_bounded() {
    let nics = |count| move |g: &mut Guest| g.nics = vec![Nic::default(); count];
    let disks = |count| move |g: &mut Guest| g.disks = vec![GuestDisk::default(); count];
    assert_eq!(refusal(nics(65)), "invalid argument: 65 nics; a guest can have at most 64");
    assert_eq!(refusal(disks(257)), "invalid argument: 257 disks; a guest can have at most 256");
    let mut full = guest();
    nics(64)(&mut full);
    disks(256)(&mut full);
    assert_eq!(check_definition(&full, &HostConfig::default()), Ok(()));
}

#[test]
fn a_linux_bridge_takes_no_tags() {
    let host = HostConfig { bridge_type: BridgeType::Linux, ..HostConfig::default() };
    assert_eq!(
        check_definition(&guest(), &host).unwrap_err().to_string(),
        "invalid argument: nics[0].vlans: a Linux bridge does not support VLAN tags"
    );
    let mut untagged = guest();
    untagged.nics[0].vlans = Some(Vec::new());
    assert_eq!(check_definition(&untagged, &host), Ok(()));
}

#[test]
fn a_vnc_port_is_a_port_or_left_to_libvirt() {
    for port in [-2, 65_536, i64::MIN, i64::MAX] {
        let text = refusal(|g| g.vnc = port);
        assert!(text.starts_with("invalid argument: vnc: "), "{text}");
    }
    for vnc in [-1, 0, 5901, 65_535] {
        assert_eq!(check_definition(&Guest { vnc, ..guest() }, &HostConfig::default()), Ok(()));
    }
}

#[test]
fn tcp_port_below_the_first_display_is_refused() {
    let tcp = HostConfig { vnc: VncListen::Tcp, ..HostConfig::default() };
    let check = |vnc| check_definition(&Guest { vnc, ..guest() }, &tcp);
    for vnc in [1, 5899] {
        let text = check(vnc).unwrap_err().to_string();
        assert!(text.starts_with(&format!("invalid argument: vnc: {vnc} is below 5900")), "{text}");
        assert_eq!(check_definition(&Guest { vnc, ..guest() }, &HostConfig::default()), Ok(()));
    }
    for vnc in [-1, 0, 5900, 65_535] {
        assert_eq!(check(vnc), Ok(()));
    }
}
