//! Seeds: what a guest finds at its first boot, and nobody else anywhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::linux::{Console, SMALL_MIB, small_disk};
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, files_below};

/// What no file, log or answer may have.
pub(crate) const SECRET: &str = "correct-horse-battery";

/// An agent that logs everything, with a store.
pub(crate) struct Bed {
    pub(crate) agent: Agent,
    pub(crate) files: Scratch,
}

impl Bed {
    pub(crate) fn new(uri: &str) -> Self {
        let files = Scratch::new();
        let path = |name: &str| files.path().join(name).display().to_string();
        let flags = [
            "--libvirt-uri".to_owned(),
            uri.to_owned(),
            "--storage".to_owned(),
            format!("directory:{}", path("store")),
            "--allow-disk-path".to_owned(),
            path(""),
            "--state-dir".to_owned(),
            path("state"),
            "--audit-log".to_owned(),
            path("audit"),
            "--log-level".to_owned(),
            "debug".to_owned(),
            "--bridge-type".to_owned(),
            "linux".to_owned(),
            "--image-store".to_owned(),
            "--image-store-port".to_owned(),
            "0".to_owned(),
        ];
        Self { agent: Agent::run(Command::new(PROGRAM), &flags), files }
    }

    /// Files below the bed's directory, the seeds themselves excepted, that have this text.
    pub(crate) fn files_with(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        files_below(self.files.path(), &mut found);
        let has = |path: &String| {
            let bytes = fs::read(path).unwrap_or_default();
            bytes.windows(text.len()).any(|it| it == text.as_bytes())
        };
        let is_seed = |path: &str| path.ends_with("/seed") || path.contains("/state/seeds/");
        found.retain(|path| !is_seed(path) && has(path));
        found
    }

    fn seed(&self, id: &str) -> std::path::PathBuf {
        self.files.path().join(format!("store/guests/{id}/seed"))
    }
}

fn guest(id: &str, cloud_init: &Value) -> Value {
    json!({
        "id": id, "type": "test", "memory": 64, "cpu": 1, "disks": [{ "size": 1 }],
        "cloud_init": cloud_init,
    })
}

#[test]
fn only_the_guest_itself_reads_its_seed() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(&stack.uri());
    let Some(disk) = require("qemu", small_disk(&bed.files)) else { return };
    for profile in ["modern", "classic"] {
        let id = format!("seed-{profile}");
        let made = json!({
            "id": id, "type": "qemu", "memory": SMALL_MIB, "cpu": 1, "profile": profile,
            "disks": [{ "source": disk }],
            "nics": [{ "network": "mistify0", "mac": "02:00:00:00:61:01", "address": "192.0.2.7/24" }],
            "cloud_init": { "hostname": "web", "user_data": format!("#!/bin/sh\n# {SECRET}\n") },
        });
        let mut answers = vec![bed.agent.ok("CreateGuest", &made)];
        answers.push(bed.agent.ok("Run", &made));
        let mut console = Console::log_in(stack, &id);
        console.run("mkdir -p /seed && mount -o ro $(findfs LABEL=CIDATA) /seed");
        assert_eq!(console.run("cat /seed/user-data"), format!("#!/bin/sh\n# {SECRET}\n"));
        let uuid = stack.virsh_ok(&["domuuid", &id]);
        let meta_data = console.run("cat /seed/meta-data");
        let meta_data: Value = serde_json::from_str(&meta_data).expect("JSON");
        assert_eq!(meta_data, json!({ "instance-id": uuid.trim(), "local-hostname": "web" }));
        assert!(console.run("cat /seed/network-config").contains("192.0.2.7/24"));
        let devices = console.run("ls /sys/block");
        assert!(devices.contains("vda"), "{devices}");
        let of_modern = devices.contains("sda");
        assert_eq!(of_modern, profile == "modern", "{devices}");
        let ro = "cat /sys/block/$(basename $(findfs LABEL=CIDATA))/ro";
        assert_eq!(console.run(ro), "1\n");

        for method in ["Status", "Describe", "List", "CreateGuest"] {
            answers.push(bed.agent.ok(method, &made));
        }
        let xml = stack.virsh_ok(&["dumpxml", &id]);
        answers.push(json!(xml));
        let said = json!(answers).to_string();
        assert!(!said.contains(SECRET) && !said.contains("cloud_init"), "{said}");
        assert!(xml.contains("hmac-sha256:"), "{xml}");
        assert_eq!(bed.files_with(SECRET), Vec::<String>::new());
        assert!(!bed.agent.log().contains(SECRET));
        let new = json!({ "id": id, "cloud_init": { "user_data": "#!/bin/sh\n# new\n" } });
        let why = bed.agent.error("SetSeed", &new);
        assert!(why.contains("is running"), "{why}");
        bed.agent.ok("Poweroff", &json!({ "id": id }));
        bed.agent.ok("SetSeed", &new);
        let disk = fs::read(bed.seed(&id)).expect("the seed");
        assert!(String::from_utf8_lossy(&disk).contains("# new"));
        bed.agent.ok("Delete", &json!({ "id": id }));
        assert!(!bed.seed(&id).exists());
    }
}

