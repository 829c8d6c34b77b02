//! Memory of a guest: the current amount and the maximum without a restart.
//!
//! In the profile modern, a guest with a maximum has a virtio-mem device: the guest boots with its current memory, and
//! the device adds more. Otherwise the balloon controls the memory: such a guest boots with the whole maximum, until
//! its system has loaded the balloon's driver.

use crate::guest::domain::KIB_PER_MIB;
use crate::guest::hardware::is_x86;
use crate::guest::placement::page_kib;
use crate::guest::profile::MODERN;
use crate::guest::wire::Guest;
use crate::guest::xml::{Element, Error};
use crate::guest::xml_values::{number, read_memory_kib};

/// The block size of a virtio-mem device on x86 with ordinary pages, in KiB: a transparent huge page.
const BLOCK_KIB: u64 = 2048;
/// The model of the memory device.
const VIRTIO_MEM: &str = "virtio-mem";

/// Returns the block size in KiB of a guest's memory device; 0 for no device. Only on x86 is the block size independent
/// of the guest's system.
pub(super) fn block_kib(guest: &Guest, is_x86: bool) -> u64 {
    match guest.profile == MODERN && guest.max_memory_mib > 0 && is_x86 {
        true => BLOCK_KIB.max(guest.hugepages_kib),
        false => 0,
    }
}

/// Returns the block size in MiB, for a guest that has its profile and machine.
pub(super) fn unit_mib(guest: &Guest) -> u64 {
    block_kib(guest, is_x86(&guest.machine)) / KIB_PER_MIB
}

/// Writes the memory at the next start, the maximum, and the block size of the memory device into a definition; a block
/// size of 0 means the balloon. All values are in KiB.
pub(super) fn write(domain: &mut Element, memory: u64, most: u64, block: u64) {
    let kib = |name: &str, amount: u64| {
        Element::new(name).with("unit", "KiB").holding(&amount.to_string())
    };
    let most = most.max(memory);
    for former in ["memory", "currentMemory", "maxMemory"] {
        domain.remove(former, |_| true);
    }
    domain.children.extend([kib("memory", most), kib("currentMemory", memory)]);
    if block == 0 {
        return;
    }
    domain.child_mut("devices").remove("memory", |_| true);
    domain.child_mut("cpu").remove("numa", |_| true);
    // With huge pages, the device adds whole pages.
    let block = block.max(page_kib(domain).unwrap_or_default());
    // QEMU refuses slots without room for them, which a guest with its maximum memory would have.
    domain.children.push(kib("maxMemory", most.saturating_add(block)).with("slots", "1"));
    // libvirt fills in the processors.
    let cell = Element::new("cell").with("memory", &memory.to_string()).with("unit", "KiB");
    let cells = Element::new("numa").containing([cell]);
    domain.child_mut("cpu").children.push(cells);
    if most > memory {
        let target = Element::new("target").containing([
            kib("size", most - memory),
            Element::new("node").holding("0"),
            kib("block", block),
            kib("requested", 0),
        ]);
        let device = Element::new("memory").with("model", VIRTIO_MEM).containing([target]);
        domain.child_mut("devices").children.push(device);
    }
}

/// Reads the memory of a domain, and its maximum, which is 0 if equal; in KiB.
///
/// # Errors
/// If a number in the XML is invalid.
pub(super) fn read(domain: &Element) -> Result<(u64, u64), Error> {
    let most = read_memory_kib(domain.child("memory"))?;
    match domain.has("currentMemory") {
        true => match read_memory_kib(domain.child("currentMemory"))? {
            memory if memory < most => Ok((memory, most)),
            _ => Ok((most, 0)),
        },
        false => Ok((most, 0)),
    }
}

