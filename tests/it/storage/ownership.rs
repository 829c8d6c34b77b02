//! Disks and networks that are not the guest's alone: nothing of another domain's is destroyed, adopted,
//! rolled back or resized, whatever a mark or a request says. On a real libvirtd with a directory store.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::image_store::qemu_img;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, wait_until};

const MIB: u64 = 1 << 20;
/// Longer than a loaded machine needs for what takes seconds.
const SOON: Duration = Duration::from_secs(60);

/// An agent with a directory store on the stack that tests share.
pub(crate) struct Bed {
    pub(crate) stack: &'static Stack,
    pub(crate) agent: Agent,
    pub(crate) store: Scratch,
}

impl Bed {
    pub(crate) fn new() -> Option<Self> {
        let stack = require("qemu", Stack::shared())?;
        let store = Scratch::new();
        let (uri, storage) = (stack.uri(), format!("directory:{}", store.path().display()));
        let flags = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--storage", &storage];
        let more = ["--image-store", "--image-store-port", "0", "--deadline-read", "60"];
        Some(Self { stack, agent: Agent::start(&[&flags[..], &more].concat()), store })
    }

    pub(crate) fn disk(&self, id: &str) -> PathBuf {
        self.store.path().join(format!("guests/{id}/disk-0"))
    }

    /// Makes a guest with one blank disk, which begins with a text then.
    fn make(&self, id: &str, size: u64) -> Value {
        let guest = json!({
            "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "size": size }],
        });
        self.agent.ok("CreateGuest", &guest);
        let disk = self.disk(id);
        let mut content = fs::read(&disk).expect("the disk is there");
        content[..6].copy_from_slice(b"SECRET");
        fs::write(&disk, content).expect("the disk can be written");
        guest
    }

    fn has_content(&self, id: &str) -> bool {
        fs::read(self.disk(id)).is_ok_and(|content| content.starts_with(b"SECRET"))
    }

    /// Imports the image `base` from a raw file in the store's directory; the file's path.
    fn import_base(&self) -> PathBuf {
        let raw = self.store.path().join("raw");
        fs::write(&raw, vec![0; 1 << 20]).expect("the directory takes files");
        let import = Command::new(PROGRAM)
            .args(["--config", "/dev/null", "--storage"])
            .arg(format!("directory:{}", self.store.path().display()))
            .args(["image", "import"])
            .arg(&raw)
            .arg("base")
            .output();
        assert!(import.as_ref().is_ok_and(|output| output.status.success()), "{import:?}");
        raw
    }

    fn resize(&self, id: &str, size: u64) -> Value {
        self.agent
            .call("ResizeDisk", &json!({ "id": id, "disks": [{ "device": "vda", "size": size }] }))
    }
}

#[test]
fn a_renamed_guest_keeps_its_disks() {
    let Some(bed) = Bed::new() else { return };
    let asked = bed.make("own-renamed", 4);
    bed.stack.virsh_ok(&["domrename", "own-renamed", "own-kept-aside"]);

    let plan = bed.agent.call_with(
        "Delete",
        &json!({ "guest": { "id": "own-renamed" }, "args": { "mistify.dry_run": "true" } }),
    );
    let problems = plan["result"]["plan"]["problems"].to_string();
    assert!(problems.contains("disk-0 is used by domain own-kept-aside"), "{plan}");
    for verb in ["Delete", "CreateGuest"] {
        let error = bed.agent.error(verb, &asked);
        let is_named = error.contains("used by domain own-kept-aside");
        assert!(
            is_named || error.contains("it belongs to the domain with uuid "),
            "{verb}: {error}"
        );
        assert!(bed.has_content("own-renamed"), "{verb}");
    }
    let dataset = json!({ "id": "guests/own-renamed/disk-0" });
    for (verb, request) in
        [("DeleteDataset", &dataset), ("DeleteGuestsDisks", &json!({ "guest": &asked }))]
    {
        let error = bed.agent.store_error(verb, request).expect("it is refused");
        assert!(error.contains("used by domain own-kept-aside"), "{verb}: {error}");
        assert!(bed.has_content("own-renamed"), "{verb}");
    }
    // A new guest of the id has no disk, and gets none of the other's.
    let bare = json!({ "id": "own-renamed", "type": "qemu", "memory": 32, "cpu": 1 });
    bed.agent.ok("CreateGuest", &bare);
    let volume = json!({ "volume": "mistify/guests/own-renamed/disk-0" });
    let attach = json!({ "guest": { "id": "own-renamed" }, "disk": volume });
    let answer = bed.agent.call_with("AttachDisk", &attach).to_string();
    assert!(answer.contains("it belongs to the domain with uuid "), "{answer}");
    bed.stack.virsh_ok(&["undefine", "own-renamed"]);
    bed.stack.virsh_ok(&["undefine", "own-kept-aside"]);
    bed.agent.ok("Delete", &json!({ "id": "own-renamed" }));
    assert!(!bed.disk("own-renamed").exists());
    bed.agent.end();
}

