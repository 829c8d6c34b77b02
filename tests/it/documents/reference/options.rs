//! Options and subcommands: what `--help` prints, as a table and in the manual pages.

use std::process::Command;

use super::{compare, sentence, table};
use crate::harness::agent::PROGRAM;

/// Where explanations begin in the usage.
const COLUMN: usize = 30;
/// The first option that is neither a variable nor a line of the configuration file.
const FLAGS_BEGIN: &str = "config";

/// An entry of the usage: `-p, --port N` or `create FILE`, and its explanation.
struct Entry {
    words: String,
    help: String,
}

impl Entry {
    /// The long name of an option and its value, which may be empty.
    fn name_and_value(&self) -> (&str, &str) {
        let long = self.words.split_once("--").expect("an option").1;
        long.split_once(' ').unwrap_or((long, ""))
    }

    fn short(&self) -> Option<&str> {
        self.words.split_once(", --").map(|(short, _)| short)
    }
}

/// The entries below this title of the usage.
fn entries(title: &str) -> Vec<Entry> {
    let output = Command::new(PROGRAM).arg("--help").output().expect("the program starts");
    let usage = String::from_utf8(output.stdout).expect("the usage is UTF-8");
    let section = usage.split(&format!("\n{title}:\n")).nth(1).expect("the title is there");
    let mut entries: Vec<Entry> = Vec::new();
    for line in section.lines().take_while(|line| !line.is_empty()) {
        let is_words = !line.starts_with(&" ".repeat(COLUMN));
        let begins_help = line.as_bytes().get(COLUMN - 1) == Some(&b' ');
        let (words, help) = match (is_words, begins_help) {
            (true, true) => line.split_at(COLUMN),
            (true, false) => (line, ""),
            (false, _) => ("", line.trim()),
        };
        match entries.last_mut() {
            Some(entry) if !is_words => entry.help = format!("{} {help}", entry.help),
            _ => entries.push(Entry { words: words.trim().into(), help: help.into() }),
        }
    }
    for entry in &mut entries {
        entry.help = sentence(&entry.help);
        assert!(entry.help.len() > 10, "{}: no explanation", entry.words);
    }
    entries
}

/// Returns the options that are also variables and lines of the file, and those that exist only as
/// flags.
fn options() -> (Vec<Entry>, Vec<Entry>) {
    let mut all = entries("Options");
    let at = all.iter().position(|it| it.name_and_value().0 == FLAGS_BEGIN).expect("an option");
    let flags = all.split_off(at);
    (all, flags)
}

/// Text for troff.
fn troff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

/// Entries of a manual page.
fn manual<'e>(entries: impl IntoIterator<Item = &'e Entry>, words: fn(&Entry) -> String) -> String {
    let entry = |it: &Entry| format!(".TP\n.B {}\n{}\n", troff(&words(it)), troff(&it.help));
    entries.into_iter().map(entry).collect()
}

#[test]
fn the_configuration_page_has_every_option() {
    let (settings, flags) = options();
    let row = |it: &Entry| {
        let (name, value) = it.name_and_value();
        let name = it
            .short()
            .map_or_else(|| format!("`--{name}`"), |short| format!("`--{name}`, `{short}`"));
        let value = if value.is_empty() { "-".to_owned() } else { format!("`{value}`") };
        vec![name, value, it.help.clone()]
    };
    let rows = |all: &[Entry]| {
        table(&["option", "value", "meaning"], &all.iter().map(row).collect::<Vec<_>>())
    };
    let text =
        format!("{}The following are command-line flags only:\n{}", rows(&settings), rows(&flags));
    compare("docs/configuration.md", "options", &text);
}

#[test]
fn the_manual_has_every_subcommand_and_option() {
    let words = |it: &Entry| it.words.clone();
    compare("man/mistify-libvirt.8", "subcommands", &manual(&entries("Subcommands"), words));
    let (settings, flags) = options();
    compare("man/mistify-libvirt.8", "options", &manual(settings.iter().chain(&flags), words));
}

#[test]
fn the_file_s_manual_has_every_setting() {
    let line = |it: &Entry| {
        let (name, value) = it.name_and_value();
        let value = if value.is_empty() { "true | false" } else { value };
        format!("{name} = {value}")
    };
    compare("man/mistify-libvirt.conf.5", "options", &manual(&options().0, line));
}
