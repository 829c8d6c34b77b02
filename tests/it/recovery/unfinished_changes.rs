//! What was started and could not be ended: stored, shown, and recovered as soon as possible; and calls that
//! are repeated meanwhile.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use mistify_libvirt::config::{BridgeType, Config};
use mistify_libvirt::guest::wire::GuestRequest;
use mistify_libvirt::ops::{Error, Libvirt};
use mistify_libvirt::pool;
use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::support::{Scratch, signal, wait_until};
use crate::recovery::undo::Obstacle;

/// Longer than a loaded machine needs for what takes seconds.
const SOON: Duration = Duration::from_secs(90);

/// Flags of an agent with a store and a state in this directory.
fn flags(stack: &Stack, directory: &Scratch) -> Vec<String> {
    let at = |name: &str| directory.path().join(name).display().to_string();
    let words = [
        ("--libvirt-uri", stack.uri()),
        ("--bridge-type", "linux".to_owned()),
        ("--storage", format!("directory:{}", at("store"))),
        ("--state-dir", at("state")),
    ];
    words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

fn guest(id: &str, mac: &str) -> Value {
    json!({
        "id": id, "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "network": "mistify0", "mac": mac }], "disks": [{ "size": 1 }],
    })
}

/// Domains and networks; the test has the libvirtd to itself.
fn in_libvirt(stack: &Stack) -> String {
    stack.virsh_ok(&["list", "--all", "--name"]) + &stack.virsh_ok(&["net-list", "--all", "--name"])
}

/// The error of a call that may take so many seconds, which is not enough.
fn late_error(agent: &Agent, method: &str, guest: &Value, timeout: &str) -> String {
    let params = json!({ "guest": guest, "args": { "mistify.timeout": timeout } });
    agent.call_with(method, &params)["error"].as_str().unwrap_or_default().to_owned()
}

/// Kills an agent in its CreateGuest at that write to its journal.
pub(crate) fn cut_off(flags: &[impl AsRef<OsStr>], guest: &Value, at: &str) {
    let agent = Agent::start_in(Some(("MISTIFY_STOP_AT", at)), flags);
    assert_eq!(agent.try_call("CreateGuest", guest), None);
    agent.wait();
}

#[test]
fn open_changes_are_shown_and_recovered_with_libvirtd() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let directory = Scratch::new();
    let (flags, guest) = (flags(&stack, &directory), guest("away", "02:00:00:00:74:01"));
    let before = in_libvirt(&stack);
    // The beginning, the volume, the network; the domain is not made any more.
    cut_off(&flags, &guest, "before:4");
    assert_ne!(in_libvirt(&stack), before);
    stack.signal_libvirtd("KILL");

    let agent = Agent::start(&flags);
    wait_until("it says why it cannot recover it", SOON, || {
        let (status, health) = agent.health();
        let open = &health["journal"]["open"][0];
        status == 503
            && (&open["verb"], &open["guest"]) == (&json!("CreateGuest"), &json!("away"))
            && open["why"].is_string()
    });
    let (status, ready) = agent.get("/readyz");
    assert_eq!((status, &ready["why"]), (503, &json!("libvirt cannot be reached")));
    let error = agent.error("CreateGuest", &guest);
    assert!(error.starts_with("[Code-38] "), "{error}");
    assert!(error.ends_with(" (cannot undo an earlier CreateGuest)"), "{error}");
    let dry = json!({ "guest": guest, "args": { "mistify.dry_run": "true" } });
    let planned = agent.call_with("CreateGuest", &dry)["result"]["plan"].take();
    let open = "the agent recovers an earlier CreateGuest first";
    assert_eq!(planned["warnings"][0], open, "{planned}");

    stack.start_libvirtd();
    wait_until("it is recovered", SOON, || agent.is_recovered());
    assert_eq!(in_libvirt(&stack), before);
    wait_until("it is healthy", SOON, || agent.health().0 == 200);
    assert_eq!(agent.get("/readyz").0, 200);
    let made = agent.ok("CreateGuest", &guest)["guest"].take();
    agent.ok("Delete", &made);
    assert_eq!(in_libvirt(&stack), before);
    agent.end();
}

