//! The image store's methods (contract section 8) through the agent, on a directory store and
//! libvirt's test driver.

mod disks;
mod import;
mod keys;
mod resize;
mod snapshots;
mod volumes;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::{Agent, Reply};
use crate::skip::{Skip, require};
use crate::support::{Scratch, wait_for};

const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1024 * 1024;
const QEMU_IMG: &str = "/usr/bin/qemu-img";

/// An agent with an image store in a folder of its own.
struct Bed {
    agent: Agent,
    address: SocketAddr,
    scratch: Scratch,
}

impl Bed {
    fn new() -> Self {
        Self::on("test:///default")
    }

    /// The same on another libvirt.
    fn on(uri: &str) -> Self {
        let scratch = Scratch::new();
        let storage = format!("directory:{}", scratch.path().join("store").display());
        let mut flags = vec!["--libvirt-uri", uri, "--storage", &storage];
        flags.extend(["--image-store", "--image-store-port", "0"]);
        let agent = Agent::start(&flags);
        let address = wait_for("the image store listens", SOON, || {
            let log = agent.log();
            let address = log.split("the image store listens on ").nth(1)?;
            address.lines().next()?.parse().ok()
        });
        Self { agent, address, scratch }
    }

    /// A file or folder of a dataset.
    fn path(&self, dataset: &str) -> PathBuf {
        self.scratch.path().join("store").join(dataset)
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
    fn ok(&self, method: &str, params: &Value) -> Value {
        let answer = self.call(method, params);
        answer.unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    /// The error of a call that has to fail.
    fn error(&self, method: &str, params: &Value) -> String {
        let answer = self.call(method, params);
        answer.err().unwrap_or_else(|| panic!("{method} {params} succeeds"))
    }

    /// The guest that a call answers that has to succeed.
    fn guest(&self, method: &str, guest: &Value) -> Value {
        self.ok(method, &json!({ "guest": guest }))["guest"].take()
    }

    fn guest_error(&self, method: &str, guest: &Value) -> String {
        self.error(method, &json!({ "guest": guest }))
    }

    /// Full names of all volumes.
    fn volumes(&self) -> Vec<String> {
        ids(&self.ok("ListVolumes", &json!({}))["volumes"])
    }

    /// Makes an image of a raw disk that begins with `content`; false where that cannot be.
    fn import(&self, id: &str, content: &[u8], mib: usize) -> bool {
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
        let store = self.scratch.path().join("store");
        Command::new(env!("CARGO_BIN_EXE_mistify-libvirt"))
            .args(["image", "import", file, id])
            .args(["--storage", &format!("directory:{}", store.display())])
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .output()
            .expect("the program starts")
    }
}

fn qemu_img() -> Result<(), Skip> {
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

#[test]
fn each_service_has_its_own_port_and_is_not_found_on_the_other() {
    let bed = Bed::new();
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
