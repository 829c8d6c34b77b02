//! Devices that other tools gave a guest, of kinds that this agent never writes.

use serde_json::json;

use super::Bed;

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
