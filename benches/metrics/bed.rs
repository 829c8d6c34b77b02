//! Twenty guests that idle on a libvirtd of their own, and the two that are scraped.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::boot_sector::{self, boot_sector};
use crate::common::process;
use crate::scrape::Scraper;
use crate::skip::Skip;
use crate::stack::{BlockDevice, Stack, child_of, measured_guest_xml};
use crate::support::{Scratch, wait_until};

pub(crate) const GUESTS: usize = 20;
/// The agent's program, built as it is released.
const AGENT: &str = env!("CARGO_BIN_EXE_mistify-libvirt");
/// Debian's exporter: unpacked by `tests/install-deps.sh bench`, or installed.
const EXPORTERS: [&str; 2] = [
    concat!(env!("CARGO_TARGET_TMPDIR"), "/exporter/usr/bin/prometheus-libvirt-exporter"),
    "/usr/bin/prometheus-libvirt-exporter",
];
/// All guests at once on a loaded machine.
const BOOT: Duration = Duration::from_secs(180);
/// Longer than a loaded machine needs to start a server.
const START: Duration = Duration::from_secs(60);
/// For a look at how much the guests do, and what they may use of a processor in it, all together.
const LOOK: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_millis(100);

/// The guests and their libvirtd.
pub(crate) struct Bed {
    pub(crate) guests: Vec<String>,
    pub(crate) stack: Stack,
    libvirtd: u32,
    emulators: Vec<u32>,
    /// Freed after the stack.
    _disk: BlockDevice,
}

/// CPU time of those behind a scrape.
#[derive(Clone, Copy, Default)]
pub(crate) struct Behind {
    pub(crate) libvirtd: Duration,
    /// The guests' processes together; their monitors are asked, too.
    pub(crate) emulators: Duration,
}

impl Bed {
    /// Starts all and waits until the guests have booted and halted.
    ///
    /// # Errors
    /// Why there is no such libvirtd here.
    pub(crate) fn new() -> Result<Self, Skip> {
        let (stack, disk) = (Stack::start()?, BlockDevice::bootable(1 << 20)?);
        make_halting(disk.path());
        let guests: Vec<String> = (0..GUESTS).map(|index| format!("g-{index}")).collect();
        for (index, name) in guests.iter().enumerate() {
            eprintln!("starting {name}");
            let made = stack.with_xml("create", &measured_guest_xml(name, index, disk.path()));
            assert!(made.status.success(), "{made:?}");
        }
        for name in &guests {
            wait_until("the guest has booted", BOOT, || stack.writes(name) > 0);
        }
        let pid = fs::read_to_string(stack.path("/run/libvirtd.pid")).expect("libvirtd writes it");
        let libvirtd = stack.outside_pid(pid.trim()).expect("it runs");
        let emulators = guests.iter().map(|name| stack.qemu_pid(name).expect("it runs")).collect();
        let bed = Self { guests, stack, libvirtd, emulators, _disk: disk };
        wait_until("the guests idle", BOOT, || {
            let before = bed.cpu();
            thread::sleep(LOOK);
            bed.cpu().since(before).emulators < IDLE
        });
        Ok(bed)
    }

    /// CPU time since their starts.
    pub(crate) fn cpu(&self) -> Behind {
        let emulators = self.emulators.iter().map(|pid| process::cpu(*pid)).sum();
        Behind { libvirtd: process::cpu(self.libvirtd), emulators }
    }

    /// An agent with these flags beside the defaults.
    pub(crate) fn agent(&self, flags: &[&str]) -> Server {
        let (state, address) = (Scratch::new(), process::free_address());
        let mut command = self.stack.command_outside_network(AGENT);
        let store = format!("directory:{}", state.path().join("store").display());
        command.args(["--port", &address.port().to_string(), "--storage", &store]).args(flags);
        command.env("STATE_DIRECTORY", state.path()).env_remove("RUST_LOG");
        Server::start(command, address, Some(state))
    }

    /// Debian's exporter.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn exporter(&self) -> Result<Server, Skip> {
        let program = EXPORTERS.into_iter().find(|path| Path::new(path).exists());
        let why = "no prometheus-libvirt-exporter: tests/install-deps.sh bench";
        let program = program.ok_or_else(|| Skip(why.to_owned()))?;
        let address = process::free_address();
        let mut command = self.stack.command_outside_network(program);
        command.args(["--libvirt.uri", "qemu:///system"]);
        command.args(["--web.listen-address", &address.to_string()]);
        Ok(Server::start(command, address, None))
    }
}

impl Behind {
    /// What was used since an earlier look.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            libvirtd: self.libvirtd.saturating_sub(before.libvirtd),
            emulators: self.emulators.saturating_sub(before.emulators),
        }
    }
}

/// A server that is scraped, in the stack's world of processes and files; its network is the
/// host's. Killed on drop.
pub(crate) struct Server {
    nsenter: Child,
    pid: u32,
    address: SocketAddr,
    /// The agent's folder for its state.
    _state: Option<Scratch>,
}

impl Server {
    fn start(mut command: Command, address: SocketAddr, state: Option<Scratch>) -> Self {
        let nsenter = command.stdin(Stdio::null()).spawn().expect("nsenter starts");
        let pid = child_of(nsenter.id());
        let server = Self { nsenter, pid, address, _state: state };
        wait_until("it answers", START, || server.scraper().is_answered());
        server
    }

    /// CPU time since its start.
    pub(crate) fn cpu(&self) -> Duration {
        process::cpu(self.pid)
    }

    /// Somebody who scrapes it.
    pub(crate) fn scraper(&self) -> Scraper {
        Scraper::new(self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // nsenter does not pass its end on. It may be over already.
        let kill = format!("kill -s KILL {} 2>/dev/null", self.pid);
        let _ = Command::new("/bin/sh").args(["-c", &kill]).status();
        let _ = self.nsenter.wait();
    }
}

/// Has the guests of this disk halt for good where they would loop.
fn make_halting(disk: &Path) {
    const HALT: [u8; 4] = [
        0xFA, // cli
        0xF4, // hlt
        0xEB, 0xFD, // jmp to hlt
    ];
    let mut sector = boot_sector();
    sector[boot_sector::LOOP..][..HALT.len()].copy_from_slice(&HALT);
    let device = OpenOptions::new().write(true).open(disk).expect("root may");
    device.write_all_at(&sector, 0).expect("it has a sector");
    device.sync_all().expect("it is a file behind it");
}
