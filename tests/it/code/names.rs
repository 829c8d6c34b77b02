//! Guards names: two public types of one layer have different names, and no identifier has a word that the
//! field has another term for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::house::ORDER;
use crate::code::rust_source::tokens;
use crate::harness::support::files_below;

/// Each module may have one of these: its users import the module and write `pool::Error`.
const BY_MODULE: [&str; 1] = ["Error"];

/// Words that are no part of an identifier, each with its standard term.
const INVENTED: [(&str, &str); 32] = [
    ("asker", "query thread"),
    ("behalf", "call context"),
    ("begun", "started"),
    ("desk", "dispatcher"),
    ("ear", "event sink"),
    ("ears", "event sinks"),
    ("folder", "directory"),
    ("folders", "directories"),
    ("forecast", "plan"),
    ("heard", "received"),
    ("hears", "receives"),
    ("hushed", "without secrets"),
    ("keeper", "reconciler"),
    ("entrance", "acceptor"),
    ("knock", "probe"),
    ("rarely", "rate-limited log"),
    ("tally", "statistics"),
    ("wiring", "listeners"),
    ("newcomer", "new connection"),
    ("newcomers", "backlog"),
    ("nudge", "wake"),
    ("nudged", "woken"),
    ("ration", "class"),
    ("rations", "classes"),
    ("seat", "guard, slot"),
    ("seats", "guards, slots"),
    ("settled", "complete, recovered"),
    ("settles", "recovers"),
    ("tallies", "statistics"),
    ("teller", "reporter"),
    ("tellers", "reporters"),
    ("told", "reported, sent"),
];

/// Names in the contributors' pages that are not the code's: a comment, a variable of the environment, a status.
const NOT_OURS: [&str; 3] = ["SAFETY", "GLIBC_TUNABLES", "TEST"];

/// An identifier of so many words is a sentence.
const CLAIM_WORDS: usize = 5;

/// The Rust sources below a directory, with their paths.
fn sources(root: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    files_below(Path::new(root), &mut paths);
    paths.retain(|path| path.ends_with(".rs"));
    let read = |path: String| {
        let text = fs::read_to_string(&path).expect("a source");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The names of the types that a source makes visible outside its module.
fn public_types<'t>(tokens: &[&'t str]) -> Vec<&'t str> {
    let mut found = Vec::new();
    for (at, _) in tokens.iter().enumerate().filter(|(_, token)| **token == "pub") {
        let scope = tokens.get(at + 1) == Some(&"(");
        let end = tokens[at..].iter().position(|token| *token == ")").filter(|_| scope);
        let rest = &tokens[at + end.unwrap_or_default() + 1..];
        let rest = if rest.first() == Some(&"unsafe") { &rest[1..] } else { rest };
        if let [kind, name, ..] = rest {
            if ["struct", "enum", "trait", "type", "union"].contains(kind) {
                found.push(*name);
            }
        }
    }
    found
}

/// The words of an identifier, in lower case: those between underscores, and those that begin with a capital.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous = '_';
    for (at, letter) in identifier.char_indices() {
        let next_is_lower = identifier[at + letter.len_utf8()..].starts_with(char::is_lowercase);
        let begins = letter.is_uppercase() && (!previous.is_uppercase() || next_is_lower);
        if letter == '_' || begins {
            words.push(String::new());
        }
        if letter != '_' {
            words.last_mut().expect("one").extend(letter.to_lowercase());
        }
        previous = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The term that a word of this identifier has instead. One of many words is a claim: the name of a test.
fn better(identifier: &str) -> Option<&'static (&'static str, &'static str)> {
    let words = words(identifier);
    if words.len() >= CLAIM_WORDS {
        return None;
    }
    INVENTED.iter().find(|(word, _)| words.iter().any(|it| it == word))
}

#[test]
fn public_types_of_a_layer_have_different_names() {
    let mut paths: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    for (path, text) in sources("src") {
        let below = path.trim_start_matches("src/");
        let module = below.split(['/', '.']).next().unwrap_or_default();
        let layer = ORDER.iter().position(|layer| layer.contains(&module));
        let Some(layer) = layer else { continue };
        let tokens = tokens(&text);
        for name in public_types(&tokens).into_iter().filter(|name| !BY_MODULE.contains(name)) {
            paths.entry((layer, name.to_owned())).or_default().push(path.clone());
        }
    }
    assert!(paths.len() >= 300, "{}", paths.len());
    paths.retain(|_, paths| paths.len() > 1);
    assert!(paths.is_empty(), "types of one name in one layer: {paths:#?}");
}

#[test]
fn no_identifier_has_an_invented_word() {
    let roots = ["src", "tests", "benches"];
    let mut found = Vec::new();
    for (path, text) in roots.into_iter().flat_map(sources) {
        for name in tokens(&text) {
            if let Some((word, term)) = better(name) {
                found.push(format!("{path}: {name}: {word:?}, better {term:?}"));
            }
        }
    }
    found.dedup();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_invented_word_is_found_in_every_kind_of_name() {
    for name in ["Ear", "EARS", "an_ear", "EarPlug", "HTTPEar", "RATION_MAX"] {
        assert!(better(name).is_some(), "{name}");
    }
    for name in ["clear", "Bear", "linear_search", "EARLY", "duration", "a_caller_is_told_at_once"]
    {
        assert_eq!(better(name), None, "{name}");
    }
    let text =
        "pub struct A; pub(super) enum B {} pub(in crate::a) type C = D; struct E; pub fn f() {}";
    assert_eq!(public_types(&tokens(text)), ["A", "B", "C"]);
}

/// Whether a word in a document is the name of a type, a constant or a function.
fn names_code(word: &str) -> bool {
    let letters = |is: fn(&char) -> bool| word.chars().filter(is).count();
    let (capitals, small) = (letters(|c| c.is_uppercase()), letters(|c| c.is_lowercase()));
    let is_name = word.len() > 3 && word.starts_with(char::is_alphabetic);
    let is_type = capitals > 1 && small > 0 && word.starts_with(char::is_uppercase);
    is_name && (is_type && !word.contains('_') || word.contains('_') || small == 0)
}

#[test]
fn design_names_what_is_in_the_code() {
    let sources = ["src", "tests"].into_iter().flat_map(sources).collect::<Vec<_>>();
    let tokens: BTreeSet<&str> = sources.iter().flat_map(|(_, text)| tokens(text)).collect();
    let mut count = 0;
    for page in ["docs/design.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(page).expect("a page");
        let code =
            text.split('`').skip(1).step_by(2).filter(|code| !code.contains([' ', '/', '.', '=']));
        let words = code.flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_'));
        for name in words.filter(|word| names_code(word)) {
            let is_known = tokens.contains(name) || NOT_OURS.contains(&name);
            assert!(is_known, "{page}: nothing has the name {name}");
            count += 1;
        }
    }
    assert!(count >= 15, "{count}");
}
