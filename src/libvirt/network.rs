//! One network of a connection.

use std::ptr::{self, NonNull};
use std::slice;

use log::warn;

use crate::libvirt::agent::NicAddresses;
use crate::libvirt::c_string::{OwnedCString, argument};
use crate::libvirt::domain::uuid_of;
use crate::libvirt::error::{Error, check_int};
use crate::libvirt::strings::copy_borrowed;
use crate::sys;

/// A reference to a network. Dropping it frees the reference and does not change the network.
#[derive(Debug)]
pub struct Network {
    raw: NonNull<sys::virNetwork>,
}

// SAFETY: as for `Connection`: libvirt objects may move between threads; this one is not shared.
unsafe impl Send for Network {}

/// A change of a DHCP reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// Adds the reservation.
    Add,
    /// Changes the IP address for this MAC address.
    Modify,
    /// Removes the reservation.
    Remove,
}

impl Network {
    /// # Safety
    /// `raw` is a live network reference that nobody else frees.
    pub(super) unsafe fn from_raw(raw: NonNull<sys::virNetwork>) -> Self {
        Self { raw }
    }

    /// Starts the network (`virNetworkCreate`). One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`](crate::libvirt::Code::OPERATION_INVALID) if it is active.
    pub fn create(&self) -> Result<(), Error> {
        // SAFETY: the network is live.
        let done = unsafe { sys::virNetworkCreate(self.raw.as_ptr()) };
        check_int(done, "virNetworkCreate").map(drop)
    }

    /// Stops the network (`virNetworkDestroy`). One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`](crate::libvirt::Code::OPERATION_INVALID) if it is inactive.
    pub fn destroy(&self) -> Result<(), Error> {
        // SAFETY: the network is live.
        let done = unsafe { sys::virNetworkDestroy(self.raw.as_ptr()) };
        check_int(done, "virNetworkDestroy").map(drop)
    }

    /// Removes the network's definition (`virNetworkUndefine`). One round trip.
    ///
    /// # Errors
    /// The error of libvirt.
    pub fn undefine(&self) -> Result<(), Error> {
        // SAFETY: the network is live.
        let done = unsafe { sys::virNetworkUndefine(self.raw.as_ptr()) };
        check_int(done, "virNetworkUndefine").map(drop)
    }

    /// Sets the network to start with libvirtd (`virNetworkSetAutostart`). One round trip.
    ///
    /// # Errors
    /// The error of libvirt.
    pub fn set_autostart(&self) -> Result<(), Error> {
        // SAFETY: the network is live.
        let done = unsafe { sys::virNetworkSetAutostart(self.raw.as_ptr(), 1) };
        check_int(done, "virNetworkSetAutostart").map(drop)
    }

    /// Adds, changes or removes a DHCP reservation, given as the XML of a host (`virNetworkUpdate`): in the definition,
    /// and also in a running network. Two round trips.
    ///
    /// # Errors
    /// The error of libvirt.
    pub fn reserve(&self, change: Reservation, host: &str) -> Result<(), Error> {
        const CALL: &str = "virNetworkUpdate";
        let host = argument(host, CALL)?;
        let command = match change {
            Reservation::Add => sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST,
            Reservation::Modify => sys::VIR_NETWORK_UPDATE_COMMAND_MODIFY,
            Reservation::Remove => sys::VIR_NETWORK_UPDATE_COMMAND_DELETE,
        };
        let mut flags = sys::VIR_NETWORK_UPDATE_AFFECT_CONFIG;
        if self.is_active()? {
            flags |= sys::VIR_NETWORK_UPDATE_AFFECT_LIVE;
        }
        // SAFETY: the network is live, the XML NUL-terminated. -1 lets libvirt find the addresses with DHCP.
        let done = unsafe {
            sys::virNetworkUpdate(
                self.raw.as_ptr(),
                command,
                sys::VIR_NETWORK_SECTION_IP_DHCP_HOST,
                -1,
                host.as_ptr(),
                flags,
            )
        };
        check_int(done, CALL).map(drop)
    }

