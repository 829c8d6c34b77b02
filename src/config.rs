//! Plain data: the configuration, and every limit with its unit, default and reason.
//!
//! Every module may import it. A module receives its own part and never the whole.

mod audit;
mod events;
pub mod fixed;
mod http;
mod jobs;
mod metrics;
mod nat;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use audit::AuditConfig;
pub use events::EventLimits;
pub use http::{CallerConfig, HttpLimits, SocketConfig};
pub use jobs::JobLimits;
pub use metrics::MetricsConfig;
pub use nat::Nat;

/// Default port of the JSON-RPC listener, which the orchestrator calls.
pub const DEFAULT_PORT: u16 = 20001;
/// Default port of the image store, which the orchestrator calls.
pub const DEFAULT_IMAGE_STORE_PORT: u16 = 19999;
/// Default port of `--metrics-listen`. libvirt exporters for Prometheus commonly use it.
pub const DEFAULT_METRICS_PORT: u16 = 9177;
/// Default ZFS pool. Existing hosts use its layout.
pub const DEFAULT_ZPOOL: &str = "mistify";
/// Default libvirt URI, the same as the original agent's.
pub const DEFAULT_LIBVIRT_URI: &str = "qemu:///system";

/// Maximum deadline of a call, in seconds, that a caller or an option can set. Longer work runs as
/// a job, which outlives its request.
pub const DEADLINE_S_MAX: u64 = 3600;
/// NICs of one guest. A PCI guest runs out of slots well below this number.
pub const GUEST_NICS_MAX: usize = 64;
/// Disks of one guest. No known guest comes near this number.
pub const GUEST_DISKS_MAX: usize = 256;
/// Size of one guest's metadata as XML. Every libvirt client reads it with the definition, which
/// contains it twice.
pub const GUEST_METADATA_BYTES: usize = 64 * 1024;
/// Size of one guest's definition as XML. libvirt returns no string above 4 MiB
/// (`REMOTE_STRING_MAX`), and adds elements to the definition.
pub const GUEST_DEFINITION_BYTES: usize = 1024 * 1024;
/// Nesting depth of arrays and objects in a request. Go's JSON decoder has the same limit.
pub const JSON_DEPTH_MAX: usize = 10_000;
/// Calls in one batch. A few batches read every guest of a large host. One batch is one caller,
/// which must not occupy a handler for long.
pub const BATCH_CALLS_MAX: usize = 64;
/// Concurrent calls of one batch. This is twice the workers of a lane, so that no worker waits for
/// the next call. It is a third of `pool.changes`.
pub const BATCH_AT_ONCE: usize = 8;
/// Total size of the answers in one batch. The agent replaces further answers by an error. This is
/// half of `http.response_bytes`, because the last counted answer may be as long again.
pub const BATCH_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Configuration that the options set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Addresses of the image store's methods; empty if the agent does not serve them.
    pub image_store: Vec<SocketAddr>,
    /// Unix socket to listen on in addition, if any.
    pub socket: Option<SocketConfig>,
    /// Permitted callers.
    pub callers: CallerConfig,
    /// Audit of changing calls.
    pub audit: AuditConfig,
    /// How the agent creates guests, and which disk paths it permits.
    pub host: HostConfig,
    /// Limits of the HTTP server.
    pub http: HttpLimits,
    /// Limits of the worker pool.
    pub pool: PoolLimits,
    /// Limits of the libvirt watch.
    pub watch: WatchLimits,
    /// Limits of storage commands.
    pub storage: StorageLimits,
    /// Deadlines of calls.
    pub deadlines: Deadlines,
    /// Directory of the agent's persistent state. Without one the state ends with the process.
    pub state_dir: Option<PathBuf>,
    /// Limits of the journal.
    pub journal: JournalLimits,
    /// Addresses that serve only metrics and health; may be empty.
    pub metrics_listen: Vec<SocketAddr>,
    /// Metrics of guests, and their limits.
    pub metrics: MetricsConfig,
    /// Limits of events.
    pub events: EventLimits,
    /// Limits of jobs.
    pub jobs: JobLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))],
            image_store: Vec::new(),
            socket: None,
            callers: CallerConfig::default(),
            audit: AuditConfig::default(),
            host: HostConfig::default(),
            http: HttpLimits::default(),
            pool: PoolLimits::default(),
            watch: WatchLimits::default(),
            storage: StorageLimits::default(),
            deadlines: Deadlines::default(),
            state_dir: None,
            journal: JournalLimits::default(),
            metrics_listen: Vec::new(),
            metrics: MetricsConfig::default(),
            events: EventLimits::default(),
            jobs: JobLimits::default(),
        }
    }
}

