//! Plain English: idioms that readers stumbled over appear neither in documents nor in what users see.

use std::fs;
use std::path::Path;

use crate::code::rust_source::strings;
use crate::documents::commands::documents;
use crate::harness::support::files_below;

/// Words and phrases, in lower case, that have a standard term instead.
const IDIOMS: [(&str, &str); 43] = [
    ("what is there", "name the thing"),
    ("whoever", "the caller, the user"),
    ("those that are", "name them"),
    ("is to be", "must, or the present tense"),
    ("are to be", "must, or the present tense"),
    ("as far as", "if, where"),
    ("all that", "everything, all ..."),
    ("of it", "name the thing"),
    ("is had", "is acquired"),
    ("to be had", "available"),
    ("folder", "directory"),
    ("newcomer", "backlog, new connection"),
    ("newcomers", "backlog, new connections"),
    ("settle", "recover, complete, undo"),
    ("settled", "recovered"),
    ("settles", "recovers"),
    ("is told", "receives, gets the answer"),
    ("are told", "receive, get the answer"),
    ("is heard", "receives events"),
    ("not heard", "no events"),
    ("is for its guest to say", "outcome unknown"),
    ("becomes of", "outcome"),
    ("its power away", "force power-off"),
    ("written off", "abandoned"),
    ("stay unknown", "cannot identify"),
    ("begun", "started"),
    ("was not had", "unavailable"),
    ("the words that", "subcommands"),
    ("is of no use", "does not work"),
    ("say no", "refuse"),
    ("says no", "refuses"),
    ("left behind by", "remains"),
    ("who calls", "the caller"),
    ("who may call", "permitted callers"),
    ("desk", "dispatcher"),
    ("keeper", "reconciler"),
    ("nudge", "wake"),
    ("what was asked for", "the request"),
    ("trying on", "retrying"),
    ("lets in", "accepts"),
    ("had other work", "waiting for another operation"),
    ("never ran", "did not start"),
    ("has to be there", "must exist"),
];

/// Texts that `/_mistify_RPC_` has to have.
const FIXED: [&str; 2] = ["still running since", "does not answer since"];

/// The idioms in a text, whose words may be on two lines, each with what is better.
fn idioms(text: &str) -> Vec<&'static (&'static str, &'static str)> {
    let fixed = FIXED.iter().fold(text.to_lowercase(), |text, it| text.replace(it, ""));
    // An underscore is a part of names, such as those of tests.
    let words =
        fixed.split(|it: char| !it.is_alphanumeric() && it != '_').filter(|it| !it.is_empty());
    let plain = format!(" {} ", words.collect::<Vec<_>>().join(" "));
    IDIOMS.iter().filter(|(idiom, _)| plain.contains(&format!(" {idiom} "))).collect()
}

/// Where idioms are: a line for each.
fn faults(name: &str, text: &str) -> Vec<String> {
    let fault = |it: &'static (&str, &str)| {
        // One that is on two lines has no line of its own.
        let line = text.lines().find(|line| idioms(line).contains(&it)).unwrap_or_default().trim();
        format!("{name}: {:?}, better {:?}: {line}", it.0, it.1)
    };
    idioms(text).into_iter().map(fault).collect()
}

/// Files of text that users read: what is installed, the page, and descriptions of the API.
fn files() -> Vec<String> {
    let mut paths = Vec::new();
    ["dist", "man", "src/http/api/page", "src/rpc/v2"]
        .iter()
        .for_each(|directory| files_below(Path::new(directory), &mut paths));
    paths.retain(|path| {
        let is_text = !path.ends_with(".rs") && !path.ends_with(".css");
        is_text && Path::new(path).is_file()
    });
    paths.push("tests/golden/metrics.txt".to_owned());
    paths
}

/// The program's sources without their tests.
fn sources() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    files_below(Path::new("src"), &mut paths);
    paths.retain(|path| {
        path.ends_with(".rs") && !path.contains("/tests") && !path.contains("/fuzz")
    });
    let read = |path: String| {
        let text = fs::read_to_string(&path).expect("it is there");
        (path, without_tests(&text))
    };
    paths.into_iter().map(read).collect()
}

