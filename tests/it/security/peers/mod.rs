//! Permitted callers: clients of different users, on every kind of socket.

mod activation;
mod attacks;
mod batches;
mod beyond;
mod exposed;
mod floods;
mod impostors;
mod pages;
mod places;
mod sockets;
mod users;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::agent::{Agent, copy_program};
use crate::harness::skip::Skip;
use crate::harness::support::wait_for;

const CLIENT: &str = include_str!("client.py");
/// Debian's own: that of a developer's PATH may lie where others cannot go.
const PYTHON: &str = "/usr/bin/python3";
/// Longer than a loaded machine needs.
const SOON: Duration = Duration::from_secs(60);
/// `nobody`, and a user that no database knows.
const NOBODY: u32 = 65534;
const STRANGER: u32 = 64999;
const ON_TEST_DRIVER: [&str; 2] = ["--libvirt-uri", "test:///default"];

/// A directory that all users can enter, with a copy of the agent that they can run.
struct World(PathBuf);

impl World {
    /// # Errors
    /// Where this process cannot become other users.
    fn new() -> Result<Self, Skip> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mistify-peers-{}-{number}", std::process::id());
        let world = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(world.path()).expect("a directory can be made");
        fs::set_permissions(world.path(), Permissions::from_mode(0o1777)).expect("it is ours");
        let tried = setpriv(STRANGER).args([PYTHON, "-c", ""]).output();
        match tried {
            Ok(output) if output.status.success() => Ok(world),
            Ok(output) => Err(Skip(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
            Err(error) => Err(Skip(format!("setpriv does not start: {error}"))),
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The agent's program, where every user can run it.
    fn program(&self) -> String {
        let copy = self.at("agent");
        if !Path::new(&copy).exists() {
            copy_program(Path::new(&copy));
        }
        copy
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A left-over directory in /tmp harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a command that runs its further arguments as this user, in the group of `nobody`.
fn setpriv(uid: u32) -> Command {
    let mut command = Command::new("setpriv");
    let (user, group) = (uid.to_string(), NOBODY.to_string());
    command.args(["--reuid", &user, "--regid", &group, "--clear-groups"]);
    command
}

/// What the client says, run by these words.
fn client(mut runner: Command, words: &[&str]) -> String {
    let output = runner.args([PYTHON, "-c", CLIENT]).args(words).output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Returns the answer to a request of this user.
fn ask(uid: u32, address: &str) -> String {
    client(setpriv(uid), &["ask", address])
}

/// The addresses that an agent listens on, once there are `count` of them.
fn addresses(agent: &Agent, count: usize) -> Vec<String> {
    wait_for("it listens on all", SOON, || {
        let log = agent.log();
        let addresses = log.lines().filter_map(|line| line.split("listening on ").nth(1));
        let addresses: Vec<String> = addresses.map(str::to_owned).collect();
        (addresses.len() == count).then_some(addresses)
    })
}

/// Of a kind of line there is one at least, and since `began` no more than one in ten seconds.
fn one_in_ten_seconds(log: &str, line: &str, began: Instant) {
    let (lines, tens) = (log.matches(line).count(), began.elapsed().as_secs() / 10);
    assert!((1..=1 + tens).contains(&(lines as u64)), "{lines} in {:?}: {log}", began.elapsed());
}

/// A call that makes a guest.
fn create(id: &str) -> String {
    let guest = format!(r#"{{"id":"{id}","type":"test","memory":32,"cpu":1}}"#);
    format!(r#"{{"method":"Libvirt.CreateGuest","params":[{{"guest":{guest}}}],"id":1}}"#)
}