/// Properties of the host that the methods need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// libvirt connection URI, as `virsh -c` takes it.
    pub libvirt_uri: String,
    /// ZFS pool, or dataset in a pool, that contains the store. Disk sources below
    /// `/dev/zvol/<zpool>/` are permitted. Unused without a store.
    pub zpool: String,
    /// Profile of new guests whose requests name none.
    pub profile: Profile,
    /// Type of the bridges that NICs name.
    pub bridge_type: BridgeType,
    /// Where the VNC displays of guests listen.
    pub vnc: VncListen,
    /// libvirt network filter (nwfilter) of every NIC of a new guest; none by default.
    pub nwfilter: Option<String>,
    /// Additional directories below which a disk `source` may be; `/` permits every path.
    pub allow_disk_paths: Vec<PathBuf>,
    /// Where the agent creates volumes.
    pub store: Store,
    /// Whether an option asks for a store. Then a missing store causes a warning.
    pub wants_store: bool,
    /// Host, and optionally port, from which `ImageStore.RequestImage` fetches images; `None`
    /// disables it.
    pub image_service: Option<String>,
    /// Whether new volumes reserve no space. Such a volume may run out of space while a guest
    /// writes.
    pub sparse: bool,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            libvirt_uri: DEFAULT_LIBVIRT_URI.to_owned(),
            zpool: DEFAULT_ZPOOL.to_owned(),
            profile: Profile::Modern,
            bridge_type: BridgeType::OpenVSwitch,
            vnc: VncListen::Socket,
            nwfilter: None,
            allow_disk_paths: Vec::new(),
            store: Store::Zfs,
            wants_store: false,
            image_service: None,
            sparse: false,
        }
    }
}

/// The defaults for what the request of a new guest leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A machine of today: the host's processor, PCI Express, virtio, the guest agent's channel.
    Modern,
    /// What the agent defined before there were profiles, for images that depend on it.
    Classic,
}

impl Profile {
    /// Its name in options, requests and definitions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Classic => "classic",
        }
    }
}

/// Type of the bridge that a NIC's `network` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeType {
    /// Open vSwitch, with VLAN tags on the port group.
    OpenVSwitch,
    /// Linux bridge, without virtual port. VLAN tags are refused.
    Linux,
    /// The same, and the agent provides the bridge [`Nat::BRIDGE`] with DHCP and NAT.
    Nat(Nat),
}

/// Where the agent creates volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// ZFS volumes in the pool.
    Zfs,
    /// Sparse raw files below this directory.
    Directory(PathBuf),
    /// No store: guests have only the disks that their callers name.
    None,
}

impl HostConfig {
    /// Describes the store for people, such as `ZFS mistify`.
    pub fn store_name(&self) -> String {
        match &self.store {
            Store::Zfs => format!("ZFS {}", self.zpool),
            Store::Directory(path) => format!("directory {}", path.display()),
            Store::None => "none".to_owned(),
        }
    }
}

/// Where the VNC displays of guests listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VncListen {
    /// On a Unix socket that libvirt creates in the guest's own directory. Only root and QEMU's
    /// user can enter it, because a display has no password.
    Socket,
    /// On a TCP port of 127.0.0.1, where every local user can open it.
    Tcp,
}

