//! Compares a requested guest with the existing one (contract section 9), so that a repeated `Create` or `CreateGuest`
//! succeeds and a different one fails.

use crate::guest::domain::{self, KIB_PER_MIB, VirDomain};
use crate::guest::hardware::is_machine;
use crate::guest::limits::{Limits, limited};
use crate::guest::network::NetworkDefinition;
use crate::guest::placement::is_same;
use crate::guest::profile::CLASSIC;
use crate::guest::wire::{DEFAULT_GUEST_TYPE, Guest, GuestDisk, Nic};

/// Returns whether two requests describe the same guest.
///
/// Compared are id, type, memory, cpu, metadata, NICs (mac, network, model, vlans) and disks (source; if neither has
/// one: volume, image and size), in order. Everything else may differ: it changes while a guest lives (`state`, a NIC's
/// `name` and `device`, the VNC port) or is only stored for callers.
pub fn same_guest(a: &Guest, b: &Guest) -> bool {
    a.id == b.id
        && effective_type(a) == effective_type(b)
        && a.memory_mib == b.memory_mib
        && a.cpu == b.cpu
        && a.metadata == b.metadata
        && pairwise(&a.nics, &b.nics, same_nic)
        && pairwise(&a.disks, &b.disks, same_disk)
}

/// Returns whether a guest has the machine that a request describes, according to the stored request and the domain
/// that the profile produced. Members that the request omits are not compared.
pub fn same_machine(asked: &Guest, stored: &Guest, found: &VirDomain) -> bool {
    let is = |asked: &str, stored: &str, found: &str| {
        asked.is_empty() || asked == stored || (stored.is_empty() && asked == found)
    };
    let own = &found.hardware;
    let machine = &found.os.kind.machine;
    let most = found.vcpu_max.max(found.vcpu);
    // Former agents had no other profile.
    let profile = Some(found.metadata.profile.as_str()).filter(|profile| !profile.is_empty());
    is(&asked.profile, &stored.profile, profile.unwrap_or(CLASSIC))
        && is(&asked.cpu_model, &stored.cpu_model, &own.cpu_model)
        && is(&asked.firmware, &stored.firmware, &own.firmware)
        && is(&asked.video, &stored.video, &own.video)
        && is(&asked.on_crash, &stored.on_crash, &own.on_crash)
        && is(&asked.watchdog, &stored.watchdog, &own.watchdog)
        && is(&asked.clock, &stored.clock, &own.clock)
        && (asked.start_order.is_none() || asked.start_order == stored.start_order)
        && (asked.start_delay_s.is_none() || asked.start_delay_s == stored.start_delay_s)
        && (asked.stop_timeout_s.is_none() || asked.stop_timeout_s == stored.stop_timeout_s)
        && is(&asked.seed, &stored.seed, "")
        && is(&asked.seed_bus, &stored.seed_bus, "")
        && (is(&asked.machine, &stored.machine, machine) || is_machine(machine, &asked.machine))
        && (asked.cpu_topology.is_none() || asked.cpu_topology == own.cpu_topology)
        && (asked.max_memory_mib == 0
            || asked.max_memory_mib.checked_mul(KIB_PER_MIB) == Some(found.most_memory_kib()))
        && (asked.max_cpu == 0 || asked.max_cpu == most)
        && asked.guest_agent.is_none_or(|has| has == own.guest_agent)
        && (!asked.tpm || own.tpm)
        && (!asked.hyperv || own.hyperv)
        && (asked.hugepages_kib == 0 || asked.hugepages_kib == own.hugepages_kib)
        && (asked.numa.is_empty() || is_same(&asked.numa, &own.numa))
        && (asked.cpu_pinning.is_empty()
            || pairwise(&asked.cpu_pinning, &own.cpu_pinning, |a, b| is_same(a, b)))
        && (!asked.display || !found.devices.graphics.kind.is_empty())
        && asked.disks.iter().enumerate().all(|(index, disk)| {
            // Disks may have been attached or detached since: the stored request identifies each.
            let device = stored.disks.get(index).map_or(&disk.device, |stored| &stored.device);
            found.disk_by_device(device).is_none_or(|own| same_disk_settings(disk, own))
        })
        && asked.nics.iter().all(|nic| {
            // libvirt drops settings that a NIC's model does not support.
            stored.nics.contains(nic)
                || found.interface_by_mac(&nic.mac).is_none_or(|own| same_nic_settings(nic, own))
        })
}

