//! What changes something of a guest waits for the guest's lock. The agent is in this process, so
//! that the test can hold a lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mistify_libvirt::config::{Config, Store};
use mistify_libvirt::ops::Libvirt;
use mistify_libvirt::os::peer::{Caller, Origin};
use mistify_libvirt::rpc::{self, Answer, CallContext, Service};
use serde_json::{Value, json};

use crate::harness::support::{Scratch, wait_until};

/// Longer than any of these calls takes, however loaded the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

fn call(agent: &Libvirt, method: &str, params: &Value) -> String {
    let request = json!({ "method": method, "params": [params], "id": 1 });
    let service =
        if method.starts_with("Libvirt.") { Service::Libvirt } else { Service::ImageStore };
    let caller = Caller { origin: Origin::Socket, peer: None };
    let by = CallContext { caller: &caller, audit: &Arc::default(), inbound: None };
    match rpc::answer_here(agent, service, request.to_string().as_bytes(), by) {
        Answer::Result(answer) => {
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            answer["error"].as_str().unwrap_or_default().to_owned()
        }
        other => panic!("{request}: {other:?}"),
    }
}

#[test]
fn only_guest_changes_wait_for_the_guest_lock() {
    let scratch = Scratch::new();
    let mut config = Config::default();
    config.host.libvirt_uri = "test:///default".to_owned();
    config.host.store = Store::Directory(scratch.path().join("store"));
    config.deadlines.change = PATIENCE;
    // All of them at once, and those that wait for no lock beside them.
    config.pool.calls_per_guest = 9;
    config.pool.stores = 16;
    let agent = Libvirt::with_config(&config).expect("threads can be started");
    for id in ["guests/keyed/disk-0", "guests/free/disk-0"] {
        let volume = json!({ "id": id, "size": 1 });
        assert_eq!(call(&agent, "ImageStore.CreateVolume", &volume), "");
        let snapshot = json!({ "id": id, "dest": "a" });
        assert_eq!(call(&agent, "ImageStore.CreateSnapshot", &snapshot), "");
    }
    let lock =
        agent.core.pool().lock_guest("keyed", Instant::now() + PATIENCE).expect("nobody has it");

    let guest = json!({ "guest": { "id": "keyed", "disks": [{ "device": "vda", "size": 1 }] } });
    let snapshot = json!({ "id": "guests/keyed/disk-0@a" });
    let changes = [
        ("ImageStore.RollbackSnapshot", snapshot.clone()),
        ("ImageStore.CreateGuestDisks", guest.clone()),
        ("ImageStore.DeleteGuestsDisks", guest.clone()),
        ("Libvirt.ResizeDisk", guest.clone()),
        ("ImageStore.CreateVolume", json!({ "id": "guests/keyed/more", "size": 1 })),
        ("ImageStore.CloneImage", json!({ "id": "i", "dest": "guests/keyed/more" })),
        ("ImageStore.CreateSnapshot", json!({ "id": "guests/keyed", "dest": "b" })),
        ("ImageStore.DeleteSnapshot", snapshot.clone()),
        ("ImageStore.DeleteDataset", json!({ "id": "guests/keyed" })),
    ];
    let agent = &agent;
    std::thread::scope(|scope| {
        // Dropped with this scope, also when the test fails: then those that wait for it go on.
        let lock = lock;
        // Calls that can name a deadline get an error at the deadline that names the cause of the
        // wait.
        let impatient = json!({ "guest": guest["guest"], "args": { "mistify.timeout": "1" } });
        let named = changes.iter().filter(|(_, params)| *params == guest);
        let late = named.map(|(method, _)| {
            let params = impatient.clone();
            (method, scope.spawn(move || call(agent, method, &params)))
        });
        for (method, thread) in late.collect::<Vec<_>>() {
            let error = thread.join().expect("it answers");
            assert!(
                error.starts_with("deadline: ") && error.contains("keyed"),
                "{method}: {error}"
            );
        }
        let mut waiting = Vec::new();
        for (method, params) in &changes {
            waiting.push(scope.spawn(move || call(agent, method, params)));
            wait_until(&format!("{method} waits for the lock"), PATIENCE, || {
                agent.core.pool().snapshot().callers.locks_waiting == waiting.len()
            });
        }
        for (method, params) in [
            ("ImageStore.GetSnapshot", snapshot.clone()),
            ("ImageStore.CreateSnapshot", json!({ "id": "guests/free", "dest": "b" })),
            ("ImageStore.RollbackSnapshot", json!({ "id": "guests/free/disk-0@a" })),
            ("ImageStore.DeleteDataset", json!({ "id": "guests/free" })),
        ] {
            assert_eq!(call(agent, method, &params), "", "{method}");
        }
        let larger = json!({ "guest": { "id": "keyed", "disks": [{ "size": 2 }] } });
        let looked = call(agent, "ImageStore.VerifyDisks", &larger);
        assert!(
            looked.starts_with("cannot create mistify/guests/keyed/disk-0: it exists and differs"),
            "{looked}"
        );
        assert_eq!(
            agent.core.pool().snapshot().callers.locks_waiting,
            changes.len(),
            "all wait still"
        );
        drop(lock);
        // The rollback came first, and has the lock first.
        assert_eq!(waiting.remove(0).join().expect("it answers"), "");
    });
    assert!(agent.stop(PATIENCE));
}
