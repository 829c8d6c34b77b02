//! What `--help` prints.

use std::fmt::Write;

use crate::cli::layers::DEFAULT_FILE;
use crate::cli::settings::{OTHERS, SETTINGS, Setting, Takes};

/// Where the explanations begin.
const COLUMN: usize = 30;
/// Where lines end at the latest.
const WIDTH: usize = 100;

const HEAD: &str = "\
mistify-libvirt: the agent of a hypervisor host. It creates, runs, stops, measures and deletes
guests, and is called with JSON-RPC over HTTP at /rpc and /_mistify_RPC_.

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
        let value = match setting.takes {
            Takes::Switch => None,
            Takes::One(value) | Takes::Many(value) => Some(value),
        };
        entry(&mut text, &flag(setting.short, setting.name, value), &help(setting));
    }
    for other in OTHERS {
        entry(&mut text, &flag(other.short, other.name, other.value), other.help);
    }
    let _ = write!(
        text,
        "\nEach flag above --config is also a variable, MISTIFY_ALLOW_USER for --allow-user, and a \
         line of\nthe file, allow-user = USER. A flag wins over the variable, and that over the \
         file, which is\n{DEFAULT_FILE} where nothing names another.\n"
    );
    text
}

fn flag(short: Option<char>, name: &str, value: Option<&str>) -> String {
    let short = short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    let value = value.map(|value| format!(" {value}")).unwrap_or_default();
    format!("  {short}--{name}{value}")
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
