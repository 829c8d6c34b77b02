//! Numbers in libvirt's XML.

use crate::guest::xml::{Element, Error};

/// Returns libvirt's unit of memory, in bytes.
fn unit_bytes(unit: &str) -> Option<u64> {
    Some(match unit {
        "b" | "bytes" => 1,
        "" | "k" | "KiB" => 1 << 10,
        "KB" => 1_000,
        "M" | "MiB" => 1 << 20,
        "MB" => 1_000_000,
        "G" | "GiB" => 1 << 30,
        "GB" => 1_000_000_000,
        "T" | "TiB" => 1 << 40,
        "TB" => 1_000_000_000_000,
        _ => return None,
    })
}

pub(super) fn read_memory_kib(memory: &Element) -> Result<u64, Error> {
    let amount: u64 = number("memory", memory.trimmed())?;
    let unit = memory.attribute("unit");
    let bytes = unit_bytes(unit)
        .ok_or_else(|| Error::Number { name: "memory unit", found: unit.to_owned() })?;
    // libvirt rounds up to KiB, too.
    let kib = (u128::from(amount) * u128::from(bytes)).div_ceil(1 << 10);
    u64::try_from(kib)
        .map_err(|_| Error::Number { name: "memory", found: format!("{amount} {unit}") })
}

/// Reads a number of libvirt; an absent number is 0.
pub(in crate::guest) fn number<N>(name: &'static str, text: &str) -> Result<N, Error>
where
    N: std::str::FromStr + Default,
{
    if text.is_empty() {
        return Ok(N::default());
    }
    text.parse().map_err(|_| Error::Number { name, found: text.to_owned() })
}
