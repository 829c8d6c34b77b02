//! Guest agents: at most one command at a time for each of them.
//!
//! A guest agent may be absent, silent, slow, or malicious. It gets one command at a time, and delays no other call.

pub(in crate::ops) use crate::ops::guest_agent::addresses::{GuestAgents, short};

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::fixed::{AGENT_ANSWER, AGENT_COMMAND, AGENT_PAUSE};
use crate::libvirt::{self, Code, Domain};
use crate::ops::{AgentUnavailable, Error, Session};
use crate::pool::{CallClass, CallShare, JobName, Permit, Pool, current};

/// Acquires a permit for a call that asks a guest agent. The calling thread waits for it, in turn with all other calls.
///
/// # Errors
/// [`Error::Pool`] if there is none by `deadline`.
///
/// # Blocking
/// Up to `deadline`.
pub(in crate::ops) fn permit(
    pool: &Pool<Session>,
    name: &JobName,
    deadline: Instant,
) -> Result<Permit, Error> {
    let (user, guest) = (current::caller(), name.guest.as_str().into());
    let share = CallShare { class: CallClass::Agent, user, guest };
    pool.wait_for_permit(&share, deadline).map_err(|why| {
        Error::Pool(pool.no_permit(why, &share, &name.to_string(), current::arrived()))
    })
}

/// The purpose of a guard under which file systems are being frozen, or are frozen.
pub(super) const FROZEN: &str = "Freeze";

impl GuestAgents {
    /// Creates a table without guest agents.
    pub(in crate::ops) fn new(wants_filesystems: bool) -> Self {
        Self { wants_filesystems, ..Self::default() }
    }

    /// Acquires the exclusive right to ask the agent of this guest for `what`.
    ///
    /// Others can acquire it when the guard is dropped: when the job ends, even if its caller got an answer before.
    /// libvirt's timeout for answers is a setting of the guest, not of a command, so commands must not overlap.
    ///
    /// # Errors
    /// [`AgentUnavailable::Busy`] while another job has the guard; [`AgentUnavailable::Frozen`] while the file systems
    /// are frozen.
    pub(in crate::ops) fn agent_guard(
        self: &Arc<Self>,
        guest: &str,
        what: &'static str,
    ) -> Result<AgentGuard, AgentUnavailable> {
        let mut asked = self.asked.lock();
        if let Some((_, other)) = asked.iter().find(|(it, _)| it == guest) {
            return Err(if *other == FROZEN {
                AgentUnavailable::Frozen
            } else {
                AgentUnavailable::Busy(other)
            });
        }
        asked.push((guest.to_owned(), what));
        Ok(AgentGuard { agents: Arc::clone(self), guest: guest.to_owned() })
    }

    /// Acquires the guard if fewer than `most` other guests' agents are asked for `what`.
    ///
    /// # Errors
    /// As [`GuestAgents::agent_guard`]; [`AgentUnavailable::Busy`] if `most` other guest agents are asked for `what`.
    pub(in crate::ops) fn limited_agent_guard(
        self: &Arc<Self>,
        guest: &str,
        what: &'static str,
        most: usize,
    ) -> Result<AgentGuard, AgentUnavailable> {
        let agent_guard = self.agent_guard(guest, what)?;
        let asked = self.asked.lock().iter().filter(|(_, it)| *it == what).count();
        // The mutex of `asked` must be free here: dropping a guard locks it.
        if asked > most { Err(AgentUnavailable::Busy(what)) } else { Ok(agent_guard) }
    }

    /// Returns why the agent must not ask the guest agent of this run of a guest now, if so.
    pub(super) fn unavailable(
        &self,
        guest: &str,
        run: u32,
        now: Instant,
    ) -> Option<AgentUnavailable> {
        let silent = self.guests.lock().silent_since(guest, run)?;
        AGENT_PAUSE.checked_sub(now.saturating_duration_since(silent)).map(AgentUnavailable::Silent)
    }

    /// Records that the agent asked the guest agent of this run of a guest, and whether the answer took too long.
    pub(super) fn note_asked(&self, guest: &str, run: u32, is_slow: bool) {
        self.guests.lock().note_asked(guest, run, is_slow);
    }
}

