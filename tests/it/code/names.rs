//! A test's name is a claim of at most 50 characters.

use std::fs;
use std::path::Path;

use super::gates::all_tests;
use super::rust_source::{past_brackets, tokens};
use crate::harness::support::files_below;

const CHARACTERS_MAX: usize = 50;

/// The names of the functions of a source that have the attribute `test`.
fn tests_of(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let begins = |at: &usize| tokens[*at..].starts_with(&["#", "[", "test", "]"]);
    let name = |at: usize| {
        let mut at = at;
        while tokens.get(at) == Some(&"#") {
            at = past_brackets(&tokens, at + 1);
        }
        let function = tokens[at..].iter().position(|token| *token == "fn")?;
        tokens.get(at + function + 1).map(ToString::to_string)
    };
    (0..tokens.len()).filter(begins).filter_map(name).collect()
}

#[test]
fn test_names_have_at_most_50_characters() {
    let mut paths = Vec::new();
    for directory in ["src", "tests", "benches", "fuzz/src"] {
        files_below(Path::new(directory), &mut paths);
    }
    let sources = paths.iter().filter(|path| path.ends_with(".rs"));
    let mut names: Vec<String> = sources
        .flat_map(|path| tests_of(&fs::read_to_string(path).expect("it is there")))
        .collect();
    // Also those that macros make.
    names.extend(all_tests().iter().filter_map(|path| path.rsplit("::").next().map(str::to_owned)));
    assert!(names.len() >= 2000, "{}", names.len());
    names.retain(|name| name.len() > CHARACTERS_MAX);
    names.sort();
    names.dedup();
    assert!(names.is_empty(), "{}", names.join("\n"));
}

#[test]
fn names_behind_attributes_and_visibility_are_found() {
    let text = "#[test]\nfn one() { fn no() {} }\n#[test]\n#[ignore = \"x\"]\npub(crate) unsafe fn two() {}\n\
                fn three() {} // #[test]\n";
    assert_eq!(tests_of(text), ["one", "two"]);
}