#[test]
fn another_domains_disk_is_not_rolled_back_or_resized() {
    let Some(bed) = Bed::new() else { return };
    bed.make("own-shared", 4);
    let snapshot = json!({ "id": "guests/own-shared/disk-0", "dest": "s1" });
    assert_eq!(bed.agent.store_error("CreateSnapshot", &snapshot), None);
    let xml = bed.stack.virsh_ok(&["dumpxml", "own-shared"]);
    let uuid = bed.stack.virsh_ok(&["domuuid", "own-shared"]);
    let other = xml
        .replace("<name>own-shared<", "<name>own-second<")
        .replace(uuid.trim(), "5f4e3d2c-1b0a-4948-8776-655443322110");
    assert!(bed.stack.with_xml("define", &other).status.success());

    let at = json!({ "id": "guests/own-shared/disk-0@s1" });
    let error = bed.agent.store_error("RollbackSnapshot", &at).expect("it is refused");
    assert!(error.ends_with("guest own-second uses it as a disk"), "{error}");
    let answer = bed.resize("own-shared", 8).to_string();
    assert!(
        answer.contains("domain own-second also uses mistify/guests/own-shared/disk-0"),
        "{answer}"
    );
    assert_eq!(fs::metadata(bed.disk("own-shared")).expect("it is there").len(), 4 * MIB);
    bed.stack.virsh_ok(&["undefine", "own-second"]);
    assert_eq!(bed.agent.store_error("RollbackSnapshot", &at), None);
    assert_eq!(bed.resize("own-shared", 8)["error"], Value::Null);
    bed.agent.ok("Delete", &json!({ "id": "own-shared" }));
    bed.agent.end();
}

#[test]
fn a_volume_without_a_mark_is_rolled_back() {
    let Some(bed) = Bed::new() else { return };
    let made = json!({ "id": "guests/own-data/disk-0", "size": 1 });
    assert_eq!(bed.agent.store_error("CreateVolume", &made), None);
    let snapshot = json!({ "id": "guests/own-data/disk-0", "dest": "s1" });
    assert_eq!(bed.agent.store_error("CreateSnapshot", &snapshot), None);
    let guest = json!({
        "id": "own-borrower", "type": "qemu", "memory": 32, "cpu": 1,
        "disks": [{ "source": bed.disk("own-data").display().to_string() }],
    });
    bed.agent.ok("CreateGuest", &guest);
    let at = json!({ "id": "guests/own-data/disk-0@s1" });
    assert_eq!(bed.agent.store_error("RollbackSnapshot", &at), None);
    bed.agent.ok("Delete", &guest);
    assert!(bed.disk("own-data").exists());
    bed.agent.end();
}

#[test]
fn an_image_below_a_guests_file_is_not_deleted() {
    let Some(bed) = Bed::new() else { return };
    let Some(()) = require("qemu", qemu_img()) else { return };
    bed.import_base();
    bed.make("own-thin", 4);
    let path = bed.disk("own-thin");
    let create = ["create", "-f", "qcow2", "-F", "raw", "-b"];
    let base = bed.store.path().join("images/base");
    let made = Command::new("qemu-img").args(create).arg(&base).arg(&path).output();
    assert!(made.as_ref().is_ok_and(|output| output.status.success()), "{made:?}");
    let xml = bed.stack.virsh_ok(&["dumpxml", "own-thin"]);
    let xml = xml.replace("name='qemu' type='raw'", "name='qemu' type='qcow2'");
    assert!(bed.stack.with_xml("define", &xml).status.success());

    let error =
        bed.agent.store_error("DeleteImage", &json!({ "id": "base" })).expect("it is refused");
    assert!(error.ends_with("guest own-thin has a disk file that is backed by it"), "{error}");
    bed.agent.ok("Delete", &json!({ "id": "own-thin" }));
    assert_eq!(bed.agent.store_error("DeleteImage", &json!({ "id": "base" })), None);
    bed.agent.end();
}

