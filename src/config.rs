//! Plain data: what the agent was told, and every limit with its unit, default and reason.
//!
//! Importable by every room; a room is handed its own part and never the whole.

mod audit;
mod events;
pub mod fixed;
mod http;
mod jobs;
mod metrics;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use audit::AuditConfig;
pub use events::EventLimits;
pub use http::{CallerConfig, HttpLimits, SocketConfig};
pub use jobs::JobLimits;
pub use metrics::MetricsConfig;

/// The port that the orchestrator calls (contract section 1).
pub const DEFAULT_PORT: u16 = 20001;
/// The port that it calls the image store on (contract section 8).
pub const DEFAULT_IMAGE_STORE_PORT: u16 = 19999;
/// The port that people expect metrics of libvirt on.
pub const DEFAULT_METRICS_PORT: u16 = 9177;
/// The ZFS pool whose layout existing hosts use (contract section 8).
pub const DEFAULT_ZPOOL: &str = "mistify";
/// The libvirt that the original agent used.
pub const DEFAULT_LIBVIRT_URI: &str = "qemu:///system";

/// Longest that any call may take, in seconds, whoever says so: longer waits are for jobs that
/// outlive their request.
pub const DEADLINE_S_MAX: u64 = 3600;
/// NICs of one guest: a PCI guest runs out of slots well before this many.
pub const GUEST_NICS_MAX: usize = 64;
/// Disks of one guest: no guest on a host of ours comes near it.
pub const GUEST_DISKS_MAX: usize = 256;
/// Metadata of one guest, in bytes as XML has them: it is read with the definition, by every caller of
/// libvirt, and stands in it twice.
pub const GUEST_METADATA_BYTES: usize = 64 * 1024;
/// The definition of one guest, in bytes of XML: libvirt hands out no text above 4 MiB
/// (`REMOTE_STRING_MAX`), and adds to what it is given.
pub const GUEST_DEFINITION_BYTES: usize = 1024 * 1024;
/// How deep arrays and objects of a request may nest: as deep as Go's decoder takes them.
pub const JSON_DEPTH_MAX: usize = 10_000;
/// Calls of one batch: a look at every guest of a large host takes a few, and one batch is one
/// caller, who is not to keep a handler for long.
pub const BATCH_CALLS_MAX: usize = 64;
/// Calls of one batch that are carried out at once: twice the workers of a lane, so that none of
/// them waits for the next call, and a third of [`PoolLimits::changes`].
pub const BATCH_AT_ONCE: usize = 8;
/// Answers of one batch, in bytes, until the rest is left out: half of
/// [`HttpLimits::response_bytes`], as the last one counted may be as long again.
pub const BATCH_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Everything that flags decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Addresses to serve the image store's methods on; none where they are not served.
    pub image_store: Vec<SocketAddr>,
    /// The Unix socket to listen on as well, if any.
    pub socket: Option<SocketConfig>,
    /// Who may call.
    pub callers: CallerConfig,
    /// What is kept of changing calls.
    pub audit: AuditConfig,
    /// How guests are made and where their disks may lie.
    pub host: HostConfig,
    /// Bounds of the HTTP front.
    pub http: HttpLimits,
    /// Bounds of the worker pool.
    pub pool: PoolLimits,
    /// Bounds of the watch over libvirt.
    pub watch: WatchLimits,
    /// Bounds of storage commands.
    pub storage: StorageLimits,
    /// Bounds of one request's wait.
    pub deadlines: Deadlines,
    /// Where the agent keeps what it must not forget; its own choice where there is none.
    pub state_dir: Option<PathBuf>,
    /// Bounds of the journal.
    pub journal: JournalLimits,
    /// Addresses to serve metrics and health alone on; may be none.
    pub metrics_listen: Vec<SocketAddr>,
    /// What is measured of guests, and its bounds.
    pub metrics: MetricsConfig,
    /// Bounds of events.
    pub events: EventLimits,
    /// Bounds of jobs.
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

