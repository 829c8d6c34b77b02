//! The generated parts of the documents. `make docs` writes them; every other run compares them, so that
//! an option, a limit, a method, a metric or an event without its description fails the gate.

mod events;
mod figures;
mod methods;
mod metrics;
mod options;

use std::env;
use std::fs;

use parking_lot::Mutex;

use crate::documents::commands::read;

/// Says that generated parts are written instead of compared.
pub(crate) const WRITE: &str = "MISTIFY_WRITE_DOCS";

/// Tests run side by side, and some documents have more than one generated part.
static WRITING: Mutex<()> = Mutex::new(());

/// Checks that the part `name` of the document at `path` is `text`.
pub(crate) fn compare(path: &str, name: &str, text: &str) {
    let _one_at_a_time = WRITING.lock();
    let document = read(path);
    let comment = |words: &str| match path.ends_with(".md") {
        true => format!("<!-- {words}: {name} -->\n"),
        false => format!(".\\\" {words}: {name}\n"),
    };
    let (begin, end) = (comment("generated"), comment("end"));
    let parts = document.split_once(&begin).and_then(|(before, rest)| {
        let (current, after) = rest.split_once(&end)?;
        Some((before, current, after))
    });
    let (before, current, after) = parts.unwrap_or_else(|| panic!("{path}: no {begin}{end}"));
    if current == text {
        return;
    }
    if env::var_os(WRITE).is_some() {
        write(path, &format!("{before}{begin}{text}{end}{after}"));
    } else {
        let pairs = current.lines().zip(text.lines()).find(|(current, line)| current != line);
        panic!("{path}: {name} is not up to date, run `make docs`; it differs at {pairs:#?}");
    }
}

/// Checks that the file at `path` is `text`.
pub(crate) fn compare_file(path: &str, text: &str) {
    if env::var_os(WRITE).is_some() {
        write(path, text);
    }
    let current = fs::read_to_string(path).unwrap_or_default();
    assert!(current == text, "{path} is not up to date, run `make docs`");
}

fn write(path: &str, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
}

/// A Markdown table, with blank lines around it. A bar in a cell would end the cell.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = format!("\n{}", line(titles.iter().map(ToString::to_string).collect()));
    text += &format!("|{}\n", "---|".repeat(titles.len()));
    for row in rows {
        assert!(row.len() == titles.len() && !row.contains(&String::new()), "{row:?}");
        text += &line(row.iter().map(|cell| cell.replace('|', "\\|")).collect());
    }
    text + "\n"
}

/// The text as a sentence: with a capital letter, except in a name, and a full stop.
pub(crate) fn sentence(text: &str) -> String {
    if text.starts_with("libvirt") {
        return format!("{}.", text.trim().trim_end_matches('.'));
    }
    let mut letters = text.trim().trim_end_matches('.').chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
