//! Sets the clocks of guests after a resume. The same thread also asks guest agents for addresses (`address_refresh`).
//!
//! A guest that was paused, saved or waited for a full disk continues with the time at which it stopped. libvirt
//! reports each resume, whatever caused it. Then the guest agent sets the clock: for one guest at a time, so that guest
//! agents stay available to callers. No call waits for that. If a guest agent is not connected yet or does not answer,
//! the agent asks it again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use log::{debug, info};
use parking_lot::{Condvar, Mutex};

use crate::config::fixed::{
    AGENT_CLOCK_TIME, AGENT_CLOCK_TRIES, AGENT_CLOCKS, AGENT_LATE, AGENT_PAUSE,
};
use crate::events::Events;
use crate::guest::state::is_as_booted;
use crate::libvirt::{Code, Domain, DomainChange};
use crate::ops::guest_agent::addresses::Refresh;
use crate::ops::guest_agent::turns::{self, GuestAgents};
use crate::ops::question::Work;
use crate::ops::{AgentUnavailable, Error, Opener, Session, with_deadline};
use crate::pool::{self, Job, JobName, Lane, Pool, current};

/// Sets the clocks of resumed guests and looks for addresses, on a thread of its own, `guest-agents`. The thread ends
/// when this value is dropped.
pub(in crate::ops) struct Clocks(Arc<Wanted>);

/// The clocks that the thread must set.
struct Wanted {
    /// At most [`AGENT_CLOCKS`]; `None` after the end.
    clocks: Mutex<Option<Vec<Clock>>>,
    changed: Condvar,
}

/// A clock that the thread must set.
#[derive(Clone)]
struct Clock {
    /// The id of the guest.
    guest: String,
    /// When the guest was resumed.
    resumed: Instant,
    /// When to try next.
    due: Instant,
    /// How often the guest agent has failed to set it.
    tries: u32,
}

/// The thread `guest-agents`.
pub(in crate::ops) struct Thread {
    pub(in crate::ops) pool: Weak<Pool<Session>>,
    pub(in crate::ops) opener: Arc<Opener>,
    pub(in crate::ops) agents: Arc<GuestAgents>,
    pub(in crate::ops) events: Arc<Events>,
    /// Whether the agent has its own network with NAT.
    pub(in crate::ops) has_nat: bool,
    wanted: Arc<Wanted>,
}

/// The thread's next task.
enum Next {
    Clock(Clock),
    Refresh(Refresh),
}

impl Clocks {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub(in crate::ops) fn start(
        pool: &Arc<Pool<Session>>,
        opener: &Arc<Opener>,
        agents: &Arc<GuestAgents>,
        events: &Arc<Events>,
        has_nat: bool,
    ) -> io::Result<Self> {
        let clocks = Mutex::new(Some(Vec::new()));
        let wanted = Arc::new(Wanted { clocks, changed: Condvar::new() });
        let thread = Thread {
            pool: Arc::downgrade(pool),
            opener: Arc::clone(opener),
            agents: Arc::clone(agents),
            events: Arc::clone(events),
            has_nat,
            wanted: Arc::clone(&wanted),
        };
        thread::Builder::new().name("guest-agents".to_owned()).spawn(move || thread.run())?;
        Ok(Self(wanted))
    }

    /// Records a change of a guest. Does not block.
    pub(in crate::ops) fn changed(&self, guest: &str, change: &DomainChange) {
        let is_resumed = match change {
            DomainChange::Lifecycle { event: "resumed", .. } => true,
            DomainChange::Agent { state: "connected" } => false,
            // The guest may have its first NIC.
            DomainChange::Lifecycle { event: "started", .. } | DomainChange::DeviceAdded => {
                return self.wake();
            }
            _ => return,
        };
        let mut clocks = self.0.clocks.lock();
        let Some(clocks) = clocks.as_mut() else { return };
        let now = Instant::now();
        if is_resumed {
            clocks.retain(|clock| clock.guest != guest);
            if clocks.len() >= AGENT_CLOCKS {
                let others = AGENT_CLOCKS;
                info!("cannot set the guest's clock: {others} other guests wait; guest={guest:?}");
                return;
            }
            clocks.push(Clock { guest: guest.to_owned(), resumed: now, due: now, tries: 0 });
        } else {
            let known = clocks.iter_mut().find(|clock| clock.guest == guest);
            if let Some(clock) = known.filter(|clock| clock.tries < AGENT_CLOCK_TRIES) {
                clock.due = now;
            }
        }
        self.0.changed.notify_one();
    }

    /// Wakes the thread, which then checks what is due.
    pub(in crate::ops) fn wake(&self) {
        // The thread holds this lock while it checks what is due, so it cannot miss the notification.
        let _clocks = self.0.clocks.lock();
        self.0.changed.notify_one();
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        *self.0.clocks.lock() = None;
        self.0.changed.notify_one();
    }
}

