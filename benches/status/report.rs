//! The figures as Markdown, ready for the README.

use std::fmt;

use crate::sample::Sample;

/// What one contender reached with so many connections.
pub(crate) struct Row {
    contender: &'static str,
    connections: usize,
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPU time of its process per request.
    pub(crate) cpu_us: f64,
}

impl Row {
    pub(crate) fn new(contender: &'static str, connections: usize, mut sample: Sample) -> Self {
        Self {
            contender,
            connections,
            rate: sample.rate(),
            p50_us: sample.percentile_us(50),
            p99_us: sample.percentile_us(99),
            cpu_us: sample.cpu_us(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { contender, connections, rate, p50_us, p99_us, cpu_us } = self;
        write!(
            f,
            "| {contender} | {connections} | {rate:.0} | {p50_us:.0} | {p99_us:.0} | {cpu_us:.0} |"
        )
    }
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// What is measured, the figure, and what is aimed at.
    claims: Vec<[String; 3]>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn rows(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    pub(crate) fn claim(&mut self, what: impl Into<String>, figure: String, aim: &str) {
        self.claims.push([what.into(), figure, aim.to_owned()]);
    }

    /// A sentence of its own after the tables.
    pub(crate) fn note(&mut self, sentence: String) {
        self.notes.push(sentence);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | figure | aim |\n|---|---|---|")?;
        for [what, figure, aim] in &self.claims {
            writeln!(f, "| {what} | {figure} | {aim} |")?;
        }
        writeln!(f, "\n| | connections | requests/s | p50 µs | p99 µs | CPU µs per request |")?;
        writeln!(f, "|---|--:|--:|--:|--:|--:|")?;
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        for sentence in &self.notes {
            writeln!(f, "\n{sentence}")?;
        }
        Ok(())
    }
}
