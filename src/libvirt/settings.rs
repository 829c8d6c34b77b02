//! What is set of a domain: for its next start, or now.

use std::ffi::{c_int, c_uint, c_ulong};

use crate::libvirt::domain::Domain;
use crate::libvirt::error::{Error, check_int};
use crate::libvirt::strings::argument;
use crate::sys;

/// What a setting is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The most that the next start may have; what it begins with is not more than that.
    NextMost,
    /// What the next start begins with.
    Next,
    /// What runs now.
    Now,
}

impl Domain {
    /// Sets the domain's memory in KiB (`virDomainSetMemoryFlags`). [`Reach::Now`] asks the system
    /// inside, which obeys when it does.
    ///
    /// # Errors
    /// More than the domain's most; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for
    /// [`Reach::Now`] when it is off.
    ///
    /// # Blocking
    /// One round trip; [`Reach::Now`] asks the emulator. libvirt waits up to 30 s for a domain that
    /// is busy.
    pub fn set_memory(&self, kib: u64, reach: Reach) -> Result<(), Error> {
        let flags = match reach {
            Reach::NextMost => sys::VIR_DOMAIN_MEM_CONFIG | sys::VIR_DOMAIN_MEM_MAXIMUM,
            Reach::Next => sys::VIR_DOMAIN_MEM_CONFIG,
            Reach::Now => sys::VIR_DOMAIN_MEM_LIVE,
        };
        let kib = c_ulong::try_from(kib).unwrap_or(c_ulong::MAX);
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainSetMemoryFlags(self.raw.as_ptr(), kib, flags) };
        check_int(done, "virDomainSetMemoryFlags").map(drop)
    }

    /// Sets the number of the domain's virtual processors (`virDomainSetVcpusFlags`).
    ///
    /// # Errors
    /// More than the domain's most; a processor that cannot be unplugged;
    /// [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for [`Reach::Now`] when it is
    /// off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`]; libvirt waits 5 s for the system inside to let a processor go.
    pub fn set_vcpus(&self, count: u64, reach: Reach) -> Result<(), Error> {
        let flags = match reach {
            Reach::NextMost => sys::VIR_DOMAIN_VCPU_CONFIG | sys::VIR_DOMAIN_VCPU_MAXIMUM,
            Reach::Next => sys::VIR_DOMAIN_VCPU_CONFIG,
            Reach::Now => sys::VIR_DOMAIN_VCPU_LIVE,
        };
        let count = c_uint::try_from(count).unwrap_or(c_uint::MAX);
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainSetVcpusFlags(self.raw.as_ptr(), count, flags) };
        check_int(done, "virDomainSetVcpusFlags").map(drop)
    }

    /// Gives the domain the device that this XML describes (`virDomainAttachDeviceFlags`).
    ///
    /// # Errors
    /// One that cannot be, or is there already; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID)
    /// for [`Reach::Now`] when it is off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`].
    pub fn attach_device(&self, xml: &str, reach: Reach) -> Result<(), Error> {
        let call = "virDomainAttachDeviceFlags";
        let xml = argument(xml, call)?;
        // SAFETY: the domain is live, the text is NUL-terminated and borrowed for the call.
        let done = unsafe {
            sys::virDomainAttachDeviceFlags(self.raw.as_ptr(), xml.as_ptr(), affected(reach))
        };
        check_int(done, call).map(drop)
    }

    /// Takes the device that this XML describes from the domain (`virDomainDetachDeviceFlags`):
    /// disks are known by their target, interfaces by their MAC. With [`Reach::Now`] the system
    /// inside is asked to let go of it, and a success says no more than that: the live XML has the
    /// device until it has.
    ///
    /// # Errors
    /// One that is not there; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for
    /// [`Reach::Now`] when it is off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`]; libvirt waits 5 s for the system inside to let go.
    pub fn detach_device(&self, xml: &str, reach: Reach) -> Result<(), Error> {
        let call = "virDomainDetachDeviceFlags";
        let xml = argument(xml, call)?;
        // SAFETY: the domain is live, the text is NUL-terminated and borrowed for the call.
        let done = unsafe {
            sys::virDomainDetachDeviceFlags(self.raw.as_ptr(), xml.as_ptr(), affected(reach))
        };
        check_int(done, call).map(drop)
    }

    /// Says whether the daemon starts the domain when it is started with the host
    /// (`virDomainSetAutostart`). One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for a domain without a
    /// definition.
    pub fn set_autostart(&self, autostart: bool) -> Result<(), Error> {
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainSetAutostart(self.raw.as_ptr(), c_int::from(autostart)) };
        check_int(done, "virDomainSetAutostart").map(drop)
    }
}

/// Which of a domain's two descriptions a change of its devices is about.
fn affected(reach: Reach) -> c_uint {
    match reach {
        Reach::NextMost | Reach::Next => sys::VIR_DOMAIN_AFFECT_CONFIG,
        Reach::Now => sys::VIR_DOMAIN_AFFECT_LIVE,
    }
}