/// Returns whether a disk has the settings of a request.
pub fn same_disk_settings(asked: &GuestDisk, own: &domain::Disk) -> bool {
    let is = |asked: &String, own: &String| asked.is_empty() || asked == own;
    is(&asked.kind, &own.device)
        && is(&asked.format, &own.driver.kind)
        && is(&asked.cache, &own.driver.cache)
        && is(&asked.io, &own.driver.io)
        && is(&asked.discard, &own.driver.discard)
        && is(&asked.serial, &own.serial)
        && (!asked.read_only || own.read_only)
        && (asked.boot_order == 0 || asked.boot_order == own.boot_order)
        && same_limits(asked.limits.as_ref(), &own.limits)
}

fn same_limits(asked: Option<&Limits>, own: &Limits) -> bool {
    asked.is_none() || limited(asked) == *own
}

/// Returns whether a NIC has the settings of a request. libvirt does not write a single queue.
pub fn same_nic_settings(asked: &Nic, own: &domain::Interface) -> bool {
    (asked.queues <= 1 || asked.queues == own.queues)
        && (asked.mtu == 0 || asked.mtu == own.mtu)
        && (asked.boot_order == 0 || asked.boot_order == own.boot_order)
        && same_limits(asked.limits.as_ref(), &own.limits)
}

/// Returns whether `guest` describes the domain and the networks of its interfaces, in any order. For guests of the
/// original agent, which stored no request with the domain.
///
/// The original agent stored no metadata either, so this compares none. A `model` that the guest omits matches any:
/// libvirt fills it in. For a disk, libvirt knows only the source.
pub fn same_as_domain(guest: &Guest, domain: &VirDomain, networks: &[NetworkDefinition]) -> bool {
    // In the original agent, memory is the maximum.
    let memory_kib = match guest.max_memory_mib {
        0 => domain.most_memory_kib(),
        _ => domain.memory_kib,
    };
    guest.id == domain.name
        && effective_type(guest) == domain.kind
        && guest.memory_mib.checked_mul(KIB_PER_MIB) == Some(memory_kib)
        && guest.cpu == domain.vcpu
        && same_machine(guest, &Guest::default(), domain)
        && pairwise(&guest.nics, &domain.devices.interfaces, |nic, interface| {
            same_interface(nic, interface, networks)
        })
        && pairwise(&guest.disks, &domain.devices.disks, |a, b| a.source == b.source.path())
}

fn effective_type(guest: &Guest) -> &str {
    if guest.kind.is_empty() { DEFAULT_GUEST_TYPE } else { &guest.kind }
}

