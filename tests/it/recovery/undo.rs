//! Each step of CreateGuest made to fail on a real libvirtd: nothing of the guest is left, and
//! everything is there that was there before. An obstacle is a directory where libvirt or the store
//! wants to write a file.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::{Stack, in_libvirt};
use crate::harness::support::{Scratch, files_below};

const ID: &str = "undo-1";
const MACS: [&str; 2] = ["02:00:00:00:60:01", "02:00:00:00:60:02"];

struct Bed<'a> {
    stack: &'a Stack,
    agent: Agent,
    store: Scratch,
}

impl<'a> Bed<'a> {
    fn new(stack: &'a Stack) -> Self {
        let store = Scratch::new();
        let storage = format!("directory:{}", store.path().display());
        let flags =
            ["--libvirt-uri", &stack.uri(), "--bridge-type", "linux", "--storage", &storage];
        Self { stack, agent: Agent::start(&flags), store }
    }

    /// Returns the domains, networks and their autostart of this test, and all objects in the
    /// store.
    fn everything(&self) -> Vec<String> {
        let mut found = Vec::new();
        let ours = |line: &str| line == ID || MACS.iter().any(|mac| line.contains(mac));
        found.extend(in_libvirt(|words| self.stack.virsh_ok(words), ours));
        files_below(self.store.path(), &mut found);
        found.sort();
        found
    }

    fn guest() -> Value {
        let nic = |mac| json!({ "network": "mistify0", "mac": mac });
        json!({
            "id": ID, "type": "qemu", "memory": 32, "cpu": 1,
            "nics": MACS.map(nic), "disks": [{ "size": 1 }, { "size": 2 }],
        })
    }
}

/// A directory in a file's place.
pub(crate) struct Obstacle(PathBuf);

impl Obstacle {
    pub(crate) fn at(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("in-the-way")).expect("a directory can be made");
        Self(path)
    }
}

impl Drop for Obstacle {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("it can be removed");
    }
}

#[test]
fn failure_at_any_step_leaves_only_the_former_state() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(stack);
    let networks = |name: &str| stack.path(&format!("/etc/libvirt/qemu/networks/{name}.xml"));
    let steps = [
        (
            bed.store.path().join(format!("guests/{ID}/disk-1#")),
            format!("create volume mistify/guests/{ID}/disk-1"),
        ),
        (networks(MACS[0]), format!("create network {}", MACS[0])),
        (networks(MACS[1]), format!("create network {}", MACS[1])),
        (networks(&format!("autostart/{}", MACS[1])), format!("create network {}", MACS[1])),
        (
            stack.path(&format!("/run/libvirt/network/{}.xml", MACS[1])),
            format!("create network {}", MACS[1]),
        ),
        (stack.path(&format!("/etc/libvirt/qemu/{ID}.xml")), format!("define domain {ID}")),
    ];
    let clean = bed.everything();
    for (obstacle, step) in steps {
        let obstacle = Obstacle::at(obstacle);
        let before = bed.everything();
        let error = bed.agent.error("CreateGuest", &Bed::guest());
        assert!(error.ends_with(&format!(" ({step}; undone)")), "{:?}: {error}", obstacle.0);
        assert_eq!(bed.everything(), before, "{:?}", obstacle.0);
    }
    let made = bed.agent.ok("CreateGuest", &Bed::guest())["guest"].take();
    assert_ne!(bed.everything(), clean);
    bed.agent.ok("Delete", &made);
    assert_eq!(bed.everything(), clean);
    bed.agent.end();
}
