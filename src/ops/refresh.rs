//! Looks for addresses of guests that nobody waits for, on the thread of `clocks`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use log::debug;

use crate::config::fixed::{AGENT_ANSWER, NEIGHBOURS_BYTES};
use crate::libvirt::{Source, Topic, Wiring};
use crate::ops::addresses::{Refresh, neighbours};
use crate::ops::clocks::Thread;
use crate::ops::guest_info::told;
use crate::ops::{Error, Session};
use crate::pool::JobName;

/// The kernel's neighbours of this process's network namespace.
const NEIGHBOURS: &str = "/proc/self/net/arp";

impl Thread {
    /// Looks for addresses once.
    ///
    /// # Blocking
    /// Up to [`AGENT_LATE`](crate::config::fixed::AGENT_LATE).
    pub(super) fn refresh(&self, refresh: &Refresh) {
        match refresh {
            Refresh::Guest(guest) => {
                if let Err(why) = self.ask_guest(guest) {
                    debug!("cannot ask the guest agent for addresses: {why}; guest={guest:?}");
                }
            }
            Refresh::Host(networks) => {
                match read_neighbours() {
                    Ok(table) => {
                        self.agents.tell_all(neighbours(&table), Source::Arp, &self.events);
                    }
                    Err(error) => debug!("cannot read {NEIGHBOURS}: {error}"),
                }
                match self.ask_networks(networks.clone()) {
                    Ok(leases) => self.agents.tell_all(leases, Source::Lease, &self.events),
                    Err(why) => debug!("cannot ask networks for leases: {why}"),
                }
            }
        }
    }

    /// Asks a guest agent for addresses.
    fn ask_guest(&self, guest: &str) -> Result<(), Error> {
        let name = JobName::new("find the addresses of", guest).of_emulator();
        let (id, agents) = (guest.to_owned(), Arc::clone(&self.agents));
        let events = Arc::clone(&self.events);
        self.ask(name, move |session: &mut Session| {
            session.read(|connection| {
                let domain = connection.lookup_domain_by_name(&id)?;
                let Some(run) = domain.id() else { return Ok(()) };
                let turn = agents.turn(&id, "its addresses").map_err(Error::AgentLeftAlone)?;
                let (found, mounted) = (RefCell::default(), RefCell::default());
                turn.command_within(&domain, AGENT_ANSWER, &|domain| {
                    found.replace(domain.addresses(Source::Agent)?);
                    if agents.wants_filesystems {
                        // Not every guest agent knows them.
                        mounted.replace(domain.agent_info(Topic::FileSystems).ok());
                    }
                    Ok(())
                })?;
                if let Some(params) = mounted.into_inner() {
                    agents.mount(&id, run, &told(&params).filesystems);
                }
                agents.tell(&id, run, found.into_inner(), Source::Agent, &events);
                Ok(())
            })
        })
    }

    /// The leases of these networks. One that has none to tell of is passed over.
    fn ask_networks(&self, networks: BTreeSet<String>) -> Result<Vec<Wiring>, Error> {
        if networks.is_empty() {
            return Ok(Vec::new());
        }
        let name = JobName::new("find the leases of", "networks");
        self.ask(name, move |session: &mut Session| {
            session.read(|connection| {
                let mut found = Vec::new();
                for network in &networks {
                    match connection.lookup_network_by_name(network).and_then(|it| it.leases()) {
                        Ok(leases) => found.extend(leases),
                        Err(error) if error.connection_lost() => return Err(error.into()),
                        Err(_) => {}
                    }
                }
                Ok(found)
            })
        })
    }
}

fn read_neighbours() -> io::Result<String> {
    let mut table = Vec::new();
    File::open(NEIGHBOURS)?.take(NEIGHBOURS_BYTES).read_to_end(&mut table)?;
    Ok(String::from_utf8_lossy(&table).into_owned())
}
