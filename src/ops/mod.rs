//! The methods of the agent: what "create a guest" means, step by step.
//!
//! A method checks its request, acquires the guest lock for a change, and runs jobs on workers of the pool. Each
//! worker owns a libvirt connection, and no handle of libvirt leaves its worker. Nothing here knows HTTP or JSON.
//!
//! | module | contents |
//! |---|---|
//! | `guests` | the life of a guest, its devices and its configuration |
//! | `guest_agent` | requests to the guest agents of guests: addresses, logins, freezes, clocks |
//! | `images` | the image store: images, snapshots, downloads |
//! | `telemetry` | metrics of guests |
//! | `networks` | networks and bridges of NICs |
//! | `disks` | sources of disks, volumes, and which domain uses which |
//! | `recovery` | undoes or finishes changes that did not end |
//! | `hypervisor` | connections to libvirt, their health, and calls that hang |
//! | `transaction` | one change to a guest, each step written to the journal before it begins |
//! | `plan`, `jobs`, `waiting_calls` | a dry run, calls that run later, calls that wait for events without a thread |
//! | `locks`, `worker_jobs` | acquire guest locks, run work on workers of the pool |
//! | `start_stop`, `status`, `event_subscription` | the agent as a whole |
//! | `args`, `base64`, `error`, `metadata`, `question`, `requests` | what the methods share |
//!
//! [`Libvirt`] is the whole agent. The modules `guests`, `guest_agent` and `plan` add methods to [`Guests`], `images` to
//! [`Images`], `telemetry` to [`Telemetry`], all others to [`Core`], which the three share.

mod args;
mod base64;
mod disks;
mod error;
mod event_subscription;
mod guest_agent;
mod guests;
mod hypervisor;
mod images;
mod jobs;
mod locks;
mod metadata;
mod networks;
mod plan;
mod question;
mod recovery;
mod requests;
mod start_stop;
mod status;
mod telemetry;
mod transaction;
mod waiting_calls;
mod worker_jobs;

pub use args::{is_dry_run, timeout, wants_job};
pub use error::{AgentUnavailable, Error};
pub use guests::create::new_domain;
pub use guests::host_start::HostStart;
pub use guests::host_stop::Stopped;
pub use guests::lifecycle::{DomainAction, get_state};
pub use hypervisor::committed_memory::CommittedMemory;
pub use hypervisor::health::{Health, HealthStatus};
pub use hypervisor::opener::Opener;
pub use hypervisor::session::Session;
pub use networks::bridges::{is_missing as is_bridge_missing, of_domain as bridges_of};
pub use plan::{OperationPlan, Problem};
pub use question::{Posting, Question};
pub use recovery::{Leftover, Reconciler, StorageStatus};
pub use waiting_calls::{Step, Steps, Wait};

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::config::{Deadlines, HostConfig, MetricsConfig};
use crate::events::Events;
use crate::jobs::Jobs;
use crate::journal::Journal;
use crate::metrics::{Calls, Sampler};
use crate::ops::disks::path_uses::PathUses;
use crate::ops::event_subscription::{EventListener, GuestLimits};
use crate::ops::guest_agent::freezes::Freezes;
use crate::ops::guest_agent::turns::GuestAgents;
use crate::ops::guests::seeds::SeedKey;
use crate::ops::images::fetches::Fetches;
use crate::ops::recovery::StatusCache;
use crate::pool::Pool;
use crate::storage::Volumes;

/// The agent: the methods on guests, on the image store and on metrics, and what they share.
pub struct Libvirt {
    /// What the methods share, and what the agent reports of itself.
    pub core: Arc<Core>,
    /// The methods on guests.
    pub guests: Guests,
    /// The methods of the image store.
    pub images: Images,
    /// The metrics of guests and of the agent.
    pub telemetry: Telemetry,
    _event_listener: EventListener,
}

/// What all methods share: workers, locks, the journal, volumes, events and jobs.
pub struct Core {
    pool: Arc<Pool<Session>>,
    opener: Arc<Opener>,
    volumes: Arc<dyn Volumes>,
    journal: Arc<Journal>,
    jobs: Arc<Jobs>,
    status: StatusCache,
    seed_key: SeedKey,
    events: Arc<Events>,
    uses: Arc<PathUses>,
    host: HostConfig,
    deadlines: Deadlines,
}

/// The methods on guests: their life, devices, configuration and guest agents.
pub struct Guests {
    core: Arc<Core>,
    agents: Arc<GuestAgents>,
    freezes: Arc<Freezes>,
    limits: Arc<GuestLimits>,
}

/// The methods of the image store: volumes, images and snapshots.
pub struct Images {
    core: Arc<Core>,
    fetches: Fetches,
}

/// Metrics of guests by request and by sample, and the counters of the agent.
pub struct Telemetry {
    core: Arc<Core>,
    sampler: Arc<Sampler>,
    calls: Calls,
    metrics: MetricsConfig,
    /// Whether libvirt has no processor times by host processor.
    without_cpu_stats: Arc<AtomicBool>,
    agents: Arc<GuestAgents>,
    limits: Arc<GuestLimits>,
}

/// Wraps a job's work, so that it waits for a connection no longer than its caller waits for the job.
fn with_deadline<T>(
    deadline: Instant,
    work: impl FnOnce(&mut Session) -> T,
) -> impl FnOnce(&mut Session) -> T {
    move |session| {
        session.begin(deadline);
        work(session)
    }
}
