//! Figures: a table and a chart, made from what the benchmarks have written into `benches/results`.

use std::fmt::Write;
use std::fs;

use serde_json::Value;

use super::{compare, compare_file, table};

const PAGE: &str = "docs/performance.md";
const CHART: &str = "docs/images/scrape.svg";

/// The lines: the benchmark, its claim, and what the page calls that.
const LINES: [(&str, &str, &str); 24] = [
    (
        "metrics",
        "scrape with a new fast sample: p50, times the exporter's",
        "A scrape of 20 guests with a new sample: median time, times that of Debian's exporter",
    ),
    (
        "metrics",
        "CPU with libvirtd's, a scrape every 1 s, times the exporter's",
        "... a scrape each second: CPU time of the program and libvirtd, times the exporter's",
    ),
    (
        "metrics",
        "CPU with libvirtd's, a scrape every 15 s, times the exporter's",
        "... a scrape each 15 s: the same",
    ),
    ("metrics", "writing 1000 guests: p50", "Writing the metrics of 1,000 guests: median time"),
    (
        "status",
        "test driver, 16 connections: requests/s, times rouille's",
        "Status on the test driver, 16 connections: requests per second, times a constant answer of rouille's",
    ),
    (
        "status",
        "qemu, 8 connections: requests/s, times C's",
        "Status on qemu, 8 connections: requests per second, times a C program's with the same calls",
    ),
    (
        "methods",
        "20 guests, 8 connections: DiskMetrics/s, times C's",
        "DiskMetrics of 20 guests, 8 connections: the same",
    ),
    ("status", "anonymous memory, idle", "Anonymous memory of an idle agent"),
    ("status", "test driver: exec to first answer", "From the start to the first answer"),
    (
        "soak",
        "... grown by in the long life",
        "Growth of anonymous memory in a soak, after the first half",
    ),
    (
        "guests",
        "CreateGuest, modern: median, times classic's",
        "CreateGuest with the profile `modern`: median time, times that with `classic`",
    ),
    (
        "guests",
        "... more with a seed",
        "... CreateGuest with a seed: median time beyond that without",
    ),
    ("guests", "Run, modern: median, times classic's", "... Run: the same"),
    (
        "guests",
        "`create --run --wait ssh` of a Debian guest without KVM: to the prompt",
        "`create --run --wait ssh` of a Debian guest without KVM: time to the SSH prompt",
    ),
    (
        "guests",
        "... the agent's share of it, beside libvirt, QEMU and the guest",
        "... the agent's share: time beyond copies and virsh by hand",
    ),
    (
        "guests",
        "GuestInfo of 20 guests, 5 with a dead guest agent: p99",
        "GuestInfo of 20 guests of which 5 have a dead guest agent: 99th percentile",
    ),
    (
        "guests",
        "... processor time of the emulator, times classic's",
        "... boot of a small Linux without KVM: CPU time of the emulator, the same",
    ),
    (
        "guests",
        "Debian, disk in a file, random write, 4 KiB: modern, times virt-install's",
        "Random writes of 4 KiB in a Debian guest with `modern`, disk in a file: times those in a domain of `virt-install`",
    ),
    (
        "guests",
        "Debian, disk in a file, random read, 4 KiB: modern, times virt-install's",
        "... random reads: the same",
    ),
    (
        "guests",
        "Debian, disk in a file, sequential write, 1 MiB: modern, times virt-install's",
        "... sequential writes of 1 MiB, in bytes per second: the same",
    ),
    (
        "guests",
        "small Linux, disk on a ZFS volume, write, 4 KiB: modern, times virt-install's",
        "Writes of 4 KiB in a small Linux with `modern`, disk on a ZFS volume, in the lab: times those in a domain of `virt-install`",
    ),
    (
        "guests",
        "small Linux, disk on a ZFS volume, read, 4 KiB: modern, times virt-install's",
        "... reads: the same",
    ),
    (
        "guests",
        "small Linux, disk on a ZFS volume, write, 1 MiB: modern, times virt-install's",
        "... writes of 1 MiB: the same",
    ),
    (
        "guests",
        "memory of the emulator, max_cpu 255: beyond max_cpu 1",
        "Memory of a guest on the host with `max_cpu` 255, beyond that with 1",
    ),
];

