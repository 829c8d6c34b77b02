//! Guest agents: who asks one, and in which turn.
//!
//! A guest agent may be absent, silent, slow, or anybody's. It is asked one thing at a time, and delays no other call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::fixed::{AGENT_ANSWER, AGENT_COMMAND, AGENT_PAUSE};
use crate::libvirt::{self, Code, Domain};
pub(super) use crate::ops::addresses::{Agents, short};
use crate::ops::{Error, LeftAlone, Session};
use crate::pool::{CallShare, JobName, Permit, Pool, Ration, current};

/// A permit for a call that asks a guest's agent, for which it waits on this thread, in turn with all others.
///
/// # Errors
/// [`Error::Pool`] where there is none by `deadline`.
///
/// # Blocking
/// Up to `deadline`.
pub(super) fn permit(
    pool: &Pool<Session>,
    name: &JobName,
    deadline: Instant,
) -> Result<Permit, Error> {
    let (user, guest) = (current::caller(), name.guest.as_str().into());
    let share = CallShare { ration: Ration::Agent, user, guest };
    pool.wait_for_permit(&share, deadline).map_err(|why| {
        Error::Pool(pool.no_permit(why, &share, &name.to_string(), current::arrived()))
    })
}

/// What a guest agent's turn is for that has frozen its file systems, or is to.
pub(super) const FROZEN: &str = "Freeze";

impl Agents {
    /// A table without guest agents.
    pub(super) fn new(wants_filesystems: bool) -> Self {
        Self { wants_filesystems, ..Self::default() }
    }

    /// The right to ask the agent of the guest with this id for `what`. Nobody else has it until it is dropped, which
    /// is when the job that asks is over, also where its caller was answered before: how long libvirt waits for answers
    /// is set for the guest, not for a command.
    ///
    /// # Errors
    /// [`LeftAlone::Busy`] where somebody has it.
    pub(super) fn turn(
        self: &Arc<Self>,
        guest: &str,
        what: &'static str,
    ) -> Result<Turn, LeftAlone> {
        let mut asked = self.asked.lock();
        if let Some((_, other)) = asked.iter().find(|(it, _)| it == guest) {
            return Err(if *other == FROZEN { LeftAlone::Frozen } else { LeftAlone::Busy(other) });
        }
        asked.push((guest.to_owned(), what));
        Ok(Turn { agents: Arc::clone(self), guest: guest.to_owned() })
    }

    /// The same where so many guests' agents at most are asked for this at once.
    ///
    /// # Errors
    /// [`LeftAlone::Busy`] where somebody has it, or as many others are asked for `what`.
    pub(super) fn turn_of(
        self: &Arc<Self>,
        guest: &str,
        what: &'static str,
        most: usize,
    ) -> Result<Turn, LeftAlone> {
        let turn = self.turn(guest, what)?;
        let asked = self.asked.lock().iter().filter(|(_, it)| *it == what).count();
        // The lock is free: a turn that is given back takes it.
        if asked > most { Err(LeftAlone::Busy(what)) } else { Ok(turn) }
    }

    /// Why the agent of this run of a guest is left alone, if it is.
    pub(super) fn left_alone(&self, guest: &str, run: u32, now: Instant) -> Option<LeftAlone> {
        let silent = self.guests.lock().silent_since(guest, run)?;
        AGENT_PAUSE.checked_sub(now.saturating_duration_since(silent)).map(LeftAlone::Silent)
    }

    /// Notes that the agent of this run of a guest was asked, and whether it took too long.
    pub(super) fn note_asked(&self, guest: &str, run: u32, is_slow: bool) {
        self.guests.lock().note_asked(guest, run, is_slow);
    }
}

/// The right to ask a guest's agent. See [`Agents::turn`].
pub(super) struct Turn {
    agents: Arc<Agents>,
    guest: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.agents.asked.lock().retain(|(guest, _)| *guest != self.guest);
    }
}

/// What a guest's agent is to do.
pub(super) type Command<'a> = &'a dyn Fn(&Domain) -> Result<(), libvirt::Error>;

impl Turn {
    /// Has the guest's agent do something that takes no time.
    ///
    /// # Errors
    /// [`Error::AgentLeftAlone`]; what libvirt says, [`Code::AGENT_UNRESPONSIVE`] where the agent is not connected or
    /// does not answer. Its text may be the guest's, cut to a bound.
    ///
    /// # Blocking
    /// Up to [`AGENT_COMMAND`] for each of the agent's answers, which are two at most, beside four round trips.
    pub(super) fn command(&self, domain: &Domain, command: Command<'_>) -> Result<(), Error> {
        self.command_within(domain, AGENT_COMMAND, command)
    }

    /// The same where each answer may take this long.
    ///
    /// # Errors
    /// As [`Turn::command`].
    pub(super) fn command_within(
        &self,
        domain: &Domain,
        time: Duration,
        command: Command<'_>,
    ) -> Result<(), Error> {
        let known = domain.id().map(|run| self.agents.left_alone(&self.guest, run, Instant::now()));
        match known.flatten() {
            Some(why) => Err(Error::AgentLeftAlone(why)),
            None => self.command_now(domain, time, command),
        }
    }

    /// The same where the guest agent was silent a moment ago, too.
    ///
    /// # Errors
    /// As [`Turn::command`], without [`Error::AgentLeftAlone`].
    pub(super) fn command_now(
        &self,
        domain: &Domain,
        time: Duration,
        command: Command<'_>,
    ) -> Result<(), Error> {
        // Of a guest that is off libvirt says so.
        let Some(run) = domain.id() else { return Ok(command(domain)?) };
        let began = Instant::now();
        domain.set_agent_timeout(Some(time))?;
        let done = command(domain);
        // The time is the domain's, for others' commands too.
        let reset = domain.set_agent_timeout(None);
        let is_unresponsive = matches!(&done, Err(error) if error.code == Code::AGENT_UNRESPONSIVE);
        // One that is not connected says so at once. libvirt does not always say that one has not answered.
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
        let agents = Arc::<Agents>::default();
        let turn = |guest| agents.turn_of(guest, "Shutdown", 2);
        let busy = |why| LeftAlone::Busy(why);
        let (first, _second) = (turn("a").unwrap(), turn("b").unwrap());
        assert_eq!(turn("c").map(drop), Err(busy("Shutdown")));
        assert_eq!(turn("a").map(drop), Err(busy("Shutdown")), "its own is asked");
        let _other = agents.turn("d", "Trim").unwrap();
        drop(first);
        assert!(turn("c").is_ok(), "a turn came free, and others do not count");
    }
}
