//! The time from Run to the login prompt on the serial console, by profile.

use crate::common::report::{Aim, Report};
use crate::common::sample::{Sample, float};
use crate::skip::Skip;
use crate::world::{World, small_guest};
use crate::{PROFILES, Plan, compare, sample};

/// Boots the small Linux with one profile after the other.
///
/// # Errors
/// Why its image cannot be made here.
pub(crate) fn measure(world: &World, plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let disk = world.small_disk()?;
    let (mut times, mut cpu) = (PROFILES.map(|_| Vec::new()), PROFILES.map(|_| Vec::new()));
    for _ in 0..plan.boots {
        for (index, profile) in PROFILES.into_iter().enumerate() {
            let guest = small_guest(&format!("boot-{profile}"), profile, &disk);
            let booted = world.boot(&guest);
            times[index].push(booted.time);
            cpu[index].push(booted.cpu);
            world.delete(&guest);
        }
    }
    let (mut times, mut cpu) = (times.map(sample), cpu.map(sample));
    for (index, profile) in PROFILES.into_iter().enumerate() {
        let cells = [
            ("boots", float(times[index].latencies.len())),
            ("median s", times[index].percentile_us(50) / 1e6),
            ("longest s", times[index].percentile_us(100) / 1e6),
            ("median CPU s", cpu[index].percentile_us(50) / 1e6),
        ];
        report.row(format!("small Linux, {profile}"), &cells);
    }
    let medians = |samples: &mut [Sample; 2]| samples.each_mut().map(|it| it.percentile_us(50));
    let aim = Aim::AtMost(1.5);
    compare(report, "small Linux, modern: Run to login prompt", medians(&mut times), aim);
    compare(report, "... processor time of the emulator", medians(&mut cpu), aim);
    Ok(())
}
