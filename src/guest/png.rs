//! Encodes a screenshot as PNG (ISO/IEC 15948), which browsers show, from the PPM that qemu produced before version
//! 7.1.
//!
//! Each row is stored as the difference from the row above, and a run of equal bytes as one code. This shrinks screens
//! of text to a fiftieth of their size, which is sufficient here.

/// Converts a PPM (`P6`, 255 shades); `None` if the data is not a valid PPM.
pub fn of_ppm(ppm: &[u8]) -> Option<Vec<u8>> {
    let mut rest = ppm.strip_prefix(b"P6")?;
    let (width, height) = (number(&mut rest)?, number(&mut rest)?);
    let shades = number(&mut rest)?;
    let pixels = rest.strip_prefix(b"\n")?;
    let row_bytes = usize::try_from(width).ok()?.checked_mul(3)?;
    let all_bytes = row_bytes.checked_mul(usize::try_from(height).ok()?)?;
    (shades == 255 && all_bytes > 0 && pixels.len() == all_bytes)
        .then(|| of_rows(width, height, pixels.chunks_exact(row_bytes)))
}

/// Reads a number and the blanks before it.
fn number(rest: &mut &[u8]) -> Option<u32> {
    let text = rest.trim_ascii_start();
    let end = text.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, after) = text.split_at(end);
    *rest = after;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn of_rows<'a>(width: u32, height: u32, rows: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    // 8 bits for each of red, green and blue; the only defined compression and filter methods; not interlaced.
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut data = Zlib::new();
    let mut above: Option<&[u8]> = None;
    for row in rows {
        match above {
            None => {
                data.push(0);
                row.iter().for_each(|byte| data.push(*byte));
            }
            Some(above) => {
                data.push(2);
                row.iter()
                    .zip(above)
                    .for_each(|(byte, above)| data.push(byte.wrapping_sub(*above)));
            }
        }
        above = Some(row);
    }
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut png, *b"IHDR", &header);
    chunk(&mut png, *b"IDAT", &data.end());
    chunk(&mut png, *b"IEND", &[]);
    png
}

fn chunk(png: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    // A picture is limited to a size far below the maximum length.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    png.extend(length.to_be_bytes());
    png.extend(kind);
    png.extend(data);
    let sum = crc(kind.iter().chain(data));
    png.extend(sum.to_be_bytes());
}

/// The CRC of ISO 3309.
fn crc<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |sum: u32, byte: &u8| {
        let index = usize::from(sum.to_le_bytes()[0] ^ byte);
        TABLE[index] ^ (sum >> 8)
    };
    !bytes.fold(u32::MAX, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let (mut index, mut first) = (0, 0);
    while index < table.len() {
        let (mut sum, mut bit) = (first, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { 0xEDB8_8320 ^ (sum >> 1) } else { sum >> 1 };
            bit += 1;
        }
        table[index] = sum;
        index += 1;
        first += 1;
    }
    table
}

/// A zlib stream (RFC 1950): one block of fixed codes (RFC 1951, 3.2.6) that only compresses runs of one byte.
struct Zlib {
    out: Vec<u8>,
    /// Bits of an incomplete byte, the first one lowest.
    bits: u32,
    count: u32,
    last: Option<u8>,
    /// The number of repetitions of `last` since it was written.
    run: u32,
    sum: (u32, u32),
}

/// The maximum length of a run with a code.
const RUN_MAX: u32 = 258;

impl Zlib {
    fn new() -> Self {
        // A window of 32 KiB, and the checksum of this header; then the last block, of fixed codes.
        let mut zlib =
            Self { out: vec![0x78, 0x01], bits: 0, count: 0, last: None, run: 0, sum: (1, 0) };
        zlib.bits(0b011, 3);
        zlib
    }

    fn push(&mut self, byte: u8) {
        const MODULUS: u32 = 65521;
        self.sum.0 = (self.sum.0 + u32::from(byte)) % MODULUS;
        self.sum.1 = (self.sum.1 + self.sum.0) % MODULUS;
        if self.last == Some(byte) {
            self.run += 1;
            if self.run == RUN_MAX {
                self.end_run(byte);
            }
            return;
        }
        if let Some(last) = self.last {
            self.end_run(last);
        }
        self.literal(byte);
        self.last = Some(byte);
    }

    fn end_run(&mut self, byte: u8) {
        match self.run {
            0 => {}
            1..=2 => (0..self.run).for_each(|_| self.literal(byte)),
            run => {
                self.length(run);
                // A distance of one byte.
                self.code(0, 5);
            }
        }
        self.run = 0;
    }

    fn literal(&mut self, byte: u8) {
        match u32::from(byte) {
            low @ 0..=143 => self.code(0x30 + low, 8),
            high => self.code(0x190 + high - 144, 9),
        }
    }

    /// Writes the length code of a run of 3 to 258 (the table of RFC 1951, 3.2.5).
    fn length(&mut self, run: u32) {
        let beyond = run - 3;
        let (symbol, extra_bits) = match beyond {
            0..=7 => (257 + beyond, 0),
            255 => (285, 0),
            _ => {
                let extra_bits = beyond.ilog2() - 2;
                (261 + 4 * extra_bits + ((beyond >> extra_bits) & 3), extra_bits)
            }
        };
        match symbol {
            256..=279 => self.code(symbol - 256, 7),
            _ => self.code(0xC0 + symbol - 280, 8),
        }
        self.bits(beyond & ((1 << extra_bits) - 1), extra_bits);
    }

    /// Writes a Huffman code, which starts with its highest bit.
    fn code(&mut self, code: u32, count: u32) {
        self.bits(code.reverse_bits() >> (u32::BITS - count), count);
    }

    fn bits(&mut self, bits: u32, count: u32) {
        self.bits |= bits << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push(self.bits.to_le_bytes()[0]);
            self.bits >>= 8;
            self.count -= 8;
        }
    }

    fn end(mut self) -> Vec<u8> {
        if let Some(last) = self.last {
            self.end_run(last);
        }
        // The end of the block, and padding to a whole byte.
        self.code(0, 7);
        self.bits(0, 7);
        let (low, high) = self.sum;
        self.out.extend((high << 16 | low).to_be_bytes());
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ppm_of_255_shades_is_accepted() {
        assert!(of_ppm(b"P6\n1 2\n255\nabcdef").is_some());
        for wrong in [
            &b""[..],
            b"P6",
            b"P5\n1 2\n255\nabcdef",
            b"P6\n1 2\n65535\nabcdef",
            b"P6\n1 2\n255\nabcde",
            b"P6\n1 2\n255\nabcdefg",
            b"P6\n0 2\n255\n",
            b"P6\n4294967295 4294967295\n255\nabcdef",
            b"P6\n99999999999 1\n255\nabc",
        ] {
            assert_eq!(of_ppm(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_sum_is_that_of_the_standards_end() {
        assert_eq!(crc(b"IEND".iter()), 0xAE42_6082);
    }

    #[test]
    fn an_even_screen_becomes_a_hundredth() {
        let ppm = [&b"P6\n720 400\n255\n"[..], &vec![7; 720 * 400 * 3]].concat();
        let png = of_ppm(&ppm).unwrap();
        assert!(png.len() < ppm.len() / 100, "{}", png.len());
    }
}
