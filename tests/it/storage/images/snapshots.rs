//! The methods for snapshots, and their download.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use super::{Bed, domain, ids, qemu_img};
use crate::harness::agent::Reply;
use crate::harness::skip::require;
use crate::storage::store::begins_with;

/// Makes `guests/s/disk-0` and `disk-1`.
fn prepare(bed: &Bed) {
    for disk in ["disk-0", "disk-1"] {
        bed.ok("CreateVolume", &json!({ "id": format!("guests/s/{disk}"), "size": 1 }));
    }
}

fn snapshot(bed: &Bed, id: &str, dest: &str) -> Vec<String> {
    ids(&bed.ok("CreateSnapshot", &json!({ "id": id, "dest": dest }))["snapshots"])
}

fn listed(bed: &Bed, id: &str) -> Vec<String> {
    ids(&bed.ok("ListSnapshots", &json!({ "id": id }))["snapshots"])
}

fn write(bed: &Bed, disk: &str, content: &[u8]) {
    let file = File::options().write(true).open(bed.path(disk)).expect("the disk is a file");
    file.write_all_at(content, 0).and_then(|()| file.sync_all()).expect("it takes bytes");
}

pub(super) fn snapshots_are_taken_found_listed_and_deleted(bed: Bed) {
    prepare(&bed);
    assert_eq!(snapshot(&bed, "guests/s/disk-0", "a"), [bed.full("guests/s/disk-0@a")]);
    let one = bed.ok("GetSnapshot", &json!({ "id": "guests/s/disk-0@a" }));
    assert_eq!(ids(&one["snapshots"]), [bed.full("guests/s/disk-0@a")]);
    assert!(one["snapshots"][0]["size"].is_u64(), "{one}");

    let all = json!({ "id": "guests/s", "dest": "b", "recursive": true });
    let below = ["guests/s@b", "guests/s/disk-0@b", "guests/s/disk-1@b"].map(|it| bed.full(it));
    assert_eq!(ids(&bed.ok("CreateSnapshot", &all)["snapshots"]), below);
    assert_eq!(listed(&bed, "guests/s/disk-0").len(), 2);
    assert_eq!(listed(&bed, "guests/s").len(), 4);
    assert_eq!(listed(&bed, ""), listed(&bed, "guests/s"));

    let gone = bed.ok("DeleteSnapshot", &json!({ "id": "guests/s@b", "recursive": true }));
    assert_eq!(ids(&gone["snapshots"]), below);
    assert_eq!(listed(&bed, ""), [bed.full("guests/s/disk-0@a")]);
    let one = json!({ "id": "guests/s/disk-0@a" });
    let gone = bed.ok("DeleteSnapshot", &one);
    assert_eq!(ids(&gone["snapshots"]), [bed.full("guests/s/disk-0@a")]);
    assert_eq!(bed.error("DeleteSnapshot", &one), "not found");
    assert_eq!(bed.ok("ListSnapshots", &json!({})), json!({ "snapshots": [] }));
    bed.agent.end();
}

pub(super) fn impossible_snapshot_is_refused_in_original_words(bed: Bed) {
    prepare(&bed);
    snapshot(&bed, "guests/s/disk-0", "a");
    let taken = format!("cannot create {}: it already exists", bed.full("guests/s/disk-0@a"));
    for (params, why) in [
        (json!({}), "need an id"),
        (json!({ "id": "querty" }), "not found"),
        (json!({ "id": "querty@" }), "not a valid dataset"),
        (json!({ "id": "guests/s b", "dest": "c" }), "not a valid dataset"),
        (json!({ "id": "guests/s" }), "need a dest"),
        (json!({ "id": "guests/s", "dest": "-?_&" }), "invalid snapshot dest"),
        (json!({ "id": "guests/s", "dest": "a/b" }), "invalid snapshot dest"),
        (json!({ "id": "guests/t", "dest": "c" }), "not found"),
        (
            json!({ "id": "guests/s/disk-0@a", "dest": "c" }),
            "cannot create a snapshot of a snapshot",
        ),
        (json!({ "id": "guests/s/disk-0", "dest": "a" }), &taken),
    ] {
        assert_eq!(bed.error("CreateSnapshot", &params), why, "{params}");
    }
    for method in ["GetSnapshot", "DeleteSnapshot", "RollbackSnapshot"] {
        for (id, why) in [
            ("", "need an id"),
            ("querty", "not found"),
            ("guests/s/disk-0@none", "not found"),
            ("guests/none@a", "not found"),
            ("guests/s", "not a snapshot"),
            ("querty@", "not a valid dataset"),
            ("guests/../images/x@a", "not a valid dataset"),
        ] {
            assert_eq!(bed.error(method, &json!({ "id": id })), why, "{method} {id}");
        }
    }
    assert_eq!(bed.error("ListSnapshots", &json!({ "id": "querty" })), "not found");
    assert_eq!(bed.error("ListSnapshots", &json!({ "id": "a b" })), "not a valid dataset");
    bed.agent.end();
}

