//! The image store's methods (contract section 8) through the agent, on libvirt's test driver: one
//! body of claims for both stores. They run on a directory store everywhere, and in the lab on ZFS
//! pools of their own.

mod disks;
mod import;
mod keys;
mod late;
pub(crate) mod requested;
pub(crate) mod resize;
mod snapshots;
mod tls;
mod volumes;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM, Reply};
use crate::harness::skip::{Skip, require};
use crate::harness::support::{Scratch, wait_until};
use crate::lab::Pool;

/// Longer than a loaded machine needs for what takes a second or two.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const TEST_DRIVER: &str = "test:///default";
const MIB: usize = 1024 * 1024;
const QEMU_IMG: &str = "/usr/bin/qemu-img";

/// An agent with an image store of its own.
pub(crate) struct Bed {
    pub(crate) agent: Agent,
    address: SocketAddr,
    scratch: Scratch,
    /// The pool of the zfs store; none for a directory store, which is a folder in `scratch`.
    pool: Option<Pool>,
}

impl Bed {
    pub(crate) fn on_directory() -> Self {
        Self::on(TEST_DRIVER, None)
    }

    fn on_zpool() -> Option<Self> {
        Some(Self::on(TEST_DRIVER, Some(require("lab", Pool::own(256))?)))
    }

    /// On any libvirt, with the zfs store where there is a pool.
    pub(crate) fn on(uri: &str, pool: Option<Pool>) -> Self {
        Self::with_flags(uri, pool, &[])
    }

    /// The same with more flags.
    pub(crate) fn with_flags(uri: &str, pool: Option<Pool>, more: &[&str]) -> Self {
        Self::of(Command::new(PROGRAM), uri, pool, more)
    }

    /// The same by a command that starts the agent.
    pub(crate) fn of(command: Command, uri: &str, pool: Option<Pool>, more: &[&str]) -> Self {
        let scratch = Scratch::new();
        let mut flags = vec!["--libvirt-uri".to_owned(), uri.to_owned()];
        flags.extend(store_flags(&scratch, pool.as_ref()));
        let served = ["--bridge-type", "linux", "--image-store", "--image-store-port", "0"];
        flags.extend(served.iter().chain(more).map(|flag| (*flag).to_owned()));
        let agent = Agent::run(command, &flags);
        let listens = "the image store listens on ";
        let line = agent.logged(listens);
        let address = line.split(listens).nth(1).expect("see above").parse().expect("an address");
        // The agent prepares its store in the background, and on a loaded machine serves before that.
        let is_usable = || agent.health().1["storage"]["usable"] == true;
        wait_until("the store is prepared", SOON, is_usable);
        Self { agent, address, scratch, pool }
    }

    /// Where the image store is served.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The full name of a dataset or snapshot.
    pub(crate) fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.pool.as_ref().map_or("mistify", |pool| &pool.name))
    }

    /// The device, file or folder of a dataset.
    pub(crate) fn path(&self, dataset: &str) -> PathBuf {
        match &self.pool {
            Some(_) => Path::new("/dev/zvol").join(self.full(dataset)),
            None => self.scratch.path().join("store").join(dataset),
        }
    }

    /// The size of a dataset's device or file.
    fn size_mib(&self, dataset: &str) -> usize {
        let mut disk = File::open(self.path(dataset)).expect("the disk is there");
        let bytes = disk.seek(SeekFrom::End(0)).expect("it has an end");
        usize::try_from(bytes).expect("a small disk") / MIB
    }

    /// Whether there is no such dataset.
    fn is_absent(&self, dataset: &str) -> bool {
        let list = self.call("ListSnapshots", &json!({ "id": dataset }));
        list.is_err_and(|error| error == "not found")
    }

    fn post(&self, body: &str) -> Reply {
        let json = [("Content-Type", "application/json")];
        self.agent.request_at(self.address, "POST", "/_mistify_RPC_", &json, body.as_bytes())
    }

    /// Calls `ImageStore.<method>`; its result, or its error's text.
    fn call(&self, method: &str, params: &Value) -> Result<Value, String> {
        let method = format!("ImageStore.{method}");
        let request = json!({ "method": method, "params": [params], "id": 1 });
        let reply = self.post(&request.to_string());
        assert_eq!(reply.status, 200, "{request}: {reply:?}");
        let mut answer: Value = serde_json::from_slice(&reply.body).expect("the answer is JSON");
        match answer["error"].as_str() {
            None => Ok(answer["result"].take()),
            Some(error) => Err(error.to_owned()),
        }
    }

    /// The result of a call that has to succeed.
    pub(crate) fn ok(&self, method: &str, params: &Value) -> Value {
        let answer = self.call(method, params);
        answer.unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    /// The error of a call that has to fail.
    pub(crate) fn error(&self, method: &str, params: &Value) -> String {
        let answer = self.call(method, params);
        answer.err().unwrap_or_else(|| panic!("{method} {params} succeeds"))
    }

    /// The guest that a call answers that has to succeed.
    pub(crate) fn guest(&self, method: &str, guest: &Value) -> Value {
        self.ok(method, &json!({ "guest": guest }))["guest"].take()
    }

    pub(crate) fn guest_error(&self, method: &str, guest: &Value) -> String {
        self.error(method, &json!({ "guest": guest }))
    }

    /// Full names of all volumes.
    pub(crate) fn volumes(&self) -> Vec<String> {
        ids(&self.ok("ListVolumes", &json!({}))["volumes"])
    }

    /// Makes an image of a raw disk that begins with `content`; false where that cannot be.
    pub(crate) fn import(&self, id: &str, content: &[u8], mib: usize) -> bool {
        if require("qemu", qemu_img()).is_none() {
            return false;
        }
        let mut disk = content.to_vec();
        disk.resize(mib * MIB, 0);
        let file = format!("{id}.raw");
        fs::write(self.scratch.path().join(&file), disk).expect("the folder takes files");
        let output = self.run_import(&file, id);
        assert!(output.status.success(), "{output:?}");
        true
    }

    /// Runs `image import` in the scratch folder.
    fn run_import(&self, file: &str, id: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_mistify-libvirt"))
            .args(["image", "import", file, id])
            .args(store_flags(&self.scratch, self.pool.as_ref()))
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .output()
            .expect("the program starts")
    }
}

