//! The throughput of a disk on a ZFS volume in the small Linux, by profile and beside the domain of
//! `virt-install`.
//!
//! Only the lab has ZFS (`tests/lab`), so this program runs itself there. The lab is an emulated machine,
//! and its guests are emulated once more: no Debian boots in useful time, so `dd` measures in place of fio.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::Plan;
use crate::common::report::Report;
use crate::common::server::{AGENT, Server};
use crate::debian::{CONTENDERS, VIRT_INSTALL, virt_install};
use crate::disks::add_rates;
use crate::linux::{Console, SMALL_MIB, small};
use crate::skip::Skip;
use crate::stack::BlockDevice;
use crate::support::Scratch;
use crate::world::{World, run, text};

/// The argument with which this program measures in the lab.
pub(crate) const IN_LAB: &str = "--in-lab";
/// Before each measured number in the output of the lab.
const NUMBER: &str = "measured: ";
/// A processor without cmpxchg16b: QEMU emulates that by the host's own, and the lab's processor has none.
const CPU: &str = "Opteron_G1";
/// How many times slower than on the host the guests are, at most.
const SLOWNESS: u32 = 16;
/// The time that the lab may take, in seconds.
const LIMIT_S: &str = "3600";
/// The size of the disk that is measured, in MiB.
const DATA_MIB: u32 = 64;
const POOL: &str = "tank";

/// The name, the KiB that are moved, and a command that moves them past the guest's page cache.
const PATTERNS: [(&str, f64, &str); 3] = [
    ("read, 4 KiB", 8192.0, "dd if=/dev/vdb of=/dev/null bs=4k count=2048 iflag=direct"),
    (
        "write, 4 KiB",
        4096.0,
        "dd if=/tmp/data of=/dev/vdb bs=4k count=1024 oflag=direct conv=fsync,notrunc",
    ),
    (
        "write, 1 MiB",
        16384.0,
        "dd if=/tmp/data of=/dev/vdb bs=1M count=16 oflag=direct conv=fsync,notrunc",
    ),
];

/// Measures the contenders in the lab.
///
/// # Errors
/// Why the lab cannot run here.
pub(crate) fn measure(world: &World, plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let share = Scratch::new();
    let device = BlockDevice::bootable(1 << 20)?;
    let cpu = ["--cpu", CPU];
    let xml = virt_install(world, "other", SMALL_MIB, [device.path(); 2], &cpu);
    let share_file = |name: &str| share.path().join(name);
    fs::write(share_file("other.xml"), xml).expect("scratch is writable");
    let this = env::current_exe().expect("this program has a path");
    for (from, name) in
        [(this.as_path(), "guests"), (Path::new(AGENT), "agent"), (&small()?, "small")]
    {
        fs::copy(from, share_file(name)).expect("scratch is writable");
    }

    let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/run.sh");
    let script = format!(
        "set -e; mkdir -p $(dirname {AGENT}); ln -s /mnt/host/agent {AGENT}; mkdir -p {scratch}; \
         zpool create {POOL} /dev/disk/by-id/virtio-pool; /mnt/host/guests {IN_LAB} {turns} {device}",
        scratch = env!("CARGO_TARGET_TMPDIR"),
        turns = plan.disks,
        device = text(device.path()),
    );
    let mut command = Command::new(lab);
    command.args(["-t", LIMIT_S, "-d"]).arg(share.path()).arg("--").arg(script);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Skip(format!("{lab}: {error}")))?;
    let output = String::from_utf8_lossy(&output.stdout);
    eprint!("{output}");
    let numbers = output.lines().filter_map(|line| line.strip_prefix(NUMBER)?.parse().ok());
    let numbers: Vec<f64> = numbers.collect();
    if numbers.len() != PATTERNS.len() * plan.disks * CONTENDERS.len() {
        return Err(Skip(format!("the lab measured {} numbers: {output}", numbers.len())));
    }
    for ((name, ..), numbers) in PATTERNS.iter().zip(numbers.chunks(plan.disks * CONTENDERS.len()))
    {
        add_rates(report, &format!("small Linux, disk on a ZFS volume, {name}"), "KiB/s", numbers);
    }
    Ok(())
}

/// A running guest with root logged in at its console. It is suspended except during its turns.
struct Guest {
    id: String,
    console: Console,
}

