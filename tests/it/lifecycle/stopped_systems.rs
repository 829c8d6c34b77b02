//! Verbs on guests whose system has stopped by itself: one that suspended itself to memory, and one that
//! panicked and is preserved.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::harness::agent::Agent;
use crate::harness::boot_sector::boot_sector_of;
use crate::harness::cost::slow;
use crate::harness::scrape::scrape;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack, guest_xml};
use crate::harness::support::wait_until;

/// How long the system of an emulated guest has to stop on a loaded machine.
const STOPS: Duration = Duration::from_secs(60);

// Waits for 30 timer ticks, 1.6 s, as an operating system that boots.
#[rustfmt::skip]
const TICKS: [u8; 8] = [
    0xFB,                   // sti
    0xB9, 30, 0,            // mov  cx, 30
    0xF4,                   // hlt
    0xE2, 0xFD,             // loop hlt
    0xFA,                   // cli
];
// ACPI's PM1a control register of qemu's pc machine: sleep in state S3.
#[rustfmt::skip]
const SUSPEND: [u8; 10] = [
    0xBA, 0x04, 0x06,       // mov  dx, 0x604
    0xB8, 0x00, 0x24,       // mov  ax, 0x2400      SLP_EN, SLP_TYP 1
    0xEF,                   // out  dx, ax
    0xF4,                   // hlt
    0xEB, 0xFD,             // jmp  hlt
];
// The panic device (docs/specs/pvpanic.txt of qemu): bit 0 says that the system panicked.
#[rustfmt::skip]
const PANIC: [u8; 9] = [
    0xBA, 0x05, 0x05,       // mov  dx, 0x505
    0xB0, 0x01,             // mov  al, 1
    0xEE,                   // out  dx, al
    0xF4,                   // hlt
    0xEB, 0xFD,             // jmp  hlt
];

/// An agent on the stack, and a guest whose system stops with this code once it has booted.
fn guest_that_stops(stack: &Stack, id: &str, disk: &Path, code: &[u8], more: &str) -> Agent {
    slow("waits for a real guest boot");
    fs::OpenOptions::new()
        .write(true)
        .open(disk)
        .and_then(|mut disk| {
            std::io::Write::write_all(&mut disk, &boot_sector_of(&[&TICKS[..], code].concat()))
        })
        .expect("the device is the test's own");
    let xml = guest_xml("qemu", id, disk).replace("</devices>", more);
    let defined = stack.with_xml("define", &xml);
    assert!(defined.status.success(), "define: {defined:?}");
    let disk = disk.to_str().expect("UTF-8");
    let agent = Agent::start(&["--libvirt-uri", &stack.uri(), "--allow-disk-path", disk]);
    agent.ok("Run", &json!({ "id": id }));
    agent
}

#[test]
fn a_guest_that_suspended_itself_is_woken() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let pm = "</devices><pm><suspend-to-mem enabled='yes'/></pm>";
    let guest = json!({ "id": "sleeper" });
    let agent = guest_that_stops(stack, "sleeper", disk.path(), &SUSPEND, pm);
    for verb in ["Run", "Resume"] {
        wait_until("the guest suspends itself", STOPS, || agent.state("sleeper") == "suspended");

        let answer = agent.ok(verb, &guest);

        assert_eq!(answer["guest"]["state"], "running", "{verb}: {answer}");
        agent.ok("Poweroff", &guest);
        agent.ok("Run", &guest);
    }
    agent.ok("Delete", &guest);
}

#[test]
fn run_does_not_call_a_panicked_guest_running() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let panic = "<panic model='isa'/></devices><on_crash>preserve</on_crash>";
    let agent = guest_that_stops(stack, "panicked", disk.path(), &PANIC, panic);
    wait_until("the guest panics", STOPS, || agent.state("panicked") == "crashed");

    let reason = "mistify_guest_state_reason{domain=\"panicked\",reason=\"panicked\"}";
    wait_until("a scrape tells the reason", STOPS, || scrape(&agent).get(reason) == Some(1.0));

    let error = agent.error("Run", &json!({ "id": "panicked" }));

    let why = "cannot run guest panicked: it has panicked; call Reset or Poweroff first";
    assert_eq!(error, why);
    for remedy in ["Reset", "Poweroff"] {
        agent.ok(remedy, &json!({ "id": "panicked" }));
        let answer = agent.ok("Run", &json!({ "id": "panicked" }));
        assert_eq!(answer["guest"]["state"], "running", "after {remedy}: {answer}");
        wait_until("the guest panics again", STOPS, || agent.state("panicked") == "crashed");
    }
    agent.ok("Delete", &json!({ "id": "panicked" }));
}
