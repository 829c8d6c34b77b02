//! The memory that the guests of a host may use.

use crate::guest::domain::{KIB_PER_MIB, VirDomain};
use crate::guest::memory::promised;
use crate::libvirt::{Code, Connection, Domain, Error, XmlKind};
use crate::os::memory::total_kib;

/// The memory in MiB that running guests may use without further consent, and the memory of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommittedMemory {
    /// The memory of the guests; for a guest with a balloon, its maximum.
    pub guests_mib: u64,
    /// The memory of the host.
    pub host_mib: u64,
}

impl CommittedMemory {
    /// Reads the memory of all guests from libvirt; `None` if the kernel does not report the host's memory. A guest
    /// that ends meanwhile has none.
    ///
    /// # Errors
    /// Errors of libvirt.
    ///
    /// # Blocking
    /// One round trip, and two for each running guest.
    pub fn ask(connection: &Connection) -> Result<Option<Self>, Error> {
        let mut guests_kib: u64 = 0;
        for domain in connection.list_domains()? {
            match of(&domain) {
                Err(error) if error.code == Code::NO_DOMAIN => {}
                found => guests_kib = guests_kib.saturating_add(found?),
            }
        }
        Ok(Self::beside_host(guests_kib))
    }

    /// Compares the memory of guests, in KiB, with that of this host; `None` if the kernel does not report the latter.
    pub(in crate::ops) fn beside_host(guests_kib: u64) -> Option<Self> {
        let (guests_mib, host_mib) = (guests_kib / KIB_PER_MIB, total_kib()? / KIB_PER_MIB);
        Some(Self { guests_mib, host_mib })
    }

    /// Adds a guest that will run, too.
    #[must_use]
    pub fn with(self, guest: &VirDomain) -> Self {
        let kib = match guest.hardware.memory_block_kib {
            0 => guest.most_memory_kib(),
            _ => guest.memory_kib,
        };
        Self { guests_mib: self.guests_mib.saturating_add(kib / KIB_PER_MIB), ..self }
    }

    /// Returns whether the host has less memory than its guests may use.
    pub fn is_too_much(self) -> bool {
        self.guests_mib > self.host_mib
    }
}

/// Returns the memory that a domain may use, in KiB; 0 for a domain that was off when it was looked up.
///
/// # Errors
/// Errors of libvirt.
///
/// # Blocking
/// Two round trips.
pub(in crate::ops) fn of(domain: &Domain) -> Result<u64, Error> {
    if domain.id().is_none() {
        return Ok(0);
    }
    let most_kib = domain.info()?.memory_max_kib;
    // For an unreadable definition, the domain's maximum counts.
    Ok(promised(&domain.xml(XmlKind::Live)?).unwrap_or(most_kib))
}
