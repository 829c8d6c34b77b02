//! List and Describe: the guests of this host, and the data of one guest.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::warn;

use crate::config::fixed::{LIST_ADDRESSES, LIST_GUESTS, LIST_GUESTS_MAX};
use crate::guest::domain::{KIB_PER_MIB, VirDomain};
use crate::guest::pending::pending;
use crate::guest::state::{Condition, STATE_NAMES, State};
use crate::guest::wire::GuestRequest;
use crate::guest::wire::agent::Address;
use crate::guest::wire::verbs::{ListRequest, ListResponse, ListedGuest};
use crate::libvirt::{self, Code, Connection, Domain, XmlKind};
use crate::ops::guest_agent::turns::GuestAgents;
use crate::ops::guests::lifecycle::condition;
use crate::ops::hypervisor::definition::described;
use crate::ops::requests::named_guest;
use crate::ops::{Error, Guests};
use crate::pool::Lane;
use crate::sorted::OrderBy;

impl Guests {
    /// Returns a page of this host's guests, including those of other tools, ordered by id.
    ///
    /// The call queries no emulator, so a hung one does not matter. Each page shows the moment of its own call. A guest
    /// that is made or deleted between two pages may be missing, and none appears twice.
    ///
    /// # Errors
    /// A `limit` above [`LIST_GUESTS_MAX`], an unknown `state`; errors of libvirt.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read): two round trips for all guests, one for each guest of
    /// the page, and with a filter for metadata two for each guest that is checked.
    pub fn list_guests(&self, request: ListRequest) -> Result<ListResponse, Error> {
        let deadline = self.core.read_deadline(&request.args)?;
        let (filter, agents) = (PageFilter::parse(request)?, Arc::clone(&self.agents));
        self.core.read(Lane::Read, "List", "guests", deadline, move |connection| {
            Ok(filter.page(connection, &agents)?)
        })
    }

    /// Returns the data of the guest's domain that the owner's model has: the live definition, or the definition of the
    /// next start if it is off. The metadata is that of the definition: a guest restored from saved memory runs with
    /// former metadata.
    ///
    /// # Errors
    /// As [`Guests::status`].
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn describe(&self, request: GuestRequest) -> Result<VirDomain, Error> {
        let id = named_guest(request.guest)?.id;
        let deadline = self.core.read_deadline(&request.args)?;
        let (name, agents) = (id.clone(), Arc::clone(&self.agents));
        self.core.read(Lane::Read, "Describe", &id, deadline, move |connection| {
            let domain = connection.lookup_domain_by_name(&name)?;
            let mut found = described(&domain, XmlKind::Live)?;
            let condition = condition(&domain)?;
            condition.state.name().clone_into(&mut found.state);
            condition.reason.clone_into(&mut found.reason);
            found.autostart = domain.autostart()?;
            found.addresses = known_addresses(&agents, &name, &domain);
            if domain.is_active()? {
                let definition = described(&domain, XmlKind::Inactive)?;
                found.pending = pending(&found, &definition);
                found.metadata = definition.metadata;
            }
            if let Some(stored) = &found.metadata.guest {
                found.start_order = stored.start_order;
                found.start_delay_s = stored.start_delay_s;
                found.stop_timeout_s = stored.stop_timeout_s;
            }
            Ok(found)
        })
    }
}

/// Returns the known addresses of a domain's run; none if it is off.
fn known_addresses(agents: &GuestAgents, id: &str, domain: &Domain) -> Vec<Address> {
    domain.id().map(|run| agents.addresses(id, run)).unwrap_or_default()
}

/// The filter of a page.
struct PageFilter {
    after: String,
    limit: usize,
    state: Option<State>,
    metadata: BTreeMap<String, String>,
}

