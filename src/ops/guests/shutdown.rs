//! Shutdown: asks a guest's system to power off; the caller may wait until it has.
//!
//! A call that waits asks by the ACPI power button and by the guest agent, repeats both once, and forces the guest off
//! if its caller wants that. It applies to one run of the guest: if the guest goes off and somebody starts it again,
//! the call leaves the new run alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{debug, info};

use crate::config::fixed::{
    SHUTDOWN_AGAIN, SHUTDOWN_AGENTS, SHUTDOWN_ASK, SHUTDOWN_FORCE, SHUTDOWN_LOOK, SHUTDOWN_PAUSE,
    SHUTDOWN_WAIT_MAX,
};
use crate::guest::state::{Condition, State};
use crate::guest::wire::verbs::ShutdownRequest;
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::libvirt::{Code, Domain, Topic};
use crate::ops::guest_agent::turns::GuestAgents;
use crate::ops::guests::lifecycle::{answer, condition, destroy};
use crate::ops::requests::named_guest;
use crate::ops::waiting_calls::{Step, Steps, Wait};
use crate::ops::{Core, Error, Guests, Session};
use crate::pool::{JobName, Lane};

const VERB: &str = "Shutdown";

impl Guests {
    /// Asks the guest's system to power off; succeeds if the guest is off already. `virDomainShutdownFlags`.
    ///
    /// Without `wait` and `force_after` the call returns the state right after the request, and callers poll Status.
    /// With one of them it returns when the guest is off.
    ///
    /// # Errors
    /// As [`Guests::status`]; [`Error::Invalid`] for invalid times; [`Error::StillRuns`] if the guest does not go off
    /// in time, the agent stops, or `is_gone` reports that the caller has disconnected.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); up to `wait`, or [`SHUTDOWN_FORCE`] after
    /// `force_after`.
    pub fn shutdown(
        &self,
        request: ShutdownRequest,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<GuestResponse, Error> {
        self.core.take_steps(self.begin_shutdown(request)?, is_gone)
    }

    /// Returns the same call in steps.
    ///
    /// # Errors
    /// As [`Guests::shutdown`].
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change). Each step takes up to [`SHUTDOWN_ASK`]; the step
    /// that forces the guest off, up to [`SHUTDOWN_FORCE`].
    pub fn begin_shutdown(
        &self,
        request: ShutdownRequest,
    ) -> Result<Box<dyn Steps<GuestResponse>>, Error> {
        // Not from the arrival of the call: the guest has its full time, even if the call waited for its turn.
        let schedule = Schedule::of(&request, Instant::now())?;
        let ShutdownRequest { guest, action, args, .. } = request;
        let Some(schedule) = schedule else {
            let request = GuestRequest { guest, action, args, ..GuestRequest::default() };
            let asked =
                self.domain_wrapper(VERB, Lane::Control, request, |domain, state| match state {
                    State::Shutdown | State::Shutoff => Ok(()),
                    _ => domain.shutdown(),
                });
            return asked.map(Ended::boxed);
        };
        let guest = named_guest(guest)?;
        // Before the lookup of the run, so that the call notices a restart of libvirt after it.
        let subscription = self.core.events.subscription(Instant::now() + SHUTDOWN_LOOK);
        let deadline = self.core.read_deadline(&args)?;
        Ok(match run_of(&self.core, &guest.id, deadline)? {
            (None, condition) => Ended::boxed(answer(guest, condition)),
            (Some(run), _) => {
                let agents = Arc::clone(&self.agents);
                Box::new(Waiting::new(agents, guest, run, subscription, schedule))
            }
        })
    }
}

/// Returns the present run of this guest, if it runs, and its condition.
fn run_of(core: &Core, id: &str, deadline: Instant) -> Result<(Option<Run>, Condition), Error> {
    let name = id.to_owned();
    core.read(Lane::Read, VERB, id, deadline, move |connection| {
        let domain = connection.lookup_domain_by_name(&name)?;
        Ok((Run::of(&domain)?, condition(&domain)?))
    })
}

/// A guest from its start to its end. libvirt reuses no number while libvirtd runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    uuid: String,
    number: u32,
}

impl Run {
    /// Returns the run of the domain; `None` if it is off.
    fn of(domain: &Domain) -> Result<Option<Self>, Error> {
        let Some(number) = domain.id() else { return Ok(None) };
        Ok(Some(Self { uuid: domain.uuid()?, number }))
    }
}

/// A call that waits until the guest is off.
struct Waiting {
    agents: Arc<GuestAgents>,
    guest: Guest,
    run: Run,
    /// [`Events::subscription`](crate::events::Events::subscription) before the lookup of the run.
    subscription: Option<u64>,
    schedule: Schedule,
    /// Whether the guest agent must still be asked.
    wants_agent: bool,
    /// Whether libvirt got the command to force this run off, and did not refuse.
    has_forced: Arc<AtomicBool>,
    /// Why the last request failed.
    why: String,
}

