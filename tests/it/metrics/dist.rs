//! What is shipped for people: the dashboard, the rules and the alerts name what is exported.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::skip::{Skip, require};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const DASHBOARD: &str = "dist/grafana/mistify-libvirt.json";
const RULES: [&str; 2] = ["dist/prometheus/rules.yml", "dist/prometheus/alerts.yml"];

fn read(path: &str) -> String {
    fs::read_to_string(format!("{ROOT}/{path}")).expect("it is there")
}

/// Names of series in the golden text, which has every family; a histogram's parts as well.
fn exported() -> BTreeSet<String> {
    let golden = read("tests/golden/metrics.txt");
    let mut names = BTreeSet::from(["process_cpu_seconds_total".to_owned()]);
    for (name, kind) in
        golden.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
    {
        match kind {
            "histogram" => {
                names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")))
            }
            _ => drop(names.insert(name.to_owned())),
        }
    }
    names
}

/// Words of an expression that are metrics of ours by how they begin.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = ["libvirt_", "mistify_", "process_"];
    let words = words.filter(|word| ours.iter().any(|start| word.starts_with(start)));
    words.map(str::to_owned).collect()
}

#[test]
fn every_metric_that_is_shipped_is_exported() {
    let (exported, mut seen) = (exported(), 0);
    for path in [DASHBOARD].iter().chain(&RULES) {
        for name in named(&read(path)) {
            assert!(exported.contains(&name), "{path} names {name}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn what_an_alert_takes_from_a_rule_is_recorded() {
    let rules = read(RULES[0]);
    let alerts = read(RULES[1]);
    let words = alerts.split_whitespace().filter(|word| word.starts_with("domain:"));
    let mut count = 0;
    for word in words {
        assert!(rules.contains(&format!("record: {word}")), "{word}");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_dashboard_can_be_imported() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    assert_eq!(dashboard["uid"], "mistify-libvirt");
    assert_eq!(dashboard["__inputs"][0]["name"], "DS_PROMETHEUS");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<_> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["host", "guest"]);
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "numbers of panels are their own");
    let rows: Vec<_> = panels.iter().filter(|panel| panel["type"] == "row").collect();
    assert_eq!(rows.len(), 6);
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${DS_PROMETHEUS}", "{}", panel["title"]);
        let targets = panel["targets"].as_array().expect("targets");
        assert!(targets.iter().all(|target| target["expr"].is_string()), "{}", panel["title"]);
    }
}

#[test]
fn promtool_takes_the_rules() {
    for path in RULES {
        let file = format!("{ROOT}/{path}");
        let output = Command::new("promtool").args(["check", "rules", &file]).output();
        let output = output.map_err(|error| Skip(format!("promtool does not start: {error}")));
        let Some(output) = require("promtool", output) else { return };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {errors}");
    }
}
