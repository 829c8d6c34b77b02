//! Destroys and undefines a domain; succeeds if the domain no longer exists.

use crate::libvirt::{self, Code, Domain};
use crate::ops::Error;
use crate::ops::guests::lifecycle;

pub(in crate::ops) fn destroy_if_active(domain: &Domain) -> Result<(), Error> {
    let gone = |error: &libvirt::Error| error.code == Code::NO_DOMAIN;
    match domain.is_active() {
        Ok(true) => Ok(lifecycle::destroy(domain)?),
        // A transient domain no longer exists when it is off.
        Err(error) if !gone(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Undefines a domain; a transient domain no longer exists when it is off.
pub(in crate::ops) fn undefine(domain: &Domain) -> Result<(), libvirt::Error> {
    match domain.undefine() {
        Err(error) if error.code == Code::NO_DOMAIN => Ok(()),
        outcome => outcome,
    }
}
