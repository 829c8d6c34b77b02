//! The faults during the soak, one at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::Random;
use crate::world::{GUESTS, World, id, send};

/// The kinds of faults.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    /// All but kills of the agent.
    ButKills,
    /// Also kills of the agent.
    All,
}

/// The interval of checks for the end during a wait.
const LOOK: Duration = Duration::from_millis(100);

/// Causes one fault after the other, with pauses, until `over`; ends each fault before the next.
pub(crate) fn cause(world: &World, faults: Faults, seed: u64, over: &AtomicBool) {
    let random = Random::new(seed);
    while !over.load(Ordering::Relaxed) {
        wait(Duration::from_millis(1000 + random.below(6000)), over);
        match random.below(10) {
            0..=3 => stop_an_emulator(world, &random, over),
            4 => {
                world.stats.fault("libvirtd was stopped and went on");
                world.stack.signal_libvirtd("STOP");
                wait(Duration::from_millis(500 + random.below(5000)), over);
                world.stack.signal_libvirtd("CONT");
            }
            5 => restart_libvirtd(world, "TERM"),
            6 => restart_libvirtd(world, "KILL"),
            _ if faults == Faults::All => {
                world.stats.fault("the agent was killed and started");
                world.kill_agent();
            }
            _ => {}
        }
    }
}

fn stop_an_emulator(world: &World, random: &Random, over: &AtomicBool) {
    let number = usize::try_from(random.below(GUESTS as u64)).expect("few guests");
    // The guest may be off.
    let Some(pid) = world.stack.qemu_pid(&id(number)) else { return };
    world.stats.fault("an emulator was stopped and went on");
    send("STOP", pid);
    wait(Duration::from_millis(500 + random.below(8000)), over);
    send("CONT", pid);
}

fn restart_libvirtd(world: &World, signal: &str) {
    world.stats.fault(&format!("libvirtd got SIG{signal} and was started"));
    world.stack.signal_libvirtd(signal);
    world.stack.start_libvirtd();
}

fn wait(length: Duration, over: &AtomicBool) {
    let end = Instant::now() + length;
    while Instant::now() < end && !over.load(Ordering::Relaxed) {
        thread::sleep(LOOK);
    }
}
