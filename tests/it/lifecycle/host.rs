//! Guests start and stop with their host, in their start order. The file in the agent's state directory names the boot
//! of the host.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::support::{Scratch, wait_for, wait_until};

/// Longer than a loaded machine needs for what takes a second.
const SOON: Duration = Duration::from_secs(90);

/// A libvirt of its own, a disk whose system obeys the power button and one without a system, and a state directory.
struct Host {
    stack: Stack,
    files: Scratch,
    device: BlockDevice,
}

impl Host {
    /// None where it cannot be had here.
    fn new() -> Option<Self> {
        let stack = require("qemu", Stack::start())?;
        let device = require("qemu", BlockDevice::bootable(1 << 20))?;
        let files = Scratch::new();
        fs::create_dir(files.path().join("state")).expect("scratch is writable");
        Some(Self { stack, files, device })
    }

    fn agent(&self) -> Agent {
        let (uri, directory) = (self.stack.uri(), text(self.files.path()));
        let (state, disk) = (text(&self.boot().with_file_name("")), text(self.device.path()));
        let flags = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--state-dir", &state];
        let disks = ["--allow-disk-path", &directory, "--allow-disk-path", &disk];
        Agent::start(&[&flags[..], &disks].concat())
    }

    /// The file that says of which boot the guests were started.
    fn boot(&self) -> std::path::PathBuf {
        self.files.path().join("state/boot")
    }

    fn guest(&self, id: &str, disk: &Path, members: &Value) -> Value {
        let mut guest = json!({
            "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "source": disk }],
        });
        for (name, value) in members.as_object().expect("members") {
            guest[name] = value.clone();
        }
        guest
    }

    /// A guest that obeys its power button. One at a time runs on the disk.
    fn obedient(&self, id: &str, members: &Value) -> Value {
        self.guest(id, self.device.path(), members)
    }

    /// A guest without a system, on a disk of its own.
    fn deaf(&self, id: &str, members: &Value) -> Value {
        fs::write(self.disk(id), vec![0; 1 << 20]).expect("scratch is writable");
        self.guest(id, &self.disk(id), members)
    }

    fn disk(&self, id: &str) -> std::path::PathBuf {
        self.files.path().join(id)
    }

