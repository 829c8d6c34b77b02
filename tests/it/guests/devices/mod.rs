//! AttachDisk, DetachDisk, AttachNic and DetachNic on a real libvirtd: libvirt's test driver attaches
//! nothing.

mod disks;
mod foreign;
mod late;
mod nics;
mod refused;
mod running;

use serde_json::{Value, json};

use crate::api::jsonrpc::discover::with_documented_seed;
use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::{Stack, in_libvirt};
use crate::harness::support::{Scratch, files_below};

/// An agent with a directory of disks on the stack that tests share; names have `id` and `mac` in them.
struct Bed<'a> {
    stack: &'a Stack,
    agent: Agent,
    store: Scratch,
    id: &'static str,
    /// The last but one part of MACs.
    net: u8,
}

impl<'a> Bed<'a> {
    fn new(id: &'static str, net: u8) -> Option<Bed<'static>> {
        Some(Bed::on(require("qemu", Stack::shared())?, id, net, &[]))
    }

    fn on(stack: &'a Stack, id: &'static str, net: u8, more: &[&str]) -> Self {
        let store = Scratch::new();
        let (uri, directory) = (stack.uri(), store.path().display().to_string());
        let storage = format!("directory:{directory}");
        let flags = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--storage", &storage];
        // A call that is late on a slow machine would look like one that fails.
        let patient = ["--deadline-read", "240", "--deadline-change", "240"];
        let flags: Vec<&str> = flags.iter().chain(&patient).chain(more).copied().collect();
        Self { stack, agent: Agent::start(&flags), store, id, net }
    }

    fn guest(&self, disks: &Value) -> Value {
        let nics = [self.nic(1)];
        // Its boot sector knows how devices leave a machine of that profile.
        json!({
            "id": self.id, "type": "qemu", "profile": "classic", "memory": 32, "cpu": 1, "metadata": { "owner": "a" },
            "nics": nics, "disks": disks,
        })
    }

    fn mac(&self, number: u8) -> String {
        format!("02:00:00:91:{:02x}:{number:02x}", self.net)
    }

    fn nic(&self, number: u8) -> Value {
        json!({ "network": "mistify0", "model": "virtio", "mac": self.mac(number) })
    }

    fn made(&self, disks: &Value) -> Value {
        self.agent.ok("CreateGuest", &self.guest(disks))["guest"].take()
    }

    /// The whole answer of a call for this guest with a device.
    fn call(&self, method: &str, device: &Value) -> Value {
        let member = if method.ends_with("Disk") { "disk" } else { "nic" };
        self.agent.call_with(method, &json!({ "guest": { "id": self.id }, member: device }))
    }

    /// The result of one that has to succeed.
    fn ok(&self, method: &str, device: &Value) -> Value {
        let mut answer = self.call(method, device);
        assert_eq!(answer["error"], Value::Null, "{method} {device}");
        answer["result"].take()
    }

    /// The error of one that has to fail.
    fn error(&self, method: &str, device: &Value) -> String {
        let answer = self.call(method, device);
        assert_eq!(answer["result"], Value::Null, "{method} {device}: {answer}");
        answer["error"].as_str().expect("a text").to_owned()
    }

    /// The guest as it is answered is the one that there is.
    fn is_now(&self, guest: &Value) {
        let again = self.agent.ok("CreateGuest", guest)["guest"].take();
        assert_eq!(again, *guest);
    }

    fn is_no_more(&self, guest: &Value) {
        let error = self.agent.error("CreateGuest", guest);
        assert!(error.starts_with("[Code-9] "), "{guest}: {error}");
    }

    fn volume(&self, number: u8) -> String {
        format!("mistify/guests/{}/disk-{number}", self.id)
    }

    fn source(&self, number: u8) -> String {
        let path = self.store.path().join(format!("guests/{}/disk-{number}", self.id));
        path.display().to_string()
    }

    /// Targets and sources of the disks of what runs, or of the definition.
    fn disks(&self, which: &[&str]) -> Vec<[String; 2]> {
        let listed = self.stack.virsh_ok(&[&["domblklist", self.id], which].concat());
        let words = |line: &str| {
            let mut words = line.split_whitespace().map(str::to_owned);
            Some([words.next()?, words.next()?])
        };
        listed.lines().filter_map(words).collect()
    }

    /// MACs of the interfaces of what runs, or of the definition.
    fn macs(&self, which: &[&str]) -> Vec<String> {
        let listed = self.stack.virsh_ok(&[&["domiflist", self.id], which].concat());
        let mac = |line: &str| {
            line.split_whitespace().find(|it| it.starts_with("02:")).map(str::to_owned)
        };
        listed.lines().filter_map(mac).collect()
    }

    /// Returns all objects of the guest: domain, networks, files.
    fn everything(&self) -> Vec<String> {
        let macs = format!("02:00:00:91:{:02x}:", self.net);
        // Tests share the libvirtd: the id of another test's guest may contain this one.
        let ours = |line: &str| line.trim() == self.id || line.trim_start().starts_with(&macs);
        let mut found = in_libvirt(|words| self.stack.virsh_ok(words), ours);
        files_below(self.store.path(), &mut found);
        found.sort();
        found
    }

    /// Deletes the guest by its id, and checks that none of its objects remain.
    fn end(self) {
        self.agent.ok("Delete", &json!({ "id": self.id }));
        let left = self.everything();
        assert!(!left.iter().any(|it| it.contains(self.id) || it.contains("02:")), "{left:?}");
        self.agent.end();
    }
}

/// The definition's, for virsh.
const NEXT: &[&str] = &["--inactive"];

#[test]
fn the_methods_answer_their_own_examples_on_qemu() {
    let Some(bed) = Bed::new("web-1", 0) else { return };
    let rpc = |method: &str, params: &Value| {
        let request = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 });
        let json = [("Content-Type", "application/json")];
        let reply = bed.agent.request("POST", "/rpc", &json, request.to_string().as_bytes());
        let mut answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(answer["error"], Value::Null, "{request}");
        answer["result"].take()
    };
    let text = rpc("rpc.discover", &json!({})).to_string();
    // As it would be on ZFS and with kvm.
    let directory = bed.store.path().display().to_string();
    let text = text.replace("/dev/zvol/mistify", &directory).replace("\"kvm\"", "\"qemu\"");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let methods = document["methods"].as_array().expect("methods");
    for name in ["CreateGuest", "AttachDisk", "DetachDisk", "AttachNic", "DetachNic"] {
        let name = format!("Libvirt.{name}");
        let method = methods.iter().find(|method| method["name"] == name).expect("it is there");
        let example = &method["examples"][0];
        let given = example["params"].as_array().expect("parameters").iter();
        let given = given.map(|it| (it["name"].as_str().expect("a name"), it["value"].clone()));
        let params: Value = given.map(|(name, value)| (name.to_owned(), value)).collect();
        let result = with_documented_seed(rpc(&name, &params));
        assert_eq!(result, example["result"]["value"], "{name}");
    }
    bed.end();
}