#[test]
fn retry_pauses_grow_until_one_succeeds() {
    crate::harness::cost::slow("waits for retries after 2 s, 4 s and 8 s");
    let directory = Scratch::new();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (store, state) = (format!("directory:{}", at("store")), at("state"));
    let flags = ["--libvirt-uri", "test:///default", "--storage", &store, "--state-dir", &state];
    let guest = json!({
        "id": "barred", "type": "test", "memory": 32, "cpu": 1, "nics": [], "disks": [{ "size": 1 }],
    });
    // The beginning and the volume; the domain is not made any more.
    cut_off(&flags, &guest, "before:3");
    let disk = directory.path().join("store/guests/barred/disk-0");
    let (properties, aside) = (disk.with_file_name("disk-0#"), directory.path().join("aside"));
    fs::rename(&properties, &aside).expect("the volume was made");
    // Whose it is cannot be read.
    fs::create_dir(&properties).expect("a directory can be made");

    let began = Instant::now();
    let agent = Agent::start(&flags);
    let listed = || {
        let answer = agent.ok("Leftovers", &json!({ "id": "" }));
        answer["leftovers"].get(0).cloned().unwrap_or_default()
    };
    wait_until("it is tried again", SOON, || listed()["tries"].as_u64() >= Some(3));
    assert!(began.elapsed() >= Duration::from_secs(6), "after 2 s and 4 s: {:?}", began.elapsed());
    let left = listed();
    assert_eq!((&left["guest"], &left["method"]), (&json!("barred"), &json!("CreateGuest")));
    assert_eq!(left["state"], "open");
    let lines = agent.log().matches("CreateGuest is incomplete; guest=\"barred\"").count();
    assert_eq!(lines, 1, "the same reason is logged once");

    fs::remove_dir(&properties).expect("it is empty");
    fs::rename(&aside, &properties).expect("it can be moved back");
    wait_until("it is recovered", SOON, || agent.is_recovered());
    assert!(!disk.exists() && !properties.exists());
    assert_eq!(listed(), Value::Null);
    agent.end();
}

#[test]
fn interrupted_create_keeps_a_guest_started_by_others() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let directory = Scratch::new();
    let (flags, guest) = (flags(&stack, &directory), guest("taken", "02:00:00:00:74:05"));
    let before = in_libvirt(&stack);
    // The beginning, the volume, the network, the domain; its end is not noted any more.
    cut_off(&flags, &guest, "before:5");
    stack.virsh_ok(&["start", "taken"]);
    let there = in_libvirt(&stack);

    let agent = Agent::start(&flags);
    wait_until("it is recovered", SOON, || agent.is_recovered());
    agent.logged("guest is running; keeping the partial CreateGuest; guest=\"taken\"");
    assert_eq!(in_libvirt(&stack), there);
    assert_eq!(agent.ok("Status", &guest)["guest"]["state"], "running");
    assert!(directory.path().join("store/guests/taken/disk-0").exists());
    agent.ok("Delete", &guest);
    assert_eq!(in_libvirt(&stack), before);
    agent.end();
}

#[test]
fn refused_undo_is_named_and_repeated() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let directory = Scratch::new();
    let (flags, guest) = (flags(&stack, &directory), guest("kept", "02:00:00:00:74:06"));
    let before = in_libvirt(&stack);
    cut_off(&flags, &guest, "before:5");
    let definition = stack.path("/etc/libvirt/qemu/kept.xml");
    fs::remove_file(&definition).expect("it is defined");
    let obstacle = Obstacle::at(definition);

    let agent = Agent::start(&flags);
    wait_until("it says what is left", SOON, || {
        let why = agent.health().1["journal"]["open"][0]["why"].take();
        why.as_str().is_some_and(|why| why.starts_with("cannot remove leftovers: domain kept: "))
    });
    assert!(in_libvirt(&stack).contains("kept\n"));
    drop(obstacle);
    wait_until("it is recovered", SOON, || agent.is_recovered());
    assert_eq!(in_libvirt(&stack), before);
    assert!(!directory.path().join("store/guests/kept").exists());
    agent.end();
}

/// Delays the end of networks as long as a file exists.
const HOOK: &str = "#!/bin/sh
while [ \"$2\" = stopped ] && [ -e /run/hold ]; do sleep 0.05; done
";

#[test]
fn late_delete_completes_with_networks_and_volumes() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let (hook, blocker) = (stack.path("/etc/libvirt/hooks/network"), stack.path("/run/hold"));
    fs::create_dir_all(hook.parent().expect("a directory")).expect("it can be made");
    fs::write(&hook, HOOK).expect("it can be written");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("it is ours");
    // It looks for hooks when it starts.
    stack.signal_libvirtd("KILL");
    stack.start_libvirtd();
    let directory = Scratch::new();
    let (flags, guest) = (flags(&stack, &directory), guest("leaving", "02:00:00:00:74:07"));
    let before = in_libvirt(&stack);
    let agent = Agent::start(&flags);
    let made = agent.ok("CreateGuest", &guest)["guest"].take();
    let disk = directory.path().join("store/guests/leaving/disk-0");

    fs::write(&blocker, "").expect("it can be written");
    let late = late_error(&agent, "Delete", &made, "5");
    assert!(late.starts_with("deadline: Delete leaving not done in "), "{late}");
    assert!(disk.exists());
    fs::remove_file(&blocker).expect("it is there");
    wait_until("it is finished", SOON, || agent.is_recovered());
    agent.logged("finish Delete: done; guest=\"leaving\"");
    assert_eq!(in_libvirt(&stack), before);
    assert!(!disk.parent().expect("a directory").exists());
    agent.end();
}

/// A pipe where libvirtd wants to write a file: it waits until somebody reads.
struct Pipe(PathBuf);

impl Pipe {
    fn at(path: PathBuf) -> Self {
        fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|status| status.success()));
        Self(path)
    }

    /// Lets libvirtd go on, which then finds that a pipe is no file.
    fn read(&self) {
        let mut options = fs::File::options();
        let _reader = options.read(true).custom_flags(libc::O_NONBLOCK).open(&self.0);
        // libvirtd may have been quicker.
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.expect("it can be removed"),
        }
    }
}

