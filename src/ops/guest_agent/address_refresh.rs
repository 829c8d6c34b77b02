//! Queries for addresses of guests that no caller waits for, on the thread of `clocks`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use log::debug;

use crate::config::Nat;
use crate::config::fixed::{AGENT_ANSWER, NEIGHBOURS_BYTES};
use crate::libvirt::{Source, Topic};
use crate::ops::guest_agent::addresses::{Refresh, neighbours};
use crate::ops::guest_agent::clocks::Thread;
use crate::ops::guest_agent::guest_info::info_from;
use crate::ops::{Error, Session};
use crate::pool::JobName;

/// The kernel's neighbours of this process's network namespace.
const NEIGHBOURS: &str = "/proc/self/net/arp";

impl Thread {
    /// Runs one query for addresses.
    ///
    /// # Blocking
    /// Up to [`AGENT_LATE`](crate::config::fixed::AGENT_LATE).
    pub(in crate::ops) fn refresh(&self, refresh: &Refresh) {
        match refresh {
            Refresh::Guest(guest) => {
                if let Err(why) = self.ask_guest(guest) {
                    debug!("cannot ask the guest agent for addresses: {why}; guest={guest:?}");
                }
            }
            Refresh::Host(networks) => {
                match read_neighbours() {
                    Ok(table) => {
                        self.agents.report_all(neighbours(&table), Source::Arp, &self.events);
                    }
                    Err(error) => debug!("cannot read {NEIGHBOURS}: {error}"),
                }
                let mut networks = networks.clone();
                // The network of a NIC on the NAT bridge only leads to that bridge, and has no leases.
                if self.has_nat {
                    networks.insert(Nat::NETWORK.to_owned());
                }
                if let Err(why) = self.ask_networks(networks) {
                    debug!("cannot ask networks for leases: {why}");
                }
            }
        }
    }

    /// Asks a guest agent for addresses, and for file systems if metrics include them.
    fn ask_guest(&self, guest: &str) -> Result<(), Error> {
        let name = JobName::new("find the addresses of", guest).of_emulator();
        let (id, agents) = (guest.to_owned(), Arc::clone(&self.agents));
        let events = Arc::clone(&self.events);
        let work = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            let Some(run) = domain.id() else { return Ok(()) };
            let agent_guard =
                agents.agent_guard(&id, "its addresses").map_err(Error::AgentLeftAlone)?;
            let (found, mounted) = (RefCell::default(), RefCell::default());
            agent_guard.command_within(&domain, AGENT_ANSWER, &|domain| {
                found.replace(domain.addresses(Source::Agent)?);
                if agents.wants_filesystems {
                    // Not every guest agent reports them.
                    mounted.replace(domain.agent_info(Topic::FileSystems).ok());
                }
                Ok(())
            })?;
            if let Some(params) = mounted.into_inner() {
                agents.mount(&id, run, &info_from(&params).filesystems);
            }
            agents.report(&id, run, found.into_inner(), Source::Agent, &events);
            Ok(())
        };
        self.ask(name, Box::new(work))
    }

    /// Reads the leases of these networks. A network without leases is skipped.
    fn ask_networks(&self, networks: BTreeSet<String>) -> Result<(), Error> {
        let (agents, events) = (Arc::clone(&self.agents), Arc::clone(&self.events));
        if networks.is_empty() {
            // No guest is on a network that may have leases: forget the leases of before.
            agents.report_all(Vec::new(), Source::Lease, &events);
            return Ok(());
        }
        let work = move |session: &mut Session| {
            let mut found = Vec::new();
            for network in &networks {
                let connection = session.connection()?;
                match connection.lookup_network_by_name(network).and_then(|it| it.leases()) {
                    Ok(leases) => found.extend(leases),
                    Err(error) if error.connection_lost() => return Err(error.into()),
                    Err(_) => {}
                }
            }
            agents.report_all(found, Source::Lease, &events);
            Ok(())
        };
        self.ask(JobName::new("find the leases of", "networks"), Box::new(work))
    }
}

fn read_neighbours() -> io::Result<String> {
    let mut table = Vec::new();
    File::open(NEIGHBOURS)?.take(NEIGHBOURS_BYTES).read_to_end(&mut table)?;
    Ok(String::from_utf8_lossy(&table).into_owned())
}
