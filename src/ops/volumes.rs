//! A guest's volumes: made before its domain, taken back when that fails, destroyed with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::guest::wire::Guest;
use crate::ops::{Error, Libvirt};
use crate::pool::{Hold, Job, Lane};
use crate::storage::{self, Id, Planned, Space, Volumes, Wanted, Whose};

/// How long taking volumes back may take, counted from the failure: longer than storage's own
/// patience with a volume that is busy.
pub(super) const TAKE_BACK: Duration = Duration::from_secs(30);

/// Whether a guest has disks whose volumes this agent makes: those that name no source.
pub(super) fn wants_volumes(guest: &Guest) -> bool {
    guest.disks.iter().any(|disk| disk.source.is_empty())
}

/// Volumes that were made, or found, for a guest.
#[derive(Clone)]
pub(super) struct Made {
    volumes: Arc<dyn Volumes>,
    planned: Vec<Planned>,
}

impl Made {
    /// Destroys what was made by this and not found; answers with what could not be destroyed.
    ///
    /// # Blocking
    /// Up to [`TAKE_BACK`].
    pub(super) fn take_back(&self, id: &str) -> Vec<String> {
        match self.volumes.take_back(&self.planned, Instant::now() + TAKE_BACK) {
            Ok(removal) => {
                info!("guest {id}: took back volumes: {}", removal.destroyed.join(", "));
                removal.left.iter().map(ToString::to_string).collect()
            }
            Err(error) => {
                warn!("guest {id}: take back volumes: {error}");
                let names = self.planned.iter().filter(|planned| planned.found.is_none());
                names.map(|planned| format!("volume {}", planned.wanted.volume)).collect()
            }
        }
    }
}

impl Libvirt {
    /// Makes the volumes `wanted` for the disks that name no source, and fills in `volume`, `source` and
    /// `size` of these. Volumes that are there and right are adopted; where the domain `exists`
    /// they have to be there.
    ///
    /// # Errors
    /// What storage says, with the step; then nothing of it is left.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn make_volumes(
        &self,
        guest: &mut Guest,
        wanted: Vec<Wanted>,
        exists: bool,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<Made, Error> {
        let (volumes, id) = (Arc::clone(&self.volumes), guest.id.clone());
        let late = Arc::clone(&self.volumes);
        let job = Job { what: format!("CreateGuest {id}"), deadline };
        let (made, devices) = self.pool.run_or_else(
            Lane::Storage,
            job,
            Some(hold),
            move |_| make(volumes, &wanted, exists, deadline),
            move |_, outcome| {
                if let Ok((made, _)) = outcome {
                    let left = Made { volumes: late, ..made }.take_back(&id);
                    warn!("guest {id}: late volumes were taken back; left behind: {left:?}");
                }
            },
        )??;
        let disks = guest.disks.iter_mut().filter(|disk| disk.source.is_empty());
        for (disk, volume) in disks.zip(devices) {
            disk.size_mib = volume.size_mib();
            disk.volume = volume.name.to_string();
            disk.source = volume.device.to_string_lossy().into_owned();
        }
        Ok(made)
    }

    /// Takes volumes back on the storage lane; answers with what is left.
    ///
    /// # Blocking
    /// Up to [`TAKE_BACK`].
    pub(super) fn take_volumes_back(&self, id: &str, made: Made, hold: &Hold) -> Vec<String> {
        let job =
            Job { what: format!("undo CreateGuest {id}"), deadline: Instant::now() + TAKE_BACK };
        let owner = id.to_owned();
        match self.pool.run(Lane::Storage, job, Some(hold), move |_| made.take_back(&owner)) {
            Ok(left) => left,
            Err(error) => vec![format!("volumes ({error})")],
        }
    }

    /// Destroys the volumes that this agent made for the guest; whether there were any.
    ///
    /// # Errors
    /// [`Error::VolumesLeft`] names what stays and why; what storage says when it cannot be asked.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn destroy_volumes(
        &self,
        id: &str,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<bool, Error> {
        // An id that is no dataset's name has no volumes.
        let Ok(guest) = Id::parse(id) else { return Ok(false) };
        let volumes = Arc::clone(&self.volumes);
        let job = Job { what: format!("Delete {id}"), deadline };
        let removal = self.pool.run(Lane::Storage, job, Some(hold), move |_| {
            volumes.destroy_guest(&guest, Whose::Marked, deadline)
        })??;
        if removal.left.is_empty() {
            return Ok(!removal.destroyed.is_empty());
        }
        Err(Error::VolumesLeft(removal.left.iter().map(ToString::to_string).collect()))
    }

    /// What is wanted of storage for each disk that names no source.
    pub(super) fn wanted(&self, guest: &Guest) -> Result<Vec<Wanted>, Error> {
        let owner = Id::parse(&guest.id).map_err(storage::Error::Name)?;
        let disks = guest.disks.iter().enumerate().filter(|(_, disk)| disk.source.is_empty());
        disks
            .map(|(index, disk)| {
                let image = Some(disk.image.as_str()).filter(|image| !image.is_empty());
                if image.is_none() && disk.size_mib == 0 {
                    return Err(Error::Invalid(format!("disks[{index}] has no image and no size")));
                }
                Ok(Wanted {
                    volume: self
                        .volumes
                        .pool()
                        .guest_disk(&owner, index)
                        .map_err(storage::Error::Name)?,
                    image: image.map(Id::parse).transpose().map_err(storage::Error::Name)?,
                    size_mib: disk.size_mib,
                    space: if self.host.sparse { Space::Sparse } else { Space::Reserved },
                    owner: Some(owner.clone()),
                    unmarked: false,
                })
            })
            .collect()
    }
}

/// Plans all volumes, then makes one after the other; a failure takes back those before it.
fn make(
    volumes: Arc<dyn Volumes>,
    wanted: &[Wanted],
    exists: bool,
    deadline: Instant,
) -> Result<(Made, Vec<storage::Volume>), Error> {
    let planned = volumes.plan(wanted, deadline)?;
    if let Some(gone) = planned.iter().find(|planned| exists && planned.found.is_none()) {
        // A new, empty disk would look like the guest's own.
        return Err(storage::Error::NotFound { name: gone.wanted.volume.to_string() }.into());
    }
    let mut made = Made { volumes, planned: Vec::new() };
    let mut devices = Vec::new();
    for planned in planned {
        match made.volumes.make(&planned, deadline) {
            Ok(volume) => devices.push(volume),
            Err(cause) => {
                let step = format!("make volume {}", planned.wanted.volume);
                let owner = planned.wanted.owner.map(|id| id.to_string()).unwrap_or_default();
                let left = made.take_back(&owner);
                return Err(Error::Step { step, cause: Box::new(cause.into()), left });
            }
        }
        made.planned.push(planned);
    }
    Ok((made, devices))
}
