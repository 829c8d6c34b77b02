//! Freeze and Thaw: a guest writes nothing to its file systems while the caller takes a snapshot of its disks.
//!
//! Each freeze has its own thread and connection, so that no other guest and no other call delays its thaw. The thread
//! thaws the guest at the latest [`FREEZE_TIME`] after the start of the freeze. It also thaws after a failed or late
//! freeze, which may still take effect. The journal records the freeze before it starts, until the guest is thawed:
//! after a crash the next start of the agent thaws the guest.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, error, info, warn};
use parking_lot::{Condvar, Mutex};

use crate::config::fixed::{
    AGENT_COMMAND, FREEZE_TIME, FROZEN_GUESTS, THAW_PAUSE, THAW_PAUSE_MAX, THAW_REFUSALS, THAW_STOP,
};
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::journal::{Journal, Step, Verb};
use crate::libvirt::{Code, Connection, Domain, Topic};
use crate::ops::guest_agent::turns::{self, AgentGuard, FROZEN, GuestAgents};
use crate::ops::requests::{named_guest, respond};
use crate::ops::transaction::{Abort, Transaction};
use crate::ops::{AgentUnavailable, Error, Guests, Opener, Question};
use crate::pool::{self, JobName};

/// The transaction of a freeze of a former run of the agent, until its thread takes it.
type Resumed = Arc<Mutex<Option<Transaction>>>;

/// The guests that are frozen, or may be frozen.
pub(in crate::ops) struct Freezes {
    opener: Arc<Opener>,
    agents: Arc<GuestAgents>,
    journal: Arc<Journal>,
    all: Mutex<All>,
    /// Signals the end of a freeze.
    over: Condvar,
}

#[derive(Default)]
struct All {
    /// At most [`FROZEN_GUESTS`], plus those of a crashed agent.
    freezes: Vec<Arc<Freeze>>,
    /// Whether the agent stops, and refuses further freezes.
    is_stopping: bool,
}

/// One freeze: the state that its thread shares with waiting calls.
struct Freeze {
    guest: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The outcome of the freeze, until its caller takes it.
    frozen: Option<Result<(), Error>>,
    /// Whether the thread must thaw the guest now.
    wants_thaw: bool,
    /// Whether the thread is thawing the guest.
    is_thawing: bool,
    /// Why the last thaw failed, until a caller takes it.
    failed: Option<Error>,
    /// Whether the guest is thawed, or the thread has given up.
    is_over: bool,
}

impl Freeze {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    /// Waits until the guest is frozen; requests a thaw if it is not by `deadline`.
    fn wait_frozen(&self, deadline: Instant) -> Result<(), Error> {
        let began = Instant::now();
        let mut state = self.state.lock();
        loop {
            if let Some(frozen) = state.frozen.take() {
                return frozen;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                state.wants_thaw = true;
                drop(state);
                self.changed.notify_all();
                return Err(late("Freeze", &self.guest, began));
            }
        }
    }

    /// Requests a thaw, and waits for it.
    fn wait_thawed(&self, deadline: Instant) -> Result<(), Error> {
        let began = Instant::now();
        let mut state = self.state.lock();
        (state.wants_thaw, state.failed) = (true, None);
        self.changed.notify_all();
        loop {
            if state.is_over {
                return Ok(());
            }
            if let Some(why) = state.failed.take() {
                return Err(why);
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(late("Thaw", &self.guest, began));
            }
        }
    }

    /// Waits until `time`, or until a thaw is requested.
    fn wait(&self, time: Instant) {
        let mut state = self.state.lock();
        while !state.wants_thaw {
            if self.changed.wait_until(&mut state, time).timed_out() {
                break;
            }
        }
        state.wants_thaw = false;
    }
}

fn late(verb: &str, guest: &str, began: Instant) -> Error {
    let (what, waited) = (format!("{verb} {guest}"), began.elapsed());
    let running_since = SystemTime::now().checked_sub(waited).unwrap_or(SystemTime::UNIX_EPOCH);
    Error::Pool(pool::Error::Late { what, waited, running_since, age: waited })
}

