//! What is left of a guest, and what others put beside it, in plans.

use std::fs;

use mistify_libvirt::config::{HostConfig, JournalLimits};
use mistify_libvirt::guest::wire::{self, GuestRequest};
use mistify_libvirt::journal::{Journal, Scope, Step, Verb};
use mistify_libvirt::libvirt::Connection;
use serde_json::json;

use super::{Host, guest, steps, texts};
use crate::api::jsonrpc;
use crate::harness::agent::Agent;
use crate::harness::in_process::InProcess;
use crate::harness::support::Scratch;

#[test]
fn plan_of_delete_names_a_foreign_volume_that_stays() {
    let host = Host::new(None);
    let asked = guest("l-foreign", &json!([{ "size": 1 }]));
    host.agent().ok("CreateGuest", &asked);
    host.bed.ok("CreateVolume", &json!({ "id": "guests/l-foreign/other", "size": 1 }));
    let other = host.bed.full("guests/l-foreign/other");
    let planned = host.plan("Delete", &asked);
    let stays = format!("keeping {other}: the agent did not create it for this guest");
    assert_eq!(planned["plan"]["warnings"], json!([stays]));
    let goes = format!("destroy {}", host.bed.full("guests/l-foreign/disk-0"));
    assert_eq!(steps(&planned), ["undefine domain l-foreign".to_owned(), goes]);
    host.agent().ok("Delete", &asked);
    assert_eq!(host.bed.volumes(), [other]);
}

#[test]
fn lost_disk_is_a_problem_and_is_not_recreated() {
    let host = Host::new(None);
    let asked = guest("l-lost", &json!([{ "size": 1 }]));
    host.agent().ok("CreateGuest", &asked);
    let disk = host.bed.path("guests/l-lost/disk-0");
    fs::remove_file(&disk).expect("it is there");
    let planned = host.plan("CreateGuest", &asked);
    let lost = format!("disks[0]: {}: not found", host.bed.full("guests/l-lost/disk-0"));
    assert_eq!(planned["plan"]["problems"], json!([lost]));
    assert_eq!(steps(&planned), [""; 0]);
    assert_eq!(host.agent().error("CreateGuest", &asked), "not found");
    assert!(!disk.exists());
}

#[test]
fn a_network_that_is_off_is_started_and_not_made_anew() {
    let host = InProcess::start(&InProcess::config());
    let mac = "02:00:00:00:92:77";
    let nic = wire::Nic { mac: mac.to_owned(), network: "br0".to_owned(), ..wire::Nic::default() };
    let asked = wire::Guest {
        id: "l-off".to_owned(),
        kind: "test".to_owned(),
        memory_mib: 64,
        cpu: 1,
        nics: vec![nic],
        ..wire::Guest::default()
    };
    let request = || GuestRequest { guest: Some(asked.clone()), ..GuestRequest::default() };
    host.agent.create_guest(request()).expect("it can be made");
    let connection = Connection::open("test:///default").expect("it is in this process");
    let network = connection.lookup_network_by_name(mac).expect("it was made");
    network.destroy().expect("it was started");
    let plan = host.agent.guests.plan_create_guest(request()).expect("a plan").plan;
    let planned = plan.steps.iter().map(|step| (step.what, step.name.as_str()));
    assert_eq!(planned.collect::<Vec<_>>(), [("start network", mac)]);
    host.agent.create_guest(request()).expect("it is the same");
    assert!(network.is_active().expect("it is there"));
    host.agent.delete(request()).expect("it is there");
    host.end();
}

#[test]
fn a_former_verb_that_is_open_is_named() {
    let state = Scratch::new();
    let (uri, pool) = ("qemu:///system?socket=/nonexistent", "nonexistent");
    let host =
        HostConfig { libvirt_uri: uri.to_owned(), zpool: pool.to_owned(), ..HostConfig::default() };
    let asked = guest("l-open", &json!([]));
    {
        let limits = JournalLimits::default();
        let journal =
            Journal::open(state.path(), Scope::from(&host), &limits).expect("a directory");
        let request = serde_json::from_value(asked.clone()).expect("a guest");
        let mut entry = journal.begin(Verb::CreateGuest, "l-open", &request).expect("a disk");
        entry.note(Step::NetworkDefined("02:00:00:00:92:78".to_owned())).expect("a disk");
    }
    let directory = state.path().display().to_string();
    let agent =
        Agent::start(&["--libvirt-uri", uri, "--zpool", pool, "--state-dir", directory.as_str()]);
    let params = json!({ "guest": asked, "dry_run": true });
    for method in ["CreateGuest", "Delete"] {
        let planned = jsonrpc::result(&agent, &format!("Libvirt.{method}"), &params);
        let open = "the agent recovers an earlier CreateGuest first";
        assert_eq!(texts(&planned["plan"]["warnings"]), [open], "{method}");
    }
    agent.end();
}
