//! Opens the parts of the agent and starts their threads; stops both.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use crate::config::fixed::FROZEN_GUESTS;
use crate::config::{BridgeType, Config, HostConfig, PoolLimits};
use crate::events::Events;
use crate::journal::{self, Journal, Scope};
use crate::metrics::Calls;
use crate::ops::disks::path_uses::PathUses;
use crate::ops::event_subscription::{EventListener, EventTargets, GuestLimits};
use crate::ops::guest_agent::clocks::Clocks;
use crate::ops::guest_agent::freezes::Freezes;
use crate::ops::guest_agent::turns::GuestAgents;
use crate::ops::guests::seeds::SeedKey;
use crate::ops::hypervisor::hung_calls::Watch;
use crate::ops::images::fetches::Fetches;
use crate::ops::recovery::StatusCache;
use crate::ops::telemetry::samples;
use crate::ops::{Core, Guests, Health, Images, Libvirt, Opener, Session, Telemetry, jobs};
use crate::os::resolve::TrustedUsers;
use crate::pool::Pool;
use crate::{libvirt, storage};

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
        // The four are the watch, the fast samples, the events and one to spare.
        let askers = config.pool.libvirt_callers() + 4 + config.metrics.slow_late_calls;
        let askers = askers + FROZEN_GUESTS;
        let uri = &config.host.libvirt_uri;
        let opener = Arc::new(Opener::start(uri, health, askers, &config.watch)?);
        let session_opener = Arc::clone(&opener);
        let pool =
            Arc::new(Pool::new(&config.pool, move |_| Session::new(Arc::clone(&session_opener)))?);
        let events = Arc::new(Events::new(&config.events));
        let (limits, uses) = (Arc::<GuestLimits>::default(), Arc::<PathUses>::default());
        let path_uses = Arc::clone(&uses);
        pool.on_release(move |guest| path_uses.changed(guest));
        let agents = Arc::new(GuestAgents::new(config.metrics.filesystems));
        let freezes = Freezes::new(&opener, &agents, &journal);
        let has_nat = matches!(config.host.bridge_type, BridgeType::Nat(_));
        let targets = EventTargets {
            limits: Arc::clone(&limits),
            uses: Arc::clone(&uses),
            agents: Arc::clone(&agents),
            freezes: Arc::clone(&freezes),
            clocks: Clocks::start(&pool, &opener, &agents, &events, has_nat)?,
        };
        freezes.resume();
        Watch::start(&pool, &opener, &events, &config.pool, config.watch.pause)?;
        let sampler = Arc::new(samples::start(&config.metrics, &opener, &pool, &events)?);
        let event_listener = EventListener::start(&events, &opener, targets)?;
        let fetches = Fetches::start(config, &volumes)?;
        let core = Arc::new(Core {
            pool,
            opener,
            volumes,
            journal,
            jobs,
            status: StatusCache::default(),
            seed_key: SeedKey::new(config.state_dir.clone()),
            events,
            uses,
            host: config.host.clone(),
            deadlines: config.deadlines.clone(),
        });
        Ok(Self {
            guests: Guests {
                core: Arc::clone(&core),
                agents: Arc::clone(&agents),
                freezes,
                limits: Arc::clone(&limits),
            },
            images: Images { core: Arc::clone(&core), fetches },
            telemetry: Telemetry {
                core: Arc::clone(&core),
                sampler,
                calls: Calls::default(),
                metrics: config.metrics.clone(),
                without_cpu_stats: Arc::default(),
                agents,
                limits,
            },
            core,
            _event_listener: event_listener,
        })
    }

    /// Thaws frozen guests and stops the pool. Running and waiting jobs get up to `grace` to end; returns whether all
    /// of them did.
    ///
    /// # Blocking
    /// Up to `grace`, and some seconds more if a guest cannot be thawed.
    pub fn stop(&self, grace: Duration) -> bool {
        self.guests.freezes.stop(grace);
        let ended = self.core.pool.stop(grace);
        for lane in self.core.pool.snapshot().lanes {
            if let Some(stuck) = lane.oldest {
                let age = stuck.age.as_secs();
                warn!("{} is still running after {age} s; stopping without it", stuck.what);
            }
        }
        ended
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
