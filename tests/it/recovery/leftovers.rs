//! What calls could not undo or finish: it is listed with its reason, removed once that is possible, and
//! locks no guest.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, wait_until};
use crate::recovery::undo::Obstacle;

/// Longer than a loaded machine needs, with the pauses between retries.
const SOON: Duration = Duration::from_secs(120);

/// An agent with a directory store and a journal.
struct Bed {
    agent: Agent,
    directory: Scratch,
}

impl Bed {
    fn new(uri: &str) -> Self {
        let directory = Scratch::new();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let (storage, state) = (format!("directory:{}", at("store")), at("state"));
        let flags = ["--libvirt-uri", uri, "--bridge-type", "linux", "--storage", &storage];
        let agent = Agent::start(&[&flags[..], &["--state-dir", &state]].concat());
        Self { agent, directory }
    }

    fn disk(&self, id: &str) -> PathBuf {
        self.directory.path().join(format!("store/guests/{id}/disk-0"))
    }

    fn leftovers(&self) -> Vec<Value> {
        let answer = self.agent.ok("Leftovers", &json!({ "id": "" }));
        answer["leftovers"].as_array().expect("a list").clone()
    }

    /// The command line's answer.
    fn command(&self, words: &[&str]) -> Output {
        let port = self.agent.address().port().to_string();
        let mut command = Command::new(PROGRAM);
        command.args(["--config", "/dev/null", "--port", &port]).args(words);
        command.output().expect("it runs")
    }
}

fn guest(id: &str, kind: &str) -> Value {
    json!({ "id": id, "type": kind, "memory": 32, "cpu": 1, "nics": [], "disks": [{ "size": 1 }] })
}

#[test]
fn a_volume_in_use_is_listed_and_locks_no_guest() {
    crate::harness::cost::slow("waits until a volume that is open counts as left");
    let bed = Bed::new("test:///default");
    bed.agent.ok("CreateGuest", &guest("web-1", "test"));
    let disk = bed.disk("web-1");
    let open = File::open(&disk).expect("the disk is there");
    let error = bed.agent.error("Delete", &json!({ "id": "web-1" }));
    assert!(error.contains("guests/web-1/disk-0 is in use by "), "{error}");

    let left = bed.leftovers();
    assert_eq!(left.len(), 1);
    assert_eq!((&left[0]["guest"], &left[0]["method"]), (&json!("web-1"), &json!("Delete")));
    assert_eq!(left[0]["state"], "left");
    let object = left[0]["objects"][0].as_str().unwrap_or_default();
    assert!(object.contains("guests/web-1/disk-0 is in use by "), "{object}");
    let shown = bed.command(&["leftovers", "web-1"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("guests/web-1/disk-0 is in use by "));
    // The guest's verbs go on.
    let other = json!({ "id": "web-1", "type": "test", "memory": 32, "cpu": 1, "nics": [] });
    bed.agent.ok("CreateGuest", &other);
    assert!(disk.exists());

    drop(open);
    let removed = bed.command(&["leftovers", "--remove"]);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(bed.leftovers(), [Value::Null; 0]);
    assert!(!disk.exists());
    bed.agent.ok("Delete", &other);
    bed.agent.end();
}

#[test]
fn a_network_that_stays_does_not_keep_others() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let bed = Bed::new(&stack.uri());
    let macs = ["02:00:00:00:76:01", "02:00:00:00:76:02"];
    let nics = macs.map(|mac| json!({ "network": "mistify0", "mac": mac }));
    let mut made = guest("web-2", "qemu");
    made["nics"] = json!(nics);
    bed.agent.ok("CreateGuest", &made);
    let definition = stack.path(&format!("/etc/libvirt/qemu/networks/{}.xml", macs[0]));
    let aside = bed.directory.path().join("aside");
    fs::copy(&definition, &aside).expect("it is defined");
    fs::remove_file(&definition).expect("it is defined");
    let obstacle = Obstacle::at(definition.clone());

    let error = bed.agent.error("Delete", &json!({ "id": "web-2" }));
    assert!(error.contains(&format!("network {}: ", macs[0])), "{error}");
    let networks = || stack.virsh_ok(&["net-list", "--all", "--name"]);
    assert!(networks().contains(macs[0]) && !networks().contains(macs[1]), "{}", networks());
    assert!(!bed.disk("web-2").exists(), "storage's part is done");
    assert_eq!(bed.leftovers()[0]["guest"], "web-2");

    drop(obstacle);
    fs::copy(&aside, &definition).expect("it can be put back");
    wait_until("it is removed by itself", SOON, || bed.leftovers().is_empty());
    assert!(!networks().contains(macs[0]));
    bed.agent.end();
}

