//! Changes to a domain's XML that leave everything else as it is.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};

/// Replaces the tags for which `change` returns another one. `change` receives the names of the enclosing elements,
/// outermost first. `None` if no tag changes, or the text is not XML. All other bytes stay unchanged, so parts that
/// this agent does not know are preserved.
pub(super) fn tags(
    xml: &str,
    change: impl Fn(&[Vec<u8>], &BytesStart<'_>) -> Option<BytesStart<'static>>,
) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    let mut writer = Writer::new(Vec::new());
    let (mut open, mut is_changed) = (Vec::new(), false);
    loop {
        let event = reader.read_event().ok()?;
        let changed = match &event {
            Event::Start(tag) => change(&open, tag).map(Event::Start),
            Event::Empty(tag) => change(&open, tag).map(Event::Empty),
            _ => None,
        };
        match &event {
            Event::Start(tag) => open.push(tag.name().into_inner().to_vec()),
            Event::End(_) => drop(open.pop()),
            Event::Eof => break,
            _ => {}
        }
        is_changed |= changed.is_some();
        writer.write_event(changed.unwrap_or(event)).ok()?;
    }
    String::from_utf8(writer.into_inner()).ok().filter(|_| is_changed)
}

/// Returns the tag with new values of these attributes; the other attributes stay as they were written.
pub(super) fn with_attributes(
    tag: &BytesStart<'_>,
    values: &[(&str, &str)],
) -> Option<BytesStart<'static>> {
    let name = String::from_utf8(tag.name().into_inner().to_vec()).ok()?;
    let mut changed = BytesStart::new(name);
    for attribute in tag.attributes() {
        let attribute = attribute.ok()?;
        let key = attribute.key.into_inner();
        if !values.iter().any(|(name, _)| name.as_bytes() == key) {
            changed.push_attribute(attribute);
        }
    }
    for value in values {
        changed.push_attribute(*value);
    }
    Some(changed)
}
