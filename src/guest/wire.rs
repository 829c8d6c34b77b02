//! The structs of the wire (contract section 4). The order of fields is the order of members in
//! the output; what is left out when empty follows the original.

pub mod events;
pub mod images;
pub mod jobs;
pub mod verbs;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guest::members::members;

/// The guest type that `CreateGuest` assumes.
pub const DEFAULT_GUEST_TYPE: &str = "kvm";

/// A guest, as callers describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Name of the libvirt domain; callers use UUIDs.
    pub id: String,
    /// Hypervisor: libvirt's domain type.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Id of the image that the guest was made from; for callers only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Network interfaces, in the guest's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Disks, in the guest's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// A name of [`State`](crate::guest::state::State), or a caller's own word such as `create`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Memory in MiB.
    #[serde(rename = "memory", skip_serializing_if = "is_zero")]
    pub memory_mib: u64,
    /// Number of virtual CPUs.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu: u64,
    /// Port of the VNC display; 0: no display, -1: libvirt chooses the port.
    #[serde(skip_serializing_if = "is_zero")]
    pub vnc: i64,
    /// Whatever callers want kept with the guest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

members!(Guest {
    "id" => id: value,
    "type" => kind: value,
    "image" => image: value,
    "nics" => nics: list,
    "disks" => disks: list,
    "state" => state: value,
    "memory" => memory_mib: value,
    "cpu" => cpu: value,
    "vnc" => vnc: value,
    "metadata" => metadata: dictionary,
});

impl Guest {
    /// Does what `CreateGuest` does to a request before all else: an empty type is
    /// [`DEFAULT_GUEST_TYPE`], and each disk gets the bus `virtio` and the name of its place.
    pub fn complete(&mut self) {
        if self.kind.is_empty() {
            DEFAULT_GUEST_TYPE.clone_into(&mut self.kind);
        }
        for (index, disk) in self.disks.iter_mut().enumerate() {
            "virtio".clone_into(&mut disk.bus);
            disk.device = disk_device(index);
        }
    }
}

/// The name of the disk at `index`, as Linux counts them: `vda` .. `vdz`, `vdaa` ..
pub fn disk_device(index: usize) -> String {
    const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
    // Bijective base 26: no letter stands for zero, so each place counts from one.
    let mut letters = Vec::new();
    let mut rest = index.saturating_add(1);
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(LETTERS[rest % 26]));
        rest /= 26;
    }
    "vd".chars().chain(letters.into_iter().rev()).collect()
}

/// A network interface of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// The caller's name for it; metrics are keyed by it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The bridge that it is plugged into.
    pub network: String,
    /// What the guest sees, for example `virtio`.
    pub model: String,
    /// MAC address; also the name of the libvirt network made for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// For callers only.
    pub address: String,
    /// For callers only.
    pub netmask: String,
    /// For callers only.
    pub gateway: String,
    /// The host's device while the guest runs, for example `vnet0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// VLAN tags; absent is told apart from an empty list.
    pub vlans: Option<Vec<i64>>,
}

members!(Nic {
    "name" => name: value,
    "network" => network: value,
    "model" => model: value,
    "mac" => mac: value,
    "address" => address: value,
    "netmask" => netmask: value,
    "gateway" => gateway: value,
    "device" => device: value,
    "vlans" => vlans: nullable_list,
});

/// A disk of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Bus that the guest sees it on, for example `virtio`.
    pub bus: String,
    /// Device name in the guest, for example `vda`; metrics are keyed by it.
    pub device: String,
    /// Size in MiB.
    #[serde(rename = "size")]
    pub size_mib: u64,
    /// ZFS volume behind it.
    pub volume: String,
    /// Id of the image that it is cloned from.
    pub image: String,
    /// Path of the block device or file on the host.
    pub source: String,
}

members!(Disk {
    "bus" => bus: value,
    "device" => device: value,
    "size" => size_mib: value,
    "volume" => volume: value,
    "image" => image: value,
    "source" => source: value,
});

/// What the verbs are called with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// The orchestrator's name for what it does; ignored.
    pub action: String,
    /// Arguments of the orchestrator's pipeline stage.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

members!(GuestRequest {
    "guest" => guest: value,
    "action" => action: value,
    "args" => args: dictionary,
});

/// What the verbs answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestResponse {
    /// The guest as it is now. Callers store it, so a success always has it.
    pub guest: Option<Guest>,
    /// Never set by this agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Never set by this agent.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry: i64,
    /// The id of the job that the call became, where the caller wanted one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub job: String,
}

members!(GuestResponse {
    "guest" => guest: value,
    "message" => message: value,
    "retry" => retry: value,
    "job" => job: value,
});

/// What the metrics methods are called with.
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

/// What the metrics methods answer.
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

/// All that is known of one guest's use, for those who ask for all guests at once.
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
    /// Seconds used by the guest, all of it.
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

pub(super) fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

#[cfg(test)]
mod tests;
