//! The latency of GuestInfo on a host with some dead guest agents: connected, and silent.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::report::{Aim, Report};
use crate::common::sample::float;
use crate::linux::Console;
use crate::skip::Skip;
use crate::world::{World, small_guest};
use crate::{Plan, sample};

const GUESTS: usize = 20;
/// The number of these guests with a dead guest agent.
const DEAD: usize = 5;
/// The limit for the wait until all guest agents answer. All guests boot at once, without KVM.
const BOOT: Duration = Duration::from_secs(1800);
/// Between two turns of all guests: an orchestrator that polls.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the guests, stops some guest agents, and calls GuestInfo for each guest in turn, as different callers would.
///
/// # Errors
/// Why the image of the small Linux cannot be made here.
pub(crate) fn measure(world: &World, plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let disk = world.small_disk()?;
    let guests: Vec<Value> = (0..GUESTS)
        .map(|index| {
            let own = world.files.path().join(format!("agent-{index}.raw"));
            fs::copy(&disk, &own).expect("a disk");
            small_guest(&format!("agent-{index}"), "modern", &own)
        })
        .collect();
    eprintln!("booting {GUESTS} guests");
    for guest in &guests {
        world.agent.ask("CreateGuest", guest);
        world.agent.ask("Run", guest);
    }
    let is_answered = |guest: &Value| world.agent.ask("GuestInfo", guest)["agent"] == true;
    let deadline = Instant::now() + BOOT;
    for guest in &guests {
        while !is_answered(guest) {
            assert!(Instant::now() < deadline, "{} has no guest agent", guest["id"]);
            thread::sleep(PAUSE);
        }
    }
    for guest in &guests[..DEAD] {
        let id = guest["id"].as_str().expect("an id");
        Console::log_in(&world.stack, id).run("kill -STOP $(pidof qemu-ga)");
    }
    // Each guest agent that is dead is asked again after its pause: several times within the turns.
    let (mut living, mut dead) = (Vec::new(), Vec::new());
    for turn in 0..plan.agents {
        for (index, guest) in guests.iter().enumerate() {
            let (latency, info) = world.time("GuestInfo", guest);
            let is_dead = index < DEAD;
            assert_eq!(info["agent"] == json!(true), !is_dead, "turn {turn}: {info}");
            if is_dead { dead.push(latency) } else { living.push(latency) }
        }
        thread::sleep(PAUSE);
    }
    let mut all = sample([&living[..], &dead[..]].concat());
    for (name, latencies) in [("living", living), ("dead", dead)] {
        let mut sample = sample(latencies);
        let cells = [
            ("calls", float(sample.latencies.len())),
            ("median ms", sample.percentile_us(50) / 1000.0),
            ("p99 ms", sample.percentile_us(99) / 1000.0),
            ("longest ms", sample.percentile_us(100) / 1000.0),
        ];
        report.row(format!("GuestInfo, guest agent {name}"), &cells);
    }
    let what = format!("GuestInfo of {GUESTS} guests, {DEAD} with a dead guest agent: p99");
    report.claim(what, all.percentile_us(99) / 1000.0, "ms", Aim::AtMost(1000.0));
    for guest in &guests {
        world.delete(guest);
    }
    Ok(())
}
