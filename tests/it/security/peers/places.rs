//! One allowed user has all connections and permits that it can get: others, and root, still get theirs.

use super::{ON_TEST_DRIVER, World, client, setpriv};
use crate::harness::agent::Agent;
use crate::harness::skip::require;

/// An allowed user that means ill.
const ALICE: &str = "64001";

/// Alice sends `count` requests that take long, of which the agent refuses `refused`. Returns the agent's answer to
/// root's request beside them.
fn root_beside_alice(count: usize, refused: usize, text: &str, of_root: &str) -> Option<String> {
    let _world = require("users", World::new())?;
    let agent = Agent::start(&[&ON_TEST_DRIVER[..], &["--allow-user", ALICE]].concat());
    let address = agent.address().to_string();
    let (count, refused) = (count.to_string(), refused.to_string());
    let words =
        ["take", &address, ALICE, &count, &refused, text, "take", &address, "0", "1", "1", of_root];
    let said = client(setpriv(0), &words);
    agent.end();
    let (of_alice, of_root) = said.split_once('\n').expect("two lines");
    assert_eq!(of_alice, refused, "Alice has her share");
    Some(of_root.to_owned())
}

/// A call of WaitEvents that waits for so many seconds.
fn wait_events(seconds: u32) -> String {
    let params = format!(r#"{{"guest":"none","timeout":{seconds}}}"#);
    let call =
        format!(r#"{{"jsonrpc":"2.0","method":"Libvirt.WaitEvents","params":{params},"id":1}}"#);
    let head = "POST /rpc HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json";
    format!("{head}\\r\\nContent-Length: {}\\r\\n\\r\\n{call}", call.len())
}

#[test]
fn one_user_leaves_event_streams_to_root() {
    let stream = r"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    if let Some(busy) = root_beside_alice(70, 38, stream, stream) {
        assert_eq!(busy, "0");
    }
}

#[test]
fn one_user_leaves_places_of_wait_events_to_root() {
    if let Some(busy) = root_beside_alice(12, 8, &wait_events(50), &wait_events(0)) {
        assert_eq!(busy, "0");
    }
}
