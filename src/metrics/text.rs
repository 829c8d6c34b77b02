//! The exposition format: families of samples as text, Prometheus (0.0.4) or OpenMetrics (1.0).

use std::fmt::Write as _;
use std::time::Duration;

/// The format of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

impl Format {
    /// Returns the format that an `Accept` header requests: OpenMetrics if it is named and not
    /// refused.
    pub fn accepted(accept: &str) -> Self {
        let wants = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts.next() == Some("application/openmetrics-text");
            is_named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        };
        if accept.split(',').map(str::trim).any(wants) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Returns the `Content-Type` of a text.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The kind of a family's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Always 1, for its labels; its samples end in `_info`.
    Info,
    /// Counts by upper bound; written with [`Text::histogram`].
    Histogram,
}

/// The header of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// The name, without `_total` and `_info`.
    pub(super) name: &'static str,
    /// The kind of its values.
    pub(super) kind: Kind,
    /// A sentence without a full stop.
    pub(super) help: &'static str,
}

/// A sample's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// A whole number.
    Count(u64),
    /// Nanoseconds, written as seconds.
    Nanoseconds(u64),
    /// Anything else.
    Real(f64),
}

impl From<Duration> for Value {
    fn from(time: Duration) -> Self {
        Self::Nanoseconds(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Label names and values.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

/// A text that is being written.
#[derive(Debug)]
pub(super) struct Text {
    out: String,
    format: Format,
    /// The name with which samples of the open family start.
    name: String,
}

impl Text {
    /// Makes an empty text, with room for `bytes`.
    pub(super) fn new(format: Format, bytes: usize) -> Self {
        Self { out: String::with_capacity(bytes), format, name: String::new() }
    }

    /// Opens a family: the next samples belong to it.
    pub(super) fn family(&mut self, family: &Family) {
        let suffix = match family.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        let kind = match (family.kind, self.format) {
            (Kind::Counter, _) => "counter",
            (Kind::Info, Format::OpenMetrics) => "info",
            (Kind::Gauge | Kind::Info, _) => "gauge",
            (Kind::Histogram, _) => "histogram",
        };
        self.name.clear();
        self.name.extend([family.name, suffix]);
        // OpenMetrics has the suffix only on samples.
        let header = match self.format {
            Format::Prometheus => self.name.as_str(),
            Format::OpenMetrics => family.name,
        };
        let parts = ["# HELP ", header, " ", family.help, "\n# TYPE ", header, " ", kind, "\n"];
        self.out.extend(parts);
    }

    /// Writes one sample of the open family.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: Value) {
        self.line("", labels, value);
    }

    /// Writes a histogram of the open family. `bounds` are upper bounds in seconds. `counts` has for
    /// each bound the number of values up to it and above the previous one, and then the number
    /// above the last bound; `sum_ns` is the sum of all values in nanoseconds.
    pub(super) fn histogram(
        &mut self,
        labels: Labels<'_>,
        bounds: &[&str],
        counts: &[u64],
        sum_ns: u64,
    ) {
        let mut total = 0;
        for (bound, count) in bounds.iter().chain(&["+Inf"]).zip(counts) {
            total += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", *bound)]).collect();
            self.line("_bucket", &labels, Value::Count(total));
        }
        self.line("_sum", labels, Value::Nanoseconds(sum_ns));
        self.line("_count", labels, Value::Count(total));
    }

    /// Ends the text and returns it.
    pub(super) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, value: Value) {
        self.out.extend([&self.name, suffix]);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            self.out.extend([name, "=\""]);
            push_escaped(&mut self.out, value);
            self.out.push('"');
        }
        self.out.push_str(if labels.is_empty() { " " } else { "} " });
        // Writing to a string does not fail.
        let _ = match value {
            Value::Count(count) => write!(self.out, "{count}"),
            Value::Nanoseconds(ns) => {
                write!(self.out, "{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
            }
            Value::Real(number) => write!(self.out, "{number}"),
        };
        self.out.push('\n');
    }
}

fn push_escaped(out: &mut String, value: &str) {
    if !value.contains(['\\', '"', '\n']) {
        return out.push_str(value);
    }
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: Family = Family { name: "reads", kind: Kind::Counter, help: "Reads" };
    const BUILD: Family = Family { name: "build", kind: Kind::Info, help: "Build" };
    const TOOK: Family = Family { name: "took_seconds", kind: Kind::Histogram, help: "Took" };

    fn text(format: Format) -> String {
        let mut text = Text::new(format, 0);
        text.family(&READS);
        text.sample(&[("disk", "a\\b\"c\nd")], Value::Count(7));
        text.family(&BUILD);
        text.sample(&[], Value::Count(1));
        text.family(&TOOK);
        text.histogram(&[("m", "x")], &["0.1", "1"], &[2, 1, 4], 1_500_000_000);
        text.end()
    }

    #[test]
    fn prometheus_has_the_suffix_in_the_header() {
        assert_eq!(
            text(Format::Prometheus),
            "# HELP reads_total Reads\n# TYPE reads_total counter\n\
             reads_total{disk=\"a\\\\b\\\"c\\nd\"} 7\n\
             # HELP build_info Build\n# TYPE build_info gauge\nbuild_info 1\n\
             # HELP took_seconds Took\n# TYPE took_seconds histogram\n\
             took_seconds_bucket{m=\"x\",le=\"0.1\"} 2\ntook_seconds_bucket{m=\"x\",le=\"1\"} 3\n\
             took_seconds_bucket{m=\"x\",le=\"+Inf\"} 7\ntook_seconds_sum{m=\"x\"} 1.500000000\n\
             took_seconds_count{m=\"x\"} 7\n"
        );
    }

    #[test]
    fn openmetrics_has_the_suffix_on_samples_and_an_end() {
        let text = text(Format::OpenMetrics);
        assert!(text.starts_with("# HELP reads Reads\n# TYPE reads counter\nreads_total{"));
        assert!(text.contains("# TYPE build info\nbuild_info 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn openmetrics_is_sent_only_on_request() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain", "application/openmetrics-text;q=0, text/plain"] {
            assert_eq!(Format::accepted(other), Format::Prometheus, "{other}");
        }
    }
}
