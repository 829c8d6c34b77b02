//! CPUMetrics, DiskMetrics and NicMetrics of one guest (contract section 5).
//!
//! Each is two round trips, a lookup and one question, however many disks or NICs are asked for. One
//! more reads where the NICs of a request without devices are plugged in, and one more are times by
//! host processor. What an answer for all lacks is asked for by itself, in two for a disk and one for
//! a NIC: a device that is not there, a guest that is off, the sum over all disks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::guest::domain::VirDomain;
use crate::guest::wire::metrics::{
    DiskMetrics, GuestMetricsRequest, GuestMetricsResponse, NicMetrics,
};
use crate::guest::wire::{Guest, Nic};
use crate::libvirt::{Code, CpuTime, Domain, DomainStats, Error as LibvirtError};
use crate::libvirt::{Groups, XmlKind};
use crate::metrics;
use crate::ops::counters::{by_vcpu, cpu_seconds, disk_counters, nic_counters};
use crate::ops::{Error, Libvirt, Question, samples};
use crate::sorted::IntoSorted;

impl Libvirt {
    /// Processor time: an element for each processor that `virDomainGetCPUStats` answers for; where
    /// a driver has no such numbers (every host with cgroup v2) one for each virtual processor.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest; what libvirt says, a domain that is off among it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn cpu_metrics(&self, request: GuestMetricsRequest) -> Result<GuestMetricsResponse, Error> {
        self.ask(self.cpu_question(request)?)
    }

    /// What [`Libvirt::cpu_metrics`] asks.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest; an argument that cannot be understood.
    pub fn cpu_question(
        &self,
        request: GuestMetricsRequest,
    ) -> Result<Question<GuestMetricsResponse>, Error> {
        let without = Arc::clone(&self.without_cpu_stats);
        let ask = move |domain: &Domain, _: &Guest, answer: &mut GuestMetricsResponse| {
            answer.kind = "cpu".to_owned();
            answer.cpu = cpu_times(domain, &without)?.iter().map(cpu_seconds).collect();
            Ok(())
        };
        self.metrics_question("CPUMetrics", request, ask, samples::cpu)
    }

    /// Counters of each of the request's disks, by its `device`.
    ///
    /// # Errors
    /// As [`Libvirt::cpu_metrics`]; one unknown device fails the whole call.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn disk_metrics(
        &self,
        request: GuestMetricsRequest,
    ) -> Result<GuestMetricsResponse, Error> {
        self.ask(self.disk_question(request)?)
    }

    /// What [`Libvirt::disk_metrics`] asks.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest; an argument that cannot be understood.
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

    /// Counters of each of the request's NICs, by its `name`; a NIC without a `device` is found by
    /// its MAC.
    ///
    /// # Errors
    /// As [`Libvirt::cpu_metrics`]; one unknown device fails the whole call.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn nic_metrics(&self, request: GuestMetricsRequest) -> Result<GuestMetricsResponse, Error> {
        self.ask(self.nic_question(request)?)
    }

    /// What [`Libvirt::nic_metrics`] asks.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest; an argument that cannot be understood.
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

    /// What the three have in common: one job on the read lane that may run twice. Where it is late
    /// because the guest's emulator hangs, the last sample stands in if it is young.
    fn metrics_question(
        &self,
        verb: &'static str,
        request: GuestMetricsRequest,
        ask: impl Fn(&Domain, &Guest, &mut GuestMetricsResponse) -> Result<(), Error> + Send + 'static,
        stand_in: samples::StandIn,
    ) -> Result<Question<GuestMetricsResponse>, Error> {
        let guest = request.guest.ok_or(Error::NoGuest)?;
        let deadline = self.read_deadline(&request.args)?;
        let asked = guest.clone();
        let question = Question::new(verb, guest.id.clone(), deadline, move |session| {
            session.read(|connection| {
                let domain = connection.lookup_domain_by_name(&asked.id)?;
                let mut answer = GuestMetricsResponse::default();
                ask(&domain, &asked, &mut answer)?;
                Ok(answer)
            })
        });
        Ok(question.of_emulator().or_late(move |agent| agent.sampled(verb, &guest, stand_in)))
    }
}

/// `without` is whether libvirt has turned out to know no times by host processor: that is so for
/// all guests of a host, and saves the question.
fn cpu_times(domain: &Domain, without: &AtomicBool) -> Result<Vec<CpuTime>, LibvirtError> {
    if without.load(Ordering::Relaxed) {
        let times = by_vcpu(&domain.vcpu_times()?);
        // A guest that is off has none, and an error that only the other question tells.
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
    without.store(is_of_the_host, Ordering::Relaxed);
    Ok(times)
}

/// Whether the driver cannot say, rather than the domain being off: cgroup v2 has no such counters,
/// and without any cgroup the driver calls the operation invalid for a domain that does run.
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
    // A running guest's NIC that has no end on the host, as those of type `user` and `hostdev`, has no
    // counters there.
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
    // For one, the question for it is the cheaper one.
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

/// What is known of all disks or all interfaces; `None` also where the driver has no such statistics.
fn stats_of_all(domain: &Domain, groups: Groups) -> Result<Option<DomainStats>, LibvirtError> {
    match domain.stats_without_wait(groups) {
        Err(error) if error.code == Code::NO_SUPPORT => Ok(None),
        outcome => outcome,
    }
}
