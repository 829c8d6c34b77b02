//! Marks of older agents: they name a guest's id and not its domain.
//!
//! The volumes of a renamed guest have its former id. So newer marks also have the uuid of the guest's domain. The
//! agent adds it to volumes of older agents that the definition of that id names: at a start, and when a method did not
//! complete the marks of its volumes. Other volumes stay as they are, and the agent logs them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use log::{info, warn};

use crate::config::fixed::RECOVERY_LOCK;
use crate::libvirt::{Connection, XmlKind};
use crate::ops::disks::volume_owners::guest_of;
use crate::ops::hypervisor::definition::described;
use crate::ops::{Core, Error};
use crate::os::paths::resolved;
use crate::pool::Lane;
use crate::sorted::Table;
use crate::storage::{Maker, StoredVolume, Volumes};

const VERB: &str = "complete the marks of";

impl Core {
    /// Completes the marks of volumes without a domain's uuid.
    ///
    /// # Errors
    /// If libvirt or storage does not answer, or a guest is locked: try again later.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change) for each such guest.
    pub(in crate::ops) fn complete_marks(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.deadlines.change;
        let list = move |volumes: &dyn Volumes| volumes.volumes(None, deadline);
        let domains = self.read(Lane::Read, VERB, "guests", deadline, |connection| {
            let domains = connection.list_domains()?;
            let mut uuids = BTreeSet::new();
            for domain in &domains {
                uuids.insert(domain.uuid()?);
            }
            Ok(uuids)
        })?;
        let mut by_guest: Table<String, Vec<StoredVolume>> = Table::new();
        for volume in self.on_storage(VERB, "guests", None, deadline, list)? {
            let guest =
                guest_of(&volume.name).filter(|guest| volume.owner.as_deref() == Some(*guest));
            // A domain may have been defined again with another uuid.
            let maker = volume.maker.as_ref().and_then(Maker::domain_uuid);
            let is_complete = maker.is_some_and(|uuid| domains.contains(uuid));
            if let Some(guest) = guest.filter(|_| !is_complete) {
                by_guest.or_default(guest.to_owned()).push(volume);
            }
        }
        let mut outcome = Ok(());
        for (guest, volumes) in by_guest {
            // A guest that is locked or unreadable does not prevent the others.
            if let Err(error) = self.complete_marks_of(&guest, volumes) {
                outcome = Err(error);
            }
        }
        outcome
    }

    fn complete_marks_of(&self, guest: &str, volumes: Vec<StoredVolume>) -> Result<(), Error> {
        let lock = self.pool.lock_guest(guest, Instant::now() + RECOVERY_LOCK)?;
        let deadline = Instant::now() + self.deadlines.change;
        let id = guest.to_owned();
        let named = self
            .read(Lane::Read, VERB, guest, deadline, move |connection| named_by(connection, &id))?;
        let is_named = |volume: &StoredVolume| {
            let device = resolved(&volume.device);
            named.as_ref().is_some_and(|(_, sources)| {
                sources.iter().any(|source| resolved(Path::new(source)) == device)
            })
        };
        let (own, others): (Vec<_>, Vec<_>) = volumes.into_iter().partition(is_named);
        // A volume with a maker was made by a call of this agent.
        for other in others.iter().filter(|other| other.maker.is_none()) {
            warn!(
                "keeping a volume of an older agent that the definition of its guest does not name; \
                 volume={} guest={guest:?}",
                other.name
            );
        }
        let Some((uuid, _)) = named.filter(|_| !own.is_empty()) else { return Ok(()) };
        let names: Vec<_> = own.into_iter().map(|volume| volume.name).collect();
        info!("completing the marks of {} volumes; guest={guest:?} uuid={uuid}", names.len());
        self.set_makers(VERB, names, Maker::domain(&uuid), &lock, deadline)
    }
}

/// Returns the uuid of the domain of this id, and the sources that its definition names; `None` without such a domain.
fn named_by(connection: &Connection, id: &str) -> Result<Option<(String, Vec<String>)>, Error> {
    let Some(domain) = connection.find_domain(id)? else { return Ok(None) };
    let definition = described(&domain, XmlKind::Inactive)?;
    let disks = definition.devices.disks.iter();
    let sources = disks.map(|disk| disk.source.path().to_owned()).collect();
    Ok(Some((domain.uuid()?, sources)))
}
