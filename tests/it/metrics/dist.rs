//! What is shipped for people: the dashboard, the rules and the alerts name what is exported.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::skip::{Skip, require};
use crate::harness::support::Scratch;

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
fn recorded_rules_exist_for_every_alert() {
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

const INPUT: &str = "${DS_PROMETHEUS}";

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).expect("JSON")
}

/// The dashboard's panels that show something, and for each its expressions.
fn panels(dashboard: &Value) -> Vec<(&Value, Vec<&str>)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let panels = panels.iter().filter(|panel| panel["type"] != "row");
    let all = panels.map(|panel| {
        let targets = panel["targets"].as_array().expect("targets");
        let expressions = targets.iter().map(|target| target["expr"].as_str());
        (panel, expressions.collect::<Option<_>>().expect("each target is an expression"))
    });
    all.collect()
}

#[test]
fn the_dashboard_can_be_imported() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "mistify-libvirt");
    assert!(dashboard["id"].is_null(), "the one who imports it gives it a number");
    // What is asked for at the import, and what has to be installed for it.
    let input = &dashboard["__inputs"][0];
    let wanted = ["DS_PROMETHEUS", "datasource", "prometheus"];
    assert_eq!(["name", "type", "pluginId"].map(|member| &input[member]), wanted);
    let requires = dashboard["__requires"].as_array().expect("a list");
    let requires: BTreeSet<_> = requires
        .iter()
        .map(|it| (&it["type"], &it["id"]))
        .map(|(kind, id)| (kind.as_str().expect("a kind"), id.as_str().expect("an id")))
        .collect();
    assert!(requires.is_superset(&[("grafana", "grafana"), ("datasource", "prometheus")].into()));

    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<_> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["host", "guest"]);
    let all = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64()).collect();
    assert!(!ids.contains(&None) && ids.len() == all.len(), "numbers of panels are their own");
    let rows = all.iter().filter(|panel| panel["type"] == "row");
    assert_eq!(rows.count(), 6);
    for source in panels(&dashboard).iter().map(|(panel, _)| *panel).chain(variables) {
        assert_eq!(source["datasource"]["uid"], INPUT, "{source}");
        assert_eq!(source["datasource"]["type"], "prometheus", "{source}");
        for target in source["targets"].as_array().into_iter().flatten() {
            let own = &target["datasource"]["uid"];
            assert!(own.is_null() || own == INPUT, "{source}");
        }
    }
}

#[test]
fn each_panel_shows_the_chosen_host_and_guest() {
    let dashboard = dashboard();
    for (panel, expressions) in panels(&dashboard) {
        assert!(!expressions.is_empty(), "{}", panel["title"]);
        for expression in expressions {
            let title = &panel["title"];
            assert!(expression.contains("instance=~\"$host\""), "{title}: {expression}");
            let of_guests = ["libvirt_domain_", "mistify_guest_", "mistify_disk_"];
            let of_guests = of_guests.iter().any(|start| expression.contains(start));
            // Sums by host are over all its guests.
            if of_guests && !expression.starts_with("sum by (instance)") {
                assert!(expression.contains("domain=~\"$guest\""), "{title}: {expression}");
            }
        }
    }
}

/// Whether `promtool` takes a file of rules; what it says where it does not.
fn check_rules(file: &Path) -> Result<Result<(), String>, Skip> {
    promtool(&["check", "rules"], file)
}

fn promtool(command: &[&str], file: &Path) -> Result<Result<(), String>, Skip> {
    let output = Command::new("promtool").args(command).arg(file).output();
    let output = output.map_err(|error| Skip(format!("promtool does not start: {error}")))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(said) })
}

#[test]
fn promtool_takes_the_rules() {
    for path in RULES {
        let checked = check_rules(Path::new(&format!("{ROOT}/{path}")));
        let Some(outcome) = require("promtool", checked) else { return };
        assert_eq!(outcome, Ok(()), "{path}");
    }
}

#[test]
fn alerts_fire_and_ratios_of_nothing_are_absent() {
    let tests = format!("{ROOT}/tests/it/metrics/alerts.yml");
    let tested = promtool(&["test", "rules"], Path::new(&tests));
    let Some(outcome) = require("promtool", tested) else { return };
    assert_eq!(outcome, Ok(()));
}

#[test]
fn quotients_of_the_dashboard_have_no_zero_below() {
    let dashboard = dashboard();
    let expressions = panels(&dashboard).into_iter().flat_map(|(_, all)| all);
    let quotients: Vec<&str> =
        expressions.filter(|expression| expression.contains(" / ")).collect();
    assert!(quotients.len() >= 2, "{quotients:?}");
    for quotient in quotients {
        let below = quotient.rsplit(" / ").next().unwrap_or_default();
        assert!(below.starts_with('(') && below.ends_with(" > 0)"), "{quotient}");
    }
}

#[test]
fn quantiles_of_no_calls_are_not_shown() {
    let dashboard = dashboard();
    let expressions = panels(&dashboard).into_iter().flat_map(|(_, all)| all);
    let quantiles: Vec<&str> =
        expressions.filter(|expression| expression.contains("histogram_quantile(")).collect();
    assert!(!quantiles.is_empty());
    for quantile in quantiles {
        // Of no calls it is NaN, which no comparison keeps.
        assert!(quantile.ends_with(") >= 0"), "{quantile}");
    }
}

#[test]
fn calls_that_wait_are_shown_and_alerted_on() {
    const WAITING: &str = "mistify_calls_waiting";
    let dashboard = dashboard();
    let mut expressions = panels(&dashboard).into_iter().flat_map(|(_, all)| all);
    assert!(expressions.any(|expression| named(expression).contains(WAITING)));
    assert!(named(&read(RULES[1])).contains(WAITING));
}

#[test]
fn promtool_takes_every_expression_of_the_dashboard() {
    let dashboard = dashboard();
    let scratch = Scratch::new();
    let check = |expressions: &[&str]| {
        let rules: Vec<_> = expressions
            .iter()
            .enumerate()
            .map(|(index, expression)| {
                // What Grafana puts in; the variables stand in strings, where they may stay.
                let expression = expression.replace("$__rate_interval", "5m");
                json!({ "record": format!("panel:{index}"), "expr": expression })
            })
            .collect();
        let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
        // JSON is YAML.
        let file = scratch.path().join("dashboard.yml");
        fs::write(&file, groups.to_string()).expect("scratch is writable");
        check_rules(&file)
    };
    let expressions: Vec<&str> = panels(&dashboard).into_iter().flat_map(|(_, all)| all).collect();
    assert!(expressions.len() > 20, "{expressions:?}");
    let Some(outcome) = require("promtool", check(&expressions)) else { return };
    assert_eq!(outcome, Ok(()));
    // It does look at them.
    let Some(outcome) = require("promtool", check(&["rate(libvirt_up[$__interval])"])) else {
        return;
    };
    assert!(outcome.is_err());
}