impl Wanted {
    /// Waits until a clock or a query for addresses is due; returns `None` after the end.
    fn next(&self, agents: &GuestAgents) -> Option<Next> {
        let mut clocks = self.clocks.lock();
        loop {
            let now = Instant::now();
            let clock = clocks.as_ref()?.iter().min_by_key(|clock| clock.due);
            if let Some(clock) = clock.filter(|clock| clock.due <= now) {
                return Some(Next::Clock(clock.clone()));
            }
            let until = match agents.due(now) {
                Ok(refresh) => return Some(Next::Refresh(refresh)),
                Err(until) => [clock.map(|clock| clock.due), until].into_iter().flatten().min(),
            };
            match until {
                Some(until) => drop(self.changed.wait_until(&mut clocks, until)),
                None => self.changed.wait(&mut clocks),
            }
        }
    }

    /// Records the outcome of an attempt: the time of the next one, or `None` if the clock is done. A guest that was
    /// resumed meanwhile has a new entry, which stays.
    fn note(&self, tried: &Clock, again: Option<(Instant, u32)>) {
        let mut clocks = self.clocks.lock();
        let Some(clocks) = clocks.as_mut() else { return };
        let is_it = |clock: &Clock| clock.guest == tried.guest && clock.resumed == tried.resumed;
        let Some(index) = clocks.iter().position(is_it) else { return };
        match again {
            // Unless the guest agent connected meanwhile, which set an earlier time.
            Some((due, tries)) if clocks[index].due == tried.due => {
                (clocks[index].due, clocks[index].tries) = (due, tries);
            }
            Some((_, tries)) => clocks[index].tries = tries,
            None => drop(clocks.swap_remove(index)),
        }
    }
}

impl Thread {
    fn run(self) {
        while let Some(next) = self.wanted.next(&self.agents) {
            let clock = match next {
                Next::Clock(clock) => clock,
                Next::Refresh(refresh) => {
                    current::carry_out(Instant::now(), || self.refresh(&refresh));
                    continue;
                }
            };
            let guest = &clock.guest;
            let why = match current::carry_out(Instant::now(), || self.set(guest)) {
                Ok(()) => {
                    self.wanted.note(&clock, None);
                    continue;
                }
                Err(why) => why,
            };
            // Any other failure is due to another call or the pool: the guest agent was not asked.
            let tries = clock.tries + u32::from(matches!(why, Error::Libvirt(_)));
            let due = Instant::now() + pause_after(&why);
            let is_last = tries >= AGENT_CLOCK_TRIES || due > clock.resumed + AGENT_CLOCK_TIME;
            match &why {
                Error::Libvirt(error) if is_absence(error.code) => {
                    debug!("cannot set the guest's clock: {why}; guest={guest:?}");
                    self.wanted.note(&clock, None);
                }
                _ if is_last => {
                    info!("cannot set the guest's clock: {why}; guest={guest:?}");
                    self.wanted.note(&clock, None);
                }
                _ => {
                    debug!("cannot set the guest's clock; trying again: {why}; guest={guest:?}");
                    self.wanted.note(&clock, Some((due, tries)));
                }
            }
        }
    }

    /// Asks a guest's agent to set the clock, unless the guest has run without a pause since its boot.
    ///
    /// # Blocking
    /// Up to [`AGENT_LATE`].
    fn set(&self, guest: &str) -> Result<(), Error> {
        let name = JobName::new("set the clock of", guest).of_emulator();
        let (id, agents) = (guest.to_owned(), Arc::clone(&self.agents));
        let work = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            let (state, reason) = domain.state()?;
            if !is_as_booted(state, reason) {
                let agent_guard =
                    agents.agent_guard(&id, "its clock").map_err(Error::AgentLeftAlone)?;
                agent_guard.command(&domain, &Domain::sync_time)?;
                debug!("set the guest's clock; guest={id:?}");
            }
            Ok(())
        };
        self.ask(name, Box::new(work))
    }

    /// Runs a job for libvirt on a worker of the pool. A job that asks a guest agent waits for its permit in turn with
    /// callers.
    ///
    /// # Blocking
    /// Up to [`AGENT_LATE`].
    pub(in crate::ops) fn ask(&self, name: JobName, work: Work<()>) -> Result<(), Error> {
        let pool = self.pool.upgrade().ok_or(Error::Pool(pool::Error::Stopping))?;
        let deadline = Instant::now() + AGENT_LATE;
        self.opener.health().may_answer()?;
        pool.not_overdue(Lane::Read, &name)?;
        let permit = name.asks_emulator.then(|| turns::permit(&pool, &name, deadline));
        let _permit = permit.transpose()?;
        pool.run(Lane::Read, Job { name, deadline }, None, with_deadline(deadline, work))?
    }
}

fn pause_after(why: &Error) -> Duration {
    match why {
        Error::AgentLeftAlone(AgentUnavailable::Silent(rest)) => *rest,
        _ => AGENT_PAUSE,
    }
}

/// Returns whether libvirt's error means that the guest has no guest agent, does not run or no longer exists.
fn is_absence(code: Code) -> bool {
    let absent = [Code::ARGUMENT_UNSUPPORTED, Code::NO_SUPPORT, Code::NO_DOMAIN];
    absent.contains(&code) || code == Code::OPERATION_INVALID
}
