//! CPUMetrics, DiskMetrics and NicMetrics of one guest (contract section 5).
//!
//! Each method needs two round trips, a lookup and one query, for any number of disks or NICs. A request for NICs
//! without devices needs one more, for the live definition; times by host processor need one more. Values that
//! the common query lacks need their own: two for a disk and one for a NIC. This applies to a missing device, a guest
//! that is off, and the sum over all disks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::guest::domain::VirDomain;
use crate::guest::wire::metrics::{
    DiskMetrics, GuestMetricsRequest, GuestMetricsResponse, NicMetrics,
};
use crate::guest::wire::{Guest, Nic};
use crate::libvirt::{Code, CpuTime, Domain, DomainStats, Error as LibvirtError, Groups, XmlKind};
use crate::metrics;
use crate::ops::telemetry::counters::{by_vcpu, cpu_seconds, disk_counters, nic_counters};
use crate::ops::telemetry::samples;
use crate::ops::{Error, Question, Telemetry};
use crate::sorted::IntoSorted;

impl Telemetry {
    /// Returns processor times: an element for each processor in the answer of `virDomainGetCPUStats`; for a driver
    /// without such numbers (every host with cgroup v2), one for each virtual processor.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest; errors of libvirt, including a domain that is off.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn cpu_metrics(&self, request: GuestMetricsRequest) -> Result<GuestMetricsResponse, Error> {
        self.core.ask(self.cpu_question(request)?)
    }

    /// Returns the question of [`Telemetry::cpu_metrics`].
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest; invalid arguments.
    pub fn cpu_question(
        &self,
        request: GuestMetricsRequest,
    ) -> Result<Question<GuestMetricsResponse>, Error> {
        let without_cpu_stats = Arc::clone(&self.without_cpu_stats);
        let ask = move |domain: &Domain, _: &Guest, answer: &mut GuestMetricsResponse| {
            answer.kind = "cpu".to_owned();
            answer.cpu = cpu_times(domain, &without_cpu_stats)?.iter().map(cpu_seconds).collect();
            Ok(())
        };
        self.metrics_question("CPUMetrics", request, ask, samples::cpu)
    }

    /// Returns the counters of each of the request's disks, by its `device`.
    ///
    /// # Errors
    /// As [`Telemetry::cpu_metrics`]; one unknown device fails the whole call.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn disk_metrics(
        &self,
        request: GuestMetricsRequest,
    ) -> Result<GuestMetricsResponse, Error> {
        self.core.ask(self.disk_question(request)?)
    }

    /// Returns the question of [`Telemetry::disk_metrics`].
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest; invalid arguments.
    pub fn disk_question(
        &self,
        request: GuestMetricsRequest,
    ) -> Result<Question<GuestMetricsResponse>, Error> {
        let ask = |domain: &Domain, guest: &Guest, answer: &mut GuestMetricsResponse| {
            answer.kind = "disk".to_owned();
            answer.disk = disk_metrics(domain, guest)?;
            Ok(())
        };
        self.metrics_question("DiskMetrics", request, ask, samples::disks)
    }

    /// Returns the counters of each of the request's NICs, by its `name`. The MAC identifies a NIC without a `device`.
    ///
    /// # Errors
    /// As [`Telemetry::cpu_metrics`]; one unknown device fails the whole call.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn nic_metrics(&self, request: GuestMetricsRequest) -> Result<GuestMetricsResponse, Error> {
        self.core.ask(self.nic_question(request)?)
    }

    /// Returns the question of [`Telemetry::nic_metrics`].
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest; invalid arguments.
    pub fn nic_question(
        &self,
        request: GuestMetricsRequest,
    ) -> Result<Question<GuestMetricsResponse>, Error> {
        let ask = |domain: &Domain, guest: &Guest, answer: &mut GuestMetricsResponse| {
            answer.kind = "nic".to_owned();
            answer.nic = nic_metrics(domain, guest)?;
            Ok(())
        };
        self.metrics_question("NicMetrics", request, ask, samples::nics)
    }

    /// Returns the question of one of the three methods: a job on the read lane that may run twice. If it is late
    /// because the guest's emulator hangs, the answer is the last sample, if that is recent.
    fn metrics_question(
        &self,
        verb: &'static str,
        request: GuestMetricsRequest,
        ask: impl Fn(&Domain, &Guest, &mut GuestMetricsResponse) -> Result<(), Error> + Send + 'static,
        stand_in: samples::StandIn,
    ) -> Result<Question<GuestMetricsResponse>, Error> {
        let guest = request.guest.ok_or(Error::NoGuest)?;
        let deadline = self.core.read_deadline(&request.args)?;
        let asked = guest.clone();
        let question = Question::new(verb, guest.id.clone(), deadline, move |session| {
            session.read(|connection| {
                let domain = connection.lookup_domain_by_name(&asked.id)?;
                let mut answer = GuestMetricsResponse::default();
                ask(&domain, &asked, &mut answer)?;
                Ok(answer)
            })
        });
        let (sampler, max_age) = (Arc::clone(&self.sampler), self.metrics.stand_in);
        let stand_in = move || samples::sampled(&sampler, max_age, verb, &guest, stand_in);
        Ok(question.of_emulator().or_late(stand_in))
    }
}

