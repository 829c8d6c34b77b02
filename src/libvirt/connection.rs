//! A connection to one libvirt driver.

use std::collections::BTreeSet;
use std::ffi::{c_uint, c_ulong};
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use crate::config::fixed::{KEEPALIVE_COUNT, KEEPALIVE_INTERVAL_S};
use crate::libvirt::c_string::{OwnedCString, argument};
use crate::libvirt::domain::Domain;
use crate::libvirt::error::{Code, Error, check_int, check_ptr};
use crate::libvirt::network::Network;
use crate::libvirt::strings::entries;
use crate::sys;

/// Formats libvirt's version number (major * 1,000,000 + minor * 1,000 + release) for users: `9.0.0`.
pub fn version_text(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

/// An open connection to libvirt; closed when dropped.
///
/// Not shared: libvirtd processes at most 5 calls of a connection at once, including keepalive.
#[derive(Debug)]
pub struct Connection {
    pub(super) raw: NonNull<sys::virConnect>,
}

// SAFETY: libvirt allows "multiple threads using a connection" (virConnectRef); a connection that
// moves between threads is used by one at a time, which is less. Errors are per thread since 0.6.0.
unsafe impl Send for Connection {}

impl Connection {
    /// Opens a connection (`virConnectOpen`), with keepalive if the driver supports it.
    ///
    /// # Errors
    /// If no driver accepts the URI or the daemon does not answer.
    ///
    /// # Blocking
    /// Without limit if the daemon is stopped: keepalive starts after the open.
    pub fn open(uri: &str) -> Result<Self, Error> {
        let uri = argument(uri, "virConnectOpen")?;
        // SAFETY: NUL-terminated; the returned reference is ours to close.
        let raw = unsafe { sys::virConnectOpen(uri.as_ptr()) };
        let connection = Self { raw: check_ptr(raw, "virConnectOpen")? };
        connection.keep_alive()?;
        Ok(connection)
    }

    fn keep_alive(&self) -> Result<(), Error> {
        // SAFETY: the connection is live; the event loop runs (`libvirt::start`).
        let answer = unsafe {
            sys::virConnectSetKeepAlive(self.raw.as_ptr(), KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
        };
        // 1 means that the daemon does not support keepalive; a driver inside this process returns "not supported".
        match check_int(answer, "virConnectSetKeepAlive") {
            Err(error) if error.code == Code::NO_SUPPORT => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Returns whether the connection is alive, according to the client side (`virConnectIsAlive`).
    ///
    /// The event loop detects a closed socket at once and a silent daemon after 8 s. Does not block.
    pub fn is_alive(&self) -> bool {
        // SAFETY: the connection is live.
        let answer = unsafe { sys::virConnectIsAlive(self.raw.as_ptr()) };
        answer == 1
    }

    /// Returns the version of the daemon's libvirt as libvirt's number (major * 1,000,000 + minor * 1,000 + release;
    /// `virConnectGetLibVersion`).
    ///
    /// # Errors
    /// If the daemon does not answer.
    ///
    /// # Blocking
    /// One round trip.
    pub fn lib_version(&self) -> Result<u64, Error> {
        let mut version: c_ulong = 0;
        // SAFETY: the connection and the out-pointer are live.
        let found = unsafe { sys::virConnectGetLibVersion(self.raw.as_ptr(), &raw mut version) };
        check_int(found, "virConnectGetLibVersion")?;
        Ok(version)
    }

    /// Returns the capabilities for domains of a type, as XML (`virConnectGetDomainCapabilities`): of the default
    /// emulator and architecture, on the given machine, or on the emulator's default machine if the name is empty.
    ///
    /// # Errors
    /// [`Code::NO_SUPPORT`] if the driver has no such call; if the host has no emulator for the type, or the emulator
    /// does not support the machine.
    ///
    /// # Blocking
    /// One round trip; the driver may probe its emulators first (seconds, once).
    pub fn domain_capabilities(&self, kind: &str, machine: &str) -> Result<String, Error> {
        const CALL: &str = "virConnectGetDomainCapabilities";
        let (kind, machine) = (argument(kind, CALL)?, argument(machine, CALL)?);
        let machine = if machine.is_empty() { ptr::null() } else { machine.as_ptr() };
        // SAFETY: the connection is live, the names NUL-terminated or NULL for libvirt's choice.
        let raw = unsafe {
            sys::virConnectGetDomainCapabilities(
                self.raw.as_ptr(),
                ptr::null(),
                ptr::null(),
                machine,
                kind.as_ptr(),
                0,
            )
        };
        // SAFETY: NULL or a string from malloc(3) that is ours.
        let text = unsafe { OwnedCString::take(raw, CALL) }?;
        Ok(text.to_text())
    }

    /// Returns the capabilities of the host and its guests, as XML (`virConnectGetCapabilities`).
    ///
    /// # Errors
    /// [`Code::NO_SUPPORT`] if the driver has no such call.
    ///
    /// # Blocking
    /// One round trip; the driver may probe its emulators first (seconds, once).
    pub fn capabilities(&self) -> Result<String, Error> {
        // SAFETY: the connection is live.
        let raw = unsafe { sys::virConnectGetCapabilities(self.raw.as_ptr()) };
        // SAFETY: NULL or a string from malloc(3) that is ours.
        let text = unsafe { OwnedCString::take(raw, "virConnectGetCapabilities") }?;
        Ok(text.to_text())
    }

    /// Returns the domain of this name (`virDomainLookupByName`).
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if no domain has the name.
    ///
    /// # Blocking
    /// One round trip.
    pub fn lookup_domain_by_name(&self, name: &str) -> Result<Domain, Error> {
        let name = argument(name, "virDomainLookupByName")?;
        // SAFETY: the connection is live, the name NUL-terminated; the reference is ours to free.
        let raw = unsafe { sys::virDomainLookupByName(self.raw.as_ptr(), name.as_ptr()) };
        let raw = check_ptr(raw, "virDomainLookupByName")?;
        // SAFETY: a fresh reference that nobody else frees.
        Ok(unsafe { Domain::from_raw(raw) })
    }

    /// Returns the domain of this name, or `None` if it does not exist.
    ///
    /// # Errors
    /// If libvirt is unavailable.
    ///
    /// # Blocking
    /// One round trip.
    pub fn find_domain(&self, name: &str) -> Result<Option<Domain>, Error> {
        match self.lookup_domain_by_name(name) {
            Err(error) if error.code == Code::NO_DOMAIN => Ok(None),
            found => found.map(Some),
        }
    }

    /// Defines a domain, or redefines a domain of the same name and uuid (`virDomainDefineXML`).
    ///
    /// # Errors
    /// If libvirt refuses the XML, or another uuid has the name ([`Code::OPERATION_FAILED`]).
    ///
    /// # Blocking
    /// One round trip; the driver may probe its emulator first (seconds, once).
    pub fn define_domain(&self, xml: &str) -> Result<Domain, Error> {
        let xml = argument(xml, "virDomainDefineXML")?;
        // SAFETY: the connection is live, the XML NUL-terminated; the reference is ours to free.
        let raw = unsafe { sys::virDomainDefineXML(self.raw.as_ptr(), xml.as_ptr()) };
        let raw = check_ptr(raw, "virDomainDefineXML")?;
        // SAFETY: a fresh reference that nobody else frees.
        Ok(unsafe { Domain::from_raw(raw) })
    }

    /// Starts a domain that is off with other XML than its definition, which stays (`virDomainCreateXML`).
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if the domain already runs; errors of the emulator's start.
    ///
    /// # Blocking
    /// As [`Domain::create`].
    pub fn create_domain(&self, xml: &str) -> Result<Domain, Error> {
        let xml = argument(xml, "virDomainCreateXML")?;
        // SAFETY: the connection is live, the XML NUL-terminated; the reference is ours to free.
        let raw = unsafe { sys::virDomainCreateXML(self.raw.as_ptr(), xml.as_ptr(), 0) };
        let raw = check_ptr(raw, "virDomainCreateXML")?;
        // SAFETY: a fresh reference that nobody else frees.
        Ok(unsafe { Domain::from_raw(raw) })
    }

    /// Returns all domains, running or not (`virConnectListAllDomains`).
    ///
    /// # Errors
    /// If the daemon does not answer.
    ///
    /// # Blocking
    /// One round trip.
    pub fn list_domains(&self) -> Result<Vec<Domain>, Error> {
        self.list_domains_by(0)
    }

    /// Returns the domains in a state, by libvirt's number of the state. libvirt has one common filter for states other
    /// than running, paused and off: then the result also contains domains in other states.
    ///
    /// # Errors
    /// As [`Connection::list_domains`].
    ///
    /// # Blocking
    /// One round trip.
    pub fn list_domains_in(&self, state: i32) -> Result<Vec<Domain>, Error> {
        self.list_domains_by(match c_uint::try_from(state) {
            Ok(sys::VIR_DOMAIN_RUNNING) => sys::VIR_CONNECT_LIST_DOMAINS_RUNNING,
            Ok(sys::VIR_DOMAIN_PAUSED) => sys::VIR_CONNECT_LIST_DOMAINS_PAUSED,
            Ok(sys::VIR_DOMAIN_SHUTOFF) => sys::VIR_CONNECT_LIST_DOMAINS_SHUTOFF,
            _ => sys::VIR_CONNECT_LIST_DOMAINS_OTHER,
        })
    }

    /// Lists the names of the domains with a managed save image.
    ///
    /// # Errors
    /// As [`Connection::list_domains`].
    ///
    /// # Blocking
    /// One round trip.
    pub fn saved_domain_names(&self) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        for domain in self.list_domains_by(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)? {
            names.insert(domain.name()?);
        }
        Ok(names)
    }

    fn list_domains_by(&self, flags: c_uint) -> Result<Vec<Domain>, Error> {
        let mut list: *mut sys::virDomainPtr = ptr::null_mut();
        // SAFETY: the connection and the out-pointer are live; array and references become ours.
        let count =
            unsafe { sys::virConnectListAllDomains(self.raw.as_ptr(), &raw mut list, flags) };
        check_int(count, "virConnectListAllDomains")?;
        // SAFETY: NULL, or an array that libvirt has ended with NULL.
        let entries = unsafe { entries(list) };
        // SAFETY: each entry is a reference of its own that nobody else frees.
        let domains = entries.map(|raw| unsafe { Domain::from_raw(raw) }).collect();
        // SAFETY: libvirt took the array from malloc(3) and gave it to us; NULL is allowed.
        unsafe { libc::free(list.cast()) }
        Ok(domains)
    }

    /// Returns the network of this name (`virNetworkLookupByName`).
    ///
    /// # Errors
    /// [`Code::NO_NETWORK`] if no network has the name.
    ///
    /// # Blocking
    /// One round trip.
    pub fn lookup_network_by_name(&self, name: &str) -> Result<Network, Error> {
        let name = argument(name, "virNetworkLookupByName")?;
        // SAFETY: the connection is live, the name NUL-terminated; the reference is ours to free.
        let raw = unsafe { sys::virNetworkLookupByName(self.raw.as_ptr(), name.as_ptr()) };
        let raw = check_ptr(raw, "virNetworkLookupByName")?;
        // SAFETY: a fresh reference that nobody else frees.
        Ok(unsafe { Network::from_raw(raw) })
    }

    /// Defines a persistent network (`virNetworkDefineXML`).
    ///
    /// # Errors
    /// If libvirt refuses the XML, or another uuid has the name ([`Code::OPERATION_FAILED`]).
    ///
    /// # Blocking
    /// One round trip.
    pub fn define_network(&self, xml: &str) -> Result<Network, Error> {
        let xml = argument(xml, "virNetworkDefineXML")?;
        // SAFETY: the connection is live, the XML NUL-terminated; the reference is ours to free.
        let raw = unsafe { sys::virNetworkDefineXML(self.raw.as_ptr(), xml.as_ptr()) };
        let raw = check_ptr(raw, "virNetworkDefineXML")?;
        // SAFETY: a fresh reference that nobody else frees.
        Ok(unsafe { Network::from_raw(raw) })
    }

    /// Closes the connection (`virConnectClose`), as dropping it does, and returns the result. Domains and networks of
    /// the connection keep it open until they are dropped.
    ///
    /// # Errors
    /// The error of libvirt; this process cannot use the connection after an error either.
    ///
    /// # Blocking
    /// One round trip if the daemon is alive.
    pub fn release(self) -> Result<(), Error> {
        ManuallyDrop::new(self).close()
    }

    /// Must be called once, as the last use: by [`Connection::release`] or on drop.
    fn close(&mut self) -> Result<(), Error> {
        // SAFETY: live, ours, and closed only here. More than 0 says that domains still hold it.
        let left = unsafe { sys::virConnectClose(self.raw.as_ptr()) };
        check_int(left, "virConnectClose").map(drop)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Callers that need the result call `release`.
        let _ = self.close();
    }
}
