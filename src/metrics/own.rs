//! The families of the agent itself.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::metrics::calls::{self, Counts};
use crate::metrics::sampler::View;
use crate::metrics::text::{Family, Kind, Text, Value};
use crate::pool::Snapshot;

use Kind::{Counter, Gauge, Histogram, Info};

/// What the agent knows of itself at one moment.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its lanes and callers.
    pub pool: Snapshot,
    /// Calls by service and method.
    pub calls: BTreeMap<(&'static str, &'static str), Counts>,
    /// Intents of the journal that wait to be settled.
    pub open_intents: usize,
    /// What calls left over and the agent could not remove.
    pub leftovers: usize,
    /// libvirt's version, as libvirt counts, where it is known.
    pub libvirt_version: Option<u64>,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Log lines that were dropped or that standard error did not take.
    pub log_lines_dropped: u64,
    /// Audit records that were dropped or that the audit's file did not take.
    pub audit_lines_dropped: u64,
    /// Free and used bytes of the store, where they are known.
    pub storage: Option<(u64, u64)>,
}

/// One listener: what has been going on there since the start.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What it serves.
    pub name: &'static str,
    /// Connections that are open.
    pub connections: usize,
    /// Requests that were complete and in order.
    pub requests: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Connections of callers who may not call.
    pub denied: u64,
    /// Requests that were not carried out, as their callers had gone.
    pub abandoned: u64,
    /// Requests and connections that were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// Writes them all.
pub(super) fn write(text: &mut Text, view: &View, own: &Own) {
    write_build(text, own);
    write_calls(text, own);
    write_lanes(text, &own.pool);
    write_listeners(text, &own.listeners);
    write_samples(text, view);
    one(text, "mistify_journal_open_intents", Gauge, "Intents that wait to be settled", {
        count(own.open_intents)
    });
    one(text, "mistify_journal_leftovers", Gauge, "Calls whose leftovers could not be removed", {
        count(own.leftovers)
    });
    let help = "Log lines lost: the queue was full or standard error failed";
    one(text, "mistify_log_lines_dropped", Counter, help, Value::Count(own.log_lines_dropped));
    let help = "Audit records lost: the queue was full or the file could not be written";
    one(text, "mistify_audit_lines_dropped", Counter, help, Value::Count(own.audit_lines_dropped));
    if let Some((free, used)) = own.storage {
        let name = "mistify_storage_free_bytes";
        one(text, name, Gauge, "Space left in the store when last seen", Value::Count(free));
        let name = "mistify_storage_used_bytes";
        one(text, name, Gauge, "Space used in the store when last seen", Value::Count(used));
    }
    write_process(text);
}

fn write_build(text: &mut Text, own: &Own) {
    let libvirt = own.libvirt_version.map(|version| {
        format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
    });
    text.family(&Family { name: "mistify_build", kind: Info, help: "What this agent is" });
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("libvirt", libvirt.as_deref().unwrap_or_default()),
    ];
    text.sample(&labels, Value::Count(1));
}

fn write_calls(text: &mut Text, own: &Own) {
    text.family(&Family { name: "mistify_requests", kind: Counter, help: "Calls by method" });
    for ((service, method), counts) in &own.calls {
        let method = format!("{service}.{method}");
        for (outcome, number) in [("ok", counts.succeeded), ("error", counts.failed)] {
            text.sample(&[("method", &method), ("outcome", outcome)], Value::Count(number));
        }
    }
    text.family(&Family {
        name: "mistify_request_duration_seconds",
        kind: Histogram,
        help: "How long calls took, by method",
    });
    for ((service, method), counts) in &own.calls {
        let method = format!("{service}.{method}");
        text.histogram(&[("method", &method)], &calls::BOUNDS, &counts.took, counts.sum_ns);
    }
}

