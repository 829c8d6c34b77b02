//! Trim: returns the space of deleted files of a guest to its host.

use std::time::{Duration, Instant};

use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::libvirt::{Domain, Topic};
use crate::ops::guest_agent::turns;
use crate::ops::requests::{named_guest, respond};
use crate::ops::{Error, Guests, Session};
use crate::pool::{JobName, Lane};

const VERB: &str = "Trim";

impl Guests {
    /// Asks the guest agent of a running guest to report the free blocks of all its file systems to the host, which can
    /// use their space for others: a disk with `discard` shrinks. `virDomainFSTrim`. Meanwhile the guest agent answers
    /// nothing else; GuestInfo reports that.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::AgentLeftAlone`]; errors of libvirt and the guest agent. After the
    /// deadline the guest may continue.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); some seconds if the guest agent is silent from
    /// the start.
    pub fn trim(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let name = JobName::new(VERB, guest.id.clone()).of_emulator();
        let id = guest.id.clone();
        // Calls that ask the guest agent now end first.
        let permit = turns::permit(&self.core.pool, &name, deadline)?;
        let agent_guard = self.agents.agent_guard(&id, VERB).map_err(Error::AgentLeftAlone)?;
        // Later calls to this guest agent get the answer that it is busy, at once.
        drop(permit);
        self.core.once(Lane::Control, name, deadline, move |session: &mut Session| {
            let domain = session.domain(&id)?;
            // Without this command, the call would wait for a silent guest agent until the deadline; a failure here
            // also ends further commands for a while. A guest agent that does not report its host name does answer.
            let probe = |domain: &Domain| domain.agent_info(Topic::Hostname).map(drop);
            match agent_guard.command(&domain, &probe) {
                Err(Error::Libvirt(error)) if !error.connection_lost() => {}
                probed => probed?,
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            agent_guard.command_within(&domain, rest.max(Duration::from_secs(1)), &Domain::trim)
        })?;
        Ok(respond(guest))
    }
}
