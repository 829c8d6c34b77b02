//! Typed parameters, and the data from those of one domain.

use crate::libvirt::fuzz::parameters;
use crate::libvirt::{DomainStats, Name, Value};
use crate::metrics::{disks, interfaces};

/// Parses the parameters of a domain: every interface, disk and device in the result is named by a parameter.
pub(super) fn typed_parameters(data: &[u8]) {
    let params = parameters(data);
    let stats = DomainStats { name: "a".into(), uuid: String::new(), id: Some(1), params };
    let state = stats.params.iter().find(|(name, _)| **name == *"state.state");
    assert!(stats.state().is_none() || state.is_some());
    let names = |text: &str, prefix: &str| {
        let named = |(name, value): &(Name, Value)| {
            name.starts_with(prefix)
                && name.ends_with(".name")
                && *value == Value::Text(text.to_owned())
        };
        !text.is_empty() && stats.params.iter().any(named)
    };
    assert!(interfaces(&stats).keys().all(|device| names(device, "net.")));
    assert!(disks(&stats).keys().all(|target| names(target, "block.")));
}
