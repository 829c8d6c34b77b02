//! Stops and forgets a domain, also one that is gone already.

use crate::libvirt::{self, Code, Domain};
use crate::ops::{Error, lifecycle};

pub(super) fn destroy_if_active(domain: &Domain) -> Result<(), Error> {
    let gone = |error: &libvirt::Error| error.code == Code::NO_DOMAIN;
    match domain.is_active() {
        Ok(true) => Ok(lifecycle::destroy(domain)?),
        // A domain without a definition is gone when it is off.
        Err(error) if !gone(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Forgets a domain; one without a definition is gone when it is off.
pub(super) fn undefine(domain: &Domain) -> Result<(), libvirt::Error> {
    match domain.undefine() {
        Err(error) if error.code == Code::NO_DOMAIN => Ok(()),
        outcome => outcome,
    }
}
