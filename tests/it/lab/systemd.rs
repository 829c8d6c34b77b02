//! The package on a host whose first process is systemd: `make test-systemd`. All is done as an
//! operator does it, by dpkg, systemctl and the program's own commands.

mod check;
mod package;
mod unit;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{env, fs};

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use super::{Directory, Pool, SOON, device, is_block_device, quietly, run};
use crate::harness::agent::{Reply, call_text, read_result};
use crate::harness::boot_sector::boot_sector;
use crate::harness::scrape::Scrape;
use crate::harness::skip::Skip;
use crate::harness::support::wait_until;

const PACKAGE: &str = "mistify-libvirt";
const UNIT: &str = "mistify-libvirt.service";
const SOCKET_UNIT: &str = "mistify-libvirt.socket";
const GUESTS_UNIT: &str = "mistify-libvirt-guests.service";
const ADDRESS: &str = "127.0.0.1:20001";
const SETTINGS: &str = "/etc/mistify-libvirt.conf";
/// What this machine has otherwise than the agent expects.
const OWN_SETTINGS: &str = "zpool = tank\nbridge-type = linux\nlog-level = info\n";
/// Where `own-user.conf` says that it belongs.
const OWN_USER: &str = "/etc/systemd/system/mistify-libvirt.service.d/own-user.conf";
/// Drop-ins of a test's own, which no package knows.
const DROP_INS: &str = "/run/systemd/system/mistify-libvirt.service.d";

/// The service of a package that was just installed. There is one: other tests wait.
struct Service {
    pool: Pool,
    old: PathBuf,
    new: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Service {
    fn installed() -> Result<Self, Skip> {
        static TURN: Mutex<()> = Mutex::new(());
        let Ok(packages) = env::var("MISTIFY_TEST_PACKAGES") else {
            return Err(Skip(
                "MISTIFY_TEST_PACKAGES names no folder: make test-systemd".to_owned(),
            ));
        };
        let (pool, turn) = (Pool::shared()?, TURN.lock());
        let entries = fs::read_dir(packages).expect("a directory");
        let mut packages: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        // The newer one's version is the higher, also as a text.
        packages.sort();
        let [old, new] = packages.try_into().expect("two packages");
        let service = Self { pool, old, new, _turn: turn };
        purge();
        run("dpkg", &["--install", text(&service.old)]);
        fs::write(SETTINGS, OWN_SETTINGS).expect("the settings are ours");
        systemctl(&["restart", UNIT]);
        Ok(service)
    }

    /// Has the unit say this too, and starts it anew.
    fn drop_in(&self, lines: &str) {
        fs::create_dir_all(DROP_INS).expect("a directory");
        fs::write(format!("{DROP_INS}/test.conf"), lines).expect("a file");
        systemctl(&["daemon-reload"]);
        systemctl(&["restart", UNIT]);
    }

    /// Has the service listen on its port itself, so that no call starts it when it is stopped.
    fn without_sockets(&self) {
        systemctl(&["stop", SOCKET_UNIT, UNIT]);
        systemctl(&["disable", SOCKET_UNIT]);
        systemctl(&["start", UNIT]);
    }

    /// Has the unit run as the user of `own-user.conf` from its next start on.
    fn become_its_own_user(&self) {
        let shipped = "/usr/share/mistify-libvirt/own-user.conf";
        run("install", &["-D", "-m", "644", shipped, OWN_USER]);
        systemctl(&["daemon-reload"]);
    }

    fn property(&self, name: &str) -> String {
        systemctl(&["show", "--value", "--property", name, UNIT])
    }

    fn pid(&self) -> u32 {
        self.property("MainPID").parse().expect("a number")
    }

    /// The result of `Libvirt.<method>` with this guest, which has to succeed.
    fn call(&self, method: &str, guest: &Value) -> Value {
        call_by(&[], method, guest)
    }

    fn state(&self, id: &str) -> String {
        let answer = self.call("Status", &json!({ "id": id }));
        answer["guest"]["state"].as_str().expect("a word").to_owned()
    }

    fn scrape(&self) -> Scrape {
        let asked = Instant::now();
        let mut stream = TcpStream::connect(ADDRESS).expect("it listens");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it reads");
        Scrape::of(asked, &Reply::read(&mut stream).text())
    }

    /// Creates the directory's guest with a disk and an interface, and runs it; it as Run answered,
    /// when it writes.
    fn running(&self, directory: &Directory) -> Value {
        let made = self.call("CreateGuest", &asked(directory))["guest"].take();
        let device = device(&directory.volume(0));
        assert!(is_block_device(&device), "{made}");
        fs::write(&device, boot_sector()).expect("it has a first sector");
        let ran = self.call("Run", &made)["guest"].take();
        wait_until("the guest writes to its volume", SOON, || self.writes(&ran) > 0);
        ran
    }

    /// The guest's writes to its disk so far.
    fn writes(&self, guest: &Value) -> i64 {
        let answer = self.call("DiskMetrics", guest);
        answer["disk"]["vda"]["write_ops"].as_i64().expect("a count")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // For the next test; what fails here fails there.
        let _ = fs::remove_dir_all(DROP_INS);
        quietly("systemctl", &["daemon-reload"]);
    }
}

/// Purges the package, which removes everything that it has created.
fn purge() {
    run("dpkg", &["--purge", PACKAGE]);
}

/// The directory's guest as CreateGuest takes it.
fn asked(directory: &Directory) -> Value {
    json!({
        "id": directory.guest, "type": "qemu", "memory": 32, "cpu": 1,
        "nics": [{ "network": "mistify0", "mac": directory.mac() }], "disks": [{ "size": 16 }],
    })
}

/// Calls `Libvirt.<method>` by the program's command, with flags that say where.
fn call_by(flags: &[&str], method: &str, guest: &Value) -> Value {
    let params = json!({ "guest": guest }).to_string();
    let answer = run(PACKAGE, &[flags, &["call", method, &params]].concat());
    serde_json::from_str(&answer).expect("JSON")
}

/// A systemctl command that has to succeed; what it says.
fn systemctl(arguments: &[&str]) -> String {
    run("systemctl", arguments).trim_end().to_owned()
}

/// The guest's process.
fn qemu_pid(id: &str) -> String {
    fs::read_to_string(format!("/run/libvirt/qemu/{id}.pid")).expect("it runs").trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What became of the calls of one caller.
#[derive(Debug, Default)]
struct Calls {
    answered: u32,
    /// A connection failed, which ended the calls.
    is_refused: bool,
    /// Sent on a connection, and not answered whole.
    cut: u32,
}

/// Asks for the state of a guest, one connection after the other, until `stop` or a refusal.
fn ask_until<S: Read + Write>(
    stop: &AtomicBool,
    id: &str,
    connect: impl Fn() -> io::Result<S>,
) -> Calls {
    let request = call_text("Status", &json!({ "guest": { "id": id } }));
    let mut calls = Calls::default();
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = connect() else {
            calls.is_refused = true;
            break;
        };
        let sent = stream.write_all(request.as_bytes());
        let answer = sent.ok().and_then(|()| read_result(&mut stream));
        match answer.is_some_and(|answer| answer["error"].is_null()) {
            true => calls.answered += 1,
            false => calls.cut += 1,
        }
    }
    calls
}