/// The exclusive right to ask a guest's agent. See [`GuestAgents::agent_guard`].
pub(in crate::ops) struct AgentGuard {
    agents: Arc<GuestAgents>,
    guest: String,
}

impl Drop for AgentGuard {
    fn drop(&mut self) {
        self.agents.asked.lock().retain(|(guest, _)| *guest != self.guest);
    }
}

/// A command to a guest agent.
pub(in crate::ops) type Command<'a> = &'a dyn Fn(&Domain) -> Result<(), libvirt::Error>;

impl AgentGuard {
    /// Sends the guest agent a command that it carries out at once.
    ///
    /// # Errors
    /// [`Error::AgentLeftAlone`]; errors of libvirt, [`Code::AGENT_UNRESPONSIVE`] if the guest agent is not connected
    /// or does not answer. The text may be the guest's, cut to a bound.
    ///
    /// # Blocking
    /// Up to [`AGENT_COMMAND`] for each of the guest agent's answers, at most two, and four round trips.
    pub(in crate::ops) fn command(
        &self,
        domain: &Domain,
        command: Command<'_>,
    ) -> Result<(), Error> {
        self.command_within(domain, AGENT_COMMAND, command)
    }

    /// Sends the guest agent a command whose answers may take `time` each.
    ///
    /// # Errors
    /// As [`AgentGuard::command`].
    pub(super) fn command_within(
        &self,
        domain: &Domain,
        time: Duration,
        command: Command<'_>,
    ) -> Result<(), Error> {
        let known =
            domain.id().map(|run| self.agents.unavailable(&self.guest, run, Instant::now()));
        match known.flatten() {
            Some(why) => Err(Error::AgentLeftAlone(why)),
            None => self.command_now(domain, time, command),
        }
    }

    /// Sends the guest agent a command even if the guest agent was silent a moment ago.
    ///
    /// # Errors
    /// As [`AgentGuard::command`], without [`Error::AgentLeftAlone`].
    pub(super) fn command_now(
        &self,
        domain: &Domain,
        time: Duration,
        command: Command<'_>,
    ) -> Result<(), Error> {
        // libvirt itself refuses the command for a guest that is off.
        let Some(run) = domain.id() else { return Ok(command(domain)?) };
        let began = Instant::now();
        domain.set_agent_timeout(Some(time))?;
        let done = command(domain);
        // The timeout is set for the domain, so it also applies to commands of other callers.
        let reset = domain.set_agent_timeout(None);
        let is_unresponsive = matches!(&done, Err(error) if error.code == Code::AGENT_UNRESPONSIVE);
        // libvirt reports a disconnected guest agent at once. It does not always report that a guest agent has not
        // answered, so the time decides.
        let took = began.elapsed();
        let is_slow = took > time || is_unresponsive && took > AGENT_ANSWER;
        self.agents.note_asked(&self.guest, run, is_slow);
        done.and(reset).map_err(|error| {
            Error::Libvirt(libvirt::Error { message: short(&error.message), ..error })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixed::AGENT_TEXT_CHARS;

    #[test]
    fn guest_text_is_shortened_and_printable() {
        let words = "\u{1b}[2J\r\n\u{9b}".to_owned() + &"é".repeat(10_000);
        let short = short(&words);
        assert!(short.starts_with("\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}é"), "{short:?}");
        assert_eq!(short.chars().count(), AGENT_TEXT_CHARS);
    }

    #[test]
    fn so_many_guest_agents_are_asked_at_once() {
        let agents = Arc::<GuestAgents>::default();
        let agent_guard = |guest| agents.limited_agent_guard(guest, "Shutdown", 2);
        let busy = |why| AgentUnavailable::Busy(why);
        let (first, _second) = (agent_guard("a").unwrap(), agent_guard("b").unwrap());
        assert_eq!(agent_guard("c").map(drop), Err(busy("Shutdown")));
        assert_eq!(agent_guard("a").map(drop), Err(busy("Shutdown")), "its own is asked");
        let _other = agents.agent_guard("d", "Trim").unwrap();
        drop(first);
        assert!(agent_guard("c").is_ok(), "a turn came free, and others do not count");
    }
}