    /// Returns whether the network is active (`virNetworkIsActive`). One round trip.
    ///
    /// # Errors
    /// The error of libvirt.
    pub fn is_active(&self) -> Result<bool, Error> {
        // SAFETY: the network is live.
        let answer = unsafe { sys::virNetworkIsActive(self.raw.as_ptr()) };
        Ok(check_int(answer, "virNetworkIsActive")? == 1)
    }

    /// Returns the network's uuid as text (`virNetworkGetUUID`). Local.
    ///
    /// # Errors
    /// The error of libvirt.
    pub fn uuid(&self) -> Result<String, Error> {
        uuid_of("virNetworkGetUUID", |buffer| {
            // SAFETY: the network is live, the buffer has libvirt's VIR_UUID_BUFLEN bytes.
            unsafe { sys::virNetworkGetUUID(self.raw.as_ptr(), buffer) }
        })
    }

    /// Returns the network's current XML (`virNetworkGetXMLDesc`). One round trip.
    ///
    /// # Errors
    /// The error of libvirt.
    pub fn xml(&self) -> Result<String, Error> {
        // SAFETY: the network is live.
        let raw = unsafe { sys::virNetworkGetXMLDesc(self.raw.as_ptr(), 0) };
        // SAFETY: NULL or a string from malloc(3) that is ours.
        let text = unsafe { OwnedCString::take(raw, "virNetworkGetXMLDesc") }?;
        Ok(text.to_text())
    }

    /// Returns the unexpired leases of the network's DHCP server, each with its MAC address
    /// (`virNetworkGetDHCPLeases`). One round trip; libvirt returns at most 65,536.
    ///
    /// # Errors
    /// The error of libvirt; a driver or a network without a DHCP server.
    pub fn leases(&self) -> Result<Vec<NicAddresses>, Error> {
        let mut list: *mut sys::virNetworkDHCPLeasePtr = ptr::null_mut();
        // SAFETY: the network and the out-pointer are live; NULL stands for all MAC addresses.
        let count = unsafe {
            sys::virNetworkGetDHCPLeases(self.raw.as_ptr(), ptr::null(), &raw mut list, 0)
        };
        let count = check_int(count, "virNetworkGetDHCPLeases")?;
        let mut found = Vec::new();
        if let (false, Ok(length)) = (list.is_null(), usize::try_from(count)) {
            // SAFETY: libvirt allocated an array of so many pointers.
            for lease in unsafe { slice::from_raw_parts(list, length) } {
                // SAFETY: NULL, or filled by libvirt and live until it is freed below.
                if let Some(raw) = unsafe { lease.as_ref() } {
                    // SAFETY: as libvirt filled it.
                    found.push(unsafe { leased(raw) });
                }
                // SAFETY: ours, and freed here alone.
                unsafe { sys::virNetworkDHCPLeaseFree(*lease) };
            }
        }
        // SAFETY: NULL or from malloc(3), ours, and freed here alone.
        unsafe { libc::free(list.cast()) };
        Ok(found)
    }
}

/// # Safety
/// `raw` is as libvirt filled it.
unsafe fn leased(raw: &sys::virNetworkDHCPLease) -> NicAddresses {
    // SAFETY: NULL or NUL-terminated, owned by the lease.
    let [mac, address] = [raw.mac, raw.ipaddr].map(|text| unsafe { copy_borrowed(text) });
    let addresses = address.map(|address| (address, raw.prefix)).into_iter().collect();
    NicAddresses { name: String::new(), mac: mac.unwrap_or_default(), addresses }
}

impl Drop for Network {
    fn drop(&mut self) {
        // SAFETY: live, ours, and freed only here.
        let freed = unsafe { sys::virNetworkFree(self.raw.as_ptr()) };
        if let Err(why) = check_int(freed, "virNetworkFree") {
            warn!("cannot free a network handle: {why}");
        }
    }
}