/// What the verbs need to know about the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// libvirt connection URI, as `virsh -c` takes it.
    pub libvirt_uri: String,
    /// Name of the ZFS pool, or of a dataset in one, that the store is in; disk sources below
    /// `/dev/zvol/<zpool>/` are allowed. Not used without a store.
    pub zpool: String,
    /// What the bridges that NICs name are.
    pub bridge_type: BridgeType,
    /// Where VNC displays of guests listen.
    pub vnc: VncListen,
    /// Packet filter (libvirt nwfilter) that every NIC of a new guest gets; none by default.
    pub nwfilter: Option<String>,
    /// Further folders below which a disk `source` may lie; `/` allows everything.
    pub allow_disk_paths: Vec<PathBuf>,
    /// Where volumes are made.
    pub store: Store,
    /// Whether a store was asked for, so that a missing one is worth a warning.
    pub wants_store: bool,
    /// Where `ImageStore.RequestImage` fetches images from, a host and perhaps a port; nowhere without.
    pub image_service: Option<String>,
    /// Whether new volumes set no space aside: they may then run out of it while a guest writes.
    pub sparse: bool,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            libvirt_uri: DEFAULT_LIBVIRT_URI.to_owned(),
            zpool: DEFAULT_ZPOOL.to_owned(),
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

/// The kind of bridge that a NIC's `network` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeType {
    /// Open vSwitch, with VLAN tags on the port group (contract section 5.2).
    OpenVSwitch,
    /// A plain Linux bridge: no virtual port, VLAN tags are refused.
    Linux,
}

/// Where volumes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// As volumes of the ZFS pool.
    Zfs,
    /// As sparse raw files below this folder.
    Directory(PathBuf),
    /// Nowhere: guests have the disks that their callers name.
    None,
}

/// Where the VNC displays of guests listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VncListen {
    /// On a Unix socket that libvirt makes in the guest's own folder, which only root and qemu's
    /// user can enter: a display has no password.
    Socket,
    /// On a TCP port of 127.0.0.1, where every local user can open it.
    Tcp,
}

/// Bounds of the worker pool.
///
/// libvirtd serves 20 calls at once (its `max_workers`): the three libvirt lanes together stay at
/// 12, so that `virsh` and the agent's own probes still get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Workers of the lane for verbs that change a guest.
    pub control_workers: usize,
    /// Workers of the lane for Status and the per-guest metrics.
    pub read_workers: usize,
    /// Workers of the lane for destroying: the cure for a stuck guest, never behind other work.
    pub urgent_workers: usize,
    /// Workers of the lane for volumes: zfs serialises most of its work anyway.
    pub storage_workers: usize,
    /// Jobs that may wait in each lane; one more is told `busy`. A connection has one at most.
    pub queue: usize,
    /// Calls that change a guest and are under way at once, each on a thread. This and the next six are all
    /// threads of [`HttpLimits::handlers`] but those for waits for events and for what waits for nothing.
    pub changes: usize,
    /// Deletes, in the same way: they free changes that hang, and do not wait for these.
    pub deletes: usize,
    /// Calls that ask libvirt, in the same way. Short polls of one guest need none.
    pub reads: usize,
    /// Calls that ask a guest's emulator, in the same way. Those of a guest that hangs leave half to others.
    pub metrics: usize,
    /// Calls of the store, in the same way: more would wait for its two workers.
    pub stores: usize,
    /// Poweroffs, in the same way: one for each of their workers.
    pub urgent: usize,
    /// Batches, in the same way; each of their calls is counted by itself.
    pub batches: usize,
    /// Threads that all batches of one caller have beside their handlers: one batch alone has
    /// `BATCH_AT_ONCE` with its handler.
    pub batch_helpers: usize,
    /// Calls of one guest and one kind that are under way at once, so that those of a guest that hangs do
    /// not use up the others' permits.
    pub calls_per_guest: usize,
    /// Short polls of Status that are with the read lane at once, without a thread, and as many of metrics; the
    /// next ones wait for their turn.
    pub polls: usize,
    /// Calls that wait for their turn without a thread: the connections of two fronts, of which each has one
    /// at most.
    pub calls_waiting: usize,
    /// Workers that others may have replaced at once, each in a call that does not return though libvirt
    /// answers. With one more no worker is replaced, and calls that find all workers of their lane in such
    /// calls are told `busy`. libvirtd serves 20 calls.
    pub stuck: usize,
    /// After this a call that does not return is stuck, and an event says so: well above the 30 s that
    /// libvirt itself waits for a guest's lock.
    pub stuck_age: Duration,
}

