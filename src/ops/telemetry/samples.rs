//! Answers from samples of all guests: metrics as text, all guests in one answer, and answers for a guest whose
//! emulator hangs.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use crate::config::MetricsConfig;
use crate::events::{EventKind, Events};
use crate::guest::wire::Guest;
use crate::guest::wire::metrics::{
    AllGuestMetrics, CpuMetrics, GuestMetricsRequest, GuestMetricsResponse,
};
use crate::libvirt::{BlockStats, VcpuTimes};
use crate::metrics::{
    self, AgentStats, Calls, Cpu, Format, GuestView, Listener, Sampler, SlowGuest, View,
};
use crate::ops::telemetry::counters::{by_vcpu, cpu_seconds, disk_counters, nic_counters};
use crate::ops::{Error, Opener, Session, Telemetry};
use crate::pool::{Pool, Span};
use crate::sorted::IntoSorted;
use crate::threads;

/// Makes an answer from a guest's last sample; returns it with the age of the sample.
pub(in crate::ops) type StandIn =
    fn(&View, &GuestView<'_>, &Guest) -> Option<(GuestMetricsResponse, Duration)>;

/// Starts the sampler with this opener. The sampler skips guests whose guest lock is held.
///
/// # Errors
/// If the system refuses the thread.
pub(in crate::ops) fn start(
    limits: &MetricsConfig,
    opener: &Arc<Opener>,
    pool: &Arc<Pool<Session>>,
    events: &Arc<Events>,
) -> io::Result<Sampler> {
    let (opener, pool, events) = (Arc::clone(opener), Arc::downgrade(pool), Arc::clone(events));
    let open = move |deadline| opener.open(deadline).map_err(|error| error.to_string());
    let locked = move || pool.upgrade().map(|pool| pool.locked_guests()).unwrap_or_default();
    let stuck = move |guest: &str, is_stuck| {
        events.note(guest, if is_stuck { EventKind::Stuck } else { EventKind::Unstuck });
    };
    Sampler::start(limits, Arc::new(open), Arc::new(locked), Arc::new(stuck))
}

impl Telemetry {
    /// Returns the counters of calls, which the code that answers calls updates.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Returns all metrics as text. The state of libvirt and storage comes from memory; if the check of storage is over
    /// a minute old, another one starts in the background.
    ///
    /// # Blocking
    /// Up to [`MetricsConfig::wait`], if the last sample is old.
    pub fn metrics_text(&self, format: Format, listeners: Vec<Listener>) -> String {
        // Before the other figures: this may wait, and they must be of the moment of the answer.
        let view = self.sampler.view();
        self.core.status.refresh_for_scrape();
        let usage = self.core.status.usage();
        let own = AgentStats {
            pool: self.core.pool.snapshot(),
            calls: self.calls.counts(),
            open_intents: self.core.journal.open_intents().len(),
            leftovers: self.core.journal.leftovers().len(),
            libvirt_version: self.core.opener.health().seen().version,
            listeners,
            log_lines_dropped: threads::lines_lost(threads::LOG_WRITER),
            audit_lines_dropped: threads::lines_lost(threads::AUDIT_WRITER),
            storage: usage.map(|usage| (usage.free_bytes, usage.used_bytes)),
            limits: self.limits.all(),
            volumes: self.core.status.volumes(),
            inside: self.agents.views(),
        };
        metrics::write(&view, &own, &self.metrics.metadata, format)
    }

    /// Returns the metrics of all guests, by their ids, from one sample. Ignores the request.
    ///
    /// # Errors
    /// [`Error::NoSample`] without a sample, or [`Error::Silent`] if that is because libvirt does not answer.
    ///
    /// # Blocking
    /// As [`Telemetry::metrics_text`].
    pub fn all_metrics(
        &self,
        _: GuestMetricsRequest,
    ) -> Result<BTreeMap<String, AllGuestMetrics>, Error> {
        let view = self.sampler.view();
        if view.fast.is_none() {
            self.core.opener.health().may_answer()?;
            let why = view.error.unwrap_or_else(|| "the first sample is not complete".to_owned());
            return Err(Error::NoSample(why));
        }
        Ok(view.guests().map(|guest| (guest.name.to_owned(), all_of(&view, &guest))).into_map())
    }
}

/// Returns the answer for a guest from the last sample, if that is younger than `max_age`.
pub(super) fn sampled(
    sampler: &Sampler,
    max_age: Duration,
    verb: &str,
    guest: &Guest,
    stand_in: StandIn,
) -> Option<GuestMetricsResponse> {
    let view = sampler.last();
    let (answer, age) = stand_in(&view, &view.guest(&guest.id)?, guest)?;
    if age >= max_age {
        return None;
    }
    warn!("{verb} {} timed out; answered from a sample {} old", guest.id, Span(age));
    Some(answer)
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
            .into_map(),
        nic: nics.map(|(device, nic)| (device.clone(), nic_counters(device, nic))).into_map(),
        age: oldest.map_or(0.0, |at| view.age(at).as_secs_f64()),
    }
}

/// CPUMetrics from the last fast sample.
pub(in crate::ops) fn cpu(
    view: &View,
    guest: &GuestView<'_>,
    _: &Guest,
) -> Option<(GuestMetricsResponse, Duration)> {
    let cpu = cpus(guest.fast.cpu.as_ref()?);
    let answer = GuestMetricsResponse { kind: "cpu".to_owned(), cpu, ..Default::default() };
    Some((answer, fast_age(view)?))
}