fn result(name: &str) -> Value {
    let path = format!("benches/results/{name}.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A claim's number with its unit.
fn figure(value: &Value, unit: &Value) -> String {
    let unit = unit.as_str().expect("a unit");
    format!("{value} {unit}").trim_end().replace(".0 ", " ")
}

fn line(&(bench, what, says): &(&str, &str, &str)) -> Vec<String> {
    let result = result(bench);
    let claims = result["claims"].as_array().expect("claims");
    let claim = claims.iter().find(|it| it["what"] == what);
    let claim = claim.unwrap_or_else(|| panic!("{bench} has no {what}"));
    let aim = match (&claim["at_most"], &claim["at_least"]) {
        (Value::Null, Value::Null) => "-".to_owned(),
        (Value::Null, least) => format!("at least {}", figure(least, &claim["unit"])),
        (most, _) => format!("at most {}", figure(most, &claim["unit"])),
    };
    let met = match claim["met"].as_bool() {
        Some(true) => "met",
        Some(false) => "missed",
        None => "-",
    };
    vec![says.to_owned(), figure(&claim["value"], &claim["unit"]), aim, met.to_owned()]
}

#[test]
fn the_performance_page_has_the_figures() {
    let rows: Vec<_> = LINES.iter().map(line).collect();
    compare(PAGE, "figures", &table(&["what", "figure", "aim", ""], &rows));
}

/// A row of the table of the scrapes' costs: the sum of the program's and libvirtd's processor time, in
/// milliseconds a second.
fn cost(who: &str) -> f64 {
    let result = result("metrics");
    let tables = result["tables"].as_array().expect("tables");
    let both = |table: &Value| table["columns"].as_array()?.iter().position(|it| it == "both");
    let (table, column) =
        tables.iter().find_map(|table| Some((table, both(table)?))).expect("a table of both");
    let row = table["rows"].as_array().expect("rows").iter().find(|row| row["who"] == who);
    row.and_then(|row| row["cells"][column].as_f64()).unwrap_or_else(|| panic!("no {who}"))
}

#[test]
fn the_chart_shows_the_cost_of_a_scrape() {
    let bars = [
        ("agent, a scrape each second", "agent, every 1 s", "#1f6feb"),
        ("exporter, a scrape each second", "Debian's exporter, every 1 s", "#8b949e"),
        ("agent, a scrape each 15 s", "agent, every 15 s", "#1f6feb"),
        ("exporter, a scrape each 15 s", "Debian's exporter, every 15 s", "#8b949e"),
    ];
    let bars = bars.map(|(label, who, colour)| (label, cost(who), colour));
    let longest = bars.iter().map(|(_, cost, _)| *cost).fold(0.0, f64::max);
    let mut chart = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"170\" \
        font-family=\"sans-serif\" font-size=\"14\">\n\
        <rect width=\"720\" height=\"170\" fill=\"#ffffff\"/>\n\
        <text x=\"10\" y=\"22\" font-weight=\"bold\">CPU time of the program and libvirtd for the metrics of 20 \
        guests, ms a second</text>\n"
        .to_owned();
    for ((label, cost, colour), y) in bars.into_iter().zip((40..).step_by(32)) {
        let width = 400.0 * cost / longest;
        let (text, end) = (y + 16, 226.0 + width);
        let _ = writeln!(
            chart,
            "<text x=\"210\" y=\"{text}\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"220\" y=\"{y}\" width=\"{width:.1}\" height=\"22\" fill=\"{colour}\"/>\n\
             <text x=\"{end:.1}\" y=\"{text}\">{cost}</text>"
        );
    }
    compare_file(CHART, &(chart + "</svg>\n"));
}
