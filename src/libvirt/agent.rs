//! Calls to a guest's agent, and the addresses of its NICs.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::ptr;
use std::slice;
use std::time::Duration;

use crate::libvirt::c_string::argument;
use crate::libvirt::domain::Domain;
use crate::libvirt::error::{Error, check_int};
use crate::libvirt::params::{Name, Value, read};
use crate::libvirt::strings::copy_borrowed;
use crate::sys;

/// The source of a guest's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The guest's agent.
    Agent,
    /// The leases of libvirt's own DHCP servers.
    Lease,
    /// The host's neighbour tables.
    Arp,
}

/// A topic of a request to a guest's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The host name.
    Hostname,
    /// The operating system.
    Os,
    /// The time zone.
    Timezone,
    /// The logged-in users.
    Users,
    /// The mounted file systems.
    FileSystems,
}

impl Topic {
    /// All topics, those with the shortest answers first.
    pub const ALL: [Self; 5] =
        [Self::Hostname, Self::Os, Self::Timezone, Self::Users, Self::FileSystems];

    fn types(self) -> c_uint {
        match self {
            Self::Hostname => sys::VIR_DOMAIN_GUEST_INFO_HOSTNAME,
            Self::Os => sys::VIR_DOMAIN_GUEST_INFO_OS,
            Self::Timezone => sys::VIR_DOMAIN_GUEST_INFO_TIMEZONE,
            Self::Users => sys::VIR_DOMAIN_GUEST_INFO_USERS,
            Self::FileSystems => sys::VIR_DOMAIN_GUEST_INFO_FILESYSTEM,
        }
    }
}

/// A NIC with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicAddresses {
    /// The name in the guest; from other sources than the agent, the host's device.
    pub name: String,
    /// The MAC address; empty for a NIC without one.
    pub mac: String,
    /// Each address with its prefix length.
    pub addresses: Vec<(String, u32)>,
}

impl Domain {
    /// Sets the response timeout of the guest's agent, in whole seconds (`virDomainAgentSetResponseTimeout`); `None`
    /// waits without limit, which is libvirt's default. The timeout applies to all commands of all clients to this
    /// agent until the guest ends. One round trip.
    ///
    /// # Errors
    /// The error of libvirt; a driver without guest agents.
    pub fn set_agent_timeout(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let seconds = timeout.map_or(sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, |timeout| {
            c_int::try_from(timeout.as_secs()).unwrap_or(c_int::MAX)
        });
        // SAFETY: the domain is live.
        let set = unsafe { sys::virDomainAgentSetResponseTimeout(self.raw.as_ptr(), seconds, 0) };
        check_int(set, "virDomainAgentSetResponseTimeout").map(drop)
    }

    /// Sets the guest's clock from its hardware clock, which kept running while the guest was stopped, through the
    /// guest's agent (`virDomainSetTime` with `VIR_DOMAIN_TIME_SYNC`).
    ///
    /// # Errors
    /// As [`Domain::agent_info`].
    ///
    /// # Blocking
    /// As [`Domain::agent_info`], and then as long as the emulator takes: libvirt makes it drop late ticks.
    pub fn sync_time(&self) -> Result<(), Error> {
        // SAFETY: the domain is live.
        let set =
            unsafe { sys::virDomainSetTime(self.raw.as_ptr(), 0, 0, sys::VIR_DOMAIN_TIME_SYNC) };
        check_int(set, "virDomainSetTime").map(drop)
    }