impl Freezes {
    /// Creates a table without freezes; [`Freezes::resume`] adds those of the journal.
    pub(in crate::ops) fn new(
        opener: &Arc<Opener>,
        agents: &Arc<GuestAgents>,
        journal: &Arc<Journal>,
    ) -> Arc<Self> {
        Arc::new(Self {
            opener: Arc::clone(opener),
            agents: Arc::clone(agents),
            journal: Arc::clone(journal),
            all: Mutex::default(),
            over: Condvar::new(),
        })
    }

    /// Thaws the guests that a former run of the agent has frozen, each on its own thread. If a thread cannot start,
    /// the freeze is recovered like other changes.
    pub(in crate::ops) fn resume(self: &Arc<Self>) {
        for entry in self.journal.open_of_verb(Verb::Freeze) {
            let guest = entry.intent().guest.clone();
            warn!("thawing a guest that an earlier run of the agent has frozen; guest={guest:?}");
            let resumed = Resumed::new(Mutex::new(Some(Transaction::resume(&self.journal, entry))));
            let agent_guard = self.agents.agent_guard(&guest, FROZEN);
            let started = agent_guard
                .map_err(Error::AgentLeftAlone)
                .and_then(|agent_guard| self.start(&guest, agent_guard, Arc::clone(&resumed)));
            if let Err(why) = started {
                error!("cannot thaw: {why}; guest={guest:?}");
                if let Some(transaction) = resumed.lock().take() {
                    transaction.abort(Abort::recover(&why));
                }
            }
        }
    }

    /// Starts the thread of a freeze. A resumed freeze has started already, another starts now.
    fn start(
        self: &Arc<Self>,
        guest: &str,
        agent_guard: AgentGuard,
        resumed: Resumed,
    ) -> Result<Arc<Freeze>, Error> {
        let freeze = Arc::new(Freeze {
            guest: guest.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut all = self.all.lock();
        if all.is_stopping {
            return Err(Error::Pool(pool::Error::Stopping));
        }
        if resumed.lock().is_none() && all.freezes.len() >= FROZEN_GUESTS {
            return Err(Error::AgentLeftAlone(AgentUnavailable::Full));
        }
        all.freezes.push(Arc::clone(&freeze));
        drop(all);
        let guard = Guard { freezes: Arc::clone(self), freeze: Arc::clone(&freeze) };
        let thread = Thread { guard, agent_guard, connection: None, is_refused: false };
        let start = move || {
            let resumed = resumed.lock().take();
            thread.run(resumed);
        };
        let started = thread::Builder::new().name("guest-freeze".to_owned()).spawn(start);
        match started {
            Ok(_) => Ok(freeze),
            Err(error) => {
                warn!("cannot start a thread: {error}");
                Err(Error::AgentLeftAlone(AgentUnavailable::Full))
            }
        }
    }

    fn find(&self, guest: &str) -> Option<Arc<Freeze>> {
        self.all.lock().freezes.iter().find(|freeze| freeze.guest == guest).cloned()
    }

    /// Wakes the thread of a guest that is off, or whose guest agent has started: a failed thaw may succeed now.
    pub(in crate::ops) fn look(&self, guest: &str, is_off: bool) {
        if let Some(freeze) = self.find(guest) {
            freeze.change(|state| state.wants_thaw |= is_off || state.is_thawing);
        }
    }

    /// Thaws all guests, and refuses further freezes. The next start of the agent thaws the rest.
    ///
    /// # Blocking
    /// Up to `grace`, at most [`THAW_STOP`].
    pub(in crate::ops) fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace.min(THAW_STOP);
        let mut all = self.all.lock();
        all.is_stopping = true;
        all.freezes.iter().for_each(|freeze| freeze.change(|state| state.wants_thaw = true));
        while !all.freezes.is_empty() {
            if self.over.wait_until(&mut all, deadline).timed_out() {
                for freeze in &all.freezes {
                    warn!("stopping with a frozen guest; guest={:?}", freeze.guest);
                }
                return;
            }
        }
    }
}

/// Ends a freeze when its thread ends, even by a panic.
struct Guard {
    freezes: Arc<Freezes>,
    freeze: Arc<Freeze>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut all = self.freezes.all.lock();
        all.freezes.retain(|freeze| !Arc::ptr_eq(freeze, &self.freeze));
        self.freezes.over.notify_all();
        drop(all);
        self.freeze.change(|state| {
            state.is_over = true;
            let why = || Err(Error::Pool(pool::Error::Stopping));
            state.frozen.get_or_insert_with(why);
        });
    }
}

