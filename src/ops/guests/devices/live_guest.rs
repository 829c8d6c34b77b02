//! Attaches a device to the running guest, or detaches it.

use std::time::Instant;

use crate::guest::domain::VirDomain;
use crate::guest::wire;
use crate::guest::wire::verbs::SettingResponse;
use crate::libvirt::{AffectFlags, Domain, XmlKind};
use crate::ops::disks::volumes::GuestVolumeNames;
use crate::ops::guests::devices::change::{Changed, DeviceChange, running};
use crate::ops::guests::devices::detach;
use crate::ops::guests::devices::device::Device;
use crate::ops::guests::lifecycle::{condition, fill_from_live};
use crate::ops::guests::saved_memory::why_off;
use crate::ops::{Error, Guests, Session};
use crate::pool::GuestLock;

impl Guests {
    /// Attaches or detaches the device of a running guest, and makes the answer.
    pub(super) fn apply_live(
        &self,
        verb: &str,
        change: DeviceChange,
        changed: Changed,
        lock: &GuestLock,
        deadline: Instant,
    ) -> SettingResponse {
        let Changed { device, mut guest, sizes_open } = changed;
        let id = lock.guest().to_owned();
        let apply_device = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            let reported = match running(&domain)? {
                None => Err(why_off(&domain)?.to_owned()),
                Some(live) => apply_device(session, &domain, &id, change, &device, &live)?,
            };
            Ok((reported, condition(&domain)?, domain.xml(XmlKind::Live)?))
        };
        let reported = match self.core.run_locked(verb, deadline, lock, apply_device, |_, _| {}) {
            Ok((reported, condition, xml)) => {
                condition.state.name().clone_into(&mut guest.state);
                condition.reason.clone_into(&mut guest.reason);
                fill_from_live(&mut guest, &xml);
                reported
            }
            Err(error) => Err(error.to_string()),
        };
        if sizes_open {
            self.fill_sizes(verb, &mut guest.disks, lock, deadline);
        }
        let (live, message) = (reported.is_ok(), reported.err().unwrap_or_default());
        SettingResponse { guest: Some(guest), live, message }
    }

    /// Sets the sizes of disks to those of their volumes. If storage does not answer, the requested sizes stay.
    pub(super) fn fill_sizes(
        &self,
        verb: &str,
        disks: &mut [wire::GuestDisk],
        lock: &GuestLock,
        deadline: Instant,
    ) {
        let Ok(own) = GuestVolumeNames::new(self.core.volumes.pool(), lock.guest()) else { return };
        let volumes = match self.core.own_volumes(verb, &own, lock, deadline) {
            Ok(volumes) => volumes,
            Err(error) => {
                return log::warn!("cannot read disk sizes; guest={:?}: {error}", lock.guest());
            }
        };
        for disk in disks {
            let volume = volumes.iter().find(|volume| volume.name.as_str() == disk.volume);
            disk.size_mib = volume.map_or(disk.size_mib, |volume| volume.size_mib());
        }
    }
}

/// Attaches or detaches a device of a running guest. The inner error says why that failed.
fn apply_device(
    session: &mut Session,
    domain: &Domain,
    id: &str,
    change: DeviceChange,
    device: &Device,
    live: &VirDomain,
) -> Result<Result<(), String>, Error> {
    let outcome = match (change, device.is_in(live)) {
        (DeviceChange::Attach, false) => domain.attach_device(&device.xml(), AffectFlags::Live),
        (DeviceChange::Detach, true) => match device.element_of(domain, XmlKind::Live)? {
            Some(element) => domain.detach_device(&element, AffectFlags::Live),
            None => return Ok(Ok(())),
        },
        (DeviceChange::Attach, true) | (DeviceChange::Detach, false) => return Ok(Ok(())),
    };
    match (change, outcome) {
        (_, Err(error)) if error.connection_lost() => Err(error.into()),
        (_, Err(error)) => Ok(Err(error.message)),
        (DeviceChange::Attach, Ok(())) => Ok(Ok(())),
        (DeviceChange::Detach, Ok(())) => detach::has_released(session, domain, id, device),
    }
}
