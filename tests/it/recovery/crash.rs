//! The agent killed as `kill -9` does it, on a real libvirtd, and started again: nothing is left
//! over, nothing else is gone, and the same call then succeeds. Here the disks lie in a directory, in
//! `lab::crash` on ZFS.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::cost::slow;
use crate::harness::skip::require;
use crate::harness::stack::{Stack, in_libvirt, wait_for_libvirt};
use crate::harness::support::{Scratch, files_below, signal, wait_for, wait_until};

/// Longer than a loaded machine needs to recover what was left open.
const SOON: Duration = Duration::from_secs(240);
/// Random kills of one test.
const KILLS: u32 = 200;
/// A kill comes within this of the first call: longer than a create and a delete take.
const KILL_WITHIN: Duration = Duration::from_millis(400);
/// Callers under random kills, each with a guest of its own.
const CALLERS: u8 = 3;
/// More writes to the journal than any verb of these tests makes.
const WRITES_MAX: usize = 40;

/// A libvirtd and a store.
pub(crate) trait Host: Sync {
    /// What libvirt's clients connect to.
    fn uri(&self) -> String;
    /// The agent's flags that select the store.
    fn storage(&self) -> [String; 2];
    /// What a virsh command says.
    fn virsh(&self, words: &[&str]) -> String;
    /// Returns all objects in the store.
    fn stored(&self) -> Vec<String>;
}

/// The libvirtd of the tests that kill agents, and a directory.
struct OnDirectory {
    stack: &'static Stack,
    store: Scratch,
}

impl Host for OnDirectory {
    fn uri(&self) -> String {
        self.stack.uri()
    }

    fn storage(&self) -> [String; 2] {
        ["--storage".to_owned(), format!("directory:{}", self.store.path().display())]
    }

    fn virsh(&self, words: &[&str]) -> String {
        self.stack.virsh_ok(words)
    }

    fn stored(&self) -> Vec<String> {
        let mut found = Vec::new();
        files_below(self.store.path(), &mut found);
        found
    }
}

/// A host with a state and names of this test's own.
pub(crate) struct Bed<'a> {
    host: &'a dyn Host,
    state: Scratch,
    /// A part of all names.
    name: &'static str,
    net: u8,
    /// Whether its guests' seeds are files, and no disks.
    has_files: bool,
}

impl<'a> Bed<'a> {
    pub(crate) fn new(host: &'a dyn Host, name: &'static str, net: u8) -> Self {
        slow("kills the agent and starts it again, many times");
        Self { host, state: Scratch::new(), name, net, has_files: false }
    }

    /// The same with guests that have seeds of files.
    fn with_files(host: &'a dyn Host, name: &'static str, net: u8) -> Self {
        Self { has_files: true, ..Self::new(host, name, net) }
    }

    /// An agent, which dies at that write to its journal.
    fn agent(&self, stop_at: Option<&str>) -> Agent {
        let mut flags = Vec::from(self.host.storage());
        let (uri, state) = (self.host.uri(), self.state.path().to_str().expect("UTF-8"));
        let more = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--state-dir", state];
        flags.extend(more.map(str::to_owned));
        // A call that is late on a slow machine would look like one that lived.
        flags.extend(["--deadline-change", "240"].map(str::to_owned));
        Agent::start_in(stop_at.map(|at| ("MISTIFY_STOP_AT", at)), &flags)
    }

    fn guest(&self, number: u8) -> Value {
        let nic = |nic: u8| {
            let mac = format!("02:00:00:{:02x}:{number:02x}:{nic:02x}", self.net);
            json!({ "network": "mistify0", "mac": mac })
        };
        let mut guest = json!({
            "id": format!("{}-{number}", self.name), "type": "qemu", "memory": 32, "cpu": 1,
            "nics": [nic(1), nic(2)], "disks": [{ "size": 1 }, { "size": 2 }],
        });
        match self.has_files {
            true => guest["credentials"] = json!({ "one": "1", "two": "2" }),
            false => guest["cloud_init"] = json!({ "user_data": "#!/bin/sh" }),
        }
        guest
    }