#[test]
fn the_same_seed_is_the_same_guest() {
    let bed = Bed::new("test:///default");
    let made = guest("same", &json!({ "hostname": "a", "ssh_keys": ["ssh-ed25519 A"] }));
    let first = bed.agent.ok("CreateGuest", &made);
    let before = fs::read(bed.seed("same")).expect("a seed");
    assert_eq!(bed.agent.ok("CreateGuest", &made), first);
    // What was answered is the same guest, too.
    assert_eq!(bed.agent.ok("CreateGuest", &first["guest"]), first);
    assert_eq!(fs::read(bed.seed("same")).expect("a seed"), before);
    let other = guest("same", &json!({ "hostname": "b", "ssh_keys": ["ssh-ed25519 A"] }));
    assert!(bed.agent.error("CreateGuest", &other).contains("already exists"));
    bed.agent.ok("Delete", &made);
    assert!(!bed.seed("same").exists());
    let why = bed.agent.error("CreateGuest", &first["guest"]);
    assert!(why.contains("seed is the fingerprint of cloud_init"), "{why}");
}

#[test]
fn a_refused_seed_is_not_repeated() {
    let bed = Bed::new("test:///default");
    for (cloud_init, why) in [
        (json!({ "password_hash": SECRET }), "must be a hash of"),
        (json!({ SECRET: 1 }), "a member is unknown"),
        (json!({ "user_data": SECRET, "ssh_keys": [SECRET] }), "must not be set with user_data"),
        (json!({ "ssh_keys": SECRET }), "its content is secret"),
        (json!(SECRET), "its content is secret"),
        (json!({ "user_data": SECRET.repeat(40_000) }), "cloud_init"),
    ] {
        for dry_run in [false, true] {
            let params = json!({ "guest": guest("refused", &cloud_init), "dry_run": dry_run });
            let call = json!({ "method": "Libvirt.CreateGuest", "params": [params], "id": 1 });
            let answer = bed.agent.post(call.to_string().as_bytes()).text();
            assert!(answer.contains(why), "{answer}");
            assert!(!answer.contains(SECRET), "{answer}");
        }
    }
    for (method, params, why) in [
        ("CreateGuest", json!({ "args": { "mistify.async": "true" } }), "cannot be in a job"),
        (
            "SetMetadata",
            json!({ "args": { "mistify.async": "true" }, "cloud-init": { "user": SECRET } }),
            "cannot be in a job",
        ),
        ("Create", json!({}), "call CreateGuest"),
    ] {
        let mut params = params;
        params["guest"] = guest("refused", &json!({ "user_data": SECRET }));
        let answer = bed.agent.call_with(method, &params).to_string();
        assert!(answer.contains(why) && !answer.contains(SECRET), "{answer}");
    }
    assert_eq!(bed.files_with(SECRET), Vec::<String>::new());
    assert!(!bed.agent.log().contains(SECRET));
}