    /// Shuts the guest's system down through the guest's agent (`virDomainShutdownFlags` with
    /// `VIR_DOMAIN_SHUTDOWN_GUEST_AGENT`).
    ///
    /// # Errors
    /// As [`Domain::agent_info`].
    ///
    /// # Blocking
    /// Until the guest agent ends, which counts as its answer: up to 60 s if it does not end, regardless of the
    /// response timeout.
    pub fn shutdown_by_agent(&self) -> Result<(), Error> {
        let flags = sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT;
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainShutdownFlags(self.raw.as_ptr(), flags) };
        check_int(done, "virDomainShutdownFlags").map(drop)
    }

    /// Discards the free blocks of all file systems through the guest's agent (`virDomainFSTrim`).
    ///
    /// # Errors
    /// As [`Domain::agent_info`]; the error of the guest agent.
    ///
    /// # Blocking
    /// As [`Domain::agent_info`]; some minutes for large disks.
    pub fn trim(&self) -> Result<(), Error> {
        // SAFETY: the domain is live; NULL stands for all file systems.
        let done = unsafe { sys::virDomainFSTrim(self.raw.as_ptr(), ptr::null(), 0, 0) };
        check_int(done, "virDomainFSTrim").map(drop)
    }

    /// Flushes all file systems and blocks further writes through the guest's agent (`virDomainFSFreeze`).
    ///
    /// # Errors
    /// As [`Domain::trim`]. The guest may still be frozen after an error, at once or later.
    ///
    /// # Blocking
    /// As [`Domain::agent_info`].
    pub fn freeze(&self) -> Result<(), Error> {
        // SAFETY: the domain is live; NULL stands for all file systems.
        let done = unsafe { sys::virDomainFSFreeze(self.raw.as_ptr(), ptr::null_mut(), 0, 0) };
        check_int(done, "virDomainFSFreeze").map(drop)
    }

    /// Unblocks writes to all file systems through the guest's agent (`virDomainFSThaw`), if it has frozen any.
    ///
    /// # Errors
    /// As [`Domain::trim`].
    ///
    /// # Blocking
    /// As [`Domain::agent_info`].
    pub fn thaw(&self) -> Result<(), Error> {
        // SAFETY: the domain is live; NULL stands for all file systems.
        let done = unsafe { sys::virDomainFSThaw(self.raw.as_ptr(), ptr::null_mut(), 0, 0) };
        check_int(done, "virDomainFSThaw").map(drop)
    }

    /// Sets the password of a user through the guest's agent, as text or as a crypt(5) hash
    /// (`virDomainSetUserPassword`).
    ///
    /// # Errors
    /// As [`Domain::agent_info`]; the error of the guest agent, for example for an unknown user.
    ///
    /// # Blocking
    /// As [`Domain::agent_info`].
    pub fn set_password(&self, user: &str, password: &str, is_hash: bool) -> Result<(), Error> {
        let call = "virDomainSetUserPassword";
        let (user, password) = (argument(user, call)?, argument(password, call)?);
        let flags = if is_hash { sys::VIR_DOMAIN_PASSWORD_ENCRYPTED } else { 0 };
        let domain = self.raw.as_ptr();
        // SAFETY: the domain is live, the texts are NUL-terminated and borrowed for the call.
        let set = unsafe {
            sys::virDomainSetUserPassword(domain, user.as_ptr(), password.as_ptr(), flags)
        };
        check_int(set, call).map(drop)
    }

    /// Replaces all lines of a user's `authorized_keys` through the guest's agent (`virDomainAuthorizedSSHKeysSet`).
    ///
    /// # Errors
    /// As [`Domain::set_password`].
    ///
    /// # Blocking
    /// As [`Domain::agent_info`].
    pub fn set_ssh_keys(&self, user: &str, keys: &[String]) -> Result<(), Error> {
        let call = "virDomainAuthorizedSSHKeysSet";
        let user = argument(user, call)?;
        let lines =
            keys.iter().map(|key| argument(key, call)).collect::<Result<Vec<CString>, _>>()?;
        let mut keys: Vec<*const c_char> = lines.iter().map(|line| line.as_ptr()).collect();
        let count = c_uint::try_from(keys.len()).unwrap_or(c_uint::MAX);
        let domain = self.raw.as_ptr();
        // SAFETY: the domain is live; the user and `count` keys are NUL-terminated and borrowed for the call, which
        // changes none of them.
        let set = unsafe {
            sys::virDomainAuthorizedSSHKeysSet(domain, user.as_ptr(), keys.as_mut_ptr(), count, 0)
        };
        check_int(set, call).map(drop)
    }

    /// Returns the agent's answer on a topic, under libvirt's names such as `os.name` (`virDomainGetGuestInfo`).
    ///
    /// # Errors
    /// [`Code::AGENT_UNRESPONSIVE`](super::Code::AGENT_UNRESPONSIVE) if the agent is not connected or does not answer;
    /// otherwise the error of libvirt.
    ///
    /// # Blocking
    /// One round trip, and up to the response timeout.
    pub fn agent_info(&self, topic: Topic) -> Result<Vec<(Name, Value)>, Error> {
        let (mut params, mut count): (sys::virTypedParameterPtr, c_int) = (ptr::null_mut(), 0);
        let (domain, types) = (self.raw.as_ptr(), topic.types());
        // SAFETY: the domain and the out-pointers are live.
        let found = unsafe {
            sys::virDomainGetGuestInfo(domain, types, &raw mut params, &raw mut count, 0)
        };
        check_int(found, "virDomainGetGuestInfo")?;
        let mut copied = Vec::new();
        if let (false, Ok(length)) = (params.is_null(), usize::try_from(count)) {
            // SAFETY: libvirt allocated and filled an array of so many parameters.
            let all = unsafe { slice::from_raw_parts(params, length) };
            // SAFETY: each entry is as libvirt filled it.
            copied.extend(all.iter().filter_map(|raw| unsafe { read(raw) }));
        }
        // SAFETY: NULL or an array of so many parameters that is ours, and is freed here alone.
        unsafe { sys::virTypedParamsFree(params, count) };
        Ok(copied)
    }

    /// Returns the NICs of a running guest with their addresses (`virDomainInterfaceAddresses`).
    ///
    /// # Errors
    /// As [`Domain::agent_info`]; a domain that is off.
    ///
    /// # Blocking
    /// One round trip; with [`Source::Agent`] up to the response timeout of the agent.
    pub fn addresses(&self, source: Source) -> Result<Vec<NicAddresses>, Error> {
        let source: c_uint = match source {
            Source::Agent => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
            Source::Lease => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
            Source::Arp => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
        };
        let mut list: *mut sys::virDomainInterfacePtr = ptr::null_mut();
        // SAFETY: the domain and the out-pointer are live.
        let count = unsafe {
            sys::virDomainInterfaceAddresses(self.raw.as_ptr(), &raw mut list, source, 0)
        };
        let count = check_int(count, "virDomainInterfaceAddresses")?;
        let mut found = Vec::new();
        if let (false, Ok(length)) = (list.is_null(), usize::try_from(count)) {
            // SAFETY: libvirt allocated an array of so many pointers.
            for interface in unsafe { slice::from_raw_parts(list, length) } {
                // SAFETY: NULL, or filled by libvirt and live until it is freed below.
                if let Some(raw) = unsafe { interface.as_ref() } {
                    // SAFETY: as libvirt filled it.
                    found.push(unsafe { nic_addresses(raw) });
                }
                // SAFETY: ours, and freed here alone.
                unsafe { sys::virDomainInterfaceFree(*interface) };
            }
        }
        // SAFETY: NULL or from malloc(3), ours, and freed here alone.
        unsafe { libc::free(list.cast()) };
        Ok(found)
    }
}

/// # Safety
/// `raw` is as libvirt filled it.
unsafe fn nic_addresses(raw: &sys::virDomainInterface) -> NicAddresses {
    // SAFETY: NULL or NUL-terminated, owned by the interface.
    let [name, mac] = [raw.name, raw.hwaddr].map(|text| unsafe { copy_borrowed(text) });
    let mut addresses = Vec::new();
    if let (false, Ok(length)) = (raw.addrs.is_null(), usize::try_from(raw.naddrs)) {
        // SAFETY: libvirt allocated and filled an array of so many addresses.
        for address in unsafe { slice::from_raw_parts(raw.addrs, length) } {
            // SAFETY: NULL or NUL-terminated, owned by the address.
            let text = unsafe { copy_borrowed(address.addr) };
            addresses.extend(text.map(|text| (text, address.prefix)));
        }
    }
    NicAddresses { name: name.unwrap_or_default(), mac: mac.unwrap_or_default(), addresses }
}
