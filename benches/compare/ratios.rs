//! Finds the ratios that are worse than in an older run. Only ratios can be compared between
//! machines, and only a ratio with an aim can be better or worse.

use std::fmt;

use serde_json::Value;

/// The part of an old ratio at or below which the new ratio has fallen.
const FALLEN: f64 = 0.9;

/// One ratio with an aim.
#[derive(Clone, Debug, PartialEq)]
struct Ratio {
    /// The benchmark, and the words of the claim.
    name: String,
    value: f64,
    /// Whether a larger value is better.
    is_gain: bool,
}

/// One ratio of the older run beside the newer one's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compared {
    name: String,
    old: f64,
    /// `None` if the newer run did not measure the ratio.
    new: Option<f64>,
    pub(crate) has_fallen: bool,
}

/// Compares each ratio of the older run; both runs have the form of `target/bench/all.json`. A ratio
/// that the newer run lacks has fallen.
///
/// # Errors
/// If a run does not have this form, or the older run has no ratio.
pub(crate) fn compare(old: &Value, new: &Value) -> Result<Vec<Compared>, String> {
    let (old, new) = (ratios(old)?, ratios(new)?);
    if old.is_empty() {
        return Err("no ratio to compare with".to_owned());
    }
    let compared = old.into_iter().map(|Ratio { name, value: old, is_gain }| {
        let new = new.iter().find(|ratio| ratio.name == name).map(|ratio| ratio.value);
        let left = new.map(|new| if is_gain { new / old } else { old / new });
        // Twice nothing is neither better nor worse.
        let has_fallen = new != Some(old) && left.is_none_or(|left| left <= FALLEN);
        Compared { name, old, new, has_fallen }
    });
    Ok(compared.collect())
}

fn ratios(all: &Value) -> Result<Vec<Ratio>, String> {
    let benches = all.as_object().ok_or("not an object of benchmarks")?;
    let mut found = Vec::new();
    for (bench, report) in benches {
        let claims = report["claims"].as_array().ok_or_else(|| format!("{bench} has no claims"))?;
        let mut about = "";
        for claim in claims {
            let what = claim["what"].as_str().ok_or_else(|| format!("{bench}: no words"))?;
            // A claim that begins so continues the last claim that does not.
            let is_more = what.starts_with("... ");
            about = if is_more { about } else { what };
            let name = if is_more { format!("{about} {what}") } else { what.to_owned() };
            let is_gain = match (claim["at_least"].is_number(), claim["at_most"].is_number()) {
                (false, false) => continue,
                (is_gain, _) => is_gain,
            };
            if claim["unit"] != "" {
                continue;
            }
            let value =
                claim["value"].as_f64().ok_or_else(|| format!("{bench}: {name}: no number"))?;
            found.push(Ratio { name: format!("{bench}: {name}"), value, is_gain });
        }
    }
    Ok(found)
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, old, new, has_fallen } = self;
        let word = if *has_fallen { "FELL" } else { "ok" };
        match new {
            Some(new) => write!(f, "{word:5}{old:9.3}{new:9.3}  {name}"),
            None => write!(f, "{word:5}{old:9.3}{:>9}  {name}", "none"),
        }
    }
}
