//! Differences between a guest's definition and the running guest.

use crate::guest::domain::VirDomain;

/// Returns the members of a guest, by their names in a request, in which its definition differs from the running guest.
/// An expanded `host-model` is no difference: libvirt expands it when a guest starts.
pub fn pending(live: &VirDomain, definition: &VirDomain) -> Vec<String> {
    let (now, next) = (&live.hardware, &definition.hardware);
    let is_expanded = now.is_expanded && next.cpu_model == "host-model";
    let disks = |domain: &VirDomain| {
        let compared = |disk: &crate::guest::domain::Disk| {
            (disk.target.device.clone(), disk.source.path().to_owned(), disk.limits.clone())
        };
        domain.devices.disks.iter().map(compared).collect::<Vec<_>>()
    };
    let nics = |domain: &VirDomain| {
        let compared = |nic: &crate::guest::domain::Interface| {
            (nic.mac.address.to_ascii_lowercase(), nic.limits.clone())
        };
        domain.devices.interfaces.iter().map(compared).collect::<Vec<_>>()
    };
    let is_other_max = live.most_memory_kib() != definition.most_memory_kib();
    let has_max = definition.memory_max_kib > 0;
    let members = [
        ("memory", live.memory_kib != definition.memory_kib || (is_other_max && !has_max)),
        ("max_memory", is_other_max && has_max),
        ("cpu", live.vcpu != definition.vcpu),
        ("max_cpu", max_cpu(live) != max_cpu(definition)),
        ("cpu_model", !is_expanded && now.cpu_model != next.cpu_model),
        ("cpu_topology", now.cpu_topology != next.cpu_topology),
        ("machine", live.os.kind.machine != definition.os.kind.machine),
        ("firmware", now.firmware != next.firmware),
        ("tpm", now.tpm != next.tpm),
        ("guest_agent", now.guest_agent != next.guest_agent),
        ("video", now.video != next.video),
        ("on_crash", now.on_crash != next.on_crash),
        ("watchdog", now.watchdog != next.watchdog),
        ("clock", now.clock != next.clock),
        ("hyperv", now.hyperv != next.hyperv),
        ("cpu_pinning", now.cpu_pinning != next.cpu_pinning),
        ("hugepages", now.hugepages_kib != next.hugepages_kib),
        ("numa", now.numa != next.numa),
        ("disks", disks(live) != disks(definition)),
        ("nics", nics(live) != nics(definition)),
    ];
    let differing = members.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(member, _)| member.to_owned()).collect()
}

fn max_cpu(domain: &VirDomain) -> u64 {
    domain.vcpu_max.max(domain.vcpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::domain::{Disk, DiskTarget};

    #[test]
    fn each_member_that_differs_is_named() {
        let mut live = VirDomain { memory_kib: 1024, vcpu: 1, vcpu_max: 4, ..VirDomain::default() };
        live.hardware.cpu_model = "EPYC".into();
        let mut definition = live.clone();
        assert_eq!(pending(&live, &definition), [""; 0]);
        definition.hardware.cpu_model = "host-model".into();
        assert_eq!(pending(&live, &definition), ["cpu_model"], "it was started with a name");
        live.hardware.is_expanded = true;
        assert_eq!(pending(&live, &definition), [""; 0], "expanded at the start");
        definition.hardware.cpu_model = "Nehalem".into();
        definition.hardware.firmware = "uefi".into();
        definition.memory_kib = 2048;
        definition.vcpu = 2;
        let target = DiskTarget { device: "vdb".into(), bus: "virtio".into() };
        definition.devices.disks.push(Disk { target, ..Disk::default() });
        let names = ["memory", "cpu", "cpu_model", "firmware", "disks"];
        assert_eq!(pending(&live, &definition), names);
        definition.vcpu_max = 0;
        assert!(pending(&live, &definition).contains(&"max_cpu".to_owned()));
        let mut definition = live.clone();
        definition.memory_max_kib = 4096;
        assert_eq!(pending(&live, &definition), ["max_memory"]);
        live.memory_max_kib = 2048;
        definition.memory_max_kib = 0;
        assert_eq!(pending(&live, &definition), ["memory"], "its maximum is its memory");
        live = definition.clone();
        live.memory_kib = 512;
        definition.memory_max_kib = 1024;
        live.memory_max_kib = 1024;
        assert_eq!(pending(&live, &definition), ["memory"], "the balloon has taken some");
    }
}
