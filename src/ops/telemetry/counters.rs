//! Conversion of libvirt's counters to the wire.

use crate::guest::wire::metrics::{CpuMetrics, DiskMetrics, NicMetrics};
use crate::libvirt::{BlockStats, CpuTime, InterfaceStats, VcpuTimes};

/// Returns one element for each virtual processor. Time that the domain spent outside them is
/// divided equally, so that the sums of both members are right.
pub(super) fn by_vcpu(times: &VcpuTimes) -> Vec<CpuTime> {
    let inside: u64 = times.vcpu_ns.iter().sum();
    let outside = times.total_ns.unwrap_or(inside).saturating_sub(inside);
    let count = u64::try_from(times.vcpu_ns.len()).unwrap_or(u64::MAX).max(1);
    times
        .vcpu_ns
        .iter()
        .map(|&vcpu_ns| CpuTime { cpu_ns: vcpu_ns + outside / count, vcpu_ns })
        .collect()
}

pub(super) fn cpu_seconds(time: &CpuTime) -> CpuMetrics {
    CpuMetrics { cpu_time: seconds(time.cpu_ns), vcpu_time: seconds(time.vcpu_ns) }
}

pub(super) fn disk_counters(device: &str, stats: &BlockStats) -> DiskMetrics {
    DiskMetrics {
        disk: device.to_owned(),
        read_ops: stats.read_ops,
        read_bytes: stats.read_bytes,
        read_time: signed_seconds(stats.read_ns),
        write_ops: stats.write_ops,
        write_bytes: stats.write_bytes,
        write_time: signed_seconds(stats.write_ns),
        flush_ops: stats.flush_ops,
        flush_time: signed_seconds(stats.flush_ns),
    }
}

pub(super) fn nic_counters(name: &str, stats: &InterfaceStats) -> NicMetrics {
    NicMetrics {
        name: name.to_owned(),
        rx_bytes: stats.rx_bytes,
        rx_packets: stats.rx_packets,
        rx_errors: stats.rx_errors,
        rx_drops: stats.rx_drops,
        tx_bytes: stats.tx_bytes,
        tx_packets: stats.tx_packets,
        tx_errors: stats.tx_errors,
        tx_drops: stats.tx_drops,
    }
}

/// Converts nanoseconds to the seconds of the wire; exact to a nanosecond for the first 104 days.
#[expect(clippy::cast_precision_loss, reason = "the wire has floating seconds")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// See [`seconds`].
#[expect(clippy::cast_precision_loss, reason = "the wire has floating seconds")]
fn signed_seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sums_over_vcpus_are_the_domains() {
        let times = VcpuTimes { total_ns: Some(1_000), vcpu_ns: vec![100, 300] };
        let shared = by_vcpu(&times);
        assert_eq!(shared.iter().map(|time| time.vcpu_ns).sum::<u64>(), 400);
        assert_eq!(shared.iter().map(|time| time.cpu_ns).sum::<u64>(), 1_000);
        assert_eq!(shared[1], CpuTime { cpu_ns: 600, vcpu_ns: 300 });
    }

    #[test]
    fn a_total_below_its_parts_shares_out_nothing() {
        let times = VcpuTimes { total_ns: Some(10), vcpu_ns: vec![100] };
        assert_eq!(by_vcpu(&times), [CpuTime { cpu_ns: 100, vcpu_ns: 100 }]);
    }

    #[test]
    fn no_vcpus_are_no_elements() {
        assert!(by_vcpu(&VcpuTimes::default()).is_empty());
    }
}
