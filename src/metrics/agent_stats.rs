//! The metric families of the agent itself.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use crate::guest::limits::Limits;
use crate::libvirt::version_text;
use crate::metrics::calls::{self, Counts};
use crate::metrics::latest::View;
use crate::metrics::text::{Family, Kind, Text, Value};
use crate::pool::PoolSnapshot;
use crate::sorted::Table;

use Kind::{Counter, Gauge, Histogram, Info};

/// The agent's own values at one moment.
#[derive(Clone, Debug)]
pub struct AgentStats {
    /// Its lanes and callers.
    pub pool: PoolSnapshot,
    /// Calls by service and method.
    pub calls: BTreeMap<(&'static str, &'static str), Counts>,
    /// Open intents of the journal, which wait for recovery.
    pub open_intents: usize,
    /// Calls with leftovers that recovery could not remove.
    pub leftovers: usize,
    /// libvirt's version, as libvirt encodes it, if it is known.
    pub libvirt_version: Option<u64>,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Log lines that were dropped or could not be written to standard error.
    pub log_lines_dropped: u64,
    /// Audit records that were dropped or could not be written to the audit file.
    pub audit_lines_dropped: u64,
    /// Free and used bytes of the store, if they are known.
    pub storage: Option<(u64, u64)>,
    /// The limits of running guests: for each guest by the targets of its disks and NICs.
    pub limits: Table<String, Vec<(String, Limits)>>,
    /// The volumes of guests, as they were read last.
    pub volumes: Arc<[GuestVolume]>,
    /// Running guests that have a channel for a guest agent.
    pub inside: Vec<GuestInside>,
}

/// Values that a guest agent reports about its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInside {
    /// The guest.
    pub guest: String,
    /// Whether its guest agent is connected.
    pub is_connected: bool,
    /// Its file systems, as its guest agent reported them last; empty if they are not collected.
    pub filesystems: Vec<MountedSize>,
}

/// A file system of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedSize {
    /// Where it is mounted, as the guest reports it.
    pub mountpoint: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
}

/// A volume of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestVolume {
    /// The guest.
    pub guest: String,
    /// The volume's full name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Data in it, as [`Volumes::filled`](crate::storage::Volumes::filled) returns it.
    pub used_bytes: u64,
}

/// The counts of one listener since the start.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The name of its service.
    pub name: &'static str,
    /// Connections that are open.
    pub connections: usize,
    /// Complete and valid requests.
    pub requests: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Connections whose callers were not permitted to call.
    pub denied: u64,
    /// Requests that did not run, as their callers had disconnected.
    pub abandoned: u64,
    /// Refused requests and connections, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// Writes all families of the agent.
pub(super) fn write(text: &mut Text, view: &View, own: &AgentStats) {
    write_build(text, own);
    write_calls(text, own);
    write_lanes(text, &own.pool);
    write_listeners(text, &own.listeners);
    write_samples(text, view);
    one(text, "mistify_journal_open_intents", Gauge, "Journal intents that wait for recovery", {
        count(own.open_intents)
    });
    one(
        text,
        "mistify_journal_leftovers",
        Gauge,
        "Calls whose leftovers recovery could not remove",
        count(own.leftovers),
    );
    let help = "Log lines lost because the queue was full or standard error failed";
    one(text, "mistify_log_lines_dropped", Counter, help, Value::Count(own.log_lines_dropped));
    let help = "Audit records lost because the queue was full or the file could not be written";
    one(text, "mistify_audit_lines_dropped", Counter, help, Value::Count(own.audit_lines_dropped));
    if let Some((free, used)) = own.storage {
        let name = "mistify_storage_free_bytes";
        one(
            text,
            name,
            Gauge,
            "Free space of the store in bytes, as last read",
            Value::Count(free),
        );
        let name = "mistify_storage_used_bytes";
        one(
            text,
            name,
            Gauge,
            "Used space of the store in bytes, as last read",
            Value::Count(used),
        );
    }
    write_limits(text, own);
    write_volumes(text, &own.volumes);
    write_inside(text, &own.inside);
    write_process(text);
}

fn write_limits(text: &mut Text, own: &AgentStats) {
    text.family(&Family {
        name: "mistify_guest_limit",
        kind: Gauge,
        help: "Limit of a disk or NIC of the running guest, in bytes or requests per second",
    });
    for (guest, devices) in own.limits.iter() {
        for (device, limits) in devices {
            for (limit, most) in limits {
                let labels =
                    [("domain", guest.as_str()), ("target_device", device), ("limit", limit)];
                text.sample(&labels, Value::Count(*most));
            }
        }
    }
}