    /// Returns all domains with their devices and networks of this test, and all stored objects.
    fn everything(&self) -> Vec<String> {
        let mut found = self.host.stored();
        let seeds = self.state.path().join("seeds");
        if seeds.exists() {
            let mut files = Vec::new();
            files_below(&seeds, &mut files);
            // A new domain has another uuid.
            let name = |path: &String| path.rsplit('/').next().unwrap_or_default().len();
            found.extend(files.iter().map(|path| format!("of a seed: {}", name(path))));
        }
        let macs = format!("02:00:00:{:02x}:", self.net);
        // Tests share the libvirtd: the name of another test's guest may contain this one.
        let guests = format!("{}-", self.name);
        let ours = |line: &str| {
            let name = line.trim_start();
            name.starts_with(&guests) || name.starts_with(&macs)
        };
        let there = in_libvirt(|words| self.host.virsh(words), ours);
        for domain in there.iter().filter(|line| line.starts_with(&guests)) {
            for list in ["domblklist", "domiflist"] {
                let devices = self.host.virsh(&[list, domain, "--inactive"]);
                found.extend(devices.lines().map(|device| format!("{domain} {device}")));
            }
        }
        found.extend(there);
        found.sort();
        found
    }

    /// Files of intents.
    fn intents(&self) -> usize {
        fs::read_dir(self.state.path().join("intents")).expect("a directory").count()
    }

    /// Waits until nothing is open in the journal.
    fn complete(&self, agent: &Agent) {
        wait_until("everything is recovered", SOON, || agent.is_recovered());
        assert_eq!(self.intents(), 0);
        let aside = fs::read_dir(self.state.path().join("set-aside")).expect("a directory");
        assert_eq!(aside.count(), 0);
    }
}

/// What was there when an agent that had died during a verb was started again.
struct Death {
    /// The write to the journal that it died at, `before:1`.
    at: String,
    there: Vec<String>,
}

/// Calls a verb of agents that die at each write to their journal in turn, until one lives; `prepare`
/// and `after` are called with one that does not die.
fn at_every_write(
    bed: &Bed,
    verb: &str,
    params: &Value,
    prepare: impl Fn(&Agent),
    after: impl Fn(&Agent),
) -> Vec<Death> {
    let points = (1..WRITES_MAX).flat_map(|n| [format!("before:{n}"), format!("after:{n}")]);
    let mut deaths = Vec::new();
    for at in points {
        let first = bed.agent(None);
        prepare(&first);
        first.end();
        let agent = bed.agent(Some(&at));
        if let Some(answer) = agent.try_call_with(verb, params) {
            assert_eq!(answer["error"], Value::Null, "{verb} at {at}");
            agent.end();
            return deaths;
        }
        let status = agent.wait();
        assert_eq!(status.code(), None, "killed at {at}: {status}");
        wait_for_libvirt(&bed.host.uri());
        let next = bed.agent(None);
        bed.complete(&next);
        deaths.push(Death { at, there: bed.everything() });
        after(&next);
        next.end();
    }
    panic!("{verb} writes more than {WRITES_MAX} times");
}

pub(crate) fn create_is_undone(bed: &Bed) {
    let agent = bed.agent(None);
    agent.ok("CreateGuest", &bed.guest(2));
    agent.end();
    let bystander = bed.everything();
    let again = |agent: &Agent| {
        let made = agent.ok("CreateGuest", &bed.guest(1))["guest"].take();
        assert_ne!(bed.everything(), bystander);
        agent.ok("Delete", &made);
        assert_eq!(bed.everything(), bystander);
    };
    let mut deaths =
        at_every_write(bed, "CreateGuest", &json!({ "guest": bed.guest(1) }), |_| {}, again);
    // The beginning, two volumes, the seed or its files, two networks, the domain, the end.
    assert_eq!(deaths.len(), 2 * 8);
    let done = deaths.pop().expect("some");
    assert_ne!(done.there, bystander, "{}: it was done, and stays", done.at);
    for death in deaths {
        assert_eq!(death.there, bystander, "{}", death.at);
    }
    let agent = bed.agent(None);
    agent.ok("Delete", &bed.guest(1));
    agent.ok("Delete", &bed.guest(2));
    agent.end();
}

