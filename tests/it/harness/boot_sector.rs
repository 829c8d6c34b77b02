//! The smallest guest: one sector of 16-bit code that makes a guest's counters move and obeys
//! the power button.
//!
//! The code counts its boots in sector 3 of its disk, then reads sector 2 and writes it back at every eighth
//! timer tick, about twice a second: an emulated processor waits busily for the disk, so more would
//! take the host's processors from the tests.
//! With ACPI in the domain (`<features><acpi/></features>`) `virsh shutdown` turns the guest off within
//! a tick. Without ACPI the guest ignores it, like a guest without an operating system.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The size of a boot sector in bytes.
const SECTOR: usize = 512;
/// Where [`CODE`]'s loop begins: the first byte after the set-up.
pub(crate) const LOOP: usize = 42;
/// The offset of the count of boots on the disk: the first word of the third sector.
const BOOTS: u64 = 1024;

// The ACPI registers of qemu's pc machine, where SeaBIOS puts them: PM1a status 0x600 (bit 8: the power button was
// pressed), enable 0x602 (bit 8: report the button), control 0x604 (0x2000: off).
#[rustfmt::skip]
const CODE: [u8; 87] = [
    0x31, 0xC0,             // xor  ax, ax
    0x8E, 0xD8,             // mov  ds, ax
    0x8E, 0xC0,             // mov  es, ax
    0x8E, 0xD0,             // mov  ss, ax
    0xBC, 0x00, 0x7C,       // mov  sp, 0x7C00      stack below the code
    0xFB,                   // sti                  hlt below ends at a timer tick
    0xBA, 0x02, 0x06,       // mov  dx, 0x602
    0xB8, 0x00, 0x01,       // mov  ax, 0x0100
    0xEF,                   // out  dx, ax          have the power button noticed
    0xB8, 0x01, 0x02,       // mov  ax, 0x0201      read one sector
    0xBB, 0x00, 0x7E,       // mov  bx, 0x7E00      to behind the code
    0xB9, 0x03, 0x00,       // mov  cx, 0x0003      cylinder 0, sector 3
    0xBA, 0x80, 0x00,       // mov  dx, 0x0080      head 0, first disk
    0xCD, 0x13,             // int  0x13
    0xFF, 0x06, 0x00, 0x7E, // inc  word [0x7E00]   one boot more
    0xB8, 0x01, 0x03,       // mov  ax, 0x0301      write it back; the rest stands
    0xCD, 0x13,             // int  0x13
    // loop:
    0x45,                   // inc  bp
    0xF7, 0xC5, 0x07, 0x00, // test bp, 7
    0x75, 0x13,             // jnz  button          the eighth tick?
    0xB8, 0x01, 0x02,       // mov  ax, 0x0201      read one sector
    0xBB, 0x00, 0x7E,       // mov  bx, 0x7E00      to behind the code
    0xB9, 0x02, 0x00,       // mov  cx, 0x0002      cylinder 0, sector 2
    0xBA, 0x80, 0x00,       // mov  dx, 0x0080      head 0, first disk
    0xCD, 0x13,             // int  0x13
    0xB8, 0x01, 0x03,       // mov  ax, 0x0301      write it back; the rest stands
    0xCD, 0x13,             // int  0x13
    // button:
    0xBA, 0x00, 0x06,       // mov  dx, 0x600
    0xED,                   // in   ax, dx
    0xF6, 0xC4, 0x01,       // test ah, 1           pressed?
    0x74, 0x07,             // jz   wait
    0xBA, 0x04, 0x06,       // mov  dx, 0x604
    0xB8, 0x00, 0x20,       // mov  ax, 0x2000
    0xEF,                   // out  dx, ax          off
    // wait:
    0xF4,                   // hlt                  until the next tick
    0xEB, 0xD3,             // jmp  loop
];