#[test]
fn a_dry_run_shows_the_seed_and_makes_nothing() {
    let bed = Bed::new("test:///default");
    let made = guest("dry", &json!({ "user_data": SECRET }));
    let params = json!({ "guest": made, "dry_run": true });
    let answer = bed.agent.call_with("CreateGuest", &params);
    let text = answer.to_string();
    assert!(text.contains("mistify/guests/dry/seed") && !text.contains(SECRET), "{text}");
    assert_eq!(answer["result"]["guest"]["disks"].as_array().map(Vec::len), Some(1), "{text}");
    assert!(!bed.seed("dry").exists() && !state_has_key(&bed));
    bed.agent.ok("CreateGuest", &made);
    let key = fs::metadata(bed.files.path().join("state/seed.key")).expect("a key");
    assert!(bed.seed("dry").exists() && key.is_file());
}

fn state_has_key(bed: &Bed) -> bool {
    Path::new(&bed.files.path().join("state/seed.key")).exists()
}

#[test]
fn a_renamed_guest_keeps_its_seed_until_its_delete() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(&stack.uri());
    let mut made = guest("seed-former", &json!({ "user_data": SECRET }));
    made["type"] = json!("qemu");
    bed.agent.ok("CreateGuest", &made);
    stack.virsh_ok(&["domrename", "seed-former", "seed-later"]);
    // A new guest of the former name does not get it.
    let why = bed.agent.error("CreateGuest", &made);
    assert!(why.contains("it belongs to the domain with uuid"), "{why}");
    let mut later = guest("seed-later", &json!({ "hostname": "later" }));
    later["type"] = json!("qemu");
    bed.agent.ok("SetSeed", &later);
    let disk = fs::read(bed.seed("seed-former")).expect("the seed");
    assert!(String::from_utf8_lossy(&disk).contains("later"));
    bed.agent.ok("Delete", &json!({ "id": "seed-later" }));
    assert!(!bed.seed("seed-former").exists());
}

#[test]
fn set_seed_replaces_the_seed_of_the_next_boot() {
    let bed = Bed::new("test:///default");
    let made = guest("again", &json!({ "hostname": "a" }));
    let first = bed.agent.ok("CreateGuest", &made);
    let documents = || {
        let disk =
            String::from_utf8_lossy(&fs::read(bed.seed("again")).expect("a seed")).into_owned();
        let instance = disk.split("instance-id\":\"").nth(1).expect("an instance id");
        let hostname = disk.split("local-hostname\":\"").nth(1).expect("a host name");
        let word = |text: &str| text.split('"').next().expect("its end").to_owned();
        (word(instance), word(hostname))
    };
    let (instance, hostname) = documents();
    assert_eq!(hostname, "a");
    let other = guest("again", &json!({ "hostname": "b" }));
    let set = bed.agent.ok("SetSeed", &other)["guest"].take();
    assert_ne!(set["seed"], first["guest"]["seed"]);
    assert_eq!(documents(), (instance.clone(), "b".to_owned()));
    assert_eq!(bed.agent.ok("SetSeed", &other)["guest"], set, "again");
    // From now on the guest is the one with this seed.
    assert_eq!(bed.agent.ok("CreateGuest", &other)["guest"]["seed"], set["seed"]);
    assert!(bed.agent.error("CreateGuest", &made).contains("already exists"));

    let params = json!({ "guest": other, "args": { "mistify.new_instance": "true" } });
    assert_eq!(bed.agent.call_with("SetSeed", &params)["error"], Value::Null);
    let (renewed, _) = documents();
    assert_ne!(renewed, instance);
    bed.agent.ok("SetSeed", &other);
    assert_eq!(documents(), (renewed, "b".to_owned()), "the instance stays");

    for (asked, why) in [
        (json!({ "id": "again" }), "SetSeed needs cloud_init"),
        (json!({ "id": "nobody", "cloud_init": {} }), "Domain not found"),
        (json!({ "id": "again", "cloud_init": { "password_hash": SECRET } }), "must be a hash of"),
    ] {
        let error = bed.agent.error("SetSeed", &asked);
        assert!(error.contains(why) && !error.contains(SECRET), "{error}");
    }
    let mut bare = guest("bare", &json!(null));
    bare["cloud_init"].take();
    bed.agent.ok("CreateGuest", &bare);
    let error = bed.agent.error("SetSeed", &guest("bare", &json!({})));
    assert!(error.contains("guest bare has no seed"), "{error}");
}

