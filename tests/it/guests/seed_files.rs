//! Seeds of files: Ignition's configuration and systemd's credentials.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::guests::seeds::Bed;
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::linux::{Console, SMALL_MIB, small_disk};
use crate::harness::skip::{Skip, require};
use crate::harness::stack::{Bridge, Cgroup, Stack};
use crate::harness::support::{Scratch, files_below};

/// Of these tests alone: the console logs of guests beside theirs have others.
const SECRET: &str = "fjord-anvil-ember-41";

fn guest(id: &str, seed: &Value) -> Value {
    let mut guest =
        json!({ "id": id, "type": "test", "memory": 64, "cpu": 1, "disks": [{ "size": 1 }] });
    let members = guest.as_object_mut().expect("an object");
    members.extend(seed.as_object().expect("an object").clone());
    guest
}

fn ignition(text: &str) -> Value {
    let config = json!({ "ignition": { "version": "3.4.0" }, "passwd": text });
    json!({ "ignition": config.to_string() })
}

/// The files of seeds in the state directory, without the directories.
fn seed_files(bed: &Bed) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let seeds = bed.files.path().join("state/seeds");
    if seeds.exists() {
        files_below(&seeds, &mut found);
    }
    found.into_iter().map(PathBuf::from).filter(|path| path.is_file()).collect()
}

#[test]
fn a_real_linux_reads_items_of_fw_cfg() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(&stack.uri());
    let Some(disk) = require("qemu", small_disk(&bed.files)) else { return };
    let config = ignition(SECRET);
    let of_ignition = config["ignition"].as_str().expect("a text");
    let credentials = json!({ "credentials": { "ssh.authorized_keys.root": SECRET, "a@b": "x" } });
    for (profile, seed, items) in [
        (
            "modern",
            &config,
            [("com.coreos/config", of_ignition), ("org.flatcar-linux/config", of_ignition)],
        ),
        (
            "classic",
            &credentials,
            [
                ("io.systemd.credentials/ssh.authorized_keys.root", SECRET),
                ("io.systemd.credentials/a@b", "x"),
            ],
        ),
    ] {
        let id = format!("items-{profile}");
        let mut made = guest(&id, seed);
        made["type"] = json!("qemu");
        made["memory"] = json!(SMALL_MIB);
        made["profile"] = json!(profile);
        made["disks"] = json!([{ "source": disk }]);
        let mut answers = vec![bed.agent.ok("CreateGuest", &made), bed.agent.ok("Run", &made)];
        let mut console = Console::log_in(stack, &id);
        for (item, text) in items {
            // The host keeps what the console shows.
            let sum = format!("sha256sum </sys/firmware/qemu_fw_cfg/by_name/opt/{item}/raw");
            let hash = hmac_sha256::Hash::hash(text.as_bytes());
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(console.run(&sum), format!("{hash}  -\n"), "{item}");
        }
        for method in ["Status", "Describe", "List", "CreateGuest"] {
            answers.push(bed.agent.ok(method, &made));
        }
        let xml = stack.virsh_ok(&["dumpxml", &id]);
        answers.push(json!(xml));
        let said = json!(answers).to_string();
        assert!(!said.contains(SECRET), "{said}");
        assert!(xml.contains("fwcfg") && xml.contains("-hmac-sha256:"), "{xml}");
        // The files of libvirt for the guest, and QEMU's arguments.
        let mut libvirts = Vec::new();
        for directory in ["/etc/libvirt/qemu", "/run/libvirt/qemu", "/var/log/libvirt/qemu"] {
            files_below(&stack.path(directory), &mut libvirts);
        }
        let pid = stack.qemu_pid(&id).expect("it runs");
        libvirts.push(format!("/proc/{pid}/cmdline"));
        for path in libvirts {
            let has = fs::read(&path).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&has).contains(SECRET), "{path}");
        }
        assert_eq!(bed.files_with(SECRET), Vec::<String>::new());
        assert!(!bed.agent.log().contains(SECRET));
        assert!(bed.agent.error("SetSeed", &made).contains("is running"));
        bed.agent.ok("Poweroff", &json!({ "id": id }));
        bed.agent.ok("SetSeed", &made);
        bed.agent.ok("Delete", &json!({ "id": id }));
        assert_eq!(seed_files(&bed), Vec::<PathBuf>::new());
    }
}

