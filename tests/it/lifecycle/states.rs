//! Every verb on a domain in every state: on the test driver, which can be told the state that a
//! domain begins in, and on real guests where the state can be made. And the end of domains that
//! have more to them than a definition.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::support::{Scratch, wait_until};

const VERBS: [&str; 15] = [
    "Status",
    "CreateGuest",
    "Create",
    "Run",
    "Reboot",
    "Restart",
    "Shutdown",
    "Poweroff",
    "Delete",
    "CPUMetrics",
    "DiskMetrics",
    "NicMetrics",
    "Suspend",
    "Resume",
    "Reset",
];

/// libvirt's number of a state, and its name on the wire. A guest with saved memory is off to libvirt.
const STATES: [(u8, &str); 9] = [
    (0, "unknown"),
    (1, "running"),
    (2, "blocked"),
    (3, "paused"),
    (4, "shutdown"),
    (5, "shutoff"),
    (6, "crashed"),
    (7, "suspended"),
    (5, SAVED),
];

/// A guest that is off with saved memory.
const SAVED: &str = "saved";

/// The NIC that the domains for NicMetrics have; its device is found by the MAC.
const MAC: &str = "02:00:00:00:30:00";

/// What a verb comes to.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Success, and the guest is in this state by the answer.
    In(&'static str),
    /// Success, and the guest is answered as it was sent.
    Echo,
    /// Success, and it is gone.
    Gone,
    /// Success, with counters.
    Counters,
    /// An error of libvirt with this code and these words.
    Refused(&'static str, &'static str),
    /// An error of the agent's own with these words.
    Denied(&'static str),
}

/// The table: contract section 5, with what section 9 does better.
fn expected(verb: &str, state: &'static str) -> Outcome {
    use Outcome::{Counters, Denied, Echo, Gone, In, Refused};
    let state = if state == SAVED { "shutoff" } else { state };
    let off = state == "shutoff";
    match verb {
        "Status" => In(state),
        // It is there and the same: nothing is changed, `state` among it.
        "CreateGuest" => Echo,
        "Create" => In(if off { "running" } else { state }),
        "Run" => match state {
            "running" | "shutoff" | "paused" => In("running"),
            // The test driver cannot wake it; qemu's can (`asleep`).
            "suspended" => Refused("3", "virDomainPMWakeup"),
            "crashed" => Denied("it has panicked; call Reset or Poweroff first"),
            // The contract has these started; libvirt then says why not.
            _ => Refused("1", "is already running"),
        },
        "Reboot" | "Restart" if off => Refused("55", "domain is not running"),
        // The test driver reboots whatever is active into `running`.
        "Reboot" | "Restart" => In("running"),
        "Shutdown" if state == "shutdown" => In("shutdown"),
        // The test driver's guests are off as soon as they are asked.
        "Shutdown" | "Poweroff" => In("shutoff"),
        // The test driver has a word of its own for a guest that is off, and pauses all else.
        "Suspend" if off => Refused("1", "not running"),
        "Suspend" => In("paused"),
        "Resume" => match state {
            "running" | "paused" => In("running"),
            "suspended" => Refused("3", "virDomainPMWakeup"),
            _ => Refused("1", "not paused"),
        },
        "Reset" if !off => In(state),
        "Delete" => Gone,
        _ if off => Refused("55", "domain is not running"),
        _ => Counters,
    }
}

fn guest(id: &str) -> Value {
    json!({
        "id": id, "type": "test", "memory": 32, "cpu": 1,
        "disks": [{ "source": format!("/dev/zvol/mistify/{id}"), "device": "vda" }],
    })
}

fn domain(name: &str, of_the_test_driver: &str) -> String {
    format!(
        "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
           <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
           <os><type>hvm</type></os>
           <devices>
             <disk type='block' device='disk'>
               <source dev='/dev/zvol/mistify/{name}'/><target dev='vda' bus='virtio'/>
             </disk>
           </devices>
           {of_the_test_driver}
         </domain>"
    )
}

/// An agent on a test driver with these domains. Each of its connections has the domains to itself:
/// what one lane changes the others do not see.
struct Bed {
    agent: Agent,
    _files: Scratch,
}

impl Bed {
    fn new(domains: &str) -> Self {
        let files = Scratch::new();
        let node = files.path().join("node.xml");
        fs::write(&node, format!("<node>{domains}</node>")).expect("scratch is writable");
        let uri = format!("test://{}", node.display());
        let flags = ["--libvirt-uri", &uri, "--workers", "control=1", "--workers", "urgent=1"];
        Self { agent: Agent::start(&flags), _files: files }
    }

    /// Whether the lane of the changing verbs has no such domain any more.
    fn is_gone(&self, id: &str) -> bool {
        self.agent.error("Run", &json!({ "id": id })).starts_with("[Code-42] ")
    }
}

fn check(agent: &Agent, verb: &str, guest: &Value, expected: &Outcome, gone: &dyn Fn() -> bool) {
    let answer = agent.call(verb, guest);
    let (id, result) = (guest["id"].as_str().expect("an id"), &answer["result"]);
    let error = answer["error"].as_str().unwrap_or_default();
    if let Outcome::Denied(words) = expected {
        assert!(error.ends_with(words), "{verb} {id}: {answer}, not {expected:?}");
        return;
    }
    if let Outcome::Refused(code, words) = expected {
        let right = error.starts_with(&format!("[Code-{code}] ")) && error.contains(words);
        assert!(right, "{verb} {id}: {answer}, not {expected:?}");
        return;
    }
    assert_eq!(answer["error"], Value::Null, "{verb} {id}: {answer}, not {expected:?}");
    match expected {
        Outcome::In(state) => assert_eq!(result["guest"]["state"], *state, "{verb} {id}"),
        Outcome::Echo => assert_eq!(result["guest"].get("state"), None, "{verb} {id}"),
        Outcome::Gone => assert!(gone(), "{verb} {id}"),
        _ => assert_eq!(result["guest"], Value::Null, "{verb} {id}"),
    }
}

#[test]
fn every_verb_in_every_state_follows_the_table() {
    let mut domains = String::new();
    for (code, state) in STATES {
        for verb in VERBS {
            let saved = if state == SAVED { "<test:hasmanagedsave/>" } else { "" };
            let begin = format!("<test:runstate>{code}</test:runstate>{saved}");
            let mut xml = domain(&format!("{state}-{verb}"), &begin);
            if verb == "NicMetrics" {
                let nic = format!("<interface type='user'><mac address='{MAC}'/></interface>");
                xml = xml.replace("</devices>", &(nic + "</devices>"));
            }
            domains += &xml;
        }
    }
    let bed = Bed::new(&domains);
    for (_, state) in STATES {
        for verb in VERBS {
            let id = format!("{state}-{verb}");
            let mut guest = guest(&id);
            if verb == "NicMetrics" {
                guest["nics"] = json!([{ "name": "eth0", "mac": MAC }]);
            }
            check(&bed.agent, verb, &guest, &expected(verb, state), &|| bed.is_gone(&id));
        }
    }
}

#[test]
fn delete_removes_saves_and_snapshots_without_flags() {
    // The test driver does not know the flags for NVRAM and checkpoints.
    let more = "<test:runstate>5</test:runstate><test:hasmanagedsave/>
        <test:domainsnapshot><name>s</name><creationTime>1</creationTime><state>shutoff</state>
        <active>1</active></test:domainsnapshot>";
    let bed = Bed::new(&domain("burdened", more));
    check(&bed.agent, "Delete", &guest("burdened"), &Outcome::Gone, &|| bed.is_gone("burdened"));
}

#[test]
fn guest_without_a_definition_is_deleted_by_destroy() {
    let bed = Bed::new(&domain("fleeting", "<test:transient/>"));
    check(&bed.agent, "Delete", &guest("fleeting"), &Outcome::Gone, &|| bed.is_gone("fleeting"));
}

/// The table for real guests, whose system takes part: it acts on the power button some time after
/// the answer, and not at all while it is paused.
fn expected_of_qemu(verb: &str, state: &'static str) -> Outcome {
    let off = ["shutoff", SAVED].contains(&state);
    match verb {
        // qemu's driver asks no paused guest to power off.
        "Shutdown" if state == "paused" => Outcome::Refused("55", "domain is not running"),
        "Reboot" | "Restart" | "Shutdown" if !off => Outcome::In(state),
        "Suspend" | "Resume" if off => Outcome::Refused("55", "domain is not running"),
        _ => expected(verb, state),
    }
}

fn bring_into(stack: &Stack, agent: &Agent, guest: &Value, state: &str) {
    let id = guest["id"].as_str().expect("an id");
    agent.ok("CreateGuest", guest);
    agent.ok("Poweroff", guest);
    if state != "shutoff" {
        agent.ok("Run", guest);
    }
    match state {
        "paused" => drop(stack.virsh_ok(&["suspend", id])),
        SAVED => drop(stack.virsh_ok(&["managedsave", id])),
        _ => {}
    }
}

#[test]
fn every_verb_does_so_on_real_guests() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let Some(device) = require("qemu", BlockDevice::bootable(1 << 20)) else { return };
    let disk = device.path().to_str().expect("UTF-8");
    let uri = stack.uri();
    let flags = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--allow-disk-path", disk];
    let agent = Agent::start(&flags);
    for (number, state) in [(0, "shutoff"), (1, "running"), (2, "paused"), (3, SAVED)] {
        for (verb_number, verb) in VERBS.into_iter().enumerate() {
            let mut guest = guest(&format!("real-{state}-{verb}"));
            let mac = format!("02:00:00:00:3{number}:{verb_number:02x}");
            guest["nics"] = json!([{ "network": "mistify0", "model": "rtl8139", "mac": mac }]);
            guest["type"] = json!("qemu");
            guest["disks"][0]["source"] = json!(disk);
            bring_into(stack, &agent, &guest, state);
            let id = guest["id"].as_str().expect("an id");
            let gone = || !stack.virsh_ok(&["list", "--all", "--name"]).contains(id);
            check(&agent, verb, &guest, &expected_of_qemu(verb, state), &gone);
            if !gone() {
                agent.ok("Delete", &guest);
            }
        }
    }
}

