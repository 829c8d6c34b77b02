//! Shutdowns that are waited for, of real guests.

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, call_text};
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, Stack};
use crate::harness::support::Scratch;

/// What the log says of a call that waits.
const ASKED: &str = "asked a guest to shut down; waiting until it is off";

/// An agent and a guest that runs. Only one of its disks has a system, which obeys the power button.
struct Bed {
    stack: &'static Stack,
    agent: Agent,
    device: BlockDevice,
    _files: Scratch,
    deaf: Value,
}

impl Bed {
    /// None where it cannot be had here.
    fn new(id: &str) -> Option<Self> {
        let stack = require("qemu", Stack::shared())?;
        let device = require("qemu", BlockDevice::bootable(1 << 20))?;
        let files = Scratch::new();
        let blank = files.path().join("blank.raw");
        std::fs::write(&blank, vec![0; 1 << 20]).expect("scratch is writable");
        let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
        let (uri, directory, disk) = (stack.uri(), text(files.path()), text(device.path()));
        let flags = ["--libvirt-uri", &uri, "--bridge-type", "linux", "--allow-disk-path"];
        let agent = Agent::start(&[&flags[..], &[&directory, "--allow-disk-path", &disk]].concat());
        agent.receives_events();
        let deaf = guest(id, &text(&blank));
        agent.ok("CreateGuest", &deaf);
        agent.ok("Run", &deaf);
        Some(Self { stack, agent, device, _files: files, deaf })
    }

    fn id(&self) -> &str {
        self.deaf["id"].as_str().expect("an id")
    }

    /// Shuts the guest down that hears no button: the whole answer.
    fn shut_down(&self, times: &Value) -> Value {
        shut_down(&self.agent, &self.deaf, times)
    }

    fn end(self) {
        self.agent.ok("Delete", &self.deaf);
        self.agent.end();
    }
}

fn guest(id: &str, disk: &str) -> Value {
    json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1, "disks": [{ "source": disk }] })
}

fn shut_down(agent: &Agent, guest: &Value, times: &Value) -> Value {
    let mut params = times.clone();
    params["guest"] = json!({ "id": guest["id"] });
    agent.call_with("Shutdown", &params)
}

fn error(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_else(|| panic!("no error: {answer}"))
}

#[test]
fn a_shutdown_that_waits_has_a_known_outcome() {
    let Some(bed) = Bed::new("deaf") else { return };
    let obedient = guest("obedient", bed.device.path().to_str().expect("UTF-8"));
    bed.agent.ok("CreateGuest", &obedient);
    bed.agent.ok("Run", &obedient);
    // It may still be booting when it is first asked.
    let off = shut_down(&bed.agent, &obedient, &json!({ "wait": 90 }));
    let result = &off["result"];
    assert_eq!((&result["guest"]["state"], &result["forced"]), (&json!("shutoff"), &Value::Null));
    let again = shut_down(&bed.agent, &obedient, &json!({ "wait": 90 }));
    assert_eq!(again["result"]["guest"]["state"], "shutoff", "one that is off: {again}");
    bed.agent.ok("Delete", &obedient);

    let late = bed.shut_down(&json!({ "wait": 1 }));
    let expected = "deadline: guest deaf still runs ";
    assert!(error(&late).starts_with(expected), "{late}");
    assert_eq!(bed.agent.state("deaf"), "running", "nobody wanted it forced off");
    let forced = bed.shut_down(&json!({ "wait": 60, "force_after": 1 }));
    let result = &forced["result"];
    assert_eq!((&result["guest"]["state"], &result["forced"]), (&json!("shutoff"), &json!(true)));
    bed.end();
}

#[test]
fn a_guest_that_was_started_again_is_not_forced() {
    let Some(bed) = Bed::new("anew") else { return };
    let force_after = 5;
    thread::scope(|threads| {
        let waits = threads.spawn(|| bed.shut_down(&json!({ "force_after": force_after })));
        bed.agent.logged(ASKED);
        // When the agent goes on, forcing is due, and it has seen nothing of this.
        bed.agent.signal("STOP");
        bed.stack.virsh_ok(&["destroy", bed.id()]);
        bed.stack.virsh_ok(&["start", bed.id()]);
        thread::sleep(Duration::from_secs(force_after));
        bed.agent.signal("CONT");
        let answer = waits.join().expect("an answer");
        let result = &answer["result"];
        assert_eq!(result["forced"], Value::Null, "{answer}");
        assert_eq!(bed.agent.state(bed.id()), "running", "{answer}");
    });
    bed.end();
}

#[test]
fn a_caller_that_leaves_forces_nothing() {
    let Some(bed) = Bed::new("left") else { return };
    let params = json!({ "guest": { "id": "left" }, "force_after": 4 });
    let mut stream = bed.agent.connect();
    stream.write_all(call_text("Shutdown", &params).as_bytes()).expect("the agent reads");
    bed.agent.logged(ASKED);
    drop(stream);
    bed.agent.logged("the caller has disconnected");
    assert_eq!(bed.agent.state("left"), "running");
    bed.end();
}

#[test]
fn a_stop_ends_a_shutdown_that_waits() {
    let Some(bed) = Bed::new("stopped") else { return };
    thread::scope(|threads| {
        let waits = threads.spawn(|| bed.shut_down(&json!({ "wait": 3600, "force_after": 3600 })));
        bed.agent.logged(ASKED);
        bed.agent.signal("TERM");
        let answer = waits.join().expect("an answer");
        assert!(error(&answer).ends_with(": the agent is stopping"), "{answer}");
    });
    let mut domains = bed.stack.virsh_ok(&["list", "--name"]);
    domains.retain(|c| c != '\n');
    assert!(domains.contains("stopped"), "no guest ends with the agent: {domains}");
    bed.stack.virsh_ok(&["destroy", "stopped"]);
    bed.stack.virsh_ok(&["undefine", "stopped"]);
}

#[test]
fn a_shutdown_that_waits_is_no_job_and_in_no_batch() {
    let agent = Agent::on_test_driver();
    let params =
        json!({ "guest": { "id": "test" }, "wait": 5, "args": { "mistify.async": "true" } });
    let refused = agent.call_with("Shutdown", &params);
    assert!(error(&refused).contains("cannot be in a job"), "{refused}");
    let call = json!({
        "jsonrpc": "2.0", "id": 1, "method": "Libvirt.Shutdown",
        "params": { "guest": { "id": "test" }, "wait": 5 },
    });
    let headers = [("Content-Type", "application/json")];
    let body = json!([call]).to_string();
    let reply = agent.request("POST", "/rpc", &headers, body.as_bytes());
    assert!(reply.text().contains("cannot be in a batch"), "{}", reply.text());
    assert_eq!(agent.state("test"), "running");
    for times in
        [json!({ "wait": 0 }), json!({ "wait": 3601 }), json!({ "wait": 1, "force_after": 2 })]
    {
        let refused = shut_down(&agent, &json!({ "id": "test" }), &times);
        assert!(error(&refused).starts_with("invalid argument: "), "{times}: {refused}");
    }
    let off = shut_down(&agent, &json!({ "id": "test" }), &json!({ "wait": 60 }));
    assert_eq!(off["result"]["guest"]["state"], "shutoff", "{off}");
    agent.end();
}
