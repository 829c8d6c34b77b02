//! Callers that want what they may not have: another's name, or everybody's connections.

use std::sync::Arc;
use std::time::Instant;

use mistify_libvirt::config::{CallerConfig, HttpLimits};
use mistify_libvirt::http::{Access, Front, Responder};
use rouille::{Request, Response};
use serde_json::json;

use super::{
    NOBODY, ON_TEST_DRIVER, SOON, World, ask, client, create, one_in_ten_seconds, setpriv,
};
use crate::harness::agent::Agent;
use crate::harness::cost::slow;
use crate::harness::skip::require;
use crate::harness::support::wait_until;

fn is_made(agent: &Agent, id: &str) -> bool {
    let answer = agent.call("Status", &json!({ "id": id }));
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.is_empty() || error.starts_with("[Code-42] "), "{error}");
    error.is_empty()
}

#[test]
fn no_early_closing_caller_is_mistaken_for_root() {
    slow("makes ten thousand calls");
    let Some(_world) = require("users", World::new()) else { return };
    let began = Instant::now();
    let agent = Agent::start(&ON_TEST_DRIVER);
    let address = agent.address().to_string();
    let sent = client(setpriv(NOBODY), &["storm", &address, "10000", &create("stolen")]);
    assert_eq!(sent, "10000");
    assert!(!is_made(&agent, "stolen"));
    // The log includes the remaining work for these callers.
    let log = agent.end();
    assert!(!log.contains("CreateGuest"), "{log}");
    one_in_ten_seconds(&log, " refused: ", began);
}

#[test]
fn reused_port_lends_no_identity_to_its_former_caller() {
    let Some(_world) = require("users", World::new()) else { return };
    let agent = Agent::start(&ON_TEST_DRIVER);
    let (address, pid) = (agent.address().to_string(), agent.pid().to_string());
    let words = ["reuse", &address, &NOBODY.to_string(), &pid, &create("borrowed")];
    assert_eq!(client(setpriv(0), &words), "200", "root's own call");
    assert!(!is_made(&agent, "borrowed"));
    let log = agent.end();
    assert!(!log.contains("CreateGuest"), "{log}");
}

#[test]
fn a_user_has_a_share_of_connections() {
    let Some(_world) = require("users", World::new()) else { return };
    let users = [64001, 64002, 64003, 64004].map(|uid: u32| uid.to_string());
    let config = CallerConfig { users: users.to_vec(), ..CallerConfig::default() };
    // Requests that have started stay so for as long as the test takes.
    let limits = HttpLimits {
        request: SOON,
        connections: 256,
        connections_per_caller: 64,
        connections_reserved: 16,
        ..HttpLimits::default()
    };
    let anywhere = "127.0.0.1:0".parse().expect("an address");
    let mut front = Front::bind(&[anywhere], limits).expect("a free port");
    front.admit(Access::new(&config).expect("users by number"));
    let address = front.local_addresses()[0].to_string();
    let handler = |_: &Request, responder: Responder| responder.send(Response::text("well"));
    let running = front.start(Arc::new(handler)).expect("threads");
    let mut words = Vec::new();
    for user in users.iter().map(String::as_str).chain(["0"]) {
        words.extend(["keep-busy", &address, user, "80"]);
    }
    words.extend(["ask", &address]);
    let served = client(setpriv(0), &words);
    assert_eq!(served.lines().collect::<Vec<_>>(), ["64", "64", "64", "48", "16", "503"]);
    wait_until("connections are free again", SOON, || ask(64004, &address) == "200");
    assert!(running.stop(SOON));
}

#[test]
fn idle_connections_of_root_do_not_lock_root_out() {
    let Some(_world) = require("users", World::new()) else { return };
    let agent = Agent::start(&[&ON_TEST_DRIVER[..], &["--allow-user", "64001"]].concat());
    let address = agent.address().to_string();
    // Of root's 1,100 the last stay, and of the other user, who was there first, all.
    let words = ["hold", &address, "64001", "10", "press", &address, "0", "1100", "again"];
    let served = client(setpriv(0), &words);
    assert_eq!(served.lines().collect::<Vec<_>>(), ["10", "1100", "1024"]);
    agent.end();
}
