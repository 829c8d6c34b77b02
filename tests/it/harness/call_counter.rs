//! A proxy between an agent and libvirtd that counts the calls of libvirt's API.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::stack::Stack;
use super::support::Scratch;

/// libvirt's number for the calls of its API, as opposed to keepalive's.
const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// Length, program, version, procedure, kind, serial number and status of a message.
const HEADER_BYTES: usize = 28;

/// The proxy.
pub(crate) struct Counting {
    calls: Arc<AtomicUsize>,
    socket: PathBuf,
    _directory: Scratch,
}

impl Counting {
    /// Starts a proxy for this libvirtd.
    pub(crate) fn start(stack: &Stack) -> Self {
        let directory = Scratch::new();
        let socket = directory.path().join("sock");
        let libvirtd = stack.path("/run/libvirt/libvirt-sock");
        let listener = UnixListener::bind(&socket).expect("a socket in the scratch folder");
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        thread::spawn(move || {
            for agent in listener.incoming() {
                let (agent, counted) = (agent.expect("the agent connects"), Arc::clone(&counted));
                let libvirtd = UnixStream::connect(&libvirtd).expect("libvirtd listens");
                let (mut from, mut to) = (cloned(&libvirtd), cloned(&agent));
                thread::spawn(move || io::copy(&mut from, &mut to));
                // The thread ends with its connection.
                thread::spawn(move || pass_calls(agent, libvirtd, &counted));
            }
        });
        Self { calls, socket, _directory: directory }
    }

    /// Returns the libvirt URI for an agent.
    pub(crate) fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.socket.display())
    }

    /// Returns the number of calls so far. Each call is counted before libvirtd gets it.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn cloned(stream: &UnixStream) -> UnixStream {
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
