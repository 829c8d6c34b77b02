//! Processes of other users that listen where the agent is expected.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Lines};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use super::{CLIENT, NOBODY, ON_TEST_DRIVER, PYTHON, World, setpriv};
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::require;

/// A process of `nobody` that listens.
struct Impostor {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Impostor {
    fn on(host: &str) -> (Self, String) {
        Self::by(setpriv(NOBODY), host)
    }

    /// The same, run by this command.
    fn by(mut command: Command, host: &str) -> (Self, String) {
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
        let (impostor, address) = Impostor::on(host);
        refused(impostor, &list(&["--listen", &address]));
    }
}

/// The command refused to send anything.
fn refused(mut impostor: Impostor, ended: &Output) {
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(error.contains("the server is a process of user 65534"), "{error}");
    assert_eq!(impostor.next(), "0", "bytes");
}

#[test]
fn an_impostor_on_a_unix_socket_gets_nothing() {
    let Some(world) = require("users", World::new()) else { return };
    let (impostor, path) = Impostor::on(&world.at("socket"));
    let mut command = setpriv(0);
    command.args([PROGRAM, "list", "--config", "/dev/null", "--socket", &path]);
    refused(impostor, &command.output().expect("it starts"));
}

#[test]
fn an_impostor_on_an_own_address_gets_no_token() {
    let Some(world) = require("users", World::new()) else { return };
    let token = world.at("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef\n").expect("it is ours");
    fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("it is ours");
    // An address of this host that is not on loopback, in a network of its own.
    let script = "ip link set lo up && ip addr add 192.0.2.7/32 dev lo && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-n", "/bin/sh", "-c", script, "sh", "setpriv"]);
    command.args(setpriv(NOBODY).get_args());
    let (impostor, address) = Impostor::by(command, "192.0.2.7");
    let mut command = Command::new("nsenter");
    command.args(["-n", "-t", &impostor.process.id().to_string(), PROGRAM, "list"]);
    command.args(["--config", "/dev/null", "--listen", &address, "--token-file", &token]);
    refused(impostor, &command.output().expect("it starts"));
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
fn loopback_port_in_use_fails_start_and_check() {
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
