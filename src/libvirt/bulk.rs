//! Statistics of many domains in one round trip, and of single domains.

use std::ffi::c_uint;
use std::ptr::{self, NonNull};
use std::slice;

use crate::libvirt::connection::Connection;
use crate::libvirt::domain::{Domain, uuid_of};
use crate::libvirt::error::{Code, Error, check_int};
use crate::libvirt::params::{Name, Value, read};
use crate::libvirt::strings::{copy_borrowed, entries};
use crate::sys;

/// libvirt's "no id": the domain is off.
const NO_ID: c_uint = c_uint::MAX;

/// Groups of statistics for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups(c_uint);

impl Groups {
    /// State and interfaces: the daemon answers by itself, even if an emulator hangs.
    pub const OWN: Self = Self(sys::VIR_DOMAIN_STATS_STATE | sys::VIR_DOMAIN_STATS_INTERFACE);
    /// Memory, virtual processors and disks: the daemon queries each emulator's monitor.
    pub const MONITOR: Self = Self(
        sys::VIR_DOMAIN_STATS_BALLOON | sys::VIR_DOMAIN_STATS_VCPU | sys::VIR_DOMAIN_STATS_BLOCK,
    );
    /// Processor time, of the domain and of its virtual processors: the daemon queries the
    /// emulator's monitor.
    pub const CPU: Self = Self(sys::VIR_DOMAIN_STATS_CPU_TOTAL | sys::VIR_DOMAIN_STATS_VCPU);
    /// Disks: the daemon queries the emulator's monitor.
    pub const BLOCK: Self = Self(sys::VIR_DOMAIN_STATS_BLOCK);
    /// Interfaces: the daemon answers by itself.
    pub const INTERFACE: Self = Self(sys::VIR_DOMAIN_STATS_INTERFACE);
}

/// One domain's statistics, copied.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainStats {
    /// The name.
    pub name: String,
    /// The uuid as text.
    pub uuid: String,
    /// The number of the current run, new at each start; `None` if the domain is off.
    pub id: Option<u32>,
    /// The parameters with libvirt's names, in its order.
    pub params: Vec<(Name, Value)>,
}

impl DomainStats {
    /// Returns the state as libvirt's number, if [`Groups::OWN`] was requested.
    pub fn state(&self) -> Option<i32> {
        self.number("state.state")
    }

    /// Returns the parameter of this name, if it is a number of 32 bits.
    pub fn number(&self, name: &str) -> Option<i32> {
        let found = self.params.iter().find(|(candidate, _)| **candidate == *name);
        found.and_then(|(_, value)| i32::try_from(value.as_i64()?).ok())
    }
}

impl Connection {
    /// Returns statistics of all domains, running or not (`virConnectGetAllDomainStats`).
    ///
    /// # Errors
    /// If the daemon does not answer, or the driver has no statistics.
    ///
    /// # Blocking
    /// One round trip; with [`Groups::MONITOR`] without limit if an emulator hangs.
    pub fn all_stats(&self, groups: Groups) -> Result<Vec<DomainStats>, Error> {
        let mut records = Records::none();
        // SAFETY: the connection and the out-pointer are live.
        let count = unsafe {
            sys::virConnectGetAllDomainStats(self.raw.as_ptr(), groups.0, &raw mut records.0, 0)
        };
        check_int(count, "virConnectGetAllDomainStats")?;
        Ok(records.copied())
    }

    /// Returns statistics of these domains, which must belong to this connection
    /// (`virDomainListGetStats`). For a domain that is busy with another job, omits statistics that
    /// would have to wait, if the driver supports this.
    ///
    /// # Errors
    /// If the daemon does not answer, or the driver has no statistics.
    ///
    /// # Blocking
    /// As [`Connection::all_stats`].
    pub fn stats_of(&self, domains: &[Domain], groups: Groups) -> Result<Vec<DomainStats>, Error> {
        if domains.is_empty() {
            return Ok(Vec::new());
        }
        without_wait(domains, groups)
    }
}