pub(crate) fn delete_is_finished(bed: &Bed) {
    let agent = bed.agent(None);
    agent.ok("CreateGuest", &bed.guest(2));
    let bystander = bed.everything();
    agent.ok("CreateGuest", &bed.guest(1));
    let whole = bed.everything();
    agent.end();
    let prepare = |agent: &Agent| {
        agent.ok("Run", &agent.ok("CreateGuest", &bed.guest(1))["guest"]);
        assert_eq!(bed.everything(), whole);
    };
    // By its id alone: what it has is known from its definition, or from the journal.
    let id = json!({ "guest": { "id": bed.guest(1)["id"] } });
    let deaths = at_every_write(bed, "Delete", &id, prepare, |_| {});
    // The beginning, what leaves, the files of the seed if there are some, the domain, the end.
    assert_eq!(deaths.len(), if bed.has_files { 2 * 5 } else { 2 * 4 });
    for (number, death) in deaths.iter().enumerate() {
        let is_started = number + 3 >= deaths.len();
        assert_eq!(death.there, if is_started { &bystander[..] } else { &whole }, "{}", death.at);
    }
    let agent = bed.agent(None);
    agent.ok("Delete", &bed.guest(2));
    agent.end();
}

/// Has an agent die in the Delete of a guest after its domain was recorded, with an obstacle in the way of its
/// volumes: the next agent finishes the rest, lists what is left, and its guest is not locked.
pub(crate) fn delete_meets(bed: &Bed, obstacle: impl FnOnce()) {
    let agent = bed.agent(None);
    agent.ok("CreateGuest", &bed.guest(1));
    agent.end();
    obstacle();
    let dying = bed.agent(Some("after:3"));
    assert_eq!(dying.try_call("Delete", &bed.guest(1)), None);
    dying.wait();
    wait_for_libvirt(&bed.host.uri());
    let agent = bed.agent(None);
    let id = &bed.guest(1)["id"];
    wait_until("it is a leftover", SOON, || {
        let answer = agent.ok("Leftovers", &json!({ "id": id }));
        answer["leftovers"].get(0).is_some_and(|left| left["state"] == "left")
    });
    let bare = json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "nics": [] });
    agent.ok("CreateGuest", &bare);
    // All with its mark go with it, and what stays is named.
    agent.error("Delete", &bare);
    agent.end();
}

/// Has an agent die in a CreateGuest after it has made the first volume, with an obstacle in the way of its undoing:
/// the next agent names what it cannot remove.
pub(crate) fn undo_meets(bed: &Bed, obstacle: impl FnOnce(), named: &str) {
    let dying = bed.agent(Some("after:3"));
    assert_eq!(dying.try_call("CreateGuest", &bed.guest(1)), None);
    dying.wait();
    wait_for_libvirt(&bed.host.uri());
    obstacle();
    let agent = bed.agent(None);
    wait_until("it is named", SOON, || {
        let answer = agent.ok("Leftovers", &json!({ "id": bed.guest(1)["id"] }));
        answer["leftovers"][0]["objects"].to_string().contains(named)
    });
    agent.end();
}

/// Has an agent remove all leftovers.
pub(crate) fn leftovers_go(bed: &Bed) {
    let agent = bed.agent(None);
    wait_until("nothing is left over", SOON, || {
        agent.ok("RemoveLeftovers", &json!({ "id": "" }))["leftovers"] == json!([])
    });
    agent.end();
}

/// The disk or NIC that is attached to the first guest.
fn device(bed: &Bed, kind: &str) -> Value {
    match kind {
        "Disk" => json!({ "device": "vdc", "size": 1 }),
        _ => json!({ "network": "mistify0", "mac": format!("02:00:00:{:02x}:01:03", bed.net) }),
    }
}

