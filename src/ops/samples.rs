//! What samples of all guests are good for: metrics as text, all guests in one answer, and answers
//! for a guest whose emulator hangs.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use crate::config::MetricsConfig;
use crate::guest::wire::{
    AllGuestMetrics, CpuMetrics, Guest, GuestMetricsRequest, GuestMetricsResponse,
};
use crate::libvirt::{BlockStats, VcpuTimes};
use crate::metrics::{
    self, Calls, Cpu, Format, GuestView, Listener, Own, Sampler, SlowGuest, View,
};
use crate::ops::metrics::{by_vcpu, cpu_seconds, disk_counters, nic_counters};
use crate::ops::{Error, Libvirt, Opener, Session};
use crate::pool::{Pool, Span};

/// Reads a guest's last sample: an answer, and the age of what it is made from.
pub(super) type StandIn =
    fn(&View, &GuestView<'_>, &Guest) -> Option<(GuestMetricsResponse, Duration)>;

/// Starts the sampler over this opener; it leaves out guests whose keys are held in the pool.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(
    limits: &MetricsConfig,
    opener: &Arc<Opener>,
    pool: &Arc<Pool<Session>>,
) -> io::Result<Sampler> {
    let (opener, pool) = (Arc::clone(opener), Arc::downgrade(pool));
    let open = move |deadline| opener.open(deadline).map_err(|error| error.to_string());
    let changing = move || pool.upgrade().map(|pool| pool.held_keys()).unwrap_or_default();
    Sampler::start(limits, Arc::new(open), Arc::new(changing))
}

impl Libvirt {
    /// The counts of calls, to be kept by who answers them.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// All metrics as text.
    ///
    /// # Blocking
    /// Up to [`MetricsConfig::wait`], where the last sample is old.
    pub fn metrics_text(&self, format: Format, listeners: Vec<Listener>) -> String {
        // Before the figures, which so are of the moment that they are answered.
        let view = self.sampler.view();
        let usage = self.looks.usage();
        let own = Own {
            pool: self.pool.snapshot(),
            calls: self.calls.counts(),
            open_intents: self.journal.open_intents().len(),
            libvirt_version: self.libvirt_seen().version,
            listeners,
            storage: usage.map(|usage| (usage.free_bytes, usage.used_bytes)),
        };
        metrics::write(&view, &own, &self.metrics.metadata, format)
    }

    /// What all guests use, by their ids, from one sample; of the request nothing is looked at.
    ///
    /// # Errors
    /// [`Error::NoSample`] where there is none, and [`Error::Silent`] where that is because libvirt
    /// does not answer.
    ///
    /// # Blocking
    /// As [`Libvirt::metrics_text`].
    pub fn all_metrics(
        &self,
        _: GuestMetricsRequest,
    ) -> Result<BTreeMap<String, AllGuestMetrics>, Error> {
        let view = self.sampler.view();
        if view.fast.is_none() {
            self.opener.health().may_answer()?;
            return Err(Error::NoSample(view.error.unwrap_or_else(|| "not yet".to_owned())));
        }
        Ok(view.guests().map(|guest| (guest.name.to_owned(), all_of(&view, &guest))).collect())
    }

    /// The last sample's answer for a guest, if it is young enough.
    pub(super) fn sampled(
        &self,
        verb: &str,
        guest: &Guest,
        stand_in: StandIn,
    ) -> Option<GuestMetricsResponse> {
        let view = self.sampler.last();
        let (answer, age) = stand_in(&view, &view.guest(&guest.id)?, guest)?;
        if age >= self.metrics.stand_in {
            return None;
        }
        warn!("{verb} {}: late, answered from a sample {} old", guest.id, Span(age));
        Some(answer)
    }
}

