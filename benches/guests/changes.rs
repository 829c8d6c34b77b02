//! The latency of CreateGuest and Run, by profile.

use serde_json::json;

use crate::common::report::{Aim, Report};
use crate::common::sample::float;
use crate::world::World;
use crate::{PROFILES, Plan, compare, sample};

const MEASURED: [&str; 2] = ["CreateGuest", "Run"];

/// Guests with an empty volume and a NIC are created, run and deleted, with one profile after the other.
pub(crate) fn measure(world: &World, plan: &Plan, report: &mut Report) {
    eprintln!("{} lives of a guest with each profile", plan.lives);
    let mut taken = MEASURED.map(|_| PROFILES.map(|_| Vec::new()));
    // The first turn is not measured: it fills caches, of libvirt's capabilities for example.
    for turn in 0..=plan.lives {
        for (index, profile) in PROFILES.into_iter().enumerate() {
            let guest = json!({
                "id": format!("life-{profile}"), "type": "qemu", "memory": 64, "cpu": 1,
                "profile": profile, "disks": [{ "size": 1 }],
                "nics": [{ "network": "mistify0", "mac": format!("02:00:00:00:50:0{index}") }],
            });
            for (method, taken) in MEASURED.iter().zip(&mut taken) {
                let (latency, _) = world.time(method, &guest);
                if turn > 0 {
                    taken[index].push(latency);
                }
            }
            world.delete(&guest);
        }
    }
    for (method, taken) in MEASURED.into_iter().zip(taken) {
        let mut samples = taken.map(sample);
        for (profile, sample) in PROFILES.into_iter().zip(&mut samples) {
            let cells = [
                ("calls", float(sample.latencies.len())),
                ("median ms", sample.percentile_us(50) / 1000.0),
                ("longest ms", sample.percentile_us(100) / 1000.0),
            ];
            report.row(format!("{method}, {profile}"), &cells);
        }
        let medians = samples.each_mut().map(|sample| sample.percentile_us(50));
        compare(report, &format!("{method}, modern: median"), medians, Aim::AtMost(2.0));
    }
}
