//! What the verbs do that the recorded cases do not show: each row of contract section 9, on
//! libvirt's test driver. The same verbs on real guests are in `qemu.rs`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::support::wait_until;

/// Longer than a loaded machine needs for what takes milliseconds.
const SOON: Duration = Duration::from_secs(60);

const MAC: &str = "02:00:00:00:01:01";

fn guest(id: &str) -> Value {
    json!({ "id": id, "type": "test", "memory": 64, "cpu": 1 })
}

fn with_nic(id: &str, mac: &str) -> Value {
    let mut guest = guest(id);
    guest["nics"] = json!([{ "name": "eth0", "network": "br0", "mac": mac, "vlans": [7] }]);
    guest
}

fn add_nic(guest: &mut Value, mac: &str) {
    let nic = with_nic("", mac)["nics"][0].take();
    guest["nics"].as_array_mut().expect("it has nics").push(nic);
}

fn agent() -> Agent {
    Agent::on_test_driver()
}

#[test]
fn get_with_json_body_is_a_call_and_without_is_405() {
    let agent = agent();
    let body = br#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}"#;
    let json = [("Content-Type", "application/json")];
    let reply = agent.request("GET", "/_mistify_RPC_", &json, body);
    let expected = r#"{"result":{"guest":{"id":"test","state":"running"}},"error":null,"id":1}"#;
    assert_eq!((reply.status, reply.text()), (200, format!("{expected}\n")));

    for (headers, body) in [(&json[..], &b""[..]), (&[], &b""[..]), (&[], &body[..])] {
        let reply = agent.request("GET", "/_mistify_RPC_", headers, body);
        let text = "rpc: POST method required, received GET";
        assert_eq!((reply.status, reply.text().as_str()), (405, text));
    }
    agent.end();
}

