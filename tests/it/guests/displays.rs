//! VNC displays of real guests: who can open them, and which port they have in the end.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, wait_until};

const SOON: std::time::Duration = std::time::Duration::from_secs(60);

fn agent(stack: &Stack, vnc: &str) -> Agent {
    Agent::start(&["--libvirt-uri", &stack.uri(), "--vnc", vnc])
}

fn guest(id: &str, vnc: i64) -> Value {
    json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "vnc": vnc })
}

fn run(agent: &Agent, guest: &Value) -> Value {
    agent.ok("CreateGuest", guest);
    agent.ok("Run", guest)["guest"].take()
}

/// What a command in the stack prints.
fn inside(stack: &Stack, words: &[&str]) -> (bool, String) {
    let mut command = stack.command(words[0]);
    let output = command.args(&words[1..]).stdin(Stdio::null()).output().expect("nsenter starts");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a VNC server greets on that port of the stack's loopback.
fn greets(stack: &Stack, port: i64) -> bool {
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && head -c 3 <&3");
    inside(stack, &["bash", "-c", &script]).1 == "RFB"
}

/// The value of the display's attribute in the domain's XML.
fn display(stack: &Stack, domain: &str, attribute: &str, kind: &[&str]) -> Option<String> {
    let xml = stack.virsh_ok(&[&["dumpxml", domain], kind].concat());
    let tag = xml.split("<graphics ").nth(1)?.split('>').next()?;
    Some(tag.split(&format!("{attribute}='")).nth(1)?.split('\'').next()?.to_owned())
}

#[test]
fn display_defaults_to_a_private_socket() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = agent(stack, "socket");
    for (id, vnc) in [("display-socket", 5901), ("display-any-socket", -1)] {
        let ran = run(&agent, &guest(id, vnc));
        assert_eq!(ran["vnc"], vnc, "a socket has no port to answer");
        assert_eq!(display(stack, id, "port", &[]), None);
        let socket = display(stack, id, "socket", &[]).expect("it has a path");
        assert!(inside(stack, &["test", "-S", &socket, "-a", "-w", &socket]).0, "root can");
        let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        assert!(inside(stack, &[&other[..], &["true"]].concat()).0, "setpriv works");
        assert!(!inside(stack, &[&other[..], &["test", "-w", &socket]].concat()).0, "nobody");
        let (_, modes) =
            inside(stack, &["stat", "-c", "%a", &socket, socket.trim_end_matches("/vnc.sock")]);
        for mode in modes.lines() {
            let mode = u32::from_str_radix(mode, 8).expect("octal");
            assert!(mode & 0o002 == 0, "{modes}");
        }
        agent.ok("Delete", &ran);
    }
}

#[test]
fn a_guest_without_vnc_has_no_display() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = agent(stack, "tcp");
    let ran = run(&agent, &guest("display-none", 0));
    assert_eq!(ran.get("vnc"), None);
    assert!(!stack.virsh_ok(&["dumpxml", "display-none"]).contains("<graphics"));
    agent.ok("Delete", &ran);
}

#[test]
fn run_returns_the_chosen_port_and_guest_is_unchanged() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = agent(stack, "tcp");
    let asked = guest("display-chosen", -1);
    let ran = run(&agent, &asked);
    let port = ran["vnc"].as_i64().expect("a port");
    assert!(port >= 5900 && greets(stack, port), "{ran}");
    assert_eq!(agent.ok("Run", &asked)["guest"], ran, "also of a guest that runs");
    for again in [&asked, &ran] {
        agent.ok("CreateGuest", again);
    }
    agent.ok("Delete", &ran);
}

#[test]
#[expect(clippy::zombie_processes, reason = "it ends with the stack")]
fn port_taken_by_another_becomes_a_chosen_one() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = agent(stack, "tcp");
    let first = run(&agent, &guest("display-first", 5991));
    assert_eq!(first["vnc"], 5991);
    assert!(greets(stack, 5991));
    let listener = "socket,id=c,host=127.0.0.1,port=5992,server=on,wait=off";
    let words = ["-machine", "none", "-nodefaults", "-display", "none", "-chardev", listener];
    // It ends with the stack.
    stack.command("qemu-system-x86_64").args(words).stdin(Stdio::null()).spawn().expect("starts");
    wait_until("5992 is taken", SOON, || {
        inside(stack, &["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/5992"]).0
    });
    for (id, taken) in [("display-second", 5991), ("display-third", 5992)] {
        let asked = guest(id, taken);
        let ran = run(&agent, &asked);
        let port = ran["vnc"].as_i64().expect("a port");
        assert!(port != taken && greets(stack, port), "{ran}");
        let kept = display(stack, id, "port", &["--inactive"]);
        assert_eq!(kept, Some(taken.to_string()), "for the next start");
        let line = format!("VNC port is taken; libvirt chose another; guest={id:?}: ");
        agent.logged(&line);
        assert_eq!(agent.ok("CreateGuest", &ran)["guest"]["vnc"], port);
        agent.ok("Poweroff", &ran);
        if taken == 5991 {
            agent.ok("Delete", &first);
            assert_eq!(agent.ok("Run", &ran)["guest"]["vnc"], 5991, "free again");
        }
        agent.ok("Delete", &ran);
    }
}

#[test]
fn create_takes_another_port_too() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = agent(stack, "tcp");
    let first = run(&agent, &guest("display-holder", 5993));
    let second = guest("display-creator", 5993);
    assert_eq!(agent.ok("Create", &second)["guest"]["state"], "running");
    assert_ne!(agent.ok("Run", &second)["guest"]["vnc"], 5993);
    agent.ok("Delete", &first);
    agent.ok("Delete", &second);
}

#[test]
fn start_failing_otherwise_keeps_the_definition() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let directory = Scratch::new();
    let disk = directory.path().join("disk");
    let allowed = directory.path().to_str().expect("UTF-8");
    let uri = stack.uri();
    let agent =
        Agent::start(&["--libvirt-uri", &uri, "--vnc", "tcp", "--allow-disk-path", allowed]);
    let mut guest = guest("display-broken", 5994);
    guest["disks"] = json!([{ "source": disk }]);
    agent.ok("CreateGuest", &guest);
    let before = stack.virsh_ok(&["dumpxml", "display-broken"]);
    // Defined as a block device, which a file is not.
    fs::write(&disk, vec![0; 512]).expect("scratch is writable");
    let error = agent.error("Run", &guest);
    assert!(error.starts_with("[Code-1] [Domain-10] "), "{error}");
    assert_eq!(stack.virsh_ok(&["dumpxml", "display-broken"]), before);
    assert!(!agent.log().contains("VNC port is taken"), "{}", agent.log());
    agent.ok("Delete", &guest);
}
