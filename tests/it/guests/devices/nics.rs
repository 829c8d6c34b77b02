//! NICs of a guest that is off.

use serde_json::json;

use super::{Bed, NEXT};

#[test]
fn attached_nic_has_a_network_of_the_guest() {
    let Some(bed) = Bed::new("nic-comes", 0x11) else { return };
    let before = bed.made(&json!([]));
    let mut nic = bed.nic(2);
    nic["name"] = json!("lan");
    let answer = bed.ok("AttachNic", &nic);
    assert_eq!((&answer["live"], &answer["message"]), (&json!(false), &json!("the guest is off")));
    assert_eq!(answer["guest"]["nics"][1]["name"], "lan");
    assert_eq!(bed.macs(NEXT), [bed.mac(1), bed.mac(2)]);
    assert_eq!(bed.ok("AttachNic", &nic), answer, "asked again");
    bed.is_now(&answer["guest"]);
    bed.is_no_more(&before);
    let started = bed.stack.virsh_ok(&["net-info", &bed.mac(2)]);
    for word in ["Active: yes", "Autostart: yes"] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(started.lines().any(|line| words(line) == word), "{word}: {started}");
    }
    let ran = bed.agent.ok("Run", &answer["guest"])["guest"].take();
    let device = ran["nics"][1]["device"].as_str().expect("a tap");
    assert!(device.starts_with("vnet"), "{ran}");
    bed.end();
}

#[test]
fn detached_nic_removes_its_network_unless_shared() {
    let Some(bed) = Bed::new("nic-goes", 0x12) else { return };
    let before = bed.made(&json!([]));
    let without = bed.everything();
    for name in [json!({ "mac": bed.mac(2).to_uppercase() }), json!({ "name": "lan" }), bed.nic(2)]
    {
        let mut nic = bed.nic(2);
        nic["name"] = json!("lan");
        bed.ok("AttachNic", &nic);
        assert_ne!(bed.everything(), without);
        let answer = bed.ok("DetachNic", &name);
        assert_eq!(answer["message"], "the guest is off");
        assert_eq!(answer["guest"]["nics"], before["nics"]);
        assert_eq!(bed.everything(), without, "{name}");
        bed.agent.ok("CreateGuest", &before);
        let error = bed.error("DetachNic", &json!({ "mac": bed.mac(2) }));
        let gone = format!("cannot detach NIC {}: the guest has no such NIC", bed.mac(2));
        assert_eq!(error, gone);
    }
    bed.ok("AttachNic", &bed.nic(2));
    let other = format!("{}-other", bed.id);
    let xml = format!(
        "<domain type='qemu'><name>{other}</name><memory>32768</memory><os><type>hvm</type></os>
         <devices><interface type='network'><source network='{}'/></interface></devices></domain>",
        bed.mac(2)
    );
    assert!(bed.stack.with_xml("define", &xml).status.success());
    bed.ok("DetachNic", &bed.nic(2));
    assert!(bed.everything().iter().any(|line| line.contains(&bed.mac(2))), "its network stays");
    bed.stack.virsh_ok(&["undefine", &other]);
    bed.stack.virsh_ok(&["net-destroy", &bed.mac(2)]);
    bed.stack.virsh_ok(&["net-undefine", &bed.mac(2)]);
    bed.end();
}

#[test]
fn a_nic_of_another_guests_network_is_not_attached() {
    let Some(bed) = Bed::new("nic-stolen", 0x13) else { return };
    let Some(other) = Bed::new("nic-owner", 0x13) else { return };
    bed.made(&json!([]));
    let mut guest = other.guest(&json!([]));
    guest["nics"] = json!([other.nic(2)]);
    other.agent.ok("CreateGuest", &guest);
    let before = bed.everything();
    let error = bed.error("AttachNic", &bed.nic(2));
    assert!(error.starts_with("[Code-9] ") && error.ends_with("; undone)"), "{error}");
    assert_eq!(bed.everything(), before);
    other.agent.ok("Delete", &guest);
    bed.end();
}
