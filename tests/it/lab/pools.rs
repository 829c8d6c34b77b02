//! Pools that fail under a running guest.

use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::{Value, json};

use super::failing_disk::FailingDisk;
use super::guests::{running, writes};
use super::{LIBVIRT, Pool, SOON, device, fresh, is_block_device, run, virsh, zfs, zpool_sync};
use crate::harness::image_store::Bed;
use crate::harness::skip::require;
use crate::harness::support::{poll, wait_until};

#[test]
fn full_pool_pauses_guest_and_run_resumes_it() {
    let Some(pool) = require("lab", Pool::own(64)) else { return };
    let (directory, agent) = (pool.directory(), pool.agent());
    let guest = running(&agent, &directory);
    let before = pool.listing();
    let filler = pool.fill();
    wait_until("the guest is paused", SOON, || agent.state(&directory.guest) == "paused");
    let error = virsh(&["domblkerror", &directory.guest]);
    assert!(error.contains("vda: no space"), "{error}");

    fs::remove_file(filler).expect("it is ours");
    wait_until("it can be resumed", 3 * SOON, || {
        // What was freed is there some transactions later; until then the guest pauses again.
        zpool_sync(&pool.name);
        agent.ok("Run", &guest);
        let before = writes(&agent, &guest);
        poll(Duration::from_secs(5), || (writes(&agent, &guest) > before).then_some(())).is_some()
    });
    assert_eq!(agent.state(&directory.guest), "running");
    agent.ok("Delete", &guest);
    assert_eq!(pool.listing(), before);
}

#[test]
fn missing_pool_fails_storage_calls_only() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    let (name, directory, diskless) = (pool.name.clone(), pool.directory(), fresh("diskless"));
    let missing = format!("pool {name} does not exist");
    let bed = Bed::on(LIBVIRT, Some(pool));
    let agent = &bed.agent;
    let stored = guest(&directory.guest, &json!([{ "size": 8 }]));
    let stored = agent.ok("CreateGuest", &stored)["guest"].take();
    agent.ok("CreateGuest", &guest(&diskless, &json!([])));

    run("zpool", &["export", "-f", &name]);
    let another = guest(&fresh("another"), &json!([{ "size": 8 }]));
    assert_eq!(agent.error("CreateGuest", &another), missing);
    let grow = json!({ "id": directory.guest, "disks": [{ "device": "vda", "size": 16 }] });
    assert_eq!(agent.error("ResizeDisk", &grow), missing);
    for method in ["ListVolumes", "ListSnapshots", "ListImages"] {
        assert_eq!(bed.error(method, &json!({})), missing, "{method}");
    }
    let error = agent.error("Run", &stored);
    assert!(error.contains(&directory.volume(0)), "{error}");
    assert_eq!(agent.state(&directory.guest), "shutoff");
    let diskless = json!({ "id": diskless });
    assert_eq!(agent.ok("Run", &diskless)["guest"]["state"], "running");
    agent.ok("Delete", &diskless);

    run("zpool", &["import", "-d", "/var/tmp", &name]);
    assert_eq!(bed.volumes(), [directory.volume(0)]);
    wait_until("udev makes the link", SOON, || is_block_device(&device(&directory.volume(0))));
    assert_eq!(agent.ok("Run", &stored)["guest"]["state"], "running");
    agent.ok("Delete", &stored);
    assert_eq!(bed.volumes(), [""; 0]);
    bed.agent.end();
}

fn guest(id: &str, disks: &Value) -> Value {
    json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": disks })
}

#[test]
fn failing_pool_disk_is_reported_and_harms_no_other() {
    let Some(_) = require("lab", Pool::shared()) else { return };
    let disk = FailingDisk::new(128);
    let pool = disk.pool();
    let (stored, diskless) = (fresh("stored"), fresh("diskless"));
    let bed = Bed::on(LIBVIRT, Some(pool));
    let agent = &bed.agent;
    let stored = guest(&stored, &json!([{ "size": 8 }]));
    agent.ok("CreateGuest", &stored);
    agent.ok("CreateGuest", &guest(&diskless, &json!([])));
    let before = bed.volumes();

    disk.fail();
    let another = guest(&fresh("another"), &json!([{ "size": 8 }]));
    // The first command that writes hangs, and not even SIGKILL ends it; from then on zfs says why.
    let hasty = json!({ "guest": another, "args": { "mistify.timeout": "10" } });
    let begin = Instant::now();
    let error = agent.call_with("CreateGuest", &hasty)["error"].take();
    assert!(error.is_string() && begin.elapsed() < SOON, "{error} after {:?}", begin.elapsed());
    let error = bed.error("ListVolumes", &json!({}));
    assert!(error.contains("pool I/O is currently suspended"), "{error}");
    let diskless = json!({ "id": diskless });
    assert_eq!(agent.ok("Run", &diskless)["guest"]["state"], "running");
    agent.ok("Delete", &diskless);
    assert_eq!(agent.state(stored["id"].as_str().expect("text")), "shutoff");

    disk.work_again();
    wait_until("what was begun is undone", SOON, || {
        agent.is_recovered() && bed.volumes() == before
    });
    agent.ok("CreateGuest", &another);
    agent.ok("Delete", &another);
    assert_eq!(bed.volumes(), before);
    agent.ok("Delete", &stored);
    bed.agent.end();
}

#[test]
fn zfs_finishing_after_the_deadline_leaves_nothing() {
    /// From the deadline to the end of what `zfs` waits for.
    const AFTER: Duration = Duration::from_secs(5);
    let Some(_) = require("lab", Pool::shared()) else { return };
    let disk = FailingDisk::new(128);
    let bed = Bed::on(LIBVIRT, Some(disk.pool()));
    let agent = &bed.agent;
    let slow = guest(&fresh("slow"), &json!([{ "size": 8 }, { "size": 8 }]));

    disk.hang();
    let hasty = json!({ "guest": slow, "args": { "mistify.timeout": "3" } });
    let error = agent.call_with("CreateGuest", &hasty)["error"].take();
    assert!(error.is_string(), "{error}");
    // The fault itself has a duration.
    thread::sleep(AFTER);
    disk.go_on();

    wait_until("what came late is undone", SOON, || {
        agent.is_recovered() && bed.volumes().is_empty()
    });
    agent.ok("CreateGuest", &slow);
    agent.ok("Delete", &slow);
    assert_eq!(bed.volumes(), [""; 0]);
    bed.agent.end();
}

#[test]
fn first_guests_of_a_pool_may_be_created_at_once() {
    // Two commands have to meet, which they do not always.
    for _ in 0..3 {
        let Some(pool) = require("lab", Pool::own(256)) else { return };
        // Here `guests` would not be mounted anyhow.
        zfs(&["set", "mountpoint=none", &pool.name]);
        let bed = Bed::on("test:///default", Some(pool));
        let ids = [(); 4].map(|()| fresh("first"));
        let ask = |id: &String| {
            let disks = json!([{ "size": 8 }]);
            json!({ "id": id, "type": "test", "memory": 32, "cpu": 1, "disks": disks })
        };
        thread::scope(|scope| {
            for asked in ids.each_ref().map(ask) {
                let agent = &bed.agent;
                scope.spawn(move || agent.ok("CreateGuest", &asked));
            }
        });
        let mut made = ids.map(|id| bed.full(&format!("guests/{id}/disk-0")));
        made.sort();
        assert_eq!(bed.volumes(), made);
        bed.agent.end();
    }
}
