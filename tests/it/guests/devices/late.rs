//! Devices of a guest whose emulator does not answer.

use serde_json::json;

use super::{Bed, NEXT};
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::signal;

#[test]
fn hung_guest_gets_its_disk_at_the_next_start() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let bed = Bed::on(&stack, "late", 0x41, &[]);
    bed.agent.ok("Run", &bed.made(&json!([{ "size": 1 }])));
    signal(stack.qemu_pid(bed.id).expect("it runs"), "STOP");
    // Longer than a loaded machine needs for the steps before the emulator.
    let asked = json!({
        "guest": { "id": bed.id }, "disk": { "size": 2 }, "args": { "mistify.timeout": "10" },
    });
    let answer = bed.agent.call_with("AttachDisk", &asked)["result"].take();
    assert_eq!(answer["live"], false, "{answer}");
    let why = answer["message"].as_str().expect("a reason");
    assert!(why.starts_with("deadline: AttachDisk late "), "{why}");
    assert_eq!(answer["guest"]["disks"][1]["source"], bed.source(1));
    assert!(bed.agent.is_recovered());
    bed.agent.ok("Poweroff", &json!({ "id": bed.id }));
    assert_eq!(bed.disks(NEXT)[1], ["vdb".to_owned(), bed.source(1)]);
    bed.is_now(&{
        let mut guest = answer["guest"].clone();
        guest["state"] = json!("shutoff");
        guest
    });
    bed.end();
}
