//! The hardware that a guest's request describes.

use crate::guest::hardware::{BALLOON_PERIOD_S, BIOS, Hardware, is_x86, ports, scsi_controllers};
use crate::guest::wire::Guest;
use crate::guest::{memory, profile};

impl Hardware {
    /// Builds the hardware for a guest whose omitted members its profile has filled in.
    pub(super) fn for_guest(guest: &Guest) -> Self {
        let is_modern = guest.profile == profile::MODERN;
        let has_display = guest.vnc != 0 || guest.display;
        let has_ports = ["q35", "pc-q35", "virt"].iter().any(|it| guest.machine.starts_with(it));
        let tablet = match (is_modern && has_display, guest.hyperv) {
            (false, _) => "",
            // Windows has a driver for USB tablets, the cloud kernels of Linux for virtio.
            (true, true) => "usb",
            (true, false) => "virtio",
        };
        Self {
            cpu_model: guest.cpu_model.clone(),
            cpu_topology: guest.cpu_topology,
            firmware: if guest.firmware.is_empty() { BIOS } else { &guest.firmware }.to_owned(),
            nvram: String::new(),
            tpm: guest.tpm,
            guest_agent: guest.guest_agent == Some(true),
            video: if has_display { guest.video.clone() } else { String::new() },
            tablet: tablet.to_owned(),
            on_crash: guest.on_crash.clone(),
            watchdog: guest.watchdog.clone(),
            clock: guest.clock.clone(),
            hyperv: guest.hyperv,
            generation_id: is_modern,
            balloon_period_s: if is_modern { BALLOON_PERIOD_S } else { 0 },
            // A page that is returned to the host is no longer a huge page.
            free_page_reporting: is_modern && guest.hugepages_kib == 0,
            cpu_pinning: guest.cpu_pinning.clone(),
            hugepages_kib: guest.hugepages_kib,
            numa: guest.numa.clone(),
            memory_block_kib: memory::block_kib(guest, is_x86(&guest.machine)),
            ports: if has_ports { ports(guest) } else { 0 },
            scsi: if is_modern { scsi_controllers(guest).max(1) } else { 0 },
            is_expanded: false,
        }
    }
}