#[test]
fn a_guest_without_our_metadata_leaves_no_volume() {
    let Some(bed) = Bed::new() else { return };
    let asked = bed.make("own-lost", 4);
    let xml = bed.stack.virsh_ok(&["dumpxml", "own-lost"]);
    let (before, rest) = xml.split_once("<metadata>").expect("our metadata");
    let (_, after) = rest.split_once("</metadata>").expect("its end");
    assert!(bed.stack.with_xml("define", &format!("{before}{after}")).status.success());

    let plan = bed.agent.call_with(
        "Delete",
        &json!({ "guest": { "id": "own-lost" }, "args": { "mistify.dry_run": "true" } }),
    );
    assert!(plan["result"]["plan"]["steps"].to_string().contains("own-lost/disk-0"), "{plan}");
    bed.agent.ok("Delete", &json!({ "id": "own-lost" }));
    assert!(!bed.disk("own-lost").exists());
    bed.agent.ok("CreateGuest", &asked);
    assert!(!bed.has_content("own-lost"));
    bed.agent.ok("Delete", &json!({ "id": "own-lost" }));
    bed.agent.end();
}

#[test]
fn a_qcow2_disk_is_not_resized() {
    let Some(bed) = Bed::new() else { return };
    let Some(()) = require("qemu", qemu_img()) else { return };
    bed.make("own-qcow2", 4);
    let path = bed.disk("own-qcow2");
    let create = ["create", "-f", "qcow2"];
    let made = Command::new("qemu-img").args(create).arg(&path).arg("64M").output();
    assert!(made.is_ok_and(|output| output.status.success()));
    let xml = bed.stack.virsh_ok(&["dumpxml", "own-qcow2"]);
    let xml = xml.replace("name='qemu' type='raw'", "name='qemu' type='qcow2'");
    assert!(bed.stack.with_xml("define", &xml).status.success());

    let before = fs::read(&path).expect("the disk is there");
    let refused = |size| {
        let answer = bed.resize("own-qcow2", size).to_string();
        assert!(
            answer.contains("vda has the format qcow2; only raw disks can be resized"),
            "{answer}"
        );
    };
    refused(128);
    assert!(fs::read(&path).expect("the disk is there") == before);
    bed.agent.ok("Run", &json!({ "id": "own-qcow2" }));
    refused(32);
    let info = bed.stack.virsh_ok(&["domblkinfo", "own-qcow2", "vda"]);
    assert!(
        info.lines().any(|line| line.split_whitespace().eq(["Capacity:", "67108864"])),
        "{info}"
    );
    bed.agent.ok("Delete", &json!({ "id": "own-qcow2" }));
    bed.agent.end();
}

#[test]
fn a_volume_below_an_overlay_stays_as_it_is() {
    let Some(bed) = Bed::new() else { return };
    bed.make("own-overlay", 4);
    let before = json!({ "id": "guests/own-overlay/disk-0", "dest": "before" });
    assert_eq!(bed.agent.store_error("CreateSnapshot", &before), None);
    let id = json!({ "id": "own-overlay" });
    bed.agent.ok("Run", &id);
    bed.stack.virsh_ok(&["snapshot-create-as", "own-overlay", "s1", "--disk-only"]);

    let is_refused = || {
        let answer = bed.resize("own-overlay", 8).to_string();
        assert!(answer.contains("vda has the format qcow2; only raw disks"), "{answer}");
        let by_volume = json!({
            "id": "own-overlay",
            "disks": [{ "volume": "mistify/guests/own-overlay/disk-0", "size": 8 }],
        });
        let error = bed.agent.error("ResizeDisk", &by_volume);
        assert!(error.contains("only raw disks can be resized"), "{error}");
        let at = json!({ "id": "guests/own-overlay/disk-0@before" });
        assert!(bed.agent.store_error("RollbackSnapshot", &at).is_some());
        let after = json!({ "id": "guests/own-overlay/disk-0", "dest": "after" });
        let error = bed.agent.store_error("CreateSnapshot", &after).expect("it is refused");
        let why = "guest own-overlay has a disk file that is backed by it";
        assert!(error.ends_with(why), "{error}");
    };
    is_refused();
    bed.agent.ok("Poweroff", &id);
    is_refused();
    assert!(bed.has_content("own-overlay"));
    let error = bed.agent.error("Delete", &id);
    assert!(error.contains("guests/own-overlay/disk-0.s1 has data of the guest"), "{error}");
    bed.agent.end();
}