impl Guest {
    /// Starts one of [`CONTENDERS`]; `device` is the disk in the definition of `virt-install`.
    fn boot(agent: &Server, contender: &str, device: &str) -> Self {
        let id = match contender {
            VIRT_INSTALL => define_other(device),
            profile => {
                let guest = json!({
                    "id": profile, "type": "qemu", "memory": SMALL_MIB, "cpu": 1, "cpu_model": CPU,
                    "profile": profile, "disks": [{ "image": "small" }, { "size": DATA_MIB }],
                });
                agent.ask("CreateGuest", &guest);
                profile.to_owned()
            }
        };
        let disks = virsh(&["domblklist", &id]);
        let volume =
            disks.lines().find_map(|line| line.trim().strip_prefix("vdb")).expect("a disk vdb");
        fill(volume.trim());
        virsh(&["start", &id]);
        let terminal = virsh(&["ttyconsole", &id]);
        let mut console = Console::log_in_at(Path::new(terminal.trim()), SLOWNESS);
        console.run("dd if=/dev/vdb of=/tmp/data bs=1M count=16 2>/dev/null");
        let guest = Self { id, console };
        virsh(&["suspend", &guest.id]);
        guest
    }

    /// Runs a command that moves this number of KiB, while the other guests are suspended. Returns the KiB in a second
    /// of the guest's clock.
    fn take_turn(&mut self, kib: f64, command: &str) -> f64 {
        run(Command::new("zpool").args(["sync", POOL]));
        virsh(&["resume", &self.id]);
        let clock = "cut -d' ' -f1 /proc/uptime";
        let output = self.console.run(&format!("{clock}; {command} 2>/dev/null; {clock}"));
        virsh(&["suspend", &self.id]);
        let times: Vec<f64> = output.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let [begin, end] = times[..] else { panic!("two times: {output}") };
        kib / (end - begin)
    }
}

/// In the lab: boots the contenders, has each take its turns, and prints the numbers.
pub(crate) fn measure_in_lab(arguments: &[String]) {
    let [turns, device] = arguments else { panic!("{IN_LAB} TURNS DEVICE") };
    let turns: usize = turns.parse().expect("a number of turns");
    let import =
        ["--config", "/dev/null", "--zpool", POOL, "image", "import", "/mnt/host/small", "small"];
    run(Command::new(AGENT).args(import));
    let agent = Server::agent(&[
        "--zpool",
        POOL,
        "--bridge-type",
        "linux",
        "--deadline-read",
        "60",
        "--deadline-change",
        "240",
    ]);
    let mut guests = CONTENDERS.map(|contender| Guest::boot(&agent, contender, device));
    for (_, kib, command) in PATTERNS {
        for _ in 0..turns {
            for guest in &mut guests {
                println!("{NUMBER}{}", guest.take_turn(kib, command));
            }
        }
    }
}

/// Defines the domain of `virt-install`, with a volume for each of the two places that name `device`. Returns its name.
fn define_other(device: &str) -> String {
    let xml = fs::read_to_string("/mnt/host/other.xml").expect("the share has it");
    let [before, between, after] = xml.split(device).collect::<Vec<_>>()[..] else {
        panic!("two disks: {xml}")
    };
    let [system, data] = ["system", "data"].map(|name| {
        let volume = format!("{POOL}/{name}");
        run(Command::new("zfs").args(["create", "-V", &format!("{DATA_MIB}M"), &volume]));
        run(Command::new("udevadm").arg("settle"));
        format!("/dev/zvol/{volume}")
    });
    run(Command::new("dd").args(["if=/mnt/host/small", &format!("of={system}"), "bs=1M"]));
    let path = PathBuf::from("/run/other.xml");
    fs::write(&path, [before, &system, between, &data, after].concat()).expect("/run is writable");
    virsh(&["define", &text(&path)]);
    "other".to_owned()
}

/// Writes a whole volume, so that it has no holes.
fn fill(volume: &str) {
    let script = format!(
        "tr '\\0' '\\245' </dev/zero | dd of={volume} bs=1M count={DATA_MIB} iflag=fullblock conv=fsync"
    );
    run(Command::new("sh").args(["-c", &script]));
}

fn virsh(arguments: &[&str]) -> String {
    run(Command::new("virsh").args(["--connect", "qemu:///system"]).args(arguments))
}
