//! The methods for volumes and images.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::json;

use super::{Bed, SOON, ids};
use crate::harness::scrape::scrape;
use crate::harness::support::wait_until;
use crate::harness::zpool::zpool_sync;
use crate::storage::store::begins_with;

pub(super) fn a_volume_is_made_found_listed_and_deleted(bed: Bed) {
    let device = bed.path("guests/v/data").display().to_string();
    let volume = json!({ "volumes": [
        { "id": bed.full("guests/v/data"), "size": 5, "device": device },
    ] });
    let name = json!({ "id": "guests/v/data" });
    assert_eq!(bed.ok("CreateVolume", &json!({ "id": "guests/v/data", "size": 5 })), volume);
    assert_eq!(bed.size_mib("guests/v/data"), 5);
    assert_eq!(bed.ok("GetVolume", &name), volume);
    assert_eq!(bed.ok("ListVolumes", &json!({})), volume);
    assert_eq!(bed.ok("DeleteDataset", &name), volume);
    assert_eq!(bed.ok("ListVolumes", &json!({})), json!({ "volumes": [] }));
    bed.agent.end();
}

pub(super) fn what_cannot_be_is_refused_in_the_originals_words(bed: Bed) {
    bed.ok("CreateVolume", &json!({ "id": "guests/v/data", "size": 1 }));
    let taken = format!("cannot create {}: it already exists", bed.full("guests/v/data"));
    for (method, params, why) in [
        ("CreateVolume", json!({}), "need a valid size"),
        ("CreateVolume", json!({ "size": 1 }), "need an id"),
        ("CreateVolume", json!({ "id": "a b", "size": 1 }), "not a valid dataset"),
        ("CreateVolume", json!({ "id": "../x", "size": 1 }), "not a valid dataset"),
        ("CreateVolume", json!({ "id": "-x", "size": 1 }), "not a valid dataset"),
        ("CreateVolume", json!({ "id": "guests/v/data", "size": 1 }), taken.as_str()),
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
    assert!(why.starts_with("cannot fetch images: this agent has no image service"), "{why}");
    bed.agent.end();
}

pub(super) fn scrape_shows_volume_sizes_and_usage(bed: Bed) {
    bed.ok("CreateVolume", &json!({ "id": "guests/v/data", "size": 8 }));
    bed.ok("CreateVolume", &json!({ "id": "guests/w/blank", "size": 4 }));
    let data = vec![7; 3 << 20];
    let mut disk = OpenOptions::new().write(true).open(bed.path("guests/v/data")).expect("a disk");
    disk.write_all(&data).and_then(|()| disk.sync_all()).expect("it has room");
    drop(disk);
    if let Some(pool) = &bed.pool {
        zpool_sync(&pool.name);
    }
    let series = |what: &str, guest: &str, volume: &str| {
        let volume = bed.full(&format!("guests/{guest}/{volume}"));
        format!("mistify_volume_{what}_bytes{{domain=\"{guest}\",volume=\"{volume}\"}}")
    };
    let size = series("size", "v", "data");
    wait_until("the volumes are read", SOON, || scrape(&bed.agent).get(&size).is_some());
    let seen = scrape(&bed.agent);
    assert_eq!(seen.value(&size), f64::from(8 << 20));
    assert_eq!(seen.value(&series("size", "w", "blank")), f64::from(4 << 20));
    let used = seen.value(&series("used", "v", "data"));
    assert!((f64::from(3 << 20)..f64::from(4 << 20)).contains(&used), "{used}");
    assert!(seen.value(&series("used", "w", "blank")) < f64::from(1 << 20));
    bed.agent.end();
}

pub(super) fn a_dataset_goes_with_all_below_it(bed: Bed) {
    for name in ["guests/d/disk-0", "guests/d/disk-1", "guests/e/disk-0"] {
        bed.ok("CreateVolume", &json!({ "id": name, "size": 1 }));
    }
    bed.ok("CreateSnapshot", &json!({ "id": "guests/d/disk-0", "dest": "s" }));
    let gone = bed.ok("DeleteDataset", &json!({ "id": "guests/d" }));
    let dataset = json!({ "id": bed.full("guests/d"), "size": 0, "device": "" });
    assert_eq!(gone, json!({ "volumes": [dataset] }));
    assert_eq!(bed.volumes(), [bed.full("guests/e/disk-0")]);
    bed.agent.end();
}

pub(super) fn an_image_is_listed_cloned_and_deleted(bed: Bed) {
    if !bed.import("base", b"content", 3) {
        return;
    }
    let answer = bed.ok("GetImage", &json!({ "id": "base" }));
    let image = &answer["images"][0];
    assert_eq!((&image["id"], &image["type"]), (&json!("base"), &json!("")));
    assert_eq!((&image["size"], &image["status"]), (&json!(3), &json!("complete")));
    assert_eq!(image["volume"], bed.full("images/base"));
    let snapshot = image["snapshot"].as_str().expect("a name");
    assert!(snapshot.starts_with(&bed.full("images/base@")), "{snapshot}");
    assert_eq!(bed.ok("ListImages", &json!({})), answer);

    let request = json!({ "id": "base", "dest": "guests/c/disk-0" });
    let clone = bed.ok("CloneImage", &request);
    assert_eq!(ids(&clone["volumes"]), [bed.full("guests/c/disk-0")]);
    assert_eq!(clone["volumes"][0]["size"], 3);
    assert!(begins_with(&bed.path("guests/c/disk-0"), "content"));
    let taken = format!("cannot create {}: it already exists", bed.full("guests/c/disk-0"));
    assert_eq!(bed.error("CloneImage", &request), taken);

    let why = bed.error("DeleteDataset", &json!({ "id": "images/base" }));
    assert!(why.starts_with("invalid argument: "), "{why}");
    if bed.pool.is_some() {
        // A clone needs its image, which the copy in a directory does not.
        let clone = bed.full("guests/c/disk-0");
        let why = format!("cannot destroy {snapshot}: it has clones: {clone}");
        assert_eq!(bed.error("DeleteImage", &json!({ "id": "base" })), why);
        bed.ok("DeleteDataset", &json!({ "id": "guests/c" }));
    }
    let others = bed.volumes().into_iter().filter(|name| *name != bed.full("images/base"));
    let others: Vec<String> = others.collect();
    assert_eq!(bed.ok("DeleteImage", &json!({ "id": "base" })), answer);
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    assert_eq!(bed.volumes(), others);
    bed.agent.end();
}
