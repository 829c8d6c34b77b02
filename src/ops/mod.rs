//! The verbs: what "create a guest" means, step by step, and how each step is taken back.
//!
//! A verb checks its request, takes the guest's key if it changes anything, and runs as one job on
//! a pool worker that owns a libvirt connection. No libvirt handle leaves its worker; what comes
//! back is data. Nothing here knows HTTP or JSON.

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
pub use error::{Error, LeftAlone};
pub use health::{Health, Seen};
pub use host_start::HostStart;
pub use host_stop::Stopped;
pub use lifecycle::get_state;
pub use opener::Opener;
pub use plan::{Forecast, Problem};
pub use promised::Promised;
pub use question::{Posting, Question};
pub use recovery::{Leftover, Reconciler, StorageSeen};
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
use crate::ops::agents::Agents;
use crate::ops::clocks::Clocks;
use crate::ops::events::{GuestLimits, Listeners, Listening};
use crate::ops::fetches::Fetches;
use crate::ops::freezes::Freezes;
use crate::ops::recovery::StatusCache;
use crate::ops::seeds::SeedKey;
use crate::ops::uses::Uses;
use crate::os::resolve::Trusted;
use crate::pool::{Hold, Job, JobName, Lane, Pool};
use crate::storage::{self, Volumes};
use watch::Watch;

/// The agent: its pool of libvirt connections and the verbs on them.
pub struct Libvirt {
    pool: Arc<Pool<Session>>,
    opener: Arc<Opener>,
    volumes: Arc<dyn Volumes>,
    journal: Arc<Journal>,
    jobs: Arc<Jobs>,
    fetches: Fetches,
    status: StatusCache,
    seed_key: SeedKey,
    /// Where the agent keeps what it must not forget.
    state_dir: Option<PathBuf>,
    agents: Arc<Agents>,
    freezes: Arc<Freezes>,
    sampler: Sampler,
    events: Arc<Events>,
    _listening: Listening,
    limits: Arc<GuestLimits>,
    uses: Arc<Uses>,
    calls: Calls,
    metrics: MetricsConfig,
    /// libvirt knows no processor times by host processor.
    without_cpu_stats: Arc<AtomicBool>,
    host: HostConfig,
    deadlines: Deadlines,
}

impl Libvirt {
    /// An agent for the libvirt at `uri` and the disks of the ZFS pool `zpool`, all else as by
    /// default (the owner's `NewLibvirt`).
    ///
    /// Each of the three lanes that call libvirt has `max` workers with a connection each: verbs
    /// that change guests, reads, and destroying, which waits for neither. So up to three times
    /// `max` connections are open, and `max` calls of a kind run at once.
    ///
    /// # Errors
    /// When `max` is 0; as [`Libvirt::with_config`].
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

