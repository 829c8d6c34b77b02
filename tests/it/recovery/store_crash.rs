//! The agent is killed at each write to its journal in the storage verbs, on a directory store: the call is either
//! completely undone or completely done, and the same call then succeeds.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::require;
use crate::harness::stack::{Stack, wait_for_libvirt};
use crate::harness::support::{Scratch, files_below, wait_until};

/// Longer than a loaded machine needs to recover something.
const SOON: Duration = Duration::from_secs(120);
/// More writes to the journal than any of these verbs makes.
const WRITES_MAX: usize = 20;

/// A store with the image `base`, and a journal.
struct Bed {
    uri: String,
    directory: Scratch,
}

impl Bed {
    /// On libvirt's test driver, whose guests end with the agent.
    fn new() -> Self {
        Self::on("test:///default".to_owned())
    }

    fn on(uri: String) -> Self {
        crate::harness::cost::slow("kills the agent and starts it again, many times");
        let bed = Self { uri, directory: Scratch::new() };
        let raw = bed.directory.path().join("raw");
        fs::write(&raw, vec![b'i'; 1 << 20]).expect("it can be written");
        let mut import = Command::new(PROGRAM);
        import.args(["--config", "/dev/null", "--storage", &bed.storage(), "image", "import"]);
        let imported = import.arg(&raw).arg("base").output().expect("it runs");
        assert!(imported.status.success(), "{imported:?}");
        // The first agent makes the store's directories.
        bed.agent(None).end();
        bed
    }

    fn storage(&self) -> String {
        format!("directory:{}", self.directory.path().join("store").display())
    }

    /// An agent, which dies at that write to its journal.
    fn agent(&self, stop_at: Option<&str>) -> Agent {
        let (storage, state) = (self.storage(), self.directory.path().join("state"));
        let state = state.to_str().expect("UTF-8");
        let flags = ["--libvirt-uri", &self.uri, "--storage", &storage, "--state-dir", state];
        let more = ["--image-store", "--image-store-port", "0"];
        let flags = [&flags[..], &more].concat();
        Agent::start_in(stop_at.map(|at| ("MISTIFY_STOP_AT", at)), &flags)
    }

    fn stored(&self) -> Vec<String> {
        let mut found = Vec::new();
        files_below(&self.directory.path().join("store"), &mut found);
        found.sort();
        found
    }

    /// Calls a verb of agents that die at each write to their journal in turn, until one lives. `check` gets
    /// the write that the agent died at, and the next agent.
    fn at_every_write(
        &self,
        call: impl Fn(&Agent) -> Option<Value>,
        mut check: impl FnMut(&str, &Agent),
    ) -> usize {
        let points = (1..WRITES_MAX).flat_map(|n| [format!("before:{n}"), format!("after:{n}")]);
        for (deaths, at) in points.enumerate() {
            let agent = self.agent(Some(&at));
            if let Some(answer) = call(&agent) {
                assert_eq!(answer["error"], Value::Null, "{at}");
                agent.end();
                return deaths;
            }
            assert_eq!(agent.wait().code(), None, "killed at {at}");
            wait_for_libvirt(&self.uri);
            let next = self.agent(None);
            wait_until("it is recovered", SOON, || next.is_recovered());
            check(&at, &next);
            next.end();
        }
        panic!("more than {WRITES_MAX} writes");
    }

    /// The same for a verb that makes something: it is undone, and the same call succeeds then. `remove`
    /// removes it.
    fn is_undone(&self, method: &str, request: &Value, remove: (&str, &Value)) {
        let before = self.stored();
        let mut last = Vec::new();
        let deaths = self.at_every_write(
            |agent| agent.try_store(method, request),
            |at, next| {
                last.push(self.stored() == before);
                if self.stored() == before {
                    assert_eq!(next.store_error(method, request), None, "{at}: the same call");
                }
                assert_eq!(next.store_error(remove.0, remove.1), None, "{at}");
                assert_eq!(self.stored(), before, "{at}: nothing else is there");
            },
        );
        // The beginning, the step, the end: only a call that the journal has forgotten is done.
        assert_eq!(deaths, 2 * 3, "{method}");
        assert_eq!(last, [true, true, true, true, true, false], "{method}");
    }
}

#[test]
fn a_clone_killed_at_any_write_is_undone() {
    let bed = Bed::new();
    let request = json!({ "id": "base", "dest": "guests/kill/clone" });
    bed.is_undone("CloneImage", &request, ("DeleteDataset", &json!({ "id": "guests/kill" })));
}

#[test]
fn a_volume_killed_at_any_write_is_undone() {
    let bed = Bed::new();
    let request = json!({ "id": "guests/kill/data", "size": 1 });
    bed.is_undone("CreateVolume", &request, ("DeleteDataset", &json!({ "id": "guests/kill" })));
}

#[test]
fn snapshots_killed_at_any_write_are_undone() {
    let bed = Bed::new();
    let agent = bed.agent(None);
    for disk in 0..3 {
        let volume = json!({ "id": format!("guests/kill/disk-{disk}"), "size": 1 });
        assert_eq!(agent.store_error("CreateVolume", &volume), None);
    }
    let older = json!({ "id": "guests/kill/disk-1", "dest": "older" });
    assert_eq!(agent.store_error("CreateSnapshot", &older), None);
    agent.end();
    let request = json!({ "id": "guests/kill", "dest": "monday", "recursive": true });
    let remove = json!({ "id": "guests/kill@monday", "recursive": true });
    bed.is_undone("CreateSnapshot", &request, ("DeleteSnapshot", &remove));
}

