//! The figures as Markdown, and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The aim of a figure.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    /// No aim.
    None,
    AtMost(f64),
    AtLeast(f64),
}

impl Aim {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::None => None,
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
        }
    }
}

struct Claim {
    what: String,
    value: f64,
    unit: &'static str,
    aim: Aim,
}

/// Figures of several contenders in the same columns.
struct Table {
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<f64>)>,
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    claims: Vec<Claim>,
    tables: Vec<Table>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a figure with its unit and aim.
    pub(crate) fn claim(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        aim: Aim,
    ) {
        self.claims.push(Claim { what: what.into(), value, unit, aim });
    }

    /// Adds a contender's row to the table with these columns.
    pub(crate) fn row(&mut self, who: impl Into<String>, cells: &[(&'static str, f64)]) {
        let columns: Vec<_> = cells.iter().map(|(column, _)| *column).collect();
        let row = (who.into(), cells.iter().map(|(_, value)| *value).collect());
        match self.tables.iter_mut().find(|table| table.columns == columns) {
            Some(table) => table.rows.push(row),
            None => self.tables.push(Table { columns, rows: vec![row] }),
        }
    }

    /// Adds a sentence after the tables.
    pub(crate) fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }

    /// Returns whether no figure has missed its aim.
    pub(crate) fn is_met(&self) -> bool {
        self.claims.iter().all(|claim| claim.aim.is_met(claim.value) != Some(false))
    }

    /// Writes the report to `target/bench/<name>.json`, and returns the file's path.
    pub(crate) fn write_json(&self, name: &str, host: &str) -> PathBuf {
        write(name, &self.json(name, host))
    }

    /// As [`Report::write_json`], and writes the report into `target/bench/all.json` too, in place of
    /// an older one: `make bench-compare` reads that file.
    pub(crate) fn write_json_among_all(&self, name: &str, host: &str) -> PathBuf {
        let all = fs::read(directory().join("all.json")).ok();
        let all = all.and_then(|text| serde_json::from_slice(&text).ok());
        let mut all: BTreeMap<String, Value> = all.unwrap_or_default();
        all.insert(name.to_owned(), self.json(name, host));
        write("all", &json!(all));
        self.write_json(name, host)
    }

    fn json(&self, name: &str, host: &str) -> Value {
        let claim = |Claim { what, value, unit, aim }: &Claim| {
            let (at_most, at_least) = match aim {
                Aim::None => (None, None),
                Aim::AtMost(most) => (Some(*most), None),
                Aim::AtLeast(least) => (None, Some(*least)),
            };
            json!({
                "what": what, "value": rounded(*value), "unit": unit, "at_most": at_most,
                "at_least": at_least, "met": aim.is_met(*value),
            })
        };
        let table = |Table { columns, rows }: &Table| {
            let rows = rows.iter().map(|(who, cells)| {
                let cells: Vec<f64> = cells.iter().copied().map(rounded).collect();
                json!({ "who": who, "cells": cells })
            });
            json!({ "columns": columns, "rows": rows.collect::<Vec<_>>() })
        };
        json!({
            "bench": name,
            "host": host,
            "claims": self.claims.iter().map(claim).collect::<Vec<_>>(),
            "tables": self.tables.iter().map(table).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

fn directory() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in target");
    target.join("bench")
}

fn write(name: &str, json: &Value) -> PathBuf {
    let path = directory().join(format!("{name}.json"));
    fs::create_dir_all(directory()).expect("target is writable");
    fs::write(&path, format!("{json:#}\n")).expect("target is writable");
    path
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | figure | aim | |\n|---|---|---|---|")?;
        for Claim { what, value, unit, aim } in &self.claims {
            let aimed = match aim {
                Aim::None => String::new(),
                Aim::AtMost(most) => format!("at most {most} {unit}"),
                Aim::AtLeast(least) => format!("at least {least} {unit}"),
            };
            let met = match aim.is_met(*value) {
                None => "",
                Some(true) => "met",
                Some(false) => "missed",
            };
            let (aimed, number) = (aimed.trim_end(), number(*value));
            writeln!(f, "| {what} | {} | {aimed} | {met} |", format!("{number} {unit}").trim())?;
        }
        for Table { columns, rows } in &self.tables {
            writeln!(f, "\n| | {} |", columns.join(" | "))?;
            writeln!(f, "|---|{}", "--:|".repeat(columns.len()))?;
            for (who, cells) in rows {
                let cells: Vec<String> = cells.iter().map(|cell| number(*cell)).collect();
                writeln!(f, "| {who} | {} |", cells.join(" | "))?;
            }
        }
        for sentence in &self.notes {
            writeln!(f, "\n{sentence}")?;
        }
        Ok(())
    }
}

/// Returns the value that [`number`] shows.
fn rounded(value: f64) -> f64 {
    number(value).parse().expect("a number")
}

/// Formats a number with the digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
