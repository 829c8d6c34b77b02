//! The emulator's memory on the host, by the largest number of CPUs that the guest can have.

use std::fs;
use std::process::Command;
use std::thread;

use serde_json::json;

use crate::common::report::{Aim, Report};
use crate::common::server::mib;
use crate::skip::Skip;
use crate::world::{World, run, small_guest};

/// Values of `max_cpu`; the others are compared with the first. 255 is the largest default.
const MAX_CPU: [u32; 4] = [1, 16, 64, 255];
/// The memory of each guest, in MiB: with less, its kernel would use all memory at 255.
const MEMORY_MIB: u64 = 512;

/// The memory of an emulator, in KiB.
struct Memory {
    /// All pages that are in memory.
    resident: u64,
    /// The same, with each shared page divided among its users.
    proportional: u64,
    /// The part of the resident pages that is the memory of the guest.
    guest: u64,
}

/// Boots the small Linux with each `max_cpu`, all at once, and looks at its emulator at the login prompt.
///
/// # Errors
/// Why its image cannot be made here.
pub(crate) fn measure(world: &World, report: &mut Report) -> Result<(), Skip> {
    let disk = world.small_disk()?;
    let look = |max_cpu: u32| {
        // Only one guest can write to a disk.
        let own = world.files.path().join(format!("max-{max_cpu}.raw"));
        run(Command::new("cp").arg("--sparse=always").args([&disk, &own]));
        let mut guest = small_guest(&format!("max-{max_cpu}"), "modern", &own);
        (guest["max_cpu"], guest["memory"]) = (json!(max_cpu), json!(MEMORY_MIB));
        world.boot(&guest);
        let id = guest["id"].as_str().expect("an id");
        let memory = Memory::of(world.stack.qemu_pid(id).expect("it runs"));
        world.delete(&guest);
        memory
    };
    let look = &look;
    let memories = thread::scope(|scope| {
        let looks = MAX_CPU.map(|max_cpu| scope.spawn(move || look(max_cpu)));
        looks.map(|it| it.join().expect("a whole boot"))
    });
    let mut first = None;
    for (max_cpu, memory) in MAX_CPU.into_iter().zip(memories) {
        let proportional = mib(memory.proportional);
        let cells = [
            ("resident MiB", mib(memory.resident)),
            ("proportional MiB", proportional),
            ("the guest's part MiB", mib(memory.guest)),
        ];
        report.row(format!("emulator, max_cpu {max_cpu}"), &cells);
        let Some(first) = first else {
            first = Some(proportional);
            continue;
        };
        let what = format!("memory of the emulator, max_cpu {max_cpu}: beyond max_cpu 1");
        // Not less than nothing, whose sign would show.
        report.claim(what, (proportional - first).round().max(0.0), "MiB", Aim::None);
    }
    Ok(())
}

impl Memory {
    /// Reads the memory of an emulator that runs the small Linux.
    fn of(pid: u32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
        let (all, mappings) = (read("smaps_rollup"), read("smaps"));
        let of_guest = kib(&mappings, "Size:").position(|size| size == MEMORY_MIB * 1024);
        let guest = of_guest.and_then(|index| kib(&mappings, "Rss:").nth(index));
        let sum = |name| kib(&all, name).next().expect("smaps_rollup counts it");
        Self {
            resident: sum("Rss:"),
            proportional: sum("Pss:"),
            guest: guest.expect("a mapping of the guest's size"),
        }
    }
}

/// The numbers of this name, one of each mapping, in KiB.
fn kib<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = u64> + 'a {
    let lines = text.lines().filter_map(move |line| line.strip_prefix(name));
    lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
}