/// Reads the block size in KiB of the memory device that this agent gave a domain; 0 for none. If the XML differs from
/// the form that [`write()`] uses, another tool arranged it.
///
/// # Errors
/// If a number in the XML is invalid.
pub(super) fn read_block(domain: &Element) -> Result<u64, Error> {
    let mut cells = domain.child("cpu").child("numa").children_in("", "cell");
    let (cell, is_one_cell) = (cells.next(), cells.next().is_none());
    let of_cell = ["id", "cpus", "memory", "unit"];
    let is_plain = |cell: &Element| {
        let names = &mut cell.attributes.iter().map(|(name, _)| name.as_str());
        cell.children.is_empty() && names.all(|name| of_cell.contains(&name))
    };
    let mut devices = domain.child("devices").children_in("", "memory");
    let (device, is_more) = (devices.next(), devices.next().is_some());
    let is_one_slot = domain.child("maxMemory").attribute("slots") == "1";
    if !is_one_slot || !is_one_cell || !cell.is_some_and(is_plain) || is_more {
        return Ok(0);
    }
    match device {
        // The guest has its maximum, and thus no device.
        None => Ok(BLOCK_KIB.max(page_kib(domain)?)),
        Some(device) if device.attribute("model") == VIRTIO_MEM && !device.has("source") => {
            read_memory_kib(device.child("target").child("block"))
        }
        Some(_) => Ok(0),
    }
}

/// Returns whether another tool arranged the memory of a domain.
///
/// # Errors
/// If a number in the XML is invalid.
pub(super) fn is_arranged(domain: &Element) -> Result<bool, Error> {
    let has_parts = domain.child("cpu").has("numa") || domain.child("devices").has("memory");
    Ok(has_parts && read_block(domain)? == 0)
}

/// A domain with a memory device.
#[derive(Clone, Debug)]
pub struct Plugged {
    domain: Element,
    /// The block size: its memory is a multiple of this, in KiB.
    pub block_kib: u64,
}

impl Plugged {
    /// Reads an inactive or live definition; `None` without a memory device.
    ///
    /// # Errors
    /// If the text is not the XML of a domain, or a number in it is invalid.
    pub fn from_xml(xml: &str) -> Result<Option<Self>, Error> {
        let domain = Element::from_xml(xml, "domain")?;
        let block_kib = read_block(&domain)?;
        Ok((block_kib > 0).then_some(Self { domain, block_kib }))
    }

    /// Returns the definition with this memory in KiB at the next start, and a maximum that is at least as large.
    ///
    /// # Errors
    /// If a number in the XML is invalid.
    pub fn starting_with(mut self, memory_kib: u64) -> Result<String, Error> {
        let (memory, most) = read(&self.domain)?;
        write(&mut self.domain, memory_kib, most.max(memory), self.block_kib);
        Ok(self.domain.to_xml())
    }

    /// Returns the changes that give a running domain this memory in KiB: the device's XML, and the balloon's target in
    /// KiB. `None` if the domain booted with its maximum.
    ///
    /// The balloon removes memory below the amount at boot: libvirt's target does not count the device's memory.
    ///
    /// # Errors
    /// If a number in the XML is invalid.
    pub fn targets(&self, memory_kib: u64) -> Result<Option<(String, u64)>, Error> {
        let mut devices = self.domain.child("devices").children_in("", "memory");
        let Some(mut device) = devices.next().cloned() else { return Ok(None) };
        let cell = self.domain.child("cpu").child("numa").child("cell");
        let base: u64 = number("cell memory", cell.attribute("memory"))?;
        let target = device.child_mut("target");
        let requested = target.child_mut("requested");
        requested.set("unit", "KiB");
        requested.text = memory_kib.saturating_sub(base).to_string();
        Ok(Some((device.to_xml(), memory_kib.min(base))))
    }
}

