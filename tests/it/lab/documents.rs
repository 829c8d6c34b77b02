//! The documents' commands that make a pool and delegate it.

use std::fs::File;
use std::path::Path;

use super::{Pool, fresh, run, zfs};
use crate::documents::commands::for_the_lab;
use crate::harness::skip::require;

#[test]
fn the_documented_pool_commands_work() {
    let Some(tank) = require("lab", Pool::own(256)) else { return };
    let own = fresh("documented");
    let disks = ["A", "B"].map(|disk| format!("/var/tmp/{own}-{disk}"));
    for disk in &disks {
        File::create(disk).and_then(|file| file.set_len(128 << 20)).expect("there is room");
    }
    let commands = for_the_lab();
    assert!(commands.len() >= 3, "{commands:?}");
    for command in &commands {
        // Devices, pools and the package's user of this machine.
        let command = command
            .replace("/dev/disk/by-id/nvme-A", &disks[0])
            .replace("/dev/disk/by-id/nvme-B", &disks[1])
            .replace("tank/", &format!("{}/", tank.name))
            .replace("create -o ashift=12 mistify ", &format!("create -o ashift=12 {own} "))
            .replace("readonly mistify", &format!("readonly {own}"))
            .replace("-u mistify-libvirt ", "-u nobody ");
        run("bash", &["-ec", &command]);
    }
    let allowed = zfs(&["allow", &own]);
    assert!(allowed.contains("user nobody ") && allowed.contains("refreservation"), "{allowed}");
    let quota = zfs(&["get", "-Hpo", "value", "quota", &format!("{}/mistify", tank.name)]);
    assert_eq!(quota.trim(), (800_u64 << 30).to_string());
    run("zpool", &["destroy", &own]);
    disks.iter().for_each(|disk| std::fs::remove_file(Path::new(disk)).expect("it is there"));
}
