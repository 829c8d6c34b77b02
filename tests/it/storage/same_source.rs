//! Guests that name the same volume as the source of a disk, at the same time and before it exists: one gets it.

use std::sync::Barrier;
use std::thread;

use serde_json::{Value, json};

use crate::storage::ownership::Bed;

/// How often callers are sent off at the same time.
const ROUNDS: usize = 4;

fn guest(id: &str, disks: Value) -> Value {
    json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": disks })
}

/// Has all of these called at the same time; how many succeeded, and the errors of the others.
fn at_once(bed: &Bed, calls: &[(&str, Value)]) -> (usize, Vec<String>) {
    let start = Barrier::new(calls.len());
    let call = |(verb, params): &(&str, Value)| {
        start.wait();
        bed.agent.call_with(verb, params)["error"].take()
    };
    let answers: Vec<Value> = thread::scope(|scope| {
        let calls: Vec<_> = calls.iter().map(|it| scope.spawn(|| call(it))).collect();
        calls.into_iter().map(|it| it.join().expect("it answers")).collect()
    });
    let errors: Vec<_> = answers.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    (answers.len() - errors.len(), errors)
}

#[test]
fn callers_at_the_same_time_share_no_source() {
    let Some(bed) = Bed::new() else { return };
    let source = bed.disk("same-data").display().to_string();
    let disk = json!({ "source": source });
    // Create adds nothing to a disk.
    let placed = json!({ "source": source, "device": "vda", "bus": "virtio" });
    // The volume's own guest names it by its name.
    let own = json!({ "volume": "mistify/guests/same-data/disk-0" });
    let (made, started) = (["same-a", "same-b"], ["same-c", "same-d"]);
    let attached = ["same-e", "same-data"];
    let all = [made, started, attached].concat();
    for round in 0..ROUNDS {
        let volume = json!({ "id": "guests/same-data/disk-0", "size": 1 });
        assert_eq!(bed.agent.store_error("CreateVolume", &volume), None);
        for id in attached {
            bed.agent.ok("CreateGuest", &guest(id, json!([])));
        }
        let mut calls = Vec::new();
        calls.extend(made.map(|id| ("CreateGuest", json!({ "guest": guest(id, json!([disk])) }))));
        calls.extend(started.map(|id| ("Create", json!({ "guest": guest(id, json!([placed])) }))));
        for (id, disk) in attached.into_iter().zip([&disk, &own]) {
            calls.push(("AttachDisk", json!({ "guest": { "id": id }, "disk": disk })));
        }
        let (succeeded, errors) = at_once(&bed, &calls);
        assert_eq!(succeeded, 1, "round {round}: {errors:#?}");
        for error in errors {
            assert!(error.contains("is used by domain same-"), "{error}");
        }
        for id in &all {
            bed.agent.call("Delete", &json!({ "id": id }));
        }
        bed.agent.store_error("DeleteDataset", &json!({ "id": "guests/same-data/disk-0" }));
    }
    bed.agent.end();
}

#[test]
fn crossed_sources_do_not_block_each_other() {
    let Some(bed) = Bed::new() else { return };
    let ids = ["cross-a", "cross-b"];
    for round in 0..ROUNDS {
        for id in ids {
            let volume = json!({ "id": format!("guests/{id}/disk-0"), "size": 1 });
            assert_eq!(bed.agent.store_error("CreateVolume", &volume), None);
        }
        // Each names the volume that has the other's name.
        let with = |id, other| guest(id, json!([{ "source": bed.disk(other) }]));
        let params = |guest: Value| json!({ "guest": guest, "args": { "mistify.timeout": "60" } });
        let calls = [
            ("CreateGuest", params(with(ids[0], ids[1]))),
            ("CreateGuest", params(with(ids[1], ids[0]))),
        ];
        assert_eq!(at_once(&bed, &calls), (2, Vec::new()), "round {round}");
        for id in ids {
            bed.agent.ok("Delete", &json!({ "id": id }));
        }
        for id in ids {
            bed.agent.store_error("DeleteDataset", &json!({ "id": format!("guests/{id}") }));
        }
    }
    bed.agent.end();
}

#[test]
fn a_source_that_is_awaited_is_not_anothers() {
    let Some(bed) = Bed::new() else { return };
    let disk = json!({ "source": bed.disk("await-data") });
    let first = guest("await-first", json!([disk]));
    bed.agent.ok("CreateGuest", &first);
    bed.agent.ok("CreateGuest", &first);
    let second = guest(
        "await-second",
        json!([{ "source": disk["source"], "device": "vda", "bus": "virtio" }]),
    );
    let by = "await-data/disk-0 is used by domain await-first";
    for verb in ["CreateGuest", "Create"] {
        let error = bed.agent.error(verb, &second);
        assert!(error.contains(by), "{verb}: {error}");
    }
    let dry = json!({ "guest": second, "args": { "mistify.dry_run": "true" } });
    let plan = bed.agent.call_with("CreateGuest", &dry);
    assert!(plan["result"]["plan"]["problems"].to_string().contains(by), "{plan}");
    bed.agent.ok("CreateGuest", &guest("await-second", json!([])));
    let attach = json!({ "guest": { "id": "await-second" }, "disk": disk });
    let answer = bed.agent.call_with("AttachDisk", &attach).to_string();
    assert!(answer.contains(by), "{answer}");
    for id in ["await-first", "await-second"] {
        bed.agent.ok("Delete", &json!({ "id": id }));
    }
    bed.agent.end();
}
