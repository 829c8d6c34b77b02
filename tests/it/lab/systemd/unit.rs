//! The units under systemd.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::{fs, thread};

use serde_json::{Value, json};

use super::super::{SOON, device, run};
use super::{
    ADDRESS, Calls, OWN_SETTINGS, OWN_USER, PACKAGE, SETTINGS, Service, UNIT, ask_until, asked,
    call_by, qemu_pid, systemctl, text,
};
use crate::harness::boot_sector::boots;
use crate::harness::image_store::qemu_img;
use crate::harness::skip::require;
use crate::harness::support::{AtEnd, Scratch, signal, wait_for, wait_until};
use crate::storage::images::requested::{ImageService, content as image_content};

/// Callers at once.
const CALLERS: u32 = 4;
const SOCKET: &str = "/run/mistify-libvirt.sock";

/// What callers that ask all the time get while something is done under them; with `after` they go
/// on for a while when it is done.
fn under_load<S: Read + Write>(
    id: &str,
    connect: impl Fn() -> io::Result<S> + Sync,
    after: bool,
    work: impl FnOnce(),
) -> Vec<Calls> {
    let (stop, tries) = (AtomicBool::new(false), AtomicU32::new(0));
    let counted = || {
        tries.fetch_add(1, Ordering::SeqCst);
        connect()
    };
    let more = |what: &str| {
        let goal = tries.load(Ordering::SeqCst) + 4 * CALLERS;
        wait_until(what, SOON, || tries.load(Ordering::SeqCst) >= goal);
    };
    thread::scope(|scope| {
        let end = AtEnd(&stop);
        let callers: Vec<_> =
            (0..CALLERS).map(|_| scope.spawn(|| ask_until(&stop, id, counted))).collect();
        more("they call");
        work();
        if after {
            more("they call again");
        }
        drop(end);
        callers.into_iter().map(|caller| caller.join().expect("it does not panic")).collect()
    })
}

#[test]
fn systemctl_start_waits_and_status_shows_libvirt() {
    let Some(service) = require("lab", Service::installed()) else { return };
    systemctl(&["stop", UNIT]);
    systemctl(&["start", UNIT]);
    TcpStream::connect(ADDRESS).expect("it listens when start returns");
    wait_until("it is reported", SOON, || service.property("StatusText") == "libvirt answers");

    // The journal is written by another process.
    let found = wait_for("its addresses are in the journal", SOON, || {
        let lines = run("journalctl", &["--quiet", "--output=json", "--unit", UNIT]);
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let text = |line: &Value| line["MESSAGE"].as_str().map(str::to_owned).unwrap_or_default();
        let found = lines.filter(|line| text(line).contains("listening on "));
        let found: Vec<Value> = found.collect();
        (found.len() > 1).then_some(found)
    });
    for line in found {
        assert_eq!(line["PRIORITY"], "6", "{line}");
        assert!(!line["MESSAGE"].as_str().expect("text").starts_with('<'), "{line}");
    }
}

#[test]
fn unit_cannot_access_other_processes() {
    let Some(_service) = require("lab", Service::installed()) else { return };
    let unit = run("systemctl", &["cat", UNIT]);
    let is_filter = |line: &&str| line.starts_with("SystemCall");
    let filters: Vec<String> =
        unit.lines().filter(is_filter).map(|line| format!("--property={line}")).collect();
    // The error of each system call, by its number on x86_64, with arguments that ask for nothing.
    let script = "for (310, 311, 312, 438, 440) { $! = 0; syscall($_, 0, 0, 0, 0, 0, 0); print $! + 0, \" \" }";
    let mut words = vec!["--quiet", "--wait", "--pipe"];
    words.extend(filters.iter().map(String::as_str));
    words.extend(["perl", "-e", script]);
    assert_eq!(run("systemd-run", &words).trim(), "1 1 1 1 1", "all are EPERM");
}

