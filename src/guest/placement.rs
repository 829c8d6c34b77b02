//! Placement of a guest on the host: processors, NUMA nodes, huge pages.

use crate::guest::hardware::Hardware;
use crate::guest::xml::{Element, Error};
use crate::sorted::OrderBy;

/// The highest number in a list: far above that of any host, and low enough to limit the memory of
/// a list.
const NUMBER_MAX: u64 = 65_535;

/// Returns the distinct numbers of a list such as `0-3,8`, sorted; `None` if the text is not such a
/// list.
pub fn numbers(list: &str) -> Option<Vec<u64>> {
    let mut found = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (number(first)?, number(last)?);
        if first > last || last > NUMBER_MAX {
            return None;
        }
        found.extend(first..=last);
    }
    found.order_by(&Ord::cmp);
    found.dedup();
    Some(found)
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns whether two lists have the same numbers; libvirt shortens lists.
pub(super) fn is_same(a: &str, b: &str) -> bool {
    a == b || (numbers(a).is_some() && numbers(a) == numbers(b))
}

/// Writes the parts of `<domain>` with the placement.
pub(super) fn write(hardware: &Hardware) -> Vec<Element> {
    let mut parts = Vec::new();
    if hardware.hugepages_kib > 0 {
        let size = hardware.hugepages_kib.to_string();
        let page = Element::new("page").with("size", &size).with("unit", "KiB");
        let pages = Element::new("hugepages").containing([page]);
        parts.push(Element::new("memoryBacking").containing([pages]));
    }
    let pins = hardware.cpu_pinning.iter().enumerate().filter(|(_, cpus)| !cpus.is_empty());
    let pin = |(index, cpus): (usize, &String)| {
        Element::new("vcpupin").with("vcpu", &index.to_string()).with("cpuset", cpus)
    };
    let pins: Vec<Element> = pins.map(pin).collect();
    if !pins.is_empty() {
        parts.push(Element::new("cputune").containing(pins));
    }
    if !hardware.numa.is_empty() {
        let memory = Element::new("memory").with("mode", "strict").with("nodeset", &hardware.numa);
        parts.push(Element::new("numatune").containing([memory]));
    }
    parts
}

/// Reads the placement into the hardware of a domain.
///
/// # Errors
/// If a number in the XML is invalid.
pub(super) fn read(domain: &Element, hardware: &mut Hardware) -> Result<(), Error> {
    hardware.hugepages_kib = page_kib(domain)?;
    for pin in domain.child("cputune").children_in("", "vcpupin") {
        let index = number(pin.attribute("vcpu")).filter(|index| *index <= NUMBER_MAX);
        let Some(index) = index.and_then(|index| usize::try_from(index).ok()) else { continue };
        if hardware.cpu_pinning.len() <= index {
            hardware.cpu_pinning.resize(index + 1, String::new());
        }
        pin.attribute("cpuset").clone_into(&mut hardware.cpu_pinning[index]);
    }
    let memory = domain.child("numatune").child("memory");
    memory.attribute("nodeset").clone_into(&mut hardware.numa);
    Ok(())
}

/// Returns the size in KiB of the huge pages of a domain's memory; 0 for ordinary pages.
///
/// # Errors
/// If the size is not a number.
pub(super) fn page_kib(domain: &Element) -> Result<u64, Error> {
    let page = domain.child("memoryBacking").child("hugepages").child("page");
    match page.attribute("unit") {
        "KiB" => super::xml_values::number("page size", page.attribute("size")),
        _ => Ok(0),
    }
}

/// Replaces the requested parts of the placement in a definition; other parts stay.
pub(super) fn update(domain: &mut Element, asked: &Hardware) {
    for part in write(asked) {
        let own = domain.child_mut(&part.name);
        for child in part.children {
            let is_it = |it: &Element| {
                child.name != "vcpupin" || it.attribute("vcpu") == child.attribute("vcpu")
            };
            own.remove(&child.name, is_it);
            own.children.push(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_read() {
        for (list, found) in [
            ("0", Some(vec![0])),
            ("0-3,8", Some(vec![0, 1, 2, 3, 8])),
            ("8,0-1,1", Some(vec![0, 1, 8])),
            ("", None),
            ("3-0", None),
            ("+1", None),
            ("0,", None),
            ("^1", None),
            ("65536", None),
            ("0-99999999999", None),
        ] {
            assert_eq!(numbers(list), found, "{list}");
        }
        assert!(is_same("0,1", "0-1") && !is_same("0", "1") && is_same("", ""));
        assert!(!is_same("x", "y"));
    }

    #[test]
    fn written_value_is_read_back() {
        let asked = Hardware {
            cpu_pinning: vec!["0".to_owned(), String::new(), "1-2".to_owned()],
            hugepages_kib: 2048,
            numa: "0".to_owned(),
            ..Hardware::default()
        };
        let mut domain = Element::new("domain").containing(write(&asked));
        let mut found = Hardware::default();
        read(&domain, &mut found).unwrap();
        assert_eq!(found, asked);
        let other = Hardware { cpu_pinning: vec!["3".to_owned()], ..Hardware::default() };
        update(&mut domain, &other);
        let mut found = Hardware::default();
        read(&domain, &mut found).unwrap();
        let pinning = vec!["3".to_owned(), String::new(), "1-2".to_owned()];
        assert_eq!(found, Hardware { cpu_pinning: pinning, ..asked });
    }
}
