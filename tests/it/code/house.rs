//! Guards the structure: which module may import which, where `unsafe` and C's names may stand, and how
//! long a file may be. It reads `src/` as tokens, so that comments and strings do not count.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::code::rust_source::{absolute, module_of, named, tokens};
use crate::documents::commands::{documents, read};

/// Layers of modules from top to bottom: a module may name itself and modules of layers below.
pub(super) const ORDER: [&[&str]; 12] = [
    &["main", "lib", "go_names", "fuzz"],
    &["cli"],
    &["client", "check"],
    &["daemon"],
    &["http"],
    &["rpc"],
    &["ops"],
    &["journal", "events", "jobs", "metrics"],
    &["fetch"],
    &["import"],
    &["pool", "libvirt", "storage", "guest"],
    &["config", "os", "sorted", "sys", "threads"],
];
const UNSAFE_MODULES: [&str; 2] = ["libvirt", "os"];
const LINES_MAX: usize = 600;

/// What is wrong with a file, `path` being relative to `src/`.
fn faults(path: &str, text: &str) -> Vec<String> {
    let modules: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let module = modules[0];
    let group = |module: &str| ORDER.iter().position(|layer| layer.contains(&module));
    let Some(own) = group(module) else {
        return vec![format!("{path}: {module} is not in the order")];
    };
    let tokens = tokens(text);
    let mut faults = Vec::new();
    if text.lines().count() > LINES_MAX {
        faults.push(format!("{path}: more than {LINES_MAX} lines"));
    }
    if tokens.contains(&"unsafe") && !UNSAFE_MODULES.contains(&module) {
        faults.push(format!("{path}: unsafe outside {UNSAFE_MODULES:?}"));
    }
    let from = module_of(path);
    // The first name of each path from the root.
    let paths = named(&tokens).into_iter();
    let paths = paths.filter_map(|(path, _, depth)| absolute(&from, &path, depth, &|_| false));
    let mut first: BTreeSet<String> = paths.filter_map(|path| path.into_iter().next()).collect();
    if tokens.windows(2).any(|pair| pair == ["sys", "::"]) {
        first.insert("sys".to_owned());
    }
    for name in first {
        let forbidden = match group(&name) {
            Some(_) if name == "sys" => module != "libvirt",
            Some(other) => name != module && other <= own,
            None => false,
        };
        if forbidden {
            faults.push(format!("{path}: {module} names {name}"));
        }
    }
    faults
}

#[test]
fn the_house_is_in_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut directories, mut found) = (vec![root.clone()], Vec::new());
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                found.extend(faults(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn forbidden_imports_are_found() {
    for (path, text, named) in [
        ("pool.rs", "use crate::ops::Verb;", "ops"),
        ("pool/lane.rs", "fn f() { crate::rpc::call() }", "rpc"),
        ("os/mod.rs", "use crate::config::Limits;", "config"),
        ("guest/xml.rs", "use crate::{\n config::{A, B}, libvirt::C };", "libvirt"),
        ("ops/mod.rs", "#[cfg(test)] mod tests { use crate::http::X; }", "http"),
        ("ops/run.rs", "use super::super::rpc;", "rpc"),
        ("events.rs", "mod tests { use super::super::{jobs, config}; }", "jobs"),
        ("main.rs", "use mistify_libvirt::lib;", "lib"),
        ("ops/mod.rs", "fn f() { sys::virConnectOpen() }", "sys"),
        ("os/mod.rs", "use crate::sys;", "sys"),
        ("rpc.rs", r##"const A: &str = r#"""#; use crate::http;"##, "http"),
        ("rpc.rs", "const A: char = '\"'; fn f<'a>() {} use crate::http; // \"", "http"),
    ] {
        let module = path.split(['/', '.']).next().unwrap();
        assert_eq!(faults(path, text), [format!("{path}: {module} names {named}")], "{text}");
    }
}

#[test]
fn other_breaches_are_found() {
    assert!(faults("ops.rs", "unsafe { f() }")[0].contains("unsafe outside"));
    assert!(faults("cellar.rs", "")[0].contains("not in the order"));
    assert!(faults("ops.rs", &"\n".repeat(LINES_MAX + 1))[0].contains("more than"));
}

#[test]
fn allowed_imports_pass() {
    for (path, text) in [
        ("libvirt/domain.rs", "use crate::sys; fn f() { unsafe { sys::virDomainFree() } }"),
        ("libvirt/domain.rs", "use super::events; mod tests { use super::super::stats; }"),
        ("http/mod.rs", "use crate::{config::Limits, http::front, ops::Libvirt};"),
        ("main.rs", "use mistify_libvirt::{check, cli, pool};"),
        ("pool.rs", "//! [`crate::ops`]\nconst A: &str = \"\\\"crate::ops unsafe\"; /* unsafe */"),
    ] {
        assert_eq!(faults(path, text), [""; 0], "{text}");
    }
}

/// What a document has in backticks, blocks left out.
fn code_words(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2))
}

#[test]
fn every_test_in_the_documents_exists() {
    let all: Vec<String> = documents().iter().map(|name| read(name)).collect();
    let mut named = 0;
    // Commands have blanks, and limits are of types.
    let is_name = |word: &&str| {
        word.contains("::") && !word.contains(' ') && word.starts_with(char::is_lowercase)
    };
    for name in all.iter().flat_map(|text| code_words(text)).filter(is_name) {
        let Some((module, test)) = name.rsplit_once("::").filter(|(_, test)| !test.is_empty())
        else {
            continue;
        };
        let file = format!("tests/it/{}.rs", module.replace("::", "/"));
        let source = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("#[test]\nfn {test}() {{")), "{file} has no test {test}");
        named += 1;
    }
    assert!(named >= 20, "{named}");
}

#[test]
fn fuzzed_packages_are_the_shipped_ones() {
    let packages = |file: &str| -> Vec<String> {
        let text = fs::read_to_string(file).expect("it is there");
        let packages = text.split("[[package]]\n").skip(1);
        packages.map(|it| it.lines().take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    let name = |package: &str| package.split(" version").next().map(str::to_owned);
    let shipped = packages("Cargo.lock");
    let mut same = 0;
    for package in packages("fuzz/Cargo.lock") {
        let of_name = shipped.iter().filter(|it| name(it) == name(&package)).count();
        assert!(of_name == 0 || shipped.contains(&package), "fuzz/Cargo.lock has {package}");
        same += usize::from(of_name > 0);
    }
    assert!(same >= 50, "{same}");
}
