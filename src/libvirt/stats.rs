//! Counters of one domain.

use std::ffi::{c_int, c_uint};
use std::ptr;

use crate::libvirt::bulk::Groups;
use crate::libvirt::c_string::argument;
use crate::libvirt::domain::Domain;
use crate::libvirt::error::{Code, Error, check_int};
use crate::libvirt::params::ParamArray;
use crate::sorted::OrderBy;
use crate::sys;

/// The maximum number of processors in one call to libvirt (a limit of its RPC).
const CPUS_A_CALL: usize = 128;
/// The maximum number of host processors to read, regardless of the daemon's number: the maximum of Linux (`NR_CPUS`).
const CPUS_MAX: usize = 8192;
/// Space for parameters of one processor; drivers have 2 to 4, libvirt's RPC carries 16.
const PARAMS_A_CPU: usize = 8;
/// Space for parameters of one disk; drivers have 8 to 14, libvirt's RPC carries 16.
const PARAMS_A_DISK: usize = 16;

/// One processor's share in a domain's time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// All time of the domain on this processor.
    pub cpu_ns: u64,
    /// The part inside virtual processors.
    pub vcpu_ns: u64,
}

/// A domain's processor time from the bulk statistics, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuTimes {
    /// The whole domain; `None` if the driver does not report it.
    pub total_ns: Option<u64>,
    /// Each online virtual processor, in the order of its number.
    pub vcpu_ns: Vec<u64>,
}

/// One disk's counters; 0 if the driver does not report one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Reads.
    pub read_ops: i64,
    /// Bytes read.
    pub read_bytes: i64,
    /// Time spent reading, in nanoseconds.
    pub read_ns: i64,
    /// Writes.
    pub write_ops: i64,
    /// Bytes written.
    pub write_bytes: i64,
    /// Time spent writing, in nanoseconds.
    pub write_ns: i64,
    /// Flushes.
    pub flush_ops: i64,
    /// Time spent flushing, in nanoseconds.
    pub flush_ns: i64,
}

/// One interface's counters, from the host's view; -1 if libvirt does not report one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Bytes received.
    pub rx_bytes: i64,
    /// Packets received.
    pub rx_packets: i64,
    /// Receive errors.
    pub rx_errors: i64,
    /// Received packets dropped.
    pub rx_drops: i64,
    /// Bytes sent.
    pub tx_bytes: i64,
    /// Packets sent.
    pub tx_packets: i64,
    /// Transmit errors.
    pub tx_errors: i64,
    /// Packets to send dropped.
    pub tx_drops: i64,
}

impl InterfaceStats {
    /// Counters with no value known.
    pub const UNKNOWN: Self = Self {
        rx_bytes: -1,
        rx_packets: -1,
        rx_errors: -1,
        rx_drops: -1,
        tx_bytes: -1,
        tx_packets: -1,
        tx_errors: -1,
        tx_drops: -1,
    };
}

