//! The latency of CreateGuest and Run, by profile, and of a guest with a seed.

use serde_json::json;

use crate::common::report::{Aim, Report};
use crate::common::sample::float;
use crate::world::World;
use crate::{Plan, compare, sample};

const MEASURED: [&str; 2] = ["CreateGuest", "Run"];
/// The guests that are compared: the name, the profile, and whether it has a seed.
const LIVES: [(&str, &str, bool); 3] =
    [("modern", "modern", false), ("classic", "classic", false), ("seed", "modern", true)];

/// Guests with an empty volume and a NIC are created, run and deleted, one after the other.
pub(crate) fn measure(world: &World, plan: &Plan, report: &mut Report) {
    eprintln!("{} lives of a guest with each profile", plan.lives);
    let mut taken = MEASURED.map(|_| LIVES.map(|_| Vec::new()));
    // The first turn is not measured: it fills caches, of libvirt's capabilities for example.
    for turn in 0..=plan.lives {
        for (index, (name, profile, has_seed)) in LIVES.into_iter().enumerate() {
            let mut guest = json!({
                "id": format!("life-{name}"), "type": "qemu", "memory": 64, "cpu": 1,
                "profile": profile, "disks": [{ "size": 1 }],
                "nics": [{ "network": "mistify0", "mac": format!("02:00:00:00:50:0{index}") }],
            });
            if has_seed {
                guest["cloud_init"] = json!({ "user": "alice", "ssh_keys": ["ssh-ed25519 AAAA"] });
            }
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
        for ((name, ..), sample) in LIVES.into_iter().zip(&mut samples) {
            let cells = [
                ("calls", float(sample.latencies.len())),
                ("median ms", sample.percentile_us(50) / 1000.0),
                ("longest ms", sample.percentile_us(100) / 1000.0),
            ];
            report.row(format!("{method}, {name}"), &cells);
        }
        let [modern, classic, seed] = samples.each_mut().map(|sample| sample.percentile_us(50));
        let what = format!("{method}, modern: median");
        compare(report, &what, [modern, classic], Aim::AtMost(2.0));
        if method == "CreateGuest" {
            let more = (seed - modern) / 1000.0;
            report.claim("... more with a seed", more, "ms", Aim::AtMost(5.0));
        }
    }
}
