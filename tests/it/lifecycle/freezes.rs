//! Freeze and Thaw of real guests, whatever happens meanwhile.

use std::fs::{self, File};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::linux::Console;
use crate::harness::linux_bed::Bed;
use crate::harness::scrape::scrape;
use crate::harness::support::wait_until;

/// Longer than a loaded machine needs for what takes a second.
const SOON: Duration = Duration::from_secs(90);
const FROZEN: &str = "the guest's file systems are frozen";

/// A guest with a file system on a disk of 64 MiB, and a guest agent that answers.
fn with_file_system(bed: &Bed, id: &str) -> (Value, Console) {
    let disk = bed.files.path().join(format!("{id}.raw"));
    let shared = bed.guest(id, &json!({}))["disks"][0]["source"].take();
    fs::copy(shared.as_str().expect("a path"), &disk).expect("a disk of its own");
    let guest = bed.guest(id, &json!({ "disks": [{ "source": disk }] }));
    let mut console = bed.running(&guest);
    let source = bed.files.path().join(format!("{id}-data.raw"));
    File::create(&source).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    let disk = json!({ "guest": { "id": id }, "disk": { "source": source } });
    let attached = bed.agent.call_with("AttachDisk", &disk);
    assert_eq!(attached["result"]["live"], true, "{attached}");
    console.wait_for("ls /sys/block", "vdb");
    console
        .run("mke2fs /dev/vdb >/dev/null && mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt && sync");
    wait_until("the guest agent answers", SOON, || {
        bed.agent.ok("GuestInfo", &guest)["agent"] == true
    });
    (guest, console)
}