    /// An agent for the host that the configuration describes. Connections are opened when first
    /// needed: libvirtd may come later. Without a folder for its state what a crash leaves is not
    /// undone.
    ///
    /// # Errors
    /// As [`libvirt::start`] and [`Journal::open`]; when the system refuses the pool's threads.
    pub fn with_config(config: &Config) -> io::Result<Self> {
        libvirt::start().map_err(io::Error::other)?;
        let journal = Arc::new(open_journal(config).map_err(io::Error::other)?);
        // Behind the journal's lock: no other agent may lock the file of commands.
        let commands = journal.commands().map_err(io::Error::other)?;
        let volumes = storage::open(&config.host, &config.storage, Trusted::own(), commands);
        let volumes = volumes.map_err(io::Error::other)?;
        let jobs = Arc::new(jobs::open(config, &journal).map_err(io::Error::other)?);
        let health = Arc::new(Health::new(config.watch.answer));
        // One more for the watch, one for fast samples, one for events, and all of slow samples and freezes.
        let askers = config.pool.libvirt_callers() + 4 + config.metrics.slow_late_calls;
        let askers = askers + FROZEN_GUESTS;
        let uri = &config.host.libvirt_uri;
        let opener = Arc::new(Opener::start(uri, health, askers, &config.watch)?);
        let asked = Arc::clone(&opener);
        let pool = Arc::new(Pool::new(&config.pool, move |_| Session::new(Arc::clone(&asked)))?);
        let events = Arc::new(Events::new(&config.events));
        let (limits, uses) = (Arc::<GuestLimits>::default(), Arc::<Uses>::default());
        let told = Arc::clone(&uses);
        pool.on_release(move |guest| told.changed(guest));
        let agents = Arc::new(Agents::new(config.metrics.filesystems));
        let freezes = Freezes::new(&opener, &agents, &journal);
        let has_nat = matches!(config.host.bridge_type, BridgeType::Nat(_));
        let listeners = Listeners {
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
            _listening: Listening::start(&events, &opener, listeners)?,
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

    /// How long calls may take.
    pub fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Returns the configuration of the host.
    pub fn host(&self) -> &HostConfig {
        &self.host
    }

    /// What was last seen of libvirt. From memory; an old answer causes another look.
    pub fn libvirt_seen(&self) -> Seen {
        self.status.refresh(HEALTH_FRESH);
        self.opener.health().seen()
    }

    /// The same, and whoever asks causes nothing.
    pub fn libvirt_last_seen(&self) -> Seen {
        self.opener.health().seen()
    }

    /// What verbs left open and nobody could recover yet. From memory.
    pub fn open_intents(&self) -> Vec<journal::Summary> {
        self.journal.open_intents()
    }

    /// What verbs left over and the agent could not remove. From memory.
    pub fn left_intents(&self) -> Vec<journal::Summary> {
        self.journal.leftovers()
    }

    /// The pool, for its figures; tests also fill its lanes.
    pub fn pool(&self) -> &Pool<Session> {
        &self.pool
    }

    /// Thaws frozen guests and ends the pool: what runs or waits is finished for up to `grace`; `true` when all of it
    /// was.
    ///
    /// # Blocking
    /// Up to `grace`, and some seconds more where a guest cannot be thawed.
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

    /// One job that changes nothing, and so may run twice where a connection breaks under it.
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

    /// One job on the control lane under the guest's key.
    fn change<T: Send + 'static>(
        &self,
        verb: &str,
        id: &str,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let hold = self.hold(id, deadline)?;
        self.held(verb, deadline, &hold, work, |_, _| {})
    }

    /// One job on the control lane of a verb that holds the key of its guest. An outcome that comes
    /// after the caller was told that it is late goes to `late`, still under the key.
    fn held<T: Send + 'static>(
        &self,
        verb: &str,
        deadline: Instant,
        hold: &Hold,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
        late: impl FnOnce(&mut Session, Result<T, Error>) + Send + 'static,
    ) -> Result<T, Error> {
        self.opener.health().may_answer()?;
        let job = Job { name: JobName::new(verb, hold.key()), deadline };
        reached(&job.name);
        self.pool.run_or_else(Lane::Control, job, Some(hold), begun(deadline, work), late)?
    }

    /// One job on the urgent lane, past the guest's key: destroying frees a verb that hangs.
    fn urgent<T: Send + 'static>(
        &self,
        verb: &str,
        id: &str,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.once(Lane::Urgent, JobName::new(verb, id), deadline, work)
    }

    /// One job without the guest's key; refused as long as the same is stuck or late. So a guest
    /// whose emulator hangs takes no more workers, however often it is asked about.
    fn once<T: Send + 'static>(
        &self,
        lane: Lane,
        name: JobName,
        deadline: Instant,
        work: impl FnOnce(&mut Session) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let job = self.may_ask(lane, name, deadline)?;
        self.pool.run(lane, job, None, begun(deadline, work))?
    }

    /// The job of [`Self::once`].
    ///
    /// # Errors
    /// Where it is not to be begun now.
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

    /// Until when a change may take that begins now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for words in `args` that do not say so.
    pub fn change_deadline(&self, args: &BTreeMap<String, String>) -> Result<Instant, Error> {
        args::deadline(args, self.deadlines.change)
    }
}

/// The journal in the configured folder, else one that ends with the process.
fn open_journal(config: &Config) -> Result<Journal, journal::Error> {
    let scope = Scope::from(&config.host);
    match &config.state_dir {
        Some(folder) => Journal::open(folder, scope, &config.journal),
        None => Ok(Journal::in_memory(scope, &config.journal)),
    }
}

/// A job's work, which waits for a connection no longer than its caller waits for it.
fn begun<T>(
    deadline: Instant,
    work: impl FnOnce(&mut Session) -> T,
) -> impl FnOnce(&mut Session) -> T {
    move |session| {
        session.begin(deadline);
        work(session)
    }
}

/// The request's guest; the wrapped verbs want one with an id.
fn named_guest(guest: Option<Guest>) -> Result<Guest, Error> {
    guest.filter(|guest| !guest.id.is_empty()).ok_or(Error::NoGuest)
}

/// What libvirt says of a domain. One round trip.
fn described(domain: &Domain, kind: XmlKind) -> Result<VirDomain, Error> {
    VirDomain::from_xml(&domain.xml(kind)?).map_err(unreadable)
}

fn unreadable(error: xml::Error) -> Error {
    Error::Invalid(format!("cannot parse the domain XML from libvirt: {error}"))
}

fn respond(guest: Guest) -> GuestResponse {
    GuestResponse { guest: Some(guest), ..GuestResponse::default() }
}
