//! Domains that a worker caches for a short time, so that a query of a state is one round trip.
//!
//! libvirt finds a domain by its uuid. So the next query notices an undefined domain, even if
//! another domain has its name by then, and looks the name up again. A query does not notice a
//! renamed domain, so entries expire soon. A query that returns a domain's name with its state does
//! not run on libvirtd's priority workers, but a lookup and a query of the state do: Status must
//! work while libvirtd's other workers hang on emulators.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::config::fixed::{CACHED_DOMAIN_AGE, CACHED_DOMAINS_MAX};
use crate::libvirt::{Code, Connection, Domain, Error};

/// Domains of one connection by the names of their lookups, and the times of the lookups.
#[derive(Debug, Default)]
pub(super) struct DomainCache(BTreeMap<String, (Domain, Instant)>);

impl DomainCache {
    /// Returns the state of the domain of this name on this connection and its reason, as libvirt's
    /// numbers.
    ///
    /// # Errors
    /// As [`Connection::lookup_domain_by_name`] and [`Domain::state`].
    ///
    /// # Blocking
    /// One round trip for a cached domain, at most three.
    pub(in crate::ops) fn state(
        &mut self,
        connection: &Connection,
        name: &str,
    ) -> Result<(i32, i32), Error> {
        if let Some((domain, _)) =
            self.0.get(name).filter(|(_, at)| at.elapsed() < CACHED_DOMAIN_AGE)
        {
            match domain.state() {
                Err(error) if error.code == Code::NO_DOMAIN => {}
                outcome => return outcome,
            }
        }
        self.0.remove(name);
        let (looked_up, domain) = (Instant::now(), connection.lookup_domain_by_name(name)?);
        let state = domain.state()?;
        if self.0.len() >= CACHED_DOMAINS_MAX {
            self.0.clear();
        }
        self.0.insert(name.to_owned(), (domain, looked_up));
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt;

    fn define(connection: &Connection, name: &str, uuid: &str) -> Domain {
        let xml = format!(
            "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>\
             <os><type>hvm</type></os></domain>"
        );
        connection.define_domain(&xml).unwrap()
    }

    #[test]
    fn cache_is_bounded_and_each_domain_is_answered() {
        libvirt::start().unwrap();
        let connection = Connection::open("test:///default").unwrap();
        let mut cache = DomainCache::default();
        let (mut domains, mut most) = (Vec::new(), 0);
        for number in 0..=CACHED_DOMAINS_MAX {
            let name = format!("kept-{number}");
            let uuid = format!("7c3b0e52-0000-4000-8000-{number:012}");
            domains.push((define(&connection, &name, &uuid), name.clone()));
            for _ in 0..2 {
                assert_eq!(cache.state(&connection, &name).unwrap().0, 5);
                most = cache.0.len().max(most);
            }
        }
        assert_eq!((most, cache.0.len()), (CACHED_DOMAINS_MAX, 1));
        for (domain, name) in domains {
            domain.undefine().unwrap();
            let gone = cache.state(&connection, &name).unwrap_err();
            assert_eq!((gone.code, gone.call), (Code::NO_DOMAIN, "virDomainLookupByName"));
        }
    }
}
