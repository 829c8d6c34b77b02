//! A libvirt that neither answers nor refuses, and one that is not there: a socket of the test's.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use mistify_libvirt::config::WatchLimits;
use serde_json::json;

use crate::harness::agent::Agent;
use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for what takes seconds.
const SOON: Duration = Duration::from_secs(60);

/// A socket that takes connections and says nothing, and an agent that takes it for libvirt's.
struct Mute {
    socket: UnixListener,
    agent: Agent,
    _scratch: Scratch,
}

impl Mute {
    fn new() -> Self {
        let scratch = Scratch::new();
        let path = scratch.path().join("sock");
        let socket = UnixListener::bind(&path).expect("a socket in the scratch directory");
        let uri = format!("qemu:///system?socket={}", path.display());
        let agent = Agent::start(&["--libvirt-uri", &uri]);
        Self { socket, agent, _scratch: scratch }
    }

    /// The error of a call that may take so many seconds.
    fn error(&self, verb: &str, timeout: &str) -> String {
        let args = json!({ "mistify.timeout": timeout });
        let params = json!({ "guest": { "id": "web-1" }, "args": args });
        let answer = self.agent.call_with(verb, &params);
        answer["error"].as_str().unwrap_or_default().to_owned()
    }
}

#[test]
fn silence_ends_first_calls_at_deadline_next_at_once() {
    let mute = Mute::new();
    for verb in ["Status", "Run", "Poweroff"] {
        // On a loaded machine the deadline may come before the words for that.
        wait_until(verb, SOON, || {
            mute.error(verb, "1").starts_with("libvirt does not answer since ")
        });
    }
    wait_until("it is known to be silent", SOON, || mute.agent.health().0 == 503);
    let metrics = ["CPUMetrics", "DiskMetrics", "NicMetrics"];
    for verb in ["Status", "Run", "Poweroff", "Delete", "Reboot"].into_iter().chain(metrics) {
        let began = Instant::now();
        let error = mute.error(verb, "600");
        assert!(error.starts_with("libvirt does not answer since "), "{verb}: {error}");
        // Well under the time that it had.
        assert!(began.elapsed() < Duration::from_secs(30), "{verb}: {:?}", began.elapsed());
    }
}

#[test]
fn silence_that_ends_in_a_refusal_is_answered_as_one() {
    let mute = Mute::new();
    mute.error("Status", "1");
    let Mute { socket, agent, _scratch } = mute;
    drop(socket);
    wait_until("the refusal is known", SOON, || {
        agent.error("Status", &json!({ "id": "web-1" })).starts_with("[Code-38] ")
    });
}

#[test]
fn a_libvirt_that_is_back_is_noticed_without_a_call() {
    let scratch = Scratch::new();
    let path = scratch.path().join("sock");
    let uri = format!("qemu:///system?socket={}", path.display());
    let agent = Agent::start(&["--libvirt-uri", &uri]);
    assert!(agent.error("Status", &json!({ "id": "web-1" })).starts_with("[Code-38] "));
    let socket = UnixListener::bind(&path).expect("a socket in the scratch directory");
    socket.set_nonblocking(true).expect("a socket can be");
    // It would answer now; that it is asked is enough.
    wait_until("the agent calls", SOON, || socket.accept().is_ok());
    let pause = WatchLimits::default().pause;
    assert!(pause <= Duration::from_secs(2), "{pause:?}: back is to be seen within 2 s");
}