#[test]
fn seed_is_also_accepted_by_rpc() {
    let bed = Bed::new("test:///default");
    let params = json!({ "guest": guest("rpc", &json!({ "user_data": SECRET })) });
    let call = |method: &str| {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let json = [("Content-Type", "application/json")];
        bed.agent.request("POST", "/rpc", &json, body.to_string().as_bytes()).text()
    };
    let answer = call("Libvirt.CreateGuest");
    assert!(answer.contains("hmac-sha256:") && !answer.contains(SECRET), "{answer}");
    assert!(bed.seed("rpc").exists());
    assert!(call("Libvirt.Delete").contains("rpc") && !bed.seed("rpc").exists());
}

#[test]
fn a_seed_has_no_other_users() {
    let bed = Bed::new("test:///default");
    let victim = guest("victim", &json!({ "user_data": SECRET }));
    bed.agent.ok("CreateGuest", &victim);
    let mut thief = guest("thief", &json!({}));
    thief["disks"] = json!([{ "source": bed.seed("victim") }]);
    let why = bed.agent.error("CreateGuest", &thief);
    assert!(why.contains("victim"), "{why}");
    // Nor does the guest's own disk become it.
    let disk = json!({ "volume": "mistify/guests/victim/seed", "size": 1 });
    let params = json!({ "guest": { "id": "victim" }, "disk": disk });
    let answer = bed.agent.call_with("AttachDisk", &params);
    assert!(answer["error"].to_string().contains("must have the form"), "{answer}");
    // The seed is no disk that can be attached, detached, resized or copied.
    let own = json!({ "guest": { "id": "victim" }, "disk": { "source": bed.seed("victim") } });
    let resized = json!({ "guest": { "id": "victim", "disks": [{ "device": "sda", "size": 8 }] } });
    for (method, params) in [
        ("AttachDisk", own),
        ("DetachDisk", json!({ "guest": { "id": "victim" }, "disk": { "device": "sda" } })),
        ("ResizeDisk", resized),
    ] {
        let answer = bed.agent.call_with(method, &params);
        assert!(answer["error"].to_string().contains("guest's seed"), "{method}: {answer}");
    }
    let snapshot = json!({ "id": "guests/victim", "dest": "a", "recursive": true });
    assert_eq!(bed.agent.store_error("CreateSnapshot", &snapshot), None);
    let snapshot = json!({ "id": "guests/victim/seed@a" });
    let why = bed.agent.store_error("RollbackSnapshot", &snapshot);
    assert!(why.as_ref().is_some_and(|why| why.contains("guest's seed")), "{why:?}");
    let json = [("Content-Type", "application/json")];
    let body = snapshot.to_string();
    let store = bed.agent.store_address();
    let reply = bed.agent.request_at(store, "POST", "/snapshots/download", &json, body.as_bytes());
    assert_ne!(reply.status, 200, "{reply:?}");
    assert!(!String::from_utf8_lossy(&reply.body).contains(SECRET), "{reply:?}");
    bed.agent.ok("Delete", &json!({ "id": "victim" }));
    assert!(!bed.seed("victim").exists());
}
