//! The whole agent in this process, so that a test can fill the pool's lanes with jobs of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use mistify_libvirt::config::{Config, Deadlines};
use mistify_libvirt::http::api::routes;
use mistify_libvirt::http::{Counters, Front, Running};
use mistify_libvirt::libvirt;
use mistify_libvirt::ops::Libvirt;
use mistify_libvirt::pool::{Job, JobName, Lane};
use mistify_libvirt::rpc::{Audit, Service, Workers};

use super::support::wait_until;

/// Longer than any test takes: a worker whose job takes longer is replaced by another.
const PATIENCE: Duration = Duration::from_secs(300);

/// An agent that serves guests.
pub(crate) struct InProcess {
    pub(crate) agent: Arc<Libvirt>,
    pub(crate) address: SocketAddr,
    running: Running,
    jobs: Workers,
}

impl InProcess {
    /// Returns the default configuration, on libvirt's test driver and a port that the system chooses.
    pub(crate) fn config() -> Config {
        let mut config = Config::default();
        config.host.libvirt_uri = "test:///default".to_owned();
        config.listen = vec!["127.0.0.1:0".parse().expect("an address")];
        // So that no call is late because the machine is loaded.
        config.deadlines = Deadlines { read: PATIENCE, change: PATIENCE };
        config
    }

    pub(crate) fn start(config: &Config) -> Self {
        libvirt::start().expect("libvirt is there");
        let agent = Arc::new(Libvirt::with_config(config).expect("threads"));
        let mut front = Front::bind(&config.listen, config.http.clone()).expect("a free port");
        front.begin_short(routes::short());
        let address = front.local_addresses()[0];
        let audit = Arc::new(Audit::open(&config.audit).expect("scratch is writable"));
        let jobs = Workers::start(&agent, &audit).expect("threads");
        let handler = routes::handler(Arc::clone(&agent), audit, Service::Libvirt, [].into());
        let running = front.start(handler).expect("threads");
        Self { agent, address, running, jobs }
    }

    /// Returns the HTTP counters.
    pub(crate) fn counters(&self) -> Counters {
        self.running.counters()
    }

    /// Keeps all workers of a lane busy until the returned sender is dropped.
    pub(crate) fn occupy(&self, lane: Lane) -> Sender<()> {
        let (occupied, release) = bounded::<()>(0);
        let workers = |agent: &Libvirt| {
            agent
                .core
                .pool()
                .snapshot()
                .lanes
                .into_iter()
                .find(|it| it.lane == lane)
                .expect("it is one")
        };
        for index in 0..workers(&self.agent).workers {
            let (agent, release) = (Arc::clone(&self.agent), release.clone());
            std::thread::spawn(move || {
                let name = JobName::new("occupy", index.to_string());
                let job = Job { name, deadline: Instant::now() + PATIENCE };
                // Ends when the test drops the sender.
                agent.core.pool().run(lane, job, None, move |_| release.recv())
            });
        }
        wait_until("all workers are busy", PATIENCE, || {
            let seen = workers(&self.agent);
            seen.running == seen.workers
        });
        occupied
    }

    /// Returns the number of jobs that wait in a lane.
    pub(crate) fn queued(&self, lane: Lane) -> usize {
        let lanes = self.agent.core.pool().snapshot().lanes.into_iter();
        lanes.filter(|it| it.lane == lane).map(|it| it.queued).sum()
    }

    pub(crate) fn end(self) {
        self.jobs.request_stop();
        assert!(self.running.stop(PATIENCE));
        assert!(self.jobs.stop(Instant::now() + PATIENCE) && self.agent.stop(PATIENCE));
    }
}
