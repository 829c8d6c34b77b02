//! Which users get an answer.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use super::{
    CLIENT, NOBODY, ON_TEST_DRIVER, PYTHON, SOON, STRANGER, World, addresses, ask, client,
    one_in_ten_seconds, setpriv,
};
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::require;
use crate::harness::support::wait_until;

/// An agent on every kind of socket of this host, and its addresses.
fn agent_everywhere(world: &World, flags: &[&str]) -> (Agent, Vec<String>) {
    let socket = world.at("socket");
    let mut all = ON_TEST_DRIVER.to_vec();
    for address in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        all.extend(["--listen", address]);
    }
    // So that all users of these tests can open it.
    all.extend(["--socket", &socket, "--socket-group", "65534"]);
    all.extend(flags);
    let agent = Agent::start(&all);
    let mut addresses = addresses(&agent, 4);
    // A caller with an IPv6 socket whose peer is an IPv4 address.
    addresses.push(addresses[0].replace("127.0.0.1", "[::ffff:127.0.0.1]"));
    (agent, addresses)
}

#[test]
fn only_root_may_call_an_agent_of_root() {
    let Some(world) = require("users", World::new()) else { return };
    let began = Instant::now();
    let (agent, addresses) = agent_everywhere(&world, &[]);
    for address in &addresses {
        assert_eq!(ask(0, address), "200", "{address}");
        assert_eq!(ask(NOBODY, address), "closed", "{address}");
        assert_eq!(ask(STRANGER, address), "closed", "{address}");
    }
    let log = agent.log();
    one_in_ten_seconds(&log, " refused: ", began);
    let first = log.lines().find(|line| line.contains(" refused: ")).expect("one at least");
    assert!(first.contains("connection from 127.0.0.1:"), "{log}");
    assert!(first.contains(" uid=65534 refused: not allowed to call"), "{log}");
}

#[test]
fn users_that_are_named_may_call_and_no_others() {
    let Some(world) = require("users", World::new()) else { return };
    let user = STRANGER.to_string();
    let (_agent, addresses) = agent_everywhere(&world, &["--allow-user", &user]);
    for address in &addresses {
        for (uid, answer) in [(0, "200"), (STRANGER, "200"), (NOBODY, "closed")] {
            assert_eq!(ask(uid, address), answer, "{uid} {address}");
        }
        assert_eq!(client(setpriv(STRANGER), &["half", address]), "200", "{address}");
    }
}

#[test]
fn everybody_may_call_by_a_flag_with_a_warning() {
    let Some(world) = require("users", World::new()) else { return };
    let (agent, addresses) = agent_everywhere(&world, &["--allow-any-local"]);
    assert!(agent.log().contains("WARN"), "{}", agent.log());
    assert!(agent.log().contains("--allow-any-local: every user"), "{}", agent.log());
    for address in &addresses {
        assert_eq!(ask(NOBODY, address), "200", "{address}");
    }
}

#[test]
fn the_agents_own_user_may_call_it() {
    let Some(world) = require("users", World::new()) else { return };
    let state = world.at("state");
    let mut command = setpriv(STRANGER);
    command.arg(world.program());
    // Nobody but the agent's user may change the directory of its store.
    let own = World::new().expect("as before");
    fs::set_permissions(own.path(), Permissions::from_mode(0o755)).expect("it is ours");
    chown(own.path(), Some(STRANGER), None).expect("root may");
    let storage = format!("directory:{}", own.at("store"));
    let mut flags = vec!["--state-dir", &state, "--storage", &storage];
    flags.extend(ON_TEST_DRIVER);
    let agent = Agent::run(command, &flags);
    let address = agent.address().to_string();
    for (uid, answer) in [(0, "200"), (STRANGER, "200"), (NOBODY, "closed")] {
        assert_eq!(ask(uid, &address), answer, "{uid}");
    }
}

