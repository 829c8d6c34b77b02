//! Status of guests that a worker has been asked for before: one round trip, and not another guest's
//! state.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::agent::Agent;
use crate::skip::require;
use crate::stack::Stack;
use crate::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for a few calls.
const SOON: Duration = Duration::from_secs(60);
/// libvirt's number for the calls of its API, as opposed to keepalive's.
const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// Length, program, version, procedure, kind, serial number and status of a message.
const HEADER_BYTES: usize = 28;

/// An agent with one worker for reads, so that each Status comes to the same.
fn agent(uri: &str) -> Agent {
    Agent::start(&["--libvirt-uri", uri, "--workers", "read=1"])
}

/// A guest without anything, started or not.
fn make(stack: &Stack, command: &str, name: &str) {
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    );
    let made = stack.with_xml(command, &xml);
    assert!(made.status.success(), "{command}: {made:?}");
}

/// What passes everything on between the agent and libvirtd, and counts the calls of libvirt's API.
fn counting(stack: &Stack, socket: &Path) -> Arc<AtomicUsize> {
    let libvirtd = stack.path("/run/libvirt/libvirt-sock");
    let listener = UnixListener::bind(socket).expect("a socket in the scratch folder");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    thread::spawn(move || {
        for agent in listener.incoming() {
            let (agent, counted) = (agent.expect("the agent connects"), Arc::clone(&counted));
            let libvirtd = UnixStream::connect(&libvirtd).expect("libvirtd listens");
            let (mut from, mut to) = (both(&libvirtd), both(&agent));
            thread::spawn(move || io::copy(&mut from, &mut to));
            // It ends with its connection.
            thread::spawn(move || pass_calls(agent, libvirtd, &counted));
        }
    });
    calls
}

fn both(stream: &UnixStream) -> UnixStream {
    stream.try_clone().expect("a descriptor is free")
}

fn pass_calls(
    mut agent: UnixStream,
    mut libvirtd: UnixStream,
    calls: &AtomicUsize,
) -> io::Result<()> {
    loop {
        let mut message = vec![0; HEADER_BYTES];
        agent.read_exact(&mut message)?;
        let word = |at: usize| message[at..at + 4].try_into().map_or(0, u32::from_be_bytes);
        let (length, program) = (word(0), word(4));
        let length = usize::try_from(length).expect("lengths fit");
        message.resize(length, 0);
        agent.read_exact(&mut message[HEADER_BYTES..])?;
        if program == REMOTE_PROGRAM {
            calls.fetch_add(1, Ordering::SeqCst);
        }
        libvirtd.write_all(&message)?;
    }
}

#[test]
fn status_of_a_guest_that_was_asked_for_just_now_is_one_round_trip() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    make(stack, "define", "kept-known");
    let scratch = Scratch::new();
    let socket: PathBuf = scratch.path().join("sock");
    let calls = counting(stack, &socket);
    let agent = agent(&format!("qemu:///system?socket={}", socket.display()));
    assert_eq!(agent.state("kept-known"), "shutoff");
    let trips = || {
        let before = calls.load(Ordering::SeqCst);
        assert_eq!(agent.state("kept-known"), "shutoff");
        calls.load(Ordering::SeqCst) - before
    };
    // On a loaded machine it may not be known any more.
    wait_until("a Status takes one round trip", SOON, || trips() == 1);
    wait_until("it is looked up again after a while", SOON, || trips() == 2);
    stack.virsh_ok(&["undefine", "kept-known"]);
}

#[test]
fn a_state_is_that_of_the_guest_that_has_the_name_now() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = agent(&stack.uri());
    let is_missing = |id: &str| {
        let answer = agent.call("Status", &json!({ "id": id }));
        answer["error"].as_str().is_some_and(|error| error.contains("Domain not found"))
    };
    make(stack, "define", "kept-a");
    assert_eq!(agent.state("kept-a"), "shutoff");
    stack.virsh_ok(&["undefine", "kept-a"]);
    assert!(is_missing("kept-a"), "at once");

    make(stack, "define", "kept-a");
    assert_eq!(agent.state("kept-a"), "shutoff");
    stack.virsh_ok(&["undefine", "kept-a"]);
    make(stack, "create", "kept-a");
    assert_eq!(agent.state("kept-a"), "running", "another guest by the same name");
    stack.virsh_ok(&["suspend", "kept-a"]);
    assert_eq!(agent.state("kept-a"), "paused");
    stack.virsh_ok(&["destroy", "kept-a"]);
    assert!(is_missing("kept-a"), "at once");

    make(stack, "define", "kept-a");
    assert_eq!(agent.state("kept-a"), "shutoff");
    stack.virsh_ok(&["domrename", "kept-a", "kept-b"]);
    assert_eq!(agent.state("kept-b"), "shutoff");
    wait_until("the old name is gone", SOON, || is_missing("kept-a"));
    stack.virsh_ok(&["undefine", "kept-b"]);
}
