use super::metrics::*;
use super::*;

fn guest(json: &str) -> Guest {
    serde_json::from_str(json).unwrap()
}

fn echo(json: &str) -> String {
    serde_json::to_string(&guest(json)).unwrap()
}

fn refusal(json: &str) -> String {
    serde_json::from_str::<GuestRequest>(json).unwrap_err().to_string()
}

#[test]
fn a_guest_of_nothing_is_its_id() {
    assert_eq!(echo("{}"), r#"{"id":""}"#);
}

#[test]
fn members_are_written_in_contract_order() {
    let full = concat!(
        r#"{"id":"i","type":"t","image":"m","nics":[{"name":"n","network":"b","model":"v","#,
        r#""mac":"x","address":"a","netmask":"k","gateway":"g","device":"d","vlans":[1,2]}],"#,
        r#""disks":[{"bus":"b","device":"d","size":18446744073709551615,"volume":"v","#,
        r#""image":"i","source":"s"}],"state":"s","memory":1,"cpu":2,"vnc":-1,"#,
        r#""metadata":{"a":"1","b":"2"}}"#
    );
    assert_eq!(echo(full), full);
}

#[test]
fn null_is_the_zero_value_of_every_member() {
    let json = r#"{"id":null,"type":null,"image":null,"nics":null,"disks":null,"state":null,
        "memory":null,"cpu":null,"vnc":null,"metadata":null}"#;
    assert_eq!(guest(json), Guest::default());
}

#[test]
fn null_elements_are_zero_elements() {
    let read = guest(r#"{"nics":[null,{"vlans":[null,7]}],"disks":[null],"metadata":{"k":null}}"#);
    assert_eq!(read.nics[0], Nic::default());
    assert_eq!(read.nics[1].vlans, Some(vec![0, 7]));
    assert_eq!(read.disks, [GuestDisk::default()]);
    assert_eq!(read.metadata["k"], "");
}

#[test]
fn vlans_are_null_unless_they_were_a_list() {
    let nic = |json| serde_json::to_value(serde_json::from_str::<Nic>(json).unwrap()).unwrap();
    assert_eq!(nic("{}")["vlans"], serde_json::Value::Null);
    assert_eq!(nic(r#"{"vlans":null}"#)["vlans"], serde_json::Value::Null);
    assert_eq!(nic(r#"{"vlans":[]}"#)["vlans"], serde_json::json!([]));
}

#[test]
fn a_disk_and_a_nic_always_write_their_fixed_members() {
    assert_eq!(
        echo(r#"{"nics":[{}],"disks":[{}]}"#),
        concat!(
            r#"{"id":"","nics":[{"network":"","model":"","address":"","netmask":"","#,
            r#""gateway":"","vlans":null}],"disks":[{"bus":"","device":"","size":0,"#,
            r#""volume":"","image":"","source":""}]}"#
        )
    );
}

#[test]
fn last_duplicate_member_wins_in_any_letter_case() {
    assert_eq!(guest(r#"{"id":"a","ID":"b"}"#).id, "b");
}

#[test]
fn unknown_members_are_dropped() {
    assert_eq!(guest(r#"{"id":"a","frob":{"id":[1,{}]}}"#).id, "a");
}

#[test]
fn integers_reject_fraction_exponent_and_overflow() {
    for member in [
        r#""memory":-1"#,
        r#""memory":1.0"#,
        r#""cpu":1e3"#,
        r#""memory":18446744073709551616"#,
        r#""vnc":9223372036854775808"#,
        r#""vnc":"1""#,
        r#""nics":[{"vlans":[1.5]}]"#,
    ] {
        assert!(serde_json::from_str::<Guest>(&format!("{{{member}}}")).is_err(), "{member}");
    }
    assert_eq!(guest(r#"{"memory":18446744073709551615}"#).memory_mib, u64::MAX);
    assert_eq!(guest(r#"{"vnc":-9223372036854775808}"#).vnc, i64::MIN);
}

#[test]
fn error_names_the_member_and_the_expectation() {
    let text = refusal(r#"{"guest":{"memory":"512"}}"#);
    assert!(
        text.starts_with(r#"guest: memory: invalid type: string "512", expected u64"#),
        "{text}"
    );
    let text = refusal(r#"{"args":{"a":1}}"#);
    assert!(text.starts_with("args: invalid type: integer `1`, expected a string"), "{text}");
}

#[test]
fn a_struct_is_an_object_and_nothing_else() {
    for json in [r#"{"guest":"test"}"#, r#"{"guest":["a"]}"#, r#"{"guest":5}"#, "[]", r#""x""#] {
        assert!(refusal(json).contains("expected an object"), "{json}");
    }
}

#[test]
fn an_empty_metrics_answer_keeps_guest_and_type() {
    let answer = GuestMetricsResponse { kind: "disk".into(), ..Default::default() };
    assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"guest":null,"type":"disk"}"#);
}

#[test]
fn metrics_leave_nothing_out_and_sort_their_keys() {
    let nic = BTreeMap::from([
        ("b".to_owned(), NicMetrics::default()),
        ("a".to_owned(), NicMetrics::default()),
    ]);
    let answer = GuestMetricsResponse { kind: "nic".into(), nic, ..Default::default() };
    let zero = concat!(
        r#"{"name":"","rx_bytes":0,"rx_packets":0,"rx_errors":0,"rx_drops":0,"#,
        r#""tx_bytes":0,"tx_packets":0,"tx_errors":0,"tx_drops":0}"#
    );
    assert_eq!(
        serde_json::to_string(&answer).unwrap(),
        format!(r#"{{"guest":null,"type":"nic","nic":{{"a":{zero},"b":{zero}}}}}"#)
    );
    assert_eq!(
        serde_json::to_string(&DiskMetrics::default()).unwrap(),
        concat!(
            r#"{"disk":"","read_ops":0,"read_bytes":0,"read_time":0.0,"write_ops":0,"#,
            r#""write_bytes":0,"write_time":0.0,"flush_ops":0,"flush_time":0.0}"#
        )
    );
}

#[test]
fn a_response_always_has_guest_and_only_guest() {
    assert_eq!(serde_json::to_string(&GuestResponse::default()).unwrap(), r#"{"guest":null}"#);
}

#[test]
fn disks_are_named_as_linux_counts() {
    for (index, name) in [
        (0, "vda"),
        (25, "vdz"),
        (26, "vdaa"),
        (51, "vdaz"),
        (52, "vdba"),
        (701, "vdzz"),
        (702, "vdaaa"),
    ] {
        assert_eq!(disk_device("vd", index), name);
    }
}

#[test]
fn completion_sets_only_type_bus_and_device() {
    let mut completed =
        guest(r#"{"id":"a","disks":[{"bus":"ide","device":"hda","source":"/s"},{}]}"#);
    completed.complete(true);
    let expected = guest(
        r#"{"id":"a","type":"kvm","disks":[{"bus":"virtio","device":"vda","source":"/s"},
            {"bus":"virtio","device":"vdb"}]}"#,
    );
    assert_eq!(completed, expected);

    let mut typed = guest(r#"{"id":"a","type":"qemu"}"#);
    typed.complete(true);
    assert_eq!(typed.kind, "qemu");
}
