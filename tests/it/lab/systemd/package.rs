//! The package's life on a host that has a guest.

use std::{env, fs};

use super::super::{SOON, quietly, run, virsh};
use super::{
    GUESTS_UNIT, OWN_SETTINGS, PACKAGE, SETTINGS, SOCKET_UNIT, Service, UNIT, purge, qemu_pid,
    systemctl, text,
};
use crate::harness::agent::PROGRAM;
use crate::harness::skip::require;
use crate::harness::support::{wait_for, wait_until};

/// The files of this machine that have our name, but for those of the tests.
fn our_files() -> String {
    let files = run("find", &["/", "-xdev", "-name", "*mistify-libvirt*"]);
    let own = [env!("CARGO_MANIFEST_DIR"), PROGRAM].map(str::to_owned);
    let ours = |line: &&str| !own.iter().any(|own| line.starts_with(own));
    files.lines().filter(ours).collect::<Vec<_>>().join("\n")
}

fn installed_version() -> String {
    run("dpkg-query", &["--show", "--showformat", "${Version}", PACKAGE])
}

fn is(word: &str, unit: &str) -> bool {
    quietly("systemctl", &["--quiet", word, unit]).status.success()
}

#[test]
fn upgrade_restarts_agent_and_keeps_config_and_guests() {
    let Some(service) = require("lab", Service::installed()) else { return };
    let directory = service.pool.directory();
    let guest = service.running(&directory);
    let (qemu, agent, version) = (qemu_pid(&directory.guest), service.pid(), installed_version());
    for unit in [UNIT, SOCKET_UNIT, GUESTS_UNIT] {
        assert!(is("is-active", unit) && is("is-enabled", unit), "{unit}");
    }

    run("dpkg", &["--install", text(&service.new)]);
    assert!(is("is-active", GUESTS_UNIT));

    assert_ne!(installed_version(), version);
    assert_eq!(service.state(&directory.guest), "running");
    assert_ne!(service.pid(), agent);
    assert_eq!(qemu_pid(&directory.guest), qemu);
    assert_eq!(fs::read_to_string(SETTINGS).expect("it is there"), OWN_SETTINGS);
    service.call("Delete", &guest);

    // What the operator has stopped and disabled stays so.
    systemctl(&["disable", "--now", UNIT, SOCKET_UNIT]);
    run("dpkg", &["--install", "--force-downgrade", text(&service.old)]);
    assert_eq!(installed_version(), version);
    for unit in [UNIT, SOCKET_UNIT] {
        assert!(!is("is-active", unit) && !is("is-enabled", unit), "{unit}");
    }
}

/// By a target that stops the unit as the host's own does, where nobody may stop it by hand.
#[test]
fn guests_shut_down_when_the_host_stops() {
    let Some(service) = require("lab", Service::installed()) else { return };
    let directory = service.pool.directory();
    let guest = service.running(&directory);
    let qemu = qemu_pid(&directory.guest);
    for refused in [["stop", GUESTS_UNIT], ["restart", GUESTS_UNIT]] {
        assert!(!quietly("systemctl", &refused).status.success(), "{refused:?}");
    }
    systemctl(&["restart", UNIT, "libvirtd.service"]);
    assert_eq!(qemu_pid(&directory.guest), qemu, "nothing of that stops a guest");

    let stop = "/run/systemd/system/host-stop.target";
    let conflicts = format!("[Unit]\nConflicts={GUESTS_UNIT} libvirt-guests.service\n");
    fs::write(stop, conflicts).expect("a file");
    systemctl(&["daemon-reload"]);
    // Beside it, libvirt's own finds nothing to do: it stops after it.
    let has_libvirts = quietly("systemctl", &["start", "libvirt-guests.service"]).status.success();
    systemctl(&["start", "host-stop.target"]);
    wait_until("the unit has stopped", SOON, || {
        systemctl(&["show", "--value", "--property", "ActiveState", GUESTS_UNIT]) == "inactive"
    });
    assert_eq!(virsh(&["domstate", &directory.guest]).trim(), "shut off");
    let said = wait_for("its word is in the journal", SOON, || {
        let said = run("journalctl", &["--quiet", "--output=cat", "--unit", GUESTS_UNIT]);
        said.contains("guests that are off").then_some(said)
    });
    assert!(said.contains("guests that are off: 1, by force: 0"), "{said}");
    assert_eq!(systemctl(&["show", "--value", "--property", "Result", GUESTS_UNIT]), "success");
    let said = run("journalctl", &["--quiet", "--output=cat", "--unit", "libvirt-guests.service"]);
    assert!(!has_libvirts || !said.contains("Starting shutdown"), "{said}");

    fs::remove_file(stop).expect("it is ours");
    systemctl(&["daemon-reload"]);
    systemctl(&["start", GUESTS_UNIT]);
    service.call("Delete", &guest);
}

#[test]
fn an_upgrade_from_before_profiles_stays_classic() {
    let Some(_service) = require("lab", Service::installed()) else { return };
    let script = format!("/var/lib/dpkg/info/{PACKAGE}.postinst");
    let settings = || fs::read_to_string(SETTINGS).expect("it is there");
    let before = settings();
    run(&script, &["configure", "0.2.0"]);
    assert_eq!(settings(), before, "a version with profiles");
    for _ in 0..2 {
        run(&script, &["configure", "0.1.0"]);
        let added = settings();
        let added = added.strip_prefix(&before).expect("what was there stays");
        let lines: Vec<&str> = added.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["guest-profile = classic"], "once");
    }
    let unended = before.trim_end();
    fs::write(SETTINGS, unended).expect("the settings are ours");
    run(&script, &["configure", "0.1.0"]);
    assert!(settings().starts_with(&format!("{unended}\n#")), "a last line without an end");
    run("mistify-libvirt", &["--config", SETTINGS, "--check-config"]);
    fs::write(SETTINGS, before).expect("the settings are ours");
}

#[test]
fn purge_keeps_guests_and_volumes_and_no_agent_files() {
    let Some(service) = require("lab", Service::installed()) else { return };
    let directory = service.pool.directory();
    fs::write(SETTINGS, format!("{OWN_SETTINGS}audit-log = /var/log/mistify-libvirt/audit\n"))
        .expect("the settings are ours");
    systemctl(&["restart", UNIT]);
    let guest = service.running(&directory);
    let (qemu, volumes) = (qemu_pid(&directory.guest), directory.listing());
    let networks = virsh(&["net-list", "--name"]);
    let own = our_files();
    for file in [SETTINGS, "/var/lib/mistify-libvirt", "/var/log/mistify-libvirt/audit"] {
        assert!(fs::metadata(file).is_ok(), "{file} is one of those that have to go");
    }
    assert!(own.contains(SETTINGS), "{own}");
    assert!(volumes.contains(&directory.volume(0)), "{volumes}");
    assert!(networks.contains(guest["nics"][0]["mac"].as_str().expect("a MAC")), "{networks}");

    purge();

    assert_eq!(our_files(), "");
    assert_eq!(qemu_pid(&directory.guest), qemu);
    assert_eq!(virsh(&["domstate", &directory.guest]).trim(), "running");
    assert_eq!(directory.listing(), volumes);
    assert_eq!(virsh(&["net-list", "--name"]), networks);
    assert_eq!(quietly("systemctl", &["status", UNIT]).status.code(), Some(4), "no such unit");
}