fn all_of(view: &View, guest: &GuestView<'_>) -> AllGuestMetrics {
    let nics = guest.fast.nics.iter();
    let fast = view.fast.as_ref().map(|fast| fast.at);
    let oldest = fast.into_iter().chain(guest.slow.map(|slow| slow.at)).min();
    AllGuestMetrics {
        state: guest.fast.state.name().to_owned(),
        cpu: guest.fast.cpu.as_ref().map(cpus).unwrap_or_default(),
        disk: counted(guest.slow)
            .map(|(target, counters)| (target.clone(), disk_counters(target, counters)))
            .collect(),
        nic: nics.map(|(device, nic)| (device.clone(), nic_counters(device, nic))).collect(),
        age: oldest.map_or(0.0, |at| view.age(at).as_secs_f64()),
    }
}

/// CPUMetrics from the last fast sample.
pub(super) fn cpu(
    view: &View,
    guest: &GuestView<'_>,
    _: &Guest,
) -> Option<(GuestMetricsResponse, Duration)> {
    let cpu = cpus(guest.fast.cpu.as_ref()?);
    let answer = GuestMetricsResponse { kind: "cpu".to_owned(), cpu, ..Default::default() };
    Some((answer, fast_age(view)?))
}

/// DiskMetrics from the last slow sample that the guest was in; `None` if that lacks a disk.
pub(super) fn disks(
    view: &View,
    guest: &GuestView<'_>,
    asked: &Guest,
) -> Option<(GuestMetricsResponse, Duration)> {
    let slow = guest.slow?;
    let mut answer = GuestMetricsResponse { kind: "disk".to_owned(), ..Default::default() };
    for disk in &asked.disks {
        let device = disk.device.as_str();
        let counters = match device {
            "" => sum(counted(Some(slow)).map(|(_, counters)| counters)),
            _ => slow.disks.get(device)?.counters?,
        };
        answer.disk.insert(device.to_owned(), disk_counters(device, &counters));
    }
    Some((answer, view.age(slow.at)))
}

/// NicMetrics from the last fast sample; `None` if that lacks an interface.
pub(super) fn nics(
    view: &View,
    guest: &GuestView<'_>,
    asked: &Guest,
) -> Option<(GuestMetricsResponse, Duration)> {
    let mut answer = GuestMetricsResponse { kind: "nic".to_owned(), ..Default::default() };
    for nic in &asked.nics {
        let counters = nic_counters(&nic.name, guest.fast.nics.get(&nic.device)?);
        answer.nic.insert(nic.name.clone(), counters);
    }
    Some((answer, fast_age(view)?))
}

fn fast_age(view: &View) -> Option<Duration> {
    view.fast.as_ref().map(|fast| view.age(fast.at))
}

fn cpus(cpu: &Cpu) -> Vec<CpuMetrics> {
    let vcpu_ns = cpu.vcpus.values().map(|vcpu| vcpu.run_ns).collect();
    let times = VcpuTimes { total_ns: Some(cpu.process_ns), vcpu_ns };
    by_vcpu(&times).iter().map(cpu_seconds).collect()
}

/// The disks that have counters: none of a guest that is off.
fn counted(guest: Option<&SlowGuest>) -> impl Iterator<Item = (&String, &BlockStats)> {
    let disks = guest.into_iter().flat_map(|guest| &guest.disks);
    disks.filter_map(|(target, disk)| Some((target, disk.counters.as_ref()?)))
}

fn sum<'c>(counters: impl Iterator<Item = &'c BlockStats>) -> BlockStats {
    counters.fold(BlockStats::default(), |sum, one| BlockStats {
        read_ops: sum.read_ops.saturating_add(one.read_ops),
        read_bytes: sum.read_bytes.saturating_add(one.read_bytes),
        read_ns: sum.read_ns.saturating_add(one.read_ns),
        write_ops: sum.write_ops.saturating_add(one.write_ops),
        write_bytes: sum.write_bytes.saturating_add(one.write_bytes),
        write_ns: sum.write_ns.saturating_add(one.write_ns),
        flush_ops: sum.flush_ops.saturating_add(one.flush_ops),
        flush_ns: sum.flush_ns.saturating_add(one.flush_ns),
    })
}
