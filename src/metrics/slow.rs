//! The slow tier: values that only emulators have, in one call at a time on a connection of its own.
//!
//! A call to an emulator that hangs does not return and cannot be cancelled. The tier leaves it with its
//! thread and connection, and makes another call on a new connection. In that call libvirt reports at
//! once which guest it cannot query, because the first call still occupies that guest. The guest is left
//! out until the first call returns. If the first call was only slow, its result is used all the same.
//!
//! An emulator that is stopped is not queried at all, so that no call hangs on it and holds libvirt's
//! lock of the guest. An emulator that waits in the kernel is queried, because it mostly waits for its
//! disk and continues at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use log::{Level, debug, error, info, log, warn};

use crate::config::MetricsConfig;
use crate::guest::domain::VirDomain;
use crate::guest::hardware::BALLOON_PERIOD_S;
use crate::libvirt::{self, Connection, Domain, Groups, XmlKind};
use crate::metrics::kernel;
use crate::metrics::latest::{Omission, Shared, Slow};
use crate::metrics::lazy_connection::{LazyConnection, Open, guarded};
use crate::metrics::sample::{SlowGuest, is_whole, slow_guest};
use crate::sorted::{IntoSorted, Table};

/// Returns the names of the guests that are being changed now.
pub type Changing = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Called for each guest whose emulator stops answering (`true`), and when the emulator answers again or
/// has ended.
pub type StuckCallback = Arc<dyn Fn(&str, bool) + Send + Sync>;

/// Starts the thread, which takes a sample for each request and ends when the channel of requests
/// closes.
///
/// # Errors
/// When the system cannot start a thread.
pub(super) fn start(
    shared: Arc<Shared>,
    open: Open,
    changing: Changing,
    on_stuck: StuckCallback,
    wanted: Receiver<()>,
) -> io::Result<()> {
    let mut tier = Tier {
        answers: bounded(shared.limits.slow_late_calls),
        shared,
        open,
        changing,
        on_stuck,
        idle: None,
        query_threads: 0,
        pending: Vec::new(),
        stopped: BTreeSet::new(),
        known: Slow::default(),
    };
    let work = move || {
        while tier.next(&wanted) {
            tier.sample();
            tier.shared.slow_ended(tier.known.clone());
        }
    };
    thread::Builder::new().name("metrics-slow".to_owned()).spawn(work)?;
    Ok(())
}

struct Tier {
    shared: Arc<Shared>,
    open: Open,
    changing: Changing,
    on_stuck: StuckCallback,
    /// The channel for the answers of all query threads; each has at most one answer in it.
    answers: (Sender<QueryOutcome>, Receiver<QueryOutcome>),
    /// A query thread that is ready for a call.
    idle: Option<QueryThread>,
    /// The number of query threads started so far.
    query_threads: u64,
    /// Calls that have not returned.
    pending: Vec<PendingQuery>,
    /// Guests whose emulators were stopped at the last sample: each sample checks again.
    stopped: BTreeSet<String>,
    known: Slow,
}

/// A call in flight.
struct PendingQuery {
    began: Instant,
    left_out: BTreeMap<String, Omission>,
    query_thread: QueryThread,
}

/// The outcome of a call, with the number of its query thread.
type QueryOutcome = (u64, Result<Answer, String>);

impl Tier {
    /// Waits for the next request; returns `false` when there will be none. Stores the results of late
    /// calls that return meanwhile, and drops the idle query thread after a time.
    fn next(&mut self, wanted: &Receiver<()>) -> bool {
        let answers = self.answers.1.clone();
        loop {
            let idle_timeout = match &self.idle {
                Some(_) => after(self.shared.limits.idle),
                None => never(),
            };
            select! {
                recv(wanted) -> request => return request.is_ok(),
                recv(answers) -> outcome => {
                    outcome.into_iter().for_each(|outcome| self.complete(outcome));
                    self.shared.slow_so_far(self.known.clone());
                }
                recv(idle_timeout) -> _ => self.idle = None,
            }
        }
    }

    /// Takes one sample, from the first call that returns. When a call is late, another query thread makes
    /// the next call, with twice the timeout.
    fn sample(&mut self) {
        while let Ok(outcome) = self.answers.1.try_recv() {
            self.complete(outcome);
        }
        let mut patience = self.patience();
        while self.pending.len() < self.shared.limits.slow_late_calls {
            if let Err(error) = self.ask() {
                warn!("metrics: cannot start a thread: {error}");
                return;
            }
            if let Ok(outcome) = self.answers.1.recv_timeout(patience) {
                self.complete(outcome);
                return;
            }
            let seconds = patience.as_secs_f64();
            warn!("metrics: slow sample exceeded {seconds:.1} s; retrying on another connection");
            self.known.late += 1;
            self.known.late_now = self.pending.len();
            self.shared.slow_so_far(self.known.clone());
            patience *= 2;
        }
        error!(
            "metrics: no slow samples while {} calls wait for emulators that do not answer",
            self.pending.len()
        );
    }

