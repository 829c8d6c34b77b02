//! Trim: a guest gives the space of deleted files back to its host.

use std::time::{Duration, Instant};

use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::libvirt::{Domain, Topic};
use crate::ops::{Error, Libvirt, Session, agents, named_guest, respond};
use crate::pool::{JobName, Lane};

const VERB: &str = "Trim";

impl Libvirt {
    /// Has the agent of a running guest name the free blocks of all its file systems to the host, which can use their
    /// space for others: a disk with `discard` shrinks. `virDomainFSTrim`. Meanwhile the guest's agent answers nothing
    /// else; GuestInfo says so.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::AgentLeftAlone`]; what libvirt and the guest agent say. Where the
    /// deadline comes, the guest may go on.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); some seconds where the guest agent is silent when
    /// it begins.
    pub fn trim(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.change_deadline(&request.args)?;
        let name = JobName::new(VERB, guest.id.clone()).of_emulator();
        let id = guest.id.clone();
        // Those that ask the guest agent now end first.
        let permit = agents::permit(&self.pool, &name, deadline)?;
        let turn = self.agents.turn(&id, VERB).map_err(Error::AgentLeftAlone)?;
        // Who asks it from now on learns that it is busy, and waits for nothing.
        drop(permit);
        self.once(Lane::Control, name, deadline, move |session: &mut Session| {
            let domain = session.domain(&id)?;
            // One that is silent would be waited for until the deadline: after this it is left alone. One that may not
            // tell its name answers.
            let probe = |domain: &Domain| domain.agent_info(Topic::Hostname).map(drop);
            match turn.command(&domain, &probe) {
                Err(Error::Libvirt(error)) if !error.connection_lost() => {}
                probed => probed?,
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            turn.command_within(&domain, rest.max(Duration::from_secs(1)), &Domain::trim)
        })?;
        Ok(respond(guest))
    }
}