#[test]
fn a_refused_snapshot_leaves_the_one_that_exists() {
    let bed = Bed::new();
    let agent = bed.agent(None);
    let volume = json!({ "id": "guests/kill/disk-0", "size": 1 });
    assert_eq!(agent.store_error("CreateVolume", &volume), None);
    let request = json!({ "id": "guests/kill/disk-0", "dest": "monday" });
    assert_eq!(agent.store_error("CreateSnapshot", &request), None);
    let stored = bed.stored();
    let error = agent.store_error("CreateSnapshot", &request).unwrap_or_default();
    assert!(error.contains("exists"), "{error}");
    assert_eq!(bed.stored(), stored);
    agent.end();
}

#[test]
fn resize_killed_at_any_write_is_reported_at_start() {
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    let bed = Bed::on(stack.uri());
    let disks = |size: u64| json!([{ "size": size }, { "size": size }]);
    let guest = |size: u64| json!({ "id": "kill-resize", "type": "qemu", "memory": 32, "cpu": 1, "nics": [], "disks": disks(size) });
    let agent = bed.agent(None);
    agent.ok("CreateGuest", &guest(1));
    agent.end();
    let mut size = 1;
    let grown = |size: u64| {
        let disks = ["vda", "vdb"].map(|device| json!({ "device": device, "size": size }));
        json!({ "guest": { "id": "kill-resize", "disks": disks } })
    };
    let sizes = || {
        let size = |disk: u8| {
            let path = bed.directory.path().join(format!("store/guests/kill-resize/disk-{disk}"));
            fs::metadata(path).expect("the disk is there").len() >> 20
        };
        [size(0), size(1)]
    };
    let deaths = bed.at_every_write(
        |agent| agent.try_call_with("ResizeDisk", &grown(2)),
        |at, next| {
            // The request that is kept has the sizes of the volumes, whatever they are.
            let [first, second] = sizes();
            let mut same = guest(1);
            same["disks"] = json!([{ "size": first }, { "size": second }]);
            next.ok("CreateGuest", &same);
            size = first.max(size);
            assert!([1, 2].contains(&first) && second <= first, "{at}: {first} {second}");
            next.ok("Delete", &same);
            next.ok("CreateGuest", &guest(1));
        },
    );
    // The beginning, two volumes, the end.
    assert_eq!(deaths, 2 * 4);
    assert_eq!(size, 2, "some died after a volume had grown");
    let agent = bed.agent(None);
    agent.ok("Delete", &guest(2));
    agent.end();
}

#[test]
fn a_killed_delete_without_a_domain_is_finished() {
    let bed = Bed::new();
    let guest = json!({
        "id": "kill-bare", "type": "test", "memory": 32, "cpu": 1, "nics": [], "disks": [{ "size": 1 }],
    });
    // The test driver's domains end with the agent; the volume stays.
    let agent = bed.agent(None);
    agent.ok("CreateGuest", &guest);
    agent.end();
    let disk = bed.directory.path().join("store/guests/kill-bare/disk-0");
    // The beginning and what leaves; there is no domain.
    let dying = bed.agent(Some("after:2"));
    assert_eq!(dying.try_call("Delete", &json!({ "id": "kill-bare" })), None);
    dying.wait();
    wait_for_libvirt(&bed.uri);
    assert!(disk.exists());

    let agent = bed.agent(None);
    wait_until("the Delete is finished", SOON, || agent.is_recovered() && !disk.exists());
    agent.end();
}

#[test]
fn recovery_that_meets_an_open_volume_frees_the_guest() {
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    let bed = Bed::on(stack.uri());
    let guest = json!({
        "id": "kill-open", "type": "qemu", "memory": 32, "cpu": 1, "nics": [], "disks": [{ "size": 1 }],
    });
    let agent = bed.agent(None);
    agent.ok("CreateGuest", &guest);
    agent.end();
    let disk = bed.directory.path().join("store/guests/kill-open/disk-0");
    let open = fs::File::open(&disk).expect("the disk is there");
    // The beginning, what leaves, the domain; the end is not written any more.
    let dying = bed.agent(Some("after:3"));
    assert_eq!(dying.try_call("Delete", &guest), None);
    dying.wait();
    wait_for_libvirt(&bed.uri);

    let agent = bed.agent(None);
    wait_until("it is a leftover", SOON, || {
        let answer = agent.ok("Leftovers", &json!({ "id": "kill-open" }));
        answer["leftovers"][0]["state"] == "left"
    });
    assert!(agent.is_recovered() && disk.exists());
    let bare = json!({ "id": "kill-open", "type": "qemu", "memory": 32, "cpu": 1, "nics": [] });
    agent.ok("CreateGuest", &bare);
    drop(open);
    agent.ok("Delete", &bare);
    assert!(!disk.exists());
    agent.end();
}

#[test]
fn next_start_removes_remains_of_killed_imports() {
    let bed = Bed::new();
    let images = bed.directory.path().join("store/images");
    let complete = bed.stored();
    // A draft of this kernel's process that has ended, one of an older agent, one of an older kernel's.
    let mut ended = Command::new("true").spawn().expect("it starts");
    let pid = ended.id();
    ended.wait().expect("it is our child");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
    let drafts = [
        format!("%{}:{pid}:1-0", boot.trim_end()),
        format!("%{pid}-0"),
        "%00000000-0000-0000-0000-000000000000:1:1-0".to_owned(),
        "gone%".to_owned(),
    ];
    for draft in &drafts {
        fs::write(images.join(draft), "x").expect("it can be written");
    }
    let agent = bed.agent(None);
    wait_until("they are gone", SOON, || bed.stored() == complete);
    agent.end();
}