/// Reads the processor times of a domain. `without_cpu_stats` records that libvirt has no times by host processor, for
/// any guest of the host, and saves that query.
fn cpu_times(
    domain: &Domain,
    without_cpu_stats: &AtomicBool,
) -> Result<Vec<CpuTime>, LibvirtError> {
    if without_cpu_stats.load(Ordering::Relaxed) {
        let times = by_vcpu(&domain.vcpu_times()?);
        // A guest that is off has no times; only the other query returns the proper error.
        if !times.is_empty() {
            return Ok(times);
        }
    }
    let refused = match domain.cpu_stats() {
        Err(error) if no_cpu_stats(domain, &error)? => error,
        outcome => return outcome,
    };
    let times = by_vcpu(&domain.vcpu_times()?);
    if times.is_empty() {
        return Err(refused);
    }
    let is_of_the_host = refused.code != Code::OPERATION_INVALID;
    without_cpu_stats.store(is_of_the_host, Ordering::Relaxed);
    Ok(times)
}

/// Returns whether the driver lacks these numbers, as opposed to a domain that is off. cgroup v2 has no such counters,
/// and without any cgroup the driver calls the operation invalid for a domain that runs.
fn no_cpu_stats(domain: &Domain, error: &LibvirtError) -> Result<bool, LibvirtError> {
    Ok(match error.code {
        Code::NO_SUPPORT | Code::OPERATION_UNSUPPORTED => true,
        Code::OPERATION_INVALID => domain.is_active()?,
        _ => false,
    })
}

fn disk_metrics(
    domain: &Domain,
    guest: &Guest,
) -> Result<BTreeMap<String, DiskMetrics>, LibvirtError> {
    let devices: Vec<&str> = guest.disks.iter().map(|disk| disk.device.as_str()).collect();
    let named = devices.iter().any(|device| !device.is_empty());
    let known = if named { stats_of_all(domain, Groups::BLOCK)? } else { None };
    let known = known.as_ref().map(metrics::disks).unwrap_or_default();
    let mut answer = BTreeMap::new();
    for device in devices {
        if answer.contains_key(device) {
            continue;
        }
        let counters = match known.get(device).and_then(|disk| disk.counters) {
            Some(counters) => counters,
            None => domain.block_stats(device)?,
        };
        answer.insert(device.to_owned(), disk_counters(device, &counters));
    }
    Ok(answer)
}

fn nic_metrics(domain: &Domain, guest: &Guest) -> Result<BTreeMap<String, NicMetrics>, Error> {
    let live = if guest.nics.iter().any(|nic| nic.device.is_empty()) {
        VirDomain::from_xml(&domain.xml(XmlKind::Live)?).ok()
    } else {
        None
    };
    // A running guest's NIC without a device on the host, such as one of type `user` or `hostdev`, has no counters.
    let is_running = live.is_some() && domain.is_active()?;
    let counted = guest.nics.iter().filter_map(|nic| {
        let found = live.as_ref().and_then(|live| live.interface_by_mac(&nic.mac));
        match found.filter(|_| nic.device.is_empty()) {
            Some(interface) if is_running && interface.target.device.is_empty() => None,
            Some(interface) => Some((nic, interface.target.device.as_str())),
            None => Some((nic, nic.device.as_str())),
        }
    });
    let counted: Vec<(&Nic, &str)> = counted.collect();
    // For a single NIC, its own query is cheaper.
    let several = counted.iter().map(|(_, device)| device).into_set().len() > 1;
    let known = if several { stats_of_all(domain, Groups::INTERFACE)? } else { None };
    let known = known.as_ref().map(metrics::interfaces).unwrap_or_default();
    let mut answer = BTreeMap::new();
    for (nic, device) in counted {
        let stats = match known.get(device) {
            Some(stats) => *stats,
            None => domain.interface_stats(device)?,
        };
        answer.insert(nic.name.clone(), nic_counters(&nic.name, &stats));
    }
    Ok(answer)
}

/// Reads the statistics of all disks or all interfaces; `None` if there are none, or the driver does not support them.
fn stats_of_all(domain: &Domain, groups: Groups) -> Result<Option<DomainStats>, LibvirtError> {
    match domain.stats_without_wait(groups) {
        Err(error) if error.code == Code::NO_SUPPORT => Ok(None),
        outcome => outcome,
    }
}
