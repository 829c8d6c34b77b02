//! Definitions of domains, as libvirt returns them.

use crate::guest::domain::VirDomain;
use crate::guest::xml;
use crate::libvirt::{Domain, XmlKind};
use crate::ops::Error;

/// Reads the definition of a domain. One round trip.
pub(in crate::ops) fn described(domain: &Domain, kind: XmlKind) -> Result<VirDomain, Error> {
    VirDomain::from_xml(&domain.xml(kind)?).map_err(unreadable)
}

pub(in crate::ops) fn unreadable(error: xml::Error) -> Error {
    Error::Invalid(format!("cannot parse the domain XML from libvirt: {error}"))
}