fn pairwise<A, B>(a: &[A], b: &[B], same: impl Fn(&A, &B) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// Returns whether two NICs of requests are the same.
pub fn same_nic(a: &Nic, b: &Nic) -> bool {
    a.mac.eq_ignore_ascii_case(&b.mac)
        && a.network == b.network
        && a.model == b.model
        && vlans(a) == vlans(b)
}

/// Returns whether a NIC matches the interface; `networks` has the interface's network.
pub fn same_interface(
    nic: &Nic,
    interface: &domain::Interface,
    networks: &[NetworkDefinition],
) -> bool {
    let network = networks.iter().find(|n| n.name == interface.source.network);
    nic.mac.eq_ignore_ascii_case(&interface.mac.address)
        && (nic.model.is_empty() || nic.model == interface.model.kind)
        && network.is_some_and(|n| n.bridge == nic.network && n.vlans == vlans(nic))
}

/// Returns the VLAN tags; libvirt treats absent and empty alike.
fn vlans(nic: &Nic) -> &[i64] {
    nic.vlans.as_deref().unwrap_or_default()
}

fn same_disk(a: &GuestDisk, b: &GuestDisk) -> bool {
    if a.source.is_empty() && b.source.is_empty() {
        return a.is_cdrom() == b.is_cdrom()
            && (&a.volume, &a.image, a.size_mib) == (&b.volume, &b.image, b.size_mib);
    }
    a.source == b.source
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BridgeType, HostConfig};

    fn guest() -> Guest {
        serde_json::from_str(
            r#"{"id":"web-1","type":"kvm","image":"i","state":"create","memory":512,"cpu":2,
            "vnc":-1,"metadata":{"k":"v"},
            "nics":[{"name":"eth0","network":"br0","model":"virtio","mac":"02:00:00:00:00:0a",
                "address":"10.0.0.2","device":"vnet0","vlans":[1,2]},
                {"network":"br0","mac":"02:00:00:00:00:0b"}],
            "disks":[{"source":"/dev/zvol/p/guests/a/disk-0","size":10,"volume":"v","image":"i"},
                {"size":20,"volume":"w","image":"j"}]}"#,
        )
        .unwrap()
    }

    fn same_after(change: fn(&mut Guest)) -> bool {
        let mut other = guest();
        change(&mut other);
        assert_eq!(same_guest(&guest(), &other), same_guest(&other, &guest()));
        same_guest(&guest(), &other)
    }

    #[test]
    fn each_compared_member_makes_a_different_guest() {
        assert!(same_after(|_| {}));
        for change in [
            (|g| g.id = "web-2".into()) as fn(&mut Guest),
            |g| g.kind = "qemu".into(),
            |g| g.memory_mib = 513,
            |g| g.cpu = 3,
            |g| drop(g.metadata.insert("k".into(), "w".into())),
            |g| drop(g.metadata.insert("l".into(), "v".into())),
            |g| g.nics[0].mac = "02:00:00:00:00:0c".into(),
            |g| g.nics[0].network = "br1".into(),
            |g| g.nics[0].model = "e1000".into(),
            |g| g.nics[0].vlans = Some(vec![2, 1]),
            |g| g.nics[0].vlans = None,
            |g| g.nics.swap(0, 1),
            |g| drop(g.nics.pop()),
            |g| g.disks[0].source = "/dev/zvol/p/other".into(),
            |g| g.disks[0].source.clear(),
            |g| g.disks[1].source = "/dev/zvol/p/other".into(),
            |g| g.disks[1].volume = "x".into(),
            |g| g.disks[1].image = "x".into(),
            |g| g.disks[1].size_mib = 21,
            |g| g.disks.swap(0, 1),
            |g| drop(g.disks.pop()),
        ] {
            let mut other = guest();
            change(&mut other);
            assert!(!same_after(change), "{other:?}");
        }
    }

    #[test]
    fn each_ignored_member_leaves_the_guest_the_same() {
        for change in [
            (|g| g.state = "running".into()) as fn(&mut Guest),
            |g| g.kind.clear(),
            |g| g.image = "x".into(),
            |g| g.vnc = 5901,
            |g| g.nics[0].name = "net0".into(),
            |g| g.nics[0].device = "vnet7".into(),
            |g| g.nics[0].address = "10.0.0.3".into(),
            |g| g.nics[0].mac = "02:00:00:00:00:0A".into(),
            |g| g.nics[1].vlans = Some(Vec::new()),
            |g| g.disks[0].size_mib = 11,
            |g| g.disks[0].volume = "x".into(),
            |g| g.disks[0].image = "x".into(),
            |g| g.disks[0].device = "vda".into(),
            |g| g.disks[0].bus = "virtio".into(),
        ] {
            let mut other = guest();
            change(&mut other);
            assert!(same_after(change), "{other:?}");
        }
    }

    /// Returns the domain and networks of [`guest`] as the original agent made them.
    fn made_by_the_original() -> (VirDomain, Vec<NetworkDefinition>) {
        let mut domain = VirDomain::for_guest(&guest(), &HostConfig::default(), &[]);
        domain.metadata = crate::guest::metadata::Metadata::default();
        domain.devices.interfaces[1].model.kind = "rtl8139".into();
        let networks = guest()
            .nics
            .iter()
            .rev()
            .map(|nic| NetworkDefinition {
                owner: None,
                ..NetworkDefinition::for_nic(nic, BridgeType::OpenVSwitch, "", "")
            })
            .collect();
        (domain, networks)
    }

    #[test]
    fn a_guest_of_the_original_agent_is_known_by_its_xml() {
        let (domain, networks) = made_by_the_original();
        assert!(same_as_domain(&guest(), &domain, &networks));
        for change in [
            (|g| g.kind.clear()) as fn(&mut Guest),
            |g| g.metadata.clear(),
            |g| g.nics[0].mac = "02:00:00:00:00:0A".into(),
            |g| g.nics[0].name = "x".into(),
            |g| g.disks[0].size_mib = 11,
        ] {
            let mut request = guest();
            change(&mut request);
            assert!(same_as_domain(&request, &domain, &networks), "{request:?}");
        }
    }

    #[test]
    fn a_different_guest_is_known_by_its_xml() {
        let (domain, networks) = made_by_the_original();
        for change in [
            (|g| g.id = "web-2".into()) as fn(&mut Guest),
            |g| g.kind = "qemu".into(),
            |g| g.memory_mib = 513,
            |g| g.memory_mib = u64::MAX,
            |g| g.cpu = 3,
            |g| g.nics[0].mac = "02:00:00:00:00:0c".into(),
            |g| g.nics[0].network = "br1".into(),
            |g| g.nics[0].model = "e1000".into(),
            |g| g.nics[0].vlans = None,
            |g| drop(g.nics.pop()),
            |g| g.disks[0].source = "/dev/zvol/p/other".into(),
            |g| drop(g.disks.pop()),
        ] {
            let mut request = guest();
            change(&mut request);
            assert!(!same_as_domain(&request, &domain, &networks), "{request:?}");
        }
        assert!(!same_as_domain(&guest(), &domain, &networks[..1]));
    }
}
