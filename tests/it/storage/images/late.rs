//! Volumes that come after their caller was told that they are late.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::{Bed, SOON, TEST_DRIVER};
use crate::harness::agent::PROGRAM;
use crate::harness::fault_libraries::faults;
use crate::harness::support::{Scratch, wait_until};

#[test]
fn late_volume_or_clone_does_not_block_the_next() {
    crate::harness::cost::slow("waits for deadlines of 5 s");
    // A late call takes as long: it has to be started by then, also on a loaded machine.
    let scratch = Scratch::new();
    let blocker = scratch.path().join("blocker");
    let mut command = Command::new(PROGRAM);
    // The file of a volume's properties; the store reads those of all volumes before it reserves space.
    command.env("LD_PRELOAD", faults()).env("FAULT", "open64:0:*:guests/other/disk-0#");
    command.env("FAULT_WHILE", &blocker);
    let bed = Bed::of(command, TEST_DRIVER, None, &["--deadline-change", "5"]);
    if !bed.import("image", b"content", 1) {
        return;
    }
    let other = json!({ "id": "guests/other/disk-0", "size": 1 });
    wait_until("another volume is made", SOON, || bed.call("CreateVolume", &other).is_ok());
    let (volume, name) = ("guests/late/disk-0", json!({ "id": "guests/late/disk-0" }));
    for (method, params) in [
        ("CreateVolume", json!({ "id": volume, "size": 1 })),
        ("CloneImage", json!({ "id": "image", "dest": volume })),
    ] {
        fs::write(&blocker, "").expect("the directory takes files");
        let late = bed.error(method, &params);
        let words = format!("deadline: {method} ");
        assert!(late.starts_with(&words) && late.contains(" not done in "), "{late}");

        fs::remove_file(&blocker).expect("it is there");
        // It waits for the late one, whose volume would be in its way.
        wait_until("it succeeds", SOON, || bed.call(method, &params).is_ok());
        wait_until("it is gone", SOON, || {
            bed.call("DeleteDataset", &name).is_ok() || bed.is_absent(volume)
        });
    }
    let taken_back = "undo CreateVolume: done".to_owned();
    // A clone ends at its deadline, where it is a copy and not shared with its image.
    assert!(bed.agent.log().contains(&taken_back));
    bed.agent.end();
}
