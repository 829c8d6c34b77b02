//! Disks whose files nobody can tell, and disks below a guest's own files: what may lie below them is not
//! changed. On a real libvirtd with a directory store; each test has its own, as a domain that may use anything
//! stands against other guests' calls.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::image_store::qemu_img;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::Scratch;

struct Bed {
    stack: Stack,
    agent: Agent,
    store: Scratch,
}

impl Bed {
    fn new() -> Option<Self> {
        let stack = require("qemu", Stack::start())?;
        let store = Scratch::new();
        let (uri, storage) = (stack.uri(), format!("directory:{}", store.path().display()));
        let flags = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--storage", &storage];
        let more = ["--image-store", "--image-store-port", "0", "--deadline-read", "60"];
        let agent = Agent::start(&[&flags[..], &more].concat());
        Some(Self { stack, agent, store })
    }

    /// Makes a guest with one blank disk, and a snapshot of that.
    fn make(&self, id: &str) {
        let guest = json!({
            "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "size": 1 }],
        });
        self.agent.ok("CreateGuest", &guest);
        assert_eq!(self.snapshot(id, "s1"), None);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.store.path().join("guests").join(name)
    }

    /// Puts a file of this format, which another tool made, in place of the guest's disk.
    fn overlay(&self, id: &str, format: &str) {
        let xml = self.stack.virsh_ok(&["dumpxml", id]);
        let disk = self.file(&format!("{id}/disk-0")).display().to_string();
        let xml = xml
            .replace("name='qemu' type='raw'", &format!("name='qemu' type='{format}'"))
            .replace(&format!("{disk}'"), &format!("{disk}.s1'"));
        assert!(self.stack.with_xml("define", &xml).status.success());
    }

    fn snapshot(&self, id: &str, dest: &str) -> Option<String> {
        let request = json!({ "id": format!("guests/{id}/disk-0"), "dest": dest });
        self.agent.store_error("CreateSnapshot", &request)
    }

    fn roll_back(&self, id: &str) -> Option<String> {
        let id = format!("guests/{id}/disk-0@s1");
        let request = json!({ "id": id, "destroyMoreRecent": true });
        self.agent.store_error("RollbackSnapshot", &request)
    }

    fn attach(&self, id: &str, disk: &Value) -> String {
        let asked = json!({ "guest": { "id": id }, "disk": disk });
        self.agent.call_with("AttachDisk", &asked)["error"].as_str().unwrap_or_default().to_owned()
    }
}

const UNKNOWN: &str = "may use it: the files below one of its disks are unknown";

#[test]
fn volume_below_an_unreadable_file_stays() {
    let Some(bed) = Bed::new() else { return };
    for id in ["under", "beside"] {
        bed.make(id);
    }
    let content = vec![b'S'; 1 << 20];
    for id in ["under", "beside"] {
        fs::write(bed.file(&format!("{id}/disk-0")), &content).expect("the disk is there");
    }
    bed.overlay("under", "qed");

    let why = format!("guest under {UNKNOWN}");
    for error in [bed.roll_back("under"), bed.snapshot("under", "s2"), bed.roll_back("beside")] {
        assert!(error.as_ref().is_some_and(|error| error.ends_with(&why)), "{error:?}");
    }
    let error = bed.attach("under", &json!({ "volume": "mistify/guests/under/disk-0" }));
    assert!(error.ends_with(&why), "{error}");
    // A snapshot of another guest's volume harms nobody.
    assert_eq!(bed.snapshot("beside", "s2"), None);
    for id in ["under", "beside"] {
        let found = fs::read(bed.file(&format!("{id}/disk-0"))).expect("the disk is there");
        assert!(found == content, "{id}");
    }
    bed.stack.virsh_ok(&["undefine", "under"]);
    assert_eq!(bed.roll_back("beside"), None);
    bed.agent.end();
}

