//! Domains that carry the metadata of another: copied by virt-clone or virt-manager, renamed by virsh.

use std::fs;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::Scratch;

const MAC: &str = "02:00:00:00:24:01";
const MAC_OF_CLONE: &str = "02:00:00:00:24:02";
/// Where virt-clone puts the copy of a disk: beside it.
const CLONED_DISK: &str = "guests/clone-of/disk-0-clone";

/// An agent with a directory store beside a libvirtd of the test's own, whose consoles are logged.
struct Bed {
    agent: Agent,
    stack: Stack,
    store: Scratch,
}

impl Bed {
    fn new() -> Option<Self> {
        let stack = require("qemu", Stack::start())?;
        let store = Scratch::new();
        let storage = format!("directory:{}", store.path().display());
        let flags = ["--libvirt-uri", "qemu:///system", "--storage", &storage];
        let flags = [&flags[..], &["--bridge-type", "linux"]].concat();
        let agent = Agent::run(stack.command_outside_network(PROGRAM), &flags);
        Some(Self { agent, stack, store })
    }

    fn request(&self, id: &str) -> Value {
        json!({
            "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "size": 1 }],
            "nics": [{ "network": "mistify0", "mac": MAC, "model": "virtio" }],
            "metadata": { "owner": "alice" },
        })
    }

    fn make(&self, id: &str) -> Value {
        let guest = self.request(id);
        self.agent.ok("CreateGuest", &guest);
        guest
    }

    /// The networks of these tests.
    fn networks(&self) -> Vec<String> {
        let listed = self.stack.virsh_ok(&["net-list", "--all", "--name"]);
        let ours = listed.lines().map(str::trim).filter(|name| name.starts_with("02:00:00:00:24:"));
        ours.map(str::to_owned).collect()
    }

    /// Defines a guest without its interface; its definition before.
    fn unplug(&self, id: &str) -> String {
        let xml = self.stack.virsh_ok(&["dumpxml", "--inactive", id]);
        let (before, rest) = xml.split_once("<interface").expect("it has one");
        let (_, after) = rest.split_once("</interface>").expect("it ends");
        let defined = self.stack.with_xml("define", &format!("{before}{after}"));
        assert!(defined.status.success(), "{defined:?}");
        xml
    }

    /// Gives the network a mark as agents wrote it that did not store the uuid of the domain.
    fn forget_uuid_of_network(&self) {
        let xml = self.stack.virsh_ok(&["net-dumpxml", "--inactive", MAC]);
        let (before, rest) = xml.split_once(" domain=").expect("the mark has a uuid");
        let after = rest.get(38..).expect("a uuid in quotes");
        let defined = self.stack.with_xml("net-define", &format!("{before}{after}"));
        assert!(defined.status.success(), "{defined:?}");
    }

    /// Copies a guest as `virt-clone --auto-clone` does: another name, uuid, MAC and disk; all else stays.
    fn copy(&self, id: &str, name: &str) {
        let disk = self.store.path().join(format!("guests/{id}/disk-0"));
        let copied = self.store.path().join(CLONED_DISK);
        fs::copy(&disk, &copied).expect("the disk can be copied");
        let xml = self.stack.virsh_ok(&["dumpxml", "--inactive", id]);
        let uuid = self.stack.virsh_ok(&["domuuid", id]);
        let xml = xml
            .replace(&format!("<name>{id}</name>"), &format!("<name>{name}</name>"))
            .replace(&format!("<uuid>{}</uuid>", uuid.trim()), "")
            .replace(
                &format!("<mac address='{MAC}'/>"),
                &format!("<mac address='{MAC_OF_CLONE}'/>"),
            )
            .replace(&format!("'{}'", disk.display()), &format!("'{}'", copied.display()));
        let defined = self.stack.with_xml("define", &xml);
        assert!(defined.status.success(), "{defined:?}");
    }

    /// What AttachDisk answers for a guest.
    fn attach(&self, id: &str) -> Value {
        let request = json!({ "guest": { "id": id }, "disk": { "size": 1 } });
        let answer = self.agent.call_with("AttachDisk", &request);
        assert_eq!(answer["error"], Value::Null, "{answer}");
        answer["result"]["guest"].clone()
    }
}

