//! `image pull` from a server with TLS and a public address.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::requested::{SUM, disk, fetcher};
use super::{Bed, store_flags};
use crate::harness::skip::require;
use crate::harness::support::Scratch;

/// Runs `image pull` of this path, on the store of a bed.
fn pull(bed: &Bed, ca: &str, path: &str) -> Output {
    let directory = Scratch::new();
    fs::write(directory.path().join("disk.raw"), disk("pulled")).expect("it is ours");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/storage/images/https.sh");
    Command::new("unshare")
        .args(["-n", "-m", "/bin/sh", script])
        .arg(directory.path())
        .args([ca, env!("CARGO_BIN_EXE_mistify-libvirt"), "image", "pull"])
        .args([&format!("https://images.test/{path}"), "pulled", "--sha256", SUM])
        .args(store_flags(&bed.scratch, None))
        .stdin(Stdio::null())
        .output()
        .expect("unshare starts")
}

#[test]
fn an_image_is_pulled_from_a_server_that_is_trusted() {
    let Some(()) = require("users", fetcher()) else { return };
    let bed = Bed::on_directory();
    for (ca, path, why) in [
        ("unknown", "disk.raw", "certificate"),
        ("trusted", "plain", "only https is allowed"),
        ("trusted", "none", "404"),
    ] {
        let refused = pull(&bed, ca, path);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(why), "{path}: {said}");
    }
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    let pulled = pull(&bed, "trusted", "moved");
    assert!(pulled.status.success(), "{pulled:?}");
    assert_eq!(bed.ok("ListImages", &json!({}))["images"][0]["id"], "pulled");
    bed.agent.end();
}