#[test]
fn watchdog_kills_and_restarts_a_hung_agent() {
    let Some(service) = require("lab", Service::installed()) else { return };
    let directory = service.pool.directory();
    let guest = service.running(&directory);
    let qemu = qemu_pid(&directory.guest);
    service.drop_in("[Service]\nWatchdogSec=10\n");
    let stuck = service.pid();
    assert_eq!(service.property("NRestarts"), "0");

    signal(stuck, "STOP");

    wait_until("it is started anew", 2 * SOON, || {
        service.property("ActiveState") == "active" && ![0, stuck].contains(&service.pid())
    });
    assert_eq!(service.property("NRestarts"), "1");
    wait_until("the journal says why", SOON, || {
        run("journalctl", &["--quiet", "--unit", UNIT]).contains("Watchdog timeout")
    });
    assert_eq!(service.state(&directory.guest), "running");
    assert_eq!(qemu_pid(&directory.guest), qemu);
    service.call("Delete", &guest);
}

#[test]
fn stop_under_load_cuts_no_call_and_keeps_guests() {
    let Some(service) = require("lab", Service::installed()) else { return };
    service.without_sockets();
    let (directory, slow) = (service.pool.directory(), service.pool.directory());
    let guest = service.running(&directory);
    let qemu = qemu_pid(&directory.guest);

    let calls = thread::scope(|scope| {
        let mut create = None;
        let calls = under_load(
            &directory.guest,
            || TcpStream::connect(ADDRESS),
            false,
            || {
                let call = scope.spawn(|| service.call("CreateGuest", &asked(&slow)));
                // Jobs of its lanes may be others' as well: the agent checks storage now and then.
                let locks_held = || service.scrape().value("mistify_keys_held");
                // Or it was made between two scrapes.
                wait_until("its guest is being made", SOON, || {
                    locks_held() > 0.0 || call.is_finished()
                });
                create = Some(call);
                systemctl(&["stop", UNIT]);
            },
        );
        let made = create.expect("it was begun").join().expect("it was answered");
        assert_eq!(made["guest"]["id"], slow.guest);
        calls
    });
    assert_eq!(service.property("Result"), "success");
    for calls in &calls {
        assert_eq!(calls.cut, 0, "{calls:?}");
        assert!(calls.answered > 0, "{calls:?}");
    }

    systemctl(&["start", UNIT]);
    assert_eq!(qemu_pid(&directory.guest), qemu);
    let before = service.writes(&guest);
    wait_until("the guest writes on", SOON, || service.writes(&guest) > before);
    for directory in [&directory, &slow] {
        service.call("Delete", &json!({ "id": directory.guest }));
    }
}

#[test]
fn systemd_holds_the_ports_and_a_restart_refuses_none() {
    let Some(service) = require("lab", Service::installed()) else { return };
    let directory = service.pool.directory();
    let guest = json!({ "id": directory.guest });
    service.call("CreateGuest", &asked(&directory));
    for flags in [&["--socket", SOCKET][..], &["--listen", ADDRESS], &["--listen", "[::1]:20001"]] {
        systemctl(&["stop", UNIT]);
        for port in [ADDRESS, "[::1]:20001"] {
            let error = TcpListener::bind(port).expect_err("systemd has it");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{port}: {error}");
        }
        assert_eq!(call_by(flags, "Status", &guest)["guest"]["state"], "shutoff", "{flags:?}");
    }

    let restart = || {
        let first = service.pid();
        systemctl(&["restart", UNIT]);
        assert_ne!(service.pid(), first);
    };
    let by_socket = under_load(&directory.guest, || UnixStream::connect(SOCKET), true, restart);
    let by_port = under_load(&directory.guest, || TcpStream::connect(ADDRESS), true, restart);
    for calls in by_socket.iter().chain(&by_port) {
        assert_eq!((calls.cut, calls.is_refused), (0, false), "{calls:?}");
        assert!(calls.answered > 0, "{calls:?}");
    }
    service.call("Delete", &guest);
}

