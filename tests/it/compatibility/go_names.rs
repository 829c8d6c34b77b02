//! The names of the original: each type and function of its document (`tests/owner/names.txt`) has
//! a counterpart in the table of `go_names`, and an example there that uses it.

use std::collections::{BTreeMap, BTreeSet};

const NAMES: &str = include_str!("../../owner/names.txt");
const PAGE: &str = include_str!("../../../src/go_names.rs");

/// Names of the table that an example uses, and those that none does. That a counterpart exists
/// and does what the example says is for the doc tests.
fn table(docs: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut code, mut rows, mut in_code) = (String::new(), BTreeMap::new(), false);
    for line in docs.lines().filter_map(|line| line.strip_prefix("//!")) {
        let line = line.trim();
        let row = line.strip_prefix("| `").and_then(|row| row.split_once("` | [`crate::"));
        if line.starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            code += line;
            code.push('\n');
        } else if let Some((name, rest)) = row {
            rows.insert(name, rest.trim_end_matches("`] |"));
        }
    }
    let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let used = |path: &str| path.rsplit("::").next().is_some_and(|last| words.contains(last));
    let (shown, bare): (BTreeMap<_, _>, _) = rows.into_iter().partition(|(_, path)| used(path));
    (shown.into_keys().collect(), bare.into_keys().collect())
}

#[test]
fn every_documented_name_has_an_example() {
    let (shown, bare) = table(PAGE);
    assert_eq!(bare, BTreeSet::new(), "without an example");
    assert_eq!(shown, NAMES.lines().collect(), "the table and the document");
}

#[test]
fn a_row_or_an_example_that_is_missing_is_seen() {
    let docs = "//! | `A` | [`crate::a::make_a`] |\n//! | `B` | [`crate::b::B`] |\n//! ```\n//! make_a(b);\n//! ```";
    let names = |list: &[&'static str]| list.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(table(docs), (names(&["A"]), names(&["B"])));
}
