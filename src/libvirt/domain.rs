//! One domain of a connection: libvirt's term for a guest.

use std::ffi::{c_int, c_uchar, c_uint};
use std::ptr::NonNull;

use log::warn;

use crate::libvirt::c_string::{OwnedCString, argument};
use crate::libvirt::error::{Code, Error, check_int};
use crate::libvirt::strings::copy_borrowed;
use crate::sys;

/// A reference to a domain. Dropping it frees the reference and does not change the domain.
///
/// It keeps its connection open. It is neither `Sync` nor `Clone`: drivers write into the object of a call
/// (`virDomainCreate` its id), so two threads with one object would race.
#[derive(Debug)]
pub struct Domain {
    pub(super) raw: NonNull<sys::virDomain>,
}

// SAFETY: libvirt objects may be used from any thread, errors being per thread; this one moves
// between threads and is never shared.
unsafe impl Send for Domain {}

/// Which of a domain's two descriptions to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XmlKind {
    /// The running domain, or its next start if it is off.
    Live,
    /// The definition for the next start.
    Inactive,
    /// The definition with its secrets, as needed to define the domain again.
    Definition,
}

/// Information about a domain that the daemon has without querying the emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// As [`Domain::state`].
    pub state: i32,
    /// Maximum memory, in KiB.
    pub memory_max_kib: u64,
    /// Number of virtual processors.
    pub vcpus: u16,
}

impl Domain {
    /// # Safety
    /// `raw` is a live domain reference that nobody else frees.
    pub(super) unsafe fn from_raw(raw: NonNull<sys::virDomain>) -> Self {
        Self { raw }
    }

    /// Returns the domain's name (`virDomainGetName`). Local.
    ///
    /// # Errors
    /// If libvirt has none.
    pub fn name(&self) -> Result<String, Error> {
        // SAFETY: the domain is live.
        let raw = unsafe { sys::virDomainGetName(self.raw.as_ptr()) };
        // SAFETY: NULL or a string that lives as long as the domain.
        unsafe { copy_borrowed(raw) }.ok_or_else(|| Error::last("virDomainGetName"))
    }

    /// Returns the domain's uuid as text (`virDomainGetUUID`). Local.
    ///
    /// # Errors
    /// The error of libvirt.
    pub fn uuid(&self) -> Result<String, Error> {
        uuid_of("virDomainGetUUID", |buffer| {
            // SAFETY: the domain is live, the buffer has libvirt's VIR_UUID_BUFLEN bytes.
            unsafe { sys::virDomainGetUUID(self.raw.as_ptr(), buffer) }
        })
    }

    /// Returns the number of the domain's run when this handle was created or last updated, new at each start
    /// (`virDomainGetID`); `None` if it was off. Local.
    pub fn id(&self) -> Option<u32> {
        // SAFETY: the domain is live and used by this thread alone.
        let id = unsafe { sys::virDomainGetID(self.raw.as_ptr()) };
        // libvirt's -1.
        (id != c_uint::MAX).then_some(id)
    }

    /// Returns the state and its reason as libvirt's numbers (`virDomainGetState`), including numbers of later
    /// versions. One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it was undefined meanwhile.
    pub fn state(&self) -> Result<(i32, i32), Error> {
        let (mut state, mut reason): (c_int, c_int) = (0, 0);
        // SAFETY: the domain and the out-pointers are live.
        let found = unsafe {
            sys::virDomainGetState(self.raw.as_ptr(), &raw mut state, &raw mut reason, 0)
        };
        check_int(found, "virDomainGetState")?;
        Ok((state, reason))
    }

    /// Returns state, memory and processors (`virDomainGetInfo`). One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it was undefined meanwhile.
    pub fn info(&self) -> Result<Info, Error> {
        // SAFETY: all zero bits are a valid value of this struct of integers.
        let mut raw = unsafe { std::mem::zeroed::<sys::virDomainInfo>() };
        // SAFETY: the domain and the struct are live.
        let found = unsafe { sys::virDomainGetInfo(self.raw.as_ptr(), &raw mut raw) };
        check_int(found, "virDomainGetInfo")?;
        let (state, vcpus) = (i32::from(raw.state), raw.nrVirtCpu);
        Ok(Info { state, memory_max_kib: raw.maxMem, vcpus })
    }