    fn domid(&self, id: &str) -> u32 {
        let found = self.stack.virsh_ok(&["domid", id]);
        found.trim().parse().unwrap_or_else(|_| panic!("{id} runs: {found:?}"))
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn guests_start_with_the_host_in_their_order() {
    let Some(host) = Host::new() else { return };
    let agent = host.agent();
    let this_boot = wait_for("a new agent notes the boot", SOON, || fs::read(host.boot()).ok());
    let guests = [
        host.deaf("second", &json!({ "start_order": 2 })),
        host.deaf("first", &json!({ "start_order": 1, "start_delay": 1 })),
        host.deaf("without", &json!({ "stop_timeout": 5 })),
        host.deaf("broken", &json!({ "start_order": 3 })),
    ];
    for guest in &guests {
        agent.ok("CreateGuest", guest);
    }
    assert_eq!(agent.ok("CreateGuest", &guests[1])["guest"]["start_delay"], 1, "the same again");
    let other = json!({ "id": "first", "type": "qemu", "memory": 32, "cpu": 1, "start_order": 9,
        "disks": [{ "source": host.disk("first") }] });
    assert!(agent.error("CreateGuest", &other).contains("already exists"), "another order");
    let described = agent.ok("Describe", &json!({ "id": "first" }));
    assert_eq!((&described["start_order"], &described["start_delay"]), (&json!(1), &json!(1)));
    agent.end();
    fs::remove_file(host.disk("broken")).expect("scratch is writable");

    // The host starts.
    fs::write(host.boot(), "another boot\n").expect("scratch is writable");
    let agent = host.agent();
    let failed = wait_for("one does not start", SOON, || {
        let page = agent.call_with("WaitEvents", &json!({ "after": 0, "timeout": 0 }));
        let events = page["result"]["events"].as_array().expect("events").clone();
        events.into_iter().find(|event| event["event"] == "autostart-failed")
    });
    assert_eq!(failed["guest"], "broken", "{failed}");
    assert!(failed["error"].as_str().is_some_and(|why| why.contains("broken")), "{failed}");
    agent.logged("a guest did not start with the host; guest=\"broken\"");
    assert!(host.domid("first") < host.domid("second"));
    assert_eq!(
        (agent.state("without"), agent.state("broken")),
        ("shutoff".into(), "shutoff".into())
    );
    wait_until("the boot is noted", SOON, || {
        fs::read(host.boot()).ok().as_ref() == Some(&this_boot)
    });

    // The agent starts once more: that is no start of the host.
    agent.ok("Poweroff", &json!({ "id": "first" }));
    agent.end();
    let agent = host.agent();
    agent.logged("no guest is started: this boot's were before");
    assert_eq!(agent.state("first"), "shutoff");

    // An agent that ended between two starts: the next one starts those that had not their turn.
    agent.ok("Poweroff", &json!({ "id": "second" }));
    agent.end();
    let this_boot = String::from_utf8(this_boot).expect("text");
    fs::write(host.boot(), format!("{this_boot}second\n")).expect("scratch is writable");
    let agent = host.agent();
    wait_until("the rest is started", SOON, || agent.state("second") == "running");
    let noted = || fs::read_to_string(host.boot()).expect("the file is there");
    wait_until("it is noted", SOON, || noted() == this_boot);
    assert_eq!(agent.state("first"), "shutoff");

    let zero = json!({ "id": "second", "start_order": 0 });
    assert_eq!(agent.ok("Update", &zero)["message"], Value::Null, "it is not for the next start");
    assert_eq!(agent.ok("Describe", &json!({ "id": "second" }))["start_order"], 0);
    let wrong = agent.error("Update", &json!({ "id": "second", "stop_timeout": 0 }));
    assert!(wrong.contains("stop_timeout must be at least 1"), "{wrong}");
    for guest in &guests {
        agent.ok("Delete", guest);
    }
    agent.end();
}

#[test]
fn guests_stop_with_the_host_in_reverse_order() {
    let Some(host) = Host::new() else { return };
    let agent = host.agent();
    agent.receives_events();
    let guests = [
        host.deaf("base", &json!({ "start_order": 1, "stop_timeout": 2 })),
        host.obedient("web", &json!({ "start_order": 2 })),
        host.deaf("loose", &json!({ "stop_timeout": 1 })),
    ];
    for guest in &guests {
        agent.ok("CreateGuest", guest);
        agent.ok("Run", guest);
    }
    // Another tool's guest is not the agent's to stop.
    let Some(device) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    host.stack.boot("qemu", "foreign", &device);
    let seen = agent.call_with("WaitEvents", &json!({ "timeout": 0 }))["result"]["next"].clone();

    let stopped = Command::new(PROGRAM)
        .args(["--config", "/dev/null", "--libvirt-uri", &host.stack.uri(), "stop-guests"])
        .output()
        .expect("the program runs");
    assert!(stopped.status.success(), "{stopped:?}");
    let said = String::from_utf8_lossy(&stopped.stdout).into_owned();
    assert_eq!(said, "guests that are off: 3, by force: 2\n");
    let order = wait_for("libvirt has reported all", SOON, || {
        let page = agent.call_with("WaitEvents", &json!({ "after": seen, "timeout": 1 }));
        let events = page["result"]["events"].as_array().expect("events").clone();
        let stops = events.iter().filter(|event| event["state"] == "stopped");
        let order: Vec<_> = stops.map(|it| (it["guest"].clone(), it["detail"].clone())).collect();
        (order.len() == 3).then_some(order)
    });
    let expected = [("loose", "destroyed"), ("web", "shutdown"), ("base", "destroyed")];
    assert_eq!(order, expected.map(|(guest, how)| (json!(guest), json!(how))));
    assert!(host.domid("foreign") > 0);
    host.stack.virsh_ok(&["destroy", "foreign"]);
    for guest in &guests {
        agent.ok("Delete", guest);
    }
    agent.end();
}