impl Domain {
    /// Returns statistics of this domain (`virDomainListGetStats`); `None` if the driver returns no
    /// record for the domain.
    ///
    /// # Errors
    /// As [`Connection::stats_of`].
    ///
    /// # Blocking
    /// One round trip. If the emulator is queried, until it answers, and up to libvirt's 30 s for
    /// another job of the domain.
    pub fn stats(&self, groups: Groups) -> Result<Option<DomainStats>, Error> {
        Ok(list_stats(slice::from_ref(self), groups, 0)?.pop())
    }

    /// Returns statistics of this domain, without those that would have to wait for another job.
    ///
    /// # Errors
    /// As [`Connection::stats_of`].
    ///
    /// # Blocking
    /// One round trip, a second one with drivers that do not support this. If the emulator is
    /// queried, until it answers.
    pub fn stats_without_wait(&self, groups: Groups) -> Result<Option<DomainStats>, Error> {
        Ok(without_wait(slice::from_ref(self), groups)?.pop())
    }
}

fn without_wait(domains: &[Domain], groups: Groups) -> Result<Vec<DomainStats>, Error> {
    match list_stats(domains, groups, sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT) {
        Err(error) if error.code == Code::INVALID_ARG => list_stats(domains, groups, 0),
        outcome => outcome,
    }
}

fn list_stats(
    domains: &[Domain],
    groups: Groups,
    flags: c_uint,
) -> Result<Vec<DomainStats>, Error> {
    let mut list: Vec<_> = domains.iter().map(|domain| domain.raw.as_ptr()).collect();
    list.push(ptr::null_mut());
    let mut records = Records::none();
    // SAFETY: the list holds live domains and ends with NULL; the out-pointer is live.
    let count = unsafe {
        sys::virDomainListGetStats(list.as_mut_ptr(), groups.0, &raw mut records.0, flags)
    };
    check_int(count, "virDomainListGetStats")?;
    Ok(records.copied())
}

/// A list of records; freed with its parameters and domain references.
struct Records(*mut sys::virDomainStatsRecordPtr);

impl Records {
    fn none() -> Self {
        Self(ptr::null_mut())
    }

    /// Returns copies of all records.
    fn copied(&self) -> Vec<DomainStats> {
        // SAFETY: NULL, or an array that libvirt has ended with NULL.
        let records = unsafe { entries(self.0) };
        records.filter_map(|record| self.copy(record)).collect()
    }

    fn copy(&self, record: NonNull<sys::virDomainStatsRecord>) -> Option<DomainStats> {
        // SAFETY: a record that libvirt filled and that stays until the list is freed.
        let record = unsafe { record.as_ref() };
        let domain = NonNull::new(record.dom)?;
        // SAFETY: the record holds a reference to this domain.
        let name = unsafe { sys::virDomainGetName(domain.as_ptr()) };
        // SAFETY: NULL or a string that lives as long as the domain.
        let name = unsafe { copy_borrowed(name) }?;
        let uuid = uuid_of("virDomainGetUUID", |buffer| {
            // SAFETY: the domain is live, the buffer has VIR_UUID_BUFLEN bytes.
            unsafe { sys::virDomainGetUUID(domain.as_ptr(), buffer) }
        });
        // SAFETY: the domain is live.
        let id = unsafe { sys::virDomainGetID(domain.as_ptr()) };
        // SAFETY: as libvirt filled it.
        let params = unsafe { params(record) };
        let id = (id != NO_ID).then_some(id);
        Some(DomainStats { name, uuid: uuid.unwrap_or_default(), id, params })
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // SAFETY: from libvirt, ours, and freed only here; NULL is allowed.
        unsafe { sys::virDomainStatsRecordListFree(self.0) }
    }
}

/// Reads the parameters of a record.
///
/// # Safety
/// The record is as libvirt filled it.
unsafe fn params(record: &sys::virDomainStatsRecord) -> Vec<(Name, Value)> {
    let count = usize::try_from(record.nparams).unwrap_or(0);
    let mut params = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: the record has `nparams` parameters.
        let param = unsafe { record.params.add(index) };
        // SAFETY: see above; initialised by libvirt.
        let param = unsafe { &*param };
        // SAFETY: as libvirt filled it.
        params.extend(unsafe { read(param) });
    }
    params
}