fn device_call(bed: &Bed, kind: &str) -> Value {
    json!({ "guest": { "id": bed.guest(1)["id"] }, kind.to_lowercase(): device(bed, kind) })
}

fn attached(agent: &Agent, bed: &Bed, kind: &str) {
    let answer = agent.call_with(&format!("Attach{kind}"), &device_call(bed, kind));
    assert_eq!(answer["error"], Value::Null);
}

pub(crate) fn attach_is_undone(bed: &Bed, kind: &str) {
    let agent = bed.agent(None);
    agent.ok("CreateGuest", &bed.guest(1));
    agent.end();
    let without = bed.everything();
    let again = |agent: &Agent| {
        if bed.everything() == without {
            // The stored request is the same, too.
            agent.ok("CreateGuest", &bed.guest(1));
        }
        attached(agent, bed, kind);
        assert_ne!(bed.everything(), without);
        agent.ok("Delete", &bed.guest(1));
        agent.ok("CreateGuest", &bed.guest(1));
        // Delete finds the NIC's network in the stored request, and the volume by its mark.
        assert_eq!(bed.everything(), without);
    };
    let verb = format!("Attach{kind}");
    let mut deaths = at_every_write(bed, &verb, &device_call(bed, kind), |_| {}, again);
    // The beginning, the volume or network, the device, the end.
    assert_eq!(deaths.len(), 2 * 4);
    let done = deaths.pop().expect("some");
    assert_ne!(done.there, without, "{}: it was done, and stays", done.at);
    for death in deaths {
        assert_eq!(death.there, without, "{}", death.at);
    }
    let agent = bed.agent(None);
    agent.ok("Delete", &bed.guest(1));
    agent.end();
}

pub(crate) fn detach_is_finished(bed: &Bed, kind: &str) {
    let agent = bed.agent(None);
    let all = |agent: &Agent| {
        agent.try_call("Delete", &bed.guest(1));
        agent.ok("CreateGuest", &bed.guest(1));
        attached(agent, bed, kind);
        bed.everything()
    };
    let whole = all(&agent);
    agent.end();
    let after = |agent: &Agent| {
        if bed.everything() != whole {
            agent.ok("CreateGuest", &bed.guest(1));
        }
    };
    let prepare = |agent: &Agent| assert_eq!(all(agent), whole);
    let verb = format!("Detach{kind}");
    let deaths = at_every_write(bed, &verb, &device_call(bed, kind), prepare, after);
    // The beginning, the device, the end.
    assert_eq!(deaths.len(), 2 * 3);
    for (number, death) in deaths.iter().enumerate() {
        let is_started = number >= 3;
        assert_eq!(death.there != whole, is_started, "{}: {:?}", death.at, death.there);
        assert_eq!(
            death.there,
            if is_started { &deaths[5].there[..] } else { &whole },
            "{}",
            death.at
        );
    }
    let agent = bed.agent(None);
    agent.ok("Delete", &bed.guest(1));
    agent.end();
}

pub(crate) fn random_kills(bed: &Bed, kills: u32, within: Duration) {
    let first = bed.agent(None);
    // The first use makes the store's directories, which stay.
    first.ok("Delete", &first.ok("CreateGuest", &bed.guest(0))["guest"]);
    let clean = bed.everything();
    first.end();
    let mut cut_off = 0;
    let mut random = 0x5DEE_CE66_u64;
    for _ in 0..kills {
        // Numerical Recipes' constants: any spread will do.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % (1 << 32);
        let agent = bed.agent(None);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 0..CALLERS {
                let (agent, is_over) = (&agent, &is_over);
                scope.spawn(move || {
                    let guest = bed.guest(number);
                    while !is_over.load(Ordering::Relaxed) {
                        agent.try_call("CreateGuest", &guest);
                        agent.try_call("Delete", &guest);
                    }
                });
            }
            let thousandth = u32::try_from(random % 1000).expect("it is small");
            thread::sleep(within * thousandth / 1000);
            agent.signal("KILL");
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(agent.wait().code(), None);
        wait_for_libvirt(&bed.host.uri());
        cut_off += usize::from(bed.intents() > 0);
    }
    println!("{cut_off} of {kills} kills cut a verb off between its steps");
    assert!(cut_off > 0);
    let last = bed.agent(None);
    bed.complete(&last);
    for number in 0..CALLERS {
        let guest = bed.guest(number);
        // A half one would differ, or miss a volume; one that is not there is made.
        let made = last.ok("CreateGuest", &guest)["guest"].take();
        last.ok("Delete", &made);
    }
    assert_eq!(bed.everything(), clean);
    last.end();
}