#[test]
fn the_same_files_are_the_same_guest() {
    let bed = Bed::new("test:///default");
    for (id, seed, other) in [
        ("fire", ignition("a"), ignition("b")),
        ("door", json!({ "credentials": { "a": "b" } }), json!({ "credentials": { "a": "c" } })),
    ] {
        let made = guest(id, &seed);
        let first = bed.agent.ok("CreateGuest", &made);
        let files = seed_files(&bed);
        assert_eq!(files.len(), 1);
        let mode = fs::metadata(&files[0]).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(bed.agent.ok("CreateGuest", &made), first);
        // What was answered is the same guest, too.
        assert_eq!(bed.agent.ok("CreateGuest", &first["guest"]), first);
        assert!(bed.agent.error("CreateGuest", &guest(id, &other)).contains("already exists"));
        let of_cloud_init = guest(id, &json!({ "cloud_init": { "user": "a" } }));
        assert!(bed.agent.error("CreateGuest", &of_cloud_init).contains("already exists"));
        assert_eq!(seed_files(&bed), files);
        let of_others = guest(id, &json!({ "cloud_init": { "user": "a" } }));
        let why = bed.agent.error("SetSeed", &of_others);
        assert!(why.contains("has no seed"), "{why}");
        bed.agent.ok("Delete", &json!({ "id": id }));
        assert_eq!(seed_files(&bed), Vec::<PathBuf>::new());
        let why = bed.agent.error("CreateGuest", &first["guest"]);
        assert!(why.contains("seed is the fingerprint of"), "{why}");
    }
}

#[test]
fn refused_files_are_not_repeated() {
    let bed = Bed::new("test:///default");
    for (seed, why) in [
        (json!({ "ignition": SECRET }), "must be a JSON object"),
        (json!({ "ignition": { SECRET: 1 } }), "its content is secret"),
        (json!({ "ignition": "{}", "cloud_init": {} }), "must not be set with cloud_init"),
        (json!({ "credentials": { SECRET: { SECRET: 1 } } }), "its content is secret"),
        (json!({ "credentials": { "a/b": SECRET } }), "must have names of"),
        (json!({ "credentials": [SECRET] }), "its content is secret"),
        (json!({ "credentials": { "a": SECRET.repeat(40_000) } }), "credentials"),
    ] {
        for dry_run in [false, true] {
            let params = json!({ "guest": guest("refused", &seed), "dry_run": dry_run });
            let call = json!({ "method": "Libvirt.CreateGuest", "params": [params], "id": 1 });
            let answer = bed.agent.post(call.to_string().as_bytes()).text();
            assert!(answer.contains(why), "{answer}");
            assert!(!answer.contains(SECRET), "{answer}");
        }
    }
    for seed in [ignition(SECRET), json!({ "credentials": { "a": SECRET } })] {
        for (method, args, why) in [
            ("CreateGuest", json!({ "mistify.async": "true" }), "cannot be in a job"),
            ("Create", json!({}), "call CreateGuest"),
        ] {
            let params = json!({ "guest": guest("refused", &seed), "args": args });
            let answer = bed.agent.call_with(method, &params).to_string();
            assert!(answer.contains(why) && !answer.contains(SECRET), "{answer}");
        }
        let mut misplaced = json!({ "args": { "mistify.async": "true" }, "guest": { "id": "a" } });
        misplaced
            .as_object_mut()
            .expect("an object")
            .extend(seed.as_object().cloned().expect("one"));
        let answer = bed.agent.call_with("SetMetadata", &misplaced).to_string();
        assert!(answer.contains("cannot be in a job") && !answer.contains(SECRET), "{answer}");
    }
    for name in ["ignition_config", "Cloud-Init", "credential"] {
        let guest = json!({ "id": "a", name: SECRET });
        let params = json!({ "args": { "mistify.async": "true" }, "guest": guest });
        let answer = bed.agent.call_with("SetMetadata", &params).to_string();
        assert!(answer.contains("cannot be in a job") && !answer.contains(SECRET), "{answer}");
    }
    assert_eq!(bed.files_with(SECRET), Vec::<String>::new());
    assert_eq!(seed_files(&bed), Vec::<PathBuf>::new());
    assert!(!bed.agent.log().contains(SECRET));
}