#[test]
fn a_request_without_a_guest_is_an_invalid_argument() {
    let agent = agent();
    let methods = ["CreateGuest", "Create", "Delete", "Restart", "Reboot", "Poweroff", "Shutdown"]
        .into_iter()
        .chain(["Run", "Status", "CPUMetrics", "DiskMetrics", "NicMetrics"]);
    for method in methods {
        for params in ["[]", "[null]", "[{}]", r#"[{"guest":null}]"#] {
            let body = format!(r#"{{"method":"Libvirt.{method}","params":{params},"id":1}}"#);
            let reply = agent.post(body.as_bytes());
            let expected = "{\"result\":null,\"error\":\"invalid argument\",\"id\":1}\n";
            assert_eq!((reply.status, reply.text().as_str()), (200, expected), "{body}");
        }
    }
    agent.end();
}

#[test]
fn empty_id_is_invalid_except_for_metrics_and_delete() {
    let agent = agent();
    for id in [json!({}), json!({ "id": "" }), json!({ "id": null })] {
        for method in ["Restart", "Reboot", "Poweroff", "Shutdown", "Run", "Status"] {
            assert_eq!(agent.error(method, &id), "invalid argument", "{method} {id}");
        }
        for method in ["CPUMetrics", "DiskMetrics", "NicMetrics", "Delete"] {
            let error = agent.error(method, &id);
            assert_eq!(error, "[Code-42] [Domain-12] Domain not found", "{method} {id}");
        }
    }
    agent.end();
}

#[test]
fn delete_without_an_id_touches_no_network() {
    let agent = agent();
    let owner = with_nic("owner", MAC);
    agent.ok("CreateGuest", &owner);
    agent.error("Delete", &json!({ "id": "", "nics": owner["nics"] }));
    agent.ok("Run", &json!({ "id": "owner" }));
    agent.end();
}

#[test]
fn same_guest_repeats_the_answer_another_is_code_9() {
    let agent = agent();
    let first = with_nic("again", MAC);
    let answer = agent.ok("CreateGuest", &first);
    assert_eq!(agent.ok("CreateGuest", &first), answer);
    let mut changed = first.clone();
    changed["nics"][0]["name"] = json!("renamed");
    changed["state"] = json!("running");
    agent.ok("CreateGuest", &changed);

    for (member, value) in [
        ("memory", json!(65)),
        ("cpu", json!(2)),
        ("metadata", json!({ "k": "v" })),
        ("nics", json!([])),
        ("disks", json!([{ "source": "/dev/zvol/mistify/d" }])),
    ] {
        let mut other = first.clone();
        other[member] = value;
        let error = agent.error("CreateGuest", &other);
        let expected = "[Code-9] [Domain-20] operation failed: domain 'again' already exists";
        assert!(error.starts_with(expected), "{member}: {error}");
    }
    assert_eq!(agent.state("again"), "shutoff");
    agent.end();
}

#[test]
fn the_same_guest_after_a_run_is_still_the_same() {
    let agent = agent();
    let first = with_nic("ran", MAC);
    agent.ok("CreateGuest", &first);
    let running = agent.ok("Run", &first)["guest"].take();
    assert_eq!(running["nics"][0]["device"], "testnet0");
    assert_eq!(agent.ok("CreateGuest", &running)["guest"]["state"], "running");
    agent.end();
}

#[test]
fn repeated_create_starts_an_off_guest() {
    let agent = agent();
    let guest = guest("created");
    assert_eq!(agent.ok("Create", &guest)["guest"]["state"], "running");
    assert_eq!(agent.ok("Create", &guest)["guest"]["state"], "running");
    agent.ok("Poweroff", &guest);
    assert_eq!(agent.ok("Create", &guest)["guest"]["state"], "running");
    let mut other = guest.clone();
    other["memory"] = json!(128);
    assert!(agent.error("Create", &other).starts_with("[Code-9] [Domain-20] "));
    agent.end();
}

#[test]
fn poweroff_of_an_off_guest_succeeds_and_reboot_fails() {
    let agent = agent();
    agent.ok("CreateGuest", &guest("off"));
    assert_eq!(agent.ok("Poweroff", &guest("off"))["guest"]["state"], "shutoff");
    for method in ["Reboot", "Restart"] {
        assert!(agent.error(method, &guest("off")).starts_with("[Code-55] "), "{method}");
    }
    agent.end();
}

#[test]
fn delete_of_a_guest_without_remains_is_code_42() {
    let agent = agent();
    let guest = with_nic("gone", MAC);
    assert!(agent.error("Delete", &guest).starts_with("[Code-42] "));
    agent.ok("CreateGuest", &guest);
    agent.ok("Delete", &guest);
    assert!(agent.error("Delete", &guest).starts_with("[Code-42] "));
    agent.end();
}

#[test]
fn failure_half_way_leaves_nothing_and_names_its_step() {
    let agent = agent();
    let mut broken = with_nic("half", MAC);
    broken["type"] = json!("nonsense");
    let error = agent.error("CreateGuest", &broken);
    assert!(error.starts_with("[Code-67] [Domain-20] "), "{error}");
    assert!(error.ends_with(" (define domain half; undone)"), "{error}");
    // Had the network stayed, this other guest could not have it.
    agent.ok("CreateGuest", &with_nic("other", MAC));
    agent.end();
}

#[test]
fn existing_network_stays_when_the_guest_fails() {
    let agent = agent();
    agent.ok("CreateGuest", &with_nic("first", MAC));
    let mut broken = with_nic("second", "02:00:00:00:01:02");
    add_nic(&mut broken, MAC);
    let error = agent.error("CreateGuest", &broken);
    assert!(error.contains("[Code-9] "), "{error}");
    assert!(error.ends_with(&format!(" (create network {MAC}; undone)")), "{error}");
    assert_eq!(agent.ok("Run", &json!({ "id": "first" }))["guest"]["state"], "running");
    agent.ok("CreateGuest", &with_nic("third", "02:00:00:00:01:02"));
    agent.end();
}

#[test]
fn duplicate_mac_is_refused_and_both_guests_stay() {
    let agent = agent();
    agent.ok("CreateGuest", &with_nic("mine", MAC));
    let error = agent.error("CreateGuest", &with_nic("yours", MAC));
    assert!(error.starts_with("[Code-9] [Domain-19] "), "{error}");
    assert!(agent.error("Status", &guest("yours")).starts_with("[Code-42] "));
    agent.ok("Delete", &json!({ "id": "mine" }));
    agent.ok("CreateGuest", &with_nic("yours", MAC));
    agent.end();
}

#[test]
fn delete_leaves_a_network_that_another_guest_uses() {
    let agent = agent();
    agent.ok("CreateGuest", &with_nic("user", MAC));
    agent.ok("CreateGuest", &guest("bystander"));
    agent.ok("Delete", &with_nic("bystander", MAC));
    assert!(agent.error("CreateGuest", &with_nic("thief", MAC)).starts_with("[Code-9] "));
    agent.end();
}

#[test]
fn run_matches_nics_by_mac_and_keeps_unmatched_ones() {
    let agent = agent();
    let mut made = with_nic("nics", MAC);
    add_nic(&mut made, "02:00:00:00:01:02");
    agent.ok("CreateGuest", &made);
    let asked = json!({ "id": "nics", "nics": [
        { "name": "gone", "mac": "02:00:00:00:01:99", "device": "kept" },
        { "name": "second", "mac": "02:00:00:00:01:02" },
        { "name": "first", "mac": MAC.to_uppercase() },
        { "name": "nameless" },
    ]});
    let nics = agent.ok("Run", &asked)["guest"]["nics"].take();
    assert_eq!((&nics[0]["name"], &nics[0]["device"]), (&json!("gone"), &json!("kept")));
    assert_eq!((&nics[1]["name"], &nics[1]["device"]), (&json!("second"), &json!("testnet1")));
    assert_eq!((&nics[2]["name"], &nics[2]["device"]), (&json!("first"), &json!("testnet0")));
    assert_eq!(nics[3]["device"], Value::Null);
    agent.end();
}

#[test]
fn a_nic_without_vlans_is_made_without_a_tag() {
    let agent = agent();
    for (index, vlans) in [Value::Null, json!([])].into_iter().enumerate() {
        let mut guest = with_nic(&format!("untagged-{index}"), &format!("02:00:00:00:02:0{index}"));
        guest["nics"][0]["vlans"] = vlans.clone();
        let answer = agent.ok("CreateGuest", &guest);
        assert_eq!(answer["guest"]["nics"][0]["vlans"], vlans);
    }
    agent.end();
}

#[test]
fn disks_past_the_26th_are_named_on() {
    let agent = agent();
    let mut guest = guest("many");
    let disk = |n: usize| json!({ "source": format!("/dev/zvol/mistify/many-{n}") });
    guest["disks"] = (0..28).map(disk).collect();
    let answer = agent.ok("CreateGuest", &guest);
    let disks = answer["guest"]["disks"].as_array().expect("disks");
    let names: Vec<_> = disks.iter().map(|disk| disk["device"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[25], names[26], names[27]), ("vda", "vdz", "vdaa", "vdab"));
    agent.end();
}

#[test]
fn nic_metrics_find_a_missing_device_by_the_mac() {
    let agent = agent();
    let mut guest = with_nic("counted", MAC);
    agent.ok("CreateGuest", &guest);
    agent.ok("Run", &guest);
    guest["nics"][0]["name"] = json!("wan");
    let answer = agent.ok("NicMetrics", &guest);
    assert_eq!(answer["nic"]["wan"]["name"], "wan");
    assert!(answer["nic"]["wan"]["rx_bytes"].as_i64().unwrap() > 0, "{answer}");
    guest["nics"][0]["mac"] = json!("02:00:00:00:01:99");
    assert!(agent.error("NicMetrics", &guest).starts_with("[Code-8] "));
    agent.end();
}

#[test]
fn metacharacters_are_preserved_or_refused_by_name() {
    let agent = agent();
    for id in ["a&b", "a<b", "a\"b", "a'b", "a/b", "a\u{1}b", "-a", " a", "</name><title>x"] {
        let error = agent.error("CreateGuest", &guest(id));
        assert!(error.starts_with("invalid argument: id "), "{id}: {error}");
    }
    let odd = "<&>\"' </name>\u{2028} ü \t\n";
    let mut guest = with_nic("odd", MAC);
    guest["metadata"] = json!({ odd: odd });
    guest["nics"][0]["name"] = json!("eth0");
    agent.ok("CreateGuest", &guest);
    // The same only if the metadata came back from libvirt as it went in.
    agent.ok("CreateGuest", &guest);
    guest["metadata"] = json!({ odd: "other" });
    assert!(agent.error("CreateGuest", &guest).starts_with("[Code-9] "));
    agent.end();
}

#[test]
fn character_invalid_in_xml_is_refused_by_name() {
    let agent = agent();
    let mut guest = with_nic("control", MAC);
    guest["nics"][0]["network"] = json!("br\u{1}");
    let error = agent.error("CreateGuest", &guest);
    assert!(error.starts_with("invalid argument: nics[0].network "), "{error}");
    agent.end();
}

#[test]
fn only_status_accepts_too_many_nics_or_disks() {
    let agent = agent();
    let nic = |n: usize| json!({ "network": "br0", "mac": format!("02:00:00:00:03:{n:02x}") });
    let disk = |n: usize| json!({ "source": format!("/dev/zvol/mistify/d{n}") });
    for (member, many) in [
        ("nics", (0..65).map(nic).collect::<Value>()),
        ("disks", (0..257).map(disk).collect::<Value>()),
    ] {
        let mut guest = guest("crowd");
        guest[member] = many.clone();
        for method in ["CreateGuest", "Create"] {
            let error = agent.error(method, &guest);
            assert!(error.starts_with("invalid argument: "), "{error}");
            assert!(error.contains(member), "{error}");
        }
        let echoed = agent.ok("Status", &json!({ "id": "test", member: many }));
        assert_eq!(echoed["guest"][member].as_array().map(Vec::len), many.as_array().map(Vec::len));
    }
    agent.end();
}

#[test]
fn disk_source_outside_the_roots_is_refused() {
    let agent = agent();
    let mut guest = with_nic("outside", MAC);
    for source in ["/dev/sda", "/dev/zvol/other/x", "/dev/zvol/mistify/../../sda", "relative"] {
        guest["disks"] = json!([{ "source": source }]);
        let error = agent.error("CreateGuest", &guest);
        let expected = "invalid argument: disk source outside /dev/zvol/mistify";
        assert!(error.starts_with(expected), "{error}");
    }
    agent.ok("CreateGuest", &with_nic("next", MAC));
    agent.end();
}

#[test]
fn every_path_is_allowed_where_the_operator_says_so() {
    let flags = ["--libvirt-uri", "test:///default", "--allow-disk-path", "/"];
    let agent = Agent::start(&flags);
    let mut guest = guest("anywhere");
    guest["disks"] = json!([{ "source": "/no/such/device" }]);
    agent.ok("CreateGuest", &guest);
}

#[test]
fn a_linux_bridge_takes_no_vlan_tags() {
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--bridge-type", "linux"]);
    let mut guest = with_nic("tagged", MAC);
    let error = agent.error("CreateGuest", &guest);
    assert!(error.starts_with("invalid argument: nics[0].vlans"), "{error}");
    guest["nics"][0]["vlans"] = json!([]);
    agent.ok("CreateGuest", &guest);
    agent.end();
}

#[test]
fn pprof_and_unknown_paths_are_404() {
    let agent = agent();
    for path in ["/debug/pprof/", "/", "/_mistify_RPC_/", "//_mistify_RPC_", "/healthz/"] {
        let reply = agent.request("GET", path, &[], b"");
        assert_eq!((reply.status, reply.text().as_str()), (404, "404 page not found\n"), "{path}");
    }
    agent.end();
}

#[test]
fn custom_timeout_is_accepted_and_a_bad_one_refused() {
    let agent = agent();
    let with = |name: &str, value: &str| {
        agent.call_with("Status", &json!({ "guest": { "id": "test" }, "args": { name: value } }))
    };
    assert_eq!(with("mistify.timeout", "2")["error"], Value::Null);
    assert_eq!(with("anything.else", "x")["error"], Value::Null);
    for bad in ["", "0", "-1", "1.5", "x", "99999999999"] {
        let answer = with("mistify.timeout", bad);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.starts_with("invalid argument: args: mistify.timeout "), "{answer}");
    }
    agent.end();
}