// ACPI's registers for plugging PCI devices (docs/specs/acpi_pci_hotplug.txt of qemu): 0xAE04 has a bit for each slot
// to release, and writing the bit to 0xAE08 releases the slot.
#[rustfmt::skip]
const LET_GO: [u8; 18] = [
    // wait:
    0xF4,                   // hlt                  until the next tick
    0xBA, 0x04, 0xAE,       // mov  dx, 0xAE04
    0x66, 0xED,             // in   eax, dx
    0x66, 0x85, 0xC0,       // test eax, eax        asked for any?
    0x74, 0x05,             // jz   next
    0xBA, 0x08, 0xAE,       // mov  dx, 0xAE08
    0x66, 0xEF,             // out  dx, eax         let it go
    // next:
    0xEB, 0xC4,             // jmp  loop
];
/// Writes a text, up to a zero, to the first serial console, and continues with the code after this code.
#[rustfmt::skip]
const TELLS: [u8; 18] = [
    0x31, 0xC0,             // xor  ax, ax
    0x8E, 0xD8,             // mov  ds, ax
    0xBE, 0x00, 0x7C,       // mov  si, 0x7C00      the text; its offset in the sector is added
    0xBA, 0xF8, 0x03,       // mov  dx, 0x3F8       the serial console
    // next:
    0xAC,                   // lodsb
    0x84, 0xC0,             // test al, al
    0x74, 0x03,             // jz   done
    0xEE,                   // out  dx, al
    0xEB, 0xF8,             // jmp  next
    // done:
];
/// The position in [`TELLS`] of the offset of the text.
const TEXT: usize = 5;
/// The position in [`CODE`] of the wait for the next tick.
const WAIT: usize = 84;

/// Returns the first sector of a bootable disk.
pub(crate) fn boot_sector() -> [u8; SECTOR] {
    boot_sector_of(&CODE)
}

/// Returns the first sector of a disk that boots this code, of at most 510 bytes.
pub(crate) fn boot_sector_of(code: &[u8]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[..code.len()].copy_from_slice(code);
    sector[SECTOR - 2..].copy_from_slice(&[0x55, 0xAA]);
    sector
}

/// Returns the boot sector of a guest that releases devices on request, like a guest with an
/// operating system.
pub(crate) fn obliging_boot_sector() -> [u8; SECTOR] {
    let mut sector = boot_sector();
    sector[WAIT..WAIT + LET_GO.len()].copy_from_slice(&LET_GO);
    sector
}

/// Makes a sparse raw image of `bytes` (at least two sectors) that boots, or gives an existing
/// file that size and boot sector.
pub(crate) fn write_image(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.set_len(bytes)?;
    file.write_all(&boot_sector())
}

/// Makes the image of a guest that first writes `text` to its serial console.
pub(crate) fn write_telling_image(path: &Path, bytes: u64, text: &str) -> io::Result<()> {
    write_image(path, bytes)?;
    let sector = telling_boot_sector(text.as_bytes(), &CODE);
    OpenOptions::new().write(true).open(path)?.write_all_at(&sector, 0)
}

/// Returns a boot sector that writes `text` to the first serial console, and then runs `code`.
pub(crate) fn telling_boot_sector(text: &[u8], code: &[u8]) -> [u8; SECTOR] {
    let mut all = [&TELLS, code, text, &[0]].concat();
    let offset = u8::try_from(TELLS.len() + code.len())
        .expect("the text is in the first half of the sector");
    all[TEXT] = offset;
    boot_sector_of(&all)
}

/// Returns how often a guest has booted from this disk.
pub(crate) fn boots(disk: &Path) -> io::Result<u16> {
    let mut count = [0; 2];
    File::open(disk)?.read_exact_at(&mut count, BOOTS)?;
    Ok(u16::from_le_bytes(count))
}

#[test]
fn the_last_jump_goes_back_to_the_loop() {
    for (code, end) in [(&CODE[..], CODE.len()), (&LET_GO, WAIT + LET_GO.len())] {
        let back = i8::from_le_bytes([code[code.len() - 1]]);
        assert_eq!(end.checked_add_signed(isize::from(back)), Some(LOOP));
    }
    assert_eq!(CODE[WAIT], 0xF4, "hlt");
}