/// An emulator that begins once this file is gone.
fn slow_emulator(directory: &Path, waits_for: &Path) -> String {
    let program = directory.join("emulator");
    let script = format!(
        "#!/bin/sh\nwhile [ -e {} ]; do sleep 0.05; done\nexec qemu-system-x86_64 \"$@\"\n",
        waits_for.display()
    );
    fs::write(&program, script).expect("scratch is writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    program.to_str().expect("scratch paths are UTF-8").to_owned()
}

/// Somebody else's start, as that of an agent which was killed, shows as `paused` until it is done.
#[test]
fn a_verb_waits_for_a_start_under_way() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let directory = Scratch::new();
    let waits_for = directory.path().join("waits");
    let emulator = slow_emulator(directory.path(), &waits_for);
    let guest = json!({ "id": "starting", "type": "qemu", "memory": 32, "cpu": 1 });
    agent.ok("Create", &guest);
    agent.ok("Poweroff", &guest);
    let xml = stack.virsh_ok(&["dumpxml", "starting"]);
    let (before, rest) = xml.split_once("<emulator>").expect("libvirt names one");
    let (_, after) = rest.split_once("</emulator>").expect("it ends");
    let defined =
        stack.with_xml("define", &format!("{before}<emulator>{emulator}</emulator>{after}"));
    assert!(defined.status.success(), "{defined:?}");
    for (verb, state) in
        [("Create", "running"), ("Run", "running"), ("Resume", "running"), ("Suspend", "paused")]
    {
        fs::write(&waits_for, "").expect("scratch is writable");
        thread::scope(|scope| {
            scope.spawn(|| stack.virsh_ok(&["start", "starting"]));
            wait_until("it is being started", Duration::from_secs(30), || {
                stack.virsh_ok(&["domstate", "starting", "--reason"]).contains("starting up")
            });
            let call = scope.spawn(|| agent.call(verb, &guest));
            // A verb that does not wait for the start has answered by then.
            thread::sleep(Duration::from_millis(300));
            fs::remove_file(&waits_for).expect("it is there");
            let answer = call.join().expect("it is answered");
            assert_eq!(answer["error"], Value::Null, "{verb}: {answer}");
            assert_eq!(answer["result"]["guest"]["state"], state, "{verb}: {answer}");
        });
        assert_eq!(agent.state("starting"), state, "{verb}");
        agent.ok("Poweroff", &guest);
    }
    agent.ok("Delete", &guest);
    agent.end();
}

