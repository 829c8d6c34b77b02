//! The families of guests: one row each, with where its samples come from.

use crate::libvirt::{BlockStats, InterfaceStats};
use crate::metrics::sample::{Device, Disk, SlowVcpu, Vcpu};
use crate::metrics::sampler::GuestView;
use crate::metrics::text::{Kind, Value};

/// Where the samples of a family come from.
pub(super) enum Source {
    /// One for each guest that has it.
    Guest(fn(&GuestView<'_>) -> Option<Value>),
    /// One for each virtual processor, by the kernel.
    Vcpu(fn(&Vcpu) -> Value),
    /// One for each virtual processor, by libvirt.
    SlowVcpu(fn(&SlowVcpu) -> Option<Value>),
    /// One for each disk.
    Disk(fn(&Disk) -> Option<Value>),
    /// One for each block device behind a disk.
    Device(fn(&Device) -> Value),
    /// One for each interface.
    Nic(fn(&InterfaceStats) -> i64),
    /// What the balloon knows by this name.
    Balloon(&'static str, fn(u64) -> Value),
}

/// Name, kind, help, and where the samples come from.
pub(super) type Row = (&'static str, Kind, &'static str, Source);

use Kind::{Counter, Gauge};
use Source::{Balloon, Guest, Nic};

/// All of them.
pub(super) const ROWS: &[Row] = &[
    (
        "libvirt_domain_info_maximum_memory_bytes",
        Gauge,
        "Most memory that the guest may have",
        Guest(|guest| Some(kib(guest.slow?.memory_max_kib?))),
    ),
    (
        "libvirt_domain_info_memory_usage_bytes",
        Gauge,
        "Memory that the running guest has",
        // One that is off has none.
        Guest(|guest| Some(kib(guest.slow.filter(|slow| slow.run.is_some())?.memory_kib?))),
    ),
    (
        "libvirt_domain_info_virtual_cpus",
        Gauge,
        "Virtual processors of the guest that are online",
        Guest(|guest| Some(Value::Count(guest.slow?.vcpus_online?))),
    ),
    (
        "libvirt_domain_info_cpu_time_seconds",
        Counter,
        "Processor time of the guest's process, by the kernel's clock",
        Guest(|guest| Some(Value::Nanoseconds(guest.fast.cpu.as_ref()?.process_ns))),
    ),
    (
        "libvirt_domain_vcpu_time_seconds",
        Counter,
        "Processor time of the virtual processor's thread, by the kernel",
        Source::Vcpu(|vcpu| Value::Nanoseconds(vcpu.run_ns)),
    ),
    (
        "libvirt_domain_vcpu_delay_seconds",
        Counter,
        "Time that the virtual processor could run and had no processor of the host, by the kernel",
        Source::Vcpu(|vcpu| Value::Nanoseconds(vcpu.delay_ns)),
    ),
    (
        "libvirt_domain_vcpu_wait_seconds",
        Counter,
        "Time that the virtual processor waited for input or output",
        Source::SlowVcpu(|vcpu| vcpu.wait_ns.map(Value::Nanoseconds)),
    ),
    (
        "libvirt_domain_vcpu_state",
        Gauge,
        "State of the virtual processor: 0 offline, 1 running, 2 blocked",
        Source::SlowVcpu(|vcpu| vcpu.state.map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_read_bytes",
        Counter,
        "Bytes read from the disk, by the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.read_bytes).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_read_requests",
        Counter,
        "Reads from the disk, by the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.read_ops).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_read_time_seconds",
        Counter,
        "Time of all reads from the disk, by the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.read_ns).map(Value::Nanoseconds)),
    ),
    (
        "libvirt_domain_block_stats_write_bytes",
        Counter,
        "Bytes written to the disk, by the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.write_bytes).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_write_requests",
        Counter,
        "Writes to the disk, by the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.write_ops).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_write_time_seconds",
        Counter,
        "Time of all writes to the disk, by the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.write_ns).map(Value::Nanoseconds)),
    ),
    (
        "libvirt_domain_block_stats_flush_requests",
        Counter,
        "Flushes of the disk, by the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.flush_ops).map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_flush_time_seconds",
        Counter,
        "Time of all flushes of the disk, by the emulator",
        Source::Disk(|disk| counter(disk, |counters| counters.flush_ns).map(Value::Nanoseconds)),
    ),
    (
        "libvirt_domain_block_stats_capacity_bytes",
        Gauge,
        "Size of the disk as the guest sees it",
        Source::Disk(|disk| disk.capacity_bytes.map(Value::Count)),
    ),
    (
        "libvirt_domain_block_stats_physicalsize_bytes",
        Gauge,
        "Space that the disk's container takes",
        Source::Disk(|disk| disk.physical_bytes.map(Value::Count)),
    ),
    (
        "mistify_disk_device_reads_completed",
        Counter,
        "Reads from the block device behind the disk, by the kernel",
        Source::Device(|device| Value::Count(device.reads)),
    ),
    (
        "mistify_disk_device_read_bytes",
        Counter,
        "Bytes read from the block device behind the disk, by the kernel",
        Source::Device(|device| Value::Count(device.read_bytes)),
    ),
    (
        "mistify_disk_device_read_time_seconds",
        Counter,
        "Time of all reads from the block device behind the disk, by the kernel",
        Source::Device(|device| milliseconds(device.read_ms)),
    ),
    (
        "mistify_disk_device_writes_completed",
        Counter,
        "Writes to the block device behind the disk, by the kernel",
        Source::Device(|device| Value::Count(device.writes)),
    ),
    (
        "mistify_disk_device_written_bytes",
        Counter,
        "Bytes written to the block device behind the disk, by the kernel",
        Source::Device(|device| Value::Count(device.written_bytes)),
    ),
    (
        "mistify_disk_device_write_time_seconds",
        Counter,
        "Time of all writes to the block device behind the disk, by the kernel",
        Source::Device(|device| milliseconds(device.write_ms)),
    ),
    (
        "mistify_disk_device_io_time_seconds",
        Counter,
        "Time with anything in flight at the block device behind the disk, by the kernel",
        Source::Device(|device| milliseconds(device.io_ms)),
    ),
    (
        "libvirt_domain_interface_stats_receive_bytes",
        Counter,
        "Bytes received by the interface",
        Nic(|nic| nic.rx_bytes),
    ),
    (
        "libvirt_domain_interface_stats_receive_packets",
        Counter,
        "Packets received by the interface",
        Nic(|nic| nic.rx_packets),
    ),
    (
        "libvirt_domain_interface_stats_receive_errors",
        Counter,
        "Errors of the interface while receiving",
        Nic(|nic| nic.rx_errors),
    ),
    (
        "libvirt_domain_interface_stats_receive_drops",
        Counter,
        "Packets to the interface that were dropped",
        Nic(|nic| nic.rx_drops),
    ),
    (
        "libvirt_domain_interface_stats_transmit_bytes",
        Counter,
        "Bytes sent by the interface",
        Nic(|nic| nic.tx_bytes),
    ),
    (
        "libvirt_domain_interface_stats_transmit_packets",
        Counter,
        "Packets sent by the interface",
        Nic(|nic| nic.tx_packets),
    ),
    (
        "libvirt_domain_interface_stats_transmit_errors",
        Counter,
        "Errors of the interface while sending",
        Nic(|nic| nic.tx_errors),
    ),
    (
        "libvirt_domain_interface_stats_transmit_drops",
        Counter,
        "Packets from the interface that were dropped",
        Nic(|nic| nic.tx_drops),
    ),
    (
        "libvirt_domain_memory_stats_rss_bytes",
        Gauge,
        "Memory of the host that the guest's process has",
        Balloon("rss", kib),
    ),
    (
        "libvirt_domain_memory_stats_unused_bytes",
        Gauge,
        "Memory that the guest's system leaves free",
        Balloon("unused", kib),
    ),
    (
        "libvirt_domain_memory_stats_available_bytes",
        Gauge,
        "Memory that the guest's system has in all",
        Balloon("available", kib),
    ),
    (
        "libvirt_domain_memory_stats_usable_bytes",
        Gauge,
        "Memory that the guest's system could free without swapping",
        Balloon("usable", kib),
    ),
    (
        "libvirt_domain_memory_stats_disk_cache_bytes",
        Gauge,
        "Memory that the guest's system caches disks in",
        Balloon("disk_caches", kib),
    ),
    (
        "libvirt_domain_memory_stats_swap_in_bytes",
        Counter,
        "Memory that the guest's system read from swap",
        Balloon("swap_in", kib),
    ),
    (
        "libvirt_domain_memory_stats_swap_out_bytes",
        Counter,
        "Memory that the guest's system wrote to swap",
        Balloon("swap_out", kib),
    ),
    (
        "libvirt_domain_memory_stats_major_fault",
        Counter,
        "Page faults in the guest that needed its disk",
        Balloon("major_fault", Value::Count),
    ),
    (
        "libvirt_domain_memory_stats_minor_fault",
        Counter,
        "Page faults in the guest that did not need its disk",
        Balloon("minor_fault", Value::Count),
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