#[test]
fn a_clone_answers_as_itself_and_both_start() {
    let Some(bed) = Bed::new() else { return };
    let original = bed.make("clone-of");
    bed.copy("clone-of", "clone-copy");

    let answer = bed.attach("clone-copy");

    assert_eq!(answer["id"], "clone-copy", "{answer}");
    assert_eq!(answer["nics"][0]["mac"], MAC_OF_CLONE, "{answer}");
    assert_eq!(answer["disks"].as_array().map(Vec::len), Some(2), "{answer}");
    // What was stored with the attach is the clone's, not the original's.
    let again = bed.attach("clone-copy");
    assert_eq!(
        (&again["id"], again["nics"][0]["mac"].as_str()),
        (&json!("clone-copy"), Some(MAC_OF_CLONE))
    );
    let console = bed.agent.error("Console", &json!({ "id": "clone-copy" }));
    let is_refused = console.contains("until the next Run its log is ");
    assert!(is_refused && console.ends_with(" of another guest"), "{console}");
    bed.agent.ok("Run", &original);
    bed.agent.ok("Run", &json!({ "id": "clone-copy" }));
    bed.agent.ok("Console", &json!({ "id": "clone-copy" }));
    bed.agent.ok("SetMetadata", &json!({ "id": "clone-copy", "metadata": { "owner": "bob" } }));
    let described = bed.agent.ok("Describe", &json!({ "id": "clone-copy" }));
    assert!(!described["Metadata"].to_string().contains("alice"), "{described}");
    assert!(described["Metadata"].to_string().contains("bob"), "{described}");

    for id in ["clone-copy", "clone-of"] {
        bed.agent.ok("Delete", &json!({ "id": id }));
    }
    assert!(!bed.stack.virsh_ok(&["net-list", "--all", "--name"]).contains("02:00:00:00:24"));
    assert!(bed.store.path().join(CLONED_DISK).exists(), "no Delete destroys what virt-clone made");
}

#[test]
fn the_last_user_of_a_network_takes_it_along() {
    let Some(bed) = Bed::new() else { return };
    for [first, last] in [["clone-of", "clone-copy"], ["clone-copy", "clone-of"]] {
        bed.make("clone-of");
        bed.copy("clone-of", "clone-copy");

        bed.agent.ok("Delete", &json!({ "id": first }));

        assert_eq!(bed.networks(), [MAC], "{last} is plugged into it");
        let dry = json!({ "guest": { "id": last }, "args": { "mistify.dry_run": "true" } });
        let plan = bed.agent.call_with("Delete", &dry);
        assert!(plan.to_string().contains("remove network"), "{plan}");
        bed.agent.ok("Delete", &json!({ "id": last }));
        assert_eq!(bed.networks(), [""; 0], "after {first} and {last}; {plan}");
    }
}

#[test]
fn a_network_of_another_guest_is_kept_by_delete() {
    let Some(bed) = Bed::new() else { return };
    let mut former = bed.request("clone-former");
    former["disks"] = json!([]);
    bed.agent.ok("CreateGuest", &former);
    bed.stack.virsh_ok(&["domrename", "clone-former", "clone-now"]);
    let bare = json!({ "id": "clone-former", "type": "qemu", "memory": 32, "cpu": 1 });
    bed.agent.ok("CreateGuest", &bare);

    // The network's mark has this id, and the uuid of the renamed domain.
    let with_nic = json!({ "id": "clone-former", "nics": [{ "network": "mistify0", "mac": MAC }] });
    let unplugged = bed.unplug("clone-now");
    bed.agent.ok("Delete", &with_nic);

    assert_eq!(bed.networks(), [MAC]);
    let error = bed.agent.error("CreateGuest", &bed.request("clone-new"));
    assert!(error.contains(&format!("network '{MAC}' already exists")), "{error}");
    assert!(bed.stack.with_xml("define", &unplugged).status.success());
    bed.agent.ok("Delete", &json!({ "id": "clone-now" }));
    assert_eq!(bed.networks(), [""; 0]);
}

#[test]
fn delete_of_a_renamed_guest_leaves_nothing() {
    let Some(bed) = Bed::new() else { return };
    for is_old in [false, true] {
        bed.make("clone-former");
        if is_old {
            bed.forget_uuid_of_network();
        }
        bed.stack.virsh_ok(&["domrename", "clone-former", "clone-now"]);
        let disk = bed.store.path().join("guests/clone-former/disk-0");
        assert!(disk.exists());

        bed.agent.ok("Delete", &json!({ "id": "clone-now" }));

        assert_eq!(bed.networks(), [""; 0], "old mark: {is_old}");
        assert!(!disk.exists(), "its disk goes with it");
        let next = bed.make("clone-next");
        bed.agent.ok("Delete", &next);
    }
}

#[test]
fn delete_of_a_renamed_guest_spares_the_next_one() {
    let Some(bed) = Bed::new() else { return };
    bed.make("clone-former");
    bed.stack.virsh_ok(&["domrename", "clone-former", "clone-now"]);
    let next = json!({
        "id": "clone-former", "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "size": 1 }],
    });
    let error = bed.agent.error("CreateGuest", &next);
    assert!(error.contains("clone-former/disk-0"), "it is the renamed guest's: {error}");

    bed.agent.ok("Delete", &json!({ "id": "clone-now" }));
    bed.agent.ok("CreateGuest", &next);

    let disk = bed.store.path().join("guests/clone-former/disk-0");
    assert!(bed.agent.error("Delete", &json!({ "id": "clone-now" })).contains("Domain not found"));
    assert!(disk.exists());
    bed.agent.ok("Delete", &next);
    assert!(!disk.exists());
}