    /// Returns whether libvirt starts the domain when the host starts (`virDomainGetAutostart`). One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it was undefined meanwhile.
    pub fn autostart(&self) -> Result<bool, Error> {
        let mut autostart: c_int = 0;
        // SAFETY: the domain and the out-pointer are live.
        let found = unsafe { sys::virDomainGetAutostart(self.raw.as_ptr(), &raw mut autostart) };
        check_int(found, "virDomainGetAutostart")?;
        Ok(autostart != 0)
    }

    /// Returns whether the domain is active, paused included (`virDomainIsActive`). One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it was undefined meanwhile.
    pub fn is_active(&self) -> Result<bool, Error> {
        // SAFETY: the domain is live.
        let answer = unsafe { sys::virDomainIsActive(self.raw.as_ptr()) };
        Ok(check_int(answer, "virDomainIsActive")? == 1)
    }

    /// Returns whether the domain has a definition, so that it also exists when it is off (`virDomainIsPersistent`).
    /// One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it ended meanwhile.
    pub fn is_persistent(&self) -> Result<bool, Error> {
        // SAFETY: the domain is live.
        let answer = unsafe { sys::virDomainIsPersistent(self.raw.as_ptr()) };
        Ok(check_int(answer, "virDomainIsPersistent")? == 1)
    }

    /// Returns whether libvirt has a managed save image of the domain, from which the next start resumes
    /// (`virDomainHasManagedSaveImage`). One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it was undefined meanwhile; [`Code::NO_SUPPORT`] with a driver without such images.
    pub fn has_managed_save(&self) -> Result<bool, Error> {
        // SAFETY: the domain is live.
        let answer = unsafe { sys::virDomainHasManagedSaveImage(self.raw.as_ptr(), 0) };
        Ok(check_int(answer, "virDomainHasManagedSaveImage")? == 1)
    }

    /// Returns the XML of the managed save image, from which the next start resumes (`virDomainManagedSaveGetXMLDesc`).
    /// One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it was undefined meanwhile; if no such image exists.
    pub fn managed_save_xml(&self) -> Result<String, Error> {
        // SAFETY: the domain is live.
        let raw = unsafe { sys::virDomainManagedSaveGetXMLDesc(self.raw.as_ptr(), 0) };
        // SAFETY: NULL or a string from malloc(3) that is ours.
        let text = unsafe { OwnedCString::take(raw, "virDomainManagedSaveGetXMLDesc") }?;
        Ok(text.to_text())
    }

