//! Debian guests with a disk for fio: one with each profile, and one that `virt-install` defines.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::linux;
use crate::skip::Skip;
use crate::stack::installed;
use crate::world::{Booted, World, run, text};

/// The contenders: the domain of `virt-install`, and two profiles.
pub(crate) const CONTENDERS: [&str; 3] = [VIRT_INSTALL, "modern", "classic"];
pub(crate) const VIRT_INSTALL: &str = "virt-install";
/// The newest Debian that the `osinfo-db` of Debian 12 knows.
const OSINFO: &str = "debian11";
/// The memory of each guest, in MiB.
const MEMORY_MIB: u64 = 1024;
/// The size of the disk that is measured, in MiB.
const DATA_MIB: usize = 512;
const MIB: usize = 1 << 20;

/// The disk image of Debian.
///
/// # Errors
/// Why it cannot be made here, or that `virt-install` is missing.
pub(crate) fn image() -> Result<PathBuf, Skip> {
    if !installed(VIRT_INSTALL) {
        return Err(Skip("virt-install is not installed: tests/install-deps.sh bench".to_owned()));
    }
    linux::debian("cloud-amd64")
}

/// A running Debian guest with root logged in at its console. It is suspended except during its turns.
pub(crate) struct Debian<'a> {
    pub(crate) booted: Booted,
    world: &'a World,
    id: String,
    data: PathBuf,
}

impl<'a> Debian<'a> {
    /// Boots one of [`CONTENDERS`] from a copy of Debian's image.
    pub(crate) fn boot(world: &'a World, contender: &str, image: &Path) -> Self {
        let id = format!("debian-{contender}");
        let file = |kind: &str| world.files.path().join(format!("{id}.{kind}"));
        let (disk, data) = (file("system"), file("data"));
        let convert = ["convert", "-f", "qcow2", "-O", "raw"];
        run(Command::new("qemu-img").args(convert).args([image, &disk]));
        fill(&data);
        let mut booted = if contender == VIRT_INSTALL {
            let xml = virt_install(world, &id, MEMORY_MIB, [&disk, &data], &[]);
            let defined = world.stack.with_xml("define", &xml);
            assert!(defined.status.success(), "{defined:?}");
            world.time_boot(&id, || drop(world.stack.virsh_ok(&["start", &id])))
        } else {
            world.boot(&guest(&id, contender, [&disk, &data]))
        };
        booted.console.enter();
        let debian = Self { booted, world, id, data };
        debian.suspend();
        debian
    }

    /// Runs a command in this guest while the others are suspended, with none of its disk in the host's page cache.
    /// Returns the output.
    pub(crate) fn take_turn(&mut self, command: &str) -> String {
        let data = text(&self.data);
        run(Command::new("sync").arg(&data));
        run(Command::new("dd").arg(format!("if={data}")).args(["iflag=nocache", "count=0"]));
        self.world.stack.virsh_ok(&["resume", &self.id]);
        let output = self.booted.console.run(command);
        self.suspend();
        output
    }

    fn suspend(&self) {
        self.world.stack.virsh_ok(&["suspend", &self.id]);
    }
}

impl Drop for Debian<'_> {
    fn drop(&mut self) {
        // The stack ends its guests anyway.
        self.world.stack.virsh(&["destroy", &self.id]);
        self.world.stack.virsh(&["undefine", &self.id]);
    }
}

fn guest(id: &str, profile: &str, disks: [&Path; 2]) -> Value {
    json!({
        "id": id, "type": "qemu", "memory": MEMORY_MIB, "cpu": 1, "profile": profile,
        "disks": disks.map(|source| json!({ "source": source })),
    })
}

/// The definition that `virt-install` makes of a guest with these disks, with its own defaults for Debian.
pub(crate) fn virt_install(
    world: &World,
    id: &str,
    memory_mib: u64,
    disks: [&Path; 2],
    more: &[&str],
) -> String {
    let mut command = world.stack.command("virt-install");
    command.env("XDG_CACHE_HOME", world.files.path());
    command.args(["--connect", "qemu:///system", "--virt-type", "qemu", "--name", id]);
    command.args(["--memory", &memory_mib.to_string(), "--vcpus", "1", "--osinfo", OSINFO]);
    for disk in disks {
        command.arg("--disk").arg(format!("path={},format=raw", text(disk)));
    }
    command.args(["--network", "none", "--graphics", "none", "--import", "--print-xml"]);
    command.args(more);
    run(&mut command)
}

/// Writes a whole file, so that it has no holes.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("scratch is writable");
    let block = vec![0xA5; MIB];
    (0..DATA_MIB).for_each(|_| file.write_all(&block).expect("scratch has room"));
    file.sync_all().expect("scratch is writable");
}
