//! Pools that fail under a running guest.

use std::fs;
use std::time::Duration;

use super::guests::{running, writes};
use super::{Pool, SOON, run, virsh};
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
