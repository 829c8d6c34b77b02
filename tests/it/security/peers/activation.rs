//! Sockets that the agent is started with.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{NOBODY, ON_TEST_DRIVER, PYTHON, SOON, World, addresses, ask, client, setpriv};
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::{Skip, require};
use crate::harness::support::{Scratch, wait_for};

/// Makes the sockets that its words name, and becomes the program that follows them as
/// `sd_listen_fds(3)` says.
const LAUNCHER: &str = r#"
import fcntl, os, socket, sys
names, kinds, program = sys.argv[1], sys.argv[2].split(), sys.argv[3:]
sockets = []
for kind in kinds:
    if kind == "tcp":
        made = socket.socket()
        made.bind(("127.0.0.1", 0))
    elif kind == "everywhere":
        made = socket.socket()
        made.bind(("0.0.0.0", 0))
    elif kind == "udp":
        made = socket.socket(type=socket.SOCK_DGRAM)
    else:
        made = socket.socket(socket.AF_UNIX)
        made.bind(kind)
    if kind != "udp":
        made.listen()
    sockets.append(made)
# Past the numbers that they get, so that none is written over.
high = [fcntl.fcntl(made.fileno(), fcntl.F_DUPFD, 40) for made in sockets]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.closerange(3 + len(high), 100)
os.execv(program[0], program)
"#;

fn launcher(names: &str, kinds: &str) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(["-c", LAUNCHER, names, kinds, PROGRAM]);
    command
}

fn python() -> Result<(), Skip> {
    let found = Path::new(PYTHON).exists();
    if found { Ok(()) } else { Err(Skip(format!("there is no {PYTHON}"))) }
}

#[test]
fn passed_sockets_replace_the_port_and_outlive_agent() {
    let Some(()) = require("users", python()) else { return };
    let scratch = Scratch::new();
    let socket = scratch.path().join("rpc").display().to_string();
    let agent = Agent::run(launcher("rpc:rpc", &format!("tcp {socket}")), &ON_TEST_DRIVER);
    let addresses = addresses(&agent, 2);
    assert_eq!(addresses[1], socket);
    for address in &addresses {
        assert_eq!(client(setpriv(0), &["ask", address]), "200", "{address}");
    }
    assert_eq!(ask(0, &addresses[0]), "200");
    agent.end();
    assert!(Path::new(&socket).exists(), "it is whose who made it");
}

#[test]
fn passed_sockets_are_not_inherited() {
    let Some(()) = require("users", python()) else { return };
    let agent = Agent::run(launcher("-", "tcp"), &ON_TEST_DRIVER);
    addresses(&agent, 1);
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/3", agent.pid())).expect("it has it");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("its flags");
    let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
    assert_ne!(flags & 0o2_000_000, 0, "close on exec: {info}");
    agent.end();
}

#[test]
fn a_socket_named_image_store_serves_it() {
    let Some(()) = require("users", python()) else { return };
    let agent = Agent::run(launcher("image-store:rpc", "tcp tcp"), &ON_TEST_DRIVER);
    let images = wait_for("its line", SOON, || {
        let log = agent.log();
        log.split("the image store listens on ").nth(1)?.lines().next()?.parse().ok()
    });
    let json = [("Content-Type", "application/json")];
    let call = br#"{"method":"ImageStore.ListImages","params":[{}],"id":1}"#;
    let reply = agent.request_at(images, "POST", "/_mistify_RPC_", &json, call);
    assert!(!reply.text().contains("can't find"), "{}", reply.text());
    assert_eq!(agent.state("test"), "running");
    agent.end();
}

fn refused(names: &str, kinds: &str) -> String {
    let state = Scratch::new();
    let launcher = launcher(names, kinds);
    let Output { status, stderr, .. } = Command::new("timeout")
        .arg("60")
        .arg(launcher.get_program())
        .args(launcher.get_args())
        .args(["--libvirt-uri", "test:///default", "--state-dir"])
        .arg(state.path())
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert_eq!(status.code(), Some(1));
    String::from_utf8_lossy(&stderr).trim().to_owned()
}

#[test]
fn unknown_name_or_unlistening_socket_ends_the_start() {
    let Some(()) = require("users", python()) else { return };
    let error = refused("rpc:web", "tcp tcp");
    assert!(
        error.starts_with("mistify-libvirt: LISTEN_FDNAMES: web: unknown socket name; "),
        "{error}"
    );
    let error = refused("rpc", "udp");
    let why = "cannot use passed descriptor 3: not a listening stream socket";
    assert!(error.contains(why), "{error}");
}

#[test]
fn passed_remote_socket_needs_a_token() {
    let Some(()) = require("users", python()) else { return };
    for (name, needs) in [
        ("rpc", "needs --token-file"),
        ("image-store", "needs --token-file"),
        ("metrics", "needs --metrics-token-file or --metrics-open"),
    ] {
        let error = refused(name, "everywhere");
        assert!(error.contains("beyond loopback") && error.contains(needs), "{error}");
    }
}

#[test]
fn a_socket_named_metrics_serves_them_to_every_user() {
    let Some(_world) = require("users", World::new()) else { return };
    let agent = Agent::run(launcher("metrics:rpc", "tcp tcp"), &ON_TEST_DRIVER);
    let metrics = wait_for("its line", SOON, || {
        let log = agent.log();
        let rest = log.split("metrics are served on ").nth(1)?;
        rest.lines().next().map(str::to_owned)
    });
    assert_eq!(ask(NOBODY, &metrics), "200");
    assert_eq!(ask(NOBODY, &agent.address().to_string()), "closed");
    agent.end();
}
