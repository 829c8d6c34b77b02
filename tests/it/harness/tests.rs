//! Tests of the harness itself, on which other tests rely.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::skip::{Skip, require};
use super::stack::{BlockDevice, Bridge, Cgroup, Stack, child_of, wait_for_libvirt};
use super::support::{signal, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn state(stack: &Stack, domain: &str) -> String {
    stack.virsh_ok(&["domstate", domain]).trim().to_owned()
}

#[test]
fn boot_sector_guest_counts_until_the_power_button() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "harness-button", &disk);
    let before = stack.writes("harness-button");
    wait_until("more writes", SOON, || stack.writes("harness-button") > before);

    stack.virsh_ok(&["shutdown", "harness-button"]);

    wait_until("it is off", SOON, || state(stack, "harness-button") == "shut off");
}

#[test]
fn the_named_domain_type_boots() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(kind) = require("qemu", stack.domain_type()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot(kind, "harness-type", &disk);
    stack.virsh_ok(&["destroy", "harness-type"]);
}

#[test]
fn stopped_qemu_is_found_by_its_outside_pid() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "harness-pid", &disk);
    let pid = stack.qemu_pid("harness-pid").expect("it runs");

    signal(pid, "STOP");

    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    wait_until("it is stopped", SOON, || status().contains("State:\tT"));
    assert!(status().contains("qemu-system"), "{}", status());
    signal(pid, "CONT");
    stack.virsh_ok(&["destroy", "harness-pid"]);
    assert_eq!(stack.qemu_pid("harness-pid"), None);
}

#[test]
fn a_guest_outlives_libvirtd() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "survivor", &disk);
    let pid = stack.qemu_pid("survivor");

    stack.signal_libvirtd("KILL");
    assert!(!stack.virsh(&["list"]).status.success());
    stack.start_libvirtd();

    wait_until("it is known again", SOON, || state(&stack, "survivor") == "running");
    assert_eq!(stack.qemu_pid("survivor"), pid);
}

#[test]
fn a_crashed_libvirtd_is_started_again() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let pid = || {
        let inside = fs::read_to_string(stack.path("/run/libvirtd.pid")).unwrap_or_default();
        stack.outside_pid(inside.trim())
    };
    let first = pid().expect("it runs");

    signal(first, "SEGV");
    wait_until("another one runs", SOON, || pid().is_some_and(|pid| pid != first));
    wait_for_libvirt(&stack.uri());
}

#[test]
fn everything_ends_with_the_stack() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "mortal", &disk);
    let mut child = stack.command("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let processes = [stack.qemu_pid("mortal").unwrap(), child_of(child.id())];
    let device = Path::new("/sys/block").join(disk.path().file_name().unwrap());
    let backing = || fs::read_to_string(device.join("loop/backing_file")).ok();
    let file = backing().expect("the device has a file behind it");

    drop(stack);
    drop(disk);

    assert!(!child.wait().unwrap().success());
    for pid in processes {
        let gone = || !Path::new(&format!("/proc/{pid}")).exists();
        wait_until("the process is gone", SOON, gone);
    }
    wait_until("the loop device is free", SOON, || backing().as_ref() != Some(&file));
}

#[test]
fn a_socket_made_inside_is_reached_from_outside() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    UnixStream::connect(stack.path("/run/libvirt/libvirt-sock")).unwrap();
    let inside = stack.command("virsh").args(["-q", "uri"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside.stdout).trim(), "qemu:///system");
}

#[test]
fn cpu_stats_fail_on_cgroup_v2_and_hold_on_v1() {
    for (cgroup, answer) in [(Cgroup::V2, "not supported"), (Cgroup::V1, "vcpu_time")] {
        let Some(stack) = require("cgroup", Stack::start_with(cgroup, Bridge::Linux)) else {
            continue;
        };
        // A file of v2 alone; without a controller libvirt takes v2 for absent.
        let controllers = fs::read_to_string(stack.path("/sys/fs/cgroup/cgroup.controllers"));
        if controllers.is_ok_and(|names| names.trim().is_empty()) {
            require::<()>("cgroup", Err(Skip("no controller can be enabled".to_owned())));
            continue;
        }
        let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
        stack.boot("qemu", "counted", &disk);
        let output = stack.virsh(&["cpu-stats", "counted"]);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains(answer), "{text}");
    }
}
