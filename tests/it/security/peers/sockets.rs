//! The agent's Unix socket, from its making to its end.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use super::addresses;
use crate::harness::agent::{Agent, PROGRAM, Reply};
use crate::harness::support::Scratch;

fn flags(socket: &Path) -> Vec<String> {
    let socket = socket.display().to_string();
    ["--libvirt-uri", "test:///default", "--socket", &socket].map(str::to_owned).to_vec()
}

fn status(socket: &Path) -> u16 {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    Reply::read(&mut stream).status
}

#[test]
fn socket_of_a_killed_agent_is_replaced_and_removed() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("rpc");
    let first = Agent::start(&flags(&socket));
    addresses(&first, 2);
    assert_eq!(status(&socket), 200);
    drop(first);
    assert!(fs::symlink_metadata(&socket).expect("it was killed").file_type().is_socket());

    let second = Agent::start(&flags(&socket));
    addresses(&second, 2);
    assert_eq!(status(&socket), 200);
    second.end();
    assert!(!socket.exists());
}

#[test]
fn a_socket_that_another_process_has_is_left_to_it() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("rpc");
    let first = Agent::start(&flags(&socket));
    addresses(&first, 2);
    let output = Command::new("timeout")
        .args(["60", PROGRAM, "--port", "0", "--state-dir"])
        .arg(scratch.path())
        .args(flags(&socket))
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("address in use") && error.contains("/rpc"), "{error}");
    assert_eq!(status(&socket), 200);
    first.end();
}

#[test]
fn unknown_user_names_end_the_start() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("rpc").display().to_string();
    for words in [
        &["--allow-user", "no-such-user"][..],
        &["--allow-group", "no-such-group"],
        &["--socket", &socket, "--socket-group", "no-such-group"],
    ] {
        let output = Command::new("timeout")
            .args(["60", PROGRAM, "--port", "0", "--libvirt-uri", "test:///default", "--state-dir"])
            .arg(scratch.path())
            .args(words)
            .output()
            .expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("no-such-") && error.contains("not known on this host"), "{error}");
    }
}

#[test]
fn no_thread_of_the_agent_can_gain_privileges() {
    let agent = Agent::on_test_driver();
    agent.state("test");
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("it runs");
    let mut threads = 0;
    for task in tasks.map(|task| task.expect("it can be listed").path()) {
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        // One that has just ended has none.
        if !status.is_empty() {
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
            threads += 1;
        }
    }
    assert!(threads > 32, "{threads}");
}