impl Domain {
    /// Returns the time by host processor, in the order of their numbers (`virDomainGetCPUStats`).
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if the domain is off; [`Code::OPERATION_UNSUPPORTED`] on every host with cgroup v2.
    ///
    /// # Blocking
    /// Two round trips, one more for each 128 processors.
    pub fn cpu_stats(&self) -> Result<Vec<CpuTime>, Error> {
        const CALL: &str = "virDomainGetCPUStats";
        // SAFETY: the domain is live; NULL and zeroes request the number of processors.
        let count =
            unsafe { sys::virDomainGetCPUStats(self.raw.as_ptr(), ptr::null_mut(), 0, 0, 0, 0) };
        let count = usize::try_from(check_int(count, CALL)?).unwrap_or(0).min(CPUS_MAX);
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            let cpus = (count - times.len()).min(CPUS_A_CALL);
            let mut params = ParamArray::new(cpus * PARAMS_A_CPU);
            // SAFETY: the domain is live; the array has `cpus` times PARAMS_A_CPU entries.
            let filled = unsafe {
                sys::virDomainGetCPUStats(
                    self.raw.as_ptr(),
                    params.as_mut_ptr(),
                    unsigned(PARAMS_A_CPU),
                    signed(times.len()),
                    unsigned(cpus),
                    0,
                )
            };
            check_int(filled, CALL)?;
            times.extend((0..cpus).map(|cpu| {
                let mut time = CpuTime::default();
                for (name, value) in params.part(cpu * PARAMS_A_CPU, PARAMS_A_CPU) {
                    match &*name {
                        "cpu_time" => time.cpu_ns = value.as_u64().unwrap_or(0),
                        "vcpu_time" => time.vcpu_ns = value.as_u64().unwrap_or(0),
                        _ => {}
                    }
                }
                time
            }));
        }
        Ok(times)
    }

    /// Returns the time by virtual processor (`virDomainListGetStats` with `CPU_TOTAL` and `VCPU`).
    ///
    /// # Errors
    /// The error of libvirt; a domain that is off has no times, which is not an error.
    ///
    /// # Blocking
    /// One round trip in which the driver queries the emulator's monitor.
    pub fn vcpu_times(&self) -> Result<VcpuTimes, Error> {
        let mut times = VcpuTimes::default();
        let mut vcpus = Vec::new();
        let stats = self.stats(Groups::CPU)?;
        for (name, value) in stats.into_iter().flat_map(|stats| stats.params) {
            if *name == *"cpu.time" {
                times.total_ns = value.as_u64();
            } else if let Some(vcpu) = vcpu_of(&name) {
                vcpus.extend(value.as_u64().map(|time| (vcpu, time)));
            }
        }
        vcpus.order_by(&Ord::cmp);
        times.vcpu_ns = vcpus.into_iter().map(|(_, time)| time).collect();
        Ok(times)
    }

    /// Returns one disk's counters (`virDomainBlockStatsFlags`); an empty device means the sum of all disks. Uses the
    /// older call (`virDomainBlockStats`), which has no times, if the driver does not support the first.
    ///
    /// # Errors
    /// [`Code::INVALID_ARG`] for a device that does not exist.
    ///
    /// # Blocking
    /// Two round trips: libvirt's client first asks which types of values the daemon knows. In the second one the
    /// driver queries the emulator's monitor.
    pub fn block_stats(&self, device: &str) -> Result<BlockStats, Error> {
        match self.block_stats_by_name(device) {
            Err(error) if error.code == Code::NO_SUPPORT => self.block_stats_short(device),
            outcome => outcome,
        }
    }

    fn block_stats_short(&self, device: &str) -> Result<BlockStats, Error> {
        const CALL: &str = "virDomainBlockStats";
        let device = argument(device, CALL)?;
        // SAFETY: all zero bits are a valid value of this struct of integers.
        let mut raw = unsafe { std::mem::zeroed::<sys::virDomainBlockStatsStruct>() };
        // SAFETY: the domain is live, the device NUL-terminated, the struct ours and of the given size.
        let done = unsafe {
            sys::virDomainBlockStats(
                self.raw.as_ptr(),
                device.as_ptr(),
                &raw mut raw,
                size_of::<sys::virDomainBlockStatsStruct>(),
            )
        };
        check_int(done, CALL)?;
        Ok(BlockStats {
            read_ops: raw.rd_req,
            read_bytes: raw.rd_bytes,
            write_ops: raw.wr_req,
            write_bytes: raw.wr_bytes,
            ..BlockStats::default()
        })
    }

    fn block_stats_by_name(&self, device: &str) -> Result<BlockStats, Error> {
        const CALL: &str = "virDomainBlockStatsFlags";
        let device = argument(device, CALL)?;
        let mut params = ParamArray::new(PARAMS_A_DISK);
        let mut count = signed(PARAMS_A_DISK);
        // SAFETY: the domain is live, the device NUL-terminated, the array has `count` entries.
        let done = unsafe {
            sys::virDomainBlockStatsFlags(
                self.raw.as_ptr(),
                device.as_ptr(),
                params.as_mut_ptr(),
                &raw mut count,
                0,
            )
        };
        check_int(done, CALL)?;
        let mut stats = BlockStats::default();
        for (name, value) in params.entries() {
            let slot = match &*name {
                "rd_operations" => &mut stats.read_ops,
                "rd_bytes" => &mut stats.read_bytes,
                "rd_total_times" => &mut stats.read_ns,
                "wr_operations" => &mut stats.write_ops,
                "wr_bytes" => &mut stats.write_bytes,
                "wr_total_times" => &mut stats.write_ns,
                "flush_operations" => &mut stats.flush_ops,
                "flush_total_times" => &mut stats.flush_ns,
                _ => continue,
            };
            *slot = value.as_i64().unwrap_or(0);
        }
        Ok(stats)
    }

    /// Returns one interface's counters by its device on the host (`virDomainInterfaceStats`).
    ///
    /// # Errors
    /// [`Code::INVALID_ARG`] for a device that does not exist.
    ///
    /// # Blocking
    /// One round trip; does not query the emulator.
    pub fn interface_stats(&self, device: &str) -> Result<InterfaceStats, Error> {
        const CALL: &str = "virDomainInterfaceStats";
        let device = argument(device, CALL)?;
        // SAFETY: all zero bits are a valid value of this struct of integers.
        let mut raw = unsafe { std::mem::zeroed::<sys::virDomainInterfaceStatsStruct>() };
        // SAFETY: the domain is live, the device NUL-terminated, the struct ours and of the given size.
        let done = unsafe {
            sys::virDomainInterfaceStats(
                self.raw.as_ptr(),
                device.as_ptr(),
                &raw mut raw,
                size_of::<sys::virDomainInterfaceStatsStruct>(),
            )
        };
        check_int(done, CALL)?;
        Ok(InterfaceStats {
            rx_bytes: raw.rx_bytes,
            rx_packets: raw.rx_packets,
            rx_errors: raw.rx_errs,
            rx_drops: raw.rx_drop,
            tx_bytes: raw.tx_bytes,
            tx_packets: raw.tx_packets,
            tx_errors: raw.tx_errs,
            tx_drops: raw.tx_drop,
        })
    }
}

/// Returns the number of the virtual processor in `vcpu.<n>.time`.
fn vcpu_of(name: &str) -> Option<u32> {
    name.strip_prefix("vcpu.")?.strip_suffix(".time")?.parse().ok()
}

/// Converts a small count for C, which always fits.
fn unsigned(count: usize) -> c_uint {
    c_uint::try_from(count).unwrap_or(0)
}

/// Converts a small count as [`unsigned`] does.
fn signed(count: usize) -> c_int {
    c_int::try_from(count).unwrap_or(0)
}