/// The flags that name the store.
fn store_flags(scratch: &Scratch, pool: Option<&Pool>) -> [String; 2] {
    match pool {
        Some(pool) => ["--zpool".to_owned(), pool.name.clone()],
        None => {
            let store = scratch.path().join("store");
            ["--storage".to_owned(), format!("directory:{}", store.display())]
        }
    }
}

pub(crate) fn qemu_img() -> Result<(), Skip> {
    match Path::new(QEMU_IMG).exists() {
        true => Ok(()),
        false => Err(Skip(format!("there is no {QEMU_IMG}"))),
    }
}

fn ids(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list").iter();
    list.map(|it| it["id"].as_str().expect("an id").to_owned()).collect()
}

fn domain(id: &str) -> Value {
    json!({ "id": id, "type": "test", "memory": 64, "cpu": 1 })
}

/// Makes a test of each claim for each store.
macro_rules! on_both_stores {
    ($($module:ident: $($claim:ident)*;)*) => {
        mod directory {
            $($(#[test]
            fn $claim() {
                super::$module::$claim(super::Bed::on_directory());
            })*)*
        }

        mod zpool {
            $($(#[test]
            fn $claim() {
                let Some(bed) = super::Bed::on_zpool() else { return };
                super::$module::$claim(bed);
            })*)*
        }
    };
}

on_both_stores! {
    disks:
        a_guest_without_id_or_disks_and_a_disk_of_nothing_are_invalid_arguments
        disks_without_an_image_or_space_for_them_are_refused_and_nothing_is_made
        disks_are_verified_made_once_and_destroyed_with_their_guest
        a_guest_is_cloned_from_an_image_and_its_disk_grown
        a_volume_that_is_another_is_named_with_what_differs
        the_orchestrators_pipelines_make_and_delete_a_guest
        the_arguments_of_the_pipeline_are_heeded
        disks_of_the_original_image_agent_which_have_no_mark_are_taken_as_they_are;
    import:
        a_raw_and_a_qcow2_disk_become_images_with_the_same_content
        a_file_with_a_name_like_a_place_in_the_network_is_a_file
        an_import_that_cannot_be_is_one_line_with_status_1_and_leaves_nothing
        an_incomplete_qcow2_disk_is_refused
        a_qcow2_that_a_guest_writes_to_is_refused
        a_qcow2_that_is_swapped_meanwhile_reads_no_secret
        a_qcow2_that_is_rewritten_meanwhile_reads_no_secret
        a_compressed_disk_is_decompressed_or_refused;
    resize:
        disks_grow_by_device_or_by_volume_and_the_answer_has_the_sizes
        the_same_guest_is_the_grown_one_from_then_on
        what_cannot_be_is_refused_before_anything_grows
        a_running_guest_is_told_and_an_error_of_that_is_the_callers;
    snapshots:
        snapshots_are_taken_found_listed_and_deleted
        a_snapshot_that_cannot_be_is_refused_in_the_originals_words
        a_rollback_brings_the_content_back_and_spares_newer_snapshots_unless_told
        what_a_running_guest_uses_is_not_rolled_back
        a_snapshot_is_downloaded_as_a_stream_that_becomes_an_image
        a_download_that_cannot_be_has_the_status_that_says_why;
    volumes:
        a_volume_is_made_found_listed_and_deleted
        what_cannot_be_is_refused_in_the_originals_words
        a_dataset_goes_with_all_below_it
        a_scrape_shows_the_size_of_volumes_and_what_is_in_them
        an_image_is_listed_cloned_and_deleted;
}

#[test]
fn each_service_has_its_own_port_and_is_not_found_on_the_other() {
    let bed = Bed::on_directory();
    let body = |method: &str| format!(r#"{{"method":"{method}","params":[{{}}],"id":1}}"#);
    for (method, why) in [
        ("Libvirt.Status", "rpc: can't find service \"Libvirt.Status\""),
        ("Libvirt.ResizeDisk", "rpc: can't find service \"Libvirt.ResizeDisk\""),
        ("ImageStore.Status", "rpc: can't find method \"ImageStore.Status\""),
        ("ImageStore.listImages", "rpc: can't find method \"ImageStore.listImages\""),
    ] {
        let reply = bed.post(&body(method));
        assert_eq!((reply.status, reply.text().as_str()), (400, why));
    }
    let reply = bed.agent.post(body("ImageStore.ListImages").as_bytes());
    let why = "rpc: can't find service \"ImageStore.ListImages\"";
    assert_eq!((reply.status, reply.text().as_str()), (400, why));
    assert_eq!(bed.agent.request("POST", "/snapshots/download", &[], b"{}").status, 404);
    assert_eq!(bed.agent.request_at(bed.address, "GET", "/healthz", &[], b"").status, 200);
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    bed.agent.end();
}

#[test]
fn the_image_store_is_not_served_unless_it_is_asked_for() {
    let agent = Agent::on_test_driver();
    assert!(!agent.log().contains("image store"), "{}", agent.log());
    agent.end();
}
