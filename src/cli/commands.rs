//! The words that are no flags: what is to be done instead of being the agent.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::Error;

/// Words of the longest command.
pub(super) const WORDS_MAX: usize = 4;

/// The commands and what they do, for the usage.
pub(super) const COMMANDS: &[(&str, &str)] = &[(
    "image import FILE ID",
    "bring a raw or qcow2 disk or a zfs stream into the store as the image ID",
)];

/// What the program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the agent.
    Run,
    /// Read the settings, which was done then.
    CheckConfig,
    /// Bring an image into the store.
    Import {
        /// The file.
        file: PathBuf,
        /// The image's id.
        id: String,
    },
}

/// Understands the words of a command; without any it is the agent.
///
/// # Errors
/// Words that are none.
pub(super) fn command(words: Vec<OsString>) -> Result<Command, Error> {
    let texts: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    match (texts.as_slice(), words.as_slice()) {
        ([], _) => Ok(Command::Run),
        (["image", "import", _, _], [_, _, file, id]) => {
            Ok(Command::Import { file: file.into(), id: utf_8(id)? })
        }
        _ => Err(Error::Usage(format!("{}: not a command", texts.join(" ")))),
    }
}

fn utf_8(word: &OsString) -> Result<String, Error> {
    let text = word.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Usage(format!("{}: not UTF-8", word.to_string_lossy())))
}
