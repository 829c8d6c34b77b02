//! Callers from beyond this host: another network namespace, over a pair of virtual devices.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::{
    NOBODY, ON_TEST_DRIVER, SOON, STRANGER, World, addresses, ask, client, create,
    one_in_ten_seconds, setpriv,
};
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::{Skip, require};
use crate::harness::support::{Scratch, wait_for, wait_until};

const TOKEN: &str = "Zk3vQ0pXw8Yt5RbN7sLd2MfG9hJc4AeU";
const OTHER: &str = "another-token-that-is-long-enough";

/// A host beyond: a network namespace that lives as long as this does.
struct Neighbour(Child);

impl Neighbour {
    /// # Errors
    /// Where there are no network namespaces, or no virtual devices.
    fn new() -> Result<Self, Skip> {
        let mut command = Command::new("unshare");
        command.args(["-n", "/bin/sh", "-c", "echo here; exec sleep 600"]);
        let skip = |why: String| Skip(format!("no network of its own: {why}"));
        let child = command.stdout(Stdio::piped()).spawn();
        let neighbour = Self(child.map_err(|error| skip(error.to_string()))?);
        let link = || fs::read_link(format!("/proc/{}/ns/net", neighbour.0.id())).ok();
        let ours = fs::read_link("/proc/self/ns/net").ok();
        wait_until("it has a network of its own", SOON, || link() != ours);
        let probe = format!("ip link add p0 type veth peer name p1 netns {}", neighbour.0.id());
        let output = Command::new("unshare").args(["-n", "/bin/sh", "-c", &probe]).output();
        let output = output.map_err(|error| skip(error.to_string()))?;
        // The devices went with the namespace that they were tried in.
        match output.status.success() {
            true => Ok(neighbour),
            false => Err(skip(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    /// An agent of another network namespace, which this one reaches at 192.0.2.1 and 2001:db8::1.
    fn agent(&self, world: &World, flags: &[&str]) -> Agent {
        let peer = self.0.id();
        let there = format!("nsenter -n -t {peer}");
        let script = format!(
            "ip link set lo up && ip link add v0 type veth peer name v1 netns {peer} && \
             ip addr add 192.0.2.1/24 dev v0 && ip addr add 2001:db8::1/64 dev v0 nodad && \
             ip link set v0 up && {there} ip addr add 192.0.2.2/24 dev v1 && \
             {there} ip addr add 2001:db8::2/64 dev v1 nodad && {there} ip link set v1 up && \
             exec \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["-n", "/bin/sh", "-c", &script, "sh", &world.program()]);
        Agent::run(command, &[&ON_TEST_DRIVER[..], flags].concat())
    }

    /// Has this one reach the other's loopback at 127.0.0.1: with `route_localnet` there, and no loopback of
    /// its own.
    fn reach_loopback(&self, agent: &Agent) {
        let there = "sysctl -qw net.ipv4.conf.v0.route_localnet=1";
        let here = "ip route flush table local 127.0.0.0/8; ip addr flush dev lo; \
                    sysctl -qw net.ipv4.conf.v1.route_localnet=1 && \
                    ip route add 127.0.0.1/32 via 192.0.2.1 dev v1 src 192.0.2.2";
        for (pid, script) in [(agent.pid(), there), (self.0.id(), here)] {
            let pid = pid.to_string();
            let ended =
                Command::new("nsenter").args(["-n", "-t", &pid, "/bin/sh", "-c", script]).status();
            assert!(ended.is_ok_and(|ended| ended.success()), "{script}");
        }
    }

    /// Returns the answer to this text.
    fn say(&self, address: &str, text: &str) -> String {
        let mut runner = Command::new("nsenter");
        runner.args(["-n", "-t", &self.0.id().to_string()]);
        client(runner, &["say", address, text])
    }

    /// The status of `GET /healthz` with these fields.
    fn status(&self, address: &str, fields: &str) -> String {
        let answer = self.say(address, &get(fields));
        answer.split(' ').nth(1).unwrap_or("closed").to_owned()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It ends by itself, too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(fields: &str) -> String {
    format!("GET /healthz HTTP/1.1\\r\\nHost: 192.0.2.1\\r\\nConnection: close\\r\\n{fields}\\r\\n")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\\r\\n")
}

/// A file with this text and this mode.
fn written(world: &World, name: &str, text: &str, mode: u32) -> String {
    let path = world.at(name);
    fs::write(&path, text).expect("it is ours");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
    path
}

/// What the agent with these flags says as it ends.
fn refused(flags: &[&str]) -> String {
    let state = Scratch::new();
    let output = Command::new("timeout")
        .args(["60", PROGRAM, "--port", "0", "--libvirt-uri", "test:///default", "--state-dir"])
        .arg(state.path())
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn remote_address_is_refused_without_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        for flags in [&["--listen", address][..], &["--listen", "127.0.0.1", "--listen", address]] {
            let error = refused(flags);
            assert!(error.contains("an address beyond loopback needs --token-file"), "{error}");
        }
    }
    let agent =
        Agent::start(&[&ON_TEST_DRIVER[..], &["--listen", "[::ffff:127.0.0.1]:0"]].concat());
    assert_eq!(ask(0, &agent.address().to_string()), "200", "loopback, though it is mapped");
    agent.end();
}

#[test]
fn a_token_that_others_could_know_ends_the_start() {
    let Some(world) = require("users", World::new()) else { return };
    let theirs = written(&world, "theirs", TOKEN, 0o600);
    chown(&theirs, Some(STRANGER), None).expect("root may");
    for (path, why) in [
        (written(&world, "open", TOKEN, 0o644), "its mode is 0644; set it to 0600 or 0640"),
        (written(&world, "shared", TOKEN, 0o660), "its mode is 0660; set it to 0600 or 0640"),
        (written(&world, "short", "secret", 0o600), "shorter than 22 characters"),
        (written(&world, "two", "a b", 0o600), "not one line"),
        (theirs, "its owner is user 64999; change it to root"),
        (world.at("absent"), "No such file"),
    ] {
        for flag in ["--token-file", "--metrics-token-file"] {
            let error = refused(&[flag, &path]);
            assert!(error.contains(&format!("{flag} {path}: {why}")), "{error}");
        }
    }
}

#[test]
fn remote_callers_need_the_token_and_local_the_user() {
    crate::harness::cost::slow("starts many agents and callers");
    let Some(world) = require("users", World::new()) else { return };
    let Some(neighbour) = require("users", Neighbour::new()) else { return };
    let file = written(&world, "token", &format!("{TOKEN}\n"), 0o600);
    let mut flags = vec!["--token-file", &file];
    for address in ["127.0.0.1:0", "192.0.2.1:0", "[2001:db8::1]:0", "[::]:0"] {
        flags.extend(["--listen", address]);
    }
    let began = Instant::now();
    let agent = neighbour.agent(&world, &flags);
    let mut addresses = addresses(&agent, 4);
    let everywhere = addresses.remove(3);
    addresses.push(everywhere.replace("[::]", "192.0.2.1"));
    addresses.push(everywhere.replace("[::]", "[2001:db8::1]"));
    let loopback = addresses.remove(0);

    let lower = TOKEN.to_lowercase();
    for address in &addresses {
        let none = neighbour.say(address, &get(""));
        assert!(
            none.contains("401 Unauthorized") && none.contains("WWW-Authenticate: Bearer"),
            "{none}"
        );
        for fields in [
            bearer(OTHER),
            bearer(&lower),
            bearer(&TOKEN[1..]),
            bearer(""),
            format!("Authorization: Basic {TOKEN}\\r\\n"),
            bearer(TOKEN) + &bearer(TOKEN),
        ] {
            assert_eq!(neighbour.status(address, &fields), "401", "{address} {fields}");
        }
        assert_eq!(neighbour.status(address, &bearer(TOKEN)), "200", "{address}");
        let fields = format!("aUTHORIZATION: bEARER {TOKEN}\\r\\n");
        assert_eq!(neighbour.status(address, &fields), "200", "{address}");
        assert_eq!(neighbour.status(address, &(bearer(TOKEN) + "Origin: null\\r\\n")), "403");
    }
    // What is wrong about a token is not told, and its body is not asked for.
    let words = |answer: String| answer.split("Date").next().map(str::to_owned);
    let address = &addresses[0];
    let none = neighbour.say(address, &get("Content-Length: 9\\r\\nExpect: 100-continue\\r\\n"));
    assert_eq!(words(none), words(neighbour.say(address, &get(&bearer(OTHER)))));
    let body = create("stolen").replace('\\', "\\\\");
    let fields = format!("Content-Type: application/json\\r\\nContent-Length: {}", body.len());
    let head = "POST /_mistify_RPC_ HTTP/1.1\\r\\nHost: 192.0.2.1\\r\\nConnection: close\\r\\n";
    let answer = neighbour.say(address, &format!("{head}{fields}\\r\\n\\r\\n{body}"));
    assert!(answer.contains(" 401 "), "{answer}");
    let log = agent.log();
    assert!(!log.contains("CreateGuest") && !log.contains(TOKEN), "{log}");
    one_in_ten_seconds(&log, "missing or wrong token", began);
    assert!(log.contains("request from 192.0.2.2:"), "{log}");
    assert_eq!(log.matches("the token is sent over plain HTTP").count(), 3, "{log}");

    // On the host itself nothing has changed; its other addresses are as from beyond.
    let here = |uid: u32, words: &[&str]| {
        let mut runner = Command::new("nsenter");
        runner.args(["-n", "-t", &agent.pid().to_string(), "setpriv"]);
        client(
            {
                runner.args(setpriv(uid).get_args());
                runner
            },
            words,
        )
    };
    assert_eq!(here(0, &["ask", &loopback]), "200");
    assert_eq!(here(NOBODY, &["ask", &loopback]), "closed");
    let with_token = get(&bearer(TOKEN));
    assert_eq!(here(NOBODY, &["say", &loopback, &with_token]), "closed", "no token opens loopback");
    assert_eq!(here(0, &["ask", address]), "401");
    let list = |flags: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["-n", "-t", &agent.pid().to_string(), PROGRAM, "list", "--listen", address]);
        let output = command.args(["--config", "/dev/null"]).args(flags).output();
        output.expect("it starts").status.success()
    };
    assert!(list(&["--token-file", &file]), "the commands of the shell show it, too");
    assert!(!list(&[]));
    assert!(here(NOBODY, &["say", address, &with_token]).contains(" 200 "));
    agent.end();
}

#[test]
fn loopback_is_closed_to_other_hosts() {
    let Some(world) = require("users", World::new()) else { return };
    let Some(neighbour) = require("users", Neighbour::new()) else { return };
    let flags = ["--allow-any-local", "--metrics-listen", "127.0.0.1:0"];
    let agent = neighbour.agent(&world, &flags);
    let metrics = wait_for("its line", SOON, || {
        let log = agent.log();
        Some(log.split("metrics are served on ").nth(1)?.lines().next()?.trim().to_owned())
    });
    neighbour.reach_loopback(&agent);
    let own = |address: &str| {
        let mut runner = Command::new("nsenter");
        runner.args(["-n", "-t", &agent.pid().to_string()]);
        client(runner, &["ask", address])
    };
    for address in [agent.address().to_string(), metrics] {
        assert_eq!(own(&address), "200", "{address}");
        assert_eq!(neighbour.status(&address, ""), "closed", "{address}");
    }
    agent.logged("or not on this host");
    agent.end();
}

#[test]
fn images_need_the_token_and_metrics_have_their_own() {
    let Some(world) = require("users", World::new()) else { return };
    let Some(neighbour) = require("users", Neighbour::new()) else { return };
    let file = written(&world, "token", TOKEN, 0o640);
    let other = written(&world, "other", OTHER, 0o600);
    let scratch = Scratch::new();
    let store = format!("directory:{}", scratch.path().display());
    let mut flags = vec!["--listen", "192.0.2.1:0", "--image-store", "--image-store-port", "0"];
    flags.extend(["--token-file", &file, "--storage", &store, "--metrics-listen", "192.0.2.1:0"]);
    let address = |agent: &Agent, words: &str| {
        wait_for("its line", SOON, || {
            let log = agent.log();
            Some(log.split(words).nth(1)?.lines().next()?.trim().to_owned())
        })
    };
    let agent = neighbour.agent(&world, &[&flags[..], &["--metrics-token-file", &other]].concat());
    let images = address(&agent, "the image store listens on ");
    let metrics = address(&agent, "metrics are served on ");
    for (address, right, wrong) in [(&images, TOKEN, OTHER), (&metrics, OTHER, TOKEN)] {
        assert_eq!(neighbour.status(address, ""), "401", "{address}");
        assert_eq!(neighbour.status(address, &bearer(wrong)), "401", "{address}");
        assert_eq!(neighbour.status(address, &bearer(right)), "200", "{address}");
    }
    agent.end();

    let neighbour = Neighbour::new().expect("as before");
    let agent = neighbour.agent(&world, &[&flags[..], &["--metrics-open"]].concat());
    let metrics = address(&agent, "metrics are served on ");
    assert_eq!(neighbour.status(&metrics, ""), "200");
    let page = get("").replace("192.0.2.1", "evil.example");
    assert!(neighbour.say(&metrics, &page).contains(" 403 "), "a page by a name of its own");
    assert!(
        agent.log().contains("anyone who can connect has access to the metrics"),
        "{}",
        agent.log()
    );
    agent.end();
}
