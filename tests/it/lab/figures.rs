//! What a guest's volumes cost: processes of zfs, and time that is the agent's own.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Pool, SOON, fresh, run, zfs};
use crate::harness::image_store::Bed;
use crate::harness::skip::require;
use crate::harness::support::wait_for;

/// More than once, for this machine is emulated and may be busy; and how often while it is.
const ROUNDS: usize = 3;
const ROUNDS_MAX: usize = 20;

/// What one call cost.
struct Cost {
    /// What zfs was to do, one word for each process.
    commands: Vec<String>,
    whole: Duration,
    /// Of the whole, what the agent waited for zfs and udev.
    waited: Duration,
}

/// Calls a method and reads from the agent's log what it cost.
fn cost(bed: &Bed, method: &str, guest: &Value) -> (Value, Cost) {
    // Each more try at a volume that udev looks at is a process.
    run("udevadm", &["settle"]);
    let from = bed.agent.log().lines().count();
    let answer = bed.agent.ok(method, guest);
    let call = format!("Libvirt.{method} guest={} address=", guest["id"]);
    let log = wait_for("the call is logged", SOON, || {
        let log = bed.agent.log();
        log.lines().skip(from).any(|line| line.contains(&call)).then_some(log)
    });

    let (mut commands, mut waited_us, mut whole) = (Vec::new(), 0, Duration::ZERO);
    for line in log.lines().skip(from) {
        let words = line.split("::command: zfs ").nth(1).filter(|words| words.contains(" -- "));
        commands.extend(words.and_then(|words| words.split(' ').next()).map(str::to_owned));
        waited_us += microseconds(line).unwrap_or(0);
        if let Some((_, caller)) = line.split_once(&call) {
            let (_, ms) = caller.split_once(" ms=").expect("each call has its time");
            let ms = ms.split(' ').next().and_then(|ms| ms.parse().ok()).expect("a number");
            whole = Duration::from_secs_f64(ms) / 1000;
        }
    }
    (answer["guest"].clone(), Cost { commands, whole, waited: Duration::from_micros(waited_us) })
}

/// The time that a line of the log has at its end.
fn microseconds(line: &str) -> Option<u64> {
    line.strip_suffix(" us")?.rsplit(' ').next()?.parse().ok()
}

fn median(samples: impl Iterator<Item = Duration>) -> Duration {
    let mut samples: Vec<Duration> = samples.collect();
    samples.sort();
    samples[samples.len() / 2]
}

/// What the last of these calls took, and what of that was the agent's own.
fn times(costs: &[Cost]) -> (Duration, Duration) {
    let last = &costs[costs.len() - ROUNDS..];
    let own = |cost: &Cost| cost.whole - cost.waited;
    (median(last.iter().map(|cost| cost.whole)), median(last.iter().map(own)))
}

/// All is slow here, and by turns: what the agent waits for is the measure.
fn is_mostly_waited(costs: &[Cost]) -> bool {
    let (whole, own) = times(costs);
    own * 5 < whole
}

#[test]
fn guest_costs_one_listing_and_one_command_per_disk() {
    let Some(pool) = require("lab", Pool::own(256)) else { return };
    // Made with the first volume below it, else.
    zfs(&["create", "-o", "mountpoint=none", &format!("{}/guests", pool.name)]);
    let bed = Bed::with_flags("test:///default", Some(pool), &["--log-level", "debug"]);
    assert!(bed.import("base", b"", 4));
    for (what, disks, commands) in [
        ("blank", json!([{ "size": 8 }]), &["list", "create"][..]),
        ("clone", json!([{ "image": "base" }]), &["list", "clone"]),
        ("grown clone", json!([{ "image": "base", "size": 8 }]), &["list", "clone"]),
        ("two disks", json!([{ "size": 8 }, { "size": 8 }]), &["list", "create", "create"]),
    ] {
        let (mut creates, mut deletes) = (Vec::new(), Vec::new());
        let is_slow = |all: [&[Cost]; 2]| all.iter().any(|costs| !is_mostly_waited(costs));
        while creates.len() < ROUNDS || creates.len() < ROUNDS_MAX && is_slow([&creates, &deletes])
        {
            let id = fresh("figure");
            let asked = json!({ "id": id, "type": "test", "memory": 64, "cpu": 1, "disks": disks });
            let (made, create) = cost(&bed, "CreateGuest", &asked);
            assert_eq!(create.commands, commands, "{what}");
            let (_, delete) = cost(&bed, "Delete", &made);
            assert_eq!(delete.commands, ["list", "destroy"], "{what}");
            creates.push(create);
            deletes.push(delete);
        }
        for (method, costs) in [("CreateGuest", &creates), ("Delete", &deletes)] {
            let count = costs[0].commands.len();
            let (whole, own) = times(costs);
            println!("{method}, {what}: {count} zfs processes, {whole:?}, of that its own {own:?}");
            assert!(is_mostly_waited(costs), "{method}, {what}: {own:?} of {whole:?}");
        }
    }
    bed.agent.end();
}
