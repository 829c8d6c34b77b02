//! What is set of a domain: for its next start, or now.

use std::ffi::{c_char, c_int, c_uint, c_ulong};

use crate::libvirt::c_string::argument;
use crate::libvirt::domain::Domain;
use crate::libvirt::error::{Error, check_int};
use crate::libvirt::params::ParamArray;
use crate::sys;

/// A call that sets parameters of one of a domain's devices.
type SetParameters = unsafe extern "C" fn(
    sys::virDomainPtr,
    *const c_char,
    sys::virTypedParameterPtr,
    c_int,
    c_uint,
) -> c_int;

/// What a setting is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffectFlags {
    /// The most that the next start may have; what it begins with is not more than that.
    ConfigMaximum,
    /// What the next start begins with.
    Config,
    /// What runs now.
    Live,
}

impl Domain {
    /// Sets the domain's memory in KiB (`virDomainSetMemoryFlags`). [`AffectFlags::Live`] asks the system
    /// inside, which obeys when it does.
    ///
    /// # Errors
    /// More than the domain's most; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for
    /// [`AffectFlags::Live`] when it is off.
    ///
    /// # Blocking
    /// One round trip; [`AffectFlags::Live`] asks the emulator. libvirt waits up to 30 s for a domain that
    /// is busy.
    pub fn set_memory(&self, kib: u64, affect: AffectFlags) -> Result<(), Error> {
        let flags = match affect {
            AffectFlags::ConfigMaximum => sys::VIR_DOMAIN_MEM_CONFIG | sys::VIR_DOMAIN_MEM_MAXIMUM,
            AffectFlags::Config => sys::VIR_DOMAIN_MEM_CONFIG,
            AffectFlags::Live => sys::VIR_DOMAIN_MEM_LIVE,
        };
        let kib = c_ulong::try_from(kib).unwrap_or(c_ulong::MAX);
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainSetMemoryFlags(self.raw.as_ptr(), kib, flags) };
        check_int(done, "virDomainSetMemoryFlags").map(drop)
    }

    /// Has the balloon of a domain that runs report its memory every so many seconds
    /// (`virDomainSetMemoryStatsPeriod`); 0 for never.
    ///
    /// # Errors
    /// A domain that is off, or has no balloon.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`], with [`AffectFlags::Live`].
    pub fn set_memory_period(&self, seconds: u64) -> Result<(), Error> {
        let period = c_int::try_from(seconds).unwrap_or(c_int::MAX);
        let flags = affected(AffectFlags::Live);
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainSetMemoryStatsPeriod(self.raw.as_ptr(), period, flags) };
        check_int(done, "virDomainSetMemoryStatsPeriod").map(drop)
    }

    /// Sets the number of the domain's virtual processors (`virDomainSetVcpusFlags`).
    ///
    /// # Errors
    /// More than the domain's most; a processor that cannot be unplugged;
    /// [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for [`AffectFlags::Live`] when it is
    /// off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`]; libvirt waits 5 s for the system inside to let a processor go.
    pub fn set_vcpus(&self, count: u64, affect: AffectFlags) -> Result<(), Error> {
        let flags = match affect {
            AffectFlags::ConfigMaximum => {
                sys::VIR_DOMAIN_VCPU_CONFIG | sys::VIR_DOMAIN_VCPU_MAXIMUM
            }
            AffectFlags::Config => sys::VIR_DOMAIN_VCPU_CONFIG,
            AffectFlags::Live => sys::VIR_DOMAIN_VCPU_LIVE,
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
    /// for [`AffectFlags::Live`] when it is off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`].
    pub fn attach_device(&self, xml: &str, affect: AffectFlags) -> Result<(), Error> {
        let call = "virDomainAttachDeviceFlags";
        let xml = argument(xml, call)?;
        // SAFETY: the domain is live, the text is NUL-terminated and borrowed for the call.
        let done = unsafe {
            sys::virDomainAttachDeviceFlags(self.raw.as_ptr(), xml.as_ptr(), affected(affect))
        };
        check_int(done, call).map(drop)
    }

    /// Changes the device that this XML describes (`virDomainUpdateDeviceFlags`): the medium of a CD-ROM, which
    /// is known by its target. With `is_forced` the system inside is not asked.
    ///
    /// # Errors
    /// A device that is not there; a change that cannot be; a tray that the system inside has locked.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`]; libvirt waits for the tray.
    pub fn update_device(
        &self,
        xml: &str,
        affect: AffectFlags,
        is_forced: bool,
    ) -> Result<(), Error> {
        let call = "virDomainUpdateDeviceFlags";
        let xml = argument(xml, call)?;
        let force = if is_forced { sys::VIR_DOMAIN_DEVICE_MODIFY_FORCE } else { 0 };
        let flags = affected(affect) | force;
        // SAFETY: the domain is live, the text is NUL-terminated and borrowed for the call.
        let done =
            unsafe { sys::virDomainUpdateDeviceFlags(self.raw.as_ptr(), xml.as_ptr(), flags) };
        check_int(done, call).map(drop)
    }

    /// Takes the device that this XML describes from the domain (`virDomainDetachDeviceFlags`):
    /// disks are known by their target, interfaces by their MAC. With [`AffectFlags::Live`] the system
    /// inside the guest is asked to release the device, and success means only that it was asked: the live XML
    /// contains the device until the system has released it.
    ///
    /// # Errors
    /// One that is not there; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for
    /// [`AffectFlags::Live`] when it is off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`]; libvirt waits 5 s for the system inside to let go.
    pub fn detach_device(&self, xml: &str, affect: AffectFlags) -> Result<(), Error> {
        let call = "virDomainDetachDeviceFlags";
        let xml = argument(xml, call)?;
        // SAFETY: the domain is live, the text is NUL-terminated and borrowed for the call.
        let done = unsafe {
            sys::virDomainDetachDeviceFlags(self.raw.as_ptr(), xml.as_ptr(), affected(affect))
        };
        check_int(done, call).map(drop)
    }

    /// Limits what a disk, by its target, carries (`virDomainSetBlockIoTune`): libvirt's names and the most of
    /// each, where 0 is no limit.
    ///
    /// # Errors
    /// A disk that is not there; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for
    /// [`AffectFlags::Live`] when it is off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`].
    pub fn limit_disk(
        &self,
        target: &str,
        limits: &[(&str, u64)],
        affect: AffectFlags,
    ) -> Result<(), Error> {
        let call = (Self::SET_DISK, "virDomainSetBlockIoTune");
        self.limit(target, ParamArray::long(limits), affect, call)
    }

    /// The same for the NIC with this MAC address (`virDomainSetInterfaceParameters`).
    ///
    /// # Errors
    /// As [`Domain::limit_disk`].
    ///
    /// # Blocking
    /// As [`Domain::set_memory`].
    pub fn limit_nic(
        &self,
        mac: &str,
        limits: &[(&str, u64)],
        affect: AffectFlags,
    ) -> Result<(), Error> {
        let call = (Self::SET_NIC, "virDomainSetInterfaceParameters");
        self.limit(mac, ParamArray::short(limits), affect, call)
    }

    const SET_DISK: SetParameters = sys::virDomainSetBlockIoTune;
    const SET_NIC: SetParameters = sys::virDomainSetInterfaceParameters;

    fn limit(
        &self,
        device: &str,
        mut limits: ParamArray,
        affect: AffectFlags,
        (set, call): (SetParameters, &'static str),
    ) -> Result<(), Error> {
        let device = argument(device, call)?;
        // SAFETY: the domain is live, the text is NUL-terminated, the array has as many parameters as is said;
        // both are borrowed for the call.
        let done = unsafe {
            let (parameters, count) = (limits.as_mut_ptr(), limits.len());
            set(self.raw.as_ptr(), device.as_ptr(), parameters, count, affected(affect))
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
fn affected(affect: AffectFlags) -> c_uint {
    match affect {
        AffectFlags::ConfigMaximum | AffectFlags::Config => sys::VIR_DOMAIN_AFFECT_CONFIG,
        AffectFlags::Live => sys::VIR_DOMAIN_AFFECT_LIVE,
    }
}