    /// Returns the timeout of a sample's first call: longer if the last sample took long.
    fn patience(&self) -> Duration {
        let limits = &self.shared.limits;
        let guests = u32::try_from(self.shared.guest_count()).unwrap_or(u32::MAX);
        let common = limits.slow_late + limits.slow_late_each.saturating_mul(guests);
        common.max((2 * self.known.took).min(2 * limits.slow_late))
    }

    /// Starts a call on a query thread.
    ///
    /// # Errors
    /// When there is no idle query thread and the system cannot start a thread.
    fn ask(&mut self) -> io::Result<()> {
        let left_out = self.leave_out();
        let query_thread = match self.idle.take() {
            Some(query_thread) => query_thread,
            None => {
                self.query_threads += 1;
                let (open, answer) = (Arc::clone(&self.open), self.answers.0.clone());
                QueryThread::start(self.query_threads, open, answer, &self.shared.limits)?
            }
        };
        // The channel is not full: an idle query thread has answered its last call.
        let _ = query_thread.requests.try_send(left_out.keys().cloned().into_set());
        self.pending.push(PendingQuery { began: Instant::now(), left_out, query_thread });
        Ok(())
    }

    /// Stores the outcome of a call; its query thread is idle again.
    fn complete(&mut self, (number, outcome): QueryOutcome) {
        let Some(index) = self.pending.iter().position(|query| query.query_thread.number == number)
        else {
            return;
        };
        let PendingQuery { began, left_out, query_thread } = self.pending.swap_remove(index);
        self.idle = Some(query_thread);
        self.known.late_now = self.pending.len();
        match outcome {
            // A late call may have older values than the last sample.
            Ok(answer) if self.known.at.is_none_or(|at| at < began) => {
                self.note(began, answer, left_out);
            }
            Ok(_) => info!("metrics: a late call returned"),
            Err(why) => {
                debug!("metrics: slow sample failed: {why}");
                self.known.failed += 1;
            }
        }
    }

    fn leave_out(&self) -> BTreeMap<String, Omission> {
        let mut names = BTreeMap::new();
        let hang = || self.known.stuck.keys().filter(|name| !self.stopped.contains(*name));
        // A call hangs on one guest. If more guests are stuck than calls are late, some of them answer
        // again, or were only busy when they were queried. Then all are queried, and libvirt at once
        // refuses the guests that do hang.
        if hang().count() <= self.pending.len() {
            names.extend(hang().map(|name| (name.clone(), Omission::Stuck)));
        }
        names.extend((self.changing)().into_iter().map(|name| (name, Omission::Changing)));
        names
    }

    fn note(&mut self, began: Instant, answer: Answer, mut left_out: BTreeMap<String, Omission>) {
        let (known, on_stuck) = (&mut self.known, &self.on_stuck);
        let since = self.pending.iter().map(|query| query.began).min().unwrap_or(began);
        for name in &answer.partial {
            known.stuck.entry(name.clone()).or_insert_with(|| {
                // Without a late call of the agent the guest may only be busy with another program's
                // call.
                let level = if self.pending.is_empty() { Level::Debug } else { Level::Warn };
                log!(level, "metrics: the emulator of {name} does not answer");
                on_stuck(name, true);
                since
            });
        }
        for name in &answer.stopped {
            known.stuck.entry(name.clone()).or_insert_with(|| {
                warn!("metrics: the emulator of {name} is stopped");
                on_stuck(name, true);
                began
            });
        }
        left_out.extend(answer.stopped.iter().map(|name| (name.clone(), Omission::Stuck)));
        known.stuck.retain(|name, _| {
            let is_left_out = left_out.contains_key(name) && answer.running.contains(name);
            let stays = is_left_out || answer.partial.contains(name);
            if !stays {
                info!("metrics: the emulator of {name} answers again, or has ended");
                on_stuck(name, false);
            }
            stays
        });
        self.stopped = answer.stopped;
        known.guests.extend(answer.guests);
        known.guests.retain(|name, _| answer.names.contains(name));
        known.metadata = answer.metadata;
        known.left_out = left_out;
        known.left_out.retain(|name, _| answer.names.contains(name));
        known.at = Some(began);
        known.took = began.elapsed();
        known.ended += 1;
    }
}

/// The result of one call.
struct Answer {
    guests: BTreeMap<String, SlowGuest>,
    /// All guests, including the ones left out.
    names: BTreeSet<String>,
    /// The running guests.
    running: BTreeSet<String>,
    /// The guests that were queried and could not answer.
    partial: BTreeSet<String>,
    /// The guests that were not queried, as their emulator is stopped.
    stopped: BTreeSet<String>,
    metadata: Table<String, Vec<String>>,
}

/// A thread with a connection that makes one call after the other. It ends when its channel of requests
/// closes.
struct QueryThread {
    number: u64,
    /// The names of guests to leave out.
    requests: Sender<BTreeSet<String>>,
}

