//! The methods of the agent: the steps of each change, and how each step is undone.
//!
//! A method checks its request, acquires the guest lock if it changes anything, and runs as one job on a pool worker
//! that owns a libvirt connection. No libvirt handle leaves its worker; jobs return data. Nothing here knows HTTP or
//! JSON.

mod addresses;
mod agents;
mod args;
mod bridges;
mod chain;
mod clocks;
mod counters;
mod create;
mod delete;
mod devices;
mod disks;
mod domains;
mod error;
mod events;
mod fetches;
mod freezes;
mod guest_info;
mod health;
mod host_start;
mod host_stop;
mod images;
mod inventory;
mod jobs;
mod kept;
mod lifecycle;
mod limits;
mod logins;
mod machine;
mod marks;
mod media;
mod metadata;
mod metrics;
mod nat;
mod networks;
mod opener;
mod plan;
mod promised;
mod question;
mod recovery;
mod refresh;
mod resize;
mod samples;
mod saved;
mod screens;
mod seed_files;
mod seeds;
mod session;
mod settings;
mod shutdown;
mod snapshots;
mod start;
mod steps;
mod trim;
mod undefine;
mod update;
mod uses;
mod volume_owners;
mod volumes;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use log::warn;

pub use args::{is_dry_run, timeout, wants_job};
pub use bridges::{is_missing as is_bridge_missing, of_domain as bridges_of};
pub use create::new_domain;
pub use error::{AgentUnavailable, Error};
pub use health::{Health, HealthStatus};
pub use host_start::HostStart;
pub use host_stop::Stopped;
pub use lifecycle::get_state;
pub use opener::Opener;
pub use plan::{OperationPlan, Problem};
pub use promised::CommittedMemory;
pub use question::{Posting, Question};
pub use recovery::{Leftover, Reconciler, StorageStatus};
pub use session::Session;
pub use steps::{Step, Steps, Wait};

use crate::config::fixed::{FROZEN_GUESTS, HEALTH_FRESH};
use crate::config::{BridgeType, Config, Deadlines, HostConfig, MetricsConfig, PoolLimits};
use crate::events::Events;
use crate::guest::domain::VirDomain;
use crate::guest::wire::{Guest, GuestResponse};
use crate::guest::xml;
use crate::jobs::{Jobs, reached};
use crate::journal::{self, Journal, Scope};
use crate::libvirt::{self, Connection, Domain, XmlKind};
use crate::metrics::{Calls, Sampler};
use crate::ops::agents::GuestAgents;
use crate::ops::clocks::Clocks;
use crate::ops::events::{EventListener, EventTargets, GuestLimits};
use crate::ops::fetches::Fetches;
use crate::ops::freezes::Freezes;
use crate::ops::recovery::StatusCache;
use crate::ops::seeds::SeedKey;
use crate::ops::uses::PathUses;
use crate::os::resolve::TrustedUsers;
use crate::pool::{GuestLock, Job, JobName, Lane, Pool};
use crate::storage::{self, Volumes};
use watch::Watch;

/// The agent: its pool of libvirt connections and the methods that run on them.
pub struct Libvirt {
    pool: Arc<Pool<Session>>,
    opener: Arc<Opener>,
    volumes: Arc<dyn Volumes>,
    journal: Arc<Journal>,
    jobs: Arc<Jobs>,
    fetches: Fetches,
    status: StatusCache,
    seed_key: SeedKey,
    /// The directory of the agent's persistent state.
    state_dir: Option<PathBuf>,
    agents: Arc<GuestAgents>,
    freezes: Arc<Freezes>,
    sampler: Sampler,
    events: Arc<Events>,
    _listening: EventListener,
    limits: Arc<GuestLimits>,
    uses: Arc<PathUses>,
    calls: Calls,
    metrics: MetricsConfig,
    /// Whether libvirt has no processor times by host processor.
    without_cpu_stats: Arc<AtomicBool>,
    host: HostConfig,
    deadlines: Deadlines,
}

