//! Graphical displays: a change to a domain's XML that leaves all else of it as it stands.

use std::str::from_utf8;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// The XML of a domain with the fixed TCP ports of its VNC displays left to libvirt to choose;
/// `None` where there is no such display. Not a byte else is changed: what libvirt knows of a
/// domain and this agent does not is kept.
pub fn with_chosen_vnc_port(xml: &str) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    let (mut open, mut changed, mut copied) = (Vec::new(), String::new(), 0);
    loop {
        let begins = position(&reader)?;
        let event = reader.read_event().ok()?;
        let ends = position(&reader)?;
        let in_devices = open.len() == 2 && open.last().is_some_and(|name| name == b"devices");
        let (tag, is_open) = match event {
            Event::Start(tag) => (tag, true),
            Event::Empty(tag) => (tag, false),
            Event::End(_) => {
                open.pop();
                continue;
            }
            Event::Eof => break,
            _ => continue,
        };
        if in_devices && tag.name().as_ref() == b"graphics" && has_fixed_port(&tag) {
            changed += xml.get(copied..begins)?;
            changed += &chosen(&tag, is_open)?;
            copied = ends;
        }
        if is_open {
            open.push(tag.name().as_ref().to_vec());
        }
    }
    changed += xml.get(copied..)?;
    (copied > 0).then_some(changed)
}

fn position(reader: &Reader<&[u8]>) -> Option<usize> {
    usize::try_from(reader.buffer_position()).ok()
}

fn has_fixed_port(tag: &BytesStart<'_>) -> bool {
    let has = |name: &str, value: &[u8]| {
        tag.try_get_attribute(name).ok().flatten().is_some_and(|found| &*found.value == value)
    };
    let port = tag.try_get_attribute("port").ok().flatten();
    has("type", b"vnc")
        && !has("autoport", b"yes")
        && port.is_some_and(|port| &*port.value != b"-1")
}

/// The start tag with its port left to libvirt.
fn chosen(tag: &BytesStart<'_>, is_open: bool) -> Option<String> {
    let mut text = "<graphics".to_owned();
    for attribute in tag.attributes() {
        let attribute = attribute.ok()?;
        let (name, value) = (attribute.key.into_inner(), &*attribute.value);
        if !matches!(name, b"port" | b"autoport") {
            // The value is as it was written; libvirt never writes a bare double quote in one.
            let (name, value) = (from_utf8(name).ok()?, from_utf8(value).ok()?);
            text += &format!(" {name}=\"{value}\"");
        }
    }
    text += " port=\"-1\" autoport=\"yes\"";
    text += if is_open { ">" } else { "/>" };
    Some(text)
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
