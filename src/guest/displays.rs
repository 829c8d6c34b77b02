//! Graphical displays: a change to a domain's XML that leaves all else of it as it stands.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};

/// The XML of a domain with the fixed TCP ports of its VNC displays left to libvirt to choose;
/// `None` where there is no such display. Not a byte else is changed: what libvirt knows of a
/// domain and this agent does not is kept.
pub fn with_chosen_vnc_port(xml: &str) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    let mut writer = Writer::new(Vec::new());
    let (mut open, mut is_changed) = (Vec::new(), false);
    loop {
        let event = reader.read_event().ok()?;
        let in_devices = open.len() == 2 && open.last().is_some_and(|name| name == b"devices");
        let fixed = |tag: &BytesStart<'_>| in_devices && has_fixed_port(tag);
        let chosen = match &event {
            Event::Start(tag) if fixed(tag) => Some(Event::Start(with_chosen_port(tag)?)),
            Event::Empty(tag) if fixed(tag) => Some(Event::Empty(with_chosen_port(tag)?)),
            _ => None,
        };
        match &event {
            Event::Start(tag) => open.push(tag.name().into_inner().to_vec()),
            Event::End(_) => drop(open.pop()),
            Event::Eof => break,
            _ => {}
        }
        is_changed |= chosen.is_some();
        writer.write_event(chosen.unwrap_or(event)).ok()?;
    }
    String::from_utf8(writer.into_inner()).ok().filter(|_| is_changed)
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

/// The tag with its port left to libvirt; the other attributes' values stay as they were written.
fn with_chosen_port(tag: &BytesStart<'_>) -> Option<BytesStart<'static>> {
    let mut chosen = BytesStart::new("graphics");
    for attribute in tag.attributes() {
        let attribute = attribute.ok()?;
        if !matches!(attribute.key.into_inner(), b"port" | b"autoport") {
            chosen.push_attribute(attribute);
        }
    }
    chosen.push_attribute(("port", "-1"));
    chosen.push_attribute(("autoport", "yes"));
    Some(chosen)
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
    fn without_a_fixed_port_there_is_nothing_to_change() {
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