impl Libvirt {
    /// Creates an agent for the libvirt at `uri` and the disks of the ZFS pool `zpool`, with defaults for everything
    /// else (the owner's `NewLibvirt`).
    ///
    /// Each of the three lanes that call libvirt has `max` workers with a connection each: one lane changes guests, one
    /// reads, and one destroys guests, which waits for neither of the others. Therefore up to three times `max`
    /// connections are open, and `max` calls of a kind run at once.
    ///
    /// # Errors
    /// If `max` is 0; as [`Libvirt::with_config`].
    pub fn new(uri: &str, zpool: &str, max: usize) -> io::Result<Self> {
        if max == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "max must be at least 1"));
        }
        let host = HostConfig {
            libvirt_uri: uri.to_owned(),
            zpool: zpool.to_owned(),
            ..HostConfig::default()
        };
        let pool = PoolLimits {
            control_workers: max,
            read_workers: max,
            urgent_workers: max,
            ..PoolLimits::default()
        };
        Self::with_config(&Config { host, pool, ..Config::default() })
    }

    /// Creates an agent for the host that the configuration describes.
    ///
    /// The agent opens connections when it first needs them, so libvirtd may start later. Without a state directory,
    /// the agent does not undo what a crash leaves.
    ///
    /// # Errors
    /// As [`libvirt::start`] and [`Journal::open`]; if the system refuses the pool's threads.
    pub fn with_config(config: &Config) -> io::Result<Self> {
        libvirt::start().map_err(io::Error::other)?;
        let journal = Arc::new(open_journal(config).map_err(io::Error::other)?);
        // After the journal's lock: no other agent may lock the file of commands.
        let commands = journal.commands().map_err(io::Error::other)?;
        let volumes = storage::open(&config.host, &config.storage, TrustedUsers::own(), commands);
        let volumes = volumes.map_err(io::Error::other)?;
        let jobs = Arc::new(jobs::open(config, &journal).map_err(io::Error::other)?);
        let health = Arc::new(Health::new(config.watch.answer));
        // One more for the watch, the fast samples and the events each, the rest for slow samples and freezes.
        let askers = config.pool.libvirt_callers() + 4 + config.metrics.slow_late_calls;
        let askers = askers + FROZEN_GUESTS;
        let uri = &config.host.libvirt_uri;
        let opener = Arc::new(Opener::start(uri, health, askers, &config.watch)?);
        let asked = Arc::clone(&opener);
        let pool = Arc::new(Pool::new(&config.pool, move |_| Session::new(Arc::clone(&asked)))?);
        let events = Arc::new(Events::new(&config.events));
        let (limits, uses) = (Arc::<GuestLimits>::default(), Arc::<PathUses>::default());
        let reported = Arc::clone(&uses);
        pool.on_release(move |guest| reported.changed(guest));
        let agents = Arc::new(GuestAgents::new(config.metrics.filesystems));
        let freezes = Freezes::new(&opener, &agents, &journal);
        let has_nat = matches!(config.host.bridge_type, BridgeType::Nat(_));
        let listeners = EventTargets {
            limits: Arc::clone(&limits),
            uses: Arc::clone(&uses),
            agents: Arc::clone(&agents),
            freezes: Arc::clone(&freezes),
            clocks: Clocks::start(&pool, &opener, &agents, &events, has_nat)?,
        };
        freezes.resume();
        Watch::start(&pool, &opener, &events, &config.pool, config.watch.pause)?;
        Ok(Self {
            sampler: samples::start(&config.metrics, &opener, &pool, &events)?,
            _listening: EventListener::start(&events, &opener, listeners)?,
            limits,
            uses,
            events,
            pool,
            opener,
            fetches: Fetches::start(config, &volumes)?,
            volumes,
            journal,
            jobs,
            status: StatusCache::default(),
            agents,
            freezes,
            seed_key: SeedKey::new(config.state_dir.clone()),
            state_dir: config.state_dir.clone(),
            calls: Calls::default(),
            metrics: config.metrics.clone(),
            without_cpu_stats: Arc::default(),
            host: config.host.clone(),
            deadlines: config.deadlines.clone(),
        })
    }

    /// Returns the time limits of calls.
    pub fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Returns the configuration of the host.
    pub fn host(&self) -> &HostConfig {
        &self.host
    }

    /// Returns what the agent last saw of libvirt, from memory. An old answer starts a refresh.
    pub fn libvirt_seen(&self) -> HealthStatus {
        self.status.refresh(HEALTH_FRESH);
        self.opener.health().seen()
    }

    /// Returns what the agent last saw of libvirt, and starts no refresh.
    pub fn libvirt_last_seen(&self) -> HealthStatus {
        self.opener.health().seen()
    }

    /// Returns the unfinished changes that the agent could not recover yet, from memory.
    pub fn open_intents(&self) -> Vec<journal::Summary> {
        self.journal.open_intents()
    }

    /// Returns the leftovers that the agent could not remove, from memory.
    pub fn left_intents(&self) -> Vec<journal::Summary> {
        self.journal.leftovers()
    }

    /// Returns the pool. Metrics read its figures; tests also fill its lanes.
    pub fn pool(&self) -> &Pool<Session> {
        &self.pool
    }

    /// Thaws frozen guests and stops the pool. Running and waiting jobs get up to `grace` to end; returns whether all
    /// of them did.
    ///
    /// # Blocking
    /// Up to `grace`, and some seconds more if a guest cannot be thawed.
    pub fn stop(&self, grace: Duration) -> bool {
        self.freezes.stop(grace);
        let ended = self.pool.stop(grace);
        for lane in self.pool.snapshot().lanes {
            if let Some(stuck) = lane.oldest {
                let age = stuck.age.as_secs();
                warn!("{} is still running after {age} s; stopping without it", stuck.what);
            }
        }
        ended
    }

    /// Runs a job that changes nothing. It may therefore run again if its connection breaks.
    fn read<T: Send + 'static>(
        &self,
        lane: Lane,
        verb: &str,
        id: &str,
        deadline: Instant,
        work: impl FnMut(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let work = move |session: &mut Session| session.read(work);
        self.once(lane, JobName::new(verb, id), deadline, work)
    }

    /// Acquires the guest lock and runs a job on the control lane.
    fn change<T: Send + 'static>(
        &self,
        verb: &str,
        id: &str,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let lock = self.lock_guest(id, deadline)?;
        self.run_locked(verb, deadline, &lock, work, |_, _| {})
    }

    /// Runs a job on the control lane for a method that holds the guest lock. If the job ends after its deadline, when
    /// its caller has its answer, `late` gets the outcome, still under the lock.
    fn run_locked<T: Send + 'static>(
        &self,
        verb: &str,
        deadline: Instant,
        lock: &GuestLock,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
        late: impl FnOnce(&mut Session, Result<T, Error>) + Send + 'static,
    ) -> Result<T, Error> {
        self.opener.health().may_answer()?;
        let job = Job { name: JobName::new(verb, lock.guest()), deadline };
        reached(&job.name);
        self.pool.run_or_else(Lane::Control, job, Some(lock), started(deadline, work), late)?
    }

    /// Runs a job on the urgent lane without the guest lock: destroying the domain frees a method that hangs.
    fn urgent<T: Send + 'static>(
        &self,
        verb: &str,
        id: &str,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.once(Lane::Urgent, JobName::new(verb, id), deadline, work)
    }

    /// Runs a job without the guest lock; refuses it while the same job is stuck or late. A guest whose emulator hangs
    /// therefore occupies no further worker, however often callers ask for it.
    fn once<T: Send + 'static>(
        &self,
        lane: Lane,
        name: JobName,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let job = self.may_ask(lane, name, deadline)?;
        self.pool.run(lane, job, None, started(deadline, work))?
    }

    /// Checks that [`Self::once`] may run a job, and returns that job.
    ///
    /// # Errors
    /// If libvirt is silent, or the same job is stuck or late.
    fn may_ask(&self, lane: Lane, name: JobName, deadline: Instant) -> Result<Job, Error> {
        self.opener.health().may_answer()?;
        let job = Job { name, deadline };
        reached(&job.name);
        self.pool.not_overdue(lane, &job.name)?;
        Ok(job)
    }

    fn read_deadline(&self, args: &BTreeMap<String, String>) -> Result<Instant, Error> {
        args::deadline(args, self.deadlines.read)
    }

    /// Returns the deadline of a change that starts now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong option in `args`.
    pub fn change_deadline(&self, args: &BTreeMap<String, String>) -> Result<Instant, Error> {
        args::deadline(args, self.deadlines.change)
    }
}

