//! Memory that the guests of a host may use.

use crate::guest::domain::{KIB_PER_MIB, VirDomain};
use crate::guest::memory::promised;
use crate::libvirt::{Code, Connection, Domain, Error, XmlKind};
use crate::os::memory::total_kib;

/// Memory that running guests may use without anybody's consent, beside that of the host; in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    /// Theirs: of a guest with a balloon its maximum.
    pub guests_mib: u64,
    /// The host's.
    pub host_mib: u64,
}

impl Promised {
    /// Asks libvirt. A guest that ends meanwhile has none.
    ///
    /// # Errors
    /// What libvirt says; where the kernel does not say how much memory there is.
    ///
    /// # Blocking
    /// One round trip, and two for each guest that runs.
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

    /// What guests may use, in KiB, beside the memory of this host; `None` where the kernel does not tell that.
    pub(super) fn beside_host(guests_kib: u64) -> Option<Self> {
        let (guests_mib, host_mib) = (guests_kib / KIB_PER_MIB, total_kib()? / KIB_PER_MIB);
        Some(Self { guests_mib, host_mib })
    }

    /// The same with a guest that is to run, too.
    #[must_use]
    pub fn with(self, guest: &VirDomain) -> Self {
        let kib = match guest.hardware.memory_block_kib {
            0 => guest.most_memory_kib(),
            _ => guest.memory_kib,
        };
        Self { guests_mib: self.guests_mib.saturating_add(kib / KIB_PER_MIB), ..self }
    }

    /// Whether the host has less.
    pub fn is_too_much(self) -> bool {
        self.guests_mib > self.host_mib
    }
}

/// The memory that a domain may use, in KiB; 0 for one that was off when it was looked up.
///
/// # Errors
/// What libvirt says.
///
/// # Blocking
/// Two round trips.
pub(super) fn of(domain: &Domain) -> Result<u64, Error> {
    if domain.id().is_none() {
        return Ok(0);
    }
    let most_kib = domain.info()?.memory_max_kib;
    // A definition that cannot be read has its maximum.
    Ok(promised(&domain.xml(XmlKind::Live)?).unwrap_or(most_kib))
}