#[test]
fn every_verb_and_the_fast_tier_work_as_root() {
    let Some(service) = require("lab", Service::installed()) else { return };
    assert_eq!(user(&service), "root");
    every_verb_and_the_fast_tier(&service);
}

#[test]
fn every_verb_and_the_fast_tier_work_as_its_own_user() {
    let Some(service) = require("lab", Service::installed()) else { return };
    service.become_its_own_user();
    allow_on_pool(&service);
    systemctl(&["restart", UNIT]);
    assert_eq!(user(&service), "mistify-libvirt");
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("it runs");
    assert!(status.contains("CapBnd:\t0000000000000000\n"), "{status}");

    every_verb_and_the_fast_tier(&service);
}

/// Lets the agent's own user work on the pool, by the command that the file names.
fn allow_on_pool(service: &Service) {
    let file = fs::read_to_string(OWN_USER).expect("it is installed");
    let allow = file.lines().find_map(|line| line.strip_prefix("#   zfs allow "));
    let (allow, _) = allow.and_then(|words| words.rsplit_once(' ')).expect("a command");
    let words: Vec<&str> = allow.split(' ').chain([service.pool.name.as_str()]).collect();
    run("zfs", &[&["allow"], &words[..]].concat());
}

/// The unit's own filter of system calls around an import: `/run/systemd/system/<name>`.
const IMPORT_UNIT: &str = "mistify-import-test.service";

#[test]
fn an_import_under_the_units_filter_is_confined() {
    let Some(service) = require("lab", Service::installed()) else { return };
    if require("qemu", qemu_img()).is_none() {
        return;
    }
    let (scratch, pool) = (Scratch::new(), &service.pool.name);
    let disk = scratch.path().join("a.qcow2");
    run("/usr/bin/qemu-img", &["create", "-q", "-f", "qcow2", text(&disk), "1M"]);
    let unit = systemctl(&["cat", UNIT]);
    let is_filter = |line: &&str| line.starts_with("SystemCall") || line.starts_with("NoNewPriv");
    let filter: Vec<&str> = unit.lines().filter(is_filter).collect();
    assert!(filter.len() >= 5, "{unit}");
    let command =
        format!("/usr/sbin/{PACKAGE} image import {} t-filtered --zpool {pool}", text(&disk));
    let lines = format!("[Service]\nType=oneshot\nExecStart={command}\n{}\n", filter.join("\n"));
    let file = format!("/run/systemd/system/{IMPORT_UNIT}");
    fs::write(&file, lines).expect("a file");
    systemctl(&["daemon-reload"]);

    systemctl(&["start", IMPORT_UNIT]);

    let said = run("journalctl", &["--quiet", "--unit", IMPORT_UNIT]);
    assert!(said.contains("t-filtered") && !said.contains("unconfined"), "{said}");
    let image = format!("{pool}/images/t-filtered");
    assert!(run("zfs", &["list", "-Ho", "name", &image]).contains(&image));
    run("zfs", &["destroy", "-r", &image]);
    fs::remove_file(file).expect("it is ours");
    systemctl(&["daemon-reload"]);
}

