//! The memory of a real guest: what it has, its maximum, and what running guests may use.

use std::time::Duration;
use std::{fs, io};

use serde_json::{Value, json};

use crate::cli::check::check;
use crate::harness::linux::{Console, SMALL_MIB};
use crate::harness::linux_bed::Bed;
use crate::harness::skip::{Skip, require};
use crate::harness::support::wait_until;

/// Longer than a guest without KVM needs to take or give some 100 MiB.
const SOON: Duration = Duration::from_secs(90);
/// What the kernel may need of 256 MiB to administer them.
const NEEDS_MIB: u64 = 16;

/// What the guest's kernel has, in MiB.
fn has_mib(console: &mut Console) -> u64 {
    let text = console.run("grep MemTotal: /proc/meminfo");
    let kib = text.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("{text}")) / 1024
}

/// Waits until the kernel has so many MiB, or some less.
fn wait_for_mib(console: &mut Console, mib: u64) {
    let about = mib.saturating_sub(NEEDS_MIB)..=mib;
    wait_until("the guest has this memory", SOON, || about.contains(&has_mib(console)));
}

fn set(bed: &Bed, id: &str, mib: u64) -> Value {
    bed.agent.ok("SetMemory", &json!({ "id": id, "memory": mib }))
}

/// SetMemory that the running guest obeys.
fn set_live(bed: &Bed, id: &str, mib: u64) {
    let set = set(bed, id, mib);
    assert_eq!((&set["live"], &set["message"]), (&json!(true), &Value::Null), "{set}");
}

fn described(bed: &Bed, id: &str) -> Value {
    bed.agent.ok("Describe", &json!({ "id": id }))
}

/// `memory` and `memory_max` of Describe in MiB.
fn amounts(bed: &Bed, id: &str) -> (Option<u64>, Option<u64>) {
    let described = described(bed, id);
    let mib = |name: &str| described[name].as_u64().map(|kib| kib / 1024);
    (mib("memory"), mib("memory_max"))
}

#[test]
fn a_running_guest_gets_memory_up_to_its_maximum() {
    let Some(bed) = Bed::new(&[]) else { return };
    let mut guest = bed.guest("grows", &json!({ "max_memory": 3 * SMALL_MIB }));
    let mut console = bed.running(&guest);
    let booted = has_mib(&mut console);
    assert!(booted < SMALL_MIB, "it boots with its memory: {booted}");
    console.run("echo online_movable >/sys/devices/system/memory/auto_online_blocks");

    let more = booted + SMALL_MIB;
    set_live(&bed, "grows", 2 * SMALL_MIB);
    wait_for_mib(&mut console, more);
    wait_until("libvirt has noticed", SOON, || described(&bed, "grows")["pending"].is_null());
    assert_eq!(amounts(&bed, "grows"), (Some(2 * SMALL_MIB), Some(3 * SMALL_MIB)));
    // The balloon takes from what it booted with.
    set_live(&bed, "grows", SMALL_MIB - 64);
    wait_for_mib(&mut console, booted - 64);
    set_live(&bed, "grows", 2 * SMALL_MIB);
    wait_for_mib(&mut console, more);

    let beyond = set(&bed, "grows", 4 * SMALL_MIB);
    assert_eq!(beyond["live"], false, "{beyond}");
    assert!(beyond["message"].as_str().is_some_and(|why| !why.is_empty()), "{beyond}");
    assert_eq!(described(&bed, "grows")["pending"], json!(["memory"]));
    let why = bed.agent.error("SetMemory", &json!({ "id": "grows", "memory": 257 }));
    assert_eq!(why, "invalid argument: memory: 257 is not a multiple of 2");
    bed.agent.ok("Poweroff", &guest);
    guest["memory"] = json!(2 * SMALL_MIB);
    guest["max_memory"] = json!(4 * SMALL_MIB);
    set(&bed, "grows", 2 * SMALL_MIB);
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("Run", &guest);
    let mut console = Console::log_in(bed.stack, "grows");
    wait_for_mib(&mut console, more);
    bed.agent.ok("Delete", &guest);
}

#[test]
fn a_balloon_gives_a_classic_guest_memory_back() {
    let Some(bed) = Bed::new(&["--guest-profile", "classic"]) else { return };
    let guest = bed.guest("balloon", &json!({ "max_memory": 2 * SMALL_MIB }));
    let mut console = bed.running(&guest);
    set_live(&bed, "balloon", 2 * SMALL_MIB);
    wait_until("the balloon is empty", SOON, || has_mib(&mut console) > SMALL_MIB + 128);
    set_live(&bed, "balloon", SMALL_MIB);
    wait_until("the balloon is full", SOON, || has_mib(&mut console) < SMALL_MIB);
    assert_eq!(amounts(&bed, "balloon").1, Some(2 * SMALL_MIB));
    bed.agent.ok("Delete", &guest);
}