/// DiskMetrics from the last slow sample that the guest was in; `None` if that lacks a disk.
pub(in crate::ops) fn disks(
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
pub(in crate::ops) fn nics(
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

/// Returns the disks that have counters; a guest that is off has none.
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::guest::state::State;
    use crate::guest::wire::{GuestDisk as AskedDisk, Nic as AskedNic};
    use crate::libvirt::InterfaceStats;
    use crate::metrics::{Disk, Fast, FastGuest, Slow, Vcpu};

    const FAST: Duration = Duration::from_secs(2);
    const SLOW: Duration = Duration::from_secs(7);

    /// Returns a guest with two disks that have counters and one that has none.
    fn view() -> View {
        let now = Instant::now();
        let ago = |age| now.checked_sub(age).unwrap();
        let vcpu = Vcpu { run_ns: 3_000_000_000, delay_ns: 1 };
        let cpu = Cpu { process_ns: 5_000_000_000, vcpus: [(0, vcpu)].into_iter().into_table() };
        let nic = InterfaceStats { rx_bytes: 1, tx_bytes: 2, ..InterfaceStats::default() };
        let fast = FastGuest {
            uuid: "u".into(),
            run: Some(1),
            state: State::Running,
            reason: "",
            cpu: Some(cpu),
            nics: [("vnet0".to_owned(), nic)].into(),
            devices: BTreeMap::new(),
        };
        let disk = |first: i64| {
            let counters = BlockStats {
                read_ops: first,
                read_bytes: first + 1,
                read_ns: first + 2,
                write_ops: first + 3,
                write_bytes: first + 4,
                write_ns: first + 5,
                flush_ops: first + 6,
                flush_ns: first + 7,
            };
            Disk { counters: Some(counters), ..Disk::default() }
        };
        let disks = [("vda", disk(10)), ("vdb", disk(100)), ("hda", Disk::default())];
        let slow = SlowGuest {
            at: ago(SLOW),
            run: Some(1),
            memory_max_kib: None,
            memory_kib: None,
            vcpus_online: None,
            balloon: BTreeMap::new(),
            vcpus: Default::default(),
            disks: disks.map(|(target, disk)| (target.to_owned(), disk)).into(),
        };
        let slow = Slow { guests: [("a".to_owned(), slow)].into(), ..Slow::default() };
        View::of(now, Fast { at: ago(FAST), guests: [("a".to_owned(), fast)].into() }, slow)
    }

    fn asked(disks: &[&str], nics: &[&str]) -> Guest {
        let disk = |device: &&str| AskedDisk { device: (*device).into(), ..AskedDisk::default() };
        let nic = |device: &&str| AskedNic {
            name: "eth0".into(),
            device: (*device).into(),
            ..AskedNic::default()
        };
        Guest {
            disks: disks.iter().map(disk).collect(),
            nics: nics.iter().map(nic).collect(),
            ..Guest::default()
        }
    }

    #[test]
    fn guest_metrics_are_as_old_as_the_oldest() {
        let mut view = view();
        let all = all_of(&view, &view.guest("a").unwrap());
        assert_eq!((all.age, all.state.as_str()), (7.0, "running"));
        assert_eq!(all.disk.keys().collect::<Vec<_>>(), ["vda", "vdb"]);
        assert_eq!((all.nic["vnet0"].rx_bytes, all.nic["vnet0"].tx_bytes), (1, 2));
        assert_eq!((all.cpu[0].cpu_time, all.cpu[0].vcpu_time), (5.0, 3.0));
        view.slow = Arc::default();
        let all = all_of(&view, &view.guest("a").unwrap());
        assert_eq!((all.age, all.disk.len()), (2.0, 0));
    }

    #[test]
    fn substitute_value_has_the_age_of_its_tier() {
        let view = view();
        let guest = view.guest("a").unwrap();
        let (answer, age) = cpu(&view, &guest, &asked(&[], &[])).unwrap();
        assert_eq!((answer.kind.as_str(), answer.cpu[0].cpu_time, age), ("cpu", 5.0, FAST));
        let (answer, age) = nics(&view, &guest, &asked(&[], &["vnet0"])).unwrap();
        assert_eq!((answer.kind.as_str(), answer.nic["eth0"].tx_bytes, age), ("nic", 2, FAST));
        let (answer, age) = disks(&view, &guest, &asked(&["vdb"], &[])).unwrap();
        assert_eq!((answer.kind.as_str(), answer.disk["vdb"].read_ops, age), ("disk", 100, SLOW));
    }

    #[test]
    fn unnamed_disk_is_the_sum_and_unknown_has_no_value() {
        let view = view();
        let guest = view.guest("a").unwrap();
        let (answer, _) = disks(&view, &guest, &asked(&[""], &[])).unwrap();
        let sum = &answer.disk[""];
        assert_eq!((sum.read_ops, sum.read_bytes, sum.write_ops), (110, 112, 116));
        assert_eq!((sum.write_bytes, sum.flush_ops), (118, 122));
        assert_eq!((sum.read_time, sum.write_time, sum.flush_time), (114e-9, 120e-9, 124e-9));
        for unknown in ["hda", "vdz"] {
            assert!(disks(&view, &guest, &asked(&["vda", unknown], &[])).is_none(), "{unknown}");
        }
        assert!(nics(&view, &guest, &asked(&[], &["vnet0", "vnet1"])).is_none());
    }
}