impl PageFilter {
    fn parse(request: ListRequest) -> Result<Self, Error> {
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => LIST_GUESTS,
            limit if limit <= LIST_GUESTS_MAX => limit,
            limit => {
                let why = format!("limit is {limit}; the maximum is {LIST_GUESTS_MAX}");
                return Err(Error::Invalid(why));
            }
        };
        let state = match request.state.as_str() {
            "" => None,
            name => Some(State::from_name(name).ok_or_else(|| {
                let names = STATE_NAMES.map(|(_, name)| name).join(", ");
                Error::Invalid(format!("state is {name:?}; it must be one of {names}"))
            })?),
        };
        Ok(Self { after: request.after, limit, state, metadata: request.metadata })
    }

    fn page(
        &self,
        connection: &Connection,
        agents: &GuestAgents,
    ) -> Result<ListResponse, libvirt::Error> {
        let all = match self.state {
            Some(state) => connection.list_domains_in(state.code())?,
            None => connection.list_domains()?,
        };
        let saved = connection.saved_domain_names()?;
        let mut named = Vec::with_capacity(all.len());
        for domain in all {
            let name = domain.name()?;
            if name > self.after {
                named.push((name, domain));
            }
        }
        named.order_by(&|(a, _), (b, _)| a.cmp(b));
        let (mut guests, mut rest) = (Vec::new(), named.into_iter());
        while guests.len() < self.limit {
            let Some((name, domain)) = rest.next() else { break };
            let is_saved = saved.contains(&name);
            match self.look(name, &domain, is_saved, agents) {
                // The domain was undefined after libvirt listed it.
                Err(error) if error.code == Code::NO_DOMAIN => {}
                found => guests.extend(found?),
            }
        }
        let last = guests.last().filter(|_| rest.len() > 0);
        let next = last.map(|guest| guest.id.clone()).unwrap_or_default();
        Ok(ListResponse { guests, next })
    }

    /// Returns the guest if it matches the filter.
    fn look(
        &self,
        id: String,
        domain: &Domain,
        is_saved: bool,
        agents: &GuestAgents,
    ) -> Result<Option<ListedGuest>, libvirt::Error> {
        let info = domain.info()?;
        let mut state = State::from_code(info.state);
        let mut reason = "";
        // Only these states have reasons, which cost a further round trip.
        if matches!(state, State::Paused | State::Shutoff | State::Crashed) {
            Condition { state, reason } = condition(domain)?;
        }
        // The state may have changed since libvirt filtered by it, and libvirt has one filter for several states.
        if self.state.is_some_and(|wanted| wanted != state) || !self.has_metadata(domain)? {
            return Ok(None);
        }
        let mut addresses = known_addresses(agents, &id, domain);
        addresses.truncate(LIST_ADDRESSES);
        Ok(Some(ListedGuest {
            id,
            state: state.name().to_owned(),
            reason: reason.to_owned(),
            memory_mib: info.memory_max_kib / KIB_PER_MIB,
            cpu: u64::from(info.vcpus),
            saved: is_saved && state == State::Shutoff,
            addresses,
        }))
    }

    fn has_metadata(&self, domain: &Domain) -> Result<bool, libvirt::Error> {
        if self.metadata.is_empty() {
            return Ok(true);
        }
        // An unreadable definition has no metadata that could match, and does not prevent the page.
        let xml = match domain.xml(XmlKind::Inactive) {
            Err(error) if error.code == Code::NO_DOMAIN || error.connection_lost() => {
                return Err(error);
            }
            Err(error) => {
                warn!("cannot read the definition of a domain: {error}");
                return Ok(false);
            }
            Ok(xml) => xml,
        };
        let Ok(found) = VirDomain::from_xml(&xml) else { return Ok(false) };
        let parameters = found.metadata.user_metadata.parameters;
        let has = |(name, value): (&String, &String)| {
            parameters.iter().any(|found| found.name == *name && found.value == *value)
        };
        Ok(self.metadata.iter().all(has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: ListRequest) -> String {
        PageFilter::parse(request).err().expect("it is refused").to_string()
    }

    #[test]
    fn page_has_100_guests_by_default_and_1000_at_most() {
        let limit = |limit| PageFilter::parse(ListRequest { limit, ..ListRequest::default() });
        assert_eq!(limit(0).map(|it| it.limit).ok(), Some(100));
        assert_eq!(limit(1000).map(|it| it.limit).ok(), Some(1000));
        let why = refused(ListRequest { limit: u64::MAX, ..ListRequest::default() });
        assert!(why.starts_with("invalid argument: limit is "), "{why}");
    }

    #[test]
    fn a_state_has_one_of_the_names_of_the_wire() {
        let why = refused(ListRequest { state: "Running".into(), ..ListRequest::default() });
        let begin = "invalid argument: state is \"Running\"; it must be one of unknown, ";
        assert!(why.starts_with(begin), "{why}");
    }
}
