//! Settings of a domain: for its next start, or for the running domain.

use std::ffi::{c_char, c_int, c_uint, c_ulong};

use crate::libvirt::c_string::argument;
use crate::libvirt::domain::Domain;
use crate::libvirt::error::{Error, check_int};
use crate::libvirt::params::ParamArray;
use crate::sys;

/// A libvirt call that sets parameters of one device.
type SetParameters = unsafe extern "C" fn(
    sys::virDomainPtr,
    *const c_char,
    sys::virTypedParameterPtr,
    c_int,
    c_uint,
) -> c_int;

/// The target of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffectFlags {
    /// The maximum of the next start; the initial value is not larger.
    ConfigMaximum,
    /// The initial value of the next start.
    Config,
    /// The running domain.
    Live,
}

impl Domain {
    /// Sets the domain's memory in KiB (`virDomainSetMemoryFlags`). [`AffectFlags::Live`] requests it from the guest's
    /// system, which complies in its own time.
    ///
    /// # Errors
    /// More than the domain's maximum; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for
    /// [`AffectFlags::Live`] if it is off.
    ///
    /// # Blocking
    /// One round trip; [`AffectFlags::Live`] also queries the emulator. libvirt waits up to 30 s for a busy domain.
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

    /// Sets the interval in seconds at which the balloon of a running domain reports its memory
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
    /// More than the domain's maximum; a processor that cannot be unplugged;
    /// [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for [`AffectFlags::Live`] if it is off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`]; libvirt waits 5 s for the guest's system to release a processor.
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

    /// Attaches the device in this XML to the domain (`virDomainAttachDeviceFlags`).
    ///
    /// # Errors
    /// An unsupported device, or one that already exists; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID)
    /// for [`AffectFlags::Live`] if it is off.
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

    /// Changes the device in this XML (`virDomainUpdateDeviceFlags`): the medium of a CD-ROM, which is identified by
    /// its target. `is_forced` changes the medium without the consent of the guest's system.
    ///
    /// # Errors
    /// A device that does not exist; an unsupported change; a tray that the guest's system has locked.
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

    /// Detaches the device in this XML from the domain (`virDomainDetachDeviceFlags`): disks are identified by their
    /// target, interfaces by their MAC address. With [`AffectFlags::Live`], success only means that the release was
    /// requested from the guest's system: the live XML has the device until the guest releases it.
    ///
    /// # Errors
    /// A device that does not exist; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for
    /// [`AffectFlags::Live`] if it is off.
    ///
    /// # Blocking
    /// As [`Domain::set_memory`]; libvirt waits 5 s for the guest's system to release the device.
    pub fn detach_device(&self, xml: &str, affect: AffectFlags) -> Result<(), Error> {
        let call = "virDomainDetachDeviceFlags";
        let xml = argument(xml, call)?;
        // SAFETY: the domain is live, the text is NUL-terminated and borrowed for the call.
        let done = unsafe {
            sys::virDomainDetachDeviceFlags(self.raw.as_ptr(), xml.as_ptr(), affected(affect))
        };
        check_int(done, call).map(drop)
    }

    /// Sets the limits of a disk, by its target (`virDomainSetBlockIoTune`): libvirt's name and the maximum of each,
    /// where 0 means no limit.
    ///
    /// # Errors
    /// A disk that does not exist; [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) for
    /// [`AffectFlags::Live`] if it is off.
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

    /// Sets the limits of the NIC with this MAC address (`virDomainSetInterfaceParameters`).
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
        // SAFETY: the domain is live, the text is NUL-terminated, the array has the given number of parameters; both
        // are borrowed for the call.
        let done = unsafe {
            let (parameters, count) = (limits.as_mut_ptr(), limits.len());
            set(self.raw.as_ptr(), device.as_ptr(), parameters, count, affected(affect))
        };
        check_int(done, call).map(drop)
    }

    /// Sets whether the daemon starts the domain when the host starts (`virDomainSetAutostart`). One round trip.
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

/// Returns the flag for the description that a change of devices affects.
fn affected(affect: AffectFlags) -> c_uint {
    match affect {
        AffectFlags::ConfigMaximum | AffectFlags::Config => sys::VIR_DOMAIN_AFFECT_CONFIG,
        AffectFlags::Live => sys::VIR_DOMAIN_AFFECT_LIVE,
    }
}
