//! Graphical displays.

use quick_xml::events::BytesStart;

use crate::guest::edit;

/// Sets the fixed TCP ports of a domain's VNC displays to automatic; `None` if no display has a
/// fixed port. All other bytes stay unchanged.
pub fn with_chosen_vnc_port(xml: &str) -> Option<String> {
    edit::tags(xml, |around, tag| {
        let in_devices = around.len() == 2 && around[1] == b"devices";
        let fixed = in_devices && has_fixed_port(tag);
        fixed.then(|| edit::with_attributes(tag, &[("port", "-1"), ("autoport", "yes")])).flatten()
    })
}

fn has_fixed_port(tag: &BytesStart<'_>) -> bool {
    let has = |name: &str, value: &[u8]| {
        tag.try_get_attribute(name).ok().flatten().is_some_and(|found| &*found.value == value)
    };
    let port = tag.try_get_attribute("port").ok().flatten();
    tag.name().as_ref() == b"graphics"
        && has("type", b"vnc")
        && !has("autoport", b"yes")
        && port.is_some_and(|port| &*port.value != b"-1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(devices: &str) -> String {
        format!(
            "<!-- a > b --><domain xmlns:q='urn:q' type='kvm'><metadata>\
             <x:devices xmlns:x='x'><graphics type='vnc' port='5901' autoport='no'/></x:devices>\
             </metadata><devices>\n  {devices}<hub/></devices><q:args a='&lt;'/></domain>\n"
        )
    }

    #[test]
    fn a_fixed_port_is_left_to_libvirt_and_all_else_stays() {
        for (fixed, chosen) in [
            (
                "<graphics type='vnc' port='5901' autoport='no' listen='127.0.0.1' passwd='a&amp;b'>\
                 <listen type='address' address='127.0.0.1'/></graphics>",
                "<graphics type=\"vnc\" listen=\"127.0.0.1\" passwd=\"a&amp;b\" port=\"-1\" \
                 autoport=\"yes\"><listen type='address' address='127.0.0.1'/></graphics>",
            ),
            (
                "<graphics type='vnc' port='5901'/><graphics type='spice' port='5902'/>",
                "<graphics type=\"vnc\" port=\"-1\" autoport=\"yes\"/>\
                 <graphics type='spice' port='5902'/>",
            ),
        ] {
            assert_eq!(with_chosen_vnc_port(&domain(fixed)), Some(domain(chosen)));
        }
    }

    #[test]
    fn without_a_fixed_port_nothing_changes() {
        for graphics in [
            "",
            "<graphics type='vnc' port='5901' autoport='yes'/>",
            "<graphics type='vnc' port='-1'/>",
            "<graphics type='vnc'><listen type='socket'/></graphics>",
            "<graphics type='spice' port='5901' autoport='no'/>",
        ] {
            assert_eq!(with_chosen_vnc_port(&domain(graphics)), None, "{graphics}");
        }
        assert_eq!(with_chosen_vnc_port("<domain"), None);
    }
}