#[test]
fn delete_removes_no_network_that_is_not_a_guests() {
    let Some(bed) = Bed::new() else { return };
    let plain = "<network><name>own-plain</name><forward mode='bridge'/><bridge name='mistify0'/></network>";
    let isolated = "<network><name>02:00:00:00:93:01</name><bridge name='own-isolated'/></network>";
    for xml in [plain, isolated] {
        assert!(bed.stack.with_xml("net-define", xml).status.success());
    }
    let other = json!({
        "id": "own-other", "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "network": "mistify0", "model": "virtio", "mac": "02:00:00:00:93:02" }],
    });
    bed.agent.ok("CreateGuest", &other);
    bed.stack.virsh_ok(&["undefine", "own-other"]);
    for name in ["own-plain", "02:00:00:00:93:01", "02:00:00:00:93:02"] {
        let error =
            bed.agent.error("Delete", &json!({ "id": "own-none", "nics": [{ "mac": name }] }));
        assert!(error.starts_with("[Code-42] "), "{name}: {error}");
        let networks = bed.stack.virsh_ok(&["net-list", "--all", "--name"]);
        assert!(networks.lines().any(|line| line.trim() == name), "{name}: {networks}");
    }
    bed.agent.ok("Delete", &other);
    for name in ["own-plain", "02:00:00:00:93:01"] {
        bed.stack.virsh_ok(&["net-undefine", name]);
    }
    bed.agent.end();
}

#[test]
fn only_volumes_of_the_guest_are_sources_in_the_store() {
    let Some(bed) = Bed::new() else { return };
    bed.make("own-first", 4);
    assert_eq!(
        bed.agent.store_error(
            "CreateSnapshot",
            &json!({ "id": "guests/own-first/disk-0", "dest": "s" })
        ),
        None
    );
    let raw = bed.import_base();

    let store = bed.store.path();
    let link = store.with_extension("link");
    symlink(store.join("images/base"), &link).expect("a link can be made");
    let with = |source: PathBuf| {
        json!({
            "id": "own-thief", "type": "qemu", "memory": 32, "cpu": 1,
            "disks": [{ "source": source.display().to_string() }],
        })
    };
    for (source, why) in [
        (store.join("images/base"), "is in the store but not a volume below guests/"),
        (store.join("images/base@image"), "is in the store but not a volume below guests/"),
        (link.clone(), "is in the store but not a volume below guests/"),
        (raw, "is in the store but not a volume below guests/"),
        (store.join("guests/own-first/disk-0@s"), "is in the store but not a volume below guests/"),
        (store.join("guests/own-first/disk-0#"), "is in the store but not a volume below guests/"),
        (store.join("guests/own-first/disk-0"), "is a volume of guest own-first"),
    ] {
        let guest = with(source);
        for verb in ["CreateGuest", "Create"] {
            let error = bed.agent.error(verb, &guest);
            assert!(error.contains(why), "{verb} {guest}: {error}");
        }
        let plan = bed.agent.call_with(
            "CreateGuest",
            &json!({ "guest": guest, "args": { "mistify.dry_run": "true" } }),
        );
        assert!(plan["result"]["plan"]["problems"].to_string().contains(why), "{plan}");
    }
    fs::remove_file(&link).expect("it is there");
    let names = bed.stack.virsh_ok(&["list", "--all", "--name"]);
    assert!(!names.contains("own-thief"), "{names}");

    // A volume without a mark that one guest has as a disk is refused to another.
    let shared = json!({ "id": "guests/own-both/disk-0", "size": 1 });
    assert_eq!(bed.agent.store_error("CreateVolume", &shared), None);
    let source = store.join("guests/own-both/disk-0").display().to_string();
    let disk = json!({ "source": source });
    let attach = |id: &str| {
        bed.agent.call_with("AttachDisk", &json!({ "guest": { "id": id }, "disk": disk }))
    };
    assert_eq!(attach("own-first")["error"], Value::Null);
    bed.make("own-later", 4);
    let answer = attach("own-later").to_string();
    assert!(answer.contains("is used by domain own-first"), "{answer}");
    for id in ["own-first", "own-later"] {
        bed.agent.ok("Delete", &json!({ "id": id }));
    }
    let image = fs::metadata(store.join("images/base")).expect("the image");
    assert_eq!(image.permissions().mode() & 0o777, 0o400);
    bed.agent.end();
}

