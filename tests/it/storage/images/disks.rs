//! VerifyDisks, CreateGuestDisks and DeleteGuestsDisks, and the pipelines that they are part of.

use serde_json::{Value, json};

use super::{Bed, domain};
use crate::storage::store::begins_with;

fn with_disks(id: &str, disks: &Value) -> Value {
    let mut guest = domain(id);
    guest["disks"] = disks.clone();
    guest
}

pub(super) fn missing_id_disks_or_size_is_an_invalid_argument(bed: Bed) {
    let disk = json!([{ "size": 1 }]);
    for method in ["VerifyDisks", "CreateGuestDisks"] {
        for params in [json!(null), json!({}), json!({ "guest": null })] {
            assert_eq!(bed.error(method, &params), "invalid argument", "{method} {params}");
        }
        for guest in [with_disks("", &disk), with_disks("g", &json!([])), domain("g")] {
            assert_eq!(bed.guest_error(method, &guest), "invalid argument", "{method} {guest}");
        }
        let nothing = with_disks("g", &json!([{ "size": 1 }, {}]));
        let why = "invalid argument: disks[1] must have an image or a size";
        assert_eq!(bed.guest_error(method, &nothing), why);
        let many = with_disks("g", &json!(vec![json!({ "size": 1 }); 257]));
        let why = "invalid argument: 257 disks; a guest can have at most 256";
        assert_eq!(bed.guest_error(method, &many), why);
        let outside = bed.guest_error(method, &with_disks("../images", &disk));
        assert!(outside.starts_with("invalid argument: id \"../images\" "), "{outside}");
    }
    for id in [json!({}), json!({ "id": "" })] {
        assert_eq!(bed.guest_error("DeleteGuestsDisks", &id), "invalid argument");
    }
    assert!(bed.guest_error("DeleteGuestsDisks", &domain("a/b")).starts_with("invalid argument: "));
    assert_eq!(bed.volumes(), [""; 0]);
    bed.agent.end();
}

pub(super) fn disks_without_image_or_space_are_refused(bed: Bed) {
    for method in ["VerifyDisks", "CreateGuestDisks"] {
        let unknown = with_disks("g", &json!([{ "size": 1 }, { "image": "none" }]));
        assert_eq!(bed.guest_error(method, &unknown), "not found");
        // Exbibytes: no disk of a test machine holds that.
        let large = with_disks("g", &json!([{ "size": 1 }, { "size": 1_u64 << 42 }]));
        assert_eq!(bed.guest_error(method, &large), "no space left on device");
        let absurd = bed.guest_error(method, &with_disks("g", &json!([{ "size": u64::MAX }])));
        assert!(absurd.starts_with("invalid argument: "), "{absurd}");
    }
    assert_eq!(bed.volumes(), [""; 0]);
    assert!(bed.is_absent("guests/g"));
    bed.agent.end();
}

pub(super) fn disks_are_verified_created_once_and_deleted(bed: Bed) {
    if !bed.import("web", b"boot", 2) {
        return;
    }
    let asked = with_disks("g", &json!([{ "image": "web" }, { "size": 3, "bus": "ide" }]));
    let verified = bed.guest("VerifyDisks", &asked);
    assert_eq!(verified["disks"][0]["size"], 2);
    assert_eq!((&verified["disks"][0]["volume"], &verified["memory"]), (&json!(""), &json!(64)));
    assert_eq!(bed.volumes(), [bed.full("images/web")]);

    let made = bed.guest("CreateGuestDisks", &verified);
    let source = |disk: &str| bed.path(&format!("guests/g/{disk}")).display().to_string();
    let disks = json!([
        { "bus": "", "device": "", "size": 2, "volume": bed.full("guests/g/disk-0"),
          "image": "web", "source": source("disk-0") },
        { "bus": "ide", "device": "", "size": 3, "volume": bed.full("guests/g/disk-1"),
          "image": "", "source": source("disk-1") },
    ]);
    assert_eq!(made, with_disks("g", &disks));
    assert!(begins_with(&bed.path("guests/g/disk-0"), "boot"));
    for again in [&asked, &made] {
        assert_eq!(bed.guest("CreateGuestDisks", again), made, "{again}");
    }

    let mut guest = made.clone();
    guest["id"] = json!("other");
    let other = bed.guest("CreateGuestDisks", &guest);
    assert_eq!(other["disks"][1]["volume"], bed.full("guests/other/disk-1"));

    for method in ["DeleteGuestsDisks", "DeleteGuestDisks"] {
        assert_eq!(bed.guest(method, &made), domain("g"), "again is a success as well");
    }
    assert!(bed.is_absent("guests/g"));
    let left = ["guests/other/disk-0", "guests/other/disk-1", "images/web"].map(|it| bed.full(it));
    assert_eq!(bed.volumes(), left);
    bed.agent.end();
}

