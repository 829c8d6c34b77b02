use super::*;

/// The XML of libvirt 9.0 for a guest of the original agent, with parts that this agent does not
/// know.
const ORIGINAL: &str = "<domain type='kvm' id='1'>
  <name>old</name>
  <metadata><app:x xmlns:app='urn:app' a='1'>kept</app:x></metadata>
  <memory unit='KiB'>524288</memory>
  <vcpu placement='static' cpuset='0-1'>2</vcpu>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model>\
<numa><cell id='0' cpus='0-1' memory='524288' unit='KiB'/></numa></cpu>
  <clock offset='utc'/>
  <devices>
    <disk type='file' device='disk'><source file='/a'/><target dev='hda' bus='ide'/>\
<address type='drive' controller='0'/></disk>
    <controller type='pci' index='0' model='pci-root'/>
    <controller type='ide' index='0'><address type='pci' slot='0x01'/></controller>
    <interface type='bridge'><source bridge='br0'/><address type='pci' slot='0x03'/></interface>
    <hostdev mode='subsystem' type='pci'><source><address domain='0' bus='5'/></source>\
<address type='pci' slot='0x05'/></hostdev>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='virtio'/>
  </devices>
  <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
<qemu:arg value='-s'/></qemu:commandline>
</domain>";

fn asked(members: &str) -> Guest {
    serde_json::from_str(&format!(r#"{{"id": "old", {members}}}"#)).unwrap()
}

fn read(xml: &str) -> Element {
    Element::from_xml(xml, "domain").unwrap()
}

/// Returns the definition after an update without losses.
fn after(members: &str) -> Element {
    let updated = updated(ORIGINAL, &asked(members), "").unwrap();
    assert_eq!(updated.losses, []);
    read(&updated.xml)
}

#[test]
fn unrequested_members_are_unchanged() {
    assert_eq!(after(r#""memory": 1"#), read(ORIGINAL));
}

#[test]
fn a_processor_is_replaced_and_its_numa_kept() {
    let domain = after(r#""cpu_model": "host-model""#);
    let cpu = domain.child("cpu");
    assert_eq!(
        (cpu.attribute("mode"), cpu.has("model"), cpu.has("numa")),
        ("host-model", false, true)
    );
    let domain =
        after(r#""cpu_model": "EPYC", "cpu_topology": {"sockets": 1, "cores": 2, "threads": 1}"#);
    let hardware = read_hardware(&domain).unwrap();
    assert_eq!(hardware.cpu_model, "EPYC");
    assert_eq!(hardware.cpu_topology.map(|it| it.cores), Some(2));
}

#[test]
fn a_maximum_of_processors_keeps_their_number() {
    let domain = after(r#""max_cpu": 8"#);
    let vcpu = domain.child("vcpu");
    assert_eq!((vcpu.trimmed(), vcpu.attribute("current")), ("8", "2"));
    assert_eq!(vcpu.attribute("cpuset"), "0-1");
}

#[test]
fn another_machine_has_new_places_for_all_devices() {
    let sata = ORIGINAL.replace("dev='hda' bus='ide'", "dev='sda' bus='sata'");
    let updated = updated(&sata, &asked(r#""machine": "q35""#), "").unwrap();
    assert_eq!(updated.losses, []);
    let domain = read(&updated.xml);
    let devices = domain.child("devices");
    assert_eq!(domain.child("os").child("type").attribute("machine"), "q35");
    assert!(!devices.child("interface").has("address"), "the slot of the former machine");
    assert!(devices.child("hostdev").child("source").has("address"), "the host's device");
    let ports = devices.children_in("", "controller");
    let ports = ports.filter(|it| it.attribute("model") == "pcie-root-port").count();
    assert!(ports >= 16 + 5, "{ports}");
    assert!(!domain.to_xml().contains("pci-root\""), "the former bus");
    assert_eq!(after(r#""machine": "pc""#), read(ORIGINAL), "it is one already");
    let exact = after(r#""machine": "pc-i440fx-8.0""#);
    assert!(exact.child("devices").child("interface").has("address"), "only another version");
    let ide = super::updated(ORIGINAL, &asked(r#""machine": "q35""#), "").unwrap();
    assert_eq!(ide.losses, [Loss::Ide]);
}

#[test]
fn existing_members_of_the_guest_are_unchanged() {
    let original = read(ORIGINAL);
    let same = r#""cpu_model": "qemu64", "clock": "utc", "guest_agent": true, "firmware": "bios""#;
    assert_eq!(after(same), original);
}

#[test]
fn devices_are_attached_once_and_detached() {
    let domain =
        after(r#""tpm": true, "watchdog": "reset", "on_crash": "restart", "guest_agent": false"#);
    let hardware = read_hardware(&domain).unwrap();
    assert!(hardware.tpm && !hardware.guest_agent);
    assert_eq!((hardware.watchdog.as_str(), hardware.on_crash.as_str()), ("reset", "restart"));
    let again = updated(
        &domain.to_xml(),
        &asked(r#""tpm": true, "watchdog": "event", "on_crash": "stop""#),
        "",
    );
    let again = read(&again.unwrap().xml);
    let count = |name| again.child("devices").children_in("", name).count();
    assert_eq!([count("tpm"), count("watchdog"), count("panic")], [1, 1, 1]);
    assert_eq!(again.children_in("", "on_crash").count(), 1);
}

#[test]
fn firmware_and_windows_are_not_lost_unasked() {
    let sata = ORIGINAL.replace("dev='hda' bus='ide'", "dev='sda' bus='sata'");
    let uefi = updated(
        &sata,
        &asked(r#""firmware": "uefi-secure", "machine": "q35", "hyperv": true"#),
        "",
    );
    let uefi = uefi.unwrap();
    assert_eq!(uefi.losses, []);
    let hardware = read_hardware(&read(&uefi.xml)).unwrap();
    assert_eq!((hardware.firmware.as_str(), hardware.hyperv), ("uefi-secure", true));
    let named = updated(ORIGINAL, &asked(r#""firmware": "uefi""#), "/file").unwrap();
    assert_eq!(read(&named.xml).child("os").child("nvram").trimmed(), "/file");
    let back = updated(&uefi.xml, &asked(r#""firmware": "bios", "machine": "pc""#), "").unwrap();
    assert_eq!(back.losses, [Loss::Windows, Loss::Nvram]);
    assert_eq!(read_hardware(&read(&back.xml)).unwrap().firmware, "bios");
    assert!(!back.xml.contains("smm") && !back.xml.contains("secure-boot"), "{}", back.xml);
}

#[test]
fn a_maximum_of_memory_fits_the_pages() {
    let block = |xml: &str| read_hardware(&read(xml)).unwrap().memory_block_kib;
    let asked_most = asked(r#""profile": "modern", "max_memory": 8192"#);
    let of_another = updated(ORIGINAL, &asked_most, "").unwrap();
    assert_eq!(of_another.losses, [Loss::Memory], "it has a cell of another tool's");
    let cell = "<numa><cell id='0' cpus='0-1' memory='524288' unit='KiB'/></numa>";
    let most = updated(&ORIGINAL.replace(cell, ""), &asked_most, "").unwrap();
    assert_eq!((block(&most.xml), &most.losses[..]), (2048, &[][..]));
    let huge = updated(&most.xml, &asked(r#""hugepages": 1048576"#), "").unwrap();
    assert_eq!(block(&huge.xml), 1_048_576);
    let again = updated(&huge.xml, &asked(r#""profile": "modern", "max_memory": 4096"#), "");
    assert_eq!(block(&again.unwrap().xml), 1_048_576);
    let cells = most.xml.replace("<cell ", "<cell memAccess=\"shared\" ");
    let refused = updated(&cells, &asked(r#""max_memory": 4096"#), "").unwrap();
    assert_eq!(refused.losses, [Loss::Memory]);
}

#[test]
fn foreign_namespaces_survive() {
    let xml = after(r#""clock": "localtime""#).to_xml();
    for part in [
        r#"<x xmlns="urn:app" a="1">kept</x>"#,
        r#"<commandline xmlns="http://libvirt.org/schemas/domain/qemu/1.0"><arg value="-s"/></commandline>"#,
        r#"<clock offset="localtime"/>"#,
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
}