/// Whether the guest itself says that it is frozen.
fn is_frozen(bed: &Bed, id: &str) -> bool {
    let asked = ["qemu-agent-command", id, r#"{"execute":"guest-fsfreeze-status"}"#];
    let status = bed.stack.virsh_ok(&asked);
    assert!(status.contains("frozen") || status.contains("thawed"), "{status}");
    status.contains("frozen")
}

/// Starts a write to the file system of a guest, which ends in `/tmp/written` of this name.
fn write(console: &mut Console, name: &str) {
    // Not a job of the shell, which would end with it.
    let job = format!("echo x >/mnt/{name} && touch /tmp/written/{name}");
    console.run(&format!("mkdir -p /tmp/written; (sh -c '{job}' </dev/null &)"));
}

fn has_written(console: &mut Console, name: &str) -> bool {
    console.run("ls /tmp/written").contains(name)
}

#[test]
fn a_frozen_guest_is_thawed_whatever_happens() {
    let Some(mut bed) = Bed::new(&["--metrics-filesystems"]) else { return };
    let state = bed.files.path().join("state").display().to_string();
    let (uri, directory) = (bed.stack.uri(), bed.files.path().display().to_string());
    let flags = [
        "--libvirt-uri",
        &uri,
        "--allow-disk-path",
        &directory,
        "--state-dir",
        &state,
        "--metrics-filesystems",
        "--bridge-type",
        "linux",
    ];
    bed.agent = Agent::start(&flags);
    let (guest, mut console) = with_file_system(&bed, "cold");
    let size = "mistify_guest_filesystem_size_bytes{domain=\"cold\",mountpoint=\"/mnt\"}";
    let used = size.replace("size", "used");
    wait_until("metrics have the file system", SOON, || scrape(&bed.agent).get(size).is_some());
    let (size, used) = (scrape(&bed.agent).value(size), scrape(&bed.agent).value(&used));
    assert!(used > 0.0 && used < size && size <= f64::from(64 << 20), "{used} {size}");

    // By Thaw.
    bed.agent.ok("Freeze", &guest);
    assert!(is_frozen(&bed, "cold"));
    write(&mut console, "first");
    let info = bed.agent.ok("GuestInfo", &guest);
    assert_eq!((&info["agent"], &info["message"]), (&json!(false), &json!(FROZEN)));
    for method in ["Freeze", "Trim"] {
        assert_eq!(bed.agent.error(method, &guest), FROZEN, "{method}");
    }
    let login = json!({ "guest": { "id": "cold" }, "user": "root", "password": "x" });
    assert_eq!(bed.agent.call_with("SetPassword", &login)["error"], FROZEN);
    assert!(is_frozen(&bed, "cold") && !has_written(&mut console, "first"));
    let thawed = bed.agent.call("Thaw", &guest);
    assert_eq!(thawed["result"]["message"], Value::Null, "{thawed}");
    assert!(!is_frozen(&bed, "cold"));
    wait_until("it writes", SOON, || has_written(&mut console, "first"));
    let thawed = bed.agent.call("Thaw", &guest);
    assert_eq!(thawed["result"]["message"], "no freeze was in force", "{thawed}");

    // By itself.
    bed.agent.ok("Freeze", &guest);
    write(&mut console, "second");
    assert!(is_frozen(&bed, "cold"));
    wait_until("it is thawed by itself", SOON, || !is_frozen(&bed, "cold"));
    wait_until("it writes", SOON, || has_written(&mut console, "second"));

    // After a stop of the agent, and after its end.
    for (signal, name) in [("TERM", "third"), ("KILL", "fourth")] {
        wait_until("the guest agent answers", SOON, || {
            bed.agent.ok("GuestInfo", &guest)["agent"] == true
        });
        bed.agent.ok("Freeze", &guest);
        write(&mut console, name);
        assert!(is_frozen(&bed, "cold"));
        let agent =
            std::mem::replace(&mut bed.agent, Agent::start(&["--libvirt-uri", "test:///default"]));
        agent.signal(signal);
        agent.wait();
        assert_eq!(is_frozen(&bed, "cold"), signal == "KILL");
        bed.agent = Agent::start(&flags);
        wait_until("it is thawed", SOON, || !is_frozen(&bed, "cold"));
        wait_until("it writes", SOON, || has_written(&mut console, name));
        let open = || bed.agent.health().1["journal"]["open"].clone();
        wait_until("nothing is left of it", SOON, || open() == json!([]));
    }

    // Nobody waits for the end of a freeze to power a guest off.
    bed.agent.ok("Freeze", &guest);
    assert!(is_frozen(&bed, "cold"));
    let thaws = || bed.agent.log().matches("file systems are thawed").count();
    let before = thaws();
    bed.agent.ok("Delete", &guest);
    wait_until("the freeze is over", SOON, || bed.agent.health().1["journal"]["open"] == json!([]));
    assert_eq!(thaws(), before, "{}", bed.agent.log());
}

#[test]
fn a_late_freeze_is_thawed() {
    let Some(bed) = Bed::new(&[]) else { return };
    let (guest, mut console) = with_file_system(&bed, "slow");
    // What it has still to write takes longer than a freeze may.
    let limit = |bytes: &str| {
        bed.stack.virsh_ok(&["blkdeviotune", "slow", "vdb", "--write-bytes-sec", bytes, "--live"]);
    };
    limit("100000");
    console.run("dd if=/dev/zero of=/mnt/file bs=1M count=30 2>/dev/null");
    // On a loaded machine the guest agent may have been late for another question, and is left alone for a while.
    wait_until("a freeze is late", SOON, || {
        let why = bed.agent.error("Freeze", &guest);
        assert!(why.contains("agent"), "{why}");
        bed.agent.log().contains("cannot freeze; thawing: ")
    });
    bed.agent.logged("cannot thaw; trying again: ");
    assert_eq!(bed.agent.ok("GuestInfo", &guest)["message"], FROZEN);
    limit("0");
    bed.agent.logged("file systems are thawed");
    wait_until("it is thawed", SOON, || !is_frozen(&bed, "slow"));
    write(&mut console, "after");
    wait_until("it writes", SOON, || has_written(&mut console, "after"));
    bed.agent.ok("Delete", &guest);
}

#[test]
fn a_hung_guest_agent_delays_no_other_thaw() {
    let Some(bed) = Bed::new(&[]) else { return };
    let (hung, mut console) = with_file_system(&bed, "hung");
    let (guest, _) = with_file_system(&bed, "free");
    bed.agent.ok("Freeze", &hung);
    console.run("kill -STOP $(pidof qemu-ga)");
    bed.agent.ok("Freeze", &guest);
    assert!(is_frozen(&bed, "free"));
    wait_until("the other is thawed by itself", SOON, || !is_frozen(&bed, "free"));
    assert!(!bed.agent.log().contains("thawed; guest=\"hung\""), "{}", bed.agent.log());
    assert_eq!(bed.agent.ok("GuestInfo", &hung)["message"], FROZEN);
    console.run("kill -CONT $(pidof qemu-ga)");
    bed.agent.logged("file systems are thawed; guest=\"hung\"");
    assert!(!is_frozen(&bed, "hung"));
    for guest in [&hung, &guest] {
        bed.agent.ok("Delete", guest);
    }
}
