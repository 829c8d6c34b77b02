//! Disk sources that lead elsewhere: by links, nodes and mounts, before and after a guest is made.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::{Skip, require};
use crate::harness::stack::Stack;
use crate::harness::support::{AtEnd, Scratch};

const NOBODY: u32 = 65534;
/// The first loop device's numbers: its node can be created whether it is in use or not.
const NODE: [&str; 3] = ["b", "7", "0"];

/// A directory `in` that sources may lie in, and one beside it with a secret.
struct Bed {
    agent: Agent,
    directory: Scratch,
}

impl Bed {
    fn new(uri: &str) -> Self {
        let directory = Scratch::new();
        for name in ["in", "out"] {
            fs::create_dir(directory.path().join(name)).expect("scratch is writable");
        }
        for name in ["in/disk", "out/secret"] {
            fs::write(directory.path().join(name), vec![0; 1 << 20]).expect("scratch is writable");
        }
        let allowed = directory.path().join("in").display().to_string();
        let agent = Agent::start(&["--libvirt-uri", uri, "--allow-disk-path", &allowed]);
        Self { agent, directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a link to the secret in the disk's place.
    fn swap(&self) {
        fs::rename(self.at("in/disk"), self.at("in/kept")).expect("it is ours");
        symlink("../out/secret", self.at("in/disk")).expect("it is ours");
    }

    fn swap_back(&self) {
        fs::rename(self.at("in/kept"), self.at("in/disk")).expect("it is ours");
    }
}

fn guest(id: &str, kind: &str, source: &Path) -> Value {
    json!({ "id": id, "type": kind, "memory": 32, "cpu": 1, "disks": [{ "source": source }] })
}

fn state(agent: &Agent, guest: &Value) -> Value {
    agent.ok("Status", guest)["guest"]["state"].take()
}

/// What a link does that takes the place of a guest's disk after CreateGuest.
fn a_swapped_link_keeps_the_guest_off(bed: &Bed, id: &str, kind: &str) {
    let guest = guest(id, kind, &bed.at("in/disk"));
    bed.agent.ok("CreateGuest", &guest);
    bed.swap();
    for method in ["Run", "Create"] {
        let error = bed.agent.error(method, &guest);
        let expected = "invalid argument: disk source outside /dev/zvol/mistify, ";
        assert!(error.starts_with(expected), "{method}: {error}");
        assert!(error.contains(": vda.source "), "{method}: {error}");
        assert_eq!(state(&bed.agent, &guest), "shutoff", "{method}");
    }
    bed.swap_back();
    assert_eq!(bed.agent.ok("Run", &guest)["guest"]["state"], "running");
    // A guest that runs has its disks open.
    bed.swap();
    bed.agent.ok("Run", &guest);
    bed.agent.ok("Poweroff", &guest);
    assert!(bed.agent.error("Run", &guest).contains("disk source outside "));
    bed.agent.ok("Delete", &guest);
}

#[test]
fn link_swapped_after_create_prevents_the_start() {
    let bed = Bed::new("test:///default");
    a_swapped_link_keeps_the_guest_off(&bed, "swapped", "test");
    bed.agent.end();
}

#[test]
fn link_swapped_after_create_prevents_a_real_start() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(&stack.uri());
    a_swapped_link_keeps_the_guest_off(&bed, "really-swapped", "qemu");
}

#[test]
fn failed_start_names_the_missing_disks() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(&stack.uri());
    let absent = Path::new("/dev/zvol/mistify/guests/gone/disk-0");
    let mut guest = guest("gone", "qemu", &bed.at("in/disk"));
    guest["disks"].as_array_mut().expect("a list").push(json!({ "source": absent }));
    bed.agent.ok("CreateGuest", &guest);
    let error = bed.agent.error("Run", &guest);
    assert!(error.starts_with("[Code-"), "in libvirt's words: {error}");
    assert!(error.ends_with(&format!(" (missing: vdb {})", absent.display())), "{error}");
    bed.agent.ok("Delete", &guest);
}

#[test]
fn a_guest_that_others_defined_is_judged_at_its_start() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(&stack.uri());
    let xml = crate::harness::stack::guest_xml("qemu", "foreign", &bed.at("out/secret"));
    let xml = xml.replace("type='block'", "type='file'").replace("source dev=", "source file=");
    let defined = stack.with_xml("define", &xml);
    assert!(defined.status.success(), "{defined:?}");
    let guest = json!({ "id": "foreign" });
    assert!(bed.agent.error("Run", &guest).contains("disk source outside "));
    stack.virsh_ok(&["undefine", "foreign"]);
}

/// # Errors
/// Where this process is not root.
fn as_root() -> Result<(), Skip> {
    let scratch = Scratch::new();
    chown(scratch.path(), Some(NOBODY), None).map_err(|error| Skip(format!("chown: {error}")))
}

