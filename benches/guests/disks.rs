//! The throughput of a disk in a Debian guest, by profile and beside the domain of `virt-install`.

use std::thread;

use crate::Plan;
use crate::common::report::{Aim, Report};
use crate::debian::{self, CONTENDERS, Debian};
use crate::skip::Skip;
use crate::world::World;

/// The patterns of fio: the name, the options, the field of its terse output that counts, and the unit.
const PATTERNS: [(&str, &str, u32, &str); 3] = [
    ("random read, 4 KiB", "--rw=randread --bs=4k", 8, "requests/s"),
    ("random write, 4 KiB", "--rw=randwrite --bs=4k --fsync=64", 49, "requests/s"),
    ("sequential write, 1 MiB", "--rw=write --bs=1M --fsync=16", 48, "KiB/s"),
];

/// Boots the contenders at once, and runs fio in each of them in turns.
///
/// # Errors
/// Why the contenders cannot be made here.
pub(crate) fn measure(world: &World, plan: &Plan, report: &mut Report) -> Result<(), Skip> {
    let image = &debian::image()?;
    let mut guests = thread::scope(|scope| {
        let boot = |contender| scope.spawn(move || Debian::boot(world, contender, image));
        let boots = CONTENDERS.map(boot);
        boots.map(|it| it.join().expect("a whole boot"))
    });
    for (contender, guest) in CONTENDERS.into_iter().zip(&guests) {
        let (time, cpu) = (guest.booted.time.as_secs_f64(), guest.booted.cpu.as_secs_f64());
        report.row(format!("Debian, {contender}"), &[("boot s", time), ("boot CPU s", cpu)]);
    }
    for (name, options, field, unit) in PATTERNS {
        let command = format!(
            "fio --name=it --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16 \
             --time_based --runtime={} {options} --minimal | cut -d';' -f{field}",
            plan.turn.as_secs()
        );
        let mut numbers = Vec::new();
        for turn in 0..plan.disks {
            for guest in &mut guests {
                let output = guest.take_turn(&command);
                let number = output.lines().find_map(|line| line.trim().parse().ok());
                let number: f64 = number.unwrap_or_else(|| panic!("fio: {output}"));
                eprintln!("{name}, turn {turn}: {number} {unit}");
                numbers.push(number);
            }
        }
        add_rates(report, &format!("Debian, disk in a file, {name}"), unit, &numbers);
    }
    Ok(())
}

/// Writes the medians of the numbers, which [`CONTENDERS`] measured in turns, and their ratios.
pub(crate) fn add_rates(report: &mut Report, what: &str, unit: &'static str, numbers: &[f64]) {
    let medians = [0, 1, 2].map(|contender| {
        let own = numbers.iter().skip(contender).step_by(CONTENDERS.len());
        let mut own: Vec<f64> = own.copied().collect();
        own.sort_unstable_by(f64::total_cmp);
        own[(own.len() - 1) / 2]
    });
    for (contender, median) in CONTENDERS.into_iter().zip(medians) {
        report.row(format!("{what}, {contender}"), &[(unit, median)]);
    }
    let [other, modern, classic] = medians;
    report.claim(format!("{what}: modern, times virt-install's"), modern / other, "", Aim::None);
    report.claim("... times classic's", modern / classic, "", Aim::None);
}
