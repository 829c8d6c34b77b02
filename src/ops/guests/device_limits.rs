//! SetLimits: limits of a guest's disks and NICs, in its definition and while it runs.

use std::sync::Arc;

use crate::guest::check;
use crate::guest::domain::VirDomain;
use crate::guest::limits::{Limits, disk_parameters, limited, nic_parameters};
use crate::guest::wire::verbs::SettingResponse;
use crate::guest::wire::{Guest, GuestRequest};
use crate::libvirt::{self, AffectFlags, Domain, XmlKind};
use crate::ops::guests::devices::change::persistent;
use crate::ops::guests::settings::apply_now;
use crate::ops::hypervisor::definition::described;
use crate::ops::metadata::Stored;
use crate::ops::requests::named_guest;
use crate::ops::{Error, Guests};

impl Guests {
    /// Sets exactly the limits that a request lists for disks and NICs: in the guest's definition, and at once if it
    /// runs. The request names disks by `device`, NICs by `mac`; all others keep their limits.
    /// `virDomainSetBlockIoTune`, `virDomainSetInterfaceParameters`.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::Invalid`] for invalid limits, for a disk or a NIC that the guest does
    /// not have or that has no `limits`, and for a request without disks and NICs; [`Error::Unsupported`] for a
    /// transient guest; errors of libvirt, including a missing domain. A running guest that cannot have the limits is
    /// no error: the answer reports it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn set_limits(&self, request: GuestRequest) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        check::check_limits(&guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let (id, asked) = (guest.id.clone(), guest.clone());
        let limits = Arc::clone(&self.limits);
        let (live, message) =
            self.core.change("SetLimits", &guest.id, deadline, move |session| {
                let domain = persistent(session, &id)?;
                let devices = devices(&asked, &described(&domain, XmlKind::Inactive)?)?;
                let limit = |affect| devices.iter().try_for_each(|it| it.limit(&domain, affect));
                limit(AffectFlags::Config)?;
                Stored::read(&domain)?.change_request(&domain, |stored| note(stored, &asked))?;
                let applied = apply_now(&domain, &|| Ok(limit(AffectFlags::Live)?))?;
                if let (true, Ok(xml)) = (applied.0, domain.xml(XmlKind::Live)) {
                    limits.read(&id, &xml);
                }
                Ok(applied)
            })?;
        Ok(SettingResponse { guest: Some(guest), live, message })
    }
}

/// A device with its new limits.
enum Device {
    Disk(String, Limits),
    Nic(String, Limits),
}

impl Device {
    fn limit(&self, domain: &Domain, affect: AffectFlags) -> Result<(), libvirt::Error> {
        match self {
            Self::Disk(device, limits) => {
                domain.limit_disk(device, &disk_parameters(limits), affect)
            }
            Self::Nic(mac, limits) => domain.limit_nic(mac, &nic_parameters(limits), affect),
        }
    }
}

/// Returns the devices that a request lists, by the names that libvirt uses.
///
/// # Errors
/// [`Error::Invalid`] names a device that the guest does not have.
fn devices(asked: &Guest, definition: &VirDomain) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    for (index, disk) in asked.disks.iter().enumerate() {
        let Some(own) = definition.disk_by_device(&disk.device) else {
            let device = &disk.device;
            let why = format!("disks[{index}].device: the guest has no disk {device:?}");
            return Err(Error::Invalid(why));
        };
        devices.push(Device::Disk(own.target.device.clone(), limited(disk.limits.as_ref())));
    }
    for (index, nic) in asked.nics.iter().enumerate() {
        let Some(own) = definition.interface_by_mac(&nic.mac) else {
            let why = format!("nics[{index}].mac: the guest has no NIC {:?}", nic.mac);
            return Err(Error::Invalid(why));
        };
        devices.push(Device::Nic(own.mac.address.clone(), limited(nic.limits.as_ref())));
    }
    Ok(devices)
}

/// Stores the limits in the request that is stored with the domain.
fn note(stored: &mut Guest, asked: &Guest) {
    for disk in &asked.disks {
        for own in stored.disks.iter_mut().filter(|own| own.device == disk.device) {
            own.limits.clone_from(&disk.limits);
        }
    }
    for nic in &asked.nics {
        for own in stored.nics.iter_mut().filter(|own| own.mac.eq_ignore_ascii_case(&nic.mac)) {
            own.limits.clone_from(&nic.limits);
        }
    }
}
