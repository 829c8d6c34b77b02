//! The metric families of guests: one row each, with the source of its samples.

use crate::libvirt::{BlockStats, InterfaceStats};
use crate::metrics::latest::GuestView;
use crate::metrics::sample::{Device, Disk, SlowVcpu, Vcpu};
use crate::metrics::text::{Kind, Value};

/// The source of a family's samples.
pub(super) enum Source {
    /// One for each guest that has the value.
    Guest(fn(&GuestView<'_>) -> Option<Value>),
    /// One for each virtual processor, from the kernel.
    Vcpu(fn(&Vcpu) -> Value),
    /// One for each virtual processor, from libvirt.
    SlowVcpu(fn(&SlowVcpu) -> Option<Value>),
    /// One for each disk.
    Disk(fn(&Disk) -> Option<Value>),
    /// One for each block device behind a disk.
    Device(fn(&Device) -> Value),
    /// One for each interface.
    Nic(fn(&InterfaceStats) -> i64),
    /// The balloon's value of this name.
    Balloon(&'static str, fn(u64) -> Value),
}

/// Name, kind, help, and the source of the samples.
pub(super) type Row = (&'static str, Kind, &'static str, Source);

use Kind::{Counter, Gauge};
use Source::{Balloon, Guest, Nic};

/// All rows.
pub(super) const ROWS: &[Row] = &[
    (
        "libvirt_domain_info_maximum_memory_bytes",
        Gauge,
        "Maximum memory of the guest in bytes",
        Guest(|guest| Some(kib(guest.slow?.memory_max_kib?))),
    ),
    (
        "libvirt_domain_info_memory_usage_bytes",
        Gauge,
        "Current memory of the running guest in bytes",
        // A guest that is off has none.
        Guest(|guest| Some(kib(guest.slow.filter(|slow| slow.run.is_some())?.memory_kib?))),
    ),
    (
        "libvirt_domain_info_virtual_cpus",
        Gauge,
        "Number of online virtual CPUs of the guest",
        Guest(|guest| Some(Value::Count(guest.slow?.vcpus_online?))),
    ),
    (
        "libvirt_domain_info_cpu_time_seconds",
        Counter,
        "CPU time of the guest's emulator process in seconds, from the kernel",
        Guest(|guest| Some(Value::Nanoseconds(guest.fast.cpu.as_ref()?.process_ns))),
    ),
    (
        "libvirt_domain_vcpu_time_seconds",
        Counter,
        "CPU time of the virtual CPU's thread in seconds, from the kernel",
        Source::Vcpu(|vcpu| Value::Nanoseconds(vcpu.run_ns)),
    ),
    (
        "libvirt_domain_vcpu_delay_seconds",
        Counter,
        "Time in seconds for which the ready virtual CPU waited for a host CPU, from the kernel",
        Source::Vcpu(|vcpu| Value::Nanoseconds(vcpu.delay_ns)),
    ),
    (
        "libvirt_domain_vcpu_wait_seconds",
        Counter,
        "Time in seconds for which the virtual CPU waited for I/O, from libvirt",
        Source::SlowVcpu(|vcpu| vcpu.wait_ns.map(Value::Nanoseconds)),
    ),
    (
        "libvirt_domain_vcpu_state",
        Gauge,
        "State of the virtual CPU: 0 offline, 1 running, 2 blocked",
        Source::SlowVcpu(|vcpu| vcpu.state.map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_read_bytes",
        Counter,
        "Bytes read from the disk, from the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.read_bytes).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_read_requests",
        Counter,
        "Read requests to the disk, from the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.read_ops).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_read_time_seconds",
        Counter,
        "Total time of read requests in seconds, from the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.read_ns).map(Value::Nanoseconds)),
    ),
    (
        "libvirt_domain_block_stats_write_bytes",
        Counter,
        "Bytes written to the disk, from the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.write_bytes).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_write_requests",
        Counter,
        "Write requests to the disk, from the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.write_ops).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_write_time_seconds",
        Counter,
        "Total time of write requests in seconds, from the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.write_ns).map(Value::Nanoseconds)),
    ),
    (
        "libvirt_domain_block_stats_flush_requests",
        Counter,
        "Flush requests to the disk, from the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.flush_ops).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_flush_time_seconds",
        Counter,
        "Total time of flush requests in seconds, from the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.flush_ns).map(Value::Nanoseconds)),
    ),
    (
        "libvirt_domain_block_stats_capacity_bytes",
        Gauge,
        "Size of the disk in bytes, as the guest sees it",
        Source::Disk(|disk| disk.capacity_bytes.map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_allocation",
        Gauge,
        "Allocated bytes of the file that holds the disk; of a device, the end of what was written",
        Source::Disk(|disk| disk.allocation_bytes.map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_physicalsize_bytes",
        Gauge,
        "Physical size in bytes of the file or device that holds the disk",
        Source::Disk(|disk| disk.physical_bytes.map(Value::Count)),
    ),
    (
        "mistify_disk_device_reads_completed",
        Counter,
        "Reads completed by the host's block device behind the disk, from the kernel",
        Source::Device(|device| Value::Count(device.reads)),
    ),
    (
        "mistify_disk_device_read_bytes",
        Counter,
        "Bytes read from the host's block device behind the disk, from the kernel",
        Source::Device(|device| Value::Count(device.read_bytes)),
    ),
    (
        "mistify_disk_device_read_time_seconds",
        Counter,
        "Total time of reads from the host's block device in seconds, from the kernel",
        Source::Device(|device| milliseconds(device.read_ms)),
    ),
    (
        "mistify_disk_device_writes_completed",
        Counter,
        "Writes completed by the host's block device behind the disk, from the kernel",
        Source::Device(|device| Value::Count(device.writes)),
    ),
    (
        "mistify_disk_device_written_bytes",
        Counter,
        "Bytes written to the host's block device behind the disk, from the kernel",
        Source::Device(|device| Value::Count(device.written_bytes)),
    ),
    (
        "mistify_disk_device_write_time_seconds",
        Counter,
        "Total time of writes to the host's block device in seconds, from the kernel",
        Source::Device(|device| milliseconds(device.write_ms)),
    ),
    (
        "mistify_disk_device_io_time_seconds",
        Counter,
        "Time in seconds for which the host's block device had I/O in flight, from the kernel",
        Source::Device(|device| milliseconds(device.io_ms)),
    ),
    (
        "libvirt_domain_interface_stats_receive_bytes",
        Counter,
        "Bytes received on the interface",
        Nic(|nic| nic.rx_bytes),
    ),
    (
        "libvirt_domain_interface_stats_receive_packets",
        Counter,
        "Packets received on the interface",
        Nic(|nic| nic.rx_packets),
    ),
    (
        "libvirt_domain_interface_stats_receive_errors",
        Counter,
        "Receive errors on the interface",
        Nic(|nic| nic.rx_errors),
    ),
    (
        "libvirt_domain_interface_stats_receive_drops",
        Counter,
        "Received packets dropped on the interface",
        Nic(|nic| nic.rx_drops),
    ),
    (
        "libvirt_domain_interface_stats_transmit_bytes",
        Counter,
        "Bytes transmitted on the interface",
        Nic(|nic| nic.tx_bytes),
    ),
    (
        "libvirt_domain_interface_stats_transmit_packets",
        Counter,
        "Packets transmitted on the interface",
        Nic(|nic| nic.tx_packets),
    ),
    (
        "libvirt_domain_interface_stats_transmit_errors",
        Counter,
        "Transmit errors on the interface",
        Nic(|nic| nic.tx_errors),
    ),
    (
        "libvirt_domain_interface_stats_transmit_drops",
        Counter,
        "Packets to transmit dropped on the interface",
        Nic(|nic| nic.tx_drops),
    ),
    (
        "libvirt_domain_memory_stats_rss_bytes",
        Gauge,
        "Resident memory of the guest's emulator process in bytes",
        Balloon("rss", kib),
    ),
    (
        "libvirt_domain_memory_stats_unused_bytes",
        Gauge,
        "Memory in bytes that the guest's system leaves unused",
        Balloon("unused", kib),
    ),
    (
        "libvirt_domain_memory_stats_available_bytes",
        Gauge,
        "Total memory in bytes that the guest's system has available",
        Balloon("available", kib),
    ),
    (
        "libvirt_domain_memory_stats_usable_bytes",
        Gauge,
        "Memory in bytes that the guest's system can reclaim without swapping",
        Balloon("usable", kib),
    ),
    (
        "libvirt_domain_memory_stats_disk_cache_bytes",
        Gauge,
        "Memory in bytes that the guest's system uses as disk cache",
        Balloon("disk_caches", kib),
    ),
    (
        "libvirt_domain_memory_stats_swap_in_bytes",
        Counter,
        "Bytes that the guest's system has swapped in",
        Balloon("swap_in", kib),
    ),
    (
        "libvirt_domain_memory_stats_swap_out_bytes",
        Counter,
        "Bytes that the guest's system has swapped out",
        Balloon("swap_out", kib),
    ),
    (
        "libvirt_domain_memory_stats_major_fault",
        Counter,
        "Page faults in the guest that required disk I/O",
        Balloon("major_fault", Value::Count),
    ),
    (
        "libvirt_domain_memory_stats_minor_fault",
        Counter,
        "Page faults in the guest that required no disk I/O",
        Balloon("minor_fault", Value::Count),
    ),
    (
        "libvirt_domain_memory_stats_last_update_timestamp_seconds",
        Gauge,
        "Time at which the guest last reported its memory, in seconds since 1970; 0: never",
        Balloon("last-update", Value::Count),
    ),
];

fn counter(disk: &Disk, pick: fn(&BlockStats) -> i64) -> Option<u64> {
    u64::try_from(pick(disk.counters.as_ref()?)).ok()
}

fn kib(kib: u64) -> Value {
    Value::Count(kib.saturating_mul(1024))
}

fn milliseconds(ms: u64) -> Value {
    Value::Nanoseconds(ms.saturating_mul(1_000_000))
}
