//! The time from Run to the login prompt on the serial console, by profile.

use crate::common::report::{Aim, Report};
use crate::common::sample::float;
use crate::skip::Skip;
use crate::world::{World, small_guest};
use crate::{PROFILES, Plan, compare, sample};

/// Boots the small Linux with one profile after the other.
///
/// # Errors
/// Why its image cannot be made here.
pub(crate) fn measure(world: &World, plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let disk = world.small_disk()?;
    let mut taken = PROFILES.map(|_| Vec::new());
    for _ in 0..plan.boots {
        for (profile, taken) in PROFILES.into_iter().zip(&mut taken) {
            let guest = small_guest(&format!("boot-{profile}"), profile, &disk);
            taken.push(world.boot(&guest).1);
            world.delete(&guest);
        }
    }
    let mut samples = taken.map(sample);
    for (profile, sample) in PROFILES.into_iter().zip(&mut samples) {
        let cells = [
            ("boots", float(sample.latencies.len())),
            ("median s", sample.percentile_us(50) / 1e6),
            ("longest s", sample.percentile_us(100) / 1e6),
        ];
        report.row(format!("small Linux, {profile}"), &cells);
    }
    let medians = samples.each_mut().map(|sample| sample.percentile_us(50));
    compare(report, "small Linux, modern: Run to login prompt", medians, Aim::AtMost(1.5));
    Ok(())
}