#[test]
fn an_existing_guest_gets_a_maximum() {
    let Some(bed) = Bed::new(&[]) else { return };
    let guest = bed.guest("maximum", &json!({ "max_cpu": 4 }));
    bed.agent.ok("CreateGuest", &guest);
    let update = |members: Value| {
        let mut changed = json!({ "id": "maximum" });
        for (name, value) in members.as_object().expect("members") {
            changed[name] = value.clone();
        }
        bed.agent.ok("Update", &changed);
    };
    update(json!({ "max_memory": 2 * SMALL_MIB }));
    assert_eq!(amounts(&bed, "maximum"), (Some(SMALL_MIB), Some(2 * SMALL_MIB)));
    update(json!({ "max_cpu": 2 }));
    update(json!({ "max_memory": 3 * SMALL_MIB, "max_cpu": 8 }));
    let xml = bed.stack.virsh_ok(&["dumpxml", "--inactive", "maximum"]);
    assert!(xml.contains("<memory model='virtio-mem'>") && xml.contains("cpus='0-7'"), "{xml}");
    let why = bed.agent.error("Update", &json!({ "id": "maximum", "max_memory": 255 }));
    assert_eq!(why, "invalid argument: max_memory does not match memory, which is larger");
    let why = bed.agent.error("Update", &json!({ "id": "maximum", "max_memory": 513 }));
    assert_eq!(why, "invalid argument: max_memory: 513 is not a multiple of 2");
    bed.agent.ok("Run", &guest);
    bed.agent.ok("Delete", &guest);
}

/// Huge pages of 2 MiB that this machine reserves, until it is dropped.
struct HugePages {
    before: String,
}

impl HugePages {
    const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn reserve(count: u64) -> Result<Self, Skip> {
        let skip = |error: io::Error| Skip(format!("this machine has no huge pages: {error}"));
        let before = fs::read_to_string(Self::PAGES).map_err(skip)?;
        let wanted = before.trim().parse::<u64>().expect("a count") + count;
        let pages = Self { before };
        fs::write(Self::PAGES, wanted.to_string()).map_err(skip)?;
        let found = fs::read_to_string(Self::PAGES).map_err(skip)?;
        match found.trim() == wanted.to_string() {
            true => Ok(pages),
            false => Err(Skip(format!("this machine has {} huge pages", found.trim()))),
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::PAGES, &self.before);
    }
}

#[test]
fn the_memory_of_a_guest_is_made_of_huge_pages() {
    let Some(bed) = Bed::new(&[]) else { return };
    let Some(_pages) = require("hugepages", HugePages::reserve(SMALL_MIB / 2)) else { return };
    let guest = bed.guest("huge", &json!({ "hugepages": 2048 }));
    let _console = bed.running(&guest);
    let pid = bed.stack.qemu_pid("huge").expect("it runs");
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its memory");
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|it| it.parse::<u64>().ok());
    let huge = maps.lines().filter(|line| line.starts_with("Private_Hugetlb:")).filter_map(kib);
    let huge: u64 = huge.sum();
    assert_eq!(huge / 1024, SMALL_MIB);
    bed.agent.ok("Delete", &guest);
}

#[test]
fn more_memory_than_the_host_has_is_noticed() {
    let Some(bed) = Bed::new(&["--guest-profile", "classic"]) else { return };
    let plan = |most: u64| {
        let guest = bed.guest("promised", &json!({ "max_memory": most }));
        let request = json!({ "guest": guest, "args": { "mistify.dry_run": "true" } });
        bed.agent.call_with("CreateGuest", &request)["result"]["plan"].take()
    };
    let huge = 1 << 30;
    let warned = plan(huge)["warnings"].to_string();
    assert!(warned.contains("with this guest running guests may use 107"), "{warned}");
    let fine = plan(2 * SMALL_MIB);
    assert!(!fine["warnings"].to_string().contains("memory"), "{fine}");

    // More than all guests of other tests that run meanwhile.
    let most = 16 * SMALL_MIB;
    let guest = bed.guest("promised", &json!({ "max_memory": most }));
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("Run", &guest);
    assert!(promised(&bed) >= most, "the maximum of a balloon counts");
    bed.agent.ok("Delete", &guest);
}

/// What `check` says that running guests may use, in MiB.
fn promised(bed: &Bed) -> u64 {
    let output = check(&["--libvirt-uri", &bed.stack.uri()]);
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let all = all.as_array().expect("findings");
    let memory = all.iter().find(|it| it["subject"] == "memory").expect("a finding");
    let words = memory["seen"].as_str().expect("text").to_owned();
    let mib = words.split_whitespace().nth(4).and_then(|mib| mib.parse().ok());
    mib.unwrap_or_else(|| panic!("{words}"))
}