struct Thread {
    // Fields are dropped in this order: a caller that sees the end of a freeze can then ask the guest agent.
    agent_guard: AgentGuard,
    guard: Guard,
    connection: Option<Connection>,
    /// Whether the guest agent refused to freeze the guest.
    is_refused: bool,
}

impl Thread {
    fn run(mut self, resumed: Option<Transaction>) {
        let freeze = Arc::clone(&self.guard.freeze);
        let transaction = match resumed {
            Some(transaction) => transaction,
            None => match self.freeze() {
                Ok(transaction) => transaction,
                // The waiting caller gets the error at the end of this thread.
                Err(why) => return freeze.state.lock().frozen = Some(Err(why)),
            },
        };
        self.thaw(transaction.intent().steps.first());
        if let Err(error) = transaction.commit() {
            warn!("cannot remove Freeze from the journal; guest={:?}: {error}", freeze.guest);
        }
    }

    /// Freezes a guest, and waits until the guest must be thawed.
    ///
    /// # Errors
    /// If the guest agent did not get the command to freeze.
    fn freeze(&mut self) -> Result<Transaction, Error> {
        let freeze = Arc::clone(&self.guard.freeze);
        let domain = self.domain(&freeze.guest)?;
        if domain.id().is_none() {
            // libvirt itself returns the error.
            domain.freeze()?;
        }
        // A silent guest agent must get no command that it may carry out later.
        match self
            .agent_guard
            .command(&domain, &|domain| domain.agent_info(Topic::Hostname).map(drop))
        {
            // The guest agent answers, even if it does not report its host name.
            Err(why) if is_answer(&why) => {}
            probed => probed?,
        }
        let request = Guest { id: freeze.guest.clone(), ..Guest::default() };
        let uuid = domain.uuid()?;
        let mut transaction =
            Transaction::begin(&self.guard.freezes.journal, Verb::Freeze, &request);
        if let Err(error) = transaction.record(Step::Frozen(uuid)) {
            transaction.abort(Abort::Forget);
            return Err(error.into());
        }
        let began = Instant::now();
        let frozen = self.agent_guard.command_within(&domain, FREEZE_TIME, &Domain::freeze);
        let is_frozen = frozen.is_ok();
        match &frozen {
            Ok(()) => info!("file systems are frozen; guest={:?}", freeze.guest),
            Err(why) => warn!("cannot freeze; thawing: {why}; guest={:?}", freeze.guest),
        }
        self.is_refused = frozen.as_ref().is_err_and(is_answer);
        freeze.change(|state| state.frozen = Some(frozen));
        if is_frozen {
            freeze.wait(began + FREEZE_TIME);
        }
        Ok(transaction)
    }

    /// Thaws a guest, with retries until the guest agent succeeds, or its domain is off or gone.
    fn thaw(&mut self, step: Option<&Step>) {
        let freeze = Arc::clone(&self.guard.freeze);
        let Some(Step::Frozen(uuid)) = step else { return };
        freeze.state.lock().is_thawing = true;
        let (mut pause, mut refusals, mut is_reported) = (THAW_PAUSE, 0, false);
        loop {
            let why = match self.try_thaw(&freeze.guest, uuid) {
                Ok(true) => return info!("file systems are thawed; guest={:?}", freeze.guest),
                Ok(false) => return debug!("nothing to thaw; guest={:?}", freeze.guest),
                Err(why) => why,
            };
            refusals += u32::from(is_answer(&why));
            if refusals > 0 && self.is_refused {
                return debug!("the guest agent neither freezes nor thaws: {why}");
            }
            if refusals >= THAW_REFUSALS {
                return error!("giving up to thaw: {why}; guest={:?}", freeze.guest);
            }
            match is_reported {
                true => debug!("cannot thaw; trying again: {why}; guest={:?}", freeze.guest),
                false => warn!("cannot thaw; trying again: {why}; guest={:?}", freeze.guest),
            }
            is_reported = true;
            freeze.change(|state| state.failed = Some(why));
            freeze.wait(Instant::now() + pause);
            pause = (2 * pause).min(THAW_PAUSE_MAX);
        }
    }