/// A source without the items that are for tests alone. An item ends with its line, or at the brace below its
/// beginning.
fn without_tests(text: &str) -> String {
    let (mut code, mut lines) = (String::new(), text.lines());
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            code += line;
            code.push('\n');
            continue;
        }
        let end = line.replace("#[cfg(test)]", "}");
        let mut item = lines.by_ref().skip_while(|line| line.trim_start().starts_with("#["));
        let first = item.next().unwrap_or_default();
        if !first.ends_with([';', ',', '}']) {
            item.find(|line| *line == end);
        }
    }
    code
}

/// The description of the Debian package.
fn package_description() -> String {
    let text = fs::read_to_string("Cargo.toml").expect("it is there");
    let (_, long) = text.split_once("extended-description = \"\"\"").expect("a description");
    let (_, short) = text.split_once("\ndescription = ").expect("a description");
    let (long, _) = long.split_once("\"\"\"").expect("its end");
    format!("{}\n{long}", short.lines().next().unwrap_or_default())
}

#[test]
fn the_package_is_described_in_plain_english() {
    let text = package_description();
    assert!(text.contains("JSON-RPC over HTTP"), "{text}");
    let faults = faults("Cargo.toml", &text);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn code_after_an_item_for_tests_is_read() {
    let text = "a\n    #[cfg(test)]\n    fn b() {\n        c\n    }\nd\n#[cfg(test)]\nuse e;\nf\n\
                #[cfg(test)]\n#[path = \"g\"]\nmod tests {\n    h\n}\n";
    assert_eq!(without_tests(text), "a\nd\nf\n");
}

#[test]
fn documents_are_in_plain_english() {
    let read = |name: &String| fs::read_to_string(name).expect("it is there");
    let all: Vec<String> = documents().into_iter().chain(files()).collect();
    assert!(all.len() >= 30, "{all:?}");
    let faults: Vec<String> = all.iter().flat_map(|name| faults(name, &read(name))).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_program_speaks_plain_english() {
    let mut count = 0;
    let mut found = Vec::new();
    for (path, code) in sources() {
        for text in strings(&code) {
            // A text has words; names and formats of one word have none to judge.
            if text.contains(' ') {
                found.extend(faults(&path, text));
                count += 1;
            }
        }
    }
    assert!(count >= 500, "{count}");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The comments of a source, those of consecutive lines together, without what is code in them.
fn comments(text: &str) -> Vec<String> {
    let is_comment = |line: &&str| line.trim_start().starts_with("//");
    let (mut found, mut lines) = (Vec::new(), text.lines().peekable());
    while lines.peek().is_some() {
        let mut comment = String::new();
        while let Some(line) = lines.next_if(is_comment) {
            comment += line.trim_start().trim_start_matches(['/', '!']);
            comment.push('\n');
        }
        if lines.next_if(|line| !is_comment(line)).is_some() && comment.is_empty() {
            continue;
        }
        let prose = comment.split('`').step_by(2);
        found.push(prose.collect::<Vec<_>>().join(" code "));
    }
    found
}

#[test]
fn comments_are_in_plain_english() {
    let mut paths = Vec::new();
    ["src", "tests", "benches"]
        .iter()
        .for_each(|directory| files_below(Path::new(directory), &mut paths));
    paths.retain(|path| path.ends_with(".rs"));
    let mut found = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(path).expect("it is there");
        found.extend(comments(&text).iter().flat_map(|comment| faults(path, comment)));
    }
    assert!(paths.len() > 400, "{}", paths.len());
    assert!(found.is_empty(), "{} of them:\n{}", found.len(), found.join("\n"));
}

#[test]
fn an_idiom_in_a_comment_is_found() {
    let text =
        "//! As far\n//! as `whoever` goes.\nlet a = 1; // not read\n    // Whoever\n\n/// b\n";
    let found: Vec<_> = comments(text).iter().flat_map(|it| idioms(it)).map(|it| it.0).collect();
    assert_eq!(found, ["as far as", "whoever"]);
}

#[test]
fn an_idiom_is_found_over_two_lines() {
    let found = |text| idioms(text).into_iter().map(|(idiom, _)| *idiom).collect::<Vec<_>>();
    assert_eq!(found("It stays\nas far\nas it goes."), ["as far as"]);
    assert_eq!(found("a foldered list of items"), [""; 0]);
    assert_eq!(found("deadline, still running since 3 s ago"), [""; 0]);
}