#[test]
fn a_disk_of_an_unknown_pool_may_be_any_volume() {
    let Some(bed) = Bed::new() else { return };
    bed.make("web");
    let other = "<domain type='qemu'><name>pooled</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
        <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
        <disk type='volume' device='disk'><driver name='qemu' type='raw'/>\
        <source pool='guests' volume='disk-0'/><target dev='vda' bus='virtio'/></disk>\
        </devices></domain>";
    let defined = bed.stack.with_xml("define", other);
    assert!(defined.status.success(), "{defined:?}");

    let error = bed.roll_back("web").unwrap_or_default();
    assert!(error.ends_with(&format!("guest pooled {UNKNOWN}")), "{error}");
    // A pool that is active tells which volume it is.
    bed.make("other");
    let directory = bed.file("other").display().to_string();
    bed.stack.virsh_ok(&["pool-create-as", "guests", "dir", "--target", &directory]);
    assert_eq!(bed.roll_back("web"), None);
    let error = bed.roll_back("other").unwrap_or_default();
    assert!(error.contains("guest pooled") && !error.contains(UNKNOWN), "{error}");
    bed.stack.virsh_ok(&["pool-destroy", "guests"]);
    let error = bed.roll_back("web").unwrap_or_default();
    assert!(error.ends_with(&format!("guest pooled {UNKNOWN}")), "{error}");
    bed.stack.virsh_ok(&["undefine", "pooled"]);
    assert_eq!(bed.roll_back("web"), None);
    bed.agent.end();
}

#[test]
fn a_disk_below_an_own_file_is_not_attached() {
    let Some(bed) = Bed::new() else { return };
    let Some(()) = require("qemu", qemu_img()) else { return };
    bed.make("web");
    let (disk, over) = (bed.file("web/disk-0"), bed.file("web/disk-0.s1"));
    let create = ["create", "-f", "qcow2", "-F", "raw", "-b"];
    let made = Command::new("qemu-img").args(create).arg(&disk).arg(&over).output();
    assert!(made.as_ref().is_ok_and(|output| output.status.success()), "{made:?}");
    bed.overlay("web", "qcow2");

    let volume = "mistify/guests/web/disk-0";
    for asked in [
        json!({ "volume": volume }),
        json!({ "volume": volume, "size": 1 }),
        json!({ "source": disk.display().to_string() }),
    ] {
        let error = bed.attach("web", &asked);
        assert!(error.ends_with("guest web has a disk file that is backed by it"), "{error}");
    }
    assert_eq!(bed.attach("web", &json!({ "size": 1 })), "", "a new one");
    bed.agent.end();
}

#[test]
fn disks_that_no_definition_names_are_not_adopted() {
    let Some(bed) = Bed::new() else { return };
    let bare = json!({ "id": "bare", "type": "qemu", "memory": 32, "cpu": 1 });
    bed.agent.ok("CreateGuest", &bare);
    let volume = json!({ "id": "guests/bare/disk-0", "size": 1 });
    assert_eq!(bed.agent.store_error("CreateVolume", &volume), None);
    let disk = bed.file("bare/disk-0");
    fs::write(&disk, vec![b'S'; 1 << 20]).expect("the disk is there");
    let mut guest = bare.clone();
    guest["disks"] = json!([{ "size": 1 }]);
    let make = || bed.agent.store_error("CreateGuestDisks", &json!({ "guest": guest }));
    let error = make().unwrap_or_default();
    assert!(error.contains("it contains data, and no domain names it"), "{error}");

    // The mark of an older agent names the guest and no domain.
    let older = json!({ "owner": "bare", "origin": null, "sparse": false });
    fs::write(bed.file("bare/disk-0#"), older.to_string()).expect("it can be written");
    let wanted = json!({ "volume": "mistify/guests/bare/disk-0", "size": 1 });
    let error = bed.attach("bare", &wanted);
    assert!(error.contains("it contains data, and no domain names it"), "{error}");

    assert_eq!(bed.attach("bare", &json!({ "source": disk.display().to_string() })), "");
    assert_eq!(make(), None, "its definition names it");
    assert!(fs::read(&disk).is_ok_and(|content| content.starts_with(b"SSS")));
    bed.agent.end();
}
