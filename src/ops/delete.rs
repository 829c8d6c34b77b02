//! Delete: a guest's domain and networks, gone; what a former attempt left included.

use std::collections::BTreeSet;

use log::warn;

use crate::guest::domain::VirDomain;
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::libvirt::{self, Code, Connection, Domain, XmlKind};
use crate::ops::{Error, Libvirt, Session, lifecycle, networks, respond};

impl Libvirt {
    /// Destroys the guest's domain if it runs in any way, undefines it, and removes the networks of
    /// the request's NICs that no other guest uses, and those that this agent made for it.
    ///
    /// The answer is the request's guest, unchanged. A domain that is gone already is no error
    /// where networks of it are left to remove.
    ///
    /// # Errors
    /// What libvirt says; where nothing of the guest is left, that there is no such domain.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); later than that it is still
    /// finished.
    pub fn delete(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = request.guest.ok_or(Error::NoGuest)?;
        let deadline = self.change_deadline(&request.args)?;
        let id = guest.id.clone();
        // Before the key is asked for: a verb that hangs on this guest's emulator holds the key and
        // is freed by this.
        let was_there = self.urgent("Delete", &guest.id, deadline, move |session| match session
            .find(&id)?
        {
            Some(domain) => destroy_if_active(&domain).map(|()| true),
            None => Ok(false),
        })?;
        let leaving = guest.clone();
        self.change("Delete", &guest.id, deadline, move |session| {
            remove(session, &leaving, was_there)
        })?;
        Ok(respond(guest))
    }
}

fn destroy_if_active(domain: &Domain) -> Result<(), Error> {
    let gone = |error: &libvirt::Error| error.code == Code::NO_DOMAIN;
    match domain.is_active() {
        Ok(true) => Ok(lifecycle::destroy(domain)?),
        // A domain without a definition is gone when it is off.
        Err(error) if !gone(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

fn remove(session: &mut Session, guest: &Guest, was_there: bool) -> Result<(), Error> {
    let mut names: BTreeSet<String> = guest.nics.iter().map(|nic| nic.mac.clone()).collect();
    names.remove("");
    let found = session.domain(&guest.id);
    let connection = session.connection()?;
    let missing = match found {
        Ok(domain) => {
            names.extend(networks_made(connection, &domain, &guest.id)?);
            destroy_if_active(&domain)?;
            match domain.undefine() {
                // A domain without a definition is gone when it is off.
                Err(error) if error.code == Code::NO_DOMAIN => {}
                outcome => outcome?,
            }
            None
        }
        Err(error) if error.code == Code::NO_DOMAIN => Some(error),
        Err(error) => return Err(error.into()),
    };
    // Without an id nothing says whose networks these would be.
    let removed = match guest.id.as_str() {
        "" => 0,
        id => networks::remove_all(connection, id, &names)?,
    };
    match missing {
        Some(error) if removed == 0 && !was_there => Err(error.into()),
        _ => Ok(()),
    }
}

/// The names of the networks that this agent made for the guest, by the request that it keeps.
fn networks_made(connection: &Connection, domain: &Domain, id: &str) -> Result<Vec<String>, Error> {
    let request = match VirDomain::from_xml(&domain.xml(XmlKind::Inactive)?) {
        Ok(found) => found.metadata.guest,
        Err(error) => {
            warn!("guest {id}: libvirt's XML: {error}");
            None
        }
    };
    let mut names = Vec::new();
    for nic in request.map(|request| request.nics).unwrap_or_default() {
        if networks::marked_for(connection, &nic.mac, id)? {
            names.push(nic.mac);
        }
    }
    Ok(names)
}