/// Returns the memory in KiB that a running domain can use without further consent. Memory that was not requested from
/// a device does not count; memory in the balloon does.
///
/// # Errors
/// If the text is not the XML of a domain, or a number in it is invalid.
pub fn promised(xml: &str) -> Result<u64, Error> {
    let domain = Element::from_xml(xml, "domain")?;
    let (memory, most) = read(&domain)?;
    let device = domain.child("devices").child("memory").child("target");
    let (size, requested) = (device.child("size"), device.child("requested"));
    if read_block(&domain)? == 0 || size.text.is_empty() {
        return Ok(most.max(memory));
    }
    let held_back = read_memory_kib(size)?.saturating_sub(read_memory_kib(requested)?);
    Ok(most.max(memory).saturating_sub(held_back))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = KIB_PER_MIB;

    fn domain(memory: u64, most: u64, block: u64) -> Element {
        let mut domain = Element::new("domain");
        write(&mut domain, memory, most, block);
        domain
    }

    #[test]
    fn written_value_is_read_back() {
        for (memory, most, block) in [
            (512 * MIB, 1024 * MIB, 0),
            (512 * MIB, 1024 * MIB, BLOCK_KIB),
            (512 * MIB, 1024 * MIB, 1024 * MIB),
        ] {
            let domain = domain(memory, most, block);
            assert_eq!(read(&domain), Ok((memory, most)), "{}", domain.to_xml());
            assert_eq!(read_block(&domain), Ok(block));
        }
        assert_eq!(read(&domain(MIB, 0, 0)), Ok((MIB, 0)));
        let mut huge = Element::new("domain");
        let page = Element::new("page").with("size", "1048576").with("unit", "KiB");
        let pages = Element::new("hugepages").containing([page]);
        huge.children.push(Element::new("memoryBacking").containing([pages]));
        for memory in [1024, 2048] {
            write(&mut huge, memory * MIB, 2048 * MIB, BLOCK_KIB);
            assert_eq!(read_block(&huge), Ok(1024 * MIB), "{}", huge.to_xml());
        }
        let whole = domain(512 * MIB, 512 * MIB, BLOCK_KIB);
        assert_eq!((read(&whole), read_block(&whole)), (Ok((512 * MIB, 0)), Ok(BLOCK_KIB)));
    }

    #[test]
    fn another_start_keeps_the_maximum_or_raises_it() {
        for (memory, most) in [(256, 1024), (1024, 0), (2048, 0)] {
            let xml = domain(512 * MIB, 1024 * MIB, BLOCK_KIB).to_xml();
            let plugged = Plugged::from_xml(&xml).unwrap().expect("it has a device");
            let changed = plugged.starting_with(memory * MIB).unwrap();
            let changed = Element::from_xml(&changed, "domain").unwrap();
            assert_eq!(read(&changed), Ok((memory * MIB, most * MIB)));
            assert_eq!(read_block(&changed), Ok(BLOCK_KIB));
        }
    }

    /// Returns a guest that booted with 512 MiB and was asked to take `requested` MiB more.
    fn running(requested: u64) -> String {
        let mut domain = domain(512 * MIB, 1024 * MIB, BLOCK_KIB);
        let target = domain.child_mut("devices").child_mut("memory").child_mut("target");
        target.child_mut("requested").text = (requested * MIB).to_string();
        domain.to_xml()
    }

    #[test]
    fn the_device_gives_and_the_balloon_takes() {
        for (asked, requested, balloon) in [(512, 0, 512), (768, 256, 512), (256, 0, 256)] {
            let plugged = Plugged::from_xml(&running(128)).unwrap().expect("it has a device");
            let (device, target) = plugged.targets(asked * MIB).unwrap().expect("it has a device");
            let device = Element::from_xml(&device, "memory").unwrap();
            let found = read_memory_kib(device.child("target").child("requested"));
            assert_eq!((found, target), (Ok(requested * MIB), balloon * MIB), "{asked}");
        }
    }

    #[test]
    fn promised_is_the_maximum_of_a_balloon_alone() {
        assert_eq!(promised(&domain(512, 1024, 0).to_xml()), Ok(1024));
        assert_eq!(promised(&domain(512, 0, 0).to_xml()), Ok(512));
        assert_eq!(promised(&running(0)), Ok(512 * MIB));
        assert_eq!(promised(&running(256)), Ok(768 * MIB));
    }

    #[test]
    fn memory_of_other_tools_is_left_to_them() {
        let domain = domain(512 * MIB, 1024 * MIB, BLOCK_KIB);
        let dimm = Element::new("memory").with("model", "dimm");
        let mut more = domain.clone();
        more.child_mut("devices").children.push(dimm.clone());
        let mut other = domain.clone();
        other.child_mut("devices").children = vec![dimm];
        let mut cells = domain.clone();
        cells.child_mut("cpu").child_mut("numa").children.push(Element::new("cell"));
        let mut shared = domain.clone();
        shared.child_mut("cpu").child_mut("numa").child_mut("cell").set("memAccess", "shared");
        let mut slots = domain.clone();
        slots.child_mut("maxMemory").set("slots", "16");
        let mut sourced = domain.clone();
        let source = Element::new("source");
        sourced.child_mut("devices").child_mut("memory").children.push(source);
        for domain in [more, other, cells, shared, slots, sourced] {
            assert_eq!(is_arranged(&domain), Ok(true));
            assert!(Plugged::from_xml(&domain.to_xml()).unwrap().is_none(), "{}", domain.to_xml());
        }
    }
}