    /// Thaws the guest; returns `false` if its domain is off or gone.
    fn try_thaw(&mut self, guest: &str, uuid: &str) -> Result<bool, Error> {
        let domain = match self.domain(guest) {
            Err(Error::Libvirt(error)) if error.code == Code::NO_DOMAIN => return Ok(false),
            found => found?,
        };
        if domain.uuid()? != uuid {
            return Ok(false);
        }
        if domain.id().is_none() {
            return match domain.has_managed_save()? {
                // It will still be frozen when it is restored.
                true => Err(Error::Refused("the guest is saved")),
                false => Ok(false),
            };
        }
        self.agent_guard.command_now(&domain, FREEZE_TIME, &Domain::thaw).map(|()| true)
    }

    fn domain(&mut self, guest: &str) -> Result<Domain, Error> {
        let connection = match self.connection.take().filter(Connection::is_alive) {
            Some(connection) => connection,
            None => self.guard.freezes.opener.open(Instant::now())?,
        };
        Ok(self.connection.insert(connection).lookup_domain_by_name(guest)?)
    }
}

/// Returns whether an error is the answer of a guest agent that is busy or cannot carry out the command.
fn is_answer(why: &Error) -> bool {
    let codes = [Code::INTERNAL_ERROR, Code::OPERATION_UNSUPPORTED];
    matches!(why, Error::Libvirt(error) if codes.contains(&error.code)) && !why.connection_lost()
}

impl Guests {
    /// Freezes the file systems of a running guest until Thaw, for at most [`FREEZE_TIME`]. `virDomainFSFreeze`.
    ///
    /// The guest agent writes all pending data, and holds back further writes. Meanwhile it gets no other command.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::AgentLeftAlone`], also if the guest is frozen already, or
    /// [`FROZEN_GUESTS`] others are; errors of libvirt and the guest agent. If the guest may be frozen after an error,
    /// the agent thaws it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); [`FREEZE_TIME`] and some seconds if the guest
    /// agent is silent.
    pub fn freeze(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        self.core.opener.health().may_answer()?;
        let name = JobName::new("Freeze", guest.id.clone()).of_emulator();
        // Calls that ask the guest agent now end first.
        let permit = match self.freezes.find(&guest.id) {
            Some(_) => return Err(Error::AgentLeftAlone(AgentUnavailable::Frozen)),
            None => turns::permit(&self.core.pool, &name, deadline)?,
        };
        let agent_guard =
            self.agents.agent_guard(&guest.id, FROZEN).map_err(Error::AgentLeftAlone)?;
        drop(permit);
        self.freezes.start(&guest.id, agent_guard, Resumed::default())?.wait_frozen(deadline)?;
        Ok(respond(guest))
    }

    /// Thaws the file systems of a guest. `virDomainFSThaw`.
    ///
    /// If no freeze is in force, because it ended by itself or never started, the agent sends the command to thaw all
    /// the same, and the answer's message says so.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; errors of libvirt and the guest agent. The agent continues to thaw a guest
    /// that it has frozen.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn thaw(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        if let Some(freeze) = self.freezes.find(&guest.id) {
            freeze.wait_thawed(deadline)?;
            return Ok(respond(guest));
        }
        let (id, agents) = (guest.id.clone(), Arc::clone(&self.agents));
        let question = Question::new("Thaw", guest.id.clone(), deadline, move |session| {
            let domain = session.domain(&id)?;
            let agent_guard = agents.agent_guard(&id, "Thaw").map_err(Error::AgentLeftAlone)?;
            agent_guard.command_within(&domain, AGENT_COMMAND, &Domain::thaw)
        });
        self.core.ask(question.of_emulator())?;
        let message = "no freeze was in force".to_owned();
        Ok(GuestResponse { message, ..respond(guest) })
    }
}