pub(super) fn a_guest_is_cloned_from_an_image_and_its_disk_grown(bed: Bed) {
    if !bed.import("web", b"boot", 2) {
        return;
    }
    let asked = with_disks("c", &json!([{ "image": "web", "size": 8 }, { "image": "web" }]));
    let made = bed.agent.ok("CreateGuest", &asked)["guest"].take();
    for (index, mib) in [8, 2].into_iter().enumerate() {
        let name = format!("guests/c/disk-{index}");
        assert_eq!((&made["disks"][index]["size"], bed.size_mib(&name)), (&json!(mib), mib));
        assert_eq!(made["disks"][index]["source"], bed.path(&name).display().to_string());
        assert!(begins_with(&bed.path(&name), "boot"));
    }
    bed.agent.ok("Delete", &made);
    assert_eq!(bed.volumes(), [bed.full("images/web")]);
    assert!(bed.is_absent("guests/c"));
    bed.agent.end();
}

pub(super) fn different_volume_is_named_with_its_differences(bed: Bed) {
    bed.ok("CreateVolume", &json!({ "id": "guests/g/disk-1", "size": 2 }));
    let guest = with_disks("g", &json!([{ "size": 1 }, { "size": 1 }]));
    let why = bed.guest_error("CreateGuestDisks", &guest);
    let differs = format!("cannot create {}: it exists and differs: ", bed.full("guests/g/disk-1"));
    assert!(why.starts_with(&differs), "{why}");
    assert_eq!(bed.volumes(), [bed.full("guests/g/disk-1")]);
    bed.agent.end();
}

pub(super) fn orchestrator_pipelines_create_and_delete_a_guest(bed: Bed) {
    let asked = with_disks("p", &json!([{ "size": 1 }]));
    let made = bed.guest("CreateGuestDisks", &asked);
    let defined = bed.agent.ok("CreateGuest", &made)["guest"].take();
    assert_eq!(defined["disks"][0]["source"], made["disks"][0]["source"]);
    assert_eq!(bed.agent.ok("Run", &defined)["guest"]["state"], "running");

    let deleted = bed.agent.ok("Delete", &defined)["guest"].take();
    let volumes = [bed.full("guests/p/disk-0")];
    assert_eq!(bed.volumes(), volumes, "they are the image store's");
    bed.guest("DeleteGuestsDisks", &deleted);
    assert_eq!(bed.volumes(), [""; 0]);
    bed.agent.end();
}

pub(super) fn the_arguments_of_the_pipeline_are_heeded(bed: Bed) {
    let mut asked = json!({ "guest": with_disks("w", &json!([{ "size": 1 }])) });
    asked["args"] = json!({ "mistify.timeout": "0" });
    for method in ["VerifyDisks", "CreateGuestDisks", "DeleteGuestsDisks"] {
        let why = bed.error(method, &asked);
        assert!(why.starts_with("invalid argument: args: mistify.timeout"), "{why}");
    }
    bed.agent.end();
}

pub(super) fn unmarked_disks_of_the_original_agent_are_adopted(bed: Bed) {
    let volume = json!({ "id": "guests/old/disk-0", "size": 1 });
    bed.ok("CreateVolume", &volume);
    let guest = with_disks("old", &json!([{ "size": 1 }]));
    bed.guest("VerifyDisks", &guest);
    let made = bed.guest("CreateGuestDisks", &guest);
    assert_eq!(made["disks"][0]["volume"], bed.full("guests/old/disk-0"));
    let other = with_disks("old", &json!([{ "size": 2 }]));
    let why = bed.guest_error("CreateGuestDisks", &other);
    assert!(why.contains("exists and differs: size is 1048576 bytes"), "{why}");
    let own = bed.agent.error("CreateGuest", &guest);
    assert!(own.contains("exists and differs: owner is none, not old"), "{own}");
    assert_eq!(bed.volumes(), [bed.full("guests/old/disk-0")]);
    bed.agent.end();
}
