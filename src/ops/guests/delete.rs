//! Delete: removes a guest's domain, networks and volumes, including leftovers of a former attempt.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use log::warn;

use crate::config::Store;
use crate::events::EventKind;
use crate::guest::domain::VirDomain;
use crate::guest::domain_xml::handed_in_sources;
use crate::guest::metadata::Metadata;
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::journal::{Step, Verb};
use crate::libvirt::{self, Code, Connection, Domain, XmlKind};
use crate::ops::disks::volume_owners::{Expected, guest_of};
use crate::ops::disks::volumes::{LeavingVolumes, wants_volumes};
use crate::ops::guests::screens;
use crate::ops::guests::seed_files::SeedFiles;
use crate::ops::guests::undefine::destroy_if_active;
use crate::ops::networks::{guest_networks, nat};
use crate::ops::recovery::{Leftover, Recovered};
use crate::ops::requests::respond;
use crate::ops::transaction::Transaction;
use crate::ops::{Error, Guests, Session};
use crate::pool::{GuestLock, Lane};
use crate::storage::{self, Dataset, Maker, PoolName};

impl Guests {
    /// Deletes a guest.
    ///
    /// Destroys its domain if it is active, undefines it, removes the networks of the request's NICs that no other
    /// guest uses and the networks that this agent made for the guest, and destroys the volumes that it made for the
    /// guest. A volume that a caller named as `source` stays. The log of the guest's console is removed, too.
    ///
    /// The answer is the request's guest, unchanged. A missing domain is no error if networks or volumes of the guest
    /// remain to be removed, or if an earlier Delete of the guest was incomplete when this call arrived.
    ///
    /// # Errors
    /// Errors of libvirt; that there is no such domain, if nothing of the guest is left; [`Error::VolumesLeft`] names
    /// the disks that remain, including files that another tool put on top of them.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); after the deadline the agent still completes the
    /// Delete.
    pub fn delete(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let guest = request.guest.ok_or(Error::NoGuest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let id = guest.id.clone();
        // The reconciler, or another caller's Delete, may complete an earlier Delete while this one waits.
        let is_started = self.core.journal.has_unfinished(Verb::Delete, &id);
        // Before the guest lock: a method that hangs on this guest's emulator holds the lock, and destroying the domain
        // frees it.
        let was_there = self.core.urgent("Delete", &guest.id, deadline, move |session| {
            match session.find(&id)? {
                Some(domain) => destroy_if_active(&domain).map(|()| true),
                None => Ok(false),
            }
        })?;
        let lock = self.core.lock_guest(&guest.id, deadline)?;
        let removed = self.remove_guest(&guest, &lock, deadline)?;
        match removed {
            (Some(missing), false) if !was_there && !is_started => Err(missing.into()),
            _ => {
                screens::forget_console(&guest.id, &self.core.host);
                self.core.events.note(&guest.id, EventKind::Deleted);
                Ok(respond(guest))
            }
        }
    }

    /// Runs the steps of a Delete after the stop of the guest. Returns libvirt's error if there is no such domain, and
    /// whether anything was removed.
    fn remove_guest(
        &self,
        guest: &Guest,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(Option<libvirt::Error>, bool), Error> {
        let (asked, has_store) = (guest.clone(), self.core.host.store != Store::None);
        let (pool, state) = (self.core.volumes.pool().clone(), self.core.state_dir());
        let work = move |session: &mut Session, transaction: &mut Transaction| {
            let (steps, missing) =
                leaving_steps(session, &asked, (&pool, has_store), state.as_deref())?;
            transaction.record_if_possible(steps);
            Ok(missing)
        };
        let transaction = Transaction::begin(&self.core.journal, Verb::Delete, guest);
        let (missing, transaction) =
            self.core.run_steps(Lane::Control, transaction, lock, deadline, work)?;
        // The leftovers of earlier calls for this guest, without those of this call.
        let earlier = self.core.journal.leftovers_of(lock.guest(), None);
        let outcome = self.core.recover(transaction, lock, deadline);
        let earlier = self.core.recover_leftovers(earlier, lock, deadline);
        let Recovered { removed, used, .. } = outcome?;
        let removed = removed || earlier?;
        match used.is_empty() {
            true => Ok((missing, removed)),
            false => Err(Error::VolumesLeft(used.iter().map(Leftover::reason).collect())),
        }
    }
}

/// Returns the steps of a Delete, in reverse order, and libvirt's error if there is no such domain.
fn leaving_steps(
    session: &mut Session,
    guest: &Guest,
    (pool, has_store): (&PoolName, bool),
    state: Option<&Path>,
) -> Result<(Vec<Step>, Option<libvirt::Error>), Error> {
    let (domain, missing) = match session.domain(&guest.id) {
        Ok(domain) => (Some(domain), None),
        Err(Error::Libvirt(error)) if error.code == Code::NO_DOMAIN => (None, Some(error)),
        Err(error) => return Err(error),
    };
    let connection = session.connection()?;
    let (networks, volumes, lost) = leaving(connection, guest, domain.as_ref(), pool)?;
    for mac in lost {
        // Not a recorded step: a later retry would remove a network that another guest made under this name meanwhile.
        if let Err(error) = nat::release(connection, &mac) {
            warn!("cannot remove the reservation of NIC {mac}; guest={:?}: {error}", guest.id);
        }
    }
    // Before anything is removed: afterwards nothing would tell whose the volumes are.
    if volumes.expected == Expected::Some && !has_store {
        return Err(storage::Error::NoStore.into());
    }
    let leaving = Step::Leaving {
        networks: networks.into_iter().collect(),
        volumes: volumes.expected != Expected::None,
        expected: volumes.expected == Expected::Some,
        supplied: volumes.supplied.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
    };
    let mut steps = vec![leaving];
    if let Some(domain) = domain {
        let uuid = domain.uuid()?;
        let maker = Maker::domain(&uuid).to_string();
        steps.extend(volumes.renamed.iter().map(|volume| Step::Volume {
            name: volume.to_string(),
            // A new guest of the former id may make volumes there meanwhile.
            made_parent: false,
            maker: Some(maker.clone()),
        }));
        // Also if another tool has defined the domain again without them.
        if SeedFiles::new(state, &uuid).is_ok_and(|files| files.exist()) {
            steps.push(Step::SeedFiles(uuid.clone()));
        }
        // The deciding step is last in the list, so it runs first: until then the guest is whole, and a crash leaves it
        // whole.
        steps.push(Step::Domain { uuid: Some(uuid) });
    }
    Ok((steps, missing))
}

/// Returns the names of the networks to remove with a guest if no other guest uses them, the volumes to remove by its
/// definition, and the MAC addresses of its NICs whose networks no longer exist.
pub(in crate::ops) fn leaving(
    connection: &Connection,
    guest: &Guest,
    domain: Option<&Domain>,
    pool: &PoolName,
) -> Result<(BTreeSet<String>, LeavingVolumes, Vec<String>), Error> {
    let xml = domain.map(|domain| domain.xml(XmlKind::Inactive)).transpose()?;
    let found = xml.as_ref().map(|xml| definition(xml, &guest.id));
    let mut names = match &found {
        Some(found) => networks_made(connection, found)?,
        None => BTreeSet::new(),
    };
    for name in guest.nics.iter().map(|nic| &nic.mac) {
        // If only the request names a network, the network's mark must name the guest.
        if !name.is_empty()
            && !names.contains(name)
            && guest_networks::mark_of(connection, name)?.is_none_or(|mark| mark.guest == guest.id)
        {
            names.insert(name.clone());
        }
    }
    let (Some(xml), Some(found)) = (xml, found) else {
        let (expected, supplied, renamed) = (Expected::Unknown, Vec::new(), Vec::new());
        return Ok((names, LeavingVolumes { expected, supplied, renamed }, Vec::new()));
    };
    let nics = found.devices.interfaces.iter().filter(|it| it.source.network == it.mac.address);
    let lost = nics.map(|it| it.mac.address.clone()).filter(|mac| !names.contains(mac));
    let lost = lost.collect();
    let Metadata { guest: request, besides, .. } = &found.metadata;
    let volumes = LeavingVolumes {
        expected: match request {
            _ if besides.volumes => Expected::Some,
            Some(request) if wants_volumes(request) => Expected::Some,
            Some(_) => Expected::None,
            None => Expected::Unknown,
        },
        // Also if the domain was defined again since, with another uuid.
        supplied: handed_in_sources(&xml).into_iter().map(PathBuf::from).collect(),
        renamed: renamed_volumes(&found.metadata, &guest.id, pool),
    };
    Ok((names, volumes, lost))
}

/// Returns the volumes of a guest's disks that are not below `guests/<id>`, because they were made under a former id.
fn renamed_volumes(metadata: &Metadata, id: &str, pool: &PoolName) -> Vec<Dataset> {
    let disks = metadata.guest.iter().flat_map(|request| &request.disks);
    let own = disks.filter(|disk| disk.wants_volume() && !disk.volume.is_empty());
    let own = own.map(|disk| &disk.volume);
    let volumes = own.filter_map(|volume| pool.full_dataset(volume).ok());
    let volumes = volumes.chain(metadata.seed(pool));
    volumes.filter(|volume| guest_of(volume).is_some_and(|former| former != id)).collect()
}

/// Parses the definition of the domain. An unreadable one counts as empty, and does not prevent the Delete.
fn definition(xml: &str, id: &str) -> VirDomain {
    VirDomain::from_xml(xml).unwrap_or_else(|error| {
        warn!("cannot parse the domain XML; guest={id:?}: {error}");
        VirDomain::default()
    })
}

/// Returns the names of the guest's networks that this agent made, from the request stored with its domain. The
/// original agent stored no request, and a clone carries the request of another domain: there the interfaces tell. When
/// the domain is gone, the network's mark tells whose network it is.
fn networks_made(connection: &Connection, found: &VirDomain) -> Result<BTreeSet<String>, Error> {
    let mut names = found.metadata.besides.networks.clone();
    match &found.metadata.guest {
        Some(request) => names.extend(request.nics.iter().map(|nic| nic.mac.clone())),
        None => {
            let interfaces = found.devices.interfaces.iter();
            names.extend(interfaces.map(|interface| interface.source.network.clone()));
        }
    }
    names.remove("");
    let mut made = BTreeSet::new();
    for name in names {
        if guest_networks::mark_of(connection, &name)?.is_some() {
            made.insert(name);
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, HostConfig, Store};
    use crate::ops::Libvirt;

    #[test]
    fn a_delete_that_ends_while_another_waits_is_done() {
        let store = std::env::temp_dir().join(format!("mistify-delete-{}", std::process::id()));
        std::fs::create_dir_all(&store).unwrap();
        let host = HostConfig {
            libvirt_uri: "test:///default".to_owned(),
            store: Store::Directory(store.clone()),
            ..HostConfig::default()
        };
        let agent = Libvirt::with_config(&Config { host, ..Config::default() }).unwrap();
        let guest = Guest { id: "gone".to_owned(), ..Guest::default() };
        let delete = || {
            let request = GuestRequest { guest: Some(guest.clone()), ..GuestRequest::default() };
            agent.delete(request)
        };
        let first = agent.core.journal.begin(Verb::Delete, &guest.id, &guest).unwrap();
        let lock = agent
            .core
            .pool
            .lock_guest(&guest.id, Instant::now() + Duration::from_secs(30))
            .unwrap();
        thread::scope(|threads| {
            let waiting = threads.spawn(delete);
            while agent.core.pool.snapshot().callers.locks_waiting == 0 && !waiting.is_finished() {
                thread::yield_now();
            }
            first.complete().unwrap();
            drop(lock);
            waiting.join().unwrap().expect("the first Delete has done what the second asks for");
        });
        let again = delete().expect_err("there is no such guest");
        assert!(
            matches!(&again, Error::Libvirt(error) if error.code == Code::NO_DOMAIN),
            "{again}"
        );
        std::fs::remove_dir_all(&store).unwrap();
    }
}
