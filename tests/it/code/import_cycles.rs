//! No file of `src` imports from one that imports from it, directly or through others: each can be read after those
//! that it names. Imports between a module and the files below it do not count, nor do items under `cfg(test)`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::code::rust_source::{Module, absolute, module_of, named, past_brackets, tokens};
use crate::harness::support::files_below;

/// A file, and what it imports: the paths from the root, each with the name that it has here.
struct Source {
    module: Module,
    imports: Vec<(Module, String)>,
}

/// The tokens without the items that only tests have, and the names of modules among these.
fn without_tests<'t>(tokens: &[&'t str]) -> (Vec<&'t str>, Vec<&'t str>) {
    let (mut kept, mut removed, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        let is_attribute = tokens[at] == "#" && tokens.get(at + 1) == Some(&"[");
        let end = past_brackets(tokens, at + 1);
        let words = tokens[at..end].iter().filter(|it| it.starts_with(char::is_alphabetic));
        let words: Vec<&str> = words.copied().collect();
        let of_tests =
            [&["cfg", "test"][..], &["cfg", "any", "test", "fuzzing"], &["cfg", "fuzzing"]];
        if !is_attribute || !of_tests.contains(&&words[..]) {
            kept.push(tokens[at]);
            at += 1;
            continue;
        }
        at = end;
        while tokens.get(at) == Some(&"#") {
            at = past_brackets(tokens, at + 1);
        }
        let item = at;
        // To the end of the item: `;`, a comma, or its closing brace.
        while at < tokens.len() && ![";", ",", "}"].contains(&tokens[at]) {
            let is_block = tokens[at] == "{";
            at = past_brackets(tokens, at);
            if is_block {
                at -= 1;
                break;
            }
        }
        at += usize::from(tokens.get(at) != Some(&"}") || tokens[item..at].contains(&"{"));
        let name = tokens[item..at].windows(3).find(|it| it[0] == "mod" && it[2] == ";");
        removed.extend(name.map(|it| it[1]));
    }
    (kept, removed)
}

/// All files of a directory of sources, with what they import.
fn sources(root: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    files_below(root, &mut paths);
    let read = |path: &String| {
        let name =
            Path::new(path).strip_prefix(root).expect("it is below").to_str().expect("UTF-8");
        (module_of(name), fs::read_to_string(path).expect("it is there"))
    };
    let all: Vec<_> = paths.iter().filter(|path| path.ends_with(".rs")).map(read).collect();
    let split: Vec<_> =
        all.iter().map(|(module, text)| (module, without_tests(&tokens(text)))).collect();
    let of_tests: Vec<Module> = split
        .iter()
        .flat_map(|(module, (_, removed))| {
            removed.iter().map(|name| [&module[..], &[(*name).to_owned()]].concat())
        })
        .collect();
    let is_of_tests = |module: &[String]| of_tests.iter().any(|test| module.starts_with(test));
    let modules: BTreeSet<&Module> = split.iter().map(|(module, _)| *module).collect();
    let is_module = |path: &[String]| modules.contains(&path.to_vec());
    let shipped = split.iter().filter(|(module, _)| !is_of_tests(module));
    shipped
        .map(|(module, (kept, _))| Source {
            module: (*module).clone(),
            imports: imports(module, kept, &is_module),
        })
        .collect()
}

/// What a module imports: the paths from the root, each with the name that it has there.
fn imports(
    module: &[String],
    tokens: &[&str],
    is_module: &dyn Fn(&[String]) -> bool,
) -> Vec<(Module, String)> {
    let named = named(tokens).into_iter();
    let resolved = named.filter_map(|(path, name, depth)| {
        Some((absolute(module, &path, depth, is_module)?, name.to_owned()))
    });
    resolved.collect()
}

/// The module that defines what a path names, through the names that others pass on.
fn defining(
    path: &[String],
    sources: &BTreeMap<&[String], &Source>,
    depth: usize,
) -> Option<Module> {
    let at = (0..=path.len()).rev().find(|at| sources.contains_key(&path[..*at]))?;
    let (module, rest) = path.split_at(at);
    let Some(first) = rest.first().filter(|_| depth < 8) else { return Some(module.to_vec()) };
    let passed_on = sources[module].imports.iter().find(|(to, name)| name == first && to != path);
    let further =
        passed_on.and_then(|(to, _)| defining(&[&to[..], &rest[1..]].concat(), sources, depth + 1));
    Some(further.unwrap_or_else(|| module.to_vec()))
}

/// The files that import in a circle, each circle in the order of names.
fn cycles(all: &[Source]) -> Vec<Vec<String>> {
    let by_module: BTreeMap<&[String], &Source> =
        all.iter().map(|it| (&it.module[..], it)).collect();
    let mut edges: BTreeMap<&[String], BTreeSet<Module>> = BTreeMap::new();
    for source in all {
        let from = &source.module;
        let targets = source.imports.iter().filter_map(|(path, _)| defining(path, &by_module, 0));
        let is_kin = |to: &Module| to.starts_with(from) || from.starts_with(to);
        edges.insert(from, targets.filter(|to| !is_kin(to)).collect());
    }
    let reached = |from: &[String]| {
        let (mut found, mut open) = (BTreeSet::new(), vec![from.to_vec()]);
        while let Some(module) = open.pop() {
            for to in edges.get(&module[..]).into_iter().flatten() {
                if found.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        found
    };
    let reach: BTreeMap<Module, BTreeSet<Module>> =
        all.iter().map(|it| (it.module.clone(), reached(&it.module))).collect();
    let in_circle = |from: &Module| -> Vec<String> {
        let both =
            reach[from].iter().filter(|to| reach.get(*to).is_some_and(|it| it.contains(from)));
        both.map(|module| module.join("::")).collect()
    };
    let circles: BTreeSet<_> = reach.keys().map(in_circle).filter(|it| it.len() > 1).collect();
    circles.into_iter().collect()
}

#[test]
fn no_file_imports_from_one_that_imports_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let all = sources(&root);
    assert!(all.len() > 300 && all.iter().map(|it| it.imports.len()).sum::<usize>() > 3000);
    assert_eq!(cycles(&all), Vec::<Vec<String>>::new());
}

#[test]
fn a_circle_through_re_exports_is_found() {
    let source = |module: &[&str], text: &str| {
        let module: Module = module.iter().map(ToString::to_string).collect();
        let (kept, _) = without_tests(&tokens(text));
        let known = [&["a"][..], &["a", "b"], &["c"], &["c", "d"], &["e"]];
        let is_module = |path: &[String]| known.iter().any(|it| path == *it);
        let imports = imports(&module, &kept, &is_module);
        Source { module, imports }
    };
    let all = [
        source(&["a"], "pub use self::b::{B as C, D}; mod b;"),
        source(&["a", "b"], "use super::super::c::{self, d::F}; fn f() { c::g() }"),
        source(&["c"], "pub use d::F; mod d;"),
        source(&["c", "d"], "fn f() -> crate::a::C { g() }"),
        source(&["e"], "use crate::a::C; #[cfg(test)] mod t { use crate::e::X; } use crate::c;"),
    ];
    assert_eq!(cycles(&all), [["a::b", "c::d"]]);
    let broken = [
        source(&["a", "b"], "#[cfg(test)] use crate::c::d::F; #[cfg(test)] mod tests;"),
        source(&["c", "d"], "use crate::a::b::B;"),
    ];
    assert_eq!(cycles(&broken), Vec::<Vec<String>>::new());
    assert_eq!(
        without_tests(&["#", "[", "cfg", "(", "test", ")", "]", "mod", "t", ";", "x"]).1,
        ["t"]
    );
}
