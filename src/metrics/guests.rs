//! Metrics of guests as text.

use crate::metrics::families::{ROWS, Source};
use crate::metrics::latest::{GuestView, Omission, View};
use crate::metrics::sample::{Cpu, SlowGuest};
use crate::metrics::text::{Family, Kind, Labels, Text, Value};

use Kind::Gauge;
use Source::{Balloon, Guest, Nic};

const UP: Family = Family {
    name: "libvirt_up",
    kind: Gauge,
    help: "Whether libvirt answered the last request for a sample (1) or not (0)",
};
const DOMAINS: Family = Family {
    name: "libvirt_domains",
    kind: Gauge,
    help: "Number of guests on this host, running or not",
};
const STATE: Family = Family {
    name: "libvirt_domain_info_state",
    kind: Gauge,
    help: "State of the guest as libvirt's number; the state label has its name",
};
const REASON: Family = Family {
    name: "mistify_guest_state_reason",
    kind: Gauge,
    help: "1 with the reason of the guest's state as a label, if no caller asked for the state",
};
const INFO: Family = Family {
    name: "mistify_guest",
    kind: Kind::Info,
    help: "UUID and configured metadata of the guest, as labels",
};
const AGE: Family = Family {
    name: "mistify_guest_sample_age_seconds",
    kind: Gauge,
    help: "Age of the guest's values in seconds, by tier",
};
const LEFT_OUT: Family = Family {
    name: "mistify_guest_left_out",
    kind: Gauge,
    help: "Guests that the last slow sample left out, with the reason",
};
const STUCK: Family = Family {
    name: "mistify_guest_stuck_seconds",
    kind: Gauge,
    help: "Time in seconds for which the guest's emulator has not answered",
};

/// Writes the families of all guests. `metadata` are the names of the metadata values that the view
/// has of each guest.
pub(super) fn write(text: &mut Text, view: &View, metadata: &[String]) {
    let guests: Vec<GuestView<'_>> = view.guests().collect();
    text.family(&UP);
    text.sample(&[], Value::Count(u64::from(view.error.is_none() && view.fast.is_some())));
    if view.fast.is_some() {
        text.family(&DOMAINS);
        text.sample(&[], Value::Count(u64::try_from(guests.len()).unwrap_or(u64::MAX)));
    }
    text.family(&STATE);
    for guest in &guests {
        let number = guest.fast.state.code();
        let name = match guest.fast.state.name() {
            "" => number.to_string(),
            name => name.to_owned(),
        };
        text.sample(&[("domain", guest.name), ("state", &name)], Value::Real(f64::from(number)));
    }
    text.family(&REASON);
    for guest in guests.iter().filter(|guest| !guest.fast.reason.is_empty()) {
        text.sample(&[("domain", guest.name), ("reason", guest.fast.reason)], Value::Count(1));
    }
    write_info(text, view, &guests, metadata);
    write_ages(text, view, &guests);
    for (name, kind, help, source) in ROWS {
        text.family(&Family { name, kind: *kind, help });
        for guest in &guests {
            write_guest(text, source, guest);
        }
    }
}

fn write_guest(text: &mut Text, source: &Source, guest: &GuestView<'_>) {
    let domain = ("domain", guest.name);
    let cpu = guest.fast.cpu.iter().flat_map(|Cpu { vcpus, .. }| vcpus.iter());
    let slow = guest.slow.into_iter();
    match source {
        Guest(value) => {
            if let Some(value) = value(guest) {
                text.sample(&[domain], value);
            }
        }
        Source::Vcpu(value) => {
            for (number, vcpu) in cpu {
                text.sample(&[domain, ("vcpu", &number.to_string())], value(vcpu));
            }
        }
        Source::SlowVcpu(value) => {
            for (number, vcpu) in slow.flat_map(|slow| slow.vcpus.iter()) {
                optional(text, &[domain, ("vcpu", &number.to_string())], value(vcpu));
            }
        }
        Source::Disk(value) => {
            for (target, disk) in slow.flat_map(|slow| &slow.disks) {
                optional(text, &[domain, ("target_device", target)], value(disk));
            }
        }
        Source::Device(value) => {
            for (target, device) in &guest.fast.devices {
                let labels = [domain, ("target_device", target.as_str()), ("device", &device.name)];
                text.sample(&labels, value(device));
            }
        }
        Nic(value) => {
            for (device, nic) in &guest.fast.nics {
                // libvirt reports -1 for an unknown value.
                let value = u64::try_from(value(nic)).ok().map(Value::Count);
                optional(text, &[domain, ("target_device", device)], value);
            }
        }
        Balloon(name, value) => {
            let found = slow.filter_map(|slow: &SlowGuest| slow.balloon.get(*name)).next();
            optional(text, &[domain], found.map(|number| value(*number)));
        }
    }
}

fn write_info(text: &mut Text, view: &View, guests: &[GuestView<'_>], metadata: &[String]) {
    text.family(&INFO);
    let names: Vec<String> = metadata.iter().map(|name| label_name(name)).collect();
    for guest in guests {
        let mut labels = vec![("domain", guest.name), ("uuid", guest.fast.uuid.as_str())];
        let values = view.slow.metadata.get(guest.name);
        let values = values.into_iter().flatten().map(String::as_str);
        labels.extend(names.iter().map(String::as_str).zip(values));
        text.sample(&labels, Value::Count(1));
    }
}

/// Returns the label for a name of metadata, with a prefix that no other label has.
fn label_name(metadata: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("metadata_{}", metadata.chars().map(fits).collect::<String>())
}

fn write_ages(text: &mut Text, view: &View, guests: &[GuestView<'_>]) {
    text.family(&AGE);
    for guest in guests {
        let fast = view.fast.as_ref().map(|fast| fast.at);
        let ages = [("fast", fast), ("slow", guest.slow.map(|slow| slow.at))];
        for (tier, at) in ages {
            let age = at.map(|at| view.age(at).into());
            optional(text, &[("domain", guest.name), ("tier", tier)], age);
        }
    }
    text.family(&LEFT_OUT);
    for (domain, why) in &view.slow.left_out {
        let reason = match why {
            Omission::Changing => "changing",
            Omission::Stuck => "stuck",
        };
        text.sample(&[("domain", domain), ("reason", reason)], Value::Count(1));
    }
    text.family(&STUCK);
    for (domain, since) in &view.slow.stuck {
        text.sample(&[("domain", domain)], view.age(*since).into());
    }
}

fn optional(text: &mut Text, labels: Labels<'_>, value: Option<Value>) {
    if let Some(value) = value {
        text.sample(labels, value);
    }
}