impl QueryThread {
    fn start(
        number: u64,
        open: Open,
        answers: Sender<QueryOutcome>,
        limits: &MetricsConfig,
    ) -> io::Result<Self> {
        let (requests, asked) = bounded::<BTreeSet<String>>(1);
        let mut connection = LazyConnection::new(open);
        let mut metadata = Metadata::new(limits.metadata.clone(), limits.rare);
        let mut periods = Periods { may_touch: limits.may_touch, enabled: BTreeSet::new() };
        let pid_dir = limits.pid_dir.clone();
        let work = move || {
            for leave_out in asked {
                let outcome = guarded(|| {
                    connection.read(|connection| {
                        let known = (&mut metadata, &mut periods);
                        sample(connection, &leave_out, &pid_dir, known)
                    })
                });
                // The channel has room for every call in flight; it is closed when the tier has ended.
                let _ = answers.try_send((number, outcome));
            }
        };
        thread::Builder::new().name(format!("metrics-ask-{number}")).spawn(work)?;
        Ok(Self { number, requests })
    }
}

fn sample(
    connection: &Connection,
    leave_out: &BTreeSet<String>,
    pid_dir: &Path,
    (metadata, periods): (&mut Metadata, &mut Periods),
) -> Result<Answer, libvirt::Error> {
    let at = Instant::now();
    let (mut names, mut running) = (BTreeSet::new(), BTreeSet::new());
    let mut stopped = BTreeSet::new();
    let mut queried = Vec::new();
    for domain in connection.list_domains()? {
        let name = domain.name()?;
        let runs = domain.id().is_some();
        if runs {
            running.insert(name.clone());
        }
        if !leave_out.contains(&name) {
            metadata.look_at(&name, &domain, at);
            if runs && kernel::is_stopped(pid_dir, &name) {
                stopped.insert(name.clone());
            } else {
                queried.push(domain);
            }
        }
        names.insert(name);
    }
    metadata.keep(&names);
    let stats = connection.stats_of(&queried, Groups::MONITOR)?;
    let mut partial = BTreeSet::new();
    let mut guests = BTreeMap::new();
    for stats in &stats {
        if !is_whole(stats) {
            partial.insert(stats.name.clone());
            continue;
        }
        let mut guest = slow_guest(at, stats);
        for disk in guest.disks.values_mut() {
            disk.device = kernel::device_name(&disk.source);
        }
        guests.insert(stats.name.clone(), guest);
    }
    periods.enable(&queried, &guests);
    Ok(Answer { guests, names, running, partial, stopped, metadata: metadata.values() })
}

/// The guests in which memory statistics were enabled: other tools define guests without them.
struct Periods {
    may_touch: bool,
    /// Names and runs.
    enabled: BTreeSet<(String, u32)>,
}

impl Periods {
    /// Enables memory statistics, once per run, in each guest that has a balloon and has never reported
    /// its memory.
    fn enable(&mut self, domains: &[Domain], guests: &BTreeMap<String, SlowGuest>) {
        if !self.may_touch {
            return;
        }
        self.enabled.retain(|(name, run)| guests.get(name).is_some_and(|it| it.run == Some(*run)));
        for domain in domains {
            let Ok(name) = domain.name() else { continue };
            let Some(guest) = guests.get(&name) else { continue };
            let Some(run) = guest.run.filter(|_| guest.balloon.get("last-update") == Some(&0))
            else {
                continue;
            };
            if !self.enabled.insert((name.clone(), run)) {
                continue;
            }
            if let Err(error) = domain.set_memory_period(BALLOON_PERIOD_S) {
                debug!("metrics: cannot ask {name} for memory statistics: {error}");
            }
        }
    }
}

/// Metadata of guests; read again periodically.
struct Metadata {
    wanted: Vec<String>,
    rare: Duration,
    known: BTreeMap<String, (Instant, Vec<String>)>,
}

impl Metadata {
    fn new(wanted: Vec<String>, rare: Duration) -> Self {
        Self { wanted, rare, known: BTreeMap::new() }
    }

    /// Reads a guest's metadata, if any is configured and the cached values are old.
    fn look_at(&mut self, name: &str, domain: &Domain, now: Instant) {
        let is_fresh = |(at, _): &(Instant, _)| now < *at + self.rare;
        if self.wanted.is_empty() || self.known.get(name).is_some_and(is_fresh) {
            return;
        }
        let read = domain.xml(XmlKind::Inactive).ok();
        let Some(read) = read.and_then(|xml| VirDomain::from_xml(&xml).ok()) else { return };
        let parameters = &read.metadata.user_metadata.parameters;
        let value = |wanted: &String| {
            let found = parameters.iter().find(|parameter| parameter.name == *wanted);
            found.map(|parameter| parameter.value.clone()).unwrap_or_default()
        };
        let values = self.wanted.iter().map(value).collect();
        self.known.insert(name.to_owned(), (now, values));
    }

    fn keep(&mut self, names: &BTreeSet<String>) {
        self.known.retain(|name, _| names.contains(name));
    }

    fn values(&self) -> Table<String, Vec<String>> {
        self.known.iter().map(|(name, (_, values))| (name.clone(), values.clone())).into_table()
    }
}