#[test]
fn path_others_can_swap_is_refused() {
    let Some(()) = require("users", as_root()) else { return };
    let bed = Bed::new("test:///default");
    let disk = guest("lent", "test", &bed.at("in/disk"));
    bed.agent.ok("CreateGuest", &disk);
    let exposed = |by: &str| format!("{} can be changed by {by}", bed.at("in").display());
    chown(bed.at("in"), Some(NOBODY), None).expect("root may");
    let other = guest("refused", "test", &bed.at("in/disk"));
    for (method, guest) in [("CreateGuest", &other), ("Create", &other), ("Run", &disk)] {
        let error = bed.agent.error(method, guest);
        assert!(error.ends_with(&exposed("user 65534")), "{method}: {error}");
    }
    chown(bed.at("in"), Some(0), None).expect("root may");
    for (mode, by) in [(0o777, "all users"), (0o770, "group 0")] {
        fs::set_permissions(bed.at("in"), Permissions::from_mode(mode)).expect("it is ours");
        assert!(bed.agent.error("Run", &disk).ends_with(&exposed(by)), "{mode:o}");
    }
    fs::set_permissions(bed.at("in"), Permissions::from_mode(0o755)).expect("it is ours");
    bed.agent.ok("Run", &disk);
    bed.agent.end();
}

#[test]
fn link_swapped_constantly_never_reaches_a_guest() {
    let Some(()) = require("users", as_root()) else { return };
    let bed = Bed::new("test:///default");
    let (own, link) = (bed.at("in/own"), bed.at("in/own/disk"));
    fs::create_dir(&own).expect("it is ours");
    chown(&own, Some(NOBODY), None).expect("root may");
    let (over, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _end = AtEnd(&over);
        scope.spawn(|| {
            let spare = bed.at("in/own/spare");
            while !over.load(Ordering::SeqCst) {
                for target in ["../disk", "../../out/secret"] {
                    symlink(target, &spare).expect("it is ours");
                    fs::rename(&spare, &link).expect("it is ours");
                    swaps.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let mut calls = 0;
        while calls < 200 || swaps.load(Ordering::SeqCst) < 200 {
            let error = bed.agent.error("Create", &guest("raced", "test", &link));
            assert!(error.ends_with("/in/own can be changed by user 65534"), "{error}");
            calls += 1;
        }
    });
    assert!(bed.agent.error("Status", &json!({ "id": "raced" })).starts_with("[Code-42] "));
}

/// Runs words that have to succeed.
fn run(program: &str, words: &[&str]) -> Result<(), Skip> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Skip(format!("{program} does not start: {error}")))?;
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(Skip(format!("{program}: {error}"))) }
}

fn make_node(path: &Path) -> Result<(), Skip> {
    run("mknod", &[&[path.to_str().expect("UTF-8")], &NODE[..]].concat())
}

#[test]
fn device_node_elsewhere_is_refused_by_default() {
    let bed = Bed::new("test:///default");
    let node = bed.at("in/node");
    let Some(()) = require("mount", make_node(&node)) else { return };
    symlink("node", bed.at("in/link")).expect("it is ours");
    for name in ["in/node", "in/link"] {
        let error = bed.agent.error("CreateGuest", &guest("node", "test", &bed.at(name)));
        let expected =
            format!("disks[0].source {} is a device outside /dev", bed.at(name).display());
        assert!(error.ends_with(&expected), "{error}");
    }
    let any = Agent::start(&["--libvirt-uri", "test:///default", "--allow-disk-path", "/"]);
    any.ok("CreateGuest", &guest("node", "test", &node));
}

/// An agent in a mount namespace, after this script; `$in` is a directory that sources may lie in.
fn agent_behind(script: &str, directory: &Path) -> Result<Agent, Skip> {
    let allowed = directory.join("in").display().to_string();
    let script = format!("set -e; in={allowed}; cd {}; {script}", directory.display());
    run("unshare", &["-m", "/bin/sh", "-c", &script])?;
    let mut command = Command::new("unshare");
    let script = format!("{script}; exec \"$@\"");
    command.args(["-m", "/bin/sh", "-c", &script, "sh", PROGRAM]);
    let flags = ["--libvirt-uri", "test:///default", "--allow-disk-path", &allowed];
    Ok(Agent::run(command, &flags))
}

#[test]
fn mount_is_part_of_the_directory_judged_by_content() {
    let directory = Scratch::new();
    for name in ["in/ours", "in/theirs", "in/devices", "elsewhere", "home"] {
        fs::create_dir_all(directory.path().join(name)).expect("scratch is writable");
    }
    for name in ["elsewhere/disk", "home/disk", "in/file"] {
        fs::write(directory.path().join(name), "").expect("scratch is writable");
    }
    let script = "chown 65534 home; mount --bind elsewhere $in/ours; mount --bind home $in/theirs; \
                  mount -t tmpfs tmpfs $in/devices; mknod $in/devices/node b 7 0; \
                  mount --bind $in/devices/node $in/file";
    let agent = agent_behind(script, directory.path());
    let Some(agent) = require("mount", agent) else { return };
    let source = |name: &str| directory.path().join("in").join(name);
    agent.ok("CreateGuest", &guest("mounted", "test", &source("ours/disk")));
    for (name, why) in [
        ("theirs/disk", "/in/theirs can be changed by user 65534"),
        ("devices/node", "/in/devices/node is a device outside /dev"),
        ("file", "/in/file is a device outside /dev"),
    ] {
        let error = agent.error("CreateGuest", &guest("refused", "test", &source(name)));
        assert!(error.ends_with(why), "{name}: {error}");
    }
}