    /// Removes the domain's managed save image, so that the next start boots
    /// (`virDomainManagedSaveRemove`). One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it was undefined meanwhile; the error of removing the file.
    pub fn remove_managed_save(&self) -> Result<(), Error> {
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainManagedSaveRemove(self.raw.as_ptr(), 0) };
        check_int(done, "virDomainManagedSaveRemove").map(drop)
    }

    /// Returns the domain's XML (`virDomainGetXMLDesc`). One round trip.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it was undefined meanwhile.
    pub fn xml(&self, kind: XmlKind) -> Result<String, Error> {
        let flags: c_uint = match kind {
            XmlKind::Live => 0,
            XmlKind::Inactive => sys::VIR_DOMAIN_XML_INACTIVE,
            XmlKind::Definition => sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE,
        };
        // SAFETY: the domain is live.
        let raw = unsafe { sys::virDomainGetXMLDesc(self.raw.as_ptr(), flags) };
        // SAFETY: NULL or a string from malloc(3) that is ours.
        let text = unsafe { OwnedCString::take(raw, "virDomainGetXMLDesc") }?;
        Ok(text.to_text())
    }

    /// Starts the domain (`virDomainCreate`).
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if it already runs; errors of the emulator's start.
    ///
    /// # Blocking
    /// Until the emulator runs: about a second, and as long as its disks delay it.
    pub fn create(&self) -> Result<(), Error> {
        // SAFETY: the domain is live and used by this thread alone: the driver writes its id.
        let done = unsafe { sys::virDomainCreate(self.raw.as_ptr()) };
        check_int(done, "virDomainCreate").map(drop)
    }

    /// Forces the domain off at once (`virDomainDestroy`).
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if it is off.
    ///
    /// # Blocking
    /// Well under a second; some 10 s if the emulator does not react and has to be killed.
    pub fn destroy(&self) -> Result<(), Error> {
        // SAFETY: the domain is live and used by this thread alone: the driver writes its id.
        let done = unsafe { sys::virDomainDestroy(self.raw.as_ptr()) };
        check_int(done, "virDomainDestroy").map(drop)
    }

    /// Requests a shutdown of the domain's system (`virDomainShutdownFlags`) with the ACPI power button: without that
    /// flag libvirt prefers a connected guest agent, and waits up to 60 s for a silent one. Returns after the request,
    /// before the shutdown. One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if it is off.
    pub fn shutdown(&self) -> Result<(), Error> {
        const CALL: &str = "virDomainShutdownFlags";
        let ask = |flags: c_uint| {
            // SAFETY: the domain is live.
            let done = unsafe { sys::virDomainShutdownFlags(self.raw.as_ptr(), flags) };
            check_int(done, CALL).map(drop)
        };
        by_button_or(ask(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN), || ask(0))
    }

    /// Requests a reboot of the domain's system (`virDomainReboot`) with the ACPI power button, as [`Domain::shutdown`]
    /// does. Returns after the request, before the reboot. One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if it is off.
    pub fn reboot(&self) -> Result<(), Error> {
        let ask = |flags: c_uint| {
            // SAFETY: the domain is live.
            let done = unsafe { sys::virDomainReboot(self.raw.as_ptr(), flags) };
            check_int(done, "virDomainReboot").map(drop)
        };
        by_button_or(ask(sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN), || ask(0))
    }

    /// Resets the domain at once, like its reset button (`virDomainReset`). One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if it is off.
    pub fn reset(&self) -> Result<(), Error> {
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainReset(self.raw.as_ptr(), 0) };
        check_int(done, "virDomainReset").map(drop)
    }

    /// Wakes a domain that its own system has suspended to memory (`virDomainPMWakeup`). One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if it is off; a driver or a domain without power management.
    pub fn wake(&self) -> Result<(), Error> {
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainPMWakeup(self.raw.as_ptr(), 0) };
        check_int(done, "virDomainPMWakeup").map(drop)
    }

    /// Stops the domain's processors (`virDomainSuspend`). One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if it is off.
    pub fn suspend(&self) -> Result<(), Error> {
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainSuspend(self.raw.as_ptr()) };
        check_int(done, "virDomainSuspend").map(drop)
    }

    /// Resumes a paused domain (`virDomainResume`). One round trip.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if it is off.
    pub fn resume(&self) -> Result<(), Error> {
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainResume(self.raw.as_ptr()) };
        check_int(done, "virDomainResume").map(drop)
    }

    /// Notifies a running domain that one of its disks has grown (`virDomainBlockResize`). `disk` is its target, such
    /// as `vda`, or its source.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if the domain is off.
    ///
    /// # Blocking
    /// One round trip, and one between the daemon and the emulator.
    pub fn block_resize(&self, disk: &str, size_bytes: u64) -> Result<(), Error> {
        let disk = argument(disk, "virDomainBlockResize")?;
        let flags: c_uint = sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES;
        // SAFETY: the domain is live, the name is NUL-terminated and borrowed for the call.
        let done = unsafe {
            sys::virDomainBlockResize(self.raw.as_ptr(), disk.as_ptr(), size_bytes, flags)
        };
        check_int(done, "virDomainBlockResize").map(drop)
    }

    /// Replaces the element of a namespace in the domain's metadata (`virDomainSetMetadata`): in its definition, and
    /// also in a running domain. libvirt adds the namespace: `element` has none of its own, and gets `prefix`.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`]; a text that is not an XML element.
    ///
    /// # Blocking
    /// Two round trips. libvirt waits up to 30 s for a busy domain.
    pub fn set_metadata(&self, namespace: &str, prefix: &str, element: &str) -> Result<(), Error> {
        let call = "virDomainSetMetadata";
        let (uri, key) = (argument(namespace, call)?, argument(prefix, call)?);
        let element = argument(element, call)?;
        let mut flags = sys::VIR_DOMAIN_AFFECT_CONFIG;
        if self.is_active()? {
            flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
        }
        let kind = c_int::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or(c_int::MAX);
        // SAFETY: the domain is live, the texts are NUL-terminated and borrowed for the call.
        let done = unsafe {
            sys::virDomainSetMetadata(
                self.raw.as_ptr(),
                kind,
                element.as_ptr(),
                key.as_ptr(),
                uri.as_ptr(),
                flags,
            )
        };
        check_int(done, call).map(drop)
    }

    /// Undefines the domain with its managed save image, the metadata of its snapshots and checkpoints, and its NVRAM
    /// (`virDomainUndefineFlags`).
    ///
    /// Drivers refuse flags that they do not know: then this tries fewer flags, and at last plain `virDomainUndefine`.
    /// At most four round trips, one if the driver knows all flags.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub fn undefine(&self) -> Result<(), Error> {
        let saves =
            sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
        let checkpoints = saves | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
        for flags in [checkpoints | sys::VIR_DOMAIN_UNDEFINE_NVRAM, checkpoints, saves] {
            // SAFETY: the domain is live.
            let done = unsafe { sys::virDomainUndefineFlags(self.raw.as_ptr(), flags) };
            match check_int(done, "virDomainUndefineFlags") {
                Err(error) if flags_refused(error.code) => {}
                outcome => return outcome.map(drop),
            }
        }
        // SAFETY: the domain is live.
        let done = unsafe { sys::virDomainUndefine(self.raw.as_ptr()) };
        check_int(done, "virDomainUndefine").map(drop)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: live, ours, and freed only here.
        let freed = unsafe { sys::virDomainFree(self.raw.as_ptr()) };
        if let Err(why) = check_int(freed, "virDomainFree") {
            warn!("cannot free a domain handle: {why}");
        }
    }
}

