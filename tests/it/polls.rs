//! Polls are answered past the handlers, and as by a handler.

use std::fs;
use std::mem;
use std::thread;
use std::time::Duration;

use mistify_libvirt::config::HttpLimits;
use serde_json::json;

use crate::agent::{Agent, Reply};
use crate::support::wait_until;

const POLLS: [&str; 4] = ["Status", "CPUMetrics", "DiskMetrics", "NicMetrics"];
const PATH: &str = "/_mistify_RPC_";
/// The same to a handler: the front knows the bare path alone.
const PATH_TO_HANDLER: &str = "/_mistify_RPC_?";
/// Longer than any machine needs for one call.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks at what may still change.
const LOOK: Duration = Duration::from_millis(50);

/// How often each handler's thread has gone to sleep.
fn sleeps(agent: &Agent) -> Vec<u64> {
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("it runs").flatten();
    let of_handler = |thread: fs::DirEntry| -> Option<u64> {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let number = name.trim().strip_prefix("http-")?;
        number.parse::<usize>().ok()?;
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    threads.filter_map(of_handler).collect()
}

fn all(sleeps: &[u64]) -> u64 {
    sleeps.iter().sum()
}

/// An agent whose handlers are all there, and sleep.
fn agent_at_rest() -> Agent {
    let agent = Agent::on_test_driver();
    // The front runs, and a handler.
    assert_eq!(ask(&agent, PATH_TO_HANDLER, "Status", "test").status, 200);
    let mut last = Vec::new();
    wait_until("each handler has gone to sleep", SOON, || {
        thread::sleep(LOOK);
        let now = sleeps(&agent);
        let were = mem::replace(&mut last, now);
        last.len() == HttpLimits::default().handlers && !last.contains(&0) && were == last
    });
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
    let agent = agent_at_rest();
    let before = all(&sleeps(&agent));
    for method in POLLS {
        for guest in ["test", "nobody"] {
            assert_eq!(ask(&agent, PATH, method, guest).status, 200, "{method}");
        }
    }
    assert_eq!(all(&sleeps(&agent)), before);
    ask(&agent, PATH_TO_HANDLER, "Status", "test");
    wait_until("a handler has had that one", SOON, || all(&sleeps(&agent)) > before);
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
fn a_poll_that_cannot_be_is_refused_by_a_handler() {
    let agent = agent_at_rest();
    let before = all(&sleeps(&agent));
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
    wait_until("handlers have had these four", SOON, || all(&sleeps(&agent)) >= before + 4);
    // Longer than the front reads: a handler has it, to the same end.
    let long =
        format!("{}{}", " ".repeat(5000), no_guest.replace("{}", r#"{"guest":{"id":"test"}}"#));
    assert_eq!(post(&long).0, 200);
    let notification = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}]}"#;
    assert_eq!(post(notification), (200, String::new()));
}