#[test]
fn delete_removes_snapshots_and_nvram_of_a_real_guest() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    let nvram = "/var/lib/libvirt/qemu/nvram/burdened.fd";
    let xml = format!(
        "<domain type='qemu'><name>burdened</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
         <os><type machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/dev/null</loader>
         <nvram>{nvram}</nvram></os><features><acpi/></features></domain>"
    );
    let defined = stack.with_xml("define", &xml);
    assert!(defined.status.success(), "{defined:?}");
    fs::create_dir_all(stack.path("/var/lib/libvirt/qemu/nvram"))
        .expect("the stack's own directory");
    fs::write(stack.path(nvram), "variables").expect("the stack's own directory");
    let snapshot = "<domainsnapshot><name>s</name><creationTime>1</creationTime>
        <state>shutoff</state><domain type='qemu'><name>burdened</name>";
    let uuid = stack.virsh_ok(&["domuuid", "burdened"]);
    let snapshot = format!(
        "{snapshot}<uuid>{}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
         <os><type machine='q35'>hvm</type></os></domain></domainsnapshot>",
        uuid.trim()
    );
    let file = Scratch::new();
    let path = file.path().join("snapshot.xml");
    fs::write(&path, snapshot).expect("scratch is writable");
    let path = path.to_str().expect("UTF-8");
    stack.virsh_ok(&["snapshot-create", "burdened", path, "--redefine"]);
    assert!(!stack.virsh(&["undefine", "burdened"]).status.success(), "plain is not enough");

    agent.ok("Delete", &json!({ "id": "burdened" }));

    assert!(!stack.virsh_ok(&["list", "--all", "--name"]).contains("burdened"));
    assert!(!stack.path(nvram).exists());
}
