//! The methods for volumes and images.

use std::fs;

use serde_json::json;

use super::{Bed, MIB, ids};

#[test]
fn a_volume_is_made_found_listed_and_deleted() {
    let bed = Bed::new();
    let device = bed.path("guests/v/data").display().to_string();
    let volume = json!({ "volumes": [
        { "id": "mistify/guests/v/data", "size": 5, "device": device },
    ] });
    let name = json!({ "id": "guests/v/data" });
    assert_eq!(bed.ok("CreateVolume", &json!({ "id": "guests/v/data", "size": 5 })), volume);
    let size = fs::metadata(&device).expect("a file").len();
    assert_eq!(usize::try_from(size), Ok(5 * MIB));
    assert_eq!(bed.ok("GetVolume", &name), volume);
    assert_eq!(bed.ok("ListVolumes", &json!({})), volume);
    assert_eq!(bed.ok("DeleteDataset", &name), volume);
    assert_eq!(bed.ok("ListVolumes", &json!({})), json!({ "volumes": [] }));
    bed.agent.end();
}

#[test]
fn what_cannot_be_is_refused_in_the_originals_words() {
    let bed = Bed::new();
    bed.ok("CreateVolume", &json!({ "id": "guests/v/data", "size": 1 }));
    for (method, params, why) in [
        ("CreateVolume", json!({}), "need a valid size"),
        ("CreateVolume", json!({ "size": 1 }), "need an id"),
        ("CreateVolume", json!({ "id": "a b", "size": 1 }), "not a valid dataset"),
        ("CreateVolume", json!({ "id": "../x", "size": 1 }), "not a valid dataset"),
        ("CreateVolume", json!({ "id": "-x", "size": 1 }), "not a valid dataset"),
        (
            "CreateVolume",
            json!({ "id": "guests/v/data", "size": 1 }),
            "mistify/guests/v/data exists already",
        ),
        ("GetVolume", json!({}), "need an id"),
        ("GetVolume", json!({ "id": "guests/v/none" }), "not found"),
        ("GetVolume", json!({ "id": "guests/v" }), "not a volume"),
        ("GetVolume", json!({ "id": "/guests" }), "not a valid dataset"),
        ("DeleteDataset", json!({}), "need an id"),
        ("DeleteDataset", json!({ "id": "guests/none" }), "not found"),
        ("DeleteDataset", json!({ "id": "test-volume*" }), "not a valid dataset"),
        ("GetImage", json!({}), "need an id"),
        ("GetImage", json!({ "id": "none" }), "not found"),
        ("GetImage", json!({ "id": "a/b" }), "not found"),
        ("DeleteImage", json!({}), "need an id"),
        ("DeleteImage", json!({ "id": "none" }), "not found"),
        ("CloneImage", json!({ "id": "none" }), "need dest"),
        ("CloneImage", json!({ "dest": "guests/c/disk-0" }), "need an id"),
        ("CloneImage", json!({ "id": "none", "dest": "guests/c/disk-0" }), "not found"),
        ("CloneImage", json!({ "id": "none", "dest": "guests//c" }), "not a valid dataset"),
    ] {
        assert_eq!(bed.error(method, &params), why, "{method} {params}");
    }
    let why = bed.error("DeleteDataset", &json!({ "id": "guests" }));
    assert!(why.starts_with("invalid argument: "), "{why}");
    let why = bed.error("RequestImage", &json!({ "id": "a", "source": "http://127.0.0.1/a" }));
    assert!(why.starts_with("not supported: this agent fetches no images"), "{why}");
    bed.agent.end();
}

#[test]
fn a_dataset_goes_with_all_below_it() {
    let bed = Bed::new();
    for name in ["guests/d/disk-0", "guests/d/disk-1", "guests/e/disk-0"] {
        bed.ok("CreateVolume", &json!({ "id": name, "size": 1 }));
    }
    bed.ok("CreateSnapshot", &json!({ "id": "guests/d/disk-0", "dest": "s" }));
    let gone = bed.ok("DeleteDataset", &json!({ "id": "guests/d" }));
    let dataset = json!({ "id": "mistify/guests/d", "size": 0, "device": "" });
    assert_eq!(gone, json!({ "volumes": [dataset] }));
    assert_eq!(bed.volumes(), ["mistify/guests/e/disk-0"]);
    bed.agent.end();
}

#[test]
fn an_image_is_listed_cloned_and_deleted() {
    let bed = Bed::new();
    if !bed.import("base", b"content", 3) {
        return;
    }
    let answer = bed.ok("GetImage", &json!({ "id": "base" }));
    let image = &answer["images"][0];
    assert_eq!((&image["id"], &image["type"]), (&json!("base"), &json!("")));
    assert_eq!((&image["size"], &image["status"]), (&json!(3), &json!("complete")));
    assert_eq!(image["volume"], "mistify/images/base");
    let snapshot = image["snapshot"].as_str().expect("a name");
    assert!(snapshot.starts_with("mistify/images/base@"), "{snapshot}");
    assert_eq!(bed.ok("ListImages", &json!({})), answer);

    let request = json!({ "id": "base", "dest": "guests/c/disk-0" });
    let clone = bed.ok("CloneImage", &request);
    assert_eq!(ids(&clone["volumes"]), ["mistify/guests/c/disk-0"]);
    assert_eq!(clone["volumes"][0]["size"], 3);
    let content = fs::read(bed.path("guests/c/disk-0")).expect("a file");
    assert_eq!(content[..7], *b"content");
    assert_eq!(bed.error("CloneImage", &request), "mistify/guests/c/disk-0 exists already");

    let why = bed.error("DeleteDataset", &json!({ "id": "images/base" }));
    assert!(why.starts_with("invalid argument: "), "{why}");
    assert_eq!(bed.ok("DeleteImage", &json!({ "id": "base" })), answer);
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    assert_eq!(bed.volumes(), ["mistify/guests/c/disk-0"]);
    bed.agent.end();
}
