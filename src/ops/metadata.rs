//! The metadata that this agent stores with a domain.

use std::collections::BTreeMap;

use crate::guest::domain::VirDomain;
use crate::guest::domain_xml::is_of_another;
use crate::guest::metadata::Metadata;
use crate::guest::wire::Guest;
use crate::guest::{
    DEVICE_NAMESPACE, DEVICE_PREFIX, GUEST_NAMESPACE, GUEST_PREFIX, USER_METADATA_NAMESPACE,
    USER_METADATA_PREFIX,
};
use crate::libvirt::{self, Domain, XmlKind};
use crate::ops::Error;
use crate::ops::hypervisor::definition::unreadable;

/// The metadata stored with a domain, for a change.
pub(super) struct Stored {
    pub(super) metadata: Metadata,
    /// Whether the domain carries the metadata of another domain, as a clone does; `metadata` then has none of that.
    is_of_another: bool,
}

impl Stored {
    /// Reads the metadata from the definition. One round trip.
    ///
    /// # Errors
    /// Errors of libvirt; unreadable XML.
    pub(super) fn read(domain: &Domain) -> Result<Self, Error> {
        Self::from_xml(&domain.xml(XmlKind::Inactive)?)
    }

    /// Reads the metadata from the XML of a definition.
    ///
    /// # Errors
    /// Unreadable XML.
    pub(super) fn from_xml(xml: &str) -> Result<Self, Error> {
        let metadata = VirDomain::from_xml(xml).map_err(unreadable)?.metadata;
        Ok(Self { metadata, is_of_another: is_of_another(xml).map_err(unreadable)? })
    }

    /// Writes the disks' volumes and the request; replaces all metadata of another domain. The request is last, because
    /// it names the owner of all the metadata. Up to four round trips.
    ///
    /// # Errors
    /// Errors of libvirt.
    pub(super) fn write(&self, domain: &Domain) -> Result<(), libvirt::Error> {
        if !self.is_of_another {
            self.write_volumes(domain)?;
        }
        self.write_request(domain)
    }

    fn write_volumes(&self, domain: &Domain) -> Result<(), libvirt::Error> {
        let device = self.metadata.device_element();
        domain.set_metadata(DEVICE_NAMESPACE, DEVICE_PREFIX, &device)
    }

    /// Writes the request, and the volumes only if the metadata was another domain's.
    ///
    /// # Errors
    /// Errors of libvirt.
    pub(super) fn write_request(&self, domain: &Domain) -> Result<(), libvirt::Error> {
        if self.is_of_another {
            self.write_volumes(domain)?;
            let user = Metadata::user_element(&BTreeMap::new());
            domain.set_metadata(USER_METADATA_NAMESPACE, USER_METADATA_PREFIX, &user)?;
        }
        let request = self.metadata.guest_element(&domain.uuid()?);
        domain.set_metadata(GUEST_NAMESPACE, GUEST_PREFIX, &request)
    }

    /// Changes the stored request, if there is one, and writes it.
    ///
    /// # Errors
    /// Errors of libvirt.
    pub(super) fn change_request(
        mut self,
        domain: &Domain,
        change: impl FnOnce(&mut Guest),
    ) -> Result<(), Error> {
        match &mut self.metadata.guest {
            Some(request) => change(request),
            // The original agent stored no request.
            None if !self.is_of_another => return Ok(()),
            None => {}
        }
        Ok(self.write_request(domain)?)
    }
}