#[test]
fn metadata_that_libvirt_cannot_hand_out_is_refused() {
    let Some(bed) = Bed::new() else { return };
    let with = |value: String| {
        json!({
            "id": "own-large", "type": "qemu", "memory": 32, "cpu": 1, "metadata": { "k": value },
            "nics": [{ "network": "mistify0", "model": "virtio", "mac": "02:00:00:00:93:07" }],
        })
    };
    for value in ["x".repeat(65_536), "&".repeat(11_000), "\"".repeat(1_000_000 / 6)] {
        let guest = with(value);
        for verb in ["CreateGuest", "Create"] {
            let error = bed.agent.error(verb, &guest);
            assert!(error.contains("metadata has ") && error.contains(" bytes as XML"), "{error}");
        }
    }
    let guest = with("&\"".repeat(5_000));
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("CreateGuest", &guest);
    let error = bed.agent.error("SetMetadata", &with("x".repeat(65_536)));
    assert!(error.contains("metadata has 65537 bytes as XML; the limit is 65536"), "{error}");
    bed.agent.ok("Delete", &json!({ "id": "own-large" }));
    bed.agent.end();
}

#[test]
fn an_unreadable_domain_keeps_no_other_guests_verb() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let uri = stack.uri();
    let agent = Agent::start(&["--libvirt-uri", &uri, "--bridge-type", "linux"]);
    // Above what libvirt's protocol hands out (4 MiB), as a text of XML's special characters becomes.
    let metadata = format!("<m:m xmlns:m='urn:m'>{}</m:m>", "&amp;".repeat(900_000));
    let xml = format!(
        "<domain type='qemu'><name>huge</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type>hvm</type></os><metadata>{metadata}</metadata></domain>"
    );
    assert!(fs::create_dir_all(stack.path("/etc/libvirt/qemu")).is_ok());
    stack.signal_libvirtd("KILL");
    let xml = xml.replace("<name>", "<uuid>5f4e3d2c-1b0a-4948-8776-655443322119</uuid><name>");
    fs::write(stack.path("/etc/libvirt/qemu/huge.xml"), xml).expect("it can be written");
    stack.start_libvirtd();
    assert!(!stack.virsh(&["dumpxml", "huge"]).status.success(), "libvirt hands it out");

    let guest = json!({
        "id": "beside", "type": "qemu", "memory": 32, "cpu": 1, "metadata": { "owner": "a" },
        "nics": [{ "network": "mistify0", "model": "virtio", "mac": "02:00:00:00:93:08" }],
    });
    agent.ok("CreateGuest", &guest);
    let listed = agent.call_with("List", &json!({ "metadata": { "owner": "a" } }));
    assert_eq!(listed["result"]["guests"][0]["id"], "beside", "{listed}");
    agent.ok("Delete", &json!({ "id": "beside" }));
    assert!(!stack.virsh_ok(&["list", "--all", "--name"]).contains("beside"));
    agent.end();
}

#[test]
fn a_renamed_guest_keeps_a_detached_volume() {
    let Some(bed) = Bed::new() else { return };
    let (old, new) = ("own-old", "own-new");
    let guest = bed.make(old, 1);
    let detach = json!({ "guest": { "id": old }, "disk": { "device": "vda" } });
    assert_eq!(bed.agent.call_with("DetachDisk", &detach)["error"], Value::Null);
    bed.stack.virsh_ok(&["domrename", old, new]);
    // No definition names the volume; its mark has the uuid of the renamed domain.
    let error = bed.agent.error("Delete", &json!({ "id": old }));
    assert!(error.contains(&format!("guests/{old}/disk-0 is used by domain {new}")), "{error}");
    let error = bed.agent.error("CreateGuest", &guest);
    assert!(error.contains("it belongs to the domain with uuid "), "{error}");
    assert!(bed.has_content(old));
    bed.agent.ok("Delete", &json!({ "id": new }));
    bed.agent.ok("Delete", &json!({ "id": old }));
    assert!(!bed.disk(old).exists());
    bed.agent.end();
}

