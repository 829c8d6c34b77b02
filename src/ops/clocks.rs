//! The clocks of guests that stood still, set after they are resumed.
//!
//! A guest that was paused, saved or waited for a full disk goes on with the time at which it stopped. libvirt reports
//! when one is resumed, by whomever. Its guest agent then sets the clock: one guest at a time, so that callers have
//! guest agents, too. No call waits for that. A guest agent that is not there yet or does not answer is asked again.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{debug, info};

use crate::config::fixed::{
    AGENT_CLOCK_TIME, AGENT_CLOCK_TRIES, AGENT_CLOCKS, AGENT_LATE, AGENT_PAUSE,
};
use crate::guest::state::is_as_booted;
use crate::libvirt::{Code, Domain, DomainChange};
use crate::ops::agents::{Agents, LeftAlone};
use crate::ops::{Error, Opener, Session, begun};
use crate::os::peer::Share;
use crate::os::process;
use crate::pool::{self, CallShare, Job, JobName, Lane, Pool, Ration, current};

/// Sets the clocks of resumed guests on a thread of its own, `guest-clock`, which ends with this value.
pub(super) struct Clocks(Sender<(String, Notice)>);

/// What libvirt reports of a guest.
#[derive(Clone, Copy)]
enum Notice {
    Resumed,
    AgentConnected,
}

struct Thread {
    pool: Weak<Pool<Session>>,
    opener: Arc<Opener>,
    agents: Arc<Agents>,
    notices: Receiver<(String, Notice)>,
    /// By the ids of their guests; at most [`AGENT_CLOCKS`].
    wanted: BTreeMap<String, Clock>,
}

/// A clock that is to be set.
#[derive(Clone, Copy)]
struct Clock {
    /// When to try next.
    due: Instant,
    /// When to give up.
    until: Instant,
    /// How often the guest agent was asked.
    tries: u32,
}

impl Clocks {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub(super) fn start(
        pool: &Arc<Pool<Session>>,
        opener: &Arc<Opener>,
        agents: &Arc<Agents>,
    ) -> io::Result<Self> {
        let (notify, notices) = bounded(AGENT_CLOCKS);
        let thread = Thread {
            pool: Arc::downgrade(pool),
            opener: Arc::clone(opener),
            agents: Arc::clone(agents),
            notices,
            wanted: BTreeMap::new(),
        };
        thread::Builder::new().name("guest-clock".to_owned()).spawn(move || thread.run())?;
        Ok(Self(notify))
    }

    /// Takes note of a change of a guest. Waits for nothing.
    pub(super) fn changed(&self, guest: &str, change: &DomainChange) {
        let notice = match change {
            DomainChange::Lifecycle { event: "resumed", .. } => Notice::Resumed,
            DomainChange::Agent { state: "connected" } => Notice::AgentConnected,
            _ => return,
        };
        if self.0.try_send((guest.to_owned(), notice)).is_err() {
            log_too_many(guest);
        }
    }
}

fn log_too_many(guest: &str) {
    info!("cannot set the guest's clock: too many clocks are to be set; guest={guest:?}");
}

impl Thread {
    fn run(mut self) {
        while self.hear() {
            // A guest that was resumed again since has another due time.
            while let Ok((guest, notice)) = self.notices.try_recv() {
                self.note(guest, notice);
            }
            let now = Instant::now();
            let due = self.wanted.iter().filter(|(_, clock)| clock.due <= now);
            let next = due.min_by_key(|(_, clock)| clock.due).map(|(guest, _)| guest.clone());
            if let Some(guest) = next {
                let outcome = self.set(&guest);
                self.close(guest, outcome);
            }
        }
    }