impl Steps<GuestResponse> for Waiting {
    fn step(&mut self, core: &Core, is_gone: &dyn Fn() -> bool) -> Step<GuestResponse> {
        match self.act(core, is_gone) {
            Some(outcome) => Step::Done(outcome),
            None => Step::Wait(Wait {
                after: core.events.last(),
                guest: Some(self.guest.id.clone()),
                until: self.schedule.next().min(Instant::now() + SHUTDOWN_LOOK),
                // A pause, because a guest can cause events without limit.
                not_before: Some(Instant::now() + SHUTDOWN_PAUSE),
            }),
        }
    }
}

impl Waiting {
    fn new(
        agents: Arc<GuestAgents>,
        guest: Guest,
        run: Run,
        subscription: Option<u64>,
        schedule: Schedule,
    ) -> Self {
        Self {
            agents,
            guest,
            run,
            subscription,
            schedule,
            wants_agent: false,
            has_forced: Arc::default(),
            why: String::new(),
        }
    }

    /// Runs the step that is due; returns the outcome if the call ends.
    fn act(
        &mut self,
        core: &Core,
        is_gone: &dyn Fn() -> bool,
    ) -> Option<Result<GuestResponse, Error>> {
        // First: a caller that has disconnected must cause no further change.
        if let Some(reason) = is_over(core, is_gone) {
            return Some(Err(self.still_runs(reason)));
        }
        let due = self.schedule.due(Instant::now());
        match due {
            Due::Ask { is_first } => match self.ask(core) {
                // The call would fail anyway.
                Err(error) if is_first && !self.schedule.forces() && !error.is_late() => {
                    return Some(match self.look(core) {
                        Some(condition) => Ok(self.off(condition)),
                        None => Err(error),
                    });
                }
                asked => {
                    self.wants_agent = true;
                    let (guest, word) = (&self.guest.id, if is_first { "" } else { " again" });
                    info!(
                        "asked a guest{word} to shut down; waiting until it is off; guest={guest:?}"
                    );
                    self.why = asked.err().map(|error| error.to_string()).unwrap_or_default();
                }
            },
            Due::Force => match self.force(core) {
                Ok(()) => {}
                Err(error) => self.why = error.to_string(),
            },
            Due::Nothing | Due::End => {}
        }
        self.ask_agent(core);
        match self.look(core) {
            Some(condition) => Some(Ok(self.off(condition))),
            None => (due == Due::End).then(|| Err(self.still_runs(&self.why))),
        }
    }

    fn still_runs(&self, reason: &str) -> Error {
        let waited = self.schedule.began.elapsed();
        Error::StillRuns { id: self.guest.id.clone(), waited, reason: reason.to_owned() }
    }

    /// Returns the answer for a guest that is off, or in a new run.
    fn off(&mut self, condition: Condition) -> GuestResponse {
        // Relaxed: the flag says nothing about other memory.
        let forced = self.has_forced.load(Ordering::Relaxed);
        GuestResponse { forced, ..answer(std::mem::take(&mut self.guest), condition) }
    }

    /// Returns the condition of the guest if this run has ended. A run counts as not ended if libvirt does not answer
    /// in time.
    fn look(&self, core: &Core) -> Option<Condition> {
        let until = self.schedule.next().min(Instant::now() + SHUTDOWN_LOOK).max(soon());
        match run_of(core, &self.guest.id, until) {
            Ok((Some(run), _)) if run == self.run => None,
            Ok((_, condition)) => Some(condition),
            // A transient domain no longer exists after its run.
            Err(Error::Libvirt(error)) if error.code == Code::NO_DOMAIN => {
                Some(Condition { state: State::Shutoff, reason: "" })
            }
            Err(error) => {
                debug!(
                    "cannot look at a guest that shuts down; guest={:?}: {error}",
                    self.guest.id
                );
                None
            }
        }
    }

    /// Asks the guest's system, at most until the next step.
    ///
    /// # Errors
    /// Errors of libvirt.
    fn ask(&self, core: &Core) -> Result<(), Error> {
        let (id, run) = (self.guest.id.clone(), self.run.clone());
        core.change(VERB, &self.guest.id, self.ask_until(), move |session| {
            match domain_of_run(session, &id, &run)? {
                Some(domain) => Ok(domain.shutdown()?),
                None => Ok(()),
            }
        })
    }

    /// Returns the deadline of a request to the guest.
    fn ask_until(&self) -> Instant {
        self.schedule.next().min(Instant::now() + SHUTDOWN_ASK).max(soon())
    }