#[test]
fn a_delete_names_the_files_on_top_of_disks() {
    let bed = Bed::new("test:///default");
    bed.agent.ok("CreateGuest", &guest("web-5", "test"));
    let (disk, id) = (bed.disk("web-5"), json!({ "id": "web-5" }));
    let overlay = disk.with_file_name("disk-0.s1");
    fs::write(&overlay, "data of a tenant").expect("it can be written");
    let named =
        "mistify/guests/web-5/disk-0.s1 has data of the guest, and the agent did not create it";
    let asked = json!({ "guest": id, "args": { "mistify.dry_run": "true" } });
    let plan = bed.agent.call_with("Delete", &asked);
    assert_eq!(plan["result"]["plan"]["problems"], json!([named]), "{plan}");
    // Also where nothing else is left.
    for _ in 0..2 {
        let error = bed.agent.error("Delete", &id);
        assert_eq!(error, format!("cannot destroy volumes: {named}"));
        assert!(!disk.exists() && overlay.exists());
        assert_eq!(bed.leftovers(), [Value::Null; 0], "nothing to try again");
    }
    fs::remove_file(&overlay).expect("it is there");
    let error = bed.agent.error("Delete", &id);
    assert!(error.starts_with("[Code-42] "), "{error}");
    bed.agent.end();
}

#[test]
fn a_restored_guest_is_not_a_leftovers() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let bed = Bed::new(&stack.uri());
    bed.agent.ok("CreateGuest", &guest("web-4", "qemu"));
    let xml = stack.virsh_ok(&["dumpxml", "web-4"]);
    let open = File::open(bed.disk("web-4")).expect("the disk is there");
    bed.agent.error("Delete", &json!({ "id": "web-4" }));
    // An operator brings it back from a backup, with the same uuid.
    assert!(stack.with_xml("define", &xml).status.success());
    drop(open);
    let removed = bed.command(&["leftovers", "--remove"]);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(bed.leftovers(), [Value::Null; 0]);
    assert!(stack.virsh_ok(&["list", "--all", "--name"]).contains("web-4"));
    assert!(bed.disk("web-4").exists());
    bed.agent.ok("Delete", &json!({ "id": "web-4" }));
    assert!(!bed.disk("web-4").exists());
    bed.agent.end();
}

#[test]
fn delete_with_failing_storage_ends_by_itself() {
    let bed = Bed::new("test:///default");
    bed.agent.ok("CreateGuest", &guest("web-3", "test"));
    let disk = bed.disk("web-3");
    let (properties, aside) = (disk.with_file_name("disk-0#"), bed.directory.path().join("aside"));
    fs::rename(&properties, &aside).expect("the disk is there");
    // Whose it is cannot be read.
    fs::create_dir(&properties).expect("a directory can be made");
    bed.agent.error("Delete", &json!({ "id": "web-3" }));
    assert!(disk.exists());

    fs::remove_dir(&properties).expect("it is empty");
    fs::rename(&aside, &properties).expect("it can be moved back");
    // Nobody calls the agent.
    wait_until("the disk is destroyed", SOON, || !disk.exists());
    wait_until("nothing is left over", SOON, || bed.leftovers().is_empty());
    bed.agent.end();
}

#[test]
fn refused_attach_to_transient_guest_holds_no_lock() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let bed = Bed::new(&stack.uri());
    let xml = bed.directory.path().join("transient.xml");
    let text = "<domain type='qemu'><name>transient</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
                <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>";
    fs::write(&xml, text).expect("it can be written");
    stack.virsh_ok(&["create", &xml.display().to_string()]);
    let nic = json!({ "network": "mistify0", "mac": "02:00:00:00:76:03" });
    let asked = json!({ "guest": { "id": "transient" }, "nic": nic });
    for method in ["AttachNic", "DetachNic"] {
        let answer = bed.agent.call_with(method, &asked);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains("the guest is transient"), "{method}: {answer}");
    }
    assert_eq!(bed.leftovers(), [Value::Null; 0]);
    bed.agent.ok("Suspend", &json!({ "id": "transient" }));
    stack.virsh_ok(&["destroy", "transient"]);
    bed.agent.end();
}