/// Limits of the worker pool.
///
/// libvirtd serves 20 calls concurrently (its `max_workers`). The three libvirt lanes together use
/// 12 of them, so that `virsh` and the agent's own probes still get a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Workers of the control lane, which runs the methods that change a guest.
    pub control_workers: usize,
    /// Workers of the read lane, which runs Status and the metrics of one guest.
    pub read_workers: usize,
    /// Workers of the urgent lane, which destroys domains. Destroying frees a stuck guest, so it
    /// never waits for other work.
    pub urgent_workers: usize,
    /// Workers of the storage lane, which changes volumes. ZFS serializes most of its work anyway.
    pub storage_workers: usize,
    /// Calls in the queue of each lane. The agent answers `busy` to a further call. A connection
    /// has at most one call in the queues.
    pub queue: usize,
    /// Concurrent calls that change a guest, each on a thread. `http.handlers` is the sum of this
    /// limit, the ten below and 4.
    pub changes: usize,
    /// Concurrent Delete calls, each on a thread. A Delete frees changes that hang, so it does not
    /// wait for them.
    pub deletes: usize,
    /// Concurrent calls that query libvirt, each on a thread. Short polls of one guest need no
    /// thread.
    pub reads: usize,
    /// Concurrent calls that query a guest's emulator, each on a thread. Calls for one hung guest
    /// leave half of them to other guests.
    pub metrics: usize,
    /// Concurrent calls that ask guest agents, each on a thread and one for each guest. They leave the other
    /// workers of the read lane to calls that always answer.
    pub agents: usize,
    /// Concurrent Trim calls, each on a thread. A trim may take minutes of a guest agent, a worker of the control
    /// lane and the host's disks.
    pub trims: usize,
    /// Concurrent Shutdown calls that wait until their guest is off. Each has a thread while the agent asks the guest,
    /// and none while the call waits.
    pub shutdowns: usize,
    /// Concurrent calls of the store, each on a thread. More calls would only wait for its two
    /// workers.
    pub stores: usize,
    /// Concurrent Poweroff and Thaw calls, each on a thread. There is one for each urgent worker.
    pub urgent: usize,
    /// Concurrent batches, each on a thread. Each call of a batch also counts against its own
    /// limit.
    pub batches: usize,
    /// Concurrent calls that write the file of a job (asynchronous calls and Job.Cancel), each on a
    /// thread. If the disk of the state directory hangs, other calls still have threads.
    pub job_files: usize,
    /// Additional threads for all batches of one caller. One batch alone has `batch_at_once`
    /// threads, its handler included.
    pub batch_helpers: usize,
    /// Concurrent calls of one kind for one guest. Calls for a hung guest do not use up the permits
    /// of other guests.
    pub calls_per_guest: usize,
    /// Concurrent short polls of Status in the read lane, without a thread, and as many of metrics.
    /// Further polls wait for their turn.
    pub polls: usize,
    /// Calls that wait for their turn without a thread. Two listeners have as many connections,
    /// with at most one such call each.
    pub calls_waiting: usize,
    /// Stuck workers that the agent has replaced; their calls do not return although libvirt
    /// answers. With more, it replaces none, and calls get `busy` while all workers of their lane
    /// are stuck. libvirtd serves 20 calls.
    pub stuck: usize,
    /// Time after which a running call is stuck, and an event reports it. This is well above the 30
    /// s that libvirt itself waits for a domain's state change lock.
    pub stuck_age: Duration,
}

impl PoolLimits {
    /// Threads that may call libvirt concurrently: the workers of its three lanes and the abandoned
    /// workers.
    pub fn libvirt_callers(&self) -> usize {
        self.control_workers + self.read_workers + self.urgent_workers + self.stuck
    }
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            control_workers: 4,
            read_workers: 4,
            urgent_workers: 4,
            storage_workers: 2,
            queue: 1024,
            changes: 24,
            deletes: 4,
            reads: 8,
            metrics: 4,
            agents: 2,
            trims: 1,
            shutdowns: 16,
            stores: 8,
            urgent: 4,
            batches: 8,
            job_files: 4,
            batch_helpers: 7,
            calls_per_guest: 4,
            polls: 64,
            calls_waiting: 2048,
            stuck: 8,
            stuck_age: Duration::from_secs(60),
        }
    }
}