fn write_volumes(text: &mut Text, volumes: &[GuestVolume]) {
    type Bytes = fn(&GuestVolume) -> u64;
    let families: [(&str, &str, Bytes); 2] = [
        (
            "mistify_volume_size_bytes",
            "Size of the volume that the guest sees, in bytes, as last read",
            |volume| volume.size_bytes,
        ),
        (
            "mistify_volume_used_bytes",
            "Data in the volume in bytes, before compression, with what it shares with its image, as last read",
            |volume| volume.used_bytes,
        ),
    ];
    for (name, help, bytes) in families {
        text.family(&Family { name, kind: Gauge, help });
        for volume in volumes {
            let labels = [("domain", volume.guest.as_str()), ("volume", &volume.name)];
            text.sample(&labels, Value::Count(bytes(volume)));
        }
    }
}

fn write_inside(text: &mut Text, guests: &[GuestInside]) {
    text.family(&Family {
        name: "mistify_guest_agent_connected",
        kind: Gauge,
        help: "Whether the guest agent of the running guest is connected (1) or not (0)",
    });
    for guest in guests {
        text.sample(&[("domain", &guest.guest)], Value::Count(guest.is_connected.into()));
    }
    type Bytes = fn(&MountedSize) -> u64;
    let families: [(&str, &str, Bytes); 2] = [
        (
            "mistify_guest_filesystem_size_bytes",
            "Size of the guest's file system in bytes, as its guest agent last reported",
            |mounted| mounted.size_bytes,
        ),
        (
            "mistify_guest_filesystem_used_bytes",
            "Used bytes of the guest's file system, as its guest agent last reported",
            |mounted| mounted.used_bytes,
        ),
    ];
    for (name, help, bytes) in families {
        text.family(&Family { name, kind: Gauge, help });
        for guest in guests {
            for mounted in &guest.filesystems {
                let labels =
                    [("domain", guest.guest.as_str()), ("mountpoint", &mounted.mountpoint)];
                text.sample(&labels, Value::Count(bytes(mounted)));
            }
        }
    }
}

fn write_build(text: &mut Text, own: &AgentStats) {
    let libvirt = own.libvirt_version.map(version_text);
    text.family(&Family {
        name: "mistify_build",
        kind: Info,
        help: "Versions of the agent and of libvirt, as labels",
    });
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("libvirt", libvirt.as_deref().unwrap_or_default()),
    ];
    text.sample(&labels, Value::Count(1));
}

fn write_calls(text: &mut Text, own: &AgentStats) {
    text.family(&Family {
        name: "mistify_requests",
        kind: Counter,
        help: "Calls, by method and outcome",
    });
    for ((service, method), counts) in &own.calls {
        let method = format!("{service}.{method}");
        for (outcome, number) in [("ok", counts.succeeded), ("error", counts.failed)] {
            text.sample(&[("method", &method), ("outcome", outcome)], Value::Count(number));
        }
    }
    text.family(&Family {
        name: "mistify_request_duration_seconds",
        kind: Histogram,
        help: "Duration of calls in seconds, by method",
    });
    for ((service, method), counts) in &own.calls {
        let method = format!("{service}.{method}");
        text.histogram(&[("method", &method)], &calls::BOUNDS, &counts.took, counts.sum_ns);
    }
}

fn write_lanes(text: &mut Text, pool: &PoolSnapshot) {
    let lanes: Vec<_> = pool.lanes.iter().map(|lane| (lane.lane.to_string(), lane)).collect();
    let mut each = |name, kind, help, value: fn(&crate::pool::LaneSnapshot) -> Value| {
        text.family(&Family { name, kind, help });
        for (name, lane) in &lanes {
            text.sample(&[("lane", name)], value(lane));
        }
    };
    each("mistify_lane_workers", Gauge, "Worker threads of the lane", |lane| count(lane.workers));
    each("mistify_lane_queued", Gauge, "Jobs that wait for a worker of the lane", |lane| {
        count(lane.queued)
    });
    each("mistify_lane_running", Gauge, "Jobs that run on the lane's workers", |lane| {
        count(lane.running)
    });
    each(
        "mistify_lane_stuck",
        Gauge,
        "Stuck jobs, whose calls have not returned and whose workers were replaced",
        |lane| count(lane.stuck),
    );
    each(
        "mistify_lane_oldest_seconds",
        Gauge,
        "Age of the lane's oldest running job in seconds",
        |lane| lane.oldest.as_ref().map_or(Duration::ZERO, |oldest| oldest.age).into(),
    );
    each("mistify_lane_finished", Counter, "Jobs that returned, in time or late", |lane| {
        Value::Count(lane.totals.finished)
    });
    each("mistify_lane_panicked", Counter, "Jobs that panicked", |lane| {
        Value::Count(lane.totals.panicked)
    });
    each(
        "mistify_lane_unrun",
        Counter,
        "Jobs that no worker took before their deadline or the agent's stop",
        |lane| Value::Count(lane.totals.unrun),
    );
    each(
        "mistify_lane_late",
        Counter,
        "Callers that were answered at their deadline while their job ran on",
        |lane| Value::Count(lane.totals.late),
    );
    each(
        "mistify_lane_refused",
        Counter,
        "Jobs refused because the queue or pool was full, or the agent was stopping",
        |lane| Value::Count(lane.totals.refused),
    );
    let callers = &pool.callers;
    one(
        text,
        "mistify_callers",
        Gauge,
        "Callers in the pool: they hold or wait for a guest lock, or wait for a job",
        count(callers.callers),
    );
    one(text, "mistify_keys_held", Gauge, "Guest locks that are held", count(callers.locks_held));
    one(
        text,
        "mistify_keys_waiting",
        Gauge,
        "Callers that wait for a guest lock",
        count(callers.locks_waiting),
    );
    one(
        text,
        "mistify_calls_waiting",
        Gauge,
        "Calls that wait for a permit of the pool",
        count(callers.calls_waiting),
    );
}