/// Kills the agent while its `zfs create` runs, which goes on when the next agent has started to recover.
pub(crate) fn a_command_outlives_its_agent(bed: &Bed) {
    let first = bed.agent(None);
    let clean = {
        first.ok("Delete", &first.ok("CreateGuest", &bed.guest(1))["guest"]);
        bed.everything()
    };
    let guest = bed.guest(1);
    let command = thread::scope(|scope| {
        scope.spawn(|| first.try_call("CreateGuest", &guest));
        let command = wait_for("a volume is being made", SOON, || zfs_create_of(first.pid()));
        signal(command, "STOP");
        first.signal("KILL");
        command
    });
    assert_eq!(first.wait().code(), None);
    wait_for_libvirt(&bed.host.uri());

    let next = bed.agent(None);
    let waits = "a zfs command of the former agent still runs";
    let open = || next.health().1["journal"]["open"][0]["why"].clone();
    wait_until("recovery waits for it", SOON, || {
        open().as_str().is_some_and(|why| why.contains(waits))
    });
    signal(command, "CONT");
    bed.complete(&next);
    let made = next.ok("CreateGuest", &guest)["guest"].take();
    next.ok("Delete", &made);
    assert_eq!(bed.everything(), clean);
    next.end();
}

/// The process of a `zfs create` that this agent has started.
fn zfs_create_of(agent: u32) -> Option<u32> {
    let children =
        Command::new("pgrep").args(["-P", &agent.to_string(), "-f", "zfs create"]).output();
    let children = children.expect("pgrep starts").stdout;
    String::from_utf8_lossy(&children).split_whitespace().next()?.parse().ok()
}

#[test]
fn create_killed_at_any_write_rolls_back_and_succeeds() {
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    let host = OnDirectory { stack, store: Scratch::new() };
    let bed = Bed::new(&host, "crash-create", 0x71);
    create_is_undone(&bed);
}

#[test]
fn delete_killed_at_any_write_completes_or_is_undone() {
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    let host = OnDirectory { stack, store: Scratch::new() };
    let bed = Bed::new(&host, "crash-delete", 0x72);
    delete_is_finished(&bed);
}

#[test]
fn a_killed_create_or_delete_leaves_no_seed_files() {
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    let host = OnDirectory { stack, store: Scratch::new() };
    create_is_undone(&Bed::with_files(&host, "crash-files", 0x7a));
    delete_is_finished(&Bed::with_files(&host, "crash-files-go", 0x7b));
}

#[test]
fn attach_killed_at_any_write_rolls_back_and_succeeds() {
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    for (kind, name, net) in [("Disk", "crash-disk-comes", 0x74), ("Nic", "crash-nic-comes", 0x75)]
    {
        let host = OnDirectory { stack, store: Scratch::new() };
        attach_is_undone(&Bed::new(&host, name, net), kind);
    }
}

#[test]
fn detach_killed_at_any_write_completes_or_is_undone() {
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    for (kind, name, net) in [("Disk", "crash-disk-goes", 0x76), ("Nic", "crash-nic-goes", 0x77)] {
        let host = OnDirectory { stack, store: Scratch::new() };
        detach_is_finished(&Bed::new(&host, name, net), kind);
    }
}

#[test]
fn random_kills_leave_whole_guests_and_nothing_else() {
    let Some(stack) = require("qemu", Stack::for_kills()) else { return };
    let host = OnDirectory { stack, store: Scratch::new() };
    let bed = Bed::new(&host, "crash-random", 0x73);
    random_kills(&bed, KILLS, KILL_WITHIN);
}