#[test]
fn non_volume_is_refused_in_the_pool_directory_too() {
    let directory = Scratch::new();
    fs::create_dir(directory.path().join("in")).expect("scratch is writable");
    // A /dev of its own, with what programs need.
    let script = "mount -t tmpfs -o mode=755 tmpfs /dev; mknod -m 666 /dev/null c 1 3; \
                  mknod -m 666 /dev/urandom c 1 9; mknod /dev/sda b 7 0; mknod /dev/zd0 b 7 0; \
                  mkdir -p /dev/zvol/mistify/guests; cd /dev/zvol/mistify; touch file; \
                  mknod node b 7 0; ln -s ../../sda evil; ln -s ../../zd0 number; \
                  ln -s ../../../sda guests/evil; ln -s /etc/passwd passwd";
    let Some(agent) = require("mount", agent_behind(script, directory.path())) else { return };
    for name in [
        "evil",
        "guests/evil",
        "number",
        "node",
        "file",
        "passwd",
        "../../sda",
        "guests/../../../sda",
        "../../zd0",
        "../other/disk",
    ] {
        let source = Path::new("/dev/zvol/mistify").join(name);
        let error = agent.error("CreateGuest", &guest("evil", "test", &source));
        assert!(error.contains("disk source outside "), "{name}: {error}");
    }
    agent.ok("CreateGuest", &guest("later", "test", Path::new("/dev/zvol/mistify/guests/later")));
}

#[test]
fn unreadable_path_is_named_and_no_guest_is_created() {
    let bed = Bed::new("test:///default");
    let any = Agent::start(&["--libvirt-uri", "test:///default", "--allow-disk-path", "/"]);
    symlink("loop", bed.at("in/loop")).expect("it is ours");
    let long = bed.at("in").join("x".repeat(256));
    for (source, narrow, wide) in [
        (&long, "File name too long (os error 36)", "File name too long (os error 36)"),
        (
            &bed.at("in/loop"),
            "too many symbolic links",
            "Too many levels of symbolic links (os error 40)",
        ),
    ] {
        for (agent, why) in [(&bed.agent, narrow), (&any, wide)] {
            let error = agent.error("CreateGuest", &guest("unseen", "test", source));
            let begin = format!("invalid argument: disks[0].source {}: ", source.display());
            assert!(error.starts_with(&begin) && error.ends_with(why), "{error}");
            let status = agent.error("Status", &json!({ "id": "unseen" }));
            assert!(status.starts_with("[Code-42] "), "{status}");
        }
    }
    any.end();
    bed.agent.end();
}

#[test]
fn qcow2_source_is_refused_whatever_is_allowed() {
    let bed = Bed::new("test:///default");
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--allow-disk-path", "/"]);
    let disk = bed.at("out/disk");
    fs::write(&disk, b"QFI\xfb\0\0\0\x03").expect("scratch is writable");
    let attach = json!({ "guest": { "id": "test" }, "disk": { "source": disk } });
    let attached = agent.call_with("AttachDisk", &attach);
    for error in [
        agent.error("CreateGuest", &guest("has-qcow2", "test", &disk)),
        attached["error"].as_str().unwrap_or_default().to_owned(),
    ] {
        assert!(error.starts_with("invalid argument: "), "{error}");
        assert!(error.contains(&format!("{} is qcow2, not raw", disk.display())), "{error}");
        assert!(
            error.contains("if a guest wrote these bytes to its own raw disk, set format"),
            "{error}"
        );
    }
    let error = agent.error("Status", &json!({ "id": "has-qcow2" }));
    assert!(error.contains("Domain not found"), "{error}");

    fs::write(&disk, vec![0; 1 << 20]).expect("scratch is writable");
    agent.ok("CreateGuest", &guest("has-raw", "test", &disk));
    agent.end();
}

#[test]
fn volume_is_raw_whatever_its_guest_wrote() {
    let store = Scratch::new();
    let storage = format!("directory:{}", store.path().display());
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--storage", &storage]);
    let made = json!({
        "id": "writes", "type": "test", "memory": 32, "cpu": 1, "disks": [{ "size": 1 }],
    });
    let made = agent.ok("CreateGuest", &made)["guest"].take();
    let disk = PathBuf::from(made["disks"][0]["source"].as_str().expect("a path"));
    fs::write(&disk, b"QFI\xfb\0\0\0\x03").expect("the store is the test's own");

    let error = agent.error("CreateGuest", &guest("takes", "test", &disk));
    assert!(!error.contains("not raw"), "it is another guest's: {error}");
    agent.ok("Run", &made);
    agent.end();
}
