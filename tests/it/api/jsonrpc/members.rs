//! Members that nobody reads: refused at `/rpc`, passed over by the original's path.

use serde_json::{Value, json};

use super::error;
use crate::api::jobs::ended;
use crate::harness::agent::Agent;

fn guest(members: &Value) -> Value {
    let mut guest = json!({ "id": "members", "type": "test", "memory": 64, "cpu": 1 });
    for (name, value) in members.as_object().expect("members") {
        guest[name] = value.clone();
    }
    json!({ "guest": guest })
}

#[test]
fn an_unknown_member_is_refused_with_the_nearest() {
    let agent = Agent::on_test_driver();
    for (members, message) in [
        (
            json!({ "frimware": "uefi" }),
            r#"unknown member "guest.frimware"; did you mean "firmware"?"#,
        ),
        (json!({ "disk": [] }), r#"unknown member "guest.disk"; did you mean "disks"?"#),
        (json!({ "Memroy": 1 }), r#"unknown member "guest.Memroy"; did you mean "memory"?"#),
        (
            json!({ "disks": [{ "machine": "q35" }] }),
            r#"unknown member "guest.disks.machine"; "machine" is a member of guest"#,
        ),
        (
            json!({ "cpu_topology": { "cores": 1, "thread": 1 } }),
            r#"unknown member "guest.cpu_topology.thread"; did you mean "threads"?"#,
        ),
        (json!({ "zzzzzz": null }), r#"unknown member "guest.zzzzzz""#),
        (json!({ "memory": "1G" }), r#"guest: memory: invalid type: string "1G", expected u64"#),
        (
            json!({ "disks": [{ "bus": "ide", "source": "/dev/zvol/mistify/a" }] }),
            r#"disks[0].bus: "ide" is not supported; use virtio, scsi, sata"#,
        ),
        (
            json!({ "disks": [{ "device": "vdc", "source": "/dev/zvol/mistify/a" }] }),
            "disks[0].device must be vda or absent, not vdc",
        ),
        (
            json!({ "firmware": "efi" }),
            r#"firmware: "efi" is not supported; use bios, uefi, uefi-secure"#,
        ),
    ] {
        let found = error(&agent, "Libvirt.CreateGuest", &guest(&members));
        let said = found["message"].as_str().expect("a message");
        let prefixes = ["Invalid params: ", "invalid argument: "];
        let said = prefixes.iter().find_map(|prefix| said.strip_prefix(prefix)).unwrap_or(said);
        assert_eq!((&found["code"], said), (&json!(-32602), message));
    }
    let found =
        error(&agent, "Libvirt.CreateGuest", &json!({ "guest": { "id": "a" }, "machine": "q35" }));
    let message = found["message"].as_str().expect("a message");
    assert!(message.contains(r#"unknown parameter "machine""#), "{message}");
    let found = error(&agent, "Libvirt.Status", &guest(&json!({ "nic": [] })));
    let message = found["message"].as_str().expect("a message");
    assert!(message.ends_with(r#"unknown member "guest.nic"; did you mean "nics"?"#), "{message}");
    assert!(
        agent.error("Status", &json!({ "id": "members" })).contains("[Code-42]"),
        "none is made"
    );
    agent.end();
}

#[test]
fn old_path_logs_unknown_members_and_continues() {
    let agent = Agent::on_test_driver();
    let disk = json!({ "bus": "ide", "device": "hda", "source": "/dev/zvol/mistify/a" });
    let asked = guest(&json!({ "frimware": "uefi", "disks": [disk] }))["guest"].take();
    let made = agent.ok("CreateGuest", &asked)["guest"].take();
    let disk = &made["disks"][0];
    assert_eq!((&disk["bus"], &disk["device"]), (&json!("virtio"), &json!("vda")), "{made}");
    let log = agent.end();
    for ignored in [
        r#"ignoring a member of the request: unknown member "guest.frimware"; did you mean "firmware"?"#,
        r#"ignoring a member of the request: disks[0].bus: "ide" is not supported; use virtio, scsi, sata"#,
    ] {
        let line = log.lines().find(|line| line.contains(ignored));
        assert!(line.is_some_and(|line| line.contains("WARN")), "{ignored} in {log}");
    }
}

#[test]
fn a_job_of_the_old_path_keeps_its_unknown_members() {
    let agent = Agent::on_test_driver();
    let guest = guest(&json!({ "frimware": "uefi" }))["guest"].take();
    let params = json!({ "guest": guest, "args": { "mistify.async": "true" } });
    let accepted = agent.call_with("CreateGuest", &params);
    let job = accepted["result"]["job"].as_str().expect("a job");
    assert_eq!(ended(agent.address(), job)["state"], "done");
    agent.end();
}
