//! Metrics: the families of the recorded scrape, which the exposition's own test holds to the code.

use std::collections::{BTreeMap, BTreeSet};

use super::{compare, sentence, table};
use crate::harness::agent::Agent;

const SCRAPE: &str = include_str!("../../../golden/metrics.txt");
/// Where the names of families stand in the code.
const SOURCES: [&str; 4] = [
    include_str!("../../../../src/metrics/families.rs"),
    include_str!("../../../../src/metrics/guests.rs"),
    include_str!("../../../../src/metrics/agent_stats.rs"),
    include_str!("../../../../src/metrics/text.rs"),
];

/// A family of the scrape.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
}

/// The families of the recorded scrape, and those of a process, which only a running agent has.
fn families() -> (Vec<String>, BTreeMap<String, Family>) {
    let agent = Agent::on_test_driver();
    let live = agent.request("GET", "/metrics", &[], b"").text();
    agent.end();
    let of_process = live.lines().filter(|line| line.contains("process_"));
    let (mut order, mut all) = (Vec::new(), BTreeMap::<String, Family>::new());
    for line in SCRAPE.lines().chain(of_process) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
            order.push(name.to_owned());
            help.clone_into(&mut all.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' '))
        {
            kind.clone_into(&mut all.entry(name.to_owned()).or_default().kind);
        } else if let Some(name) = order.last() {
            let labels = &mut all.get_mut(name).expect("it has its help").labels;
            let inside = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
            labels.extend(inside.map(|(text, _)| label_names(text)).unwrap_or_default());
        }
    }
    (order, all)
}

/// The names in `a="x",b="y \" z"`.
fn label_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((name, value)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches(',').to_owned());
        let mut escaped = false;
        let end = value.find(|letter| {
            let is_end = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            is_end
        });
        rest = &value[end.expect("the value ends") + 1..];
    }
    names
}

#[test]
fn the_metrics_page_has_every_family() {
    let (order, all) = families();
    let rows = order.iter().map(|name| {
        let Family { help, kind, labels } = &all[name];
        // The recorded guest lacks some values; others of their kind have the same labels.
        let kin = |other: &&String| {
            let group = name.split_once("_stats_").map(|(group, _)| group);
            group.is_some_and(|group| other.starts_with(group)) && !all[*other].labels.is_empty()
        };
        let labels = match order.iter().find(kin) {
            Some(other) if labels.is_empty() => &all[other].labels,
            _ => labels,
        };
        let labels: Vec<_> =
            labels.iter().filter(|it| *it != "le").map(|it| format!("`{it}`")).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
        vec![format!("`{name}`"), kind.clone(), labels, sentence(help)]
    });
    let rows: Vec<_> = rows.collect();
    compare("docs/metrics.md", "metrics", &table(&["name", "type", "labels", "meaning"], &rows));
}

#[test]
fn the_recorded_scrape_has_every_family_of_the_code() {
    let (_, all) = families();
    let mut count = 0;
    for source in SOURCES {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for name in code.split('"').skip(1).step_by(2) {
            let begins = ["libvirt_", "mistify_", "process_"].iter().any(|it| name.starts_with(it));
            if begins
                && !name.contains(|letter: char| !letter.is_ascii_lowercase() && letter != '_')
            {
                let is_there = ["", "_total", "_info"]
                    .iter()
                    .any(|end| all.contains_key(&format!("{name}{end}")));
                assert!(is_there, "tests/golden/metrics.txt lacks {name}");
                count += 1;
            }
        }
    }
    assert!(count >= 60, "{count}");
}