/// Returns whether a driver does not know a flag, or the whole call.
fn flags_refused(code: Code) -> bool {
    [Code::INVALID_ARG, Code::ARGUMENT_UNSUPPORTED, Code::NO_SUPPORT, Code::OPERATION_UNSUPPORTED]
        .contains(&code)
}

/// Gets a uuid from `fill`, and formats it as text. libvirt's own function prints it byte by byte, which takes ten
/// times as long.
pub(super) fn uuid_of(
    call: &'static str,
    fill: impl FnOnce(*mut c_uchar) -> c_int,
) -> Result<String, Error> {
    let mut bytes = [0; sys::VIR_UUID_BUFLEN as usize];
    check_int(fill(bytes.as_mut_ptr()), call)?;
    Ok(uuid_text(bytes))
}

/// Formats a uuid as in RFC 9562: 8, 4, 4, 4 and 12 hexadecimal digits.
fn uuid_text(bytes: [u8; sys::VIR_UUID_BUFLEN as usize]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        let digits = [byte >> 4, byte & 15].map(|half| char::from_digit(half.into(), 16));
        text.extend(digits.into_iter().flatten());
    }
    text
}

/// Returns the result of a request with the power button; if the driver has none, the result of `otherwise`.
fn by_button_or(
    asked: Result<(), Error>,
    otherwise: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    match asked {
        // libvirt's test driver accepts no flags, and Linux containers have no button.
        Err(error) if [Code::INVALID_ARG, Code::NO_SUPPORT].contains(&error.code) => otherwise(),
        asked => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_libvirt_writes_it() {
        let bytes = *b"\x00\x01\x7f\xff\x0a\xa0\x10\xfe\xdc\xba\x98\x76\x54\x32\x1a\xbc";
        assert_eq!(uuid_text(bytes), "00017fff-0aa0-10fe-dcba-987654321abc");
    }
}