#[test]
fn ordinary_values_can_be_in_a_job() {
    let bed = Bed::new("test:///default");
    let mut made = guest("plain", &json!({}));
    made["metadata"] = json!({ "role": "credentials", "ignition": "cloud_init" });
    let params = json!({ "args": { "mistify.async": "true" }, "guest": made });
    let answer = bed.agent.call_with("CreateGuest", &params);
    assert_eq!(answer["error"], Value::Null, "{answer}");
}

#[test]
fn a_dry_run_shows_the_files_and_makes_none() {
    let bed = Bed::new("test:///default");
    let made = guest("dry", &json!({ "credentials": { "token": SECRET } }));
    let params = json!({ "guest": made, "dry_run": true });
    let answer = bed.agent.call_with("CreateGuest", &params);
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let text = answer.to_string();
    assert!(text.contains("create files") && text.contains("state/seeds/UUID"), "{text}");
    assert!(text.contains("opt/io.systemd.credentials/token") && !text.contains(SECRET), "{text}");
    assert!(!bed.files.path().join("state/seeds").exists());
    bed.agent.ok("CreateGuest", &made);
    assert_eq!(seed_files(&bed).len(), 1);
    let of_delete = json!({ "guest": { "id": "dry" }, "dry_run": true });
    let text = bed.agent.call_with("Delete", &of_delete).to_string();
    assert!(text.contains("remove files") && text.contains("state/seeds/"), "{text}");
}

#[test]
fn set_seed_makes_the_files_again() {
    let bed = Bed::new("test:///default");
    let made = guest("again", &json!({ "credentials": { "one": "1", "two": "2" } }));
    let first = bed.agent.ok("CreateGuest", &made);
    let other = guest("again", &json!({ "credentials": { "two": "new", "three": "3" } }));
    let set = bed.agent.ok("SetSeed", &other)["guest"].take();
    assert_ne!(set["seed"], first["guest"]["seed"]);
    let mut found: Vec<(String, String)> = Vec::new();
    for path in seed_files(&bed) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        found.push((name, fs::read_to_string(&path).expect("a text")));
    }
    found.sort();
    let expected = [("credential-three", "3"), ("credential-two", "new")];
    assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    assert_eq!(bed.agent.ok("SetSeed", &other)["guest"], set, "again");
    assert_eq!(bed.agent.ok("CreateGuest", &other)["guest"]["seed"], set["seed"]);
    assert!(bed.agent.error("CreateGuest", &made).contains("already exists"));
    for (asked, why) in [
        (guest("again", &ignition("a")), "has no such seed"),
        (guest("again", &json!({ "cloud_init": {} })), "has no seed"),
        (guest("nobody", &ignition("a")), "Domain not found"),
        (guest("again", &json!({ "ignition": SECRET })), "must be a JSON object"),
    ] {
        let error = bed.agent.error("SetSeed", &asked);
        assert!(error.contains(why) && !error.contains(SECRET), "{error}");
    }
    let params = json!({ "guest": other, "args": { "mistify.new_instance": "true" } });
    let answer = bed.agent.call_with("SetSeed", &params).to_string();
    assert!(answer.contains("mistify.new_instance needs cloud_init"), "{answer}");
}