#[test]
fn an_image_is_fetched_by_a_unit_without_privilege() {
    let Some(service) = require("lab", Service::installed()) else { return };
    let images = ImageService::start();
    let settings =
        format!("{OWN_SETTINGS}image-store = true\nimage-service = {}\n", images.address);
    fs::write(SETTINGS, settings).expect("the settings are ours");
    for by_own_user in [false, true] {
        if by_own_user {
            service.become_its_own_user();
            allow_on_pool(&service);
        }
        systemctl(&["restart", UNIT]);
        let id = format!("t-fetched-{by_own_user}");
        let call = |method: &str| {
            let method = format!("ImageStore.{method}");
            let params = json!({ "id": id }).to_string();
            let answer = run(PACKAGE, &["call", &method, &params]);
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            answer["images"][0]["status"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(call("RequestImage"), "fetching");
        assert_eq!(images.next_target(), format!("/images/{id}/download"));
        let curl = run("pgrep", &["--full", "--newest", &format!("^/usr/bin/curl .*{id}")]);
        let status = fs::read_to_string(format!("/proc/{}/status", curl.trim())).expect("it runs");
        let lines = ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"];
        for line in lines {
            assert!(status.contains(line), "{line}: {status}");
        }
        assert!(!status.contains("Uid:\t0\t"), "{status}");
        let group = fs::read_to_string(format!("/proc/{}/cgroup", curl.trim())).expect("it runs");
        assert!(group.contains("mistify-libvirt-fetch@"), "{group}");
        images.answer(image_content(&vec![b'i'; 1 << 20]));
        wait_until("the image is complete", SOON, || call("GetImage") == "complete");
        run("zfs", &["destroy", "-r", &format!("{}/images/{id}", service.pool.name)]);
    }
}

/// Whom the service's process belongs to.
fn user(service: &Service) -> String {
    run("ps", &["-o", "user:32=", "-p", &service.pid().to_string()]).trim().to_owned()
}

/// Every verb in a guest's life, and the data that is read without querying its emulator.
fn every_verb_and_the_fast_tier(service: &Service) {
    let directory = service.pool.directory();
    let id = &directory.guest;
    let guest = service.running(&directory);
    let state = |method: &str| {
        let answer = service.call(method, &guest);
        answer["guest"]["state"].as_str().unwrap_or_default().to_owned()
    };

    let zvol = fs::canonicalize(device(&directory.volume(0))).expect("its device");
    let zvol = zvol.file_name().and_then(|name| name.to_str()).expect("its name").to_owned();
    let labels = format!("domain=\"{id}\",target_device=\"vda\",device=\"{zvol}\"");
    let tap = guest["nics"][0]["device"].as_str().expect("it runs");
    let series = [
        format!("libvirt_domain_info_cpu_time_seconds_total{{domain=\"{id}\"}}"),
        format!("libvirt_domain_vcpu_time_seconds_total{{domain=\"{id}\",vcpu=\"0\"}}"),
        format!("mistify_disk_device_writes_completed_total{{{labels}}}"),
    ];
    wait_until("the fast tier has it all", SOON, || {
        let scrape = service.scrape();
        series.iter().all(|series| scrape.get(series).is_some_and(|value| value > 0.0))
    });
    let interface = format!("domain=\"{id}\",target_device=\"{tap}\"");
    let received = format!("libvirt_domain_interface_stats_receive_bytes_total{{{interface}}}");
    wait_until("its interface is in a scrape", SOON, || service.scrape().get(&received).is_some());
    assert!(service.call("AllMetrics", &guest)[id]["nic"][tap].is_object());

    assert_eq!(service.state(id), "running");
    assert!(service.call("CPUMetrics", &guest)["cpu"][0].is_object());
    assert!(service.call("DiskMetrics", &guest)["disk"]["vda"].is_object());
    assert!(service.call("NicMetrics", &guest)["nic"]["net0"].is_object());
    let larger = json!({ "id": id, "disks": [{ "device": "vda", "size": 32 }] });
    service.call("ResizeDisk", &larger);
    let size = run("zfs", &["get", "-Hpo", "value", "volsize", &directory.volume(0)]);
    assert_eq!(size.trim(), (32 << 20).to_string());
    for method in ["Reboot", "Restart"] {
        let booted = || boots(&device(&directory.volume(0))).expect("the volume can be read");
        let before = booted();
        assert_eq!(state(method), "running", "{method}");
        // Before that it does not hear its power button.
        wait_until("it has booted again", SOON, || booted() > before);
    }
    service.call("Shutdown", &guest);
    wait_until("it is off", SOON, || service.state(id) == "shutoff");
    assert_eq!(state("Run"), "running");
    assert_eq!(state("Poweroff"), "shutoff");
    assert_eq!(state("Create"), "running", "of one that is there it starts it");
    service.call("Delete", &guest);
    assert_eq!(directory.listing(), "");
}