/// Limits of the libvirt watch and of the thread that opens connections to libvirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchLimits {
    /// Time to open a connection before libvirt counts as unresponsive. Opening takes 10 ms, and
    /// about 100 ms on a loaded host.
    pub answer: Duration,
    /// Interval between checks of a libvirt that refuses connections, or of a late call. Calls that
    /// waited for libvirt have time to return.
    pub pause: Duration,
    /// Time between the end of a wait for a connection and the call's deadline. The caller then
    /// learns the reason for the wait.
    pub margin: Duration,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(2),
            pause: Duration::from_secs(1),
            margin: Duration::from_millis(100),
        }
    }
}

/// Maximum duration of one call, counted from its arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Deadline of Status and the metrics. They take milliseconds unless a component below the
    /// agent hangs.
    pub read: Duration,
    /// Deadline of calls that change something. It exceeds the 30 s that libvirt itself waits for a
    /// domain's state change lock.
    pub change: Duration,
}

impl Deadlines {
    /// Time that a stop waits for running calls. A change that has just started gets its full time.
    pub fn drain(&self) -> Duration {
        self.change + Duration::from_secs(5)
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { read: Duration::from_secs(5), change: Duration::from_secs(60) }
    }
}

/// Limits of storage commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageLimits {
    /// Duration of one `zfs` command. It takes less than 1 s on a healthy pool. The caller's own
    /// deadline applies first.
    pub command: Duration,
    /// Standard output of one command. A listing of 20,000 volumes has about 4 MB.
    pub output_bytes: usize,
    /// Stored standard error of one command. Its first lines name the fault.
    pub error_bytes: usize,
    /// Time from SIGKILL to the end of a command. After it the command counts as hung.
    pub kill: Duration,
    /// Hung commands, which not even SIGKILL ends. With as many, the agent starts no further
    /// command.
    pub hung: usize,
    /// Time from the end of `zfs create` to the device node. udev needs about 50 ms, on an overloaded
    /// host more than 10 s.
    pub device: Duration,
    /// Time to retry the destruction of a busy volume. udev reads a new or changed volume for up to
    /// 1 s.
    pub busy: Duration,
    /// Time to roll back a failed step, counted from the failure. So the agent rolls back a late
    /// failure as well.
    pub undo: Duration,
    /// Time without a byte in a stream to or from `zfs`. A working disk transfers some.
    pub progress: Duration,
}

impl Default for StorageLimits {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(30),
            output_bytes: 8 * 1024 * 1024,
            error_bytes: 16 * 1024,
            kill: Duration::from_secs(1),
            hung: 8,
            device: Duration::from_secs(30),
            busy: Duration::from_secs(10),
            undo: Duration::from_secs(10),
            progress: Duration::from_secs(30),
        }
    }
}

/// Limits of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Steps of one intent (the journal entry of a change). The volumes of `guest_disks_max` disks,
    /// two steps for each of `guest_nics_max` networks and the domain are 385.
    pub steps: usize,
    /// File of one intent. A request has at most `http.body_bytes`, and its steps have about 100
    /// KiB.
    pub file_bytes: u64,
    /// Stored intents. Up to `pool.changes` of them run; the others await recovery. With more, the
    /// agent starts no new change. At start it reads the oldest ones.
    pub files: usize,
    /// Time to acquire the journal's lock. A program that the previous agent was just starting
    /// holds it until it runs, up to 1 s on a loaded machine.
    pub lock: Duration,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self { steps: 512, file_bytes: 4 * 1024 * 1024, files: 256, lock: Duration::from_secs(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_under_way_has_a_handler() {
        let limits = PoolLimits::default();
        let PoolLimits { changes, deletes, reads, metrics, agents, stores, urgent, .. } = limits;
        let calls = changes + deletes + reads + metrics + agents + limits.trims + stores + urgent;
        let calls = calls + limits.shutdowns + limits.batches + limits.job_files;
        // And 4 for requests that never wait.
        assert_eq!(HttpLimits::default().handlers, calls + 4);
    }
}
