//! What runs out: space for the journal and for disks, file descriptors, threads. Each is a clear
//! error of the call that needed it; nothing is left of that, and the agent goes on.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, copy_program};
use crate::harness::skip::{Skip, require};
use crate::harness::support::{Scratch, wait_for, wait_until};

/// Longer than a loaded machine needs for what takes seconds.
const SOON: Duration = Duration::from_secs(60);

/// A file system in memory, for as long as the test runs.
struct Small(Scratch);

impl Small {
    fn new(kib: u32) -> Result<Self, Skip> {
        let directory = Scratch::new();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k,mode=755"), "tmpfs"])
            .arg(directory.path())
            .output()
            .map_err(|error| Skip(format!("mount does not start: {error}")))?;
        match mount.status.success() {
            true => Ok(Self(directory)),
            false => Err(Skip(String::from_utf8_lossy(&mount.stderr).trim().to_owned())),
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space until the file is removed.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("full");
        let mut size = 1 << 16;
        let mut content = Vec::new();
        while size > 0 {
            let longer = vec![0; content.len() + size];
            match fs::write(&path, &longer) {
                Ok(()) => content = longer,
                Err(_) => size /= 2,
            }
        }
        // What failed last has cut it short.
        while fs::write(&path, &content).is_err() {
            content.pop();
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: an agent may still be on its way out.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn guest(id: &str, disks: &Value) -> Value {
    json!({ "id": id, "type": "test", "memory": 32, "cpu": 1, "disks": disks })
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[test]
fn full_journal_refuses_changes_except_delete() {
    let Some(state) = require("mount", Small::new(256)) else { return };
    let store = Scratch::new();
    let agent = Agent::start(&[
        "--libvirt-uri",
        "test:///default",
        "--state-dir",
        state.path().to_str().expect("UTF-8"),
        "--storage",
        &format!("directory:{}", store.path().display()),
    ]);
    let disk = json!([{ "size": 1 }]);
    let first = agent.ok("CreateGuest", &guest("first", &disk))["guest"].take();
    let full = state.fill();
    let error = agent.error("CreateGuest", &guest("second", &disk));
    assert!(error.starts_with("journal: "), "{error}");
    assert!(error.contains("no space left on device"), "{error}");
    assert!(agent.error("Status", &json!({ "id": "second" })).starts_with("[Code-42] "));
    assert_eq!(entries(&store.path().join("guests/second")), 0);
    assert_eq!(agent.state("first"), "shutoff");
    agent.ok("Delete", &first);
    assert_eq!(entries(&store.path().join("guests")), 0);
    assert_eq!(entries(&state.path().join("intents")), 0);

    fs::remove_file(full).expect("it is there");
    let second = agent.ok("CreateGuest", &guest("second", &disk))["guest"].take();
    agent.ok("Delete", &second);
    agent.end();
}

#[test]
fn full_disk_store_fails_create_and_leaves_nothing() {
    let Some(disks) = require("mount", Small::new(8 * 1024)) else { return };
    let agent = Agent::start(&[
        "--libvirt-uri",
        "test:///default",
        "--storage",
        &format!("directory:{}", disks.path().display()),
    ]);
    let small = agent.ok("CreateGuest", &guest("small", &json!([{ "size": 4 }])))["guest"].take();
    let large = guest("large", &json!([{ "size": 1 }, { "size": 8 }]));
    assert_eq!(agent.error("CreateGuest", &large), "no space left on device");
    let full = disks.fill();
    let error = agent.error("CreateGuest", &guest("tiny", &json!([{ "size": 1 }])));
    assert!(error.starts_with("no space left on device"), "{error}");
    assert_eq!(entries(&disks.path().join("guests")), 1);
    assert_eq!(agent.state("small"), "shutoff");

    fs::remove_file(full).expect("it is there");
    agent.ok("Delete", &small);
    let tiny = agent.ok("CreateGuest", &guest("tiny", &json!([{ "size": 1 }])))["guest"].take();
    agent.ok("Delete", &tiny);
    assert_eq!(entries(&disks.path().join("guests")), 0);
    agent.end();
}

#[test]
fn agent_with_64_descriptors_serves_and_recovers() {
    let store = Scratch::new();
    let storage = format!("directory:{}", store.path().display());
    let flags = ["--libvirt-uri", "test:///default", "--storage", &storage];
    let agent = Agent::start_after("ulimit -n 64", &flags);
    let made = agent.ok("CreateGuest", &guest("few", &json!([{ "size": 1 }])))["guest"].take();
    let files = || entries(Path::new(&format!("/proc/{}/fd", agent.pid())));
    let before = files();
    let callers: Vec<TcpStream> = (0..100).filter_map(|_| agent.try_connect()).collect();
    wait_until("the log says what is short", SOON, || {
        agent.log().to_lowercase().contains("too many open files")
    });
    drop(callers);
    wait_until("it answers again", SOON, || {
        agent.try_call("Status", &json!({ "id": "few" })).is_some()
    });
    // That call came after all of theirs, whose ends the agent still has to see.
    wait_until("their descriptors are free", SOON, || files() < before + 16);
    agent.ok("CreateGuest", &made);
    agent.ok("Delete", &made);
    assert_eq!(entries(&store.path().join("guests")), 0);
    agent.end();
}

/// A directory of the user that owns nothing, with a copy of the agent that it can run.
struct Nobody(PathBuf);

/// `nobody` on every Linux.
const NOBODY: u32 = 65534;

/// Returns a command that runs its further arguments as that user.
fn as_nobody() -> Command {
    let mut command = Command::new("setpriv");
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    command
}

impl Nobody {
    fn new() -> Result<Self, Skip> {
        let path = std::env::temp_dir().join(format!("mistify-nobody-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory can be made");
        let directory = Self(path);
        copy_program(&directory.0.join("agent"));
        std::os::unix::fs::chown(&directory.0, Some(NOBODY), Some(NOBODY))
            .map_err(|error| Skip(format!("only root can become another user: {error}")))?;
        Ok(directory)
    }

    fn agent(&self) -> Agent {
        let mut command = as_nobody();
        command.arg(self.0.join("agent"));
        let at = |name: &str| self.0.join(name).display().to_string();
        let storage = format!("directory:{}", at("store"));
        let mut flags = vec!["--libvirt-uri", "test:///default", "--storage", &storage];
        let state = at("state");
        flags.extend(["--state-dir", &state, "--image-store", "--image-store-port", "0"]);
        Agent::run(command, &flags)
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        // A left-over directory in /tmp harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How many threads the agent's user may have from now on; as that user.
fn limit_threads(agent: &Agent, threads: u32) {
    let mut command = as_nobody();
    command.args(["prlimit", "--pid", &agent.pid().to_string(), &format!("--nproc={threads}:")]);
    assert!(command.status().is_ok_and(|status| status.success()));
}

#[test]
fn without_threads_streams_fail_and_others_are_served() {
    // Root may have as many threads as it likes.
    let Some(directory) = require("users", Nobody::new()) else { return };
    let agent = directory.agent();
    let images = wait_for("the image store listens", SOON, || {
        let log = agent.log();
        let address = log.split("the image store listens on ").nth(1)?;
        address.lines().next()?.parse().ok()
    });
    let post = |path: &str, body: &Value| {
        let json = [("Content-Type", "application/json")];
        agent.request_at(images, "POST", path, &json, body.to_string().as_bytes())
    };
    let call = |method: &str, params: &Value| {
        let body = json!({ "method": format!("ImageStore.{method}"), "params": [params], "id": 1 });
        let reply = post("/_mistify_RPC_", &body);
        assert!(reply.text().contains(r#""error":null"#), "{reply:?}");
    };
    call("CreateVolume", &json!({ "id": "guests/v/disk-0", "size": 1 }));
    call("CreateSnapshot", &json!({ "id": "guests/v/disk-0", "dest": "a" }));
    let download = || post("/snapshots/download", &json!({ "id": "guests/v/disk-0@a" })).status;
    assert_eq!(download(), 200);

    limit_threads(&agent, 1);
    assert_eq!(download(), 503);
    assert_eq!(agent.state("test"), "running");
    let made = agent.ok("CreateGuest", &guest("few", &json!([{ "size": 1 }])))["guest"].take();
    agent.ok("Delete", &made);

    limit_threads(&agent, 400);
    assert_eq!(download(), 200);
    agent.end();
}
