use super::*;
use crate::guest::wire::CpuTopology;

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn context() -> DefinitionContext {
    DefinitionContext {
        offer: Some(Capabilities {
            arch: "x86_64".into(),
            max_cpu: 288,
            videos: vec!["vga".into(), "virtio".into()],
            ..Capabilities::default()
        }),
        disks: vec![
            DiskSourceInfo { is_block: true, is_direct: true },
            DiskSourceInfo { is_block: false, is_direct: true },
            DiskSourceInfo::default(),
        ],
        mtus: vec![9000, 0],
        cpus: 4,
        uuid: UUID.into(),
    }
}

fn guest() -> Guest {
    let mut guest: Guest = serde_json::from_str(
        r#"{"id": "web-1", "type": "kvm", "memory": 512, "cpu": 2, "disks": [{}, {}, {}],
            "nics": [{"mac": "02:00:00:00:00:0a"}, {"mac": "02:00:00:00:00:0b", "model": "e1000e"}]}"#,
    )
    .unwrap();
    guest.complete(true);
    guest
}

fn filled(change: impl FnOnce(&mut Guest), context: &DefinitionContext) -> Guest {
    let mut guest = guest();
    change(&mut guest);
    fill(&mut guest, Profile::Modern, context);
    guest
}

#[test]
fn classic_fills_in_nothing() {
    let mut made = guest();
    fill(&mut made, Profile::Classic, &context());
    assert_eq!(made, Guest { profile: CLASSIC.into(), ..guest() });
}

#[test]
fn modern_is_classic_where_the_driver_says_nothing() {
    let made = filled(|_| {}, &DefinitionContext { offer: None, ..context() });
    assert_eq!(made, Guest { profile: CLASSIC.into(), ..guest() });
}

#[test]
fn a_request_overrides_the_configured_profile() {
    let made = filled(|guest| guest.profile = CLASSIC.into(), &context());
    assert_eq!(made, Guest { profile: CLASSIC.into(), ..guest() });
    let mut made = Guest { profile: MODERN.into(), ..guest() };
    fill(&mut made, Profile::Classic, &context());
    assert_eq!((made.machine.as_str(), made.profile.as_str()), ("q35", MODERN));
}

#[test]
fn modern_profile_fills_omitted_members() {
    let made = filled(|_| {}, &context());
    let words = [&made.machine, &made.cpu_model, &made.firmware, &made.clock, &made.on_crash];
    assert_eq!(words, ["q35", "host-model", "bios", "utc", "stop"]);
    assert_eq!((made.guest_agent, made.max_cpu, made.video.as_str()), (Some(true), 4, ""));
    let nic = |index: usize| {
        let nic = &made.nics[index];
        (nic.model.as_str(), nic.queues, nic.mtu)
    };
    assert_eq!(nic(0), ("virtio", 2, 9000));
    assert_eq!(nic(1), ("e1000e", 0, 0), "a NIC without queues");
    let disk = |index: usize| {
        let disk = &made.disks[index];
        [&disk.cache, &disk.io, &disk.discard, &disk.serial].map(String::as_str)
    };
    assert_eq!(disk(0), ["none", "native", "unmap", "0123456789ab-vda"]);
    assert_eq!(disk(1), ["none", "threads", "unmap", "0123456789ab-vdb"]);
    assert_eq!(disk(2), ["", "", "unmap", "0123456789ab-vdc"], "no O_DIRECT there");
}

#[test]
fn a_guest_without_kvm_gets_all_that_qemu_can() {
    let made = filled(|guest| guest.kind = "qemu".into(), &context());
    assert_eq!((made.cpu_model.as_str(), made.nics[0].queues), ("maximum", 0));
}

#[test]
fn members_of_the_request_stay() {
    let change = |guest: &mut Guest| {
        guest.cpu_model = "EPYC".into();
        guest.machine = "pc".into();
        guest.firmware = "uefi".into();
        guest.guest_agent = Some(false);
        guest.cpu_topology = Some(CpuTopology { sockets: 1, cores: 3, threads: 2 });
        guest.nics[0].queues = 1;
        guest.disks[0].cache = "writeback".into();
        guest.disks[0].discard = "ignore".into();
        guest.disks[0].serial = "root".into();
        guest.display = true;
        guest.video = "vga".into();
    };
    let made = filled(change, &context());
    let mut asked = guest();
    change(&mut asked);
    assert_eq!(made.max_cpu, 6, "as many as the topology has");
    let words = [&made.cpu_model, &made.machine, &made.firmware, &made.video];
    assert_eq!(words, [&asked.cpu_model, &asked.machine, &asked.firmware, &asked.video]);
    assert_eq!(made.guest_agent, Some(false));
    assert_eq!(made.nics[0].queues, 1);
    assert_eq!(made.disks[0], asked.disks[0], "no io with a cache");
}

#[test]
fn a_display_gets_the_best_video_of_the_host() {
    let video = |offered: &[&str]| {
        let mut context = context();
        if let Some(offer) = &mut context.offer {
            offer.videos = offered.iter().map(|model| (*model).to_owned()).collect();
        }
        filled(|guest| guest.vnc = -1, &context).video
    };
    assert_eq!(video(&["vga", "virtio"]), "virtio");
    assert_eq!(video(&["vga"]), "vga");
    assert_eq!(video(&[]), "", "libvirt chooses");
}

#[test]
fn serial_numbers_have_room_on_virtio() {
    assert!(serial(UUID, "vdzz").len() <= 20);
}