/// Users and groups that only the agent knows: `member` is in `callers` by the list of that group,
/// `native` by its own group.
#[test]
fn members_of_a_named_group_may_call() {
    let Some(world) = require("users", World::new()) else { return };
    let user = |name: &str, uid: u32, gid: u32| format!("{name}:x:{uid}:{gid}::/:/bin/false\n");
    let users = [
        user("root", 0, 0),
        user("member", 64001, 64001),
        user("native", 64002, 64100),
        user("other", 64003, 64003),
    ];
    fs::write(world.path().join("passwd"), users.concat()).expect("it is ours");
    let groups = "root:x:0:\nmember:x:64001:\ncallers:x:64100:root,member\n";
    fs::write(world.path().join("group"), groups).expect("it is ours");
    let script = format!(
        "mount --bind {0}/passwd /etc/passwd && mount --bind {0}/group /etc/group && exec \"$@\"",
        world.path().display(),
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", &script, "sh", PROGRAM]);
    let mut flags = ON_TEST_DRIVER.to_vec();
    flags.extend(["--allow-group", "callers"]);
    let agent = Agent::run(command, &flags);
    let address = agent.address().to_string();
    for (uid, answer) in [(64001, "200"), (64002, "200"), (64003, "closed"), (STRANGER, "closed")] {
        assert_eq!(ask(uid, &address), answer, "{uid}");
    }
}

/// The database of groups is a file that cannot be opened until the client releases it.
#[test]
fn slow_group_lookup_delays_only_bounded_waiters() {
    let Some(world) = require("users", World::new()) else { return };
    let group = world.at("group");
    let users = "root:x:0:0::/:/bin/false\nmember:x:64001:64001::/:/bin/false\n";
    fs::write(world.path().join("passwd"), users).expect("it is ours");
    fs::write(&group, "root:x:0:\ncallers:x:64100:member\n").expect("it is ours");
    let script = format!(
        "mount --bind {0}/passwd /etc/passwd && mount --bind {group} /etc/group && exec \"$@\"",
        world.path().display(),
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", &script, "sh", PROGRAM]);
    let mut flags = ON_TEST_DRIVER.to_vec();
    flags.extend(["--allow-group", "64100"]);
    let agent = Agent::run(command, &flags);
    let address = agent.address().to_string();
    let mut user = Command::new(PYTHON);
    user.args(["-c", CLIENT, "keep", &group]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut user = user.spawn().expect("it starts");
    let mut says = BufReader::new(user.stdout.take().expect("piped")).lines();
    let mut said = || says.next().and_then(Result::ok);
    assert_eq!(said().as_deref(), Some("kept"));

    thread::scope(|scope| {
        let waiting: Vec<_> = (0..10).map(|_| scope.spawn(|| ask(64001, &address))).collect();
        assert_eq!(said().as_deref(), Some("asked"));
        let is_turned_away = || waiting.iter().filter(|ask| ask.is_finished()).count() == 2;
        wait_until("two are too many", SOON, is_turned_away);
        assert_eq!(ask(0, &address), "200", "root does not wait");
        assert!(is_turned_away(), "the others do");
        // At the end of its input the client releases the file.
        drop(user.stdin.take());
        let mut answers: Vec<_> =
            waiting.into_iter().map(|ask| ask.join().expect("an answer")).collect();
        answers.sort_unstable();
        assert_eq!(answers, [&["200"; 8][..], &["closed"; 2]].concat());
    });
    user.wait().expect("it is our child");
    agent.end();
}

#[test]
fn call_from_another_host_address_belongs_to_its_user() {
    let Some(world) = require("users", World::new()) else { return };
    let script = "ip link set lo up && ip addr add 192.0.2.7/32 dev lo && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-n", "/bin/sh", "-c", script, "sh", &world.program()]);
    let agent = Agent::run(command, &ON_TEST_DRIVER);
    let address = format!("192.0.2.7>{}", agent.address());
    for (uid, answer) in [(0, "200"), (NOBODY, "closed")] {
        let mut runner = Command::new("nsenter");
        runner.args(["-n", "-t", &agent.pid().to_string(), "setpriv"]);
        runner.args(setpriv(uid).get_args());
        assert_eq!(client(runner, &["ask", &address]), answer, "{uid}");
    }
}

#[test]
fn a_socket_is_opened_by_its_group_alone() {
    let Some(world) = require("users", World::new()) else { return };
    let socket = world.at("socket");
    let user = NOBODY.to_string();
    let mut flags = ON_TEST_DRIVER.to_vec();
    flags.extend(["--socket", &socket, "--allow-user", &user]);
    let agent = Agent::start(&flags);
    addresses(&agent, 2);
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); print(s.connect_ex({socket:?}))"
    );
    let refused = setpriv(NOBODY).args([super::PYTHON, "-c", &script]).output().expect("it starts");
    assert_eq!(String::from_utf8_lossy(&refused.stdout).trim(), "13", "permission denied");
    chown(&socket, None, Some(NOBODY)).expect("root may");
    assert_eq!(ask(NOBODY, &socket), "200");
}
