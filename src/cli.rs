//! The command line and the other places of settings: words in, what is to be done or a reason to
//! end out.

mod commands;
mod completions;
mod create;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod import;
mod layers;
mod logging;
mod settings;
mod switches;
mod usage;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value};
use log::LevelFilter;

use crate::cli::layers::Given;
use crate::cli::settings::{SETTINGS, Setting, Takes};
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

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Do this with these settings.
    Do(Command, Settings),
    /// Print [`usage()`] on standard output.
    Help,
    /// Print the version on standard output.
    Version,
    /// Fetch what the socket on standard input asks for; the image service, or why the settings cannot be read.
    Fetch(Result<Option<Service>, String>),
}

/// All that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What the agent is told.
    pub config: Box<Config>,
    /// `--log-level`, where it was given.
    pub log_level: Option<LevelFilter>,
    /// How lines of the log look.
    pub log_format: LogFormat,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, module and a sentence; under systemd its priority instead of the time.
    Text,
    /// An object with the members of the original's lines (contract section 1).
    Json,
}

/// Why the command line cannot be followed.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// A word that is not understood: usage, status 2.
    Usage(String),
    /// A value that cannot be: one line, status 1.
    Value {
        /// What is wrong, in a sentence.
        why: String,
        /// How the agent's log would have looked; text for other commands.
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

/// Reads the words after the program's name, the environment and the file of settings:
/// `default_file`, unless another is named.
///
/// # Errors
/// The first word that is not understood or whose value cannot be.
///
/// # Blocking
/// As long as reading the file takes.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
    default_file: &str,
) -> Result<Request, Error> {
    let mut parser = lexopt::Parser::from_args(words);
    let (mut flags, mut command) = (Vec::new(), Vec::new());
    let (mut file, mut check_config) = (None, false);
    let mut switches = Switches::default();
    while let Some(word) = parser.next()? {
        if !matches!(word, Value(_)) && command == ["ssh"] {
            return Err(Error::Usage(commands::SSH_ORDER.to_owned()));
        }
        let (setting, switch) = match &word {
            Value(_) => (None, None),
            Long(name) => option(name, None, &command),
            Short(letter) => option("", Some(*letter), &command),
        };
        match (setting, switch, word) {
            (Some(setting), _, _) if setting.takes == Takes::Switch => {
                flags.push(Given::by_flag(setting, "true".to_owned()));
            }
            (Some(setting), _, _) => {
                flags.push(Given::by_flag(setting, utf_8(setting.name, parser.value()?)?));
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
            (None, None, Value(word)) if command.len() < commands::WORDS_MAX => {
                command.push(word);
                if commands::has_own_words(&command) {
                    let mut words = parser.raw_args()?.peekable();
                    words.next_if(|word| word == "--");
                    command.extend(words);
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
            Ok(settings) => Ok(Request::Do(Command::StopGuests { wrong: None }, settings)),
            // The host stops: guests are shut down with what can be understood.
            Err(why) => {
                let none = |_: &str| None;
                let settings = settings_of(&mut flags, Some("/dev/null".into()), none, "");
                let wrong = |why| Error::Value { why, log_format: LogFormat::Text };
                let command = Command::StopGuests { wrong: Some(why) };
                Ok(Request::Do(command, settings.map_err(wrong)?))
            }
        };
    }
    if command.iter().map(OsString::as_os_str).eq(["fetch"]) {
        let settings = settings_of(&mut layers, named, variable, default_file);
        return Ok(Request::Fetch(settings.and_then(|it| service_of(&it))));
    }
    let command = match commands::command(&command, &switches)? {
        Command::Run if check_config => Command::CheckConfig,
        command => command,
    };
    let settings = settings_of(&mut layers, named, variable, default_file).map_err(|why| {
        // Commands are for people, whatever the agent's file says of its log.
        let is_agent = command == Command::Run;
        let log_format = if is_agent { layers::log_format(&layers) } else { LogFormat::Text };
        Error::Value { why, log_format }
    })?;
    Ok(Request::Do(command, settings))
}

/// The setting or else the switch of this name, or of this letter where there is one, after these words.
fn option(
    name: &str,
    letter: Option<char>,
    command: &[OsString],
) -> (Option<&'static Setting>, Option<&'static Switch>) {
    let setting = match letter {
        Some(_) => SETTINGS.iter().find(|setting| setting.short == letter),
        None => settings::setting(name),
    };
    (setting, switch(name, letter, &commands::text(command)))
}

/// The value of an option.
fn utf_8(name: &str, value: OsString) -> Result<String, Error> {
    value.into_string().map_err(|_| Error::Usage(format!("--{name}: not valid UTF-8")))
}

/// The image service of these settings.
fn service_of(settings: &Settings) -> Result<Option<Service>, String> {
    let service = settings.config.host.image_service.as_deref();
    Ok(service.map(Service::parse).transpose()?)
}

/// The settings: those of the flags in `layers`, of the environment and of the file. This function
/// adds the layers of the environment and the file to `layers` where it can read them.
fn settings_of(
    layers: &mut Vec<Vec<Given>>,
    named: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<OsString>,
    default_file: &str,
) -> Result<Settings, String> {
    layers.push(layers::environment(variable)?);
    layers.push(match named {
        Some(path) => layers::file(&path, false)?,
        None => layers::file(default_file.as_ref(), true)?,
    });
    layers::combine(layers)?.finish()
}

#[cfg(test)]
mod tests;
