//! The command line and the other sources of the configuration: parses arguments, environment and file into a
//! command, or into the reason to exit.

mod commands;
mod completions;
mod create;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod import;
mod layers;
mod logging;
mod options;
mod switches;
mod usage;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value};
use log::LevelFilter;

use crate::cli::layers::OptionValue;
use crate::cli::options::{ConfigOption, OPTIONS, Takes};
use crate::cli::switches::{
    CHECK_CONFIG, CONFIG, HELP, Switch, SwitchValue, Switches, VERSION, switch,
};
use crate::config::Config;
use crate::fetch::Service;

pub use commands::{Command, Shell};
pub use completions::completions;
pub use layers::DEFAULT_FILE;
pub use logging::{Log, fatal_line, start_log};
pub use usage::usage;

/// The request of the command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Run this command with these settings.
    Do(Command, Options),
    /// Print [`usage()`] on standard output.
    Help,
    /// Print the version on standard output.
    Version,
    /// Fetch the image that the socket on standard input requests, with this image service; or answer with this
    /// error of the configuration.
    Fetch(Result<Option<Service>, String>),
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The configuration of the agent.
    pub config: Box<Config>,
    /// `--log-level`, if it was given.
    pub log_level: Option<LevelFilter>,
    /// The format of log lines.
    pub log_format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, module and a sentence; under systemd a priority instead of the time.
    Text,
    /// An object with the members of the original's lines (contract section 1).
    Json,
}

/// The reason for which the command line is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// An unknown argument: usage, status 2.
    Usage(String),
    /// An invalid value: one line, status 1.
    Value {
        /// The error, in a sentence.
        why: String,
        /// The format of the agent's log; text for other commands.
        log_format: LogFormat,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Value { why, .. } => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Parses the arguments after the program's name, the environment and the configuration file: `default_file`,
/// unless another is named.
///
/// # Errors
/// The first argument that is unknown or has an invalid value.
///
/// # Blocking
/// As long as reading the file blocks.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
    default_file: &str,
) -> Result<Request, Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut flags, mut command) = (Vec::new(), Vec::new());
    let (mut file, mut check_config) = (None, false);
    let mut switches = Switches::default();
    while let Some(arg) = parser.next()? {
        if !matches!(arg, Value(_)) && command == ["ssh"] {
            return Err(Error::Usage(commands::SSH_ORDER.to_owned()));
        }
        let (option, switch) = match &arg {
            Value(_) => (None, None),
            Long(name) => option(name, None, &command),
            Short(letter) => option("", Some(*letter), &command),
        };
        match (option, switch, arg) {
            (Some(option), _, _) if option.takes == Takes::Switch => {
                flags.push(OptionValue::by_flag(option, "true".to_owned()));
            }
            (Some(option), _, _) => {
                flags.push(OptionValue::by_flag(option, utf_8(option.name, parser.value()?)?));
            }
            (None, Some(switch), _) if switch.name == HELP => return Ok(Request::Help),
            (None, Some(switch), _) if switch.name == VERSION => return Ok(Request::Version),
            (None, Some(switch), _) if switch.name == CHECK_CONFIG => check_config = true,
            (None, Some(switch), _) if switch.name == CONFIG => {
                file = Some(PathBuf::from(parser.value()?));
            }
            (None, Some(switch), _) => {
                let value = match switch.value {
                    SwitchValue::None => None,
                    SwitchValue::One(_) | SwitchValue::Many(_) => Some(parser.value()?),
                    SwitchValue::Optional(_) => parser.optional_value(),
                };
                let value = value.map(|value| utf_8(switch.name, value)).transpose()?;
                switches.add(switch, value)?;
            }
            (None, None, Value(arg)) if command.len() < commands::ARGS_MAX => {
                command.push(arg);
                if commands::has_own_args(&command) {
                    let mut args = parser.raw_args()?.peekable();
                    args.next_if(|arg| arg == "--");
                    command.extend(args);
                }
            }
            (None, None, other) => return Err(other.unexpected().into()),
        }
    }
    let named = file.or_else(|| variable("MISTIFY_CONFIG").map(PathBuf::from));
    let mut layers = vec![flags];
    if command.iter().map(OsString::as_os_str).eq(["stop-guests"]) {
        switches.check("stop-guests")?;
        if check_config {
            return Err(Error::Usage("stop-guests: takes no --check-config".to_owned()));
        }
        let mut flags = layers.clone();
        return match settings_of(&mut layers, named, variable, default_file) {
            Ok(options) => Ok(Request::Do(Command::StopGuests { wrong: None }, options)),
            // The host stops: the guests are shut down with the settings of the command line alone.
            Err(why) => {
                let none = |_: &str| None;
                let options = settings_of(&mut flags, Some("/dev/null".into()), none, "");
                let wrong = |why| Error::Value { why, log_format: LogFormat::Text };
                let command = Command::StopGuests { wrong: Some(why) };
                Ok(Request::Do(command, options.map_err(wrong)?))
            }
        };
    }
    if command.iter().map(OsString::as_os_str).eq(["fetch"]) {
        let options = settings_of(&mut layers, named, variable, default_file);
        return Ok(Request::Fetch(options.and_then(|it| service_of(&it))));
    }
    let command = match commands::command(&command, &switches)? {
        Command::Run if check_config => Command::CheckConfig,
        command => command,
    };
    let options = settings_of(&mut layers, named, variable, default_file).map_err(|why| {
        // Other commands are for people, whatever log format the agent's file sets.
        let is_agent = command == Command::Run;
        let log_format = if is_agent { layers::log_format(&layers) } else { LogFormat::Text };
        Error::Value { why, log_format }
    })?;
    Ok(Request::Do(command, options))
}

/// Returns the setting, and the switch, of this name, or of this letter if there is one, after these words of the
/// command line.
fn option(
    name: &str,
    letter: Option<char>,
    command: &[OsString],
) -> (Option<&'static ConfigOption>, Option<&'static Switch>) {
    let option = match letter {
        Some(_) => OPTIONS.iter().find(|option| option.short == letter),
        None => options::option(name),
    };
    (option, switch(name, letter, &commands::text(command)))
}

/// Returns the value of an option, which must be UTF-8.
fn utf_8(name: &str, value: OsString) -> Result<String, Error> {
    value.into_string().map_err(|_| Error::Usage(format!("--{name}: not valid UTF-8")))
}

/// Returns the image service of these settings.
fn service_of(options: &Options) -> Result<Option<Service>, String> {
    let service = options.config.host.image_service.as_deref();
    Ok(service.map(Service::parse).transpose()?)
}

/// Returns the settings of the options in `layers`, of the environment and of the file. Adds the layers of the
/// environment and the file to `layers` if they can be read.
fn settings_of(
    layers: &mut Vec<Vec<OptionValue>>,
    named: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<OsString>,
    default_file: &str,
) -> Result<Options, String> {
    layers.push(layers::environment(variable)?);
    layers.push(match named {
        Some(path) => layers::file(&path, false)?,
        None => layers::file(default_file.as_ref(), true)?,
    });
    layers::combine(layers)?.finish()
}

#[cfg(test)]
mod tests;
