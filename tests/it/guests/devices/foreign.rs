//! Devices that other tools gave a guest, of kinds that this agent never writes.

use std::fs;

use serde_json::json;

use super::Bed;
use super::running::{SOON, running};
use crate::harness::boot_sector::obliging_boot_sector;
use crate::harness::skip::{Skip, require};
use crate::harness::support::{Scratch, wait_until};

/// A disk or an interface of each kind that libvirt's qemu driver defines and the wire has no words for.
const DEVICES: &str = "
<disk type='network' device='disk'><driver name='qemu' type='raw'/>
  <source protocol='nbd'><host name='127.0.0.1' port='10809'/></source><target dev='vda' bus='virtio'/></disk>
<disk type='nvme' device='disk'><driver name='qemu' type='raw'/>
  <source type='pci' managed='yes' namespace='1'><address domain='0' bus='1' slot='0' function='0'/></source>
  <target dev='vdb' bus='virtio'/></disk>
<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='p1' volume='v1.qcow2'/>
  <target dev='vdc' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
<interface type='direct'><mac address='02:00:00:91:25:01'/><source dev='lo' mode='bridge'/></interface>
<interface type='hostdev'><mac address='02:00:00:91:25:02'/>
  <source><address type='pci' domain='0' bus='2' slot='0' function='0'/></source></interface>
<interface type='vhostuser'><mac address='02:00:00:91:25:03'/>
  <source type='unix' path='/run/vhost.sock' mode='client'/><model type='virtio'/></interface>
<interface type='ethernet'><mac address='02:00:00:91:25:04'/></interface>
<interface type='user'><mac address='02:00:00:91:25:05'/></interface>";

#[test]
fn each_kind_of_device_is_detached() {
    let Some(bed) = Bed::new("dev-foreign", 0x25) else { return };
    let xml = format!(
        "<domain type='qemu'><name>dev-foreign</name><memory unit='MiB'>64</memory><vcpu>1</vcpu><os>\
         <type arch='x86_64' machine='q35'>hvm</type></os><devices>{DEVICES}</devices></domain>"
    );
    let defined = bed.stack.with_xml("define", &xml);
    assert!(defined.status.success(), "{defined:?}");
    let guest = json!({ "id": "dev-foreign" });
    let detach = |verb: &str, device: (&str, &str), key: &str| {
        let request = json!({ "guest": guest, device.0: { key: device.1 } });
        let answer = bed.agent.call_with(verb, &request);
        assert_eq!(answer["error"], json!(null), "{verb} {device:?}: {answer}");
        let left = bed.stack.virsh_ok(&["dumpxml", "--inactive", "dev-foreign"]);
        assert!(!left.contains(&format!("'{}'", device.1)), "{verb} {device:?}: {left}");
    };
    for disk in ["vda", "vdb", "vdc", "sda"] {
        detach("DetachDisk", ("disk", disk), "device");
    }
    for number in 1..=5 {
        detach("DetachNic", ("nic", &format!("02:00:00:91:25:0{number}")), "mac");
    }
    bed.agent.ok("Delete", &guest);
}

/// Serves a file by `qemu-nbd` in the stack, whose processes end with it, on a socket there.
fn serve_nbd(bed: &Bed, name: &str) -> Result<String, Skip> {
    let (socket, pid) = (format!("/run/{name}.nbd"), format!("/run/{name}.pid"));
    let image = bed.store.path().join("served");
    fs::write(&image, vec![0; 1 << 20]).expect("the store is the test's own");
    let mut served = bed.stack.command("qemu-nbd");
    served.args(["--fork", "--persistent", "--format", "raw", "--socket", &socket]);
    let output = served.args(["--pid-file", &pid]).arg(&image).output();
    let output = output.expect("nsenter starts");
    match output.status.success() {
        true => Ok(socket),
        false => Err(Skip(format!("qemu-nbd: {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

#[test]
fn running_guest_releases_foreign_devices() {
    let Some(bed) = Bed::new("foreign-runs", 0x26) else { return };
    let Some(socket) = require("qemu", serve_nbd(&bed, "foreign-runs")) else { return };
    running(&bed, &obliging_boot_sector());
    let disk = format!(
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/>\
         <source protocol='nbd'><host transport='unix' socket='{socket}'/></source>\
         <target dev='vdb' bus='virtio'/></disk>"
    );
    let mac = bed.mac(2);
    let nic =
        format!("<interface type='user'><mac address='{mac}'/><model type='virtio'/></interface>");
    let scratch = Scratch::new();
    for xml in [disk, nic] {
        let file = scratch.path().join("device.xml");
        fs::write(&file, xml).expect("scratch is writable");
        let file = file.to_str().expect("UTF-8");
        bed.stack.virsh_ok(&["attach-device", bed.id, file, "--live", "--config"]);
    }
    let has = |words: &[&str], sign: &str| {
        bed.stack.virsh_ok(&[&["dumpxml", bed.id], words].concat()).contains(sign)
    };

    for (method, device, sign) in [
        ("DetachDisk", json!({ "device": "vdb" }), "protocol='nbd'"),
        ("DetachNic", json!({ "mac": mac }), "type='user'"),
    ] {
        assert!(has(&[], sign) && has(&["--inactive"], sign), "{method}");
        let answer = bed.ok(method, &device);
        let asked = "detach requested; the guest has not released the device yet";
        assert!(answer["live"] == true || answer["message"] == asked, "{answer}");
        assert!(!has(&["--inactive"], sign), "{method}");
        wait_until("the guest lets go", SOON, || !has(&[], sign));
    }
    let kill = "kill $(cat /run/foreign-runs.pid)";
    let killed = bed.stack.command("/bin/sh").args(["-c", kill]).status().expect("it starts");
    assert!(killed.success());
    bed.end();
}