fn write_listeners(text: &mut Text, listeners: &[Listener]) {
    let mut each = |name, kind, help, value: fn(&Listener) -> Value| {
        text.family(&Family { name, kind, help });
        for listener in listeners {
            text.sample(&[("listener", listener.name)], value(listener));
        }
    };
    each("mistify_http_connections", Gauge, "Open connections", |it| count(it.connections));
    each("mistify_http_requests", Counter, "Complete, well-formed requests", |it| {
        Value::Count(it.requests)
    });
    each("mistify_http_panics", Counter, "Requests whose handler panicked", |it| {
        Value::Count(it.panics)
    });
    each(
        "mistify_http_denied",
        Counter,
        "Connections closed because the caller was not permitted",
        |it| Value::Count(it.denied),
    );
    each(
        "mistify_http_abandoned",
        Counter,
        "Requests not run because the caller had disconnected",
        |it| Value::Count(it.abandoned),
    );
    text.family(&Family {
        name: "mistify_http_refused",
        kind: Counter,
        help: "Requests and connections refused, by reason",
    });
    for listener in listeners {
        for (reason, number) in &listener.refused {
            let labels = [("listener", listener.name), ("reason", *reason)];
            text.sample(&labels, Value::Count(*number));
        }
    }
}

fn write_samples(text: &mut Text, view: &View) {
    let slow = &view.slow;
    let mut each = |name, kind, help, fast: Option<Value>, slow: Option<Value>| {
        text.family(&Family { name, kind, help });
        for (tier, value) in [("fast", fast), ("slow", slow)] {
            if let Some(value) = value {
                text.sample(&[("tier", tier)], value);
            }
        }
    };
    let total = |number| Some(Value::Count(number));
    let (help, ended) = ("Samples attempted, by tier", slow.ended + slow.failed + slow.late);
    each("mistify_metrics_samples", Counter, help, total(view.fast_ended), total(ended));
    let help = "Samples that failed, by tier";
    each(
        "mistify_metrics_samples_failed",
        Counter,
        help,
        total(view.fast_failed),
        total(slow.failed),
    );
    let help = "Duration of the last successful sample in seconds, by tier";
    let slow_took = slow.at.map(|_| slow.took.into());
    let fast_took = view.fast.as_ref().map(|_| view.fast_took.into());
    each("mistify_metrics_sample_seconds", Gauge, help, fast_took, slow_took);
    let help = "Age of the last successful sample in seconds, by tier";
    let age = |at| Some(view.age(at).into());
    let fast_age = view.fast.as_ref().and_then(|fast| age(fast.at));
    each("mistify_metrics_sample_age_seconds", Gauge, help, fast_age, slow.at.and_then(age));
    let help = "Slow samples that exceeded their time limit because an emulator did not answer";
    one(text, "mistify_metrics_samples_late", Counter, help, Value::Count(slow.late));
    let help = "Late calls of slow samples that have not returned yet";
    one(text, "mistify_metrics_calls_late", Gauge, help, count(slow.late_now));
}

/// Writes the metrics of the process, with the names that all exporters use.
fn write_process(text: &mut Text) {
    if let Ok(ns) = crate::os::process::cpu_ns(std::process::id()) {
        let help = "CPU time of the agent in seconds";
        one(text, "process_cpu_seconds", Counter, help, Value::Nanoseconds(ns));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    if let Some(kib) = field("VmRSS:") {
        let name = "process_resident_memory_bytes";
        one(
            text,
            name,
            Gauge,
            "Resident memory of the agent in bytes",
            Value::Count(kib.saturating_mul(1024)),
        );
    }
    if let Some(threads) = field("Threads:") {
        one(text, "process_threads", Gauge, "Threads of the agent", Value::Count(threads));
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One entry is the open directory itself.
        let open = count(files.count().saturating_sub(1));
        one(text, "process_open_fds", Gauge, "Open file descriptors of the agent", open);
    }
}

fn one(text: &mut Text, name: &'static str, kind: Kind, help: &'static str, value: Value) {
    text.family(&Family { name, kind, help });
    text.sample(&[], value);
}

fn count(number: usize) -> Value {
    Value::Count(u64::try_from(number).unwrap_or(u64::MAX))
}