pub(super) fn rollback_spares_newer_snapshots_by_default(bed: Bed) {
    prepare(&bed);
    write(&bed, "guests/s/disk-0", b"old");
    snapshot(&bed, "guests/s/disk-0", "a");
    write(&bed, "guests/s/disk-0", b"new");
    snapshot(&bed, "guests/s/disk-0", "b");

    let mut request = json!({ "id": "guests/s/disk-0@a" });
    let to = bed.full("guests/s/disk-0@a");
    let why = format!("cannot roll back to {to}: more recent snapshots exist");
    assert_eq!(bed.error("RollbackSnapshot", &request), why);
    request["destroyMoreRecent"] = json!(true);
    let answer = bed.ok("RollbackSnapshot", &request);
    assert_eq!(ids(&answer["snapshots"]), [bed.full("guests/s/disk-0@a")]);
    assert!(begins_with(&bed.path("guests/s/disk-0"), "old"));
    assert_eq!(listed(&bed, "guests/s"), [bed.full("guests/s/disk-0@a")]);
    bed.agent.end();
}

pub(super) fn what_a_running_guest_uses_is_not_rolled_back(bed: Bed) {
    prepare(&bed);
    for disk in ["guests/s", "guests/s/disk-0", "guests/s/disk-1"] {
        snapshot(&bed, disk, "a");
    }
    let with_disk = |id: &str, disk: &str| {
        let mut guest = domain(id);
        guest["disks"] = json!([{ "device": "vda", "bus": "virtio", "source": bed.path(disk) }]);
        guest
    };
    let roll_back = |id: &str| bed.call("RollbackSnapshot", &json!({ "id": id }));
    let refused = |dataset: &str, guest: &str| {
        Err(format!("cannot change {}: guest {guest} is running", bed.full(dataset)))
    };

    // The guest of that name, whatever its disks are.
    bed.agent.ok("Create", &with_disk("s", "guests/s/disk-0"));
    for dataset in ["guests/s/disk-0", "guests/s/disk-1", "guests/s"] {
        assert_eq!(roll_back(&format!("{dataset}@a")), refused(dataset, "s"));
    }
    bed.agent.ok("Poweroff", &domain("s"));
    // Another one that has the disk, named in another way.
    let link = bed.path("link");
    std::os::unix::fs::symlink(bed.path("guests"), &link).expect("a link can be made");
    bed.agent.ok("Create", &with_disk("other", "link/s/disk-1"));
    assert_eq!(roll_back("guests/s/disk-1@a"), refused("guests/s/disk-1", "other"));
    let fine = roll_back("guests/s/disk-0@a");
    assert!(fine.is_ok(), "{fine:?}");

    bed.agent.ok("Poweroff", &domain("other"));
    let fine = roll_back("guests/s/disk-1@a");
    assert!(fine.is_ok(), "{fine:?}");
    bed.agent.end();
}

fn download(bed: &Bed, method: &str, body: &Value) -> Reply {
    let body = body.to_string();
    bed.agent.request_at(bed.address, method, "/snapshots/download", &[], body.as_bytes())
}

/// The content of a chunked body that is complete.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").expect("a size line");
        let size = std::str::from_utf8(&body[..end]).expect("digits");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let data = &body[end + 2..];
        assert_eq!(data[size..size + 2], *b"\r\n");
        content.extend_from_slice(&data[..size]);
        body = &data[size + 2..];
        if size == 0 {
            assert_eq!(body, b"");
            return content;
        }
    }
}

pub(super) fn downloaded_snapshot_stream_becomes_an_image(bed: Bed) {
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    prepare(&bed);
    write(&bed, "guests/s/disk-0", b"kept");
    snapshot(&bed, "guests/s/disk-0", "a");
    write(&bed, "guests/s/disk-0", b"lost");
    for method in ["POST", "GET"] {
        let reply = download(&bed, method, &json!({ "id": "guests/s/disk-0@a" }));
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
        assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
        let (file, id) = (format!("{method}.stream"), method.to_lowercase());
        fs::write(bed.scratch.path().join(&file), unchunked(&reply.body)).expect("it takes files");
        let output = bed.run_import(&file, &id);
        assert!(output.status.success(), "{output:?}");
        let clone = format!("guests/{id}/disk-0");
        bed.ok("CloneImage", &json!({ "id": id, "dest": clone }));
        assert_eq!(bed.size_mib(&clone), 1);
        assert!(begins_with(&bed.path(&clone), "kept"));
    }
    bed.agent.end();
}

pub(super) fn impossible_download_has_a_telling_status(bed: Bed) {
    prepare(&bed);
    for (body, status, why) in [
        (json!({ "id": "guests/s/disk-0@none" }), 404, "not found\n"),
        (json!({ "id": "querty" }), 404, "not found\n"),
        (json!({ "id": "guests/s/disk-0" }), 400, "not a snapshot\n"),
        (json!({ "id": "a b@c" }), 400, "not a valid dataset\n"),
        (json!({}), 400, "need an id\n"),
    ] {
        let reply = download(&bed, "POST", &body);
        assert_eq!((reply.status, reply.text().as_str()), (status, why), "{body}");
    }
    assert_eq!(download(&bed, "POST", &json!([1])).status, 400);
    let reply = download(&bed, "PUT", &json!({ "id": "guests/s/disk-0@a" }));
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, POST")));
    bed.agent.end();
}