    /// Asks the guest agent once, as soon as it has no other command. An error is only logged.
    fn ask_agent(&mut self, core: &Core) {
        if !self.wants_agent {
            return;
        }
        // libvirt may wait up to 60 s for a guest agent that answers and then does not obey.
        let Ok(agent_guard) =
            self.agents.limited_agent_guard(&self.guest.id, VERB, SHUTDOWN_AGENTS)
        else {
            return;
        };
        self.wants_agent = false;
        let (id, run, until) = (self.guest.id.clone(), self.run.clone(), self.ask_until());
        let name = JobName::new(VERB, id.clone()).of_emulator();
        let asked = core.once(Lane::Control, name, until, move |session: &mut Session| {
            let Some(domain) = domain_of_run(session, &id, &run)? else { return Ok(()) };
            agent_guard.command(&domain, &|domain| domain.agent_info(Topic::Hostname).map(drop))?;
            agent_guard.command(&domain, &Domain::shutdown_by_agent)
        });
        if let Err(error) = asked {
            debug!("a guest agent does not shut down; guest={:?}: {error}", self.guest.id);
        }
    }

    /// Forces this run off.
    ///
    /// # Errors
    /// Errors of libvirt; [`Error::Invalid`] if the present run may be another one.
    fn force(&self, core: &Core) -> Result<(), Error> {
        if self.subscription.is_none()
            || core.events.subscription(Instant::now()) != self.subscription
        {
            let why = "libvirt was away meanwhile, so this may be another run of the guest";
            return Err(Error::Invalid(why.to_owned()));
        }
        let (id, run) = (self.guest.id.clone(), self.run.clone());
        let has_forced = Arc::clone(&self.has_forced);
        // An emulator that does not react is killed after some 10 s.
        let until = self.schedule.end.max(soon());
        core.urgent(VERB, &self.guest.id, until, move |session| {
            let Some(domain) = domain_of_run(session, &id, &run)? else { return Ok(()) };
            info!("forcing a guest off that did not shut down; guest={id:?}");
            // Before the call: libvirt ends the guest before it answers, and another thread checks the guest meanwhile.
            has_forced.store(true, Ordering::Relaxed);
            let destroyed = destroy(&domain);
            has_forced.store(destroyed.is_ok(), Ordering::Relaxed);
            Ok(destroyed?)
        })
    }
}

/// Returns why the wait must end, if so.
fn is_over(core: &Core, is_gone: &dyn Fn() -> bool) -> Option<&'static str> {
    match core.events.is_closed() {
        true => Some("the agent is stopping"),
        false => is_gone().then_some("the caller has disconnected"),
    }
}

/// A call that has ended already.
struct Ended(Option<GuestResponse>);

impl Ended {
    fn boxed(response: GuestResponse) -> Box<dyn Steps<GuestResponse>> {
        Box::new(Self(Some(response)))
    }
}

impl Steps<GuestResponse> for Ended {
    fn step(&mut self, _: &Core, _: &dyn Fn() -> bool) -> Step<GuestResponse> {
        Step::Done(Ok(self.0.take().unwrap_or_default()))
    }
}

/// Returns the domain of this run; `None` if the run has ended.
fn domain_of_run(session: &mut Session, id: &str, run: &Run) -> Result<Option<Domain>, Error> {
    let Some(domain) = session.find(id)? else { return Ok(None) };
    let is_it = Run::of(&domain)?.as_ref() == Some(run);
    Ok(is_it.then_some(domain))
}

/// Returns the least deadline, for when the next step is near.
fn soon() -> Instant {
    Instant::now() + SHUTDOWN_PAUSE
}

/// The next action of a call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Asks the guest's system and the guest agent.
    Ask {
        /// Whether it is the first request, and not its repetition.
        is_first: bool,
    },
    /// Forces the guest off.
    Force,
    /// Waits.
    Nothing,
    /// Gives up.
    End,
}

/// The times of a waiting call's actions.
#[derive(Clone, Debug)]
struct Schedule {
    began: Instant,
    has_asked: bool,
    again: Option<Instant>,
    force: Option<Instant>,
    end: Instant,
}

