//! The structs of the metrics methods (contract section 4).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guest::members::members;
use crate::guest::wire::Guest;

/// The arguments of the metrics methods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestMetricsRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// `cpu`, `disk` or `nic`; ignored, as the method says it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Arguments of the orchestrator's pipeline stage; ignored.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

members!(GuestMetricsRequest {
    "guest" => guest: value,
    "type" => kind: value,
    "args" => args: dictionary,
});

/// The answer of the metrics methods.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GuestMetricsResponse {
    /// Always `None`: the original writes `null` and nothing else.
    pub guest: Option<Guest>,
    /// `cpu`, `disk` or `nic`.
    #[serde(rename = "type")]
    pub kind: String,
    /// By the disk's `device`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub disk: BTreeMap<String, DiskMetrics>,
    /// By the NIC's `name`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nic: BTreeMap<String, NicMetrics>,
    /// One element per CPU, in libvirt's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu: Vec<CpuMetrics>,
}

members!(GuestMetricsResponse {
    "guest" => guest: value,
    "type" => kind: value,
    "disk" => disk: dictionary,
    "nic" => nic: dictionary,
    "cpu" => cpu: list,
});

/// The metrics of one guest, as AllMetrics answers them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AllGuestMetrics {
    /// The guest's state.
    pub state: String,
    /// One element per virtual processor; none when the guest is off.
    pub cpu: Vec<CpuMetrics>,
    /// By the disk's `device`.
    pub disk: BTreeMap<String, DiskMetrics>,
    /// By the interface's device on the host, which is its `name` here too.
    pub nic: BTreeMap<String, NicMetrics>,
    /// Seconds since the oldest of these was read.
    pub age: f64,
}

/// Time used on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuMetrics {
    /// Seconds of CPU time used by the guest in total.
    pub cpu_time: f64,
    /// Seconds used by the guest's vCPUs.
    pub vcpu_time: f64,
}

members!(CpuMetrics {
    "cpu_time" => cpu_time: value,
    "vcpu_time" => vcpu_time: value,
});

/// Counters of one disk, from the guest's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DiskMetrics {
    /// The disk's `device`.
    pub disk: String,
    /// Reads.
    pub read_ops: i64,
    /// Bytes read.
    pub read_bytes: i64,
    /// Seconds spent in reads.
    pub read_time: f64,
    /// Writes.
    pub write_ops: i64,
    /// Bytes written.
    pub write_bytes: i64,
    /// Seconds spent in writes.
    pub write_time: f64,
    /// Flushes.
    pub flush_ops: i64,
    /// Seconds spent in flushes.
    pub flush_time: f64,
}

members!(DiskMetrics {
    "disk" => disk: value,
    "read_ops" => read_ops: value,
    "read_bytes" => read_bytes: value,
    "read_time" => read_time: value,
    "write_ops" => write_ops: value,
    "write_bytes" => write_bytes: value,
    "write_time" => write_time: value,
    "flush_ops" => flush_ops: value,
    "flush_time" => flush_time: value,
});

/// Counters of one network interface, from the guest's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicMetrics {
    /// The NIC's `name`, as the request has it.
    pub name: String,
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
    /// Send errors.
    pub tx_errors: i64,
    /// Packets to send dropped.
    pub tx_drops: i64,
}

members!(NicMetrics {
    "name" => name: value,
    "rx_bytes" => rx_bytes: value,
    "rx_packets" => rx_packets: value,
    "rx_errors" => rx_errors: value,
    "rx_drops" => rx_drops: value,
    "tx_bytes" => tx_bytes: value,
    "tx_packets" => tx_packets: value,
    "tx_errors" => tx_errors: value,
    "tx_drops" => tx_drops: value,
});
