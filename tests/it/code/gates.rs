//! What the gates, the Makefile and the documents select: each selection names tests of this binary by their whole path.

use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use std::process::Command;

use crate::documents::commands::{documents, read};

/// Lists that have a test, or the beginning of tests, on each line.
const BEGINNINGS: [&str; 2] = ["tests/gate/verify-only", "tests/gate/verify-alone"];
/// A list of whole names.
const NAMES: &str = "tests/gate/lab-short";
/// Files with commands that run some tests.
const COMMANDS: [&str; 2] = ["Makefile", "tests/gate/verify.sh"];

/// The paths of all tests of this binary.
pub(super) fn all_tests() -> Vec<String> {
    let program = env::current_exe().expect("a test has a program");
    let output = Command::new(program).arg("--list").output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("names are UTF-8");
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// What is wrong with a selection of tests by the beginning of their paths. The test program selects by any part of a
/// path, so a selection must not be a part of others.
fn fault(selection: &str, all: &[String]) -> Option<String> {
    let selected: Vec<&String> = all.iter().filter(|path| path.contains(selection)).collect();
    let other = selected.iter().find(|path| !path.starts_with(selection));
    match other {
        Some(other) => Some(format!("also selects {other}")),
        None => selected.is_empty().then(|| "selects no test".to_owned()),
    }
}

/// The lines of a list without its comments.
fn lines(list: &str) -> Vec<String> {
    let text = read(list);
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The words of a text that are paths of modules or tests.
fn paths(text: &str) -> BTreeSet<&str> {
    let of_path = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "_:".contains(it);
    let words = text.split(|it: char| it.is_whitespace() || "=\"'`".contains(it));
    words.filter(|word| word.contains("::") && word.chars().all(of_path)).collect()
}

/// Whether a path is a module of the library, whose unit tests `make sanitize` runs.
fn is_of_library(path: &str) -> bool {
    let module = Path::new("src").join(path.trim_end_matches(':').replace("::", "/"));
    module.is_dir() || module.with_extension("rs").exists()
}

#[test]
fn gates_name_tests_that_exist() {
    let all = all_tests();
    let (mut faults, mut count) = (Vec::new(), 0);
    let mut check = |place: &str, selection: &str| {
        count += 1;
        faults.extend(fault(selection, &all).map(|why| format!("{place}: {selection} {why}")));
    };
    for list in BEGINNINGS {
        lines(list).iter().for_each(|line| check(list, line));
    }
    for file in COMMANDS {
        let text = read(file);
        let selections = paths(&text).into_iter().filter(|path| !is_of_library(path));
        selections.for_each(|path| check(file, path));
    }
    for name in documents() {
        let text = read(&name);
        let tests = text.split("TESTS=").skip(1).filter_map(|rest| rest.split_whitespace().next());
        tests.flat_map(paths).for_each(|path| check(&name, path));
    }
    let missing = lines(NAMES).into_iter().filter(|name| !all.contains(name));
    faults.extend(missing.map(|name| format!("{NAMES}: no test {name}")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count >= 30, "{count}");
}

#[test]
fn a_selection_of_no_test_or_of_others_is_found() {
    let all = ["lab::crash::a_claim", "crash::a_claim"].map(str::to_owned);
    for selection in ["lab::", "lab::crash::a_claim"] {
        assert_eq!(fault(selection, &all), None, "{selection}");
    }
    for (selection, why) in [
        ("crash::", "also selects lab::crash::a_claim"),
        ("crash::a_claim", "also selects lab::crash::a_claim"),
        ("lab::crashes::", "selects no test"),
    ] {
        assert_eq!(fault(selection, &all).as_deref(), Some(why), "{selection}");
    }
    assert_eq!(paths("x TESTS=\"a::b:: --skip c::\" lab::... A::b").len(), 2);
}