impl PoolLimits {
    /// Threads that may call libvirt at once: the workers of its three lanes and those that were
    /// written off.
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
            stores: 8,
            urgent: 4,
            batches: 8,
            batch_helpers: 7,
            calls_per_guest: 4,
            polls: 64,
            calls_waiting: 2048,
            stuck: 8,
            stuck_age: Duration::from_secs(60),
        }
    }
}

/// Bounds of the watch over libvirt and of the thread that opens connections to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchLimits {
    /// Opening a connection, until libvirt counts as silent: it takes 10 ms, and some 100 on a
    /// loaded host.
    pub answer: Duration,
    /// Between two looks at a libvirt that refuses or at a job that is late: long enough for what
    /// had to wait for libvirt to return.
    pub pause: Duration,
    /// From the end of a wait for a connection to the deadline of its job, so that the caller hears
    /// what was waited for.
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

/// How long one call may take, counted from its arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Status and the metrics: they take milliseconds unless something below hangs.
    pub read: Duration,
    /// Verbs that change: libvirt itself waits 30 s for a guest's lock, so this is more.
    pub change: Duration,
}

impl Deadlines {
    /// How long a stop waits for what runs: a change that has just begun gets its time.
    pub fn drain(&self) -> Duration {
        self.change + Duration::from_secs(5)
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { read: Duration::from_secs(5), change: Duration::from_secs(60) }
    }
}

/// Bounds of the storage room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageLimits {
    /// One `zfs` command: they take less than a second on a pool that works, and the caller's own
    /// deadline comes first.
    pub command: Duration,
    /// Standard output of one command, in bytes: a listing of 20,000 volumes is some 4 MB.
    pub output_bytes: usize,
    /// Standard error that is kept, in bytes: the first lines say what is wrong.
    pub error_bytes: usize,
    /// A command that was killed, until it counts as hung.
    pub kill: Duration,
    /// Hung commands, which even SIGKILL does not end, until no further one is tried.
    pub hung: usize,
    /// From the end of `zfs create` to its device: udev needs some 50 ms, under load seconds.
    pub device: Duration,
    /// Trying again to destroy what is busy: udev looks at a new or changed volume for up to a
    /// second.
    pub busy: Duration,
    /// Undoing a step that failed, counted from the failure, so that a late one is undone as well.
    pub undo: Duration,
    /// A stream to or from `zfs` without a byte: a disk that works moves some.
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
            device: Duration::from_secs(10),
            busy: Duration::from_secs(10),
            undo: Duration::from_secs(10),
            progress: Duration::from_secs(30),
        }
    }
}

/// Bounds of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Steps of one intent: the volumes of [`GUEST_DISKS_MAX`] disks, two steps for each of
    /// [`GUEST_NICS_MAX`] networks and the domain are 385.
    pub steps: usize,
    /// One intent's file, in bytes: a request is at most [`HttpLimits::body_bytes`], its steps some
    /// 100 KiB.
    pub file_bytes: u64,
    /// Intents kept at once: [`PoolLimits::changes`] run, the rest is what could not be
    /// settled yet. With one more nothing new is begun; at start the oldest are read.
    pub files: usize,
    /// For the lock: a program that the agent before this one was just starting has it as well,
    /// until it runs, which can take a second on a machine that is short of time.
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
        let PoolLimits { changes, deletes, reads, metrics, stores, urgent, batches, .. } = limits;
        let calls = changes + deletes + reads + metrics + stores + urgent + batches;
        let events = EventLimits::default().waiting;
        // And some for what waits for nothing.
        assert_eq!(HttpLimits::default().handlers, calls + events + 4);
    }
}
