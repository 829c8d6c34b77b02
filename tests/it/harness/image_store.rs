//! An agent with an image store, on a directory or in a pool of the lab.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{Agent, PROGRAM, Reply};
use super::skip::{Skip, require};
use super::support::{Scratch, wait_until};
use super::zpool::Pool;

/// Longer than a loaded machine needs for work of a second or two.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const TEST_DRIVER: &str = "test:///default";
pub(crate) const MIB: usize = 1024 * 1024;
pub(crate) const QEMU_IMG: &str = "/usr/bin/qemu-img";

/// An agent with an image store of its own.
pub(crate) struct Bed {
    pub(crate) agent: Agent,
    pub(crate) address: SocketAddr,
    pub(crate) scratch: Scratch,
    /// The pool of the ZFS store; `None` for a directory store, which is a directory in `scratch`.
    pub(crate) pool: Option<Pool>,
}

impl Bed {
    pub(crate) fn on_directory() -> Self {
        Self::on(TEST_DRIVER, None)
    }

    pub(crate) fn on_zpool() -> Option<Self> {
        Some(Self::on(TEST_DRIVER, Some(require("lab", Pool::own(256))?)))
    }

    /// Starts an agent on the libvirt at `uri`, with the ZFS store if there is a pool.
    pub(crate) fn on(uri: &str, pool: Option<Pool>) -> Self {
        Self::with_flags(uri, pool, &[])
    }

    /// Starts an agent with further flags.
    pub(crate) fn with_flags(uri: &str, pool: Option<Pool>, more: &[&str]) -> Self {
        Self::of(Command::new(PROGRAM), uri, pool, more)
    }

    /// Starts an agent by this command.
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

    /// Returns the address of the image store.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the full name of a dataset or snapshot.
    pub(crate) fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.pool.as_ref().map_or("mistify", |pool| &pool.name))
    }

    /// Returns the device, file or directory of a dataset.
    pub(crate) fn path(&self, dataset: &str) -> PathBuf {
        match &self.pool {
            Some(_) => Path::new("/dev/zvol").join(self.full(dataset)),
            None => self.scratch.path().join("store").join(dataset),
        }
    }

    /// Returns the size of a dataset's device or file.
    pub(crate) fn size_mib(&self, dataset: &str) -> usize {
        let mut disk = File::open(self.path(dataset)).expect("the disk is there");
        let bytes = disk.seek(SeekFrom::End(0)).expect("it has an end");
        usize::try_from(bytes).expect("a small disk") / MIB
    }

    /// Returns whether there is no such dataset.
    pub(crate) fn is_absent(&self, dataset: &str) -> bool {
        let list = self.call("ListSnapshots", &json!({ "id": dataset }));
        list.is_err_and(|error| error == "not found")
    }

    pub(crate) fn post(&self, body: &str) -> Reply {
        let json = [("Content-Type", "application/json")];
        self.agent.request_at(self.address, "POST", "/_mistify_RPC_", &json, body.as_bytes())
    }

    /// Calls `ImageStore.<method>`; returns the result, or the error's text.
    pub(crate) fn call(&self, method: &str, params: &Value) -> Result<Value, String> {
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

    /// Returns the result of a call that must succeed.
    pub(crate) fn ok(&self, method: &str, params: &Value) -> Value {
        let answer = self.call(method, params);
        answer.unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    /// Returns the error of a call that must fail.
    pub(crate) fn error(&self, method: &str, params: &Value) -> String {
        let answer = self.call(method, params);
        answer.err().unwrap_or_else(|| panic!("{method} {params} succeeds"))
    }

    /// Returns the guest in the answer of a call that must succeed.
    pub(crate) fn guest(&self, method: &str, guest: &Value) -> Value {
        self.ok(method, &json!({ "guest": guest }))["guest"].take()
    }

    pub(crate) fn guest_error(&self, method: &str, guest: &Value) -> String {
        self.error(method, &json!({ "guest": guest }))
    }

    /// Returns the full names of all volumes.
    pub(crate) fn volumes(&self) -> Vec<String> {
        ids(&self.ok("ListVolumes", &json!({}))["volumes"])
    }

    /// Makes an image of a raw disk that begins with `content`; returns `false` without qemu-img.
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

    /// Runs `image import` in the scratch directory.
    pub(crate) fn run_import(&self, file: &str, id: &str) -> Output {
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
pub(crate) fn store_flags(scratch: &Scratch, pool: Option<&Pool>) -> [String; 2] {
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

pub(crate) fn ids(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list").iter();
    list.map(|it| it["id"].as_str().expect("an id").to_owned()).collect()
}
