//! Pools that fail under a running guest.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::guests::{running, writes};
use super::{LIBVIRT, Pool, SOON, device, fresh, is_block_device, run, virsh};
use crate::images::Bed;
use crate::skip::require;
use crate::support::{poll, wait_until};

#[test]
fn a_full_pool_pauses_the_guest_and_run_resumes_it_when_there_is_room() {
    let Some(pool) = require("lab", Pool::own(64)) else { return };
    let (folder, agent) = (pool.folder(), pool.agent());
    let guest = running(&agent, &folder);
    let before = pool.listing();
    let filler = pool.fill();
    wait_until("the guest is paused", SOON, || agent.state(&folder.guest) == "paused");
    let error = virsh(&["domblkerror", &folder.guest]);
    assert!(error.contains("vda: no space"), "{error}");

    fs::remove_file(filler).expect("it is ours");
    wait_until("it can be resumed", SOON, || {
        // What was freed is there some transactions later; until then the guest pauses again.
        run("zpool", &["sync", &pool.name]);
        agent.ok("Run", &guest);
        let before = writes(&agent, &guest);
        poll(Duration::from_secs(1), || (writes(&agent, &guest) > before).then_some(())).is_some()
    });
    assert_eq!(agent.state(&folder.guest), "running");
    agent.ok("Delete", &guest);
    assert_eq!(pool.listing(), before);
}

#[test]
fn without_its_pool_storage_says_so_and_all_else_is_served() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    let (name, folder, diskless) = (pool.name.clone(), pool.folder(), fresh("diskless"));
    let missing = format!("pool {name} is missing");
    let bed = Bed::on(LIBVIRT, Some(pool));
    let agent = &bed.agent;
    let stored = guest(&folder.guest, &json!([{ "size": 8 }]));
    let stored = agent.ok("CreateGuest", &stored)["guest"].take();
    agent.ok("CreateGuest", &guest(&diskless, &json!([])));

    run("zpool", &["export", "-f", &name]);
    let another = guest(&fresh("another"), &json!([{ "size": 8 }]));
    assert_eq!(agent.error("CreateGuest", &another), missing);
    let grow = json!({ "id": folder.guest, "disks": [{ "device": "vda", "size": 16 }] });
    assert_eq!(agent.error("ResizeDisk", &grow), missing);
    for method in ["ListVolumes", "ListSnapshots", "ListImages"] {
        assert_eq!(bed.error(method, &json!({})), missing, "{method}");
    }
    let error = agent.error("Run", &stored);
    assert!(error.contains(&folder.volume(0)), "{error}");
    assert_eq!(agent.state(&folder.guest), "shutoff");
    let diskless = json!({ "id": diskless });
    assert_eq!(agent.ok("Run", &diskless)["guest"]["state"], "running");
    agent.ok("Delete", &diskless);

    run("zpool", &["import", "-d", "/var/tmp", &name]);
    assert_eq!(bed.volumes(), [folder.volume(0)]);
    wait_until("udev makes the link", SOON, || is_block_device(&device(&folder.volume(0))));
    assert_eq!(agent.ok("Run", &stored)["guest"]["state"], "running");
    agent.ok("Delete", &stored);
    assert_eq!(bed.volumes(), [""; 0]);
    bed.agent.end();
}

fn guest(id: &str, disks: &Value) -> Value {
    json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": disks })
}
