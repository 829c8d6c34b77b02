//! What this agent stores with a domain.

use std::collections::BTreeMap;

use crate::guest::domain::VirDomain;
use crate::guest::domain_xml::is_of_another;
use crate::guest::metadata::Metadata;
use crate::guest::wire::Guest;
use crate::guest::{DEVICE_NAMESPACE, DEVICE_PREFIX, GUEST_NAMESPACE, GUEST_PREFIX};
use crate::guest::{USER_METADATA_NAMESPACE, USER_METADATA_PREFIX};
use crate::libvirt::{self, Domain, XmlKind};
use crate::ops::{Error, unreadable};

/// The metadata stored with a domain, to be changed and written back.
pub(super) struct Stored {
    pub(super) metadata: Metadata,
    /// Whether the domain carries that of another one, as a clone does: nothing of it is in `metadata`.
    is_of_another: bool,
}

impl Stored {
    /// Reads it from the definition. One round trip.
    ///
    /// # Errors
    /// What libvirt says; XML that cannot be read.
    pub(super) fn read(domain: &Domain) -> Result<Self, Error> {
        Self::from_xml(&domain.xml(XmlKind::Inactive)?)
    }

    /// Reads it from the XML of a definition.
    ///
    /// # Errors
    /// XML that cannot be read.
    pub(super) fn from_xml(xml: &str) -> Result<Self, Error> {
        let metadata = VirDomain::from_xml(xml).map_err(unreadable)?.metadata;
        Ok(Self { metadata, is_of_another: is_of_another(xml).map_err(unreadable)? })
    }

    /// Writes the disks' volumes and the request; what is another domain's is replaced whole. The request
    /// comes last, as it says whose all of it is. Up to four round trips.
    ///
    /// # Errors
    /// What libvirt says.
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

    /// The same without the volumes, where these are the domain's own and have not changed.
    ///
    /// # Errors
    /// What libvirt says.
    pub(super) fn write_request(&self, domain: &Domain) -> Result<(), libvirt::Error> {
        if self.is_of_another {
            self.write_volumes(domain)?;
            let user = Metadata::user_element(&BTreeMap::new());
            domain.set_metadata(USER_METADATA_NAMESPACE, USER_METADATA_PREFIX, &user)?;
        }
        let request = self.metadata.guest_element(&domain.uuid()?);
        domain.set_metadata(GUEST_NAMESPACE, GUEST_PREFIX, &request)
    }

    /// Changes the stored request, where there is one, and writes it.
    ///
    /// # Errors
    /// What libvirt says.
    pub(super) fn change_request(
        mut self,
        domain: &Domain,
        change: impl FnOnce(&mut Guest),
    ) -> Result<(), Error> {
        match &mut self.metadata.guest {
            Some(request) => change(request),
            // The original agent stored none.
            None if !self.is_of_another => return Ok(()),
            None => {}
        }
        Ok(self.write_request(domain)?)
    }
}
