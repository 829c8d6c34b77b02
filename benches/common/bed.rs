//! Guests that idle on a libvirtd of their own.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::process;
use crate::boot_sector::{self, boot_sector};
use crate::skip::Skip;
use crate::stack::{BlockDevice, Stack, measured_guest_xml};
use crate::support::wait_until;

/// The limit for the boot of all guests at once on a loaded machine.
const BOOT: Duration = Duration::from_secs(300);
/// Guests that are started at once.
const STARTERS: usize = 4;
/// The length of a look at the load, and the CPU time of all guests together in it below which they idle.
const LOOK: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_millis(200);

/// The guests and their libvirtd.
pub(crate) struct Bed {
    pub(crate) guests: Vec<String>,
    pub(crate) stack: Stack,
    libvirtd: u32,
    emulators: Vec<u32>,
    /// Freed after the stack.
    disk: BlockDevice,
}

/// CPU time of the processes that an answer depends on.
#[derive(Clone, Copy, Default)]
pub(crate) struct BackendCpu {
    pub(crate) libvirtd: Duration,
    /// The emulators of all guests together: libvirtd queries their monitors.
    pub(crate) emulators: Duration,
}

impl Bed {
    /// Starts this number of guests, and waits until they have booted and halted.
    ///
    /// # Errors
    /// Why no private libvirtd can run here.
    pub(crate) fn new(guests: usize) -> Result<Self, Skip> {
        let (stack, disk) = (Stack::start()?, BlockDevice::bootable(1 << 20)?);
        make_halting(disk.path());
        let pid = fs::read_to_string(stack.path("/run/libvirtd.pid")).expect("libvirtd writes it");
        let libvirtd = stack.outside_pid(pid.trim()).expect("it runs");
        let mut bed = Self { guests: Vec::new(), stack, libvirtd, emulators: Vec::new(), disk };
        bed.grow(guests);
        Ok(bed)
    }

    /// Starts further guests up to this number, and waits until they have booted and halted.
    pub(crate) fn grow(&mut self, guests: usize) {
        let before = self.guests.len();
        let name = |index| format!("g-{index}");
        let start = |index: usize| {
            let name = name(index);
            eprintln!("starting {name}");
            let xml = measured_guest_xml(&name, index, self.disk.path());
            let made = self.stack.with_xml("create", &xml);
            assert!(made.status.success(), "{made:?}");
        };
        let start = &start;
        thread::scope(|scope| {
            for first in before..guests.min(before + STARTERS) {
                scope.spawn(move || (first..guests).step_by(STARTERS).for_each(start));
            }
        });
        for name in (before..guests).map(name) {
            self.emulators.push(self.stack.qemu_pid(&name).expect("it runs"));
            self.guests.push(name);
        }
        for name in &self.guests[before..] {
            wait_until("the guest has booted", BOOT, || self.stack.writes(name) > 0);
        }
        wait_until("the guests idle", BOOT, || {
            let before = self.cpu();
            thread::sleep(LOOK);
            self.cpu().since(before).emulators < IDLE
        });
    }

    /// Returns the CPU time of the processes since their starts.
    pub(crate) fn cpu(&self) -> BackendCpu {
        let emulators = self.emulators.iter().map(|pid| process::cpu(*pid)).sum();
        BackendCpu { libvirtd: process::cpu(self.libvirtd), emulators }
    }
}

impl BackendCpu {
    /// Returns the CPU time used since an earlier reading.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            libvirtd: self.libvirtd.saturating_sub(before.libvirtd),
            emulators: self.emulators.saturating_sub(before.emulators),
        }
    }
}

/// Replaces the loop of the boot sector on this disk: its guests halt for good.
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