#[test]
fn a_notification_runs_and_is_answered_with_nothing() {
    let agent = agent();
    let body = r#"{"method":"Libvirt.CreateGuest","params":[{"guest":{"id":"quiet","type":"test","memory":64,"cpu":1}}]}"#;
    let reply = agent.post(body.as_bytes());
    assert_eq!((reply.status, reply.text().as_str()), (200, ""));
    assert_eq!(reply.header("content-type"), None);
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(agent.state("quiet"), "shutoff");
    agent.end();
}

#[test]
fn healthz_answers_from_memory() {
    let agent = agent();
    agent.state("test");
    // The answer may arrive before the worker has ended the job.
    wait_until("no job is left", SOON, || agent.health().1["pool"]["oldest"].is_null());
    let reply = agent.request("GET", "/healthz", &[], b"");
    let health: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!((reply.status, &health["status"]), (200, &json!("ok")));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux has it");
    assert_eq!(health["host"], host.trim_end());
    assert_eq!(health["libvirt"]["answers"], true);
    assert!(health["libvirt"]["version"].is_string(), "{health}");
    assert_eq!(health["pool"]["lanes"]["control"]["workers"], 4);
    assert_eq!((&health["pool"]["stuck"], &health["pool"]["oldest"]), (&json!(0), &Value::Null));
    assert_eq!(health["journal"], json!({ "open": [], "left": [] }));
    assert_eq!(agent.request("GET", "/readyz", &[], b"").status, 200);
    assert_eq!(agent.request("POST", "/healthz", &[], b"").status, 405);
    agent.end();
}

#[test]
fn json_nested_200_000_deep_is_refused() {
    let agent = agent();
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    for body in [
        deep.clone(),
        "[".repeat(200_000),
        objects.clone(),
        format!(
            r#"{{"method":"Libvirt.Status","params":[{{"guest":{{"id":"test"}}}}],"id":{deep}}}"#
        ),
        format!(r#"{{"method":"Libvirt.Status","params":{deep},"id":1}}"#),
        format!(r#"{{"method":"Libvirt.Status","params":[{{"guest":{objects}}}],"id":1}}"#),
        format!(r#"{{"unknown":{deep},"method":"Libvirt.Status","params":[{{}}],"id":1}}"#),
    ] {
        let reply = agent.post(body.as_bytes());
        assert_eq!(reply.status, 400, "{} bytes: {}", body.len(), &body[..40]);
    }
    assert_eq!(agent.state("test"), "running");
    agent.end();
}
