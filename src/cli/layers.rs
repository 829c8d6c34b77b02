//! The layers of the configuration: an option overrides the environment, which overrides the file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::cli::LogFormat;
use crate::cli::options::{ConfigOption, Draft, LOG_FORMAT, OPTIONS, Takes, option};
use crate::config::fixed::CONFIG_FILE_BYTES;

/// The configuration file that is read unless another is named; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/mistify-libvirt.conf";

/// A value of a setting, and its place.
#[derive(Clone, Debug)]
pub(super) struct OptionValue {
    pub(super) option: &'static ConfigOption,
    pub(super) text: String,
    /// The place, for errors: `--port 7`, `MISTIFY_PORT=7` or `/etc/mistify-libvirt.conf:3: port =
    /// 7`.
    pub(super) place: String,
}

impl OptionValue {
    pub(super) fn by_flag(option: &'static ConfigOption, text: String) -> Self {
        let place = format!("--{} {text}", option.name);
        Self { option, text, place }
    }

    fn apply(&self, draft: &mut Draft) -> Result<(), String> {
        (self.option.apply)(draft, &self.text).map_err(|why| format!("{}: {why}", self.place))
    }
}

/// Combines the settings of all layers, the strongest layer first. The strongest layer that sets a
/// setting provides all of its values. If a setting takes one value, the last one of the layer
/// counts.
///
/// # Errors
/// The first invalid value, even if a stronger layer overrides it.
pub(super) fn combine(layers: &[Vec<OptionValue>]) -> Result<Draft, String> {
    for given in layers.iter().flatten() {
        given.apply(&mut Draft::default())?;
    }
    let mut draft = Draft::default();
    for option in OPTIONS {
        let mut given = layers.iter().map(|layer| given_in(layer, option));
        let Some(given) = given.find(|given| !given.is_empty()) else { continue };
        let effective = match option.takes {
            Takes::Many(_) => &given[..],
            Takes::One(_) | Takes::Switch => &given[given.len() - 1..],
        };
        for given in effective {
            given.apply(&mut draft)?;
        }
    }
    Ok(draft)
}

/// Returns the log format that these layers set, even if another setting of theirs is invalid.
pub(super) fn log_format(layers: &[Vec<OptionValue>]) -> LogFormat {
    let is_format = |given: &&OptionValue| given.option.name == LOG_FORMAT;
    let given = layers.iter().find_map(|layer| layer.iter().rfind(is_format));
    let mut draft = Draft::default();
    match given.map(|given| given.apply(&mut draft)) {
        Some(Ok(())) => draft.log_format,
        _ => LogFormat::Text,
    }
}

fn given_in<'a>(layer: &'a [OptionValue], option: &ConfigOption) -> Vec<&'a OptionValue> {
    layer.iter().filter(|given| given.option.name == option.name).collect()
}

/// Reads the settings of the environment.
///
/// # Errors
/// A value that is not UTF-8.
pub(super) fn environment(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OptionValue>, String> {
    let mut all = Vec::new();
    for option in OPTIONS {
        let name = option.variable();
        // An empty variable counts as not set, as is customary.
        let Some(value) = variable(&name).filter(|value| !value.is_empty()) else { continue };
        let value = value.into_string().map_err(|_| format!("{name}: not valid UTF-8"))?;
        let place = format!("{name}={value}");
        let texts = match option.takes {
            Takes::Many(_) => value.split(',').map(|part| part.trim().to_owned()).collect(),
            Takes::One(_) | Takes::Switch => vec![value],
        };
        all.extend(texts.into_iter().map(|text| OptionValue {
            option,
            text,
            place: place.clone(),
        }));
    }
    Ok(all)
}

/// Reads the settings of a file: a line for each value, `name = value`; `#` starts a comment. A
/// file that does not exist has no settings if `is_optional`.
///
/// # Errors
/// The first invalid line, with its number; a file that cannot be read, or is larger than 64 KiB.
///
/// # Blocking
/// As long as the file system blocks.
pub(super) fn file(path: &Path, is_optional: bool) -> Result<Vec<OptionValue>, String> {
    let at = |why: &str| format!("cannot read {}: {why}", path.display());
    let mut text = String::new();
    let read = File::open(path).and_then(|file| {
        file.take(CONFIG_FILE_BYTES + 1).read_to_string(&mut text)?;
        Ok(())
    });
    match read {
        Ok(()) if text.len() as u64 > CONFIG_FILE_BYTES => Err(at("larger than 64 KiB")),
        Ok(()) => lines(path, &text),
        Err(error) if is_optional && error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(&error.to_string())),
    }
}

pub(super) fn lines(path: &Path, text: &str) -> Result<Vec<OptionValue>, String> {
    let mut all: Vec<OptionValue> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{}:{number}: {line}", path.display());
        let wrong = |why: &str| format!("{place}: {why}");
        let (name, value) =
            line.split_once('=').ok_or_else(|| wrong("write name = value or # comment"))?;
        let option = option(name.trim()).ok_or_else(|| wrong("unknown option"))?;
        let is_again = all.iter().any(|given| given.option.name == option.name);
        if is_again && !matches!(option.takes, Takes::Many(_)) {
            return Err(wrong("set in an earlier line"));
        }
        all.push(OptionValue { option, text: value.trim().to_owned(), place });
    }
    Ok(all)
}