#[test]
fn a_disk_that_another_domain_waits_for_is_not_made() {
    let Some(bed) = Bed::new() else { return };
    let source = bed.disk("own-victim").display().to_string();
    let guest = |id: &str, disk: Value| json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [disk] });
    let thief = guest("own-thief", json!({ "source": source }));
    bed.agent.ok("CreateGuest", &thief);
    let victim = guest("own-victim", json!({ "size": 1 }));
    let dry = json!({ "guest": victim, "args": { "mistify.dry_run": "true" } });
    let store =
        |method| bed.agent.store_error(method, &json!({ "guest": victim })).unwrap_or_default();
    for error in [
        bed.agent.error("CreateGuest", &victim),
        bed.agent.call_with("CreateGuest", &dry)["result"]["plan"]["problems"].to_string(),
        store("CreateGuestDisks"),
        store("VerifyDisks"),
    ] {
        assert!(error.contains("domain own-thief already uses it"), "{error}");
    }
    bed.agent.ok("Delete", &thief);
    bed.agent.ok("CreateGuest", &victim);
    bed.agent.ok("Delete", &victim);
    bed.agent.end();
}

#[test]
fn a_new_guest_gets_no_disk_that_was_written_to() {
    let Some(bed) = Bed::new() else { return };
    let id = "own-written";
    let guest = json!({
        "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "size": 1 }],
    });
    let store = |method: &str| bed.agent.store_error(method, &json!({ "guest": guest }));
    assert_eq!(store("CreateGuestDisks"), None);
    fs::write(bed.disk(id), vec![b'S'; 1 << 20]).expect("the disk can be written");
    let error = bed.agent.error("CreateGuest", &guest);
    assert!(error.contains("it contains data, and no domain names it"), "{error}");
    for method in ["CreateGuestDisks", "VerifyDisks"] {
        let error = store(method).unwrap_or_default();
        assert!(error.contains("it contains data, and no domain names it"), "{method}: {error}");
    }
    assert_eq!(store("DeleteGuestDisks"), None);
    // A disk without data becomes the guest's, and from then on belongs to no other.
    assert_eq!(store("CreateGuestDisks"), None);
    bed.agent.ok("CreateGuest", &guest);
    bed.stack.virsh_ok(&["undefine", id]);
    let error = bed.agent.error("CreateGuest", &guest);
    assert!(error.contains("it belongs to the domain with uuid "), "{error}");
    bed.agent.ok("Delete", &json!({ "id": id }));
    bed.agent.end();
}

#[test]
fn marks_of_an_older_agent_are_completed_at_a_start() {
    let Some(bed) = Bed::new() else { return };
    let (id, gone) = ("own-older", "own-gone");
    for id in [id, gone] {
        bed.make(id, 1);
    }
    bed.stack.virsh_ok(&["undefine", gone]);
    // Guests run on while the agent is upgraded.
    bed.agent.ok("Run", &json!({ "id": id }));
    let Bed { stack, agent, store } = bed;
    agent.end();
    let beside = |id: &str| store.path().join(format!("guests/{id}/disk-0#"));
    let maker = |id: &str| {
        let text = fs::read(beside(id)).expect("the disk has properties");
        serde_json::from_slice::<Value>(&text).expect("JSON")["maker"].take()
    };
    for id in [id, gone] {
        let older = json!({ "owner": id, "origin": null, "sparse": false });
        fs::write(beside(id), older.to_string()).expect("it can be written");
    }
    let storage = format!("directory:{}", store.path().display());
    let agent = Agent::start(&["--libvirt-uri", &stack.uri(), "--storage", &storage]);
    let uuid = stack.virsh_ok(&["domuuid", id]);
    wait_until("the mark is complete", SOON, || maker(id) == uuid.trim());
    agent.logged("volume=mistify/guests/own-gone/disk-0");
    assert_eq!(maker(gone), Value::Null);
    for id in [id, gone] {
        agent.ok("Delete", &json!({ "id": id }));
    }
    agent.end();
}
