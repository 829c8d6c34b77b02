//! Processes of other users that listen where the agent is expected.

use std::io::{BufRead, BufReader, Lines};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use super::{CLIENT, NOBODY, ON_TEST_DRIVER, PYTHON, World, setpriv};
use crate::agent::{Agent, PROGRAM};
use crate::skip::require;

/// A process of `nobody` that listens.
struct Impostor {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Impostor {
    fn on(host: &str) -> (Self, String) {
        let mut command = setpriv(NOBODY);
        command.args([PYTHON, "-c", CLIENT, "pose", host]).stdout(Stdio::piped());
        let mut process = command.spawn().expect("it starts");
        let says = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut impostor = Self { process, says };
        let address = impostor.next();
        (impostor, address)
    }

    /// Its next line: what came on a connection, once that is closed.
    fn next(&mut self) -> String {
        self.says.next().expect("it says more").expect("UTF-8")
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn list(flags: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["list", "--config", "/dev/null"]).args(flags).output().expect("it starts")
}

#[test]
fn a_command_sends_an_impostor_nothing() {
    let Some(_world) = require("users", World::new()) else { return };
    for host in ["127.0.0.1", "[::1]"] {
        let (mut impostor, address) = Impostor::on(host);
        let ended = list(&["--listen", &address]);
        assert_eq!(ended.status.code(), Some(3), "{ended:?}");
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(error.contains("the server is a process of user 65534"), "{error}");
        assert_eq!(impostor.next(), "0", "{host}");
    }
}

#[test]
fn the_agent_listens_on_both_loopbacks() {
    // A port that is free on both a moment before.
    let port = TcpListener::bind("[::1]:0").and_then(|it| it.local_addr()).expect("a port").port();
    let agent = Agent::start(&[&ON_TEST_DRIVER[..], &["--port", &port.to_string()]].concat());
    for host in ["127.0.0.1", "[::1]"] {
        let ended = list(&["--listen", &format!("{host}:{port}")]);
        assert!(ended.status.success(), "{host}: {ended:?}");
    }
    agent.end();
}

#[test]
fn a_loopback_that_is_taken_is_said_and_fails_a_check() {
    let Some(_world) = require("users", World::new()) else { return };
    let (_impostor, address) = Impostor::on("[::1]");
    let port = address.rsplit(':').next().expect("a port");
    let agent = Agent::start(&[&ON_TEST_DRIVER[..], &["--port", port]].concat());
    agent.logged(&format!("cannot listen on [::1]:{port}"));
    let mut check = Command::new(PROGRAM);
    check.args(["check", "--config", "/dev/null", "--port", port]).args(ON_TEST_DRIVER);
    let found = check.output().expect("it starts");
    let text = String::from_utf8_lossy(&found.stdout);
    let other = format!("the listener on [::1]:{port} belongs to user 65534");
    assert!(text.contains(&other) && !found.status.success(), "{text}");
    let own = format!("the listener on 127.0.0.1:{port} belongs to user 0");
    assert!(text.contains(&own), "{text}");
    agent.end();
}