/// Opens the journal in the configured directory; without one, a journal in memory.
fn open_journal(config: &Config) -> Result<Journal, journal::Error> {
    let scope = Scope::from(&config.host);
    match &config.state_dir {
        Some(directory) => Journal::open(directory, scope, &config.journal),
        None => Ok(Journal::in_memory(scope, &config.journal)),
    }
}

/// Wraps a job's work, so that it waits for a connection no longer than its caller waits for the job.
fn started<T>(
    deadline: Instant,
    work: impl FnOnce(&mut Session) -> T,
) -> impl FnOnce(&mut Session) -> T {
    move |session| {
        session.begin(deadline);
        work(session)
    }
}

/// Returns the request's guest. The methods of the owner's wrapper need a guest with an id.
fn named_guest(guest: Option<Guest>) -> Result<Guest, Error> {
    guest.filter(|guest| !guest.id.is_empty()).ok_or(Error::NoGuest)
}

/// Reads the definition of a domain. One round trip.
fn described(domain: &Domain, kind: XmlKind) -> Result<VirDomain, Error> {
    VirDomain::from_xml(&domain.xml(kind)?).map_err(unreadable)
}

fn unreadable(error: xml::Error) -> Error {
    Error::Invalid(format!("cannot parse the domain XML from libvirt: {error}"))
}

fn respond(guest: Guest) -> GuestResponse {
    GuestResponse { guest: Some(guest), ..GuestResponse::default() }
}