#[test]
fn stop_ends_in_time_and_next_start_recovers_the_rest() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let directory = Scratch::new();
    let (flags, guest) = (flags(&stack, &directory), guest("stopped", "02:00:00:00:74:02"));
    let before = in_libvirt(&stack);
    let short = ["--deadline-change", "2"].map(str::to_owned);
    let agent = Agent::start(&[&flags[..], &short].concat());
    let pipe = Pipe::at(stack.path("/etc/libvirt/qemu/stopped.xml.new"));
    // Enough time for a loaded machine to reach the pipe.
    let late = late_error(&agent, "CreateGuest", &guest, "10");
    assert!(late.starts_with("deadline: CreateGuest stopped not done in "), "{late}");

    agent.signal("TERM");
    let asked = Instant::now();
    assert!(agent.wait().success());
    // The deadline and 5 s, for the fronts and for the pool: some 14 s. The unit gives it 90 s; the pipe waits for
    // ever.
    assert!(asked.elapsed() < Duration::from_secs(45), "{:?}", asked.elapsed());
    let intents = fs::read_dir(directory.path().join("state/intents")).expect("a directory");
    assert_eq!(intents.count(), 1);

    pipe.read();
    let agent = Agent::start(&flags);
    wait_until("it is recovered", SOON, || agent.is_recovered());
    assert_eq!(in_libvirt(&stack), before);
    agent.ok("Delete", &agent.ok("CreateGuest", &guest)["guest"]);
    assert_eq!(in_libvirt(&stack), before);
    agent.end();
}

#[test]
fn a_read_that_hangs_does_not_keep_a_stop() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let Some(disk) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    stack.boot("qemu", "hung", &disk);
    // A stop may take as long as a change, and 5 s.
    let agent = Agent::start(&["--libvirt-uri", &stack.uri(), "--deadline-change", "600"]);
    let hung = json!({ "id": "hung", "disks": [{ "device": "vda" }] });
    agent.ok("Status", &hung);
    signal(stack.qemu_pid("hung").expect("it runs"), "STOP");
    let params = json!({ "guest": hung, "args": { "mistify.timeout": "1" } });
    let answer = agent.call_with("DiskMetrics", &params);
    assert!(answer["error"].as_str().is_some_and(|it| it.starts_with("deadline: ")), "{answer}");

    agent.signal("TERM");
    let asked = Instant::now();
    assert!(agent.wait().success());
    // Not a tenth of that; the unit gives it 90 s.
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
}

#[test]
fn same_create_waits_and_gets_the_same_answer() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let directory = Scratch::new();
    let agent = Agent::start(&flags(stack, &directory));
    let guest = guest("twice", "02:00:00:00:74:03");
    let answers: Vec<Value> = thread::scope(|scope| {
        let callers = [(); 6].map(|()| scope.spawn(|| agent.ok("CreateGuest", &guest)));
        callers.map(|caller| caller.join().expect("it answers")).into()
    });
    assert_eq!(answers[0]["guest"]["disks"][0]["volume"], "mistify/guests/twice/disk-0");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    agent.ok("Delete", &answers[0]["guest"]);
    agent.end();
}

#[test]
fn same_create_after_a_late_one_succeeds_after_undo() {
    let Some(stack) = require("qemu", Stack::start()) else { return };
    let directory = Scratch::new();
    let mut config = Config::default();
    config.host.libvirt_uri = stack.uri();
    config.host.bridge_type = BridgeType::Linux;
    config.state_dir = Some(directory.path().join("state"));
    // So that the only worker has a connection when libvirtd stops.
    config.pool.control_workers = 1;
    let agent = Libvirt::with_config(&config).expect("threads can be started");
    let request = |timeout: &str| GuestRequest {
        guest: serde_json::from_value(json!({
            "id": "late", "type": "qemu", "memory": 32, "cpu": 1,
            "nics": [{ "network": "mistify0", "mac": "02:00:00:00:74:04" }],
        }))
        .expect("a guest"),
        args: BTreeMap::from([("mistify.timeout".to_owned(), timeout.to_owned())]),
        ..GuestRequest::default()
    };
    let before = in_libvirt(&stack);
    agent.create_guest(request("60")).expect("it can be made");
    agent.delete(request("60")).expect("it is there");

    stack.signal_libvirtd("STOP");
    let late = agent.create_guest(request("3")).expect_err("nobody answers");
    assert!(matches!(late, Error::Pool(pool::Error::Late { .. })), "{late}");
    stack.signal_libvirtd("CONT");
    // As an orchestrator does: until it works. The first one was not called off.
    wait_until("the second succeeds", SOON, || agent.create_guest(request("60")).is_ok());
    assert_eq!(agent.core.open_intents(), []);
    let made = in_libvirt(&stack);
    assert!(made.contains("late\n") && made.contains("02:00:00:00:74:04"), "{made}");
    agent.delete(request("60")).expect("it is there");
    assert_eq!(in_libvirt(&stack), before);
    assert!(agent.stop(SOON));
}
