//! The logs of serial consoles.

use quick_xml::XmlVersion;

use crate::guest::edit;

/// Replaces the log `other` of a domain's consoles by `own`; `None` if no console has the log `other`. All other bytes
/// stay unchanged.
pub fn with_console_log(xml: &str, other: &str, own: &str) -> Option<String> {
    edit::tags(xml, |around, tag| {
        let is_console = matches!(
            around,
            [_, devices, console] if devices == b"devices" && [&b"serial"[..], b"console"].contains(&&**console)
        );
        let file = tag.try_get_attribute("file").ok().flatten()?;
        let file = file.normalized_value(XmlVersion::Implicit1_0).ok()?;
        let is_other = tag.name().as_ref() == b"log" && file == other;
        (is_console && is_other).then(|| edit::with_attributes(tag, &[("file", own)])).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tags_of_a_console_get_the_log() {
        let domain = |file: &str| {
            format!(
                "<domain><log file='/a.tty'/><devices><serial type='pty'>\
                 <log append=\"on\" file=\"{file}\"/></serial><console type='pty'>\
                 <log append=\"on\" file=\"{file}\"/></console></devices></domain>"
            )
        };
        let changed = with_console_log(&domain("/a.tty"), "/a.tty", "/b.tty");
        assert_eq!(changed, Some(domain("/b.tty")));
        assert_eq!(with_console_log(&domain("/c.tty"), "/a.tty", "/b.tty"), None);
    }
}
