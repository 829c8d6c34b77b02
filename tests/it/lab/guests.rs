//! Guests whose disks are volumes.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Folder, Pool, SOON, virsh};
use crate::agent::Agent;
use crate::boot_sector::boots;
use crate::skip::require;
use crate::support::{Scratch, poll, wait_until};

/// Creates and runs the folder's guest on its first volume; it as Run answered, when it writes.
fn running(agent: &Agent, folder: &Folder) -> Value {
    let source = folder.make_bootable(0, 16);
    let asked = json!({
        "id": folder.guest, "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "network": "mistify0", "mac": mac(folder) }],
        "disks": [{ "source": source }],
    });
    let made = agent.ok("CreateGuest", &asked)["guest"].take();
    bypass_page_cache(&folder.guest);
    let ran = agent.ok("Run", &made)["guest"].take();
    wait_until("the guest writes to its volume", SOON, || writes(agent, &ran) > 0);
    ran
}

/// Has qemu write past the page cache of the lab: out of that the kernel would write later, and
/// meet a full pool where qemu cannot see it.
fn bypass_page_cache(id: &str) {
    let xml = virsh(&["dumpxml", "--inactive", id]);
    let direct = xml.replace(
        "<driver name='qemu' type='raw'/>",
        "<driver name='qemu' type='raw' cache='none'/>",
    );
    let scratch = Scratch::new();
    let file = scratch.path().join("domain.xml");
    fs::write(&file, direct).expect("scratch is writable");
    virsh(&["define", file.to_str().expect("scratch paths are UTF-8")]);
}

/// An address that no other guest of these tests has.
fn mac(folder: &Folder) -> String {
    let number: u8 = folder.guest.rsplit('-').next().and_then(|n| n.parse().ok()).expect("fresh");
    format!("02:00:00:00:30:{number:02x}")
}

fn writes(agent: &Agent, guest: &Value) -> i64 {
    let answer = agent.ok("DiskMetrics", guest);
    answer["disk"]["vda"]["write_ops"].as_i64().expect("a count")
}

#[test]
fn a_guest_boots_from_a_volume_that_was_handed_in_and_leaves_it() {
    let Some(pool) = require("lab", Pool::shared()) else { return };
    let (folder, agent) = (pool.folder(), pool.agent());
    let guest = running(&agent, &folder);
    let before = folder.listing();
    let device = super::device(&folder.volume(0));

    let first = writes(&agent, &guest);
    wait_until("its writes are counted", SOON, || writes(&agent, &guest) > first);

    assert_eq!(agent.ok("Poweroff", &guest)["guest"]["state"], "shutoff");
    assert_eq!(boots(&device).expect("the volume can be read"), 1, "what it wrote is there");
    agent.ok("Delete", &guest);
    assert!(!virsh(&["list", "--all", "--name"]).contains(&folder.guest));
    assert_eq!(folder.listing(), before, "the volume was the caller's");
    assert!(before.contains(&folder.volume(0)), "{before}");
}

#[test]
fn a_full_pool_pauses_the_guest_and_run_resumes_it_when_there_is_room() {
    let Some(pool) = require("lab", Pool::own(64)) else { return };
    let (folder, agent) = (pool.folder(), pool.agent());
    let guest = running(&agent, &folder);
    let filler = pool.fill();
    wait_until("the guest is paused", SOON, || agent.state(&folder.guest) == "paused");
    let error = virsh(&["domblkerror", &folder.guest]);
    assert!(error.contains("vda: no space"), "{error}");

    fs::remove_file(filler).expect("it is ours");
    wait_until("it can be resumed", SOON, || {
        // What is freed is there some transactions later; until then the guest pauses again.
        agent.ok("Run", &guest);
        let before = writes(&agent, &guest);
        poll(Duration::from_secs(2), || (writes(&agent, &guest) > before).then_some(())).is_some()
    });
    assert_eq!(agent.state(&folder.guest), "running");
    agent.ok("Delete", &guest);
}