    /// Waits for a notice, or until a clock is due; `false` where no notice comes any more.
    fn hear(&mut self) -> bool {
        let told = match self.wanted.values().map(|clock| clock.due).min() {
            Some(due) => self.notices.recv_deadline(due),
            None => self.notices.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match told {
            Ok((guest, notice)) => self.note(guest, notice),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn note(&mut self, guest: String, notice: Notice) {
        let due = Instant::now();
        let is_full = self.wanted.len() >= AGENT_CLOCKS;
        match (notice, self.wanted.get_mut(&guest)) {
            (Notice::Resumed, None) if is_full => log_too_many(&guest),
            (Notice::Resumed, _) => {
                let clock = Clock { due, until: due + AGENT_CLOCK_TIME, tries: 0 };
                self.wanted.insert(guest, clock);
            }
            (Notice::AgentConnected, Some(clock)) if clock.tries < AGENT_CLOCK_TRIES => {
                clock.due = due;
            }
            (Notice::AgentConnected, _) => {}
        }
    }

    /// Has a guest's agent set the clock; whether that was needed.
    ///
    /// # Blocking
    /// Up to [`AGENT_LATE`].
    fn set(&self, guest: &str) -> Result<bool, Error> {
        let pool = self.pool.upgrade().ok_or(Error::Pool(pool::Error::Stopping))?;
        let (arrived, user) = (Instant::now(), Share::User(process::user()));
        let deadline = arrived + AGENT_LATE;
        let name = JobName::new("set the clock of", guest).of_emulator();
        self.opener.health().may_answer()?;
        pool.not_overdue(Lane::Read, &name)?;
        // In turn with those that call.
        let share = CallShare { ration: Ration::Agent, user, guest: guest.into() };
        let _permit = pool
            .wait_for_permit(&share, deadline)
            .map_err(|why| Error::Pool(pool.no_permit(why, &share, &name.to_string(), arrived)))?;
        let (id, agents) = (guest.to_owned(), Arc::clone(&self.agents));
        let work = move |session: &mut Session| {
            session.read(|connection| {
                let domain = connection.lookup_domain_by_name(&id)?;
                let (state, reason) = domain.state()?;
                if is_as_booted(state, reason) {
                    return Ok(false);
                }
                let turn = agents.turn(&id, "its clock").map_err(Error::AgentLeftAlone)?;
                turn.command(&domain, &Domain::sync_time)?;
                Ok(true)
            })
        };
        let run = || pool.run(Lane::Read, Job { name, deadline }, None, begun(deadline, work));
        current::carry_out(arrived, run)?
    }

    /// What comes of an attempt: it was the last, or another follows.
    fn close(&mut self, guest: String, outcome: Result<bool, Error>) {
        let Some(clock) = self.wanted.get_mut(&guest) else { return };
        let why = match outcome {
            Ok(is_set) => {
                if is_set {
                    debug!("set the guest's clock; guest={guest:?}");
                }
                self.wanted.remove(&guest);
                return;
            }
            Err(why) => why,
        };
        // The guest agent was asked, unless another call has to do with the failure.
        let was_asked = matches!(why, Error::Libvirt(_));
        clock.tries += u32::from(was_asked);
        clock.due = Instant::now() + pause_after(&why);
        let is_over = clock.tries >= AGENT_CLOCK_TRIES || clock.due > clock.until;
        match &why {
            Error::Libvirt(error) if is_absence(error.code) => {
                debug!("cannot set the guest's clock: {why}; guest={guest:?}");
                self.wanted.remove(&guest);
            }
            _ if is_over => {
                info!("cannot set the guest's clock: {why}; guest={guest:?}");
                self.wanted.remove(&guest);
            }
            _ => debug!("cannot set the guest's clock; trying again: {why}; guest={guest:?}"),
        }
    }
}

fn pause_after(why: &Error) -> Duration {
    match why {
        Error::AgentLeftAlone(LeftAlone::Silent(rest)) => *rest,
        _ => AGENT_PAUSE,
    }
}

/// Whether libvirt says that this guest has no guest agent, is not running or is gone.
fn is_absence(code: Code) -> bool {
    let absent = [Code::ARGUMENT_UNSUPPORTED, Code::NO_SUPPORT, Code::NO_DOMAIN];
    absent.contains(&code) || code == Code::OPERATION_INVALID
}