#[test]
fn set_seed_keeps_the_password_of_a_display() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let bed = Bed::new(&stack.uri());
    let mut made = guest("seed-display", &ignition("a"));
    made["type"] = json!("qemu");
    made["disks"].take();
    bed.agent.ok("CreateGuest", &made);
    let dump = || stack.virsh_ok(&["dumpxml", "--inactive", "--security-info", "seed-display"]);
    let display = "<graphics type='vnc' passwd='hushed'/></devices>";
    let defined = stack.with_xml("define", &dump().replace("</devices>", display));
    assert!(defined.status.success(), "{defined:?}");
    made["ignition"] = ignition("b")["ignition"].take();
    bed.agent.ok("SetSeed", &made);
    assert!(dump().contains("passwd='hushed'"));
    bed.agent.ok("Delete", &made);
}

#[test]
fn a_host_without_zfs_has_seeds_of_files() {
    let state = Scratch::new();
    let path = state.path().display().to_string();
    let flags = ["--libvirt-uri", "test:///default", "--state-dir", &path];
    let agent = Agent::run(Command::new(PROGRAM), &flags.map(str::to_owned));
    let mut made = guest("bare", &ignition("a"));
    made["disks"].take();
    agent.ok("CreateGuest", &made);
    agent.ok("Delete", &json!({ "id": "bare" }));
    assert_eq!(fs::read_dir(state.path().join("seeds")).expect("a directory").count(), 0);
}

/// What libvirt's helper makes AppArmor's profile of a guest with.
const AA_HELPER: &str = "/usr/lib/libvirt/virt-aa-helper";

/// The rules of AppArmor's profile of a guest, as libvirt would make it when the guest starts.
fn apparmor_profile(stack: &Stack, id: &str) -> String {
    let uuid = stack.virsh_ok(&["domuuid", id]);
    let mut helper = Command::new(AA_HELPER)
        .args(["--dryrun", "--replace", "--uuid", &format!("libvirt-{}", uuid.trim())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let xml = stack.virsh_ok(&["dumpxml", id]);
    let mut input = helper.stdin.take().expect("it is piped");
    input.write_all(xml.as_bytes()).expect("it reads");
    drop(input);
    let output = helper.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether every user can enter the directory of the tests' scratch files.
fn open_to_all() -> Result<(), Skip> {
    let is_closed = |path: &&Path| {
        let mode = fs::metadata(path).expect("a directory").permissions().mode();
        mode & 0o001 == 0
    };
    match Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().find(is_closed) {
        Some(closed) => Err(Skip(format!("other users cannot enter {}", closed.display()))),
        None => Ok(()),
    }
}

#[test]
fn a_directory_closed_to_qemu_is_named() {
    let stack = Stack::start_as("libvirt-qemu", Cgroup::V2, Bridge::Linux);
    let Some(stack) = require("qemu", stack.and_then(|stack| open_to_all().map(|()| stack))) else {
        return;
    };
    let bed = Bed::new(&stack.uri());
    let state = bed.files.path().join("state");
    let mut made = guest("closed", &ignition("a"));
    made["type"] = json!("qemu");
    made["disks"].take();
    fs::set_permissions(&state, Permissions::from_mode(0o700)).expect("it is ours");
    let why = bed.agent.error("CreateGuest", &made);
    let remedy = format!("cannot enter {0}; run chmod o+x {0}", state.display());
    assert!(why.contains(&remedy), "{why}");
    assert_eq!(seed_files(&bed), Vec::<PathBuf>::new());
    for open in [bed.files.path(), &state] {
        fs::set_permissions(open, Permissions::from_mode(0o711)).expect("it is ours");
    }
    // QEMU reads all items before it starts, and the file is the agent's again when it is off.
    bed.agent.ok("CreateGuest", &made);
    let owner = || fs::metadata(&seed_files(&bed)[0]).expect("one").uid();
    let before = owner();
    if Path::new(AA_HELPER).exists() {
        let rule = format!("{:?} r,", seed_files(&bed)[0]);
        let profile = apparmor_profile(&stack, "closed");
        assert!(profile.contains(&rule), "{rule} in {profile}");
    }
    bed.agent.ok("Run", &made);
    assert_ne!(owner(), before, "libvirt has given it to QEMU's user");
    bed.agent.ok("Poweroff", &made);
    assert_eq!(owner(), before);
    bed.agent.ok("Delete", &made);
}