fn write_lanes(text: &mut Text, pool: &Snapshot) {
    let lanes: Vec<_> = pool.lanes.iter().map(|lane| (lane.lane.to_string(), lane)).collect();
    let mut each = |name, kind, help, value: fn(&crate::pool::LaneSnapshot) -> Value| {
        text.family(&Family { name, kind, help });
        for (name, lane) in &lanes {
            text.sample(&[("lane", name)], value(lane));
        }
    };
    each("mistify_lane_workers", Gauge, "Workers that take jobs", |lane| count(lane.workers));
    each("mistify_lane_queued", Gauge, "Jobs that wait for a worker", |lane| count(lane.queued));
    each("mistify_lane_running", Gauge, "Jobs that run", |lane| count(lane.running));
    each("mistify_lane_stuck", Gauge, "Workers in a call that does not return", |lane| {
        count(lane.stuck)
    });
    each("mistify_lane_oldest_seconds", Gauge, "Age of the job that runs longest", |lane| {
        lane.oldest.as_ref().map_or(Duration::ZERO, |oldest| oldest.age).into()
    });
    each("mistify_lane_finished", Counter, "Jobs that returned", |lane| {
        Value::Count(lane.totals.finished)
    });
    each("mistify_lane_panicked", Counter, "Jobs that panicked", |lane| {
        Value::Count(lane.totals.panicked)
    });
    each("mistify_lane_unrun", Counter, "Jobs that were late before a worker took them", |lane| {
        Value::Count(lane.totals.unrun)
    });
    each(
        "mistify_lane_late",
        Counter,
        "Callers that were answered before their job ended",
        |lane| Value::Count(lane.totals.late),
    );
    each("mistify_lane_refused", Counter, "Jobs that were told busy or stopping", |lane| {
        Value::Count(lane.totals.refused)
    });
    let callers = &pool.callers;
    one(text, "mistify_callers", Gauge, "Callers that wait for the pool", count(callers.callers));
    one(
        text,
        "mistify_keys_held",
        Gauge,
        "Guests that are being changed",
        count(callers.keys_held),
    );
    one(
        text,
        "mistify_keys_waiting",
        Gauge,
        "Callers that wait for a guest that is being changed",
        count(callers.keys_waiting),
    );
    one(
        text,
        "mistify_calls_waiting",
        Gauge,
        "Calls that wait for their turn, without a thread",
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
    each("mistify_http_connections", Gauge, "Connections that are open", |it| {
        count(it.connections)
    });
    each("mistify_http_requests", Counter, "Requests that were in order", |it| {
        Value::Count(it.requests)
    });
    each("mistify_http_panics", Counter, "Handlers that panicked", |it| Value::Count(it.panics));
    each("mistify_http_denied", Counter, "Connections of callers who may not call", |it| {
        Value::Count(it.denied)
    });
    each("mistify_http_abandoned", Counter, "Requests whose caller left before they ran", |it| {
        Value::Count(it.abandoned)
    });
    text.family(&Family {
        name: "mistify_http_refused",
        kind: Counter,
        help: "Requests and connections that were refused",
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
    let (help, ended) = ("Samples that were taken", slow.ended + slow.failed + slow.late);
    each("mistify_metrics_samples", Counter, help, total(view.fast_ended), total(ended));
    let help = "Samples that could not be taken";
    each(
        "mistify_metrics_samples_failed",
        Counter,
        help,
        total(view.fast_failed),
        total(slow.failed),
    );
    let help = "How long the last sample took";
    let slow_took = slow.at.map(|_| slow.took.into());
    let fast_took = view.fast.as_ref().map(|_| view.fast_took.into());
    each("mistify_metrics_sample_seconds", Gauge, help, fast_took, slow_took);
    let help = "How old the last sample is that could be taken";
    let age = |at| Some(view.age(at).into());
    let fast_age = view.fast.as_ref().and_then(|fast| age(fast.at));
    each("mistify_metrics_sample_age_seconds", Gauge, help, fast_age, slow.at.and_then(age));
    let help = "Slow samples that an emulator kept waiting for too long";
    one(text, "mistify_metrics_samples_late", Counter, help, Value::Count(slow.late));
    let help = "Those of them that still have not returned";
    one(text, "mistify_metrics_calls_late", Gauge, help, count(slow.late_now));
}

/// What every exporter says of its process, by the names that all use.
fn write_process(text: &mut Text) {
    if let Ok(ns) = crate::os::process::cpu_ns(std::process::id()) {
        let help = "Processor time of the agent";
        one(text, "process_cpu_seconds", Counter, help, Value::Nanoseconds(ns));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    if let Some(kib) = field("VmRSS:") {
        let name = "process_resident_memory_bytes";
        one(text, name, Gauge, "Memory of the agent", Value::Count(kib.saturating_mul(1024)));
    }
    if let Some(threads) = field("Threads:") {
        one(text, "process_threads", Gauge, "Threads of the agent", Value::Count(threads));
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One of them is the folder itself.
        let open = count(files.count().saturating_sub(1));
        one(text, "process_open_fds", Gauge, "Files that the agent has open", open);
    }
}

fn one(text: &mut Text, name: &'static str, kind: Kind, help: &'static str, value: Value) {
    text.family(&Family { name, kind, help });
    text.sample(&[], value);
}

fn count(number: usize) -> Value {
    Value::Count(u64::try_from(number).unwrap_or(u64::MAX))
}
