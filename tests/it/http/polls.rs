//! Polls need no handler, and are answered as by a handler.

use std::fs;
use std::mem;
use std::thread;
use std::time::Duration;

use mistify_libvirt::config::HttpLimits;
use serde_json::json;

use crate::harness::agent::{Agent, Reply};
use crate::harness::support::wait_until;

const POLLS: [&str; 4] = ["Status", "CPUMetrics", "DiskMetrics", "NicMetrics"];
const PATH: &str = "/_mistify_RPC_";
/// The same to a handler: the front begins requests of the bare path alone.
const PATH_TO_HANDLER: &str = "/_mistify_RPC_?";
/// Longer than any machine needs for one call.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks at what may still change.
const LOOK: Duration = Duration::from_millis(50);

/// How often a thread of the front has gone to sleep, and whether it sleeps now.
#[derive(PartialEq)]
struct Sleeper {
    is_handler: bool,
    is_asleep: bool,
    sleeps: u64,
}

/// The front's own thread, which hands requests out, and its handlers.
fn sleepers(agent: &Agent) -> Vec<Sleeper> {
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("it runs").flatten();
    let of_front = |thread: fs::DirEntry| -> Option<Sleeper> {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let name = name.trim().strip_prefix("http-")?;
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        Some(Sleeper {
            is_handler: name.parse::<usize>().is_ok(),
            is_asleep: field("State:")?.trim().starts_with('S'),
            sleeps: field("voluntary_ctxt_switches:")?.trim().parse().ok()?,
        })
    };
    threads.filter_map(of_front).collect()
}

/// How often all handlers together have gone to sleep.
fn sleeps(sleepers: &[Sleeper]) -> u64 {
    sleepers.iter().filter(|it| it.is_handler).map(|it| it.sleeps).sum()
}

/// The same once no thread of the front has anything left to do. A thread that a loaded machine has not
/// let run yet is not asleep.
fn sleeps_at_rest(agent: &Agent) -> u64 {
    let mut last = Vec::new();
    wait_until("the front and each handler have gone to sleep", SOON, || {
        thread::sleep(LOOK);
        let were = mem::replace(&mut last, sleepers(agent));
        let handlers = last.iter().filter(|it| it.is_handler && it.sleeps > 0).count();
        let is_at_rest = last.iter().all(|it| it.is_asleep) && were == last;
        is_at_rest && handlers == HttpLimits::default().handlers
    });
    sleeps(&last)
}

/// An agent that has answered a request by a handler.
fn agent() -> Agent {
    let agent = Agent::on_test_driver();
    // The front runs, and a handler.
    assert_eq!(ask(&agent, PATH_TO_HANDLER, "Status", "test").status, 200);
    agent
}

fn ask(agent: &Agent, path: &str, method: &str, guest: &str) -> Reply {
    let guest = json!({ "id": guest, "disks": [{ "device": "vda" }], "nics": [{ "device": "x" }] });
    let method = format!("Libvirt.{method}");
    let body = json!({ "method": method, "params": [{ "guest": guest }], "id": 7 }).to_string();
    agent.request("POST", path, &[("Content-Type", "application/json")], body.as_bytes())
}

#[test]
fn a_poll_wakes_no_handler() {
    let agent = agent();
    let before = sleeps_at_rest(&agent);
    for method in POLLS {
        for guest in ["test", "nobody"] {
            assert_eq!(ask(&agent, PATH, method, guest).status, 200, "{method}");
        }
    }
    assert_eq!(sleeps_at_rest(&agent), before);
    ask(&agent, PATH_TO_HANDLER, "Status", "test");
    wait_until("a handler has had that one", SOON, || sleeps(&sleepers(&agent)) > before);
}

#[test]
fn a_poll_is_answered_as_by_a_handler() {
    let agent = Agent::on_test_driver();
    let answer = |path, method, guest| {
        let reply = ask(&agent, path, method, guest);
        // The test driver counts with the clock.
        let is_steady = |name: &str| !["date", "content-length"].contains(&name);
        let headers = reply.headers.iter().filter(|(name, _)| is_steady(name)).cloned();
        let text = reply.text().replace(|c: char| c.is_ascii_digit(), "");
        (reply.status, headers.collect::<Vec<_>>(), text)
    };
    for method in POLLS {
        for guest in ["test", "nobody"] {
            let by_handler = answer(PATH_TO_HANDLER, method, guest);
            assert_eq!(answer(PATH, method, guest), by_handler, "{method} {guest}");
        }
    }
}

#[test]
fn a_poll_that_cannot_be_is_refused() {
    let agent = agent();
    let post = |body: &str| {
        let kind = [("Content-Type", "application/json")];
        let reply = agent.request("POST", PATH, &kind, body.as_bytes());
        (reply.status, reply.text())
    };
    let no_guest = r#"{"method":"Libvirt.Status","params":[{}],"id":1}"#;
    let (status, text) = post(no_guest);
    assert_eq!((status, text.contains("\"result\":null")), (200, true), "{text}");
    for unfit in [
        r#"{"method":"Libvirt.Status","params":[{"guest":{"id":7}}],"id":1}"#,
        r#"{"method":"Libvirt.Status","id":1}"#,
        r#"{"method":"Libvirt.Status","params":["#,
    ] {
        assert_eq!(post(unfit).0, 400, "{unfit}");
    }
    // Longer than the front reads: a handler has it, to the same end.
    let long =
        format!("{}{}", " ".repeat(5000), no_guest.replace("{}", r#"{"guest":{"id":"test"}}"#));
    assert_eq!(post(&long).0, 200);
    let notification = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}]}"#;
    assert_eq!(post(notification), (200, String::new()));
}
