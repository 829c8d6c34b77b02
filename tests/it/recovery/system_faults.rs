//! What the system refuses, as it does not on demand: one call after the other fails in an agent of its
//! own, until none is left. Each agent ends with a line that says why, or does without; it loses
//! nothing, and the next one goes on. `faults.c` is what lets calls fail.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::cost::slow;
use crate::harness::fault_libraries::faults;
use crate::harness::support::{Scratch, wait_until};
use crate::recovery::unfinished_changes::cut_off;

/// Longer than a loaded machine needs to recover something.
const SOON: Duration = Duration::from_secs(60);
/// More than any of these calls is made by an agent of these tests.
const CALLS_MAX: usize = 500;

/// The directories of agents on libvirt's test driver, one after the other.
struct Home(Scratch);

impl Home {
    fn new() -> Self {
        Self(Scratch::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn flags(&self) -> [String; 6] {
        let storage = format!("directory:{}", self.path("store").display());
        let state = self.path("state").display().to_string();
        ["--libvirt-uri", "test:///default", "--storage", &storage, "--state-dir", &state]
            .map(str::to_owned)
    }

    /// An agent with such a fault, or what it has logged when it has ended instead.
    fn start(&self, fault: &str, more: &[&str]) -> Result<Agent, String> {
        slow("starts an agent for each call that fails");
        let mut command = Command::new(PROGRAM);
        command.env("LD_PRELOAD", faults()).env("FAULT", fault);
        let mut flags = self.flags().to_vec();
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        Agent::try_run(command, &flags)
    }

    /// Starts agents in which the first of these calls fails, then the second and so on, as long as an agent makes
    /// that many. `ended` gets the log of an agent that did not start, `using` the others. Returns how many agents
    /// there were, and how many of them did not start.
    fn each(
        &self,
        (call, error, part): (&str, i32, &str),
        ended: impl Fn(&str),
        using: impl Fn(&Agent),
    ) -> (usize, usize) {
        let mut ends = 0;
        for number in 1..CALLS_MAX {
            let fault = format!("{call}:{error}:{number}:{part}");
            let log = match self.start(&fault, &[]) {
                Ok(agent) => {
                    using(&agent);
                    agent.end()
                }
                Err(log) => {
                    let why = log.lines().last().unwrap_or_default();
                    assert!(why.starts_with("mistify-libvirt: "), "{fault}: {log}");
                    ended(why);
                    ends += 1;
                    log
                }
            };
            assert!(!log.contains("panic"), "{fault}: {log}");
            if !log.contains("(fault)") {
                return (number - 1, ends);
            }
        }
        panic!("more than {CALLS_MAX} times {call}");
    }

    /// Has an agent leave something open in its journal.
    fn leave_open(&self) {
        cut_off(&self.flags(), &guest(), "before:3");
        assert_eq!(entries(&self.path("state/intents")), 1);
    }

    /// Starts an agent without a fault, which recovers what is open.
    fn recover(&self) {
        let agent = Agent::start(&self.flags());
        wait_until("it is recovered", SOON, || agent.is_recovered());
        agent.end();
        assert_eq!(entries(&self.path("store/guests")), 0);
        assert_eq!(entries(&self.path("state/set-aside")), 0);
    }
}

fn guest() -> Value {
    let disks = json!([{ "size": 1 }]);
    json!({ "id": "g", "type": "test", "memory": 32, "cpu": 1, "nics": [], "disks": disks })
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[test]
fn failed_thread_is_reported_and_ends_the_start() {
    let home = Home::new();
    let ended = |why: &str| {
        assert!(why.contains(": cannot "), "{why}");
        assert!(why.ends_with(": Resource temporarily unavailable (os error 11)"), "{why}");
    };
    let (calls, ends) = home.each(("pthread_create", libc::EAGAIN, ""), ended, |agent| {
        agent.ok("Status", &json!({ "id": "test" }));
    });
    assert!(calls > 60 && ends > 60, "{calls} threads, {ends} ends");
}

/// Checks that no file of the state is lost if one of these calls for a path in it fails: the agent names the path
/// and ends, or does without. At least `at_least` agents end.
fn start_is_repeated(call: &str, error: i32, words: &str, at_least: usize) {
    let home = Home::new();
    home.leave_open();
    let state = home.path("state").display().to_string();
    let ended = |why: &str| {
        assert!(why.contains(&state) && why.ends_with(words), "{why}");
        assert_eq!(entries(&home.path("state/intents")), 1);
    };
    let (calls, ends) = home.each((call, error, &state), ended, |_| {});
    assert!(ends >= at_least, "{calls} calls, {ends} ends");
    home.recover();
}

#[test]
fn failed_listing_is_reported_and_intents_stay_open() {
    start_is_repeated("opendir", libc::EIO, "Input/output error (os error 5)", 2);
}

#[test]
fn start_without_descriptors_sets_nothing_aside() {
    start_is_repeated("open64", libc::EMFILE, "Too many open files (os error 24)", 4);
}

#[test]
fn failed_fsync_is_an_error_and_leaves_nothing() {
    let home = Home::new();
    let all = home.0.path().display().to_string();
    let ended = |why: &str| assert!(why.ends_with("Input/output error (os error 5)"), "{why}");
    let failed = [Cell::new(0), Cell::new(0)];
    let (calls, ends) = home.each(("fsync", libc::EIO, &all), ended, |agent| {
        for (method, failed) in ["CreateGuest", "Delete"].into_iter().zip(&failed) {
            let first = agent.call(method, &guest());
            if let Some(why) = first["error"].as_str() {
                assert!(why.contains("Input/output error"), "{method}: {why}");
                agent.ok(method, &guest());
                failed.set(failed.get() + 1);
            }
        }
        wait_until("it is recovered", SOON, || agent.is_recovered());
        assert_eq!(entries(&home.path("store/guests")), 0);
    });
    // A CreateGuest fails with each fault; a Delete succeeds even if its journal cannot be written.
    let failed = failed.map(Cell::into_inner);
    assert!(failed[0] > 5 && failed[1] == 0, "{calls} calls, {ends} ends, {failed:?}");
}

#[test]
fn missing_socket_owners_end_the_start_with_a_reason() {
    let home = Home::new();
    let fault = format!("socket:{}:*:netlink", libc::EPROTONOSUPPORT);
    // Also where every user may call: other hosts may reach loopback.
    for flags in [&[][..], &["--allow-any-local"]] {
        let log = home.start(&fault, flags).err().expect("nobody could be let in");
        let why = log.lines().last().unwrap_or_default();
        let said = "cannot identify socket owners (sock_diag): Protocol not supported";
        assert!(why.contains(said), "{why}");
    }
}

#[test]
fn failed_event_loop_is_reported_and_continues() {
    let home = Home::new();
    let agent = home.start(&format!("epoll_wait:{}:1", libc::EIO), &[]).expect("it goes on");
    let fails = "libvirt's event loop failed; retrying: Input/output error (os error 5)";
    agent.logged(fails);
    // libvirt sends the events of a guest by its event loop.
    agent.ok("Poweroff", &json!({ "id": "test" }));
    agent.logged("libvirt's event loop recovered");
    agent.end();
}

#[test]
fn unreadable_definition_fails_console_not_delete() {
    let home = Home::new();
    let agent = home.start("virDomainGetXMLDesc:0:*", &[]).expect("none is read");
    let test = json!({ "id": "test" });
    agent.ok("Status", &test);
    let why = agent.error("Console", &test);
    assert!(why.contains("cannot parse the domain XML from libvirt: malformed XML"), "{why}");
    agent.ok("Delete", &test);
    assert!(agent.error("Status", &test).starts_with("[Code-42] "));
    agent.end();
}

#[test]
fn a_count_beyond_the_array_reads_nothing_more() {
    let home = Home::new();
    for call in ["virConnectListAllDomains", "virConnectGetAllDomainStats"] {
        let agent = home.start(&format!("{call}:0:*"), &[]).expect("it starts");
        let listed = agent.call_with("List", &json!({}));
        assert_eq!(listed["result"]["guests"][0]["id"], "test", "{call}: {listed}");
        assert_eq!(agent.request("GET", "/metrics", &[], b"").status, 200, "{call}");
        let guest = guest();
        agent.ok("CreateGuest", &guest);
        agent.ok("Delete", &guest);
        let log = agent.end();
        assert!(log.contains("(fault)"), "{call}: it was called");
    }
}
