//! The text of `--help`.

use std::fmt::Write;

use crate::cli::layers::DEFAULT_FILE;
use crate::cli::options::{ConfigOption, OPTIONS, Takes};
use crate::cli::switches::{SWITCHES, SwitchValue};

/// The column of the descriptions.
const COLUMN: usize = 30;
/// The maximum width of a line.
const WIDTH: usize = 100;

const HEAD: &str = "\
mistify-libvirt: agent of a hypervisor host. It creates, runs, stops, measures and deletes libvirt
guests. Clients call it with JSON-RPC over HTTP at /rpc and /_mistify_RPC_.

Usage: mistify-libvirt [OPTION]...
       mistify-libvirt SUBCOMMAND [OPTION]...

Without a subcommand, run the agent.

Subcommands:
";

/// Returns the usage, from the tables of subcommands and settings.
pub fn usage() -> String {
    let mut text = HEAD.to_owned();
    for (words, help) in super::commands::COMMANDS {
        entry(&mut text, &format!("  {words}"), help);
    }
    text += "\nOptions:\n";
    for option in OPTIONS {
        let value = match option.takes {
            Takes::Switch => None,
            Takes::One(value) | Takes::Many(value) => Some(value),
        };
        let value = value.map(|value| format!(" {value}")).unwrap_or_default();
        entry(&mut text, &flag(option.short, option.name, &value), &help(option));
    }
    for switch in SWITCHES {
        let (before, value, after) = match switch.value {
            SwitchValue::None => ("", "", ""),
            SwitchValue::One(value) | SwitchValue::Many(value) => (" ", value, ""),
            SwitchValue::Optional(value) => ("[=", value, "]"),
        };
        let is_many = matches!(switch.value, SwitchValue::Many(_));
        let help = [switch.help, if is_many { "; repeatable" } else { "" }].concat();
        let value = [before, value, after].concat();
        entry(&mut text, &flag(switch.short, switch.name, &value), &help);
    }
    let _ = write!(
        text,
        "\nEach option above --config is also an environment variable (MISTIFY_ALLOW_USER for \
         --allow-user)\nand a line of the configuration file (allow-user = USER). An option \
         overrides the variable, and\nthe variable overrides the file. The default file is \
         {DEFAULT_FILE}.\n"
    );
    text
}

fn flag(short: Option<char>, name: &str, value: &str) -> String {
    let short = short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    format!("  {short}--{name}{value}")
}

fn help(option: &ConfigOption) -> String {
    match option.takes {
        Takes::Many(_) => format!("{}; repeatable", option.help),
        Takes::One(_) | Takes::Switch => option.help.to_owned(),
    }
}

/// Appends a name, and its description beside or below it.
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