impl Schedule {
    /// Returns the schedule of a request that starts at `began`; `None` if it does not wait.
    ///
    /// # Errors
    /// [`Error::Invalid`] for invalid times.
    fn of(request: &ShutdownRequest, began: Instant) -> Result<Option<Self>, Error> {
        let time = |name: &str, seconds: Option<u64>| match seconds.map(Duration::from_secs) {
            Some(time) if time.is_zero() || time > SHUTDOWN_WAIT_MAX => {
                let most = SHUTDOWN_WAIT_MAX.as_secs();
                Err(Error::Invalid(format!("{name} must be 1 to {most} seconds")))
            }
            time => Ok(time),
        };
        let (wait, force) =
            (time("wait", request.wait)?, time("force_after", request.force_after)?);
        if let (Some(wait), Some(force)) = (wait, force) {
            if force > wait {
                let why = "force_after must not be more than wait";
                return Err(Error::Invalid(why.to_owned()));
            }
        }
        // Forcing the guest off needs time, too.
        let Some(first) = force.or(wait) else { return Ok(None) };
        let end = wait.unwrap_or_default().max(force.map_or(first, |force| force + SHUTDOWN_FORCE));
        Ok(Some(Self {
            began,
            has_asked: false,
            again: Some(began + SHUTDOWN_AGAIN.min(first / 2)),
            force: force.map(|force| began + force),
            end: began + end,
        }))
    }

    /// Returns the action that is due, and marks it as done.
    fn due(&mut self, now: Instant) -> Due {
        let is_due = |step: Option<Instant>| step.is_some_and(|step| step <= now);
        if !self.has_asked {
            self.has_asked = true;
            Due::Ask { is_first: true }
        } else if now >= self.end {
            Due::End
        } else if is_due(self.force) {
            // Force a guest off again that is still running.
            self.force = Some(now + SHUTDOWN_AGAIN);
            self.again = None;
            Due::Force
        } else if is_due(self.again) {
            self.again = None;
            Due::Ask { is_first: false }
        } else {
            Due::Nothing
        }
    }

    /// Returns the time of the next action.
    fn next(&self) -> Instant {
        [self.again, self.force].into_iter().flatten().fold(self.end, Instant::min)
    }

    /// Returns whether the guest will be forced off.
    fn forces(&self) -> bool {
        self.force.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(wait: Option<u64>, force_after: Option<u64>, began: Instant) -> Schedule {
        let request = ShutdownRequest { wait, force_after, ..ShutdownRequest::default() };
        Schedule::of(&request, began).unwrap().unwrap()
    }

    /// Returns the due action of each second, without [`Due::Nothing`].
    fn steps(mut schedule: Schedule) -> Vec<(u64, Due)> {
        let second =
            |seconds| (seconds, schedule.due(schedule.began + Duration::from_secs(seconds)));
        let mut due = (0..=3600).map(second).filter(|(_, due)| *due != Due::Nothing);
        let mut steps: Vec<_> = due.by_ref().take_while(|(_, due)| *due != Due::End).collect();
        steps.truncate(8);
        steps
    }

    #[test]
    fn a_guest_is_asked_twice_and_never_forced_unasked() {
        let (first, again) = (Due::Ask { is_first: true }, Due::Ask { is_first: false });
        let now = Instant::now();
        assert_eq!(steps(schedule(Some(600), None, now)), [(0, first), (10, again)]);
        assert_eq!(steps(schedule(Some(4), None, now)), [(0, first), (2, again)]);
        let forced = steps(schedule(Some(60), Some(45), now));
        assert_eq!(forced[..3], [(0, first), (10, again), (45, Due::Force)]);
        assert!(forced[3..].iter().all(|(_, due)| *due == Due::Force), "{forced:?}");
    }

    #[test]
    fn forcing_has_its_time_after_the_wait() {
        let now = Instant::now();
        let end = |wait, force| schedule(wait, force, now).end - now;
        assert_eq!(end(Some(60), None), Duration::from_secs(60));
        assert_eq!(end(Some(60), Some(60)), Duration::from_secs(60) + SHUTDOWN_FORCE);
        assert_eq!(end(None, Some(5)), Duration::from_secs(5) + SHUTDOWN_FORCE);
        assert_eq!(end(Some(600), Some(5)), Duration::from_secs(600));
    }

    #[test]
    fn late_call_still_asks_first() {
        let now = Instant::now();
        let mut late = schedule(Some(600), Some(60), now);
        let at = now + Duration::from_secs(300);
        assert_eq!(late.due(at), Due::Ask { is_first: true });
        assert_eq!((late.due(at), late.due(at)), (Due::Force, Due::Nothing));
    }

    #[test]
    fn times_that_cannot_be_are_refused() {
        let of = |wait, force_after| {
            let request = ShutdownRequest { wait, force_after, ..ShutdownRequest::default() };
            Schedule::of(&request, Instant::now()).map(|schedule| schedule.is_some())
        };
        assert!(matches!(of(None, None), Ok(false)));
        assert!(matches!((of(Some(3600), None), of(None, Some(1))), (Ok(true), Ok(true))));
        for (wait, force) in
            [(Some(0), None), (None, Some(0)), (Some(3601), None), (Some(5), Some(6))]
        {
            assert!(matches!(of(wait, force), Err(Error::Invalid(_))), "{wait:?} {force:?}");
        }
    }
}