#[test]
fn a_copy_of_a_guest_of_others_has_no_metadata() {
    let Some(bed) = Bed::new() else { return };
    let xml = "<domain type='qemu'><name>clone-of</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
               <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>";
    assert!(bed.stack.with_xml("define", xml).status.success());
    let metadata = json!({ "owner": "alice" });
    bed.agent.ok("SetMetadata", &json!({ "id": "clone-of", "metadata": metadata }));

    let xml = bed.stack.virsh_ok(&["dumpxml", "--inactive", "clone-of"]);
    let uuid = bed.stack.virsh_ok(&["domuuid", "clone-of"]);
    let xml = xml
        .replace("<name>clone-of</name>", "<name>clone-copy</name>")
        .replace(&format!("<uuid>{}</uuid>", uuid.trim()), "");
    assert!(bed.stack.with_xml("define", &xml).status.success());

    let described =
        |id: &str| bed.agent.ok("Describe", &json!({ "id": id }))["Metadata"].to_string();
    assert!(described("clone-of").contains("alice"), "{}", described("clone-of"));
    assert!(!described("clone-copy").contains("alice"), "{}", described("clone-copy"));
    for id in ["clone-copy", "clone-of"] {
        bed.agent.ok("Delete", &json!({ "id": id }));
    }
}

#[test]
fn metadata_of_a_clone_is_its_own_after_each_change() {
    let Some(bed) = Bed::new() else { return };
    bed.make("clone-of");
    let described = |id: &str| {
        let described = bed.agent.ok("Describe", &json!({ "id": id }));
        described["Metadata"].to_string()
    };
    for (verb, change) in [
        ("SetMetadata", json!({ "guest": { "metadata": { "owner": "bob" } } })),
        (
            "AttachNic",
            json!({ "guest": {}, "nic": { "network": "mistify0", "mac": "02:00:00:00:24:03" } }),
        ),
        ("DetachNic", json!({ "guest": {}, "nic": { "mac": MAC_OF_CLONE } })),
        ("SetMemory", json!({ "guest": { "memory": 48 } })),
    ] {
        bed.copy("clone-of", "clone-copy");
        let mut request = change;
        request["guest"]["id"] = json!("clone-copy");
        let answer = bed.agent.call_with(verb, &request);
        assert_eq!(answer["error"], Value::Null, "{verb}: {answer}");

        let metadata = described("clone-copy");

        assert!(
            !metadata.contains("alice") && !metadata.contains("clone-of"),
            "{verb}: {metadata}"
        );
        assert_eq!(metadata.contains("bob"), verb == "SetMetadata", "{metadata}");
        bed.agent.ok("Delete", &json!({ "id": "clone-copy" }));
    }
    assert!(described("clone-of").contains("alice"), "the original's stays");
    bed.agent.ok("Delete", &json!({ "id": "clone-of" }));
}

#[test]
fn a_guest_defined_anew_keeps_its_handed_in_disk() {
    let Some(bed) = Bed::new() else { return };
    let made = bed.make("defined-anew");
    bed.agent.ok("Delete", &json!({ "id": "defined-anew" }));
    let disk = bed.store.path().join("guests/defined-anew/disk-0");
    fs::create_dir_all(disk.parent().expect("a directory")).expect("the store is the test's own");
    fs::write(&disk, vec![7; 1 << 20]).expect("the store is the test's own");
    let mut guest = made;
    guest["disks"] = json!([{ "source": disk }]);
    bed.agent.ok("CreateGuest", &guest);
    let xml = bed.stack.virsh_ok(&["dumpxml", "--inactive", "defined-anew"]);
    let uuid = bed.stack.virsh_ok(&["domuuid", "defined-anew"]);
    bed.stack.virsh_ok(&["undefine", "defined-anew"]);
    let xml = xml.replace(&format!("<uuid>{}</uuid>", uuid.trim()), "");
    assert!(bed.stack.with_xml("define", &xml).status.success());

    bed.agent.ok("Delete", &json!({ "id": "defined-anew" }));

    assert!(disk.exists(), "its maker destroys it");
}

#[test]
fn a_renamed_guest_answers_as_itself() {
    let Some(bed) = Bed::new() else { return };
    let former = bed.make("clone-former");
    bed.stack.virsh_ok(&["domrename", "clone-former", "clone-now"]);

    let answer = bed.attach("clone-now");

    assert_eq!(answer["id"], "clone-now", "{answer}");
    let volumes =
        [0, 1].map(|disk| answer["disks"][disk]["volume"].as_str().unwrap_or_default().to_owned());
    assert!(volumes[0].ends_with("guests/clone-former/disk-0"), "{answer}");
    assert!(volumes[1].contains("guests/clone-now/"), "{answer}");
    assert_eq!(
        bed.agent.ok("CreateGuest", &answer)["guest"]["id"],
        "clone-now",
        "it is the same guest"
    );
    // Its former id can be another guest's, and both have a console of their own.
    let mut bare = former;
    bare["disks"] = json!([]);
    bare["nics"] = json!([]);
    bed.agent.ok("CreateGuest", &bare);
    for id in ["clone-now", "clone-former"] {
        bed.agent.ok("Run", &json!({ "id": id }));
    }
    bed.agent.ok("Delete", &json!({ "id": "clone-now" }));
    bed.agent.ok("Delete", &bare);
    assert!(!bed.stack.virsh_ok(&["list", "--all", "--name"]).contains("clone-"));
}
