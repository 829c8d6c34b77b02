//! `make bench-compare`: what counts as a ratio that fell.

use serde_json::{Value, json};

#[path = "../../../benches/compare/ratios.rs"]
mod ratios;

/// A run with two ratios that gain by more and by less, one without an aim, and a time.
fn run(gain: f64, loss: f64) -> Value {
    let claim = |what: &str, value: f64, unit: &str, at_most: Value, at_least: Value| {
        json!({ "what": what, "value": value, "unit": unit, "at_most": at_most,
                "at_least": at_least })
    };
    let none = || Value::Null;
    json!({
        "status": { "claims": [
            claim("requests/s, times C's", gain, "", none(), json!(0.6)),
            claim("... the longest", loss, "", json!(0.1), none()),
            claim("told only", 1.0 / gain, "", none(), none()),
            claim("a time", 1000.0 * loss, "ms", json!(5), none()),
        ] },
        "metrics": { "claims": [
            claim("CPU, times the exporter's", 0.5, "", json!(1), none()),
            claim("... the longest", 0.5, "", json!(1), none()),
        ] },
    })
}

fn fallen(old: &Value, new: &Value) -> Vec<String> {
    let all = ratios::compare(old, new).expect("two runs");
    assert_eq!(all.len(), 4, "{all:?}");
    all.iter().filter(|each| each.has_fallen).map(ToString::to_string).collect()
}

#[test]
fn ratio_worse_by_a_tenth_fails_in_either_direction() {
    let old = run(1.0, 0.05);
    assert_eq!(fallen(&old, &run(1.0, 0.05)), [""; 0]);
    assert_eq!(fallen(&old, &run(0.91, 0.0549)), [""; 0]);
    assert_eq!(fallen(&old, &run(5.0, 0.001)), [""; 0], "better is no matter how much");
    let less = fallen(&old, &run(0.9, 0.05));
    assert_eq!(less, ["FELL     1.000    0.900  status: requests/s, times C's"]);
    let more = fallen(&old, &run(1.0, 0.056));
    assert_eq!(more, ["FELL     0.050    0.056  status: requests/s, times C's ... the longest"]);
    assert_eq!(fallen(&run(1.0, 0.0), &run(1.0, 0.0)), [""; 0]);
    assert_eq!(fallen(&run(1.0, 0.0), &run(1.0, 0.01)).len(), 1);
}

#[test]
fn a_ratio_that_is_not_measured_any_more_has_fallen() {
    let old = run(1.0, 0.05);
    let mut new = old.clone();
    new["metrics"]["claims"] = json!([]);
    assert_eq!(fallen(&old, &new).len(), 2);
    new.as_object_mut().expect("an object").remove("metrics");
    assert_eq!(fallen(&old, &new).len(), 2);
}

#[test]
fn file_without_a_benchmark_run_is_refused() {
    let run = run(1.0, 0.05);
    let mut without_value = run.clone();
    without_value["status"]["claims"][0]["value"] = Value::Null;
    for bad in [json!([]), json!({}), json!({ "status": 1 }), without_value] {
        assert!(ratios::compare(&bad, &run).is_err(), "{bad}");
    }
    assert!(ratios::compare(&run, &json!({ "status": {} })).is_err());
}
