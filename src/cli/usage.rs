//! What `--help` prints.

use std::fmt::Write;

use crate::cli::layers::DEFAULT_FILE;
use crate::cli::settings::{SETTINGS, Setting, Takes};

/// Where the explanations begin.
const COLUMN: usize = 30;
/// Where lines end at the latest.
const WIDTH: usize = 100;

const HEAD: &str = "\
mistify-libvirt: the agent of a hypervisor host. It creates, runs, stops, measures and deletes
guests, and is called with JSON-RPC over HTTP at /_mistify_RPC_.

Usage: mistify-libvirt [FLAG]...
       mistify-libvirt COMMAND [FLAG]...

Without a command it is the agent.

Commands:
";

/// The usage, from the tables of commands and settings.
pub fn usage() -> String {
    let mut text = HEAD.to_owned();
    for (words, help) in super::commands::COMMANDS {
        entry(&mut text, &format!("  {words}"), help);
    }
    text += "\nFlags:\n";
    for setting in SETTINGS {
        entry(&mut text, &flag(setting), &help(setting));
    }
    for (flag, help) in OTHERS {
        entry(&mut text, flag, help);
    }
    let _ = write!(
        text,
        "\nEach flag above --config is also a variable, MISTIFY_ALLOW_USER for --allow-user, and a \
         line of\nthe file, allow-user = USER. A flag wins over the variable, and that over the \
         file, which is\n{DEFAULT_FILE} where nothing names another.\n"
    );
    text
}

/// Flags that are no settings.
const OTHERS: &[(&str, &str)] = &[
    (
        "      --config FILE",
        "the file of settings, which then has to be there; also MISTIFY_CONFIG",
    ),
    ("      --check-config", "read all settings, say what is wrong with them, and end"),
    ("      --json", "what commands answer as JSON, as in a pipe, also on a terminal"),
    ("  -h, --help", "print this and end"),
    ("      --version", "print the version and end"),
];

fn flag(Setting { name, short, takes, .. }: &Setting) -> String {
    let short = short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    match takes {
        Takes::Switch => format!("  {short}--{name}"),
        Takes::One(value) | Takes::Many(value) => format!("  {short}--{name} {value}"),
    }
}

fn help(setting: &Setting) -> String {
    match setting.takes {
        Takes::Many(_) => format!("{}; may be given several times", setting.help),
        Takes::One(_) | Takes::Switch => setting.help.to_owned(),
    }
}

/// A word or two, and beside or below them what they mean.
fn entry(text: &mut String, what: &str, help: &str) {
    let mut line = format!("{what:<width$}", width = COLUMN);
    if line.len() > COLUMN {
        *text += line.trim_end();
        text.push('\n');
        line = " ".repeat(COLUMN);
    }
    for word in help.split(' ') {
        if line.len() + word.len() > WIDTH {
            *text += line.trim_end();
            text.push('\n');
            line = " ".repeat(COLUMN);
        }
        line += word;
        line.push(' ');
    }
    *text += line.trim_end();
    text.push('\n');
}
