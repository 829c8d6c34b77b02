//! Tables and warnings for people.

use std::io::{self, Write};

use serde_json::Value;

use crate::client::Error;

/// Lines with aligned columns; the first column is left-aligned, the others are right-aligned.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()] }
    }

    /// Adds a row with a cell for each title.
    pub(super) fn row(&mut self, cells: &[String]) {
        let mut row = Vec::new();
        for cell in cells {
            row.push(printable(cell));
        }
        self.rows.push(row);
    }

    /// Returns the whole table, each line with a line feed.
    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                match column {
                    0 => line += &format!("{cell:<width$}", width = widths[0]),
                    _ => line += &format!("  {cell:>width$}", width = widths[column]),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Warns on standard error. If that is closed, the warning is lost.
pub(super) fn warn(why: &str) {
    let _ = writeln!(io::stderr(), "warning: {}", printable(why));
}

/// Replaces characters that would move a terminal's cursor, as names come from callers.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// Returns this character, or a replacement for one that would move the cursor.
pub(super) fn shown(c: char) -> char {
    if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }
}

/// Formats a count of bytes with a unit, with at most three figures.
pub(super) fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count.max(0.0);
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match value < 10.0 && unit > 0 {
        true => format!("{value:.1} {}", UNITS[unit]),
        false => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Returns a string's content, as a terminal may show it.
pub(super) fn word(value: &Value) -> String {
    printable(value.as_str().unwrap_or_default())
}

/// Writes to standard output; a closed pipe is no error, because its reader has read enough.
pub(super) fn write(text: &str) -> Result<(), Error> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Asked(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(&["GUEST", "CPU"]);
        table.row(&["a".to_owned(), "100".to_owned()]);
        table.row(&["long\x1bname".to_owned(), "7".to_owned()]);
        let expected = "GUEST      CPU\na          100\nlong\u{fffd}name    7\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn bytes_have_three_figures_at_most() {
        for (count, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1000.0, "1.0 KiB"),
            (1024.0 * 1024.0, "1.0 MiB"),
            (150.0 * 1024.0, "150 KiB"),
            (-1.0, "0 B"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
